"""Table 3, Figures 5 to 7 and appendix C of GQR: what each way to teach a policy is worth, and each part of Algorithm 1.

`python -m tests.bench.table3 --json` measures one task with one seed in short form, and ends within 20 minutes; the next call
measures what did not fit. `--full` measures three tasks with three seeds; its cells stay in `tests/bench/rows/table3`.
Every CTR is simulated. AEC is what the judge predictor expects.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean

from scipy.stats import spearmanr

from tests.bench import table3_explore, table3_week
from tests.bench.report import Bar, Cell, main
from tests.bench.table3_cell import ABLATIONS, CHAIN, OF, TWINS, Table, ablation_of, rows_of
from tests.bench.table3_explore import STRATEGIES, explore
from tests.bench.table3_week import ARMS, week
from trainer import comparators

TASKS, SEEDS = ("suggest", "snippets", "hint"), (0, 1, 2)
ABLATED = ("suggest", "snippets")
SHORT = Table(task="suggest", seed=0, prompts=300, tested=500, lists=300, max_rounds=2)
_ROWS = {
    "rows-clk": ("few_shot", "sft", "sft_clk", "kto_clk"),
    "rows-clk-pairs": ("simpo_clk", "dpo_clk"),
    "rows-iter": ("dpo_ctr", "iter_dpo_ctr"),
    "rows-ctr": ("sft_ctr", "kto_ctr", "simpo_ctr"),  # which learn from the pairs of the row before
}
"""Which rows a cell makes, so that each ends within twenty minutes."""

_JUDGED = ("sft_clk", "dpo_clk", "sft_ctr", "dpo_ctr", "iter_dpo_ctr")  # Figure 5, and DPO_ctr(-RF) among the ablations
_CTR_ROWS = tuple(name for name in comparators.names() if name.endswith("_ctr"))


def _full(task: str, seed: int) -> Table:
    """As the paper: ten thousand of each. A log that is long enough has 25,000 scenes in its last week."""
    return Table(task=task, seed=seed, prompts=10_000, tested=10_000, lists=10_000, max_rounds=3, window=300_000)


def _bars() -> list[Bar]:
    bars: list[Bar] = []
    for end in ("", *(f"_{task}" for task in TASKS)):
        task = end.removeprefix("_") or SHORT.task
        bars += [
            Bar(f"order{end}", "of 8 comparisons"),
            Bar(f"order_aec{end}", "of 8 comparisons"),
            Bar(f"iter_dpo_first{end}", "yes", ">=", 1),
            Bar(f"relatedness_net{end}", "points", ">" if task != "snippets" else "", 0),
            Bar(f"exclusivity_net{end}", "points", ">=", -5),
        ]
        for row in comparators.names():
            bars += [Bar(f"{row}_{figure}{end}", "simulated CTR") for figure in ("true", "true_low", "true_high")]
            bars += [Bar(f"{row}_aec{end}", "AEC")]
        for row in _JUDGED:
            for kind in ("relatedness", "exclusivity"):
                bars += [Bar(f"{row}_{kind}_net{part}{end}", "points") for part in ("", "_low", "_high")]
        if task in ABLATED:
            bars += _ablation_bars(end)
    bars += [Bar("ablation_bs_most_on_snippets", "yes", ">=", 1)]
    bars += [Bar("aec_true_rank_correlation", "rank correlation", ">=", 0.8)]
    bars += [Bar("aec_true_rank_correlation_full", "rank correlation", ">=", 0.8)]
    for strategy in STRATEGIES:
        for figure in ("true", "distinct_lists", "next_predictor"):
            bars += [Bar(f"{strategy}_{side}_{figure}", "") for side in ("off", "on")]
    bars += [Bar(f"week_{arm}_rate", "simulated CTR") for arm in ARMS]
    for arm in ARMS[1:]:
        bars += [Bar(f"week_{arm}_{figure}", "relative") for figure in ("lift", "lift_low", "lift_high", "aec_lift")]
    return bars


def _ablation_bars(end: str) -> list[Bar]:
    bars = [
        Bar(f"ablation_cor{end}", "true CTR falls", ">=", 1),
        Bar(f"ablation_bs{end}", "true CTR falls", ">=", 1),
        Bar(f"ablation_rf{end}", "AEC rises, exclusivity falls", ">=", 1),
        Bar(f"bs_tokens_ratio{end}", "ratio"),
    ]
    for part in ABLATIONS:
        figures = (
            "true",
            "aec",
            "over_whole",
            "over_whole_low",
            "over_whole_high",
            "exclusivity_net",
            "duplicate_share",
            "tokens",
        )
        bars += [Bar(f"without_{part}_{figure}{end}", "") for figure in figures]
    return bars


def _cells() -> list[Cell]:
    week_of, explore_of = (*OF, *table3_week.OF), (*OF, *table3_explore.OF)
    cells = [Cell(name, partial(rows_of, SHORT, rows), of=OF, about_s=900) for name, rows in _ROWS.items()]
    cells += [Cell(f"without-{part}", partial(ablation_of, SHORT, part), of=OF, about_s=600) for part in ABLATIONS]
    cells += [Cell("week", partial(week, SHORT), of=week_of, about_s=450)]
    cells += [Cell(each, partial(explore, SHORT, each), of=explore_of, about_s=600) for each in STRATEGIES]
    return [*cells, *_full_cells()]


def _full_cells() -> list[Cell]:
    """Cells of the full table; none is ever begun within 20 minutes, and each stays in the repository."""
    found = []
    for task in TASKS:
        for seed in SEEDS:
            table, endless = _full(task, seed), float("inf")
            kept = {"of": OF, "about_s": endless, "stored": True}
            for name, rows in _ROWS.items():
                measure = partial(_named, partial(rows_of, names=rows), table)
                found.append(Cell(f"full-{task}-{seed}-{name}", measure, **kept))
            for part in ABLATIONS if task in ABLATED else ():
                measure = partial(_named, partial(ablation_of, part=part), table)
                found.append(Cell(f"full-{task}-{seed}-without-{part}", measure, **kept))
    return found


def _named(measure: Callable[[Table], dict[str, float]], table: Table) -> dict[str, float]:
    """Figures of a full cell, whose names say which task and seed they are of."""
    return {f"{name}@{table.task}-{table.seed}": value for name, value in measure(table).items()}


def _summary(values: dict[str, float]) -> dict[str, float]:
    """What follows from the rows, of the short form and of the means over the seeds of the full one."""
    short = {name: value for name, value in values.items() if "@" not in name}
    found = _conclusions(short, SHORT.task)
    points, means = list[tuple[float, float]](), {}
    for task in TASKS:
        means[task] = _mean(values, task)
        concluded = _conclusions(means[task], task)
        found |= {f"{name}_{task}": value for name, value in (means[task] | concluded).items()}
        points += _points(means[task])
    if _points(short):
        found["aec_true_rank_correlation"] = _correlation(_points(short))
    if all(means.values()):
        found["aec_true_rank_correlation_full"] = _correlation(points)
    if all("without_bs_over_whole" in means[task] for task in ABLATED):
        falls = {task: means[task]["without_bs_over_whole"] / means[task]["dpo_ctr_true"] for task in ABLATED}
        found["ablation_bs_most_on_snippets"] = float(falls["snippets"] < falls["suggest"])
    return found


def _mean(values: Mapping[str, float], task: str) -> dict[str, float]:
    """Means over all seeds of a task, of what was measured with each."""
    ends = [f"@{task}-{seed}" for seed in SEEDS]
    names = {name.removesuffix(ends[0]) for name in values if name.endswith(ends[0])}
    return {
        name: fmean(values[name + end] for end in ends) for name in names if all(name + end in values for end in ends)
    }


def _conclusions(found: Mapping[str, float], task: str) -> dict[str, float]:
    """Which rows come first, and what the ablations show, as far as they were measured."""
    told: dict[str, float] = {}
    rows = [name for name in comparators.names() if f"{name}_true" in found]
    ahead = [*zip(CHAIN[1:], CHAIN[:-1], strict=True), *TWINS]
    if set(CHAIN) <= set(rows):
        told["order"] = float(sum(found[f"{b}_true"] > found.get(f"{w}_true", 1.0) for b, w in ahead))
        told["order_aec"] = float(sum(found[f"{b}_aec"] > found.get(f"{w}_aec", 1.0) for b, w in ahead))
        told["iter_dpo_first"] = float(max(rows, key=lambda name: found[f"{name}_true"]) == "iter_dpo_ctr")
        told["exclusivity_net"] = found["iter_dpo_ctr_exclusivity_net"]
        if task != "snippets":  # whose relatedness embeddings cannot tell
            told["relatedness_net"] = min(found[f"{name}_relatedness_net"] for name in _CTR_ROWS)
    for part in ("cor", "bs"):
        if f"without_{part}_over_whole" in found:
            told[f"ablation_{part}"] = float(found[f"without_{part}_over_whole"] < 0)
    if "without_rf_aec" in found and "dpo_ctr_aec" in found:
        rises = found["without_rf_aec"] > found["dpo_ctr_aec"]
        falls = found["without_rf_exclusivity_net"] < found["dpo_ctr_exclusivity_net"]
        told["ablation_rf"] = float(rises and falls)
    return told


def _points(found: Mapping[str, float]) -> list[tuple[float, float]]:
    """(AEC, true CTR) of every row."""
    rows = [name for name in comparators.names() if f"{name}_true" in found]
    return [(found[f"{name}_aec"], found[f"{name}_true"]) for name in rows]


def _correlation(points: Sequence[tuple[float, float]]) -> float:
    return float(spearmanr(*zip(*points, strict=True)).statistic)


if __name__ == "__main__":
    sys.exit(main("table3", _bars(), _cells(), within_s=1200, summary=_summary))
