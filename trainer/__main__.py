"""The command line of the offline half: `nextquery train sft`, `preferences`, `base`, ..., and `nextquery simulate`.

It knows how to ask and how to show; torch is imported only inside a command.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from service.contract.commands import load_settings, say
from trainer.compare_commands import app as compare_app
from trainer.ppo.__main__ import app as ppo_app

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Teach a policy.")
app.add_typer(ppo_app)  # their commands stand beside these
app.add_typer(compare_app)

ChosenWeight = Annotated[
    float, typer.Option(help="What DPO gives to the likelihood of chosen lists; 0 is DPO as it was published.", min=0)
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and no progress.")]
Work = Annotated[
    Path, typer.Option(help="Where checkpoints, metrics and the plot go; a second run goes on from there.")
]
RealData = Annotated[
    Path | None, typer.Option(help="JSON lines of real queries to mix in; only rows under apache-2.0 or mit are read.")
]


@app.command("sft")
def train_sft(
    base: Annotated[str, typer.Option(help="The policy to start from, or any causal model by path or hub id.")],
    output: Annotated[Path, typer.Option(help="Where the merged policy appears; nothing may be there yet.")],
    work: Work = Path(".data/train/sft"),
    version: Annotated[str, typer.Option(help="Name of the new version.")] = "sft-1",
    prompts: Annotated[
        Path | None,
        typer.Option(help="Parquet file of `nextquery train prompts`: learn what people typed next, instead of lists."),
    ] = None,
    lists_per_task: Annotated[int, typer.Option(help="Annotated lists of each task.", min=1)] = 500,
    rewrites: Annotated[int, typer.Option(help="Rewrites of each list in other words (GQR appendix C).", min=0)] = 1,
    rewriter: Annotated[str, typer.Option(help="A file in trainer/rewriters: catalogue or openai_http.")] = "catalogue",
    epochs: Annotated[float, typer.Option(help="Passes over the lists.", min=0.01)] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Lists a step.", min=1)] = 16,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-4,
    lora_rank: Annotated[
        int, typer.Option(help="Rank of LoRA adapters, merged at the end; 0 trains every weight.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the lists and of their order.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model on annotated lists, or on what people typed next (TRL; GQR eq. 1: loss on the response only)."""
    from trainer.prompt_files import examples_of, read_prompts
    from trainer.rewriters import get_rewriter
    from trainer.sft import SftConfig, annotated_lists, sft

    config = SftConfig(
        lists_per_task=lists_per_task,
        rewrites=rewrites,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        lora_rank=lora_rank,
        seed=seed,
    )
    if prompts:
        examples = examples_of(read_prompts(prompts))
    else:
        examples = annotated_lists(config, get_rewriter(rewriter, load_settings()))
    digest = sft(base, output, work, config, version=version, examples=examples, quiet=as_json)
    say({"version": version, "directory": str(output), "manifest_sha256": digest}, as_json)


