"""Reads real follow-up queries whose licence lets trained weights ship: apache-2.0 and mit, nothing else.

It knows nothing about training. Absent by default; the rows are never copied anywhere.
"""

import json
import re
from pathlib import Path

from service.contract.errors import ConfigurationError
from service.contract.types import PromptContext
from trainer.catalogue.example import Example

LICENCES = frozenset({"apache-2.0", "mit"})
_LOOSE = re.compile(r"\b(it|its|this|that|these|those|they|them|you|your|he|she|thanks|wow|ok|yes|no)\b", re.IGNORECASE)


def read_real_examples(path: Path) -> list[Example]:
    """`suggest` examples with one query each, from JSON lines with `licence`, `query`, `answer` and `next_query`.

    Rows of another licence are left out, and targets that make no sense by themselves.

    Raises:
        ConfigurationError: The file is not there.
    """
    if not path.is_file():
        raise ConfigurationError(
            f"There is no file {path}. Give the path of a JSON-lines file, or leave --real-data out."
        )
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [_example(row) for row in rows if row["licence"] in LICENCES and stands_alone(row["next_query"])]


def stands_alone(text: str) -> bool:
    """Whether a text reads as a query without what was said before: short, one sentence, no loose pronoun."""
    return 3 <= len(text.split()) <= 12 and not re.search(r"[.!?].+", text) and not _LOOSE.search(text)


def _example(row: dict[str, str]) -> Example:
    answer = " ".join((row["answer"] or "").split()[:40]) or None
    return Example(
        task="suggest",
        context=PromptContext(n=1, query=row["query"].lower(), answer=answer.lower() if answer else None),
        queries=(row["next_query"].lower().rstrip("?. "),),
    )
