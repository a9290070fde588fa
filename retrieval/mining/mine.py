"""Mining of co-occurrence: a snapshot of the log becomes triples (q, q_next, c). GQR section 3.3, step 1.

It knows nothing about engines, embeddings or serving.

    <output>/
      manifest.json     rules, counts, SHA-256 of the files
      triples.parquet   query_id, next_id, count, people, last_day, total, popularity; sorted by the two ids
      queries.parquet   query_id, text, people, count, last_day, shareable; sorted by query_id; all ids of the triples
"""

import shutil
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from retrieval.mining.cache import DayCache
from retrieval.mining.day import DAY_COUNTS, Day, MinedDay, SearchLog, days_of, mine_day
from retrieval.mining.engine import Engine
from retrieval.mining.report import MiningReport
from retrieval.mining.rules import MiningRules
from retrieval.mining.statements import COLUMNS, statement
from service.contract.artifact import publish, seal, verify
from service.contract.errors import ArtifactError, ConfigurationError

KIND = "triples"
_SORTED_BY = {"triples": ("query_id", "next_id"), "queries": ("query_id",)}


def mine(
    snapshot: SearchLog, output: Path, rules: MiningRules, *, engine: Engine, cache: Path | None = None
) -> MiningReport:
    """Mine `snapshot` into the directory `output`, in the place of an earlier result there.

    Columns of the triples: `count` is c, each person up to the cap; `people`, how many known people did it; `last_day`,
    the last day it was done; `total`, the sum of `count` over everything that follows `query_id`; `popularity`, the
    sum of `count` over everything that `next_id` follows; both sums include what fewer than k people typed.

    Raises:
        ArtifactError: A file of the log cannot be read.
        ConfigurationError: `output` holds something else, or the machine is too small.
    """
    started = time.monotonic()
    _check_place(output)
    try:
        days, counts = _mine(snapshot, output, rules, engine, cache)
    except OSError as error:
        raise ConfigurationError(
            f"The triples cannot be written to {output}: {error}. Make room, or name another place with --output."
        ) from error
    from_cache = sum(day.is_from_cache for day in days)
    return MiningReport(rules=rules, days_from_cache=from_cache, seconds=time.monotonic() - started, **counts)


def _mine(
    snapshot: SearchLog, output: Path, rules: MiningRules, engine: Engine, cache: Path | None
) -> tuple[list[MinedDay], dict[str, int]]:
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".mining-") as name:
        scratch, draft = Path(name), Path(name) / "draft"
        draft.mkdir()
        days = _mine_days(days_of(snapshot, rules, engine), rules, engine, cache, scratch)
        counts = _sum_up(days) | _mine_window([day.directory for day in days], rules, engine, scratch, draft)
        seal(draft, {"kind": KIND, "rules": asdict(rules), "counts": counts})
        _put(draft, output)
    return days, counts


def _mine_days(
    days: Sequence[Day], rules: MiningRules, engine: Engine, cache: Path | None, scratch: Path
) -> list[MinedDay]:
    if cache is None:
        return [mine_day(day, rules, engine, scratch / day.key) for day in days]
    kept = DayCache(cache)
    mined = [kept.get(day.key) or kept.put(day.key, mine_day(day, rules, engine, scratch / day.key)) for day in days]
    kept.forget_all_but(day.key for day in days)
    return mined


def _mine_window(
    days: Sequence[Path], rules: MiningRules, engine: Engine, scratch: Path, draft: Path
) -> dict[str, int]:
    for table in COLUMNS:
        engine.read(table, [day / f"{table}.parquet" for day in days])
    places = {"pairs": scratch, "typed": scratch, "triples": draft, "queries": draft}
    for table, directory in places.items():
        path = directory / f"{table}.parquet"
        engine.write(statement(table, **asdict(rules)), path, _SORTED_BY.get(table, ()))
        engine.read(table, [path])
    return dict(engine.row(statement("window_counts")))


def _sum_up(days: Sequence[MinedDay]) -> dict[str, int]:
    counts = dict.fromkeys(DAY_COUNTS, 0)
    for day in days:
        counts = {name: counts[name] + day.counts[name] for name in counts}
    return {"days": len(days), **counts}


def _check_place(output: Path) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    try:
        kind = verify(output).get("kind")
    except ArtifactError:
        kind = None
    if kind != KIND:
        raise ConfigurationError(
            f"{output} is there already and holds no triples, so they will not be put in its place. Name another "
            "directory with --output, or delete this one."
        )


def _put(draft: Path, output: Path) -> None:
    if output.exists():
        old = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
        output.rename(old)
        publish(draft, output)
        shutil.rmtree(old)
    else:
        publish(draft, output)
