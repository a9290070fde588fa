"""Token-level PPO from files to files: a policy, prompts and rewards in; a published policy, metrics and curves out.

It knows no reward source by name and no job.
"""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model

from service.contract.artifact import MANIFEST, manifest_sha256
from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.policy import Policy
from service.contract.progress import Report, forget_after, reporter
from service.contract.settings import Settings
from service.contract.tasks import get_task
from trainer.align import engines_of
from trainer.labels import asked_about
from trainer.methods.models import adapter_config, fresh, set_start, to_train
from trainer.methods.plots import Plots, plot
from trainer.methods.run import MethodConfig, Run
from trainer.ppo.actor_critic import ActorCritic
from trainer.ppo.config import PpoConfig
from trainer.ppo.loop import Watch, train
from trainer.ppo.maths import CLASS_VALUES
from trainer.ppo.publish import publish
from trainer.ppo.rollout import EngineRollouts, ModelRollouts, Rollout, Rollouts
from trainer.prompt_files import KnownPrompt
from trainer.rewards import AtTheEnd, Given, LessMissing, RewardSource, get_source
from trainer.word_judges import get_word_judge

METRICS = "metrics.jsonl"
CURVES: Plots = {  # TPPO, Figures 5, 9 and 12
    "reward": ("reward of a response", ("reward",)),
    "relevance": ("share of relevant responses", ("relevance",)),
    "kl": ("KL to the reference (nats a response)", ("kl",)),
    "length": ("tokens of a response", ("length",)),
    "entropy": ("entropy (nats a token)", ("entropy",)),
    "losses": ("loss of a token", ("policy_loss", "value_loss")),
    "explained": ("share of the variance of returns that values explain", ("explained",)),
}
_LENGTH_SHARE = 0.9  # of the targets that are no longer than the suggested length


@dataclass(frozen=True, slots=True, kw_only=True)
class PpoRun:
    """What to train.

    Attributes:
        policy: the one to go on from; the divergence is from its base.
        rewards: weight of each source, by the file in `trainer/rewards`.
        at_the_end: pay the sum at the last token: sentence-level PPO under any source.
        models, predictor, judge, values, alpha: what the sources are made from; see `Given`.
        suggested_length: None takes the 90th percentile of the targets of the prompts.
        missing_cost: what a list without any of the queries asked for is fined, and one without some of them its share.
        watch: a judge in `trainer/word_judges` that tells how many responses of each step are relevant, and rewards nothing.
        milestones: steps whose adapter is kept in the folder `milestone-N` of `work`.
        engine: who writes: model (transformers, the model that is trained), vllm_local, or auto: the latter where it is
            installed, one process trains, and it trains an adapter.
    """

    policy: Policy
    prompts: Sequence[KnownPrompt]
    output: Path
    work: Path
    version: str
    rewards: Mapping[str, float]
    at_the_end: bool = False
    models: Mapping[str, Path] = field(default_factory=dict)
    predictor: Path | None = None
    judge: str = "embedding"
    values: str = "centred"
    alpha: float | None = 1.0
    suggested_length: float | None = None
    missing_cost: float = 1.0
    watch: str | None = None
    milestones: tuple[int, ...] = ()
    engine: str = "auto"
    config: PpoConfig = field(default_factory=PpoConfig)


def run_ppo(wanted: PpoRun, *, quiet: bool = False) -> dict[str, Any]:
    """Train, or go on with what a killed run left, and publish. Returns the last figures; on other processes nothing.

    Raises:
        ConfigurationError: A source lacks what it needs, or `work` belongs to another run.
        ArtifactError: Something is at the output already, a model cannot be trusted, or a loss is no number.
    """
    _refuse(wanted)
    length = wanted.suggested_length or suggested_length(wanted.prompts, wanted.policy)
    source, run = _source(wanted, length), _as_run(wanted)
    run.claim(_identity(wanted, length))
    torch.manual_seed(wanted.config.seed)
    actor = ActorCritic(_policy_model(run))
    if int(os.environ.get("RANK", "0")) == 0:
        forget_after(wanted.work / METRICS, _last_step(wanted.work))
    asyncio.run(_train(wanted, actor, source, _reports(wanted, actor, quiet=quiet)))
    if int(os.environ.get("RANK", "0")) > 0:
        return {}
    plot(wanted.work / METRICS, wanted.work, CURVES)
    figures = {"suggested_length": length, **last_figures(wanted.work / METRICS)}
    digest = publish(actor.policy, wanted.policy, wanted.output, wanted.version, _told(wanted), figures, wanted.config)
    return {"version": wanted.version, "directory": str(wanted.output), "manifest_sha256": digest, "figures": figures}


def suggested_length(prompts: Sequence[KnownPrompt], policy: Policy) -> float:
    """s_l of TPPO eq. 4: the length that nine in ten targets do not exceed, in tokens with their end.

    Raises:
        ArtifactError: No prompt has targets.
    """
    lengths = [len(policy.tokenizer.encode_response(_response(each, policy))) for each in prompts if each.targets]
    if not lengths:
        raise ArtifactError(
            "No prompt says what was typed next, so nobody knows how long a response should be. Give --suggested-length, or "
            "prompts with targets."
        )
    return not_exceeded(lengths)


def not_exceeded(lengths: Sequence[int]) -> float:
    """The length that nine in ten do not exceed."""
    return float(sorted(lengths)[min(len(lengths) - 1, int(_LENGTH_SHARE * len(lengths)))])


