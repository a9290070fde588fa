"""Hostile bodies as a whole, each sent to /recommend and to /click; and templates with one field to fill.

A body may come with headers of its own. It knows nothing about tokens.
"""

import gzip
import json
import zlib
from dataclasses import dataclass, field

from tests.api.hostile import MARKER

HOLE = b"@HOLE@"
TOKEN = b"@TOKEN@"  # for a click token that is good
_RAW = MARKER.encode()
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Body:
    """What is posted."""

    raw: bytes
    headers: dict[str, str] = field(default_factory=lambda: dict(_JSON))


def _recommend(name: str, hole: bytes = HOLE) -> bytes:
    fields = {b"task": b'"suggest"', b"query": b'"kyoto"', name.encode(): hole}
    return b"{" + b",".join(b'"%s":%s' % pair for pair in fields.items()) + b"}"


def _click(name: str, hole: bytes = HOLE) -> bytes:
    fields = {b"click_token": b'"%s"' % TOKEN, b"kind": b'"click"', b"position": b"1", name.encode(): hole}
    return b"{" + b",".join(b'"%s":%s' % pair for pair in fields.items()) + b"}"


_ITEM = b'{"source":"search","text":"kyoto"}'
RECOMMEND_TEMPLATES: dict[str, bytes] = {
    **{
        name: _recommend(name)
        for name in "task query n user_id session_id session history answer documents locale timeout_ms track".split()
    },
    "origin": _recommend("origin"),
    "explain": _recommend("explain"),
    "an unknown field": _recommend(MARKER),
    "session item": _recommend("session", b"[%s]" % HOLE),
    "documents item": _recommend("documents", b"[%s]" % HOLE),
    "history item": _recommend("history", b"[%s,%s]" % (_ITEM, HOLE)),
    "history text": _recommend("history", b'[{"source":"click","text":%s}]' % HOLE),
    "history source": _recommend("history", b'[{"source":%s,"text":"kyoto"}]' % HOLE),
    "history at": _recommend("history", b'[{"source":"click","text":"kyoto","at":%s}]' % HOLE),
    "explained query": b'{"task":"suggest","explain":true,"query":%s}' % HOLE,
    "hint without a query": b'{"task":"hint","session":[%s]}' % HOLE,
}
CLICK_TEMPLATES: dict[str, bytes] = {
    **{name: _click(name) for name in "click_token kind position query at user_id session_id locale".split()},
    "an unknown field": _click(MARKER),
    "submitted query": b'{"click_token":"%s","kind":"submit","position":0,"query":%s}' % (TOKEN, HOLE),
    "seen at": b'{"click_token":"%s","kind":"seen","position":0,"at":%s}' % (TOKEN, HOLE),
    "submitted by": b'{"click_token":"%s","kind":"submit","query":"kyoto","user_id":%s}' % (TOKEN, HOLE),
    "events": b'{"events":%s}' % HOLE,
    "events item": b'{"events":[%s]}' % HOLE,
    "events token": b'{"events":[{"click_token":%s,"kind":"click","position":1}]}' % HOLE,
    "events at": b'{"events":[{"click_token":"%s","kind":"seen","position":0,"at":%s}]}' % (TOKEN, HOLE),
    "events unknown field": b'{"events":[{"click_token":"a","kind":"click","position":1,"%s":%s}]}' % (_RAW, HOLE),
}

_GOOD = b'{"task":"suggest","query":"%s"}' % _RAW
_PADDING = b'{"task":"suggest","query":"kyoto","answer":"%s"}'

