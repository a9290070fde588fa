"""Co-occurrence queries for prompts of a simulated log, as the service would put them there.

It knows nothing about policies.
"""

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path

from retrieval.encoder import default_encoder
from retrieval.searcher import SearchRule, open_searcher
from service.contract.query_text import one_line
from service.contract.settings import Settings
from service.contract.snapshot import Snapshot
from service.contract.types import PromptContext
from tests.bench.command import nextquery

_SEARCH_S = 30.0


class WithCor:
    """Puts into a context what people typed after its last query, as many as a prompt of the service shows."""

    def __init__(self, snapshot: Snapshot, data_dir: Path) -> None:
        """Build retrieval from the log, where it is not there yet."""
        note = data_dir / "cor.json"
        if not note.is_file():
            words = "retrieval build --no-promote --json --encoder".split()
            made = nextquery(data_dir, *words, default_encoder(), "--snapshot", str(snapshot.directory))
            note.write_text(made)
        self._most = Settings().cor_in_prompt
        self._known: dict[str, tuple[str, ...]] = {}
        self._loop = asyncio.new_event_loop()  # its own, so that it can be asked from inside of another
        threading.Thread(target=self._loop.run_forever, name="cor", daemon=True).start()
        directory = Path(json.loads(note.read_text())["directory"])
        self._searcher = asyncio.run_coroutine_threadsafe(open_searcher(directory, SearchRule()), self._loop).result()

    def __call__(self, context: PromptContext) -> PromptContext:
        """The same context with co-occurrence queries."""
        typed = next((text for text in (context.query, *context.session[::-1]) if text), None)
        return replace(context, co_queries=self._of(typed) if typed else ())

    def _of(self, typed: str) -> tuple[str, ...]:
        if typed not in self._known:
            search = self._searcher.search(typed, timeout_s=_SEARCH_S)
            found = asyncio.run_coroutine_threadsafe(search, self._loop).result()
            self._known[typed] = tuple(one_line(each.text) for each in found.queries[: self._most])
        return self._known[typed]


def without_cor(context: PromptContext) -> PromptContext:
    """The same context as if retrieval did not exist."""
    return replace(context, co_queries=())
