"""Alignment: how much of what is possible Algorithm 1 reaches, for whom it holds, and what a night of it costs.

`python -m tests.bench.alignment --json` measures one cell of `suggest`, speed, a night and a swap within 20 minutes. `--full`
measures three tasks with three seeds and stores a row for each in `tests/bench/rows/alignment`; figures that need them are
read from there, and have no value where a row is missing or was measured with other code, data or seed. Every CTR is simulated.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from ctr.predictor import Predictor
from service.contract.policy import load_policy
from service.contract.settings import STARTER
from tests.bench import alignment_rows as rows
from tests.bench.alignment_cell import Wanted, cell, predictors
from tests.bench.alignment_night import nightly, swap
from tests.bench.alignment_speed import compare
from tests.bench.alignment_truth import draw_scenes, prompts_for
from tests.bench.ctr import TABLE
from tests.bench.report import Bar, Cell, main, measured
from tests.bench.simulated_logs import simulated_log
from trainer.align import engines_of
from trainer.audience.audience import Audience
from trainer.judges.embedding import installed_embedder
from trainer.rounds import RoundsConfig

TASKS = ("suggest", "snippets", "hint")
SHORT, SHORT_PROMPTS = "suggest", 300
_ROUNDS = RoundsConfig()
_SHORT_ROUNDS = RoundsConfig(max_rounds=2)  # a third would go past the 20 minutes
SEEDS, PROMPTS = (0, 1, 2), 2_000
_SPEED_PROMPTS = 66
OF = (
    "trainer/align.py",
    "trainer/rounds.py",
    "trainer/assess.py",
    "trainer/preferences.py",
    "trainer/prompts.py",
    "trainer/candidates",
    *(f"trainer/methods/{name}.py" for name in ("dpo", "fit", "models", "pairs", "publish", "run", "watch")),
    *(f"trainer/judges/{name}.py" for name in ("__init__", "embedding")),
    "trainer/audience",
    "trainer/catalogue",
    "ctr",
    "deploy/starter/sft",
    *(f"service/contract/tasks/{name}.py" for name in ("__init__", *TASKS)),
    "tests/bench/ctr.py",
    "tests/bench/simulated_logs.py",
    "tests/bench/alignment_cell.py",
    "tests/bench/alignment_truth.py",
    "tests/bench/alignment_cor.py",
)


# Of each task, under its name.
_EACH = [
    Bar("gap_closed", "share", ">=", 0.6),
    Bar("true_ctr_lift", "relative"),
    Bar("true_ctr_lift_second_worst", "relative", ">", 0),
    *(Bar(name, "simulated CTR") for name in ("sft", "iter_dpo", "oracle", "cor_only")),
    Bar("sft_over_cor", "simulated CTR", ">", 0),
]
# Of the task of the short form, without a name.
_ONCE = [
    Bar("realised_over_predicted_low_margin", "ratio", ">=", 0.8),
    Bar("realised_over_predicted", "ratio", "<=", 1.25),
    Bar("duplicate_share", "share", "<=", 0.01),
    Bar("length_ratio_low_margin", "ratio", ">=", 0.9),
    Bar("length_ratio", "ratio", "<=", 1.1),
    Bar("rounds", "rounds"),
]
_COSTS = [
    Bar("candidates_ratio", "ratio", ">=", 3),
    Bar("candidates_lists_per_s", "lists/s"),
    Bar("one_by_one_lists_per_s", "lists/s"),
    Bar("engine_busy_share", "share", ">=", 0.8),
    Bar("nightly_minutes", "min", "<=", 45),
    Bar("nightly_published", "models"),
    Bar("peak_rss_gb", "GiB", "<=", 8),
    Bar("swap_failed_requests", "requests", "<=", 0),
    Bar("swap_s", "s", "<=", 10),
]


def _bars() -> list[Bar]:
    full = [bar for task in TASKS for bar in _named(task, *_ends_of_full(task))]
    return [*_named(SHORT, f"_{SHORT}", ""), *_COSTS, *full]


def _named(task: str, each: str, once: str) -> list[Bar]:
    """The bars of one task with these ends. What people write, they do not search for, so there is no cor of snippets."""
    found = [replace(bar, name=bar.name + each) for bar in _EACH if task != "snippets" or "cor" not in bar.name]
    return found + [replace(bar, name=bar.name + once) for bar in _ONCE]


def _ends_of_full(task: str) -> tuple[str, str]:
    """How figures of the full table are called: of the task that the short form measures too, another way."""
    end = f"_{task}_full" if task == SHORT else f"_{task}"
    return end, end


def _figures(measured: Mapping[str, float], each: str, once: str) -> dict[str, float]:
    """What a cell measured, or the mean of several, and what follows from it, by the names of `_named`."""
    found = dict(measured)
    found["gap_closed"] = (found["iter_dpo"] - found["sft"]) / (found["oracle"] - found["sft"])
    found["realised_over_predicted"] = found["true_ctr_lift"] / found["judged_lift"] if found["judged_lift"] else 0.0
    for name in ("realised_over_predicted", "length_ratio"):
        found[f"{name}_low_margin"] = found[name]
    if "cor_only" in found:
        found["sft_over_cor"] = found["sft"] - found["cor_only"]
    return {
        bar.name + end: found[bar.name]
        for bars, end in ((_EACH, each), (_ONCE, once))
        for bar in bars
        if bar.name in found
    }


def short_work() -> Path:
    """Where the cell `quality` keeps its rounds, policies and pairs; it is measured where it was not yet."""
    measured("alignment", _QUALITY)
    return _wanted(SHORT, 0, SHORT_PROMPTS, _SHORT_ROUNDS).work


def short_figures() -> dict[str, float]:
    """What the cell `quality` measured, by the names of its bars; it is measured where it was not yet."""
    return measured("alignment", _QUALITY)


def _wanted(task: str, seed: int, prompts: int = PROMPTS, rounds: RoundsConfig = _ROUNDS) -> Wanted:
    """A cell of either form."""
    named = f"{_name(task, seed)}-{prompts}"
    work = rows.work_of(named, _facts(task, seed, prompts, rounds), OF)
    return Wanted(task=task, seed=seed, prompts=prompts, log=TABLE[task], work=work, rounds=rounds)


def _cells() -> list[Cell]:
    short = [
        _QUALITY,
        Cell("speed", _speed, of=(*OF, "tests/bench/alignment_speed.py"), about_s=200),
        Cell("swap", swap, about_s=60),
        Cell("nightly", nightly, about_s=400),
    ]
    full = [
        Cell(f"full-{_name(task, seed)}", partial(_full, task, seed), of=OF, about_s=float("inf"))
        for task in TASKS
        for seed in SEEDS
    ]
    return [*short, *full]


def _short() -> dict[str, float]:
    found = cell(_wanted(SHORT, 0, SHORT_PROMPTS, _SHORT_ROUNDS))
    return {**_figures(found, f"_{SHORT}", ""), "engine_busy_share": found["engine_busy_share"]}


_QUALITY = Cell("quality", _short, of=OF, about_s=600)


def _full(task: str, seed: int) -> dict[str, float]:
    """Stores the row; what follows from all rows is read from them. A run that was killed goes on."""
    rows.row(_name(task, seed), _facts(task, seed), OF, lambda: cell(_wanted(task, seed)))
    return {}


def _summary(values: dict[str, float]) -> dict[str, float]:
    """The figures of the full table: means over the seeds, and the worst of the second audiences."""
    found: dict[str, float] = {}
    for task in TASKS:
        stored = [rows.fresh(_name(task, seed), _facts(task, seed), OF) for seed in SEEDS]
        whole = [row for row in stored if row is not None]
        if len(whole) == len(SEEDS):
            found |= _figures(_mean(whole), *_ends_of_full(task))
    return found


def _mean(stored: Sequence[Mapping[str, float]]) -> dict[str, float]:
    mean = {key: fmean(row[key] for row in stored) for key in stored[0]}
    return mean | {key: min(row[key] for row in stored) for key in stored[0] if key.endswith("_worst")}


def _name(task: str, seed: int) -> str:
    return f"{task}-{seed}"


def _facts(task: str, seed: int, prompts: int = PROMPTS, rounds: RoundsConfig = _ROUNDS) -> dict[str, Any]:
    return {"task": task, "seed": seed, "prompts": prompts, "log": asdict(TABLE[task]), "rounds": asdict(rounds)}


def _speed() -> dict[str, float]:
    return asyncio.run(_compared())


async def _compared() -> dict[str, float]:
    wanted = _wanted(SHORT, 0, SHORT_PROMPTS, _SHORT_ROUNDS)
    log = simulated_log(SHORT, wanted.log.window, wanted.log.people_a_list)
    predictor: Predictor = predictors(log, wanted)[0]
    prompts = prompts_for(draw_scenes(Audience(), SHORT, _SPEED_PROMPTS, seed=0))
    policy, engines = load_policy(STARTER), engines_of("auto")
    try:
        return await compare(await engines.of(policy), policy, predictor, installed_embedder(), prompts)
    finally:
        await engines.close()


if __name__ == "__main__":
    sys.exit(main("alignment", _bars(), _cells(), within_s=1200, summary=_summary))
