"""The unified prompt (GQR 3.1, template 1): instructions, inputs, response; written and read here for every task.

It knows no task by name; a task is an instance of `UnifiedTask`, one file each in `service/contract/tasks/`.

When the inputs exceed the token budget they go in this order, and each step stops as soon as the rest fits:
documents (worst first: down to 64 tokens each, then whole), the answer down to 64 tokens, long-term history (oldest
first), co-occurrence queries (worst first), session (oldest first), what is left of the answer, and at last the end
of the query itself.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from service.contract.query_text import match_key, one_line
from service.contract.tokenizer import PromptTokenizer, TextFormat
from service.contract.types import EventSource, HistoryEvent, ParsedList, PromptContext

MAX_QUERY_CHARS = 160  # longer than any query that people click; the longest of 99.9 % of MS MARCO's is 110
_LONGEST_PIECE = 8 * MAX_QUERY_CHARS  # of a completion; a query that spans more is none
_DOCUMENT_TOKENS = 64
_ANSWER_FLOOR_TOKENS = 64
_HEAD = "### Instructions:\nYou are an expert in query recommendation. {instruction}\n### Inputs:\n"
_TAIL = "### Response:\n"
_LABELS = {
    EventSource.SEARCH: "Searched",
    EventSource.CLICK: "Clicked",
    EventSource.PURCHASE: "Bought",
    EventSource.VISIT: "Visited",
}
_MOST_CHARS_A_TOKEN = 8  # no text has longer tokens on average: what lies beyond the budget is not even encoded
_BULLET = re.compile(r"(?:[-*\u2022]|\(?\d{1,2}[.):])\s+")  # the space tells "3. rice" from "3.5 mm jack"
_HEADING = re.compile(r"#{3,}")
_JSON_LIST = re.compile(r'\s*(?:```\w*\s*)?\[\s*"')
_JSON_STRING = re.compile(r'"(?:[^"\\\n]|\\.){0,200}"')
_OPENING, _CLOSING = "\"'\u201c\u2018`", "\"'\u201d\u2019`"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt. `token_ids` is what the engine gets; `text` the same without the tokenizer's frame.

    `dropped` names the input lines that were left out or shortened for the budget, by label.
    """

    token_ids: tuple[int, ...]
    text: str
    dropped: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class _Line:
    label: str
    text: str
    ids: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class UnifiedTask:
    """One recommendation task: its words in the prompt, and how its response reads.

    `instruction` has the slot {n}. `auxiliary` names the texts before the queries, in order. `single_choice`: a
    click on one query excludes the others (GQR eq. 4 instead of eq. 3). `fixed_order`: the order of the queries is part
    of what they say, as in steps, so that nobody may change it.
    """

    name: str
    instruction: str
    default_n: int
    max_n: int
    needs_query: bool
    single_choice: bool
    auxiliary: tuple[str, ...] = ()
    fixed_order: bool = False

    def render(self, context: PromptContext, tokenizer: PromptTokenizer, *, budget: int) -> Prompt:
        """The prompt of `context` in at most `budget` tokens. It ends exactly on a token boundary.

        Each line is encoded by itself, in training and in serving, so the ids of a prompt never depend on what
        follows it. `budget` must leave room for the instructions; the query loses its end before they do.
        """
        head, head_ids, tail_ids = _frame_ids(self, context.n, tokenizer)
        lines = _input_lines(context)
        dropped = _clean(lines, _MOST_CHARS_A_TOKEN * budget)
        for line, ids in zip(
            lines, tokenizer.encode_lines([f"{line.label}: {line.text}\n" for line in lines]), strict=True
        ):
            line.ids = list(ids)
        dropped += _fit(lines, max(0, budget - len(head_ids) - len(tail_ids)), tokenizer)
        ids = head_ids + [i for line in lines for i in line.ids] + tail_ids
        text = head + "".join(f"{line.label}: {line.text}\n" for line in lines) + _TAIL
        return Prompt(tuple(ids), text, tuple(dropped))

    def response(self, queries: list[str], texts: dict[str, str], text_format: TextFormat) -> str:
        """The response a policy should write: auxiliary texts on their lines, then the queries (template 1)."""
        lines = [f"{name}: {one_line(texts.get(name, ''))}".rstrip() + "\n" for name in self.auxiliary]
        return "".join(lines) + text_format.separator.join(one_line(query) for query in queries)

    def parse(self, text: str, *, n: int, separator: str) -> ParsedList:
        """What `text` says: never raises, and never gives an empty list without a problem.

        Takes exactly our format, and what chat models make of it: lines, numbers, bullets, quotes, a JSON list.
        """
        texts: dict[str, str] = {}
        queries: dict[str, tuple[str, tuple[int, int]]] = {}
        for begin, end in _pieces(text, separator.strip()):
            piece = one_line(text[begin : min(end, begin + _LONGEST_PIECE)])
            name, colon, value = piece.partition(":")
            if colon and name.strip().lower() in self.auxiliary:
                texts.setdefault(name.strip().lower(), value.strip()[:MAX_QUERY_CHARS].strip())
            elif query := _read_query(piece):
                queries.setdefault(match_key(query), (query, (begin, end)))
        kept = list(queries.values())[:n]
        missing = [name for name in self.auxiliary if name not in texts]
        problem = None
        if not kept:
            problem = "empty completion" if not text.strip() else "no query in the completion"
        elif missing:
            problem = f"missing {', '.join(missing)}"
        return ParsedList(
            queries=tuple(query for query, _ in kept), spans=tuple(s for _, s in kept), texts=texts, problem=problem
        )

    def fingerprint(self, text_format: TextFormat) -> str:
        """Hash of everything that shapes a prompt and a response; a policy trained on another one is refused."""
        return _fingerprint(self, text_format)


