"""One run of token-level PPO beside sentence-level PPO, by the commands that a user gives, and what a second judge makes of it.

It knows nothing about bars or stored rows. Both methods have the same labels, prompts, seeds and steps. People are simulated.
"""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from service.contract.engine import Adapter
from service.contract.policy import Policy, load_policy
from service.contract.settings import STARTER, Settings
from tests.bench.intervals import bootstrap
from trainer.align import engines_of
from trainer.candidates.query_sampler import seed_of
from trainer.jobs.process import Limits, run_command
from trainer.labels import asked_about, read_labels
from trainer.ppo.rollout import sample
from trainer.prompt_files import read_prompts
from trainer.relevance import divergence, failure_share
from trainer.token_reward.measure import scored
from trainer.token_reward.model import load_model
from trainer.token_reward.rows import apart, rows_of
from trainer.word_judges import get_word_judge

FIRST, SECOND = "intent", "embedding"
"""The judge that labels, and the one that measures: it shares nothing with the first, and nothing was ever trained on it."""

METHODS = {"tppo": "token_model", "ppo": "sentence_model"}
_BASE = STARTER.parent / "base"
_HELD_OUT = 0.15
_LEARNING_RATE = "4e-4"  # at 1e-3 sentence-level PPO strays to 8 nats and gains less than at 3e-4 with 1.4
_LONGEST_S = 4 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much: labels, steps of 64 responses, prompts to measure on, and the steps whose policies are measured."""

    labels: int
    steps: int
    prompts: int
    milestones: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """Of one policy on the prompts: its KL from SFT in nats, and whether the second judge finds each response relevant."""

    kl: float
    relevant: tuple[bool, ...]
    tokens: float
    failures: float

    @property
    def rate(self) -> float:
        """Share that is relevant."""
        return sum(self.relevant) / len(self.relevant)


class Work:
    """Commands in one folder; what is done already is not done again."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(parents=True, exist_ok=True)

    def command(self, name: str, *words: str) -> dict[str, Any]:
        """What `nextquery train WORDS` came to, with its `seconds` and the most memory of its processes, `peak_rss_mb`.

        Raises:
            RuntimeError: It failed.
        """
        file = self.place / f"{name}.json"
        if not file.is_file():
            print(f"  {name} ...", file=sys.stderr, flush=True)
            line = [sys.executable, "-m", "service.contract.command_line", "train", *words, "--json"]
            limits = Limits(timeout_s=_LONGEST_S, beat_every_s=1.0)
            done = asyncio.run(run_command(line, self.place / name, None, _quiet, limits))
            if done.exit_code or done.output is None:
                raise RuntimeError(f"{' '.join(words)} ended with {done.exit_code}: {done.said}")
            cost = {"seconds": done.seconds, "peak_rss_mb": done.peak_rss_mb}
            file.write_text(json.dumps({**done.output, **cost}))
        return dict(json.loads(file.read_text()))

    def at(self, name: str) -> str:
        """A path in the folder."""
        return str(self.place / name)


async def _quiet(_: Mapping[str, Any]) -> None:
    """Nobody looks."""


def prepared(work: Work, sizes: Sizes, seed: int) -> None:
    """Labels, and a reward model of each level."""
    work.command("label-prompts", *_simulated(work, "label", sizes.labels, 1_000 + seed))
    labels = ("--prompts", work.at("label.parquet"), "--output", work.at("labels"), "--judge", FIRST)
    work.command("label", "label", *labels, "--policy", str(STARTER), "--seed", str(seed))
    for level in ("token", "sentence"):
        reward_model(work, seed, level, "--level", level)


def reward_model(work: Work, seed: int, name: str, *options: str) -> dict[str, Any]:
    """A reward model called `name`, at token level where `options` do not say another."""
    return work.command(
        f"reward-{name}",
        *("reward", "--labels", work.at("labels"), "--policy", str(STARTER), "--version", f"reward-{name}"),
        *("--output", work.at(f"rewards/{name}"), "--work", work.at(f"reward-{name}-work")),
        *("--held-out", str(_HELD_OUT), "--seed", str(seed), *options),
    )


