"""Iterative alignment to a click predictor: GQR Algorithm 1's loop. Search, pairs, training, judgement, round after round.

It knows no method, no HTTP and no job. Each round is a directory of its own; a killed run goes on with what is missing:

    round-1/candidates/      what the search found, by shard
            pairs.parquet    what is trained on
            training/        checkpoints, metrics, plots
            figures.json     written last: what the round measured; the round is done
    <version>-r1/            the policy, published
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ctr.predictor import Predictor
from service.contract.artifact import verify
from service.contract.engine import Engine
from service.contract.policy import Policy, load_policy
from service.contract.progress import Report
from trainer.assess import Assessment, assess, write
from trainer.candidates import CandidateSearch, SearchConfig, read_candidates
from trainer.judges import OverlapJudge, Similar
from trainer.methods import MethodConfig, Outcome, align
from trainer.preferences import make_pairs, write_pairs
from trainer.prompts import AlignmentPrompt

SEARCHES, JUDGES = "search", "judge"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsConfig:
    """How policies are aligned.

    Attributes:
        reference: `previous` or `sft`, the DPO reference of a round (the paper says both).
        delta: rounds end when the judge's AEC grows by less than this share (the paper's loop condition is a typo).
        most_duplicates: a round whose policy repeats more of its queries, and more than SFT, is dropped and ends the loop.
        most_length, least_length: so is one whose responses are longer or shorter than SFT's by these factors.
        most_kl: so is one that is further from SFT, in nats a token.
    """

    method: str = "dpo"
    reference: str = "previous"
    delta: float = 0.01
    max_rounds: int = 3
    match_length: bool = True
    most_duplicates: float = 0.02
    most_length: float = 1.25
    least_length: float = 0.75
    most_kl: float = 1.0
    search: SearchConfig = field(default_factory=SearchConfig)
    training: MethodConfig = field(default_factory=MethodConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a round gave. `number` 0 is the policy before any. `stopped`: why its policy is not taken, or None."""

    number: int
    version: str
    directory: str
    parent: str | None
    assessment: Assessment
    pairs: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    stopped: str | None = None


