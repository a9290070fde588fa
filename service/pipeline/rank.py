"""What may be shown, in which order: drops the unfit, the repeated and the already asked.

It knows nothing about how candidates were made.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache

from service.contract.query_text import match_key, one_line
from service.contract.tasks import all_tasks
from service.contract.types import Candidate

_ADDRESS = re.compile(
    r"://|(?:https?|mailto|javascript):|www\.|\S@\S|\b\d{1,3}(?:\.\d{1,3}){3}\b|"
    r"\w[.\u3002](?:com|net|org|edu|gov|io|co|me|tv|ai|app|dev|ru|cn|uk|de|info|biz|xyz|top|site|online|shop|link|tk)\b",
    re.IGNORECASE,
)
_TEMPLATE = re.compile(r"<[|/]?\w+[|]?>|<[|/]|[|]>|\[/?INST\]|#{2,}|\{[{%]|[%}]\}|<<|>>", re.IGNORECASE)
_INSTRUCTIONS = re.compile(
    r"expert in query recommendation|most likely to click|ignore (?:all|any|the|your) |"
    r"(?:system|previous|above) (?:prompt|instruction)s?|"
    r"\b(?:instructions|inputs|response|system|assistant|user|human) ?:",
    re.IGNORECASE,
)
_LONG_NUMBER = re.compile(r"(?:\d[ ().+/-]{0,2}){9,}")  # phone, card, identity numbers; years and models are shorter
_WORD = re.compile(r"[^\s\"'(),./:;?!\[\]{}\u2018\u2019\u201c\u201d-]+")  # keeps c++, c# and vowel signs
_LEAK_WORDS = 5  # in a row that a query has in common with an instruction
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
        if len(kept) == n:
            break
        text = one_line(candidate.text)
        reason = unfit(text) or ("repeated" if _sense(text) in seen else None)
        if reason:
            refused[reason] = refused.get(reason, 0) + 1
        else:
            seen.add(_sense(text))
            kept.append(replace(candidate, text=text))
    return tuple(kept)


def fit_texts(texts: Mapping[str, str], *, refused: dict[str, int]) -> dict[str, str]:
    """The auxiliary texts that may be shown; an empty one may. `refused` counts the others, by reason."""
    kept: dict[str, str] = {}
    for name, text in texts.items():
        line = one_line(text)
        if reason := unfit(line) if line else None:
            refused[reason] = refused.get(reason, 0) + 1
        else:
            kept[name] = line
    return kept


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
    return "instructions" if _runs(text) & _instruction_runs() else None


@cache
def _instruction_runs() -> frozenset[tuple[str, ...]]:
    return frozenset(run for task in all_tasks().values() for run in _runs(task.instruction))


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return {tuple(words[i : i + _LEAK_WORDS]) for i in range(len(words) - _LEAK_WORDS + 1)}


def _sense(text: str) -> frozenset[str] | str:
    """Near-duplicates have the same one: the words that carry meaning, in any order."""
    return frozenset(_WORD.findall(match_key(text))) - _STOP_WORDS or match_key(text)
