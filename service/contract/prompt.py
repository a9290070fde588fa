"""The unified prompt (GQR 3.1, template 1): instructions, inputs, response; written and read here for every task.

It knows no task by name; a task is an instance of `UnifiedTask`, one file each in `service/contract/tasks/`.

When the inputs exceed the token budget they go in this order, and each step stops as soon as the rest fits:
documents (worst first), the answer down to 64 tokens, long-term history (oldest first), co-occurrence queries (worst
first), session (oldest first), what is left of the answer, and at last the end of the query itself.
"""

import hashlib
import re
from dataclasses import dataclass, field
from functools import lru_cache

from service.contract.query_text import match_key, one_line
from service.contract.tokenizer import PromptTokenizer, TextFormat
from service.contract.types import EventSource, HistoryEvent, ParsedList, PromptContext

MAX_QUERY_CHARS = 160  # longer than any query that people click; the longest of 99.9 % of MS MARCO's is 110
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
_BULLET = re.compile(r"^\s*(?:[-*\u2022]|\(?\d{1,2}[.):])\s*")
_QUOTES = "\"'\u201c\u201d\u2018\u2019`"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt. `token_ids` is what the engine gets; `text` the same without the tokenizer's frame.

    `dropped` names the input lines that were left out or shortened for the budget, by label.
    """

    token_ids: tuple[int, ...]
    text: str
    dropped: tuple[str, ...] = ()


@dataclass(slots=True)
class _Line:
    label: str
    text: str
    ids: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class UnifiedTask:
    """One recommendation task: its words in the prompt, and how its response reads.

    `instruction` has the slot {n}. `auxiliary` names the texts before the queries, in order. `single_choice`: a
    click on one query excludes the others (GQR eq. 4 instead of eq. 3).
    """

    name: str
    instruction: str
    default_n: int
    max_n: int
    needs_query: bool
    single_choice: bool
    auxiliary: tuple[str, ...] = ()

    def render(self, context: PromptContext, tokenizer: PromptTokenizer, *, budget: int) -> Prompt:
        """The prompt of `context` in at most `budget` tokens. It ends exactly on a token boundary.

        Each line is encoded by itself, in training and in serving, so the ids of a prompt never depend on what
        follows it. `budget` must leave room for the instructions; the query loses its end before they do.
        """
        head, head_ids, tail_ids = _frame_ids(self, context.n, tokenizer)
        lines = _input_lines(context)
        for line, ids in zip(
            lines, tokenizer.encode_lines([f"{line.label}: {line.text}\n" for line in lines]), strict=True
        ):
            line.ids = list(ids)
        dropped = _fit(lines, max(0, budget - len(head_ids) - len(tail_ids)), tokenizer)
        ids = head_ids + [i for line in lines for i in line.ids] + tail_ids
        text = head + "".join(f"{line.label}: {line.text}\n" for line in lines) + _TAIL
        return Prompt(tuple(ids), text, tuple(dropped))

    def response(self, queries: list[str], texts: dict[str, str], text_format: TextFormat) -> str:
        """The response a policy should write: auxiliary texts on their lines, then the queries (template 1)."""
        lines = [f"{name}: {one_line(texts.get(name, ''))}".rstrip() + "\n" for name in self.auxiliary]
        return "".join(lines) + text_format.separator.join(one_line(query) for query in queries)

    def parse(self, text: str, *, n: int, separator: str) -> ParsedList:
        """What `text` says: never raises, and never gives an empty list without a problem.

        Takes exactly our format, and what chat models make of it: numbered lines, bullets, quotes.
        """
        texts, start = self._read_auxiliary(text)
        pieces = _split(text, start, separator.strip())
        queries: dict[str, tuple[str, tuple[int, int]]] = {}
        for begin, end in pieces:
            query = one_line(_BULLET.sub("", text[begin:end])).strip(_QUOTES + " ")
            if query and len(query) <= MAX_QUERY_CHARS and any(c.isalnum() for c in query):
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
        probe = [_HEAD, self.instruction, *_format_note(self, text_format), *(x.label for x in _input_lines(_PROBE)), _TAIL]
        example = self.response(["a", "b"], {name: name for name in self.auxiliary}, text_format)
        return hashlib.sha256("\x1f".join([*probe, example]).encode()).hexdigest()[:16]

    def _read_auxiliary(self, text: str) -> tuple[dict[str, str], int]:
        texts: dict[str, str] = {}
        start = 0
        for name in self.auxiliary:
            found = re.compile(rf"\s*{name}:[ \t]*([^\n]*)(?:\n|$)", re.IGNORECASE).match(text, start)
            if found:
                texts[name] = one_line(found[1])[:MAX_QUERY_CHARS]
                start = found.end()
        return texts, start


def _split(text: str, start: int, separator: str) -> list[tuple[int, int]]:
    """Spans between separators, or lines when there is no separator."""
    mark = separator if separator in text[start:] else "\n"
    spans, begin = [], start
    while (end := text.find(mark, begin)) >= 0:
        spans.append((begin, end))
        begin = end + len(mark)
    return [*spans, (begin, len(text))]


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
    for line in lines:
        line.text = one_line(line.text)
    return [line for line in lines if line.text]


def _fit(lines: list[_Line], room: int, tokenizer: PromptTokenizer) -> list[str]:
    """Shorten or drop `lines` in place, in the documented order, until they have at most `room` tokens."""
    dropped: list[str] = []

    def excess() -> int:
        return sum(len(line.ids) for line in lines) - room

    def shorten(line: _Line, tokens: int) -> None:
        if len(line.ids) > tokens:
            _shorten(line, tokens, tokenizer)
            dropped.append(line.label)

    def drop(labels: set[str], *, oldest_first: bool) -> None:
        order = [line for line in lines if line.label in labels]
        for line in order if oldest_first else reversed(order):
            if excess() > 0:
                lines.remove(line)
                dropped.append(line.label)

    if excess() > 0:
        for line in lines:
            if line.label == "Document":
                shorten(line, _DOCUMENT_TOKENS)
    answer = [line for line in lines if line.label == "Answer"]
    drop({"Document"}, oldest_first=False)
    for line in answer:
        if excess() > 0:
            shorten(line, max(_ANSWER_FLOOR_TOKENS, len(line.ids) - excess()))
    drop(set(_LABELS.values()), oldest_first=True)
    drop({"Often next"}, oldest_first=False)
    drop({"Session"}, oldest_first=True)
    drop({"Answer"}, oldest_first=False)
    for line in lines:
        if excess() > 0:
            shorten(line, max(0, len(line.ids) - excess()))
    return dropped


def _shorten(line: _Line, tokens: int, tokenizer: PromptTokenizer) -> None:
    """Keep the beginning of `line` that has at most `tokens` tokens, whole words where there are any."""
    words = line.text.split(" ")
    low, high = 0, len(words)
    while low < high:  # encoding grows with the number of words
        middle = (low + high + 1) // 2
        if len(tokenizer.encode(f"{line.label}: {' '.join(words[:middle])}\n")) <= tokens:
            low = middle
        else:
            high = middle - 1
    line.text = " ".join(words[:low])
    line.ids = tokenizer.encode(f"{line.label}: {line.text}\n") if low else []
    if not low and tokens > 0:  # one endless word: cut characters
        head = tokenizer.encode(f"{line.label}: {words[0][: tokens * 2]}\n")
        line.text, line.ids = (words[0][: tokens * 2], head) if len(head) <= tokens else ("", [])


def _format_note(task: UnifiedTask, text_format: TextFormat) -> list[str]:
    """Sentences that tell a model which was not trained on the format how to write it."""
    if text_format.separator_is_token:
        return []
    notes = [f"Begin with one line for each of these, as name: text: {', '.join(task.auxiliary)}."] if task.auxiliary else []
    return [*notes, f"Write the queries on one line with {text_format.separator.strip()} between them, and nothing else."]


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


