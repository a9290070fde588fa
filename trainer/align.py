"""Aligns the policy of one task from files to files: a snapshot and two predictors in, published rounds and figures out.

It knows no database; who publishes registers what came out.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctr.predictor import Predictor
from service.contract.policy import load_policy
from service.contract.progress import reporter
from service.contract.settings import Settings
from service.contract.snapshot import open_snapshot
from service.engines import create_engine
from trainer.judges import get_judge
from trainer.judges.embedding import installed_embedder
from trainer.prompts import learnt_and_tested
from trainer.rounds import JUDGES, Engines, Round, Rounds, RoundsConfig, taken
from trainer.two_predictors import open_two

_CONTEXT_TOKENS = 1024  # the longest prompt, and the longest list after it


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """What to align. `prompts` of the `prompt_days` before the last day of the snapshot; `test_prompts` of the last day."""

    task: str
    snapshot: Path
    search_predictor: Path
    judge_predictor: Path
    policy: Path
    output: Path
    work: Path
    version: str
    prompts: int
    test_prompts: int
    prompt_days: int
    overlap: str | None
    engine: str
    seed: int
    rounds: RoundsConfig


def run_alignment(wanted: Alignment, *, quiet: bool = False) -> dict[str, Any]:
    """Align, or go on with what a killed run left. Returns the version to take, and every round's figures.

    The version is that of the policy itself where no round was a gain.

    Raises:
        ConfigurationError: The snapshot has too few days, no pair survives, or the predictors are one and the same.
        ArtifactError: A predictor or policy cannot be trusted, or training failed.
    """
    policy = load_policy(wanted.policy)
    sft = policy if policy.adapter is None else load_policy(policy.model_directory)
    searching, judging = open_two(wanted.search_predictor, wanted.judge_predictor)
    learnt, tested = learnt_and_tested(
        open_snapshot(wanted.snapshot),
        wanted.task,
        learnt=wanted.prompts,
        tested=wanted.test_prompts,
        learnt_days=wanted.prompt_days,
        seed=wanted.seed,
    )
    engines = engines_of(wanted.engine)
    rounds = rounds_of(engines, searching, judging, wanted.rounds, overlap=wanted.overlap, quiet=quiet)

    async def run() -> list[Round]:
        try:
            wanted.work.mkdir(parents=True, exist_ok=True)
            report = reporter(wanted.work / "progress.jsonl", quiet=quiet)
            return await rounds.align(
                policy,
                sft,
                learnt,
                tested,
                version=wanted.version,
                output=wanted.output.parent,
                work=wanted.work,
                report=report,
            )
        finally:
            await engines.close()

    return _told(asyncio.run(run()))


def engines_of(name: str) -> Engines:
    """Engines of the kind `name` (auto, vllm_local or transformers_local) for whole prompts and lists."""
    return Engines(lambda directory: create_engine(name, directory, _settings()))


def rounds_of(
    engines: Engines,
    searching: Predictor,
    judging: Predictor,
    config: RoundsConfig,
    *,
    overlap: str | None,
    quiet: bool = False,
) -> Rounds:
    """Rounds with what is installed: the embedder for near-duplicates, and the judge of overlap named `overlap`."""
    return Rounds(
        engines,
        searching,
        judging,
        similar=installed_embedder() if config.search.near_duplicate is not None else None,
        overlap=get_judge(overlap, _settings()) if overlap else None,
        config=config,
        quiet=quiet,
    )


def _settings() -> Settings:
    return Settings(engine_context_tokens=_CONTEXT_TOKENS)


def _told(rounds: Sequence[Round]) -> dict[str, Any]:
    first, best = rounds[0].assessment, taken(rounds)
    now = best.assessment
    return {
        "version": best.version,
        "directory": best.directory,
        "rounds": [asdict(each) for each in rounds],
        "metrics": {
            **{f"aec_{name}": value for name, value in now.aec.items()},
            "aec_judge_before": first.aec[JUDGES],
            "parse_failures": now.parse_failures,
            "duplicate_share": now.duplicate_share,
            "length_ratio": now.mean_tokens / first.mean_tokens,
            "rounds": best.number,
        },
    }
