"""Two policies to try against the starter: the one that Iter-DPO made, and one that learnt its pairs the wrong way round.

It knows nothing about experiments. The first is that of the alignment benchmark's cell `quality`, measured where it is not yet.
"""

import json
from pathlib import Path

import pyarrow.parquet as pq

from service.contract.policy import Policy, load_policy
from service.contract.settings import STARTER
from tests.bench.alignment import OF as _ALIGNMENT_OF
from tests.bench.alignment import SHORT as TASK
from tests.bench.alignment import short_work
from trainer.methods import MethodConfig, align

__all__ = ["OF", "TASK", "make_policies"]

OF = (*_ALIGNMENT_OF, "tests/bench/experiments_policies.py")


def make_policies() -> tuple[Path, Path]:
    """The directories of the winner and of the loser, kept where the alignment cell keeps its own."""
    work = short_work() / "rounds"
    rounds = [json.loads(file.read_text()) for file in sorted(work.glob("round-[1-9]/figures.json"))]
    winner = next(Path(each["directory"]) for each in reversed(rounds) if each["stopped"] is None)
    loser = work / "policies" / "wrong-way-round"
    if not loser.exists():
        _learn_wrong_way_round(load_policy(STARTER), work, loser)
    return winner, loser


def _learn_wrong_way_round(sft: Policy, work: Path, output: Path) -> None:
    """DPO as published, without what keeps chosen lists likely, on the pairs of the first round with their sides swapped."""
    pairs = pq.read_table(work / "round-1" / "pairs.parquet")
    swapped, file = {"chosen": "rejected", "rejected": "chosen"}, work / "wrong-way-round.parquet"
    pq.write_table(pairs.rename_columns([swapped.get(name, name) for name in pairs.column_names]), file)
    config = MethodConfig(chosen_weight=0.0)
    place = work / "wrong-way-round"
    align(
        "dpo",
        file,
        policy=sft,
        reference=sft,
        output=output,
        work=place,
        version=output.name,
        config=config,
        quiet=True,
    )
