"""The starter policy by one command: tokenizer, base, SFT, evaluation, model cards, and their place in the repository.

It knows nothing about the steps' insides. Every step leaves its result in the work directory, and a second run goes
on from there.
"""

import asyncio
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from service.contract.artifact import verify
from service.contract.errors import ArtifactError
from service.contract.policy import Decoding, Policy, load_policy
from service.contract.settings import Settings
from service.contract.tokenizer import PromptTokenizer
from service.engines import create_engine
from trainer.evaluate import Quality, Written, evaluate, known_names, on_kind_share, unseen_queries
from trainer.export import export_policy, publish_with_card
from trainer.model_card import model_card, probe_examples
from trainer.pretrain import PretrainConfig, describe, pretrain
from trainer.real_data import read_real_examples
from trainer.sft import SftConfig, sft
from trainer.tokenizer import FORMAT, train_tokenizer

# Without the penalties one list in five repeats a query; with more, long lists lose their separators.
DECODING = Decoding(temperature=0.3, presence_penalty=2.0, frequency_penalty=0.2)
_HELD_OUT, _MADE_UP, _KNOWN = 350, 150, 300
_PURPOSES = {
    "base": "This is the base: it knows the language of queries and the prompt format, and is where fine-tuning starts.",
    "sft": "This is the fine-tuned policy, which nextquery serves until it has learned a better one from its own clicks.",
}
FAILURES = """- It has too few parameters to know what every name is. Asked for a bare name it knows, every second listed query
  fits; the others belong to another kind of thing: `kyoto` -> "what spices go with kyoto", `harry potter` -> "how to
  make harry potter without animal products". A word of intent beside the name helps most.
- It knows how people go on asking, not facts: `python list comprehension` -> "is the python list comprehension ticket
  worth it", `gluten free pancakes` -> a comparison with Mandela.
- A whole question is taken for the entity, and its words are said again: `cheap flights to lisbon` -> "best rated
  cheap flights to lisbon".
- About one listed query in ten loses a word of a long or made-up name.
- Asked a whole question it cannot read, it may say the question again: one list in a hundred has fewer queries than
  asked for, or one twice.
- Of the queries in its prompt that people typed next it takes up about one fitting one in three; now and then one that
  does not fit.
- The penalties that keep queries apart cost long lists some of their separators: of lists of eight, about one in ten
  comes back shorter than asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StarterConfig:
    """Where the starter policy is made and put. `real_data`: JSON lines of real queries to mix in, or None.

    `processes` share the base model's training. On a CPU one a core is faster than one with all the threads.
    """

    work: Path
    destination: Path
    version: str = "starter-1"
    engine: str = "auto"
    processes: int = 1
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    sft: SftConfig = field(default_factory=lambda: SftConfig(learning_rate=1e-5))  # more makes it forget names
    real_data: Path | None = None


def make_starter(config: StarterConfig, *, quiet: bool = False) -> dict[str, Quality]:
    """Make both checkpoints and publish them under `destination`; returns the quality of each.

    Raises:
        ArtifactError: They are there already.
    """
    missing = [name for name in _PURPOSES if not (config.destination / name).exists()]
    if not missing:
        raise ArtifactError(f"{config.destination} has both checkpoints already. Remove them, or give another place.")
    if not (config.work / "base-policy").exists():
        _make_base_together(config, quiet=quiet)
    if not (config.work / "sft-policy").exists():
        base, work = str(config.work / "base-policy"), config.work / "sft"
        version = f"{config.version}-sft"
        sft(base, config.work / "sft-policy", work, config.sft, version=version, decoding=DECODING, quiet=quiet)
    return {name: _publish(config, name) for name in missing}


def make_base(config: StarterConfig, output: Path, *, quiet: bool = False) -> str:
    """Train tokenizer and base in `config.work` and publish the base at `output`. Returns the manifest's SHA-256.

    Where the configuration names an earlier base, its tokenizer is kept.

    Under `torchrun` the processes share the training, the first one publishes, and the others return "".
    """
    rank = int(os.environ.get("RANK", "0"))  # of this process under torchrun, whose every process comes here
    directory = config.pretrain.start or _tokenizer(config.work, rank)
    tokenizer = PromptTokenizer(directory, FORMAT)
    real = read_real_examples(config.real_data) if config.real_data else []
    model = pretrain(tokenizer, config.work / "base", config.pretrain, real=real, quiet=quiet)
    if rank > 0:
        return ""
    return export_policy(
        model,
        directory,
        output,
        version=f"{config.version}-base",
        text_format=FORMAT,
        decoding=DECODING,
        card=f"# {config.version}-base\n\nTrained from scratch by nextquery.\n",
        training={
            "method": "pretrain",
            **_beginning(config.pretrain.start),
            **describe(config.pretrain),
            **_last_metrics(config.work / "base"),
        },
    )


def _beginning(start: Path | None) -> dict[str, Any]:
    if start is None:
        return {}
    manifest = verify(start)
    return {"start": manifest["version"], "start_tokens": manifest["training"]["tokens"]}


def _tokenizer(work: Path, rank: int) -> Path:
    directory = work / "tokenizer"
    if not directory.exists():
        draft = work / f".tokenizer.{rank}"
        train_tokenizer(draft)  # the same in every process, since the seed is
        _rename_unless_there(draft, directory)
    return directory


def _make_base_together(config: StarterConfig, *, quiet: bool) -> None:
    """`make_base` in `config.processes` processes, as `torchrun` starts them."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // config.processes)))
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=config.processes,
        run_id=config.version,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="spawn",
    )
    elastic_launch(launch, _make_base)(config, quiet)


