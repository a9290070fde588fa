"""Reads a file line by line, in pieces that fit into memory however long a line is.

It knows nothing about what a line says.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from service.imports.rows import BadRow, Fault, Head, RawRow, Rejected, Repeat

LONGEST_LINE = 1 << 20
TOO_LONG = f"the line is longer than {LONGEST_LINE:,} bytes"
Parsed = RawRow | Repeat | Head
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A line with its end, or a piece of one longer than `LONGEST_LINE` bytes. `number` is from 1."""

    number: int
    raw: bytes
    is_whole: bool

    def without_bom(self) -> bytes:
        """Its bytes, less the mark that some programs write at the start of a file."""
        return self.raw.removeprefix(_BOM) if self.number == 1 else self.raw


def lines(file: BinaryIO) -> Iterator[Line]:
    """Every line, in order; a line that is too long comes in pieces of the same number."""
    number, goes_on = 0, False
    while raw := file.readline(LONGEST_LINE):
        number += not goes_on
        breaks_off = len(raw) == LONGEST_LINE and not raw.endswith(b"\n")
        yield Line(number, raw, is_whole=not (goes_on or breaks_off))
        goes_on = breaks_off


def read_lines(file: BinaryIO, parse: Callable[[Line], Parsed]) -> Iterator[Parsed | Rejected]:
    """What `parse` makes of each line that is not blank; a line for which it raises BadRow is rejected."""
    for line in lines(file):
        if not line.is_whole:
            yield Rejected(line.number, line.raw, Fault.UNREADABLE, TOO_LONG)
        elif line.raw.strip():
            yield _parse_or_reject(line, parse)


def _parse_or_reject(line: Line, parse: Callable[[Line], Parsed]) -> Parsed | Rejected:
    try:
        return parse(line)
    except BadRow as bad:
        return Rejected(line.number, line.raw, bad.fault, str(bad))
