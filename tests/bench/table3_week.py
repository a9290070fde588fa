"""One fixed week over HTTP: five policies as arms of one experiment, none retrained; true lift beside that of AEC (GQR 4.5).

It knows the service by its commands, its experiment file and its HTTP calls. The people are simulated.
"""

import asyncio
import json
import sqlite3
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctr.predictor import Predictor, list_reward
from retrieval.encoder import default_encoder
from service.contract.logged_context import from_log
from service.contract.policy import Policy
from service.contract.tasks import get_task
from service.contract.types import PromptContext
from tests.bench import servers
from tests.bench.command import nextquery
from tests.bench.experiments_service import register, wait_until_taken_up, write_experiments
from tests.bench.intervals import bootstrap
from tests.bench.report import ROOT
from tests.bench.table3_cell import Bench, Table, bench_of
from trainer.comparators import get_comparator
from trainer.workshop import Workshop

ARMS = ("sft", "sft_clk", "sft_ctr", "dpo_ctr", "iter_dpo_ctr")
OF = ("service/pipeline", "service/experiments", "service/engines", "tests/bench/table3_week.py")
PLOT = ROOT / ".bench" / "table3-week.png"
_PEOPLE, _DAYS, _DAY_S = 500, 7, 40
_SETTINGS = {"engine": "vllm_local", "policy": "champion", "timeouts__recommend_s": "10"}
_EXPERIMENT = "week"


@dataclass(frozen=True, slots=True)
class _List:
    """One list that somebody saw. `expected`: reward by the judge predictor."""

    arm: str
    person: str
    day: int
    clicked: bool
    expected: float


def week(table: Table) -> dict[str, float]:
    """Of each arm the click rate of its lists, its lift over SFT with people as units, and the lift of the judge's AEC."""
    bench = bench_of(table)
    with tempfile.TemporaryDirectory(prefix="nextquery-week-") as scratch:
        data = Path(scratch) / "data"
        _prepare(data, bench, table)
        with servers.nextquery(data, **_SETTINGS) as service:
            wait_until_taken_up(data, _EXPERIMENT)
            crowd = f"simulate --people {_PEOPLE} --days {_DAYS} --day-s {_DAY_S} --task {table.task} --seed 77 --json"
            told = json.loads(nextquery(data, *crowd.split(), "--url", f"http://127.0.0.1:{service.port}"))
        print(f"  {told}", file=sys.stderr, flush=True)
        seen = _seen(data / "nextquery.db", table.task, bench.judging)
    _plot(seen)
    return _figures(seen) | {"week_lists": float(len(seen)), "week_failures": float(told["failures"])}


def _prepare(data: Path, bench: Bench, table: Table) -> None:
    """Policies, an experiment with an arm for each, and the same co-occurrence queries as in the table."""
    policies = _policies(bench)
    for arm, policy in policies.items():
        if arm != ARMS[0]:
            register(data, policy.directory)
    words = "retrieval build --json --encoder".split()
    nextquery(data, *words, default_encoder(), "--snapshot", str(bench.snapshot.directory))
    arms = [
        {"name": arm.replace("_", "-"), "weight": 1 / len(ARMS)}
        | ({"policy": policy.version} if arm != ARMS[0] else {})
        for arm, policy in policies.items()
    ]
    write_experiments(data, [{"id": _EXPERIMENT, "tasks": [table.task], "arms": arms}])


def _policies(bench: Bench) -> dict[str, Policy]:
    async def made() -> dict[str, Policy]:
        workshop = Workshop(bench.materials(), quiet=True)
        try:
            return {arm: (await get_comparator(arm).contestant(workshop)).policy for arm in ARMS}
        finally:
            await workshop.close()

    return asyncio.run(made())


def _seen(database: Path, task: str, judge: Predictor) -> list[_List]:
    """Every list that a model wrote, with what became of it."""
    with sqlite3.connect(database) as log:
        clicked = {name for (name,) in log.execute("SELECT impression_id FROM clicks WHERE kind = 'click'")}
        rows = log.execute(
            "SELECT impression_id, arm, user_id, session_id, query, context, candidates FROM impressions "
            "WHERE n_shown > 0 AND served_by = 'model'"
        ).fetchall()
    lists: list[tuple[PromptContext, list[str]]] = []
    for _, _, _, _, query, context, candidates in rows:
        queries = [each["text"] for each in json.loads(candidates)]
        lists.append((from_log(json.loads(context), query=query, n=len(queries)), queries))
    expected = judge.p_click_lists(lists)
    single = get_task(task).single_choice
    return [
        _List(
            arm=arm.partition("=")[2].replace("-", "_"),
            person=person,
            day=int(session.split("-")[1]),
            clicked=name in clicked,
            expected=list_reward(p, single),
        )
        for (name, arm, person, session, *_), p in zip(rows, expected, strict=True)
        if "=" in arm
    ]


def _figures(seen: Sequence[_List]) -> dict[str, float]:
    by_arm: Mapping[str, list[_List]] = {arm: [each for each in seen if each.arm == arm] for arm in ARMS}
    rates = {arm: _was_clicked(lists) for arm, lists in by_arm.items()}
    expected = {arm: _expected(lists) for arm, lists in by_arm.items()}
    found = {f"week_{arm}_rate": rate for arm, rate in rates.items()}
    for arm in ARMS[1:]:
        low, high = _interval(by_arm[arm], by_arm[ARMS[0]])
        found |= {
            f"week_{arm}_lift": rates[arm] / rates[ARMS[0]] - 1.0,
            f"week_{arm}_lift_low": low,
            f"week_{arm}_lift_high": high,
            f"week_{arm}_aec_lift": expected[arm] / expected[ARMS[0]] - 1.0,
        }
    return found


def _interval(mine: Sequence[_List], control: Sequence[_List]) -> tuple[float, float]:
    """95 % interval of the relative lift; people are drawn, with all their lists."""
    people = sorted({each.person for each in (*mine, *control)})
    number = {person: k for k, person in enumerate(people)}
    sums = np.zeros((4, len(people)))
    for row, lists in ((0, mine), (2, control)):
        for each in lists:
            sums[row, number[each.person]] += each.clicked
            sums[row + 1, number[each.person]] += 1

    def lift(weights: NDArray[np.float64]) -> float:
        clicks, lists, others, of_others = sums @ weights
        return float((clicks / lists) / (others / of_others) - 1.0)

    return bootstrap(lift, len(people))


def _plot(seen: Sequence[_List]) -> None:
    """Relative lift over SFT day by day, an arm a colour: of clicks (solid), and of what the judge expects (dashed)."""
    from matplotlib.figure import Figure

    days: dict[str, dict[int, list[_List]]] = {arm: defaultdict(list) for arm in ARMS}
    for each in seen:
        days[each.arm][each.day].append(each)
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for number, arm in enumerate(ARMS[1:]):
        for name, style, of in (("clicks", "-", _was_clicked), ("AEC", "--", _expected)):
            points = [
                (day + 1, 100 * (of(lists) / of(days[ARMS[0]][day]) - 1)) for day, lists in sorted(days[arm].items())
            ]
            axes.plot(*zip(*points, strict=True), style, color=f"C{number}", marker="o", label=f"{arm}, {name}")
    axes.axhline(0, color="#888888", linewidth=1)
    axes.set(xlabel="day", ylabel="simulated lift over SFT (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, dpi=120)


def _was_clicked(lists: Sequence[_List]) -> float:
    return float(np.mean([each.clicked for each in lists]))


def _expected(lists: Sequence[_List]) -> float:
    return float(np.mean([each.expected for each in lists]))