BODIES: dict[str, Body] = {
    "nothing": Body(b""),
    "a space": Body(b" "),
    "a nul": Body(b"\x00"),
    "only a byte order mark": Body(b"\xef\xbb\xbf"),
    "byte order mark": Body(b"\xef\xbb\xbf" + _GOOD),
    "UTF-16 with mark": Body(_GOOD.decode().encode("utf-16")),
    "UTF-16 little endian": Body(_GOOD.decode().encode("utf-16-le")),
    "UTF-16 big endian": Body(_GOOD.decode().encode("utf-16-be")),
    "UTF-32": Body(_GOOD.decode().encode("utf-32")),
    "UTF-7": Body(b'{"task":"suggest","query":"+ADw-%s+AD4-"}' % _RAW),
    "declared UTF-16": Body(_GOOD, {"content-type": "application/json; charset=utf-16"}),
    "declared nonsense charset": Body(_GOOD, {"content-type": f"application/json; charset={MARKER}"}),
    "random bytes": Body(bytes(range(256)) * 4),
    "all high bytes": Body(b"\xff" * 1000),
    "a string": Body(b'"%s"' % _RAW),
    "a number": Body(b"1"),
    "null body": Body(b"null"),
    "true body": Body(b"true"),
    "NaN body": Body(b"NaN"),
    "an array": Body(b"[%s]" % _GOOD),
    "an array of 10,000 bodies": Body(b"[" + b",".join([_GOOD] * 10_000) + b"]"),
    "an empty array": Body(b"[]"),
    "an empty object": Body(b"{}"),
    "10,000 deep": Body(b"[" * 10_000 + b"]" * 10_000),
    "100,000 deep and open": Body(b"[" * 100_000),
    "100,000 closing": Body(b"]" * 100_000),
    "10,000 deep objects": Body(b'{"task":' * 10_000 + b"1" + b"}" * 10_000),
    "duplicate keys": Body(b'{"task":"suggest","task":"hint","query":"kyoto","query":"%s"}' % _RAW),
    "100,000 duplicate keys": Body(b"{" + b",".join([b'"task":"%s"' % _RAW] * 30_000) + b"}"),
    "line comment": Body(b'{"task":"suggest", // %s\n"query":"kyoto"}' % _RAW),
    "block comment": Body(b'{"task":"suggest", /* %s */ "query":"kyoto"}' % _RAW),
    "trailing comma": Body(b'{"task":"suggest","query":"%s",}' % _RAW),
    "single quotes": Body(b"{'task':'suggest','query':'%s'}" % _RAW),
    "unquoted keys": Body(b'{task:"suggest",query:"%s"}' % _RAW),
    "cut in the middle": Body(_GOOD[:-4]),
    "cut in a key": Body(b'{"%s' % _RAW),
    "two documents": Body(_GOOD + _GOOD),
    "JSON lines": Body(_GOOD + b"\n" + _GOOD),
    "text after the document": Body(_GOOD + b" " + _RAW),
    "nul after the document": Body(_GOOD + b"\x00"),
    "python literal": Body(b"{'task': None, 'query': u'%s'}" % _RAW),
    "javascript": Body(b'while(1);{"task":"%s"}' % _RAW),
    "YAML": Body(b"task: suggest\nquery: !!python/object/apply:os.system ['%s']" % _RAW),
    "XML": Body(b'<?xml version="1.0"?><task>%s</task>' % _RAW),
    "CSV": Body(b"task,query\nsuggest,%s" % _RAW),
    "a pickle": Body(b"\x80\x04\x95" + _RAW),
    "form": Body(b"task=suggest&query=%s" % _RAW, {"content-type": "application/x-www-form-urlencoded"}),
    "form called JSON": Body(b"task=suggest&query=%s" % _RAW),
    "multipart": Body(
        b'--%s\r\ncontent-disposition: form-data; name="task"\r\n\r\nsuggest\r\n--%s--\r\n' % (_RAW, _RAW),
        {"content-type": f"multipart/form-data; boundary={MARKER}"},
    ),
    "multipart without boundary": Body(b"--a", {"content-type": "multipart/form-data"}),
    "gzip declared": Body(gzip.compress(_GOOD), {**_JSON, "content-encoding": "gzip"}),
    "gzip undeclared": Body(gzip.compress(_GOOD)),
    "gzip bomb": Body(gzip.compress(b"a" * 10_000_000), {**_JSON, "content-encoding": "gzip"}),
    "gzip falsely declared": Body(_GOOD, {**_JSON, "content-encoding": "gzip"}),
    "deflate": Body(zlib.compress(_GOOD), {**_JSON, "content-encoding": "deflate"}),
    "brotli": Body(_GOOD, {**_JSON, "content-encoding": "br"}),
    "encoded ten times": Body(_GOOD, {**_JSON, "content-encoding": ", ".join(["gzip"] * 10)}),
    "unknown encoding": Body(_GOOD, {**_JSON, "content-encoding": MARKER}),
    "no content type": Body(_GOOD, {}),
    "empty content type": Body(_GOOD, {"content-type": ""}),
    "content type of nonsense": Body(_GOOD, {"content-type": f"{MARKER}/;;;===,"}),
    "content type of 8 KB": Body(_GOOD, {"content-type": "application/json;" + MARKER * 700}),
    "text/html": Body(_GOOD, {"content-type": "text/html"}),
    "application/xml": Body(_GOOD, {"content-type": "application/xml"}),
    "octet-stream": Body(_GOOD, {"content-type": "application/octet-stream"}),
    "JSON patch": Body(b'[{"op":"test","path":"/%s"}]' % _RAW, {"content-type": "application/json-patch+json"}),
    "problem as a request": Body(_GOOD, {"content-type": "application/problem+json"}),
    "text/plain of nonsense": Body(_RAW, {"content-type": "text/plain"}),
    "upper-case content type": Body(_GOOD, {"content-type": "APPLICATION/JSON"}),
    "the word events": Body(b'"events"'),
    "events twice": Body(b'{"events":[],"events":[{"click_token":"%s"}]}' % _RAW),
    "events and a single event": Body(b'{"click_token":"%s","kind":"seen","events":[]}' % _RAW),
    "events hidden in a value": Body(b'{"click_token":"\\"events\\"","kind":"%s"}' % _RAW),
    "no events": Body(b'{"events":[]}'),
    "1,001 empty events": Body(b'{"events":[' + b",".join([b"{}"] * 1001) + b"]}"),
    "1,000 empty events": Body(b'{"events":[' + b",".join([b"{}"] * 1000) + b"]}"),
    "1,000 events over the limit": Body(
        b'{"events":[' + b",".join([b'{"click_token":"%s"}' % (_RAW * 100)] * 1000) + b"]}"
    ),
    "exactly the limit": Body(_PADDING % (b"a" * (1_048_576 - len(_PADDING) + 2))),
    "one byte over the limit": Body(_PADDING % (b"a" * (1_048_576 - len(_PADDING) + 3))),
    "every field null": Body(
        json.dumps(
            dict.fromkeys(
                "task query n user_id session_id session history answer documents locale timeout_ms track origin "
                "explain click_token kind position at events".split()
            )
        ).encode()
    ),
    "polluted prototype": Body(b'{"__proto__":{"task":"suggest"},"constructor":1,"%s":2}' % _RAW),
    "dunder keys": Body(b'{"__class__":"%s","__init__":{},"model_config":{},"self":1}' % _RAW),
    "key of 100,000 characters": Body(b'{"%s":1}' % (_RAW * 8000)),
    "key with a nul": Body(b'{"task\\u0000%s":1}' % _RAW),
    "key of a lone surrogate": Body(b'{"\\ud800%s":1}' % _RAW),
    "empty key": Body(b'{"":"%s"}' % _RAW),
    "full-width braces": Body(f'｛"task":"{MARKER}"｝'.encode()),
    "only whitespace, 1 MB": Body(b" " * 1_000_000),
}
