"""One task and seed of the table: every row, what simulated people make of its lists, and Algorithm 1 without one of its parts.

It knows nothing about bars. The log is that of the SFT policy; predictors are those of the alignment benchmark. True CTR is the
true probability of a click, over scenes of people whom no log has.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.contract.policy import Policy, load_policy
from service.contract.settings import STARTER, Settings
from service.contract.types import PromptContext
from tests.bench.alignment import OF as OF_ALIGNMENT
from tests.bench.alignment_cell import Wanted, predictors
from tests.bench.alignment_truth import draw_scenes, true_ctr
from tests.bench.ctr import _OF as OF_PREDICTORS  # its file is hashed by rows that hours went into
from tests.bench.ctr import TABLE
from tests.bench.report import ROOT, version_of
from tests.bench.simulated_logs import TEST_DAYS, simulated_log
from tests.bench.table3_cor import WithCor, without_cor
from trainer.audience.audience import Audience
from trainer.audience.scene import Scene
from trainer.candidates import SearchConfig
from trainer.compare import Row, compare, written_for
from trainer.list_judges import get_list_judge
from trainer.methods import MethodConfig
from trainer.prompts import prompt_of, without
from trainer.rounds import JUDGES, RoundsConfig
from trainer.sft import SftConfig, annotated_lists, sft
from trainer.workshop import Materials, Workshop

BASE = STARTER.parent / "base"
ABLATIONS = ("cor", "bs", "rf", "lm", "sj")
CHAIN = ("sft_ctr", "kto_ctr", "simpo_ctr", "dpo_ctr", "iter_dpo_ctr")
TWINS = tuple((f"{method}_ctr", f"{method}_clk") for method in ("sft", "kto", "simpo", "dpo"))
"""Which rows are worse than the next, and which worse than their twin, in the paper."""

_MAIN = "dpo_ctr"
_Z = 1.96
_STARTER_SFT = SftConfig(learning_rate=1e-5)  # as the starter policy was made (trainer/starter.py)

OF = (
    *OF_ALIGNMENT,
    "trainer/methods",
    "trainer/comparators",
    "trainer/workshop.py",
    "trainer/compare.py",
    "trainer/clicked.py",
    "trainer/quality.py",
    "trainer/list_judges",
    "trainer/sft.py",
    "retrieval",
    "deploy/starter",
    "tests/bench/table3_cell.py",
    "tests/bench/table3_cor.py",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A task and seed. `prompts` are searched, `lists` of each kind come from the log, `tested` prompts are written for.

    `window`: impressions in 14 days of the log that prompts and clicked lists come from, where that of the predictors is
    too short for so many.
    """

    task: str
    seed: int
    prompts: int
    tested: int
    lists: int
    max_rounds: int
    window: int | None = None

    @property
    def work(self) -> Path:
        """Where it keeps what a killed run found."""
        return ROOT / ".bench" / "table3-work" / f"{self.task}-{self.seed}-{self.prompts}-{version_of(OF)}"

    @property
    def predictors(self) -> Path:
        """Where its click predictors are, which tables of other sizes and code share."""
        return ROOT / ".bench" / "click-predictors" / f"{self.task}-{self.seed}-{version_of(OF_PREDICTORS)}"

    @property
    def rounds(self) -> RoundsConfig:
        """Algorithm 1 as it is."""
        search, training = SearchConfig(seed=self.seed), MethodConfig(seed=self.seed)
        return RoundsConfig(max_rounds=self.max_rounds, search=search, training=training)


def rows_of(table: Table, names: Sequence[str]) -> dict[str, float]:
    """Of every row named that could be made: true CTR with its interval, AEC, how lists are made, and quality.

    Differences between neighbours of the paper's order are told as soon as both rows are there.
    """
    bench = bench_of(table)
    materials = bench.materials()
    rows = bench.compared(materials, names)
    truth = {row.name: bench.truth(materials, row.name) for row in rows if row.assessment}
    found: dict[str, float] = {}
    for row in rows:
        if row.assessment:
            found |= _figures(row, truth[row.name], truth["sft"])
    made = materials.work / "rows"
    for pair in (*pairwise(reversed(CHAIN)), *TWINS):
        if set(pair) & set(truth) and all((made / f"{name}.lists.json").is_file() for name in pair):
            better, worse = (bench.truth(materials, name) for name in pair)
            found |= _difference("_over_".join(pair), better, worse)
    return found


def ablation_of(table: Table, part: str) -> dict[str, float]:
    """One round of Algorithm 1 without a part of it, beside the whole (`dpo_ctr`): both measured on the same prompts."""
    bench = bench_of(table)
    whole = bench.materials()
    bench.compared(whole, [_MAIN])
    lacking = bench.materials(part)
    _, row = bench.compared(lacking, [_MAIN])
    truth, of_sft = bench.truth(lacking, _MAIN), bench.truth(lacking, "sft")
    found = _figures(replace(row, name=f"without_{part}"), truth, of_sft)
    found |= _difference(f"without_{part}_over_whole", truth, bench.truth(whole, _MAIN))
    found[f"without_{part}_sft_true"] = float(of_sft.mean())
    if part == "bs":
        found["bs_tokens_ratio"] = _generated(lacking) / _generated(whole)
    return found