@lru_cache(maxsize=256)
def _fingerprint(task: UnifiedTask, text_format: TextFormat) -> str:
    labels = [line.label for line in _input_lines(_PROBE)]
    probe = [_HEAD, task.instruction, *_format_note(task, text_format), *labels, _TAIL]
    example = task.response(["a", "b"], {name: name for name in task.auxiliary}, text_format)
    return hashlib.sha256("\x1f".join([*probe, example]).encode()).hexdigest()[:16]


def _pieces(text: str, separator: str) -> list[tuple[int, int]]:
    """Spans between separators and line breaks; the strings when `text` is a JSON list."""
    if _JSON_LIST.match(text):
        return [found.span() for found in _JSON_STRING.finditer(text)]
    spans, begin = [], 0
    for mark in re.finditer(f"{re.escape(separator)}|\n", text, re.IGNORECASE):
        spans.append((begin, mark.start()))
        begin = mark.end()
    return [(start, end) for start, end in [*spans, (begin, len(text))] if start < end]


def _read_query(piece: str) -> str | None:
    """The query in a piece of a completion; None where it is an announcement, markup, or too long."""
    query = _BULLET.sub("", piece, count=1) if _BULLET.match(piece) else piece
    query = query.removeprefix("**").removesuffix("**").strip()
    if query.endswith(":") or query.startswith("```"):
        return None
    while len(query) > 1 and query[0] in _OPENING and query[-1] == _CLOSING[_OPENING.index(query[0])]:
        if query[0] in query[1:-1]:  # two quotations: these are part of the query
            break
        query = query[1:-1].strip()
    return query if len(query) <= MAX_QUERY_CHARS and any(c.isalnum() for c in query) else None


def _input_lines(context: PromptContext) -> list[_Line]:
    session, history, query = list(context.session), list(context.history), context.query
    if not query and session:  # where nothing is typed the last query stands in
        query = session.pop()
    elif not query:
        searches = [number for number, event in enumerate(history) if event.source is EventSource.SEARCH]
        query = history.pop(searches[-1]).text if searches else None
    lines = [_Line("Query", query)] if query else []
    lines += [_Line(_LABELS[event.source], event.text) for event in history]
    lines += [_Line("Session", text) for text in session]
    lines += [_Line("Often next", text) for text in context.co_queries]
    lines += [_Line("Document", text) for text in context.documents]
    lines += [_Line("Answer", context.answer)] if context.answer else []
    return lines