@app.command("preferences")
def train_preferences(
    pairs: Annotated[Path, typer.Option(help="Parquet file of chosen and rejected lists.")],
    policy: Annotated[str, typer.Option(help="The policy to train on from: a base, or an adapter on one.")],
    output: Annotated[Path, typer.Option(help="Where the new policy appears, beside its base; nothing may be there.")],
    version: Annotated[str, typer.Option(help="Name of the new version.")],
    reference: Annotated[
        str | None, typer.Option(help="The policy that DPO keeps near to: the SFT base or the previous one. [--policy]")
    ] = None,
    method: Annotated[
        str, typer.Option(help="A file in trainer/methods: dpo, simpo, kto, or sft on the chosen lists.")
    ] = "dpo",
    work: Work = Path(".data/train/preferences"),
    beta: Annotated[float, typer.Option(help="How strongly dpo and kto keep near to the reference.")] = 0.1,
    chosen_weight: ChosenWeight = 1.0,
    epochs: Annotated[float, typer.Option(help="Passes over the pairs.", min=0.01)] = 4.0,
    batch_size: Annotated[int, typer.Option(help="Pairs a step, over all processes.", min=1)] = 16,
    accumulation_steps: Annotated[int, typer.Option(help="Passes that a step is cut into, to save memory.", min=1)] = 1,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate. [the method's own]")] = None,
    lora_rank: Annotated[int, typer.Option(help="Rank of the LoRA adapter; 0 trains every weight.", min=0)] = 16,
    lora_alpha: Annotated[int, typer.Option(help="Scale of the LoRA adapter, times its rank.", min=1)] = 32,
    max_tokens: Annotated[int, typer.Option(help="A pair with a longer list, prompt included, is left out.")] = 1024,
    save_steps: Annotated[int, typer.Option(help="Steps between checkpoints.", min=1)] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the adapter and of the order.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Align a policy to pairs of lists (TRL). Many GPUs: `accelerate launch -m trainer preferences ...`."""
    from service.contract.policy import load_policy
    from trainer.methods import MethodConfig, align

    config = MethodConfig(
        beta=beta,
        chosen_weight=chosen_weight,
        epochs=epochs,
        batch_size=batch_size,
        accumulation_steps=accumulation_steps,
        learning_rate=learning_rate,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        max_tokens=max_tokens,
        save_steps=save_steps,
        seed=seed,
    )
    start = load_policy(policy)
    near = start if reference is None else load_policy(reference)
    outcome = align(
        method,
        pairs,
        policy=start,
        reference=near,
        output=output,
        work=work,
        version=version,
        config=config,
        quiet=as_json,
    )
    if outcome.manifest_sha256:  # else another process tells
        told = {"version": version, "directory": str(output), "manifest_sha256": outcome.manifest_sha256}
        say({**told, **outcome.metrics}, as_json)


@app.command("align")
def align_policy(
    task: Annotated[str, typer.Option(help="The task to align for.")],
    snapshot: Annotated[Path, typer.Option(help="The log that prompts come from.")],
    search_predictor: Annotated[Path, typer.Option(help="The click predictor that the search maximises.")],
    judge_predictor: Annotated[Path, typer.Option(help="One of other days and another seed, that judges the rounds.")],
    policy: Annotated[Path, typer.Option(help="The policy to go on from.")],
    output: Annotated[Path, typer.Option(help="Round k is published as OUTPUT-rk; beside the policy's base.")],
    work: Work = Path(".data/train/align"),
    version: Annotated[str, typer.Option(help="Name of the rounds: round k is VERSION-rk.")] = "aligned-1",
    method: Annotated[str, typer.Option(help="A file in trainer/methods: dpo, simpo, kto or sft.")] = "dpo",
    reference: Annotated[str, typer.Option(help="What DPO keeps near to: previous or sft.")] = "previous",
    prompts: Annotated[int, typer.Option(help="Prompts of a round, of the days before the last.", min=1)] = 300,
    test_prompts: Annotated[int, typer.Option(help="Prompts of the last day that AEC is measured on.", min=1)] = 300,
    prompt_days: Annotated[int, typer.Option(help="Days before the last that prompts come from.", min=1)] = 7,
    max_rounds: Annotated[int, typer.Option(min=1)] = 3,
    delta: Annotated[float, typer.Option(help="Stop when the judge's AEC grows by less than this share.")] = 0.01,
    overlap: Annotated[str, typer.Option(help="The judge of overlap: embedding, openai_http or none.")] = "embedding",
    groups: Annotated[int, typer.Option(help="Of beams, for diverse beam search (GQR appendix C).", min=1)] = 1,
    diversity: Annotated[float, typer.Option(help="What a group loses for terms of an earlier one.", min=0)] = 0.0,
    learning_rate: Annotated[float | None, typer.Option(show_default="the method's own")] = None,
    lora_rank: Annotated[int, typer.Option(help="Rank of the adapter; 0 trains every weight.")] = 16,
    epochs: Annotated[float, typer.Option(help="Passes over the pairs of a round.", min=0.01)] = 4.0,
    chosen_weight: ChosenWeight = 1.0,
    engine: Annotated[str, typer.Option(help="auto, vllm_local or transformers_local.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of prompts, samples and training.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Align a policy to a click predictor, round after round (GQR Algorithm 1)."""
    from trainer.align import Alignment, run_alignment
    from trainer.candidates import SearchConfig
    from trainer.methods import MethodConfig
    from trainer.rounds import RoundsConfig

    wanted = Alignment(
        task=task,
        snapshot=snapshot,
        search_predictor=search_predictor,
        judge_predictor=judge_predictor,
        policy=policy,
        output=output,
        work=work,
        version=version,
        prompts=prompts,
        test_prompts=test_prompts,
        prompt_days=prompt_days,
        overlap=None if overlap == "none" else overlap,
        engine=engine,
        seed=seed,
        rounds=RoundsConfig(
            method=method,
            reference=reference,
            delta=delta,
            max_rounds=max_rounds,
            search=SearchConfig(seed=seed, groups=groups, diversity=diversity),
            training=MethodConfig(
                seed=seed,
                chosen_weight=chosen_weight,
                learning_rate=learning_rate,
                lora_rank=lora_rank,
                lora_alpha=2 * lora_rank,
                epochs=epochs,
            ),
        ),
    )
    say(run_alignment(wanted, quiet=as_json), as_json)


@app.command("base")
def train_base(
    output: Annotated[Path, typer.Option(help="Where the base policy appears; nothing may be there yet.")],
    work: Work = Path(".data/train/base"),
    version: Annotated[str, typer.Option(help="Name of the new version.")] = "base-1",
    total_tokens: Annotated[int, typer.Option(help="Tokens to train on.", min=1)] = 40_000_000,
    max_minutes: Annotated[float, typer.Option(help="Stop after this time; the learning rate follows.")] = 120.0,
    compile_model: Annotated[bool, typer.Option("--compile/--no-compile", help="Use torch.compile.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the examples and of the weights.")] = 1,
    real_data: RealData = None,
    as_json: AsJson = False,
) -> None:
    """Train tokenizer and base model from scratch on the catalogue."""
    from trainer.pretrain import PretrainConfig
    from trainer.starter import StarterConfig, make_base

    config = PretrainConfig(total_tokens=total_tokens, max_minutes=max_minutes, seed=seed, compile=compile_model)
    starter = StarterConfig(work=work, destination=output.parent, version=version, pretrain=config, real_data=real_data)
    digest = make_base(starter, output, quiet=as_json)
    say({"version": version, "directory": str(output), "manifest_sha256": digest}, as_json)


@app.command("starter")
def train_starter(
    destination: Annotated[Path, typer.Option(help="Gets the folders base and sft.")] = Path("deploy/starter"),
    work: Work = Path(".data/train/starter"),
    version: Annotated[str, typer.Option(help="Name of the new version.")] = "starter-1",
    engine: Annotated[
        str, typer.Option(help="Engine of the evaluation: auto, vllm_local, transformers_local.")
    ] = "auto",
    max_minutes: Annotated[
        float, typer.Option(help="Limit of the base model's training; the rest takes half an hour.")
    ] = 100,
    processes: Annotated[
        int | None,
        typer.Option(help="Processes that train the base model: one a GPU, else one a core, at most 4.", min=1),
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="An earlier base to go on from, instead of from scratch; keeps its tokenizer.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate of the base model.")] = 3e-3,
    compile_model: Annotated[bool, typer.Option("--compile/--no-compile", help="Use torch.compile.")] = True,
    real_data: RealData = None,
    as_json: AsJson = False,
) -> None:
    """Make the starter policy: tokenizer, base, SFT, evaluation, model cards. Under 2.5 hours on 2 CPU cores."""
    import os

    import torch

    from trainer.pretrain import PretrainConfig
    from trainer.starter import StarterConfig, make_starter

    config = StarterConfig(
        work=work,
        destination=destination,
        version=version,
        engine=engine,
        processes=processes or torch.cuda.device_count() or min(4, os.cpu_count() or 1),
        pretrain=PretrainConfig(
            max_minutes=max_minutes, start=start, learning_rate=learning_rate, compile=compile_model
        ),
        real_data=real_data,
    )
    qualities = make_starter(config, quiet=as_json)
    say({name: asdict(quality) for name, quality in qualities.items()}, as_json)


@app.command("evaluate")
def evaluate_policy(
    policy: Annotated[str, typer.Argument(help="A policy, or any causal model by path or hub id.")],
    engine: Annotated[str, typer.Option(help="auto, vllm_local or transformers_local.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a policy on 500 queries whose entities training never saw, and on 300 names that it knows."""
    import asyncio

    from service.contract.policy import load_policy
    from trainer.evaluate import latency_ms
    from trainer.starter import measure

    found = asyncio.run(measure(load_policy(policy), engine))
    latencies = {f"latency_p{percent}_ms": latency_ms(found.unseen, percent / 100) for percent in (50, 95)}
    say({**asdict(found.quality), "on_kind_share": found.on_kind, **latencies}, as_json)


simulate = typer.Typer(add_completion=False, help="Let simulated people use a running service.")


@simulate.callback(invoke_without_command=True)
def simulate_people(
    people: Annotated[int, typer.Option(help="People; each comes once a day.", min=1)] = 1000,
    days: Annotated[int, typer.Option(help="Simulated days.", min=1)] = 7,
    day_s: Annotated[float, typer.Option(help="Real seconds that a simulated day takes.", min=0.1)] = 60.0,
    url: Annotated[str, typer.Option(help="Address of the service.")] = "http://127.0.0.1:8080",
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="Components that people meet; each as often as the others.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides who comes, when, and what they want.")] = 0,
    second: Annotated[
        int | None, typer.Option(help="Number of a second audience, drawn from the prior, instead of the first.")
    ] = None,
    real: Annotated[
        Path | None, typer.Option(help="JSON lines of real conversations; visits of `suggest` take their needs there.")
    ] = None,
    drift: Annotated[bool, typer.Option("--drift", help="Let their taste change from day to day.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let simulated people ask a running service, see its lists, click, and type their next query.

    They come when they come, however slowly the service answers (open loop). The log gets real times, so a week of
    them lies in the minutes that it took.
    """
    import asyncio

    from service.contract.progress import reporter
    from trainer.audience.audience import Audience
    from trainer.audience.constants import FIRST, drawn
    from trainer.audience.over_http import CrowdConfig, simulate_crowd
    from trainer.audience.real import real_scenes

    audience = Audience(FIRST if second is None else drawn(second))
    shares = dict.fromkeys(tasks or ["suggest"], 1.0)
    config = CrowdConfig(
        url=url,
        people=people,
        days=days,
        day_s=day_s,
        shares=shares,
        seed=seed,
        drift=drift,
        real=real_scenes(real) if real else (),
    )
    tally = asyncio.run(simulate_crowd(audience, config, reporter(None, every_s=5.0, quiet=as_json)))
    result = {"audience": audience.constants.name, "digest": audience.constants.digest(), **tally.figures()}
    rungs = {f"served by {rung}": count for rung, count in sorted(tally.rungs.items())}
    say(result | rungs | dict(tally.failures), as_json)


if __name__ == "__main__":
    app()
