"""What may be shown, in which order: drops the unfit, the repeated and the already asked.

It knows nothing about how candidates were made.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from service.contract.query_text import match_key, one_line
from service.contract.types import Candidate

_ADDRESS = re.compile(r"https?:|www\.|\b[\w-]+\.(?:com|net|org|io|ru|cn|info|biz|xyz)\b|\S@\S", re.IGNORECASE)
_TEMPLATE = re.compile(r"<[|/]?\w+[|]?>|\[/?INST\]|#{2,}|\{\{|\}\}|<<|>>", re.IGNORECASE)
_INSTRUCTIONS = re.compile(
    r"expert in query recommendation|most likely to click|ignore (?:all|any|the|your) |"
    r"(?:system|previous|above) (?:prompt|instruction)s?|\b(?:instructions|inputs|response):",
    re.IGNORECASE,
)
_LONG_NUMBER = re.compile(r"(?:\d[ -]?){9,}")  # phone, card and identity numbers; years and model names are shorter
_WORD = re.compile(r"\w+")
_STOP_WORDS = frozenset("a an and are at be by do does for from in is it of on or s the to what with".split())


def rank(
    candidates: Iterable[Candidate], *, n: int, asked: Iterable[str], refused: dict[str, int]
) -> tuple[Candidate, ...]:
    """The first `n` candidates that may be shown, in the order given.

    `asked`: queries the person typed already. `refused` counts what was dropped, by reason.
    """
    kept: list[Candidate] = []
    seen = {_sense(text) for text in asked}
    for candidate in candidates:
        text = one_line(candidate.text)
        reason = unfit(text) or ("repeated" if _sense(text) in seen else None)
        if reason:
            refused[reason] = refused.get(reason, 0) + 1
        elif len(kept) < n:
            seen.add(_sense(text))
            kept.append(replace(candidate, text=text))
    return tuple(kept)


def unfit(text: str) -> str | None:
    """Why `text` must not be shown to anybody, None if it may."""
    if not any(c.isalnum() for c in text):
        return "no words"
    for reason, pattern in (
        ("address", _ADDRESS),
        ("template", _TEMPLATE),
        ("instructions", _INSTRUCTIONS),
        ("number", _LONG_NUMBER),
    ):
        if pattern.search(text):
            return reason
    return None


def _sense(text: str) -> frozenset[str] | str:
    """Near-duplicates have the same one: the words that carry meaning, in any order."""
    return frozenset(_WORD.findall(match_key(text))) - _STOP_WORDS or match_key(text)