def _make_base(config: StarterConfig, quiet: bool) -> str:
    return make_base(config, config.work / "base-policy", quiet=quiet)


def _rename_unless_there(draft: Path, directory: Path) -> None:
    try:
        draft.rename(directory)
    except OSError:  # another process was first
        shutil.rmtree(draft)


def _publish(config: StarterConfig, name: str) -> Quality:
    policy = load_policy(config.work / f"{name}-policy")
    found = asyncio.run(measure(policy, config.engine))
    (config.work / f"{name}-quality.json").write_text(json.dumps(asdict(found.quality)) + "\n")
    card = model_card(
        name=name,
        purpose=_PURPOSES[name],
        training=_training_text(config, name),
        config=_model_config(policy.directory),
        quality=found.quality,
        on_kind=found.on_kind,
        counts=(_HELD_OUT, _MADE_UP),
        decoding=policy.decoding,
        samples=found.samples,
        separator=policy.tokenizer.format.separator,
        failures=FAILURES,
    )
    publish_with_card(policy.directory, config.destination / name, card)
    return found.quality


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Figures of a policy on unseen entities, its `on_kind_share`, and what it wrote for `unseen` and for the probes."""

    quality: Quality
    on_kind: float
    unseen: list[Written]
    samples: list[Written]


async def measure(policy: Policy, engine_name: str) -> Measured:
    """Ask a policy for every list of the evaluation."""
    engine = create_engine(engine_name, policy.model_directory, Settings())
    await engine.start()
    try:
        queries = unseen_queries(held_out=_HELD_OUT, made_up=_MADE_UP)
        quality, unseen = await evaluate(engine, policy, queries)
        _, named = await evaluate(engine, policy, known_names(_KNOWN))
        _, samples = await evaluate(engine, policy, probe_examples())
    finally:
        await engine.close()
    on_kind = on_kind_share(named, policy.tokenizer.format.separator)
    return Measured(quality=quality, on_kind=on_kind, unseen=unseen, samples=samples)


def _training_text(config: StarterConfig, name: str) -> str:
    made = verify(config.work / "base-policy")["training"]
    before = (
        f"went on from {made['start']} ({made['start_tokens'] / 1e6:.1f} million tokens) with "
        if "start" in made
        else ""
    )
    base = (
        f"Base: {before}{made['tokens'] / 1e6:.1f} million tokens in {made['step']:,} steps, Muon and AdamW, learning rate "
        f"{made['learning_rate']}, cosine; last loss {made['loss']} on response tokens mostly."
    )
    if name == "base":
        return base
    used, last = verify(config.work / "sft-policy")["training"], _last_metrics(config.work / "sft")
    return (
        f"{base}\n\nSFT: {used['lists_per_task']} annotated lists a task and {used['rewrites']} rewrite(s) of each, "
        f"{used['epochs']:g} epoch(s), {last.get('step')} steps, learning rate {used['learning_rate']}, loss on the "
        f"response only (GQR eq. 1); last loss {last.get('loss')}."
    )


def _last_metrics(work: Path) -> dict[str, Any]:
    path = work / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    last = json.loads(lines[-1]) if lines else {}
    return {key: last[key] for key in ("step", "tokens", "loss") if key in last}


def _model_config(directory: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(directory)