@cache
def bench_of(table: Table) -> "Bench":
    """The bench of a table, whose log and predictors are loaded once."""
    return Bench(table)


class Bench:
    """The materials of one table."""

    def __init__(self, table: Table) -> None:
        self._table, self.audience = table, Audience()
        log = TABLE[table.task]
        self.snapshot = simulated_log(table.task, log.window, log.people_a_list)
        self.later = simulated_log(table.task, table.window or log.window, log.people_a_list)
        self.scenes: list[Scene] = draw_scenes(self.audience, table.task, table.tested, table.seed)
        wanted = Wanted(
            task=table.task,
            seed=table.seed,
            prompts=table.prompts,
            log=log,
            work=table.predictors,
            rounds=table.rounds,
        )
        self.searching, self.judging = predictors(self.snapshot, wanted)
        (table.work / "cor").mkdir(parents=True, exist_ok=True)
        self.with_cor = WithCor(self.snapshot, table.work / "cor")

    def materials(self, without_part: str | None = None) -> Materials:
        """What the rows are made from; `without_part`: of an ablation, whose policies take one round."""
        table, place = self._table, self._table.work / (f"without-{without_part}" if without_part else "whole")
        fill: Callable[[PromptContext], PromptContext] = without_cor if without_part == "cor" else self.with_cor
        days = list(self.later.files("impressions"))[-TEST_DAYS:]
        bare = [prompt_of(scene.task, scene.context) for scene in self.scenes]
        learnt = without(bare, self.later, table.task, days, most=table.prompts, seed=table.seed)
        return Materials(
            task=table.task,
            snapshot=self.later,
            sft=self._sft_without_cor(place) if without_part == "cor" else load_policy(STARTER),
            few_shot=load_policy(BASE),
            searching=self.judging if without_part == "sj" else self.searching,
            judging=self.judging,
            learnt=[prompt_of(each.task, fill(each.context)) for each in learnt],
            tested=[prompt_of(each.task, fill(each.context)) for each in bare],
            click_days=days,
            lists=table.lists,
            work=place,
            output=place / "policies",
            version=f"{table.task}-{table.seed}",
            overlap=None if without_part == "rf" else "embedding",
            fill=fill,
            rounds=_without(table.rounds, without_part),
        )

    def compared(self, materials: Materials, names: Sequence[str]) -> list[Row]:
        """The rows, judged by embeddings."""
        workshop = Workshop(materials, quiet=True)

        async def run() -> list[Row]:
            try:
                return await compare(workshop, names, [get_list_judge("embedding", Settings())])
            finally:
                await workshop.close()

        return asyncio.run(run())

    def truth(self, materials: Materials, row: str) -> NDArray[np.float64]:
        """The true probability of a click in the list of a row, by scene, (S,)."""
        return true_ctr(self.audience, self.scenes, written_for(materials, row))

    def _sft_without_cor(self, place: Path) -> Policy:
        """SFT as the starter's was made, on the same annotated lists without their co-occurrence queries."""
        output = place / "policies" / "sft-without-cor"
        if not output.exists():
            lists = [replace(each, context=without_cor(each.context)) for each in annotated_lists(_STARTER_SFT)]
            version, starter = output.name, load_policy(STARTER)
            sft(
                str(BASE),
                output,
                place / "sft",
                _STARTER_SFT,
                version=version,
                examples=lists,
                decoding=starter.decoding,
                quiet=True,
            )
        return load_policy(output)


def _without(rounds: RoundsConfig, part: str | None) -> RoundsConfig:
    if part is None:
        return rounds
    one: dict[str, Any] = {"max_rounds": 1}
    if part == "bs":
        one["search"] = replace(rounds.search, beam_search=False)
    if part == "rf":
        one["search"] = replace(rounds.search, near_duplicate=None)
    if part == "lm":
        one["match_length"] = False
    return replace(rounds, **one)


def _generated(materials: Materials) -> float:
    """Tokens that the first search generated."""
    figures = json.loads((materials.work / "rounds" / "round-1" / "figures.json").read_text())
    return float(figures["search"]["generated_tokens"])


def _figures(row: Row, truth: NDArray[np.float64], sft: NDArray[np.float64]) -> dict[str, float]:
    assert row.assessment is not None
    found = {
        **_mean(f"{row.name}_true", truth),
        f"{row.name}_aec": row.assessment.aec[JUDGES],
        f"{row.name}_parse_failures": row.assessment.parse_failures,
        f"{row.name}_duplicate_share": row.assessment.duplicate_share,
        f"{row.name}_tokens": row.assessment.mean_tokens,
    }
    if row.name != "sft":
        found |= _difference(f"{row.name}_over_sft", truth, sft)
    for name, value in row.quality.get("embedding", {}).items():
        found[f"{row.name}_{name}"] = value
    return found


def _difference(name: str, one: NDArray[np.float64], other: NDArray[np.float64]) -> dict[str, float]:
    """Mean difference of the true CTR of two rows over the same scenes, with its 95 % interval."""
    return _mean(name, one - other)


def _mean(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    """The mean over the scenes, with its 95 % interval."""
    mean, half = float(values.mean()), _Z * float(values.std(ddof=1)) / len(values) ** 0.5
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