def watch_of(judge: str, prompts: Sequence[KnownPrompt]) -> Watch:
    """Tells the share of responses that a judge finds relevant, as `relevance`; of those that it comes to a verdict about."""
    judging, scenes = get_word_judge(judge, Settings()), {each.prompt.prompt_id: each.scene for each in prompts}

    def watch(written: Sequence[Rollout]) -> dict[str, float]:
        asked = [asked_about(each.prompt, each.response, scenes[each.prompt.prompt_id]) for each in written]
        verdicts = [verdict for verdict in judging.whole(asked) if verdict is not None]
        return {"relevance": sum(verdicts) / len(verdicts)} if verdicts else {}

    return watch


def last_figures(metrics: Path) -> dict[str, float]:
    """The last line of the JSON lines of a run."""
    last = json.loads(metrics.read_text().splitlines()[-1])
    return {key: value for key, value in last.items() if key not in ("done", "eta_s")}


def _told(wanted: PpoRun) -> str:
    """What rewards a run, in words."""
    rewards = " + ".join(f"{weight:g} {name}" for name, weight in wanted.rewards.items())
    return f"{rewards}{' at the end' if wanted.at_the_end else ''}"


def _refuse(wanted: PpoRun) -> None:
    if wanted.output.exists():
        raise ArtifactError(
            f"{wanted.output} exists already, and a version never changes. Give another output directory."
        )
    if wanted.values not in CLASS_VALUES:
        raise ConfigurationError(f"Classes are worth {' or '.join(CLASS_VALUES)}, not {wanted.values!r}.")


def _source(wanted: PpoRun, length: float) -> RewardSource:
    given = Given(
        policy=wanted.policy,
        models=wanted.models,
        predictor=wanted.predictor,
        judge=wanted.judge,
        scenes={each.prompt.prompt_id: each.scene for each in wanted.prompts if each.scene},
        values=wanted.values,
        suggested_length=length,
        alpha=wanted.alpha,
    )
    source = get_source(wanted.rewards, given)
    source = AtTheEnd(source) if wanted.at_the_end else source
    return LessMissing(source, wanted.missing_cost) if wanted.missing_cost else source


def _reports(wanted: PpoRun, actor: ActorCritic, *, quiet: bool) -> Report:
    """Tells of each step, and keeps the adapter of those that are milestones."""
    tell = reporter(wanted.work / METRICS, every_s=0.0, quiet=quiet)

    def report(done: float, figures: dict[str, float]) -> None:
        if int(figures["step"]) in wanted.milestones:
            place = wanted.work / f"milestone-{int(figures['step'])}"
            actor.policy.save_pretrained(place, selected_adapters=["default"], save_embedding_layers=False)
        tell(done, figures)

    return report


async def _train(wanted: PpoRun, actor: ActorCritic, source: RewardSource, report: Report) -> None:
    rollouts, close = await _rollouts(wanted)
    try:
        await train(
            actor,
            None if wanted.config.lora_rank else fresh(wanted.policy),
            [each.prompt for each in wanted.prompts],
            rollouts,
            source,
            wanted.config,
            wanted.work,
            report,
            watch=watch_of(wanted.watch, wanted.prompts) if wanted.watch else None,
        )
    finally:
        await close()


def _response(each: KnownPrompt, policy: Policy) -> str:
    return get_task(each.prompt.task).response(list(each.targets), {}, policy.tokenizer.format)


def _as_run(wanted: PpoRun) -> Run:
    """What loads models and keeps `work` from other runs, for every way to align."""
    shape = MethodConfig(lora_rank=wanted.config.lora_rank, lora_alpha=wanted.config.lora_alpha)
    return Run(
        method="token_ppo", pairs=(), policy=wanted.policy, reference=wanted.policy, work=wanted.work, config=shape
    )


def _policy_model(run: Run) -> Any:
    model, lora = to_train(run), adapter_config(run)
    if lora is not None:
        model = get_peft_model(model, lora)
        set_start(model, run)
    return model


def _identity(wanted: PpoRun, length: float) -> dict[str, Any]:
    """All that decides the result."""
    directory = wanted.policy.directory
    return {
        "policy": manifest_sha256(directory) if (directory / MANIFEST).is_file() else str(directory.resolve()),
        "prompts": [each.prompt.prompt_id for each in wanted.prompts],
        "rewards": dict(wanted.rewards),
        "at_the_end": wanted.at_the_end,
        "models": {name: manifest_sha256(path) for name, path in sorted(wanted.models.items())},
        "predictor": manifest_sha256(wanted.predictor) if wanted.predictor else None,
        "judge": wanted.judge,
        "values": wanted.values,
        "alpha": wanted.alpha,
        "missing_cost": wanted.missing_cost,
        "suggested_length": length,
        **asdict(wanted.config),
    }


async def _rollouts(wanted: PpoRun) -> tuple[Rollouts, Any]:
    config = wanted.config
    alone, has_vllm = int(os.environ.get("WORLD_SIZE", "1")) == 1, find_spec("vllm") is not None
    name = ("vllm_local" if alone and has_vllm else "model") if wanted.engine == "auto" else wanted.engine
    if name == "model" or not config.lora_rank:
        return ModelRollouts(wanted.policy.tokenizer, max_tokens=config.max_tokens, seed=config.seed), _nothing
    engines = engines_of(name)
    engine = await engines.of(wanted.policy)
    place = wanted.work / "rollouts"
    return EngineRollouts(engine, wanted.policy, place, max_tokens=config.max_tokens, seed=config.seed), engines.close


async def _nothing() -> None:
    """There is nothing to close."""


def _last_step(work: Path) -> int:
    """The step from which a run goes on."""
    found = sorted(work.glob("step-*"))
    return int(found[-1].name.removeprefix("step-")) if found else 0
