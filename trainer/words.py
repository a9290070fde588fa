"""The words of a response, and a label for each token from a judgement of its words (TPPO 3.2, phase II of Figure 3).

It knows no judge, no model and no reward. Words are found in the bytes of the ids that were sampled; nothing is encoded again.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from service.contract.prompt import UnifiedTask
from service.contract.token_bytes import decoded
from service.contract.tokenizer import PromptTokenizer

NO_REWARD, IRRELEVANT, RELEVANT = 0, 1, 2
"""Classes of a token (TPPO 3.2): separators, punctuation, auxiliary texts and repetitions are none of the latter two."""

_WORD = re.compile(r"\w+(?:['’\-]\w+)*")


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a query. `query`: which of the list, from 0. `begin`, `end`: its bytes in the response."""

    text: str
    query: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a policy wrote, read by the task's own parser.

    `ids`: as sampled, with the end of sequence where it was written. `ends`: byte at which each query ends. `spans`: bytes of
    each token, (T,). `problem`: why it is no whole list, or None.
    """

    ids: tuple[int, ...]
    queries: tuple[str, ...]
    ends: tuple[int, ...]
    words: tuple[Word, ...]
    spans: tuple[tuple[int, int], ...]
    problem: str | None


def read_response(ids: Sequence[int], task: UnifiedTask, tokenizer: PromptTokenizer, *, n: int) -> Response:
    """The queries and words of sampled `ids`; no end of sequence says that it was cut, which is a problem too."""
    ended = bool(ids) and ids[-1] in tokenizer.eos_ids
    pieces = tokenizer.token_bytes(ids[:-1] if ended else ids) + ([b""] if ended else [])
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    text, byte_ends = decoded(b"".join(pieces))
    parsed = task.parse(text, n=n, separator=tokenizer.format.separator)
    places = [0, *byte_ends]  # of a character's end, and so of the next one's begin
    words = [
        Word(found[0], number, places[begin + found.start()], places[begin + found.end()])
        for number, (query, (begin, end)) in enumerate(zip(parsed.queries, parsed.spans, strict=True))
        for found in _words_in(text[begin:end], query)
    ]
    problem = parsed.problem or (None if ended else "it was cut before its end")
    return Response(
        ids=tuple(ids),
        queries=parsed.queries,
        ends=tuple(places[end] for _, end in parsed.spans),
        words=tuple(words),
        spans=tuple(pairwise(ends)),
        problem=problem,
    )


def token_classes(response: Response, relevant: Sequence[bool]) -> list[int]:
    """The class of each token, (T,), from whether each word is relevant: every token of a word has the word's class.

    A token with bytes of several words has the class of the word that it has most of; of equal ones, of the first.

    Raises:
        ValueError: There is not exactly one judgement for each word.
    """
    if len(relevant) != len(response.words):
        raise ValueError(f"There are {len(relevant)} judgements for {len(response.words)} words.")
    classes, most = [NO_REWARD] * len(response.ids), [0] * len(response.ids)
    first = 0
    for word, good in zip(response.words, relevant, strict=True):
        while response.spans[first][1] <= word.begin:
            first += 1
        for token in range(first, len(response.spans)):
            begin, end = response.spans[token]
            if begin >= word.end:
                break
            shared = min(end, word.end) - max(begin, word.begin)
            if shared > most[token]:
                classes[token], most[token] = RELEVANT if good else IRRELEVANT, shared
    return classes


def _words_in(piece: str, query: str) -> list["re.Match[str]"]:
    """Words of the text that a query was read from, without the number or bullet before it."""
    said = {found[0] for found in _WORD.finditer(query)}
    return [found for found in _WORD.finditer(piece) if found[0] in said]
