"""The XML of the TREC Session track: sessions with interactions and a current query, each a query at a time of day.

Only these tags and `<query>` are looked at, wherever they stand: a result with broken mark-up harms nothing else, and
no entity of a document type is ever expanded. Times of day get their date from `--starting-at`; a time that lies half
a day or more before the one before it in its session is on the next day.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from html import unescape
from typing import BinaryIO

from service.contract.errors import ConfigurationError
from service.imports.rows import BadRow, Fault, Head, Item, LogFormat, RawRow, ReadOptions, Rejected, decode, moment

_CHUNK = 1 << 16
_LONGEST_TAG = 1 << 12
_LONGEST_PART = 4 << 20  # an interaction with its ten results has some 10,000 bytes
_TAG = re.compile(rb"<(/?)(sessiontrack\w*|session|interaction|currentquery)(?:\s[^<>]*)?>")
_QUERY = re.compile(r"<query>(.*?)</query>", re.DOTALL)
_ATTRIBUTE = re.compile(r"""(\w+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_TIME_OF_DAY = re.compile(r"\d\d:\d\d(:\d\d(\.\d{1,6})?)?", re.ASCII)
_HALF_DAY = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class _Part:
    """An interaction or a current query with all that is in it; of a session or a track, only its tag."""

    name: str
    tag: bytes
    raw: bytes
    problem: str = ""

    def attribute(self, name: str) -> str | None:
        """The value of an attribute of its tag. Raises BadRow when the tag is not UTF-8."""
        found = {key: double or single for key, double, single in _ATTRIBUTE.findall(decode(self.tag))}
        return unescape(found.get(name, "")).strip() or None


@dataclass(slots=True)
class _Session:
    """The session that is being read. `last`: the moment of the search before."""

    part: _Part = _Part("session", b"", b"")
    track: str = ""
    last: datetime | None = None

    def name(self) -> str | None:
        number = self.part.attribute("num")
        return f"{self.track}:{number}" if number and self.track else number  # each year numbers from 1

    def around(self, raw: bytes) -> bytes:
        """`raw` in a session of its own, so that it can be read again by itself."""
        return b"%s%s</session>" % (self.part.tag, raw) if self.part.tag else raw


def read(file: BinaryIO, options: ReadOptions) -> Iterator[Item]:
    """One search an interaction, and one for the current query; their number is their place among these.

    Raises:
        ConfigurationError: There is no track in the file and no interaction, or one has no end.
    """
    session, number = _Session(), 0
    for part in _parts(file):
        if part.name == "session":
            session = _Session(part, session.track)
        elif part.name.startswith("sessiontrack"):
            session = _Session(track=part.name)
            yield Head(part.raw + b"\n")
        else:
            number += 1
            yield _row(number, part, session, options)
    if number == 0 and not session.track and file.tell() > 0:
        raise ConfigurationError("The file has no <interaction>: it is not the XML of the TREC Session track.")


def _parts(file: BinaryIO) -> Iterator[_Part]:
    rest = b""
    while chunk := file.read(_CHUNK):
        parts, rest = _cut(rest + chunk)
        yield from parts
        if len(rest) > _LONGEST_PART:
            raise ConfigurationError(f"An interaction has more than {_LONGEST_PART:,} bytes. Close it, and try again.")
    if opening := _TAG.search(rest):
        yield _Part(opening[2].decode(), opening[0], rest, "it is not closed before the end of the file")


def _cut(text: bytes) -> tuple[list[_Part], bytes]:
    """The parts that `text` has whole, and the bytes at its end that the next part may begin with."""
    parts: list[_Part] = []
    opening: re.Match[bytes] | None = None
    done = 0
    for tag in _TAG.finditer(text):
        name, closes = tag[2].decode(), bool(tag[1])
        if opening is not None:
            is_whole = closes and tag[2] == opening[2]
            raw = text[opening.start() : tag.end() if is_whole else tag.start()]
            problem = "" if is_whole else f"it is not closed before the next <{tag[1].decode()}{name}>"
            parts.append(_Part(opening[2].decode(), opening[0], raw, problem))
        is_part = name in ("interaction", "currentquery")
        opening = tag if is_part and not closes else None
        if name == "session" or not (is_part or closes):
            parts.append(_Part(name, b"" if closes else tag[0], tag[0]))
        done = tag.end()
    begin = opening.start() if opening else text.rfind(b"<", max(done, len(text) - _LONGEST_TAG))
    return parts, text[begin:] if begin >= 0 else b""


def _row(number: int, part: _Part, session: _Session, options: ReadOptions) -> RawRow | Rejected:
    raw = session.around(part.raw)
    try:
        text = decode(part.raw)
        if part.problem:
            raise BadRow(Fault.UNREADABLE, part.problem)
        query = _QUERY.search(text)
        if query is None:
            raise BadRow(Fault.NO_QUERY, "it has no <query>")
        if "<" in query[1]:
            raise BadRow(Fault.UNREADABLE, "its <query> has mark-up in it")
        at = _moment(part.attribute("starttime") or "", session, options)
        return RawRow(number, raw, unescape(query[1]), session.part.attribute("userid"), session.name(), at)
    except BadRow as bad:
        return Rejected(number, raw, bad.fault, str(bad))


def _moment(text: str, session: _Session, options: ReadOptions) -> datetime | None:
    if not _TIME_OF_DAY.fullmatch(text):
        return moment(text)
    first = session.last or options.starting_at
    if first is None:
        raise BadRow(Fault.NO_TIME, "it has a time of day but no date: --starting-at says the date")
    try:
        at = datetime.combine(first.date(), time.fromisoformat(text), UTC)
        session.last = at + timedelta(days=int(session.last is not None and session.last - at >= _HALF_DAY))
    except (ValueError, OverflowError):
        raise BadRow(Fault.NO_TIME, "its time of day does not exist") from None
    return session.last


FORMAT = LogFormat(name="trec-session", read=read)
