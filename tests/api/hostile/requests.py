"""Hostile request lines and headers, as whole requests on the wire.

It knows nothing about bodies.
"""

from tests.api.hostile import MARKER

_RAW = MARKER.encode()


def _get(target: bytes, *headers: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([b" ".join([method, target, version]), b"host: a", *headers, b"", b""])


def _post(*headers: bytes) -> bytes:
    return _get(b"/recommend", *headers, method=b"POST")


TARGETS: dict[str, bytes] = {
    "an unknown path": b"/" + _RAW,
    "a trailing slash": b"/livez/",
    "a trailing slash on a call": b"/recommend/",
    "a double slash": b"//livez",
    "a double slash and a host": b"//" + _RAW + b"/..",
    "dots": b"/../../etc/" + _RAW,
    "encoded dots": b"/%2e%2e/%2e%2e/" + _RAW,
    "double-encoded dots": b"/%252e%252e/" + _RAW,
    "encoded slash": b"/livez%2f" + _RAW,
    "encoded nul": b"/livez%00" + _RAW,
    "encoded line break": b"/" + _RAW + b"%0d%0aset-cookie:a=b",
    "encoded high bytes": b"/%ff%fe" + _RAW,
    "overlong encoded": b"/%c0%af" + _RAW,
    "encoded surrogate": b"/%ed%a0%80" + _RAW,
    "bad percent": b"/%zz%" + _RAW,
    "raw high bytes": b"/\xff\xfe" + _RAW,
    "raw UTF-8": "/日本".encode() + _RAW,
    "backslashes": b"/..\\..\\" + _RAW,
    "a matrix parameter": b"/livez;" + _RAW,
    "a fragment": b"/livez#" + _RAW,
    "an absolute address": b"http://" + _RAW + b".example/livez",
    "another scheme": b"ftp://" + _RAW + b"/livez",
    "a star": b"*",
    "nothing before the query": b"?" + _RAW,
    "an empty query": b"/livez?",
    "a query of nonsense": b"/livez?&&&=%s&%s[]=1&__proto__=2" % (_RAW, _RAW),
    "a query with a nul": b"/version?a=%00" + _RAW,
    "10,000 parameters": b"/metrics?" + b"&".join([b"a=" + _RAW] * 1000),
    "a path of 30 KB": b"/" + _RAW * 2500,
    "a template in the path": b"/{{7*7}}" + _RAW,
    "html in the path": b"/<script>" + _RAW,
    "sql in the path": b"/version'--" + _RAW,
    "a dotfile": b"/.env?" + _RAW,
    "a secret of ours": b"/click_token.key?" + _RAW,
    "the database": b"/nextquery.db?" + _RAW,
    "documents of the framework": b"/docs?" + _RAW,
    "static traversal": b"/static/../../service/app.py?" + _RAW,
    "no leading slash": b"livez" + _RAW,
}

METHODS: dict[str, bytes] = {
    name: name.encode()
    for name in "HEAD PUT DELETE PATCH OPTIONS TRACE CONNECT PROPFIND LINK SUBSCRIBE M-SEARCH PURGE POST".split()
} | {
    "lower case": b"get",
    "unknown": _RAW.upper(),
    "empty method": b"",
    "with a nul": b"GET\x00",
    "long": b"G" * 10_000,
    "non-ascii": b"G\xc3\x89T",
}

HEADERS: dict[str, bytes] = {
    "marker in every common header": b"\r\n".join(
        b"%s: %s" % (name, _RAW)
        for name in (
            b"user-agent",
            b"referer",
            b"cookie",
            b"accept",
            b"accept-language",
            b"x-forwarded-for",
            b"x-forwarded-host",
            b"x-forwarded-proto",
            b"forwarded",
            b"x-request-id",
            b"x-real-ip",
            b"traceparent",
            b"if-none-match",
            b"range",
            b"via",
        )
    ),
    "another origin": b"origin: https://" + _RAW,
    "a preflight": b"origin: https://%s\r\naccess-control-request-method: %s" % (_RAW, _RAW),
    "a hostile request id": b"x-request-id: " + _RAW + b'"}{"level":"ERROR"',
    "authorization": b"authorization: Bearer " + _RAW,
    "range": b"range: bytes=0-" + b",0-" * 2000,
    "two hosts": b"host: " + _RAW,
    "method override": b"x-http-method-override: DELETE",
    "original url": b"x-original-url: /" + _RAW,
    "connection names headers": b"connection: close, host, content-length",
    "upgrade h2c": b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA",
    "upgrade websocket": b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: AAAA",
    "expect nonsense": b"expect: " + _RAW,
    "raw high bytes in a value": b"x-a: \xff\xfe" + _RAW,
    "a nul in a value": b"x-a: a\x00" + _RAW,
    "a folded value": b"x-a: a\r\n " + _RAW,
    "a name with a space": b"x a: " + _RAW,
    "a name with a colon first": b": " + _RAW,
    "a bare line": _RAW,
    "a bare carriage return": b"x-a: a\rx-b: " + _RAW,
    "199 headers": b"\r\n".join(b"x-%d: %s" % (i, _RAW) for i in range(190)),
    "a value of 8 KB": b"x-a: " + _RAW * 700,
    "a cookie of 30 KB": b"cookie: " + _RAW * 2500,
    "a proxy line": b"proxy: http://" + _RAW,
}

WHOLE: dict[str, bytes] = {
    **{f"target: {name}": _get(target) for name, target in TARGETS.items()},
    **{
        f"method: {name} {path.decode()}": _get(path, b"content-length: 0", method=method)
        for name, method in METHODS.items()
        for path in (b"/livez", b"/recommend", b"/openapi.json")
    },
    **{f"header: {name}": _get(b"/version", lines) for name, lines in HEADERS.items()},
    **{f"missing page and header: {name}": _get(b"/" + _RAW, lines) for name, lines in HEADERS.items()},
    "HTTP/1.0": _get(b"/livez", version=b"HTTP/1.0"),
    "HTTP/1.0 and nothing else": b"GET /livez HTTP/1.0\r\n\r\n",
    "HTTP/0.9": b"GET /livez\r\n",
    "HTTP/2.0": _get(b"/livez", version=b"HTTP/2.0"),
    "HTTP/9.9": _get(b"/livez", version=b"HTTP/9.9"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + _RAW,
    "redis": b"*1\r\n$4\r\nPING\r\n",
    "smtp": b"EHLO " + _RAW + b"\r\n",
    "line feeds only": b"GET /livez HTTP/1.1\nhost: a\n\n",
    "empty lines first": b"\r\n\r\n\r\n" + _get(b"/livez"),
    "nothing but nul": b"\x00" * 1000,
    "content-length negative": _post(b"content-length: -1"),
    "content-length a word": _post(b"content-length: " + _RAW),
    "content-length empty": _post(b"content-length: "),
    "content-length hexadecimal": _post(b"content-length: 0x10"),
    "content-length with a plus": _post(b"content-length: +2") + b"{}",
    "content-length of 30 digits": _post(b"content-length: " + b"9" * 30),
    "content-length of 18 digits": _post(b"content-length: " + b"9" * 18),
    "content-length with 30 zeros": _post(b"content-length: " + b"0" * 30 + b"2") + b"{}",
    "content-length twice": _post(b"content-length: 2", b"content-length: 5") + b"{}",
    "content-length listed": _post(b"content-length: 2, 2") + b"{}",
    "content-length in arabic digits": _post(b"content-length: \xd9\xa2") + b"{}",
    "content-length with superscript": _post("content-length: ²".encode()) + b"{}",
    "both lengths": _post(b"content-length: 2", b"transfer-encoding: chunked") + b"0\r\n\r\n",
    "chunked twice": _post(b"transfer-encoding: chunked, chunked") + b"0\r\n\r\n",
    "chunked not last": _post(b"transfer-encoding: chunked, identity") + b"0\r\n\r\n",
    "chunked with a space": _post(b"transfer-encoding : chunked") + b"0\r\n\r\n",
    "chunked with a vertical tab": _post(b"transfer-encoding: \x0bchunked") + b"0\r\n\r\n",
    "transfer-encoding unknown": _post(b"transfer-encoding: " + _RAW),
    "chunk size of nonsense": _post(b"transfer-encoding: chunked") + b"zz\r\n",
    "chunk size negative": _post(b"transfer-encoding: chunked") + b"-1\r\n",
    "chunk size huge": _post(b"transfer-encoding: chunked") + b"f" * 20 + b"\r\n",
    "chunk extension": _post(b"transfer-encoding: chunked") + b"2;%s=%s\r\n{}\r\n0\r\n\r\n" % (_RAW, _RAW),
    "trailers": _post(b"transfer-encoding: chunked") + b"2\r\n{}\r\n0\r\nx: %s\r\n\r\n" % _RAW,
    "a smuggled request": _post(b"content-length: 2") + b"{}" + _get(b"/" + _RAW),
    "a body on GET": _get(b"/livez", b"content-length: 12") + _RAW[:12],
}
