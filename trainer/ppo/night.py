"""Token-level PPO for one task of a log: prompts of a snapshot, and what click predictors expect before and after.

It knows nothing about labels. Figures have the names that alignment by rounds gives them, so that one gate reads both.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ctr.predictor import Predictor
from service.contract.errors import ConfigurationError
from service.contract.policy import Policy, load_policy
from service.contract.snapshot import open_snapshot
from trainer.align import engines_of
from trainer.assess import Assessment, assess, write
from trainer.ppo.run import PpoRun, not_exceeded, run_ppo
from trainer.prompt_files import KnownPrompt
from trainer.prompts import AlignmentPrompt, learnt_and_tested
from trainer.rounds import JUDGES, SEARCHES
from trainer.two_predictors import open_two

_NOTE = "before.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPpo:
    """Which prompts. `prompts` of the `prompt_days` before the last day of the snapshot; `test_prompts` of the last day.

    `engine`: what writes the responses that are measured, such as auto.
    """

    task: str
    snapshot: Path
    judge_predictor: Path | None
    prompts: int = 300
    test_prompts: int = 300
    prompt_days: int = 7
    engine: str = "auto"
    seed: int = 0


def run_for_task(run: PpoRun, wanted: TaskPpo, *, quiet: bool = False) -> dict[str, Any]:
    """Train as `run` says on prompts of a log, or go on with it. Returns the version to take and its figures.

    The version is that of the policy itself where the judge expects no more clicks than before.

    Raises:
        ConfigurationError: The snapshot has too few days, or the predictors are missing or one and the same.
        ArtifactError: A predictor or policy cannot be trusted, or training failed.
    """
    predictors = _predictors(run.predictor, wanted.judge_predictor)
    learnt, tested = learnt_and_tested(
        open_snapshot(wanted.snapshot),
        wanted.task,
        learnt=wanted.prompts,
        tested=wanted.test_prompts,
        learnt_days=wanted.prompt_days,
        seed=wanted.seed,
    )
    run.work.mkdir(parents=True, exist_ok=True)
    note = run.work / _NOTE
    if not note.is_file():
        note.write_text(json.dumps(_measured(run.policy, tested, predictors, wanted.engine)))
    before = json.loads(note.read_text())
    told = {}
    if not run.output.exists():  # else a killed run published already
        length = run.suggested_length or before["long_tokens"]
        rows = [KnownPrompt(prompt=prompt) for prompt in learnt]
        told = run_ppo(replace(run, prompts=rows, suggested_length=length), quiet=quiet)
        if not told:
            return {}  # another process measures
    after = _measured(load_policy(run.output), tested, predictors, wanted.engine)
    gained = after["aec"][JUDGES] > before["aec"][JUDGES]
    metrics = {
        **{f"aec_{name}": value for name, value in after["aec"].items()},
        "aec_judge_before": before["aec"][JUDGES],
        "parse_failures": after["parse_failures"],
        "duplicate_share": after["duplicate_share"],
        "length_ratio": after["mean_tokens"] / before["mean_tokens"],
    }
    taken = (run.version, run.output) if gained else (run.policy.version, run.policy.directory)
    return {"version": taken[0], "directory": str(taken[1]), "training": told.get("figures", {}), "metrics": metrics}


def _predictors(searching: Path | None, judging: Path | None) -> dict[str, Predictor]:
    if searching is None or judging is None:
        raise ConfigurationError(
            "PPO on a log needs two click predictors: --predictor rewards, and --judge-predictor, of other days and another "
            "seed, says what was gained."
        )
    return dict(zip((SEARCHES, JUDGES), open_two(searching, judging), strict=True))


def _measured(
    policy: Policy, tested: list[AlignmentPrompt], predictors: Mapping[str, Predictor], engine: str
) -> dict[str, Any]:
    """What predictors expect of a policy's lists, and how long nine in ten of its responses are at most."""

    async def run() -> tuple[Assessment, list[int]]:
        engines = engines_of(engine)
        try:
            written = await write(await engines.of(policy), policy, tested)
        finally:
            await engines.close()
        return assess(written, predictors), [each.tokens for each in written]

    found, lengths = asyncio.run(run())
    return {**asdict(found), "long_tokens": not_exceeded(lengths)}
