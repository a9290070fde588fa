"""Two policies to try against the starter: one round of Iter-DPO, and the same pairs learnt the wrong way round.

It knows nothing about experiments. What it makes is kept, and made again when the code that makes it changes.
"""

import asyncio
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from service.contract.policy import Policy, load_policy
from service.contract.settings import STARTER
from tests.bench import alignment_rows as rows
from tests.bench.alignment_cell import Wanted, predictors
from tests.bench.alignment_truth import draw_scenes, prompts_for
from tests.bench.ctr import TABLE
from tests.bench.simulated_logs import TEST_DAYS, simulated_log
from trainer.align import engines_of, rounds_of
from trainer.audience.audience import Audience
from trainer.methods import align
from trainer.prompts import prompts_of
from trainer.rounds import RoundsConfig

TASK = "suggest"
OF = (
    "trainer/align.py",
    "trainer/rounds.py",
    "trainer/candidates",
    "trainer/methods",
    "ctr",
    "deploy/starter/sft",
    "tests/bench/experiments_policies.py",
)
_PROMPTS, _TESTED = 100, 40


def make_policies() -> tuple[Path, Path]:
    """The directories of the winner and of the loser; a run that was killed goes on."""
    log = TABLE[TASK]
    work = rows.work_of("tried-policies", {"log": asdict(log), "prompts": _PROMPTS}, OF)
    snapshot = simulated_log(TASK, log.window, log.people_a_list)
    wanted = Wanted(task=TASK, seed=0, prompts=_PROMPTS, log=log, work=work)
    winner, loser, sft = work / "policies" / "iter-dpo-r1", work / "policies" / "wrong-way-round", load_policy(STARTER)
    if not winner.exists():
        learnt = prompts_of(snapshot, TASK, list(snapshot.files("impressions"))[-TEST_DAYS:], most=_PROMPTS, seed=0)
        tested = prompts_for(draw_scenes(Audience(), TASK, _TESTED, seed=0))
        engines = engines_of("auto")
        rounds = rounds_of(
            engines, *predictors(snapshot, wanted), RoundsConfig(max_rounds=1), overlap="embedding", quiet=True
        )

        async def run() -> None:
            try:
                await rounds.align(sft, sft, learnt, tested, version="iter-dpo", output=winner.parent, work=work)
            finally:
                await engines.close()

        asyncio.run(run())
    if not loser.exists():
        _learn_wrong_way_round(sft, work, loser)
    return winner, loser


def _learn_wrong_way_round(sft: Policy, work: Path, output: Path) -> None:
    """DPO on the pairs of the winner, the list that people click less chosen."""
    pairs = pq.read_table(work / "round-1" / "pairs.parquet")
    swapped = {"chosen": "rejected", "rejected": "chosen"}
    pq.write_table(
        pairs.rename_columns([swapped.get(name, name) for name in pairs.column_names]), work / "swapped.parquet"
    )
    align(
        "dpo",
        work / "swapped.parquet",
        policy=sft,
        reference=sft,
        output=output,
        work=work / "wrong-way-round",
        version=output.name,
        quiet=True,
    )
