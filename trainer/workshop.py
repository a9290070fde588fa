"""What the rows of a comparison are made from, each part made once and kept: clicked lists, searched pairs, trained policies.

It knows no row by name, no judge of quality and no truth.

    WORK/clicked/lists.parquet, pairs.parquet    lists of the log
         rounds/                                 Algorithm 1, whose first round has the pairs of every `_ctr` row
         <row>/                                  checkpoints, metrics and plots of its training
    OUTPUT/<version>-<row>/                      the policies
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from ctr.predictor import Predictor
from service.contract.policy import Policy, load_policy
from service.contract.snapshot import Snapshot
from trainer.align import engines_of, rounds_of
from trainer.clicked import Feedback, Fill, feedback, write_click_pairs, write_single_lists
from trainer.methods import Outcome, align
from trainer.prompts import AlignmentPrompt
from trainer.rounds import Engines, Round, RoundsConfig, taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """What there is.

    Attributes:
        sft: the policy that every other one is trained from.
        few_shot: the model that is shown examples instead, on `few_shot_engine`.
        searching, judging: click predictors of other days and seeds.
        learnt: prompts that are searched for lists.
        click_days: of the log, whose lists the `_clk` rows learn from; `lists`: most of each kind (N_pos and N_neg).
        fill: what a policy reads besides the logged context.
        overlap: the judge of overlap, or None.
    """

    task: str
    snapshot: Snapshot
    sft: Policy
    few_shot: Policy
    searching: Predictor
    judging: Predictor
    learnt: Sequence[AlignmentPrompt]
    tested: Sequence[AlignmentPrompt]
    click_days: Sequence[date]
    lists: int
    work: Path
    output: Path
    version: str
    overlap: str | None = "embedding"
    few_shot_engine: str = "auto"
    engine: str = "auto"
    fill: Fill = lambda context: context
    rounds: RoundsConfig = field(default_factory=RoundsConfig)


class Workshop:
    """Makes what the rows need; a killed run goes on with what is missing. `engines`: one at a time, closed by `close`."""

    def __init__(
        self,
        materials: Materials,
        *,
        quiet: bool = False,
        engines_named: Callable[[str], Engines] = engines_of,
        train: Callable[..., Outcome] = align,
    ) -> None:
        """`train`: as `trainer.methods.align`."""
        self.materials = materials
        self.engines_named = engines_named
        self.engines = engines_named(materials.engine)
        self._quiet, self._train = quiet, train
        self._feedback: Feedback | None = None
        self._rounds: list[Round] | None = None

    async def clicked_lists(self) -> Path:
        """The file of clicked lists and of as many others.

        Raises:
            NotEnoughData: Too few were clicked.
        """
        path = self.materials.work / "clicked" / "lists.parquet"
        if not path.is_file():
            write_single_lists(self._of_the_log(), self.materials.sft.tokenizer.format, path)
        return path

    async def clicked_pairs(self) -> Path:
        """The file of clicked lists, each with one that SFT writes now without the clicked query.

        Raises:
            NotEnoughData: Too few are left.
        """
        path, sft = self.materials.work / "clicked" / "pairs.parquet", self.materials.sft
        if not path.is_file():
            found = self._of_the_log()
            await write_click_pairs(
                found, await self.engines.of(sft), sft, path, seed=self.materials.rounds.search.seed
            )
        return path

    async def searched_pairs(self) -> Path:
        """The file of pairs of Algorithm 1's first round."""
        await self.rounds()
        return self.materials.work / "rounds" / "round-1" / "pairs.parquet"

    async def rounds(self) -> list[Round]:
        """Every round of Algorithm 1, from SFT on."""
        if self._rounds is None:
            found = self.materials
            rounds = rounds_of(
                self.engines, found.searching, found.judging, found.rounds, overlap=found.overlap, quiet=self._quiet
            )
            self._rounds = await rounds.align(
                found.sft,
                found.sft,
                found.learnt,
                found.tested,
                version=f"{found.version}-iter-dpo",
                output=found.output,
                work=found.work / "rounds",
            )
        return self._rounds

    async def start(self) -> Policy:
        """SFT, as it is."""
        return self.materials.sft

    async def first_round(self) -> Policy:
        """The policy after one round, whether or not it was taken."""
        return load_policy((await self.rounds())[1].directory)

    async def last_round(self) -> Policy:
        """The policy of the last round that was taken."""
        return load_policy(taken(await self.rounds()).directory)

    async def trained(self, row: str, method: str, pairs: Path) -> Policy:
        """SFT trained by a method on a file of pairs, in the configuration of the rounds.

        Raises:
            ArtifactError: Training failed.
        """
        found, output = self.materials, self.materials.output / f"{self.materials.version}-{row.replace('_', '-')}"
        if not output.exists():
            await asyncio.to_thread(
                self._train,
                method,
                pairs,
                policy=found.sft,
                reference=found.sft,
                output=output,
                work=found.work / row,
                version=output.name,
                config=found.rounds.training,
                quiet=self._quiet,
            )
        return load_policy(output)

    async def close(self) -> None:
        """Stop the engine."""
        await self.engines.close()

    def _of_the_log(self) -> Feedback:
        found = self.materials
        self._feedback = self._feedback or feedback(
            found.snapshot,
            found.task,
            found.click_days,
            most=found.lists,
            seed=found.rounds.search.seed,
            fill=found.fill,
        )
        return self._feedback
