"""Exploration (GQR appendix C): each strategy off and on, and what it is worth for the lists and for the next predictor.

It knows nothing about the rows of the table. Everything about people is simulated.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import numpy as np
from scipy.stats import spearmanr

from ctr.build import BuildConfig, build
from ctr.dataset import DataConfig
from ctr.predictor import Predictor, open_predictor
from service.contract.policy import Decoding, Policy, load_policy
from service.contract.settings import STARTER
from service.contract.snapshot import open_snapshot
from tests.bench.alignment_truth import prompts_for, true_ctr
from tests.bench.ctr import TABLE, VARIANTS
from tests.bench.table3_cell import BASE, Bench, Table, bench_of
from trainer.align import engines_of
from trainer.assess import write
from trainer.audience.audience import Audience
from trainer.audience.in_process import LogConfig, simulate_log
from trainer.audience.listers import random_list, written_by
from trainer.audience.scene import Scene
from trainer.sft import SftConfig, annotated_lists, sft
from trainer.workshop import Workshop

STRATEGIES = ("rewrites", "diverse_beams", "randomness")
_DRAWS, _DRAWN_SCENES = 16, 100
_LISTS, _PEOPLE_A_LIST, _DAYS = 9_000, 3, 6
_SINCE = datetime(2026, 10, 22, tzinfo=UTC)
_JUDGED_LISTS, _PEOPLE = 600, 50
_DIVERSITY = 0.05  # in units of the reward, which is .2 to .6
_COLD = 0.1  # a temperature at which a policy all but always writes its likeliest list

OF = ("tests/bench/table3_explore.py",)


@dataclass(frozen=True, slots=True)
class _Side:
    """A strategy off or on: the policy that people meet."""

    name: str
    policy: Policy


def explore(table: Table, strategy: str) -> dict[str, float]:
    """True CTR, distinct lists a prompt, and how well a predictor learnt from the night orders random lists; off and on."""
    bench = bench_of(table)
    place = table.work / "explore"
    found: dict[str, float] = {}
    for side in _sides(bench, table, strategy, place):
        figures = asyncio.run(_measured(bench, table, side, place))
        found |= {f"{strategy}_{side.name}_{key}": value for key, value in figures.items()}
    for key in ("true", "distinct_lists", "next_predictor"):
        found[f"{strategy}_{key}_gain"] = found[f"{strategy}_on_{key}"] - found[f"{strategy}_off_{key}"]
    return found


def _sides(bench: Bench, table: Table, strategy: str, place: Path) -> list[_Side]:
    if strategy == "rewrites":
        return [_Side("off", _fine_tuned(place, rewrites=0)), _Side("on", _fine_tuned(place, rewrites=1))]
    if strategy == "diverse_beams":
        return [
            _Side("off", _one_round(bench, table, place, groups=1)),
            _Side("on", _one_round(bench, table, place, groups=2)),
        ]
    starter = load_policy(STARTER)
    cold = replace(starter, decoding=Decoding(temperature=_COLD, top_p=1.0))
    return [_Side("off", cold), _Side("on", starter)]


def _fine_tuned(place: Path, *, rewrites: int) -> Policy:
    """SFT on annotated lists with or without their rewrites by the project's own paraphraser, for as many steps."""
    output = place / f"rewrites-{rewrites}"
    if not output.exists():
        config = SftConfig(learning_rate=1e-5, rewrites=rewrites, epochs=2.0 / (1 + rewrites))
        decoding = load_policy(STARTER).decoding
        lists = annotated_lists(config)
        work = place / f"{output.name}-work"
        sft(str(BASE), output, work, config, version=output.name, examples=lists, decoding=decoding, quiet=True)
    return load_policy(output)


def _one_round(bench: Bench, table: Table, place: Path, *, groups: int) -> Policy:
    """SFT after one round of Algorithm 1, whose beams search in so many groups."""
    materials = bench.materials()
    if groups > 1:
        search = replace(table.rounds.search, groups=groups, diversity=_DIVERSITY)
        rounds = replace(table.rounds, search=search, max_rounds=1)
        own = place / f"groups-{groups}"
        materials = replace(materials, rounds=rounds, work=own, output=own / "policies")

    async def run() -> Policy:
        workshop = Workshop(materials, quiet=True)
        try:
            return await workshop.first_round()
        finally:
            await workshop.close()

    return asyncio.run(run())


async def _measured(bench: Bench, table: Table, side: _Side, place: Path) -> dict[str, float]:
    engines = engines_of("auto")
    try:
        engine = await engines.of(side.policy)
        written = await write(engine, side.policy, prompts_for(bench.scenes))
        few = prompts_for(bench.scenes[:_DRAWN_SCENES])
        draws = await asyncio.gather(*(write(engine, side.policy, few, seed=seed) for seed in range(_DRAWS)))
        log = place / f"night-{side.policy.version}-{side.policy.decoding.temperature}"
        if not log.exists():
            config = LogConfig(
                task=table.task,
                impressions=_LISTS,
                since=_SINCE,
                days=_DAYS,
                seed=table.seed,
                people_a_list=_PEOPLE_A_LIST,
            )
            await simulate_log(written_by(engine, side.policy), bench.audience, config, log)
    finally:
        await engines.close()
    lists_a_prompt = [len({draw[number].queries for draw in draws}) for number in range(len(few))]
    return {
        "true": float(true_ctr(bench.audience, bench.scenes, written).mean()),
        "distinct_lists": float(np.mean(lists_a_prompt)),
        "next_predictor": _order(_predictor(table, log), bench.audience, bench.scenes),
    }


def _predictor(table: Table, log: Path) -> Predictor:
    """What is learnt from the new lists alone; the last days are to stop in time, for calibration and for the card."""
    train = replace(TABLE[table.task].training(VARIANTS[table.task][-1]), seed=table.seed)
    data = DataConfig(task=table.task, days=_DAYS - 1, test_days=1)
    config = BuildConfig(work=log.with_name(f"{log.name}-work"), data=data, train=train)
    made = build(open_snapshot(log), log.with_name(f"{log.name}-predictor"), config, quiet=True)
    return open_predictor(made.directory)


def _order(predictor: Predictor, audience: Audience, scenes: Sequence[Scene]) -> float:
    """Rank correlation of predicted and true click probability over queries of random lists, which no policy wrote."""
    rng = Random("random lists")
    chosen = [scenes[number % len(scenes)] for number in range(_JUDGED_LISTS)]
    lists = [random_list(audience, scene, scene.context.n, rng) for scene in chosen]
    predicted = predictor.p_click_lists(
        [(scene.context, each.queries) for scene, each in zip(chosen, lists, strict=True)]
    )
    true = [
        audience.p_click(scene, each.queries, audience.people(scene, rng, _PEOPLE), around=("", "")).mean(0)
        for scene, each in zip(chosen, lists, strict=True)
    ]
    return float(spearmanr(np.concatenate(predicted), np.concatenate(true)).statistic)