def _clean(lines: list[_Line], chars: int) -> list[str]:
    """Make each text one visible line of at most `chars`; returns the labels of those that were longer.

    Rows of # shrink to one, so that nothing typed reads as a heading of the template, which may be a single token.
    """
    endless = [line.label for line in lines if len(line.text) > chars]
    for line in lines:
        line.text = _HEADING.sub("#", one_line(one_line(line.text[:chars])[:chars]))
    lines[:] = [line for line in lines if line.text]
    return endless


def _fit(lines: list[_Line], room: int, tokenizer: PromptTokenizer) -> list[str]:
    """Shorten or drop `lines` in place, in the documented order, until they have at most `room` tokens."""
    dropped: list[str] = []
    excess = sum(len(line.ids) for line in lines) - room

    def shorten(line: _Line, tokens: int) -> None:
        nonlocal excess
        before = len(line.ids)
        if excess > 0 and before > tokens:
            _shorten(line, tokens, tokenizer)
            excess -= before - len(line.ids)
            dropped.append(line.label)

    def drop(chosen: list[_Line]) -> None:
        for line in chosen:
            if line.ids:
                shorten(line, 0)

    def labelled(*labels: str) -> list[_Line]:
        return [line for line in lines if line.label in labels]

    for line in reversed(labelled("Document")):
        shorten(line, _DOCUMENT_TOKENS)
    drop(labelled("Document")[::-1])
    for line in labelled("Answer"):
        shorten(line, max(_ANSWER_FLOOR_TOKENS, len(line.ids) - excess))
    drop(labelled(*_LABELS.values()))
    drop(labelled("Often next")[::-1])
    drop(labelled("Session"))
    drop(labelled("Answer"))
    for line in labelled("Query"):
        shorten(line, max(0, len(line.ids) - excess))
    lines[:] = [line for line in lines if line.text]
    return dropped


def _shorten(line: _Line, tokens: int, tokenizer: PromptTokenizer) -> None:
    """Keep the beginning of `line` that has at most `tokens` tokens: whole words, or a part of an endless first one."""
    text, line.text, line.ids = line.text, "", []
    words = text.split(" ")
    if not _keep_longest(line, lambda count: " ".join(words[:count]), min(len(words), tokens), tokens, tokenizer):
        most = min(len(words[0]), _MOST_CHARS_A_TOKEN * tokens)
        _keep_longest(line, lambda count: words[0][:count], most, tokens, tokenizer)


def _keep_longest(line: _Line, start: Callable[[int], str], most: int, tokens: int, tokenizer: PromptTokenizer) -> bool:
    """Give `line` the longest `start(1 .. most)` that has at most `tokens` tokens; False if none has."""
    low, high = 1, most
    while low <= high:  # encoding grows with the text
        middle = (low + high) // 2
        ids = tokenizer.encode(f"{line.label}: {start(middle)}\n")
        if len(ids) <= tokens:
            line.text, line.ids, low = start(middle), ids, middle + 1
        else:
            high = middle - 1
    return bool(line.text)


def _format_note(task: UnifiedTask, text_format: TextFormat) -> list[str]:
    """Sentences that tell a model which was not trained on the format how to write it."""
    if text_format.separator_is_token:
        return []
    names, separator = ", ".join(task.auxiliary), text_format.separator.strip()
    notes = [f"Begin with one line for each of these, as name: text: {names}."] if names else []
    return [*notes, f"Write the queries on one line with {separator} between them, and nothing else."]


@lru_cache(maxsize=256)
def _frame_ids(task: UnifiedTask, n: int, tokenizer: PromptTokenizer) -> tuple[str, list[int], list[int]]:
    instruction = " ".join([task.instruction.format(n=n), *_format_note(task, tokenizer.format)])
    head = _HEAD.format(instruction=instruction)
    return (
        head,
        [*tokenizer.start_ids, *tokenizer.encode(head)],
        [*tokenizer.encode(_TAIL), *tokenizer.end_ids],
    )


_PROBE = PromptContext(
    n=3,
    query="a",
    session=("b",),
    history=tuple(HistoryEvent(source=source, text="c") for source in EventSource),
    answer="d",
    documents=("e",),
    co_queries=("f",),
)
