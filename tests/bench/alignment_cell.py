"""One cell of the alignment table: a log, two predictors, the rounds of Algorithm 1, and what people make of the lists.

`cell` is all there is to both forms of the benchmark. It knows nothing about bars or stored rows. The log is that of the SFT
policy, the same for every seed; the seed decides predictors, prompts, search, training, test scenes and people.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np

from ctr.build import BuildConfig, build
from ctr.dataset import DataConfig
from ctr.predictor import Predictor, open_predictor
from service.contract.engine import Engine
from service.contract.policy import Policy, load_policy
from service.contract.settings import STARTER
from service.contract.snapshot import Snapshot
from tests.bench.alignment_cor import cor_only_ctr
from tests.bench.alignment_truth import best_of_64, draw_scenes, prompts_for, true_ctr
from tests.bench.ctr import VARIANTS, Log
from tests.bench.simulated_logs import DAYS, TEST_DAYS, simulated_log
from trainer.align import engines_of, rounds_of
from trainer.assess import write
from trainer.audience.audience import Audience
from trainer.audience.constants import FIRST, drawn
from trainer.audience.scene import Scene
from trainer.prompts import without
from trainer.rounds import JUDGES, SEARCHES, Round, RoundsConfig, taken

SECONDS = range(1, 21)
"""The audiences drawn from the prior under which a lift must hold."""

_MEASURES = 2  # days after a predictor's own that its card measures on
_SCENES_OF_BEST, _SCENES_OF_SECOND = 100, 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a cell is of. `work`: keeps what a killed run found; `seed` decides all but the log, also in `rounds`."""

    task: str
    seed: int
    prompts: int
    log: Log
    work: Path
    rounds: RoundsConfig


def cell(wanted: Wanted) -> dict[str, float]:
    """The figures of one cell, by names without the task."""
    return asyncio.run(_Cell(wanted).run())


class _Cell:
    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._audience, self._policy = Audience(FIRST), load_policy(STARTER)
        log = wanted.log
        self._snapshot = simulated_log(wanted.task, log.window, log.people_a_list)
        self._scenes = draw_scenes(self._audience, wanted.task, wanted.prompts, wanted.seed)
        self._engines = engines_of("auto")

    async def run(self) -> dict[str, float]:
        searching, judging = predictors(self._snapshot, self._wanted)
        try:
            rounds = await self._rounds(searching, judging)
            engine = await self._engines.of(self._policy)
            return {
                **_of_rounds(rounds),
                **await self._truth(rounds),
                **await self._oracle(engine),
                **await self._under_others(rounds),
                **await cor_only_ctr(self._audience, self._scenes, self._snapshot, self._wanted.work / "cor"),
            }
        finally:
            await self._engines.close()

    async def _rounds(self, searching: Predictor, judging: Predictor) -> list[Round]:
        wanted, days = self._wanted, list(self._snapshot.files("impressions"))
        tested = prompts_for(self._scenes)
        learnt = without(tested, self._snapshot, wanted.task, days[-TEST_DAYS:], most=wanted.prompts, seed=wanted.seed)
        config = replace(
            wanted.rounds,
            search=replace(wanted.rounds.search, seed=wanted.seed),
            training=replace(wanted.rounds.training, seed=wanted.seed),
        )
        rounds = rounds_of(self._engines, searching, judging, config, overlap="embedding", quiet=True)
        place = wanted.work / "rounds"
        return await rounds.align(
            self._policy,
            self._policy,
            learnt,
            tested,
            version=f"aligned-{wanted.task}",
            output=place / "policies",
            work=place,
        )

    async def _truth(self, rounds: Sequence[Round]) -> dict[str, float]:
        """True CTR of SFT, of every round and of the policy that is taken, over the test scenes."""
        ctr = {each.number: await self._ctr(self._audience, self._scenes, _policy_of(each)) for each in rounds}
        sft, aligned = ctr[0], ctr[taken(rounds).number]
        expected = [each.assessment.aec[JUDGES] for each in (rounds[0], taken(rounds))]
        return {
            **{f"round_{number}": value for number, value in ctr.items() if number},
            "sft": sft,
            "iter_dpo": aligned,
            "true_ctr_lift": aligned / sft - 1.0,
            "judged_lift": expected[1] / expected[0] - 1.0,
        }

    async def _oracle(self, engine: Engine) -> dict[str, float]:
        scenes = self._scenes[:_SCENES_OF_BEST]
        best = await best_of_64(self._audience, scenes, engine, self._policy)
        return {"oracle": float(true_ctr(self._audience, scenes, best).mean())}

    async def _under_others(self, rounds: Sequence[Round]) -> dict[str, float]:
        """The smallest relative lift under the audiences of the prior, each with scenes of its own world."""
        lifts = []
        for number in SECONDS:
            audience = Audience(drawn(number))
            scenes = draw_scenes(audience, self._wanted.task, _SCENES_OF_SECOND, number)
            sft, aligned = [await self._ctr(audience, scenes, _policy_of(each)) for each in (rounds[0], taken(rounds))]
            lifts.append(aligned / sft - 1.0)
        return {"true_ctr_lift_second_worst": min(lifts), "true_ctr_lift_second_mean": float(np.mean(lifts))}

    async def _ctr(self, audience: Audience, scenes: Sequence[Scene], policy: Policy) -> float:
        written = await write(await self._engines.of(policy), policy, prompts_for(scenes), seed=1)
        return float(true_ctr(audience, scenes, written).mean())