def trained(
    work: Work, sizes: Sizes, seed: int, method: str, name: str, *options: str, model: str | None = None
) -> dict[str, Any]:
    """A policy trained by one of the methods, called `name`; `model` is another reward model than the method's own."""
    count = sizes.steps * 64
    work.command("ppo-prompts", *_simulated(work, "ppo", count, 2_000 + seed))
    source = METHODS[method]
    rewards = work.at(model or f"rewards/{source.removesuffix('_model')}")
    milestones = [word for step in sizes.milestones for word in ("--milestone", str(step))]
    return work.command(
        name,
        *("ppo", "--prompts", work.at("ppo.parquet"), "--policy", str(STARTER), "--version", name),
        *("--output", work.at(f"policies/{name}"), "--work", work.at(f"{name}-work"), "--steps", str(sizes.steps)),
        *("--reward", source, f"--{source.replace('_', '-')}", rewards, "--engine", "vllm_local", "--watch", SECOND),
        *("--seed", str(seed), "--learning-rate", _LEARNING_RATE, *milestones, *options),
    )


def measured(work: Work, sizes: Sizes, seed: int, policies: Sequence[str]) -> dict[str, list[Verdicts]]:
    """What the second judge says of the base before SFT, of SFT, and of each policy at its milestones, the last one last."""
    work.command("test-prompts", *_simulated(work, "test", sizes.prompts, 3_000 + seed))
    return asyncio.run(_measured(work, sizes, seed, policies))


async def _measured(work: Work, sizes: Sizes, seed: int, policies: Sequence[str]) -> dict[str, list[Verdicts]]:
    starter, engines = load_policy(STARTER), engines_of("auto")
    try:
        found = {
            "base": [await _verdicts(work, engines, load_policy(_BASE), seed)],
            "sft": [await _verdicts(work, engines, starter, seed)],
        }
        for name in policies:
            found[name] = [
                await _verdicts(work, engines, _milestone(work, starter, name, step), seed) for step in sizes.milestones
            ]
    finally:
        await engines.close()
    return found


async def _verdicts(work: Work, engines: Any, policy: Policy, seed: int) -> Verdicts:
    file = work.place / f"verdicts-{policy.version}.json"
    if not file.is_file():
        rows, judge = read_prompts(work.place / "test.parquet"), get_word_judge(SECOND, Settings())
        engine = await engines.of(policy)
        prompts = [each.prompt for each in rows]
        written = await sample(engine, policy, prompts, seed=seed, max_tokens=64, adapter=policy.adapter)
        asked = [asked_about(each.prompt, each.response, row.scene) for each, row in zip(written, rows, strict=True)]
        told = {
            "kl": divergence(policy, written),
            "relevant": [bool(verdict) for verdict in judge.whole(asked)],
            "tokens": float(np.mean([len(each.response.ids) for each in written])),
            "failures": failure_share(written),
        }
        file.write_text(json.dumps(told))
    told = json.loads(file.read_text())
    return Verdicts(**{**told, "relevant": tuple(told["relevant"])})


def _milestone(work: Work, starter: Policy, name: str, step: int) -> Policy:
    """A policy as it was after a step; its adapter was never published."""
    place, version = work.place / f"{name}-work" / f"milestone-{step}", f"{name}-{step}"
    return replace(
        starter,
        version=version,
        adapter=Adapter(f"{work.place.name}-{version}", seed_of(work.place, version) or 1, str(place)),
        base_directory=starter.directory,
    )


def auc_gain(work: Work) -> tuple[float, float, float]:
    """AUC of the mean token score less that of the sentence model on the rows held out, and its 95 % interval by prompts."""
    policy = load_policy(STARTER)
    _, rows = apart(rows_of(read_labels(work.place / "labels"), policy), _HELD_OUT)
    token, sentence = (
        scored(load_model(Path(work.at(f"rewards/{level}")), policy), rows) for level in ("token", "sentence")
    )

    def gain(weights: Any) -> float:
        return _auc(token.of_rows, token.wholes, weights) - _auc(sentence.of_rows, sentence.wholes, weights)

    low, high = bootstrap(gain, len(rows))
    return gain(np.ones(len(rows))), low, high


def _auc(scores: Any, true: Any, weights: Any) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(true, scores, sample_weight=weights))


def _simulated(work: Work, name: str, count: int, seed: int) -> list[str]:
    options = ("--kind", "simulated", "--most", str(count), "--seed", str(seed))
    return ["prompts", *options, "--output", work.at(f"{name}.parquet")]


def steps_of(work: Work, name: str) -> list[dict[str, float]]:
    """The metrics of a run, step by step."""
    return [json.loads(line) for line in (work.place / f"{name}-work" / "metrics.jsonl").read_text().splitlines()]