class Rounds:
    """Aligns one policy for one task.

    `engines` gives a started engine for the model directory of a policy. `search_predictor` steers the beam search;
    `judge_predictor`, of other days and another seed, says whether a round was a gain: what a search exploits of
    the former does not count.
    """

    def __init__(
        self,
        engines: "Engines",
        search_predictor: Predictor,
        judge_predictor: Predictor,
        *,
        similar: Similar | None,
        overlap: OverlapJudge | None,
        config: RoundsConfig,
        train: Callable[..., Outcome] = align,
        quiet: bool = False,
    ) -> None:
        """`train`: as `trainer.methods.align`."""
        self._align = train
        self._quiet = quiet
        self._engines = engines
        self._search_predictor = search_predictor
        self._predictors = {SEARCHES: search_predictor, JUDGES: judge_predictor}
        self._similar, self._overlap, self._config = similar, overlap, config

    async def align(
        self,
        policy: Policy,
        sft: Policy,
        prompts: Sequence[AlignmentPrompt],
        test_prompts: Sequence[AlignmentPrompt],
        *,
        version: str,
        output: Path,
        work: Path,
        report: Report | None = None,
    ) -> list[Round]:
        """Every round from 0 on, which is `policy` as it is; `sft` is the base that adapters stand on.

        The policy to take is the last whose `stopped` is None. Policies are published as `output/<version>-r<number>`.

        Raises:
            ConfigurationError: No pair survives, or the predictor scores all alike.
            ArtifactError: Training failed.
        """
        found = [await self._start(policy, test_prompts, work)]
        for number in range(1, self._config.max_rounds + 1):
            tell = _part_of(report, number - 1, self._config.max_rounds)
            directory = output / f"{version}-r{number}"
            each = await self._round(
                number, policy, sft, prompts, test_prompts, directory, work, first=found[0], report=tell
            )
            found.append(each)
            if each.stopped or _gain(found[-2], each) < self._config.delta:
                break
            policy = load_policy(directory)
        return found

    async def _start(self, policy: Policy, test_prompts: Sequence[AlignmentPrompt], work: Path) -> Round:
        done = work / "round-0" / "figures.json"
        if not done.is_file():
            _note(
                done,
                Round(
                    number=0,
                    version=policy.version,
                    directory=str(policy.directory),
                    parent=policy.lineage,
                    assessment=await self._assess(policy, test_prompts),
                ),
            )
        return _noted(done)

    async def _round(
        self,
        number: int,
        policy: Policy,
        sft: Policy,
        prompts: Sequence[AlignmentPrompt],
        test_prompts: Sequence[AlignmentPrompt],
        directory: Path,
        work: Path,
        *,
        first: Round,
        report: Report | None,
    ) -> Round:
        """Lines 2 to 32 of Algorithm 1, once."""
        place = work / f"round-{number}"
        done = place / "figures.json"
        if done.is_file():
            return _noted(done)
        search = await self._search(number, policy, prompts, place / "candidates", report)
        pairs, kept = make_pairs(
            read_candidates(place / "candidates"), self._overlap, match_length=self._config.match_length
        )
        write_pairs(pairs, place / "pairs.parquet")
        training = await asyncio.to_thread(self._train, policy, sft, place, directory)
        assessment = await self._assess(load_policy(directory), test_prompts)
        found = Round(
            number=number,
            version=directory.name,
            directory=str(directory),
            parent=policy.version,
            assessment=assessment,
            pairs=asdict(kept),
            search=search,
            training=training,
            stopped=self._reason_to_stop(assessment, first.assessment, training),
        )
        _note(done, found)
        return found

    async def _search(
        self,
        number: int,
        policy: Policy,
        prompts: Sequence[AlignmentPrompt],
        place: Path,
        report: Report | None,
    ) -> dict[str, Any]:
        engine = await self._engines.of(policy)
        config = replace(self._config.search, seed=self._config.search.seed + number)
        search = CandidateSearch(policy, engine, self._search_predictor, config, similar=self._similar)
        return asdict(await search.search_to(place, prompts, report=report))

    def _train(self, policy: Policy, sft: Policy, place: Path, directory: Path) -> dict[str, Any]:
        if directory.exists():  # published before the run was killed
            return dict(verify(directory)["training"]["figures"])
        outcome = self._align(
            self._config.method,
            place / "pairs.parquet",
            policy=policy,
            reference=policy if self._config.reference == "previous" else sft,
            output=directory,
            work=place / "training",
            version=directory.name,
            config=self._config.training,
            quiet=self._quiet,
        )
        return dict(outcome.metrics)

    async def _assess(self, policy: Policy, prompts: Sequence[AlignmentPrompt]) -> Assessment:
        written = await write(await self._engines.of(policy), policy, prompts)
        return assess(written, self._predictors)

    def _reason_to_stop(self, now: Assessment, first: Assessment, training: Mapping[str, Any]) -> str | None:
        config, length = self._config, now.mean_tokens / first.mean_tokens
        may = max(config.most_duplicates, first.duplicate_share)
        if now.duplicate_share > may:
            return f"{now.duplicate_share:.1%} of the queries repeat another, and {may:.1%} may"
        if not config.least_length <= length <= config.most_length:
            return f"responses are {length:.2f} times as long as those of SFT"
        if training.get("kl", 0.0) > config.most_kl:
            return f"it is {training['kl']:.2f} nats a token from SFT, and {config.most_kl:.2f} are allowed"
        if now.aec[JUDGES] < first.aec[JUDGES]:
            return "the judge expects fewer clicks than of SFT"
        return None


class Engines:
    """One engine at a time: that of the model directory asked for last. `create` makes one that is not started."""

    def __init__(self, create: Callable[[Path], Engine]) -> None:
        self._create = create
        self._directory: Path | None = None
        self._engine: Engine | None = None

    async def of(self, policy: Policy) -> Engine:
        """A started engine for the model of `policy`."""
        if self._engine is None or self._directory != policy.model_directory:
            await self.close()
            self._engine, self._directory = self._create(policy.model_directory), policy.model_directory
            await self._engine.start()
        return self._engine

    async def close(self) -> None:
        """Stop the engine."""
        if self._engine is not None:
            await self._engine.close()
        self._engine = None


def taken(rounds: Sequence[Round]) -> Round:
    """The round whose policy to take: the last that was not stopped."""
    return next(each for each in reversed(rounds) if each.stopped is None)


def _gain(before: Round, after: Round) -> float:
    """Relative growth of the judge's AEC."""
    return after.assessment.aec[JUDGES] / before.assessment.aec[JUDGES] - 1.0


def _part_of(report: Report | None, number: int, parts: int) -> Report | None:
    if report is None:
        return None
    return lambda done, figures: report((number + done) / parts, figures)


def _note(path: Path, found: Round) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(found), indent=2, default=str))
    draft.replace(path)


def _noted(path: Path) -> Round:
    values = json.loads(path.read_text())
    return Round(**values | {"assessment": Assessment(**values["assessment"])})
