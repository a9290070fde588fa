"""Scenes of real conversations: what was asked and answered, and the one query that really came next.

It reads JSON lines with `query`, `answer`, `history` and `next_query`; whose rows they are, and what may be done with
them, is for the caller to know.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from service.contract.errors import ConfigurationError
from service.contract.query_text import one_line
from service.contract.tasks import get_task
from service.contract.types import PromptContext
from trainer.audience.scene import Need, Scene

_LONGEST = 160  # characters of a query; longer turns are speech


def real_scenes(path: Path) -> list[Scene]:
    """A `suggest` scene for each row whose query and next query are short; its one need is the true next query.

    Raises:
        ConfigurationError: The file cannot be read, or has no such row.
    """
    try:
        scenes = list(_scenes(path))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(f"{path} cannot be read as conversations: {error!r}. Give JSON lines.") from error
    if not scenes:
        raise ConfigurationError(f"{path} has no row with a short query and a short next query.")
    return scenes


def _scenes(path: Path) -> Iterator[Scene]:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        query, after = one_line(row["query"]), one_line(row["next_query"])
        if not (query and after and max(len(query), len(after)) <= _LONGEST):
            continue
        said = [one_line(turn["text"]) for turn in row.get("history") or [] if turn["role"] == "user"]
        yield Scene(
            task="suggest",
            context=PromptContext(
                n=get_task("suggest").default_n,
                query=query,
                session=tuple(text for text in said if text and len(text) <= _LONGEST),
                answer=one_line(row.get("answer") or "") or None,
            ),
            needs=(Need(about="", text=after),),
            chances=(1.0,),
        )
