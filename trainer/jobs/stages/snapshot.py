"""Stage `snapshot`: freezes the window of the log.

It knows nothing about what is learnt from it. A day without lists stops the run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from service.contract.errors import JobError
from trainer.jobs.stage import Judgement, Part, RunSoFar, Stage


def _parts(run: RunSoFar) -> Sequence[Part]:
    since, until = str(run.window.since), str(run.window.until)
    place = run.settings.data_dir / "snapshots" / run.window.name
    # Nothing stands on one that was frozen before the run was killed: rows may have come or gone since.
    words = ("snapshot", "--from", since, "--to", until, "--output", str(place), "--replace", "--json")
    return [Part(name="log", words=(*words, *run.more_words("snapshot")))]


def _judge(run: RunSoFar, outputs: Mapping[str, Mapping[str, Any]]) -> Judgement:
    counts = outputs["log"]["counts"]
    empty = [str(day) for day in run.window.days if not counts["impressions"].get(str(day))]
    if empty:
        raise JobError(
            f"No list was shown on {len(empty)} of {len(run.window.days)} days ({', '.join(empty[:5])}"
            f"{', ...' if len(empty) > 5 else ''}), so nothing is learnt. Look whether the service ran on those days; "
            "for a younger log set NEXTQUERY_JOBS__DAYS and NEXTQUERY_JOBS__LATER_DAYS."
        )
    return Judgement(figures={table: sum(days.values()) for table, days in counts.items()})


STAGE = Stage("snapshot", _parts, _judge)