def predictors(snapshot: Snapshot, wanted: Wanted) -> tuple[Predictor, Predictor]:
    """One that searches, of the even days of the first 14, and one that judges, of the odd ones, with another seed."""
    first = list(snapshot.files("impressions"))[: DAYS - TEST_DAYS]
    return (
        _predictor(snapshot, wanted, SEARCHES, first[0::2], seed=2 * wanted.seed + 1),
        _predictor(snapshot, wanted, JUDGES, first[1::2], seed=2 * wanted.seed + 2),
    )


def _predictor(snapshot: Snapshot, wanted: Wanted, name: str, days: Sequence[date], seed: int) -> Predictor:
    later = list(snapshot.files("impressions"))[DAYS - TEST_DAYS :][:_MEASURES]
    config = BuildConfig(
        work=wanted.work / f"{name}-work",
        data=DataConfig(task=wanted.task, days=len(days), test_days=_MEASURES),
        train=replace(wanted.log.training(VARIANTS[wanted.task][-1]), seed=seed),
    )
    made = build(of_days(snapshot, {*days, *later}), wanted.work / name, config, quiet=True)
    return open_predictor(made.directory)


def of_days(snapshot: Snapshot, days: set[date]) -> Snapshot:
    """The same log as if it had these days only."""

    def kept(day: str) -> bool:
        return date.fromisoformat(day) in days

    manifest = dict(snapshot.manifest)
    manifest["counts"] = _only(manifest["counts"], kept)
    manifest["files"] = {
        name: sha for name, sha in manifest["files"].items() if "/" not in name or kept(Path(name).stem)
    }
    return replace(snapshot, manifest=manifest)


def _only(counts: Mapping[str, Mapping[str, int]], kept: Callable[[str], bool]) -> dict[str, dict[str, int]]:
    return {table: {day: rows for day, rows in days.items() if kept(day)} for table, days in counts.items()}


def _policy_of(each: Round) -> Policy:
    return load_policy(each.directory)


def _of_rounds(rounds: Sequence[Round]) -> dict[str, float]:
    first, best = rounds[0].assessment, taken(rounds)
    searches = [each.search for each in rounds[1:]]  # of a run that was killed, what came after
    searched_s = sum(each["seconds"] for each in searches)
    busy_s = sum(each["seconds"] * each["engine_busy_share"] for each in searches)
    return {
        "rounds": float(best.number),
        "duplicate_share": best.assessment.duplicate_share,
        "length_ratio": best.assessment.mean_tokens / first.mean_tokens,
        "parse_failures": best.assessment.parse_failures,
        "engine_busy_share": busy_s / searched_s if searched_s else 0.0,
        **{f"aec_{name}_sft": value for name, value in first.aec.items()},
        **{f"aec_{name}_iter_dpo": value for name, value in best.assessment.aec.items()},
    }
