"""The commands of token-level PPO: `nextquery train prompts`, `label`, `reward`, `ppo` and `relevance`, in that order.

It knows how to ask and how to show; torch is imported only inside a command.
"""

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from service.contract.commands import load_settings, print_table, say

app = typer.Typer(add_completion=False, no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and no progress.")]
PolicyAt = Annotated[str, typer.Option(help="A policy, or any causal model by path or hub id.")]
Prompts = Annotated[Path, typer.Option(help="Parquet file of `nextquery train prompts`.")]
Most = Annotated[int | None, typer.Option(help="The first so many prompts; all by default.", min=1)]
Engine = Annotated[str, typer.Option(help="auto, vllm_local or transformers_local.")]
Seed = Annotated[int, typer.Option(help="Decides what is sampled.")]
Judge = Annotated[
    str, typer.Option(help="A file in trainer/word_judges: embedding, openai_http, or intent (simulated people).")
]
MaxTokens = Annotated[int, typer.Option(help="Longest response.", min=1)]


@app.command("prompts")
def make_prompts(
    output: Annotated[Path, typer.Option(help="The Parquet file to write; nothing may be there.")],
    kind: Annotated[
        str,
        typer.Option(
            help="Kind of the log: aol, ubi, snapshot or sessions; or simulated, for people of the project's own."
        ),
    ],
    log: Annotated[Path | None, typer.Option(help="The file or folder.")] = None,
    newest: Annotated[int, typer.Option(help="Queries to predict.", min=1)] = 3,
    least_history: Annotated[int, typer.Option(help="Events that must stand before them.", min=1)] = 2,
    most_history: Annotated[int, typer.Option(help="The newest of them that are kept.", min=1)] = 30,
    since: Annotated[datetime | None, typer.Option(help="The queries were typed from then on, in UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="And before then.")] = None,
    people: Annotated[
        str, typer.Option(help="Share of the people by a hash, such as 0:0.9 to learn from and 0.9:1.")
    ] = "0:1",
    most: Annotated[
        int | None, typer.Option(help="At most so many prompts; all by default, and 1,000 simulated.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Which simulated people.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make prompts of `predict` from a log: what people did, and what they typed next (TPPO 4.1.1)."""
    from datetime import UTC

    from service.contract.errors import ConfigurationError
    from trainer.histories_to_prompts import HistoryConfig, prompts_from_log, simulated_prompts
    from trainer.prompt_files import write_prompts

    if kind == "simulated":
        rows = simulated_prompts(most or 1000, newest=newest, seed=seed)
    elif log is None:
        raise ConfigurationError(f"A log of kind {kind} is read from a file or folder. Give it by --log.")
    else:
        config = HistoryConfig(
            newest=newest,
            least_history=least_history,
            most_history=most_history,
            since=since.replace(tzinfo=UTC) if since else None,
            until=until.replace(tzinfo=UTC) if until else None,
            people=_share(people),
        )
        rows = prompts_from_log(kind, log, config, most=most)
    write_prompts(rows, output)
    say({"prompts": len(rows), "file": str(output)}, as_json)


@app.command("label")
def label(
    prompts: Prompts,
    output: Annotated[Path, typer.Option(help="Folder of the labels; a second run goes on there.")],
    policy: PolicyAt,
    judge: Judge = "embedding",
    most: Most = None,
    engine: Engine = "auto",
    max_tokens: MaxTokens = 64,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Let a policy write a response for each prompt, and a judge say of every word whether it is relevant (TPPO 3.2)."""
    import asyncio

    from service.contract.policy import load_policy
    from service.contract.progress import reporter
    from trainer.align import engines_of
    from trainer.labels import LabelReport, label_to
    from trainer.prompt_files import read_prompts
    from trainer.word_judges import get_word_judge

    rows, writer, judging = (
        read_prompts(prompts, most=most),
        load_policy(policy),
        get_word_judge(judge, load_settings()),
    )
    engines = engines_of(engine)

    async def run() -> LabelReport:
        try:
            return await label_to(
                output,
                rows,
                writer,
                await engines.of(writer),
                judging,
                seed=seed,
                max_tokens=max_tokens,
                report=reporter(None, quiet=as_json),
            )
        finally:
            await engines.close()

    say({"labels": str(output), **asdict(asyncio.run(run()))}, as_json)


@app.command("reward")
def reward(
    labels: Annotated[Path, typer.Option(help="Folder of `nextquery train label`.")],
    output: Annotated[Path, typer.Option(help="Where the reward model appears; nothing may be there yet.")],
    policy: PolicyAt,
    version: Annotated[str, typer.Option(help="Name of the new version.")],
    level: Annotated[
        Literal["token", "sentence"], typer.Option(help="token, or sentence: the baseline on the same labels.")
    ] = "token",
    work: Annotated[Path, typer.Option(help="Checkpoints, metrics and plots; a second run goes on there.")] = Path(
        ".data/train/reward"
    ),
    looks_ahead: Annotated[
        bool, typer.Option("--looks-ahead/--looks-back", help="The backbone sees both sides, or the past only.")
    ] = True,
    local_weight: Annotated[
        float, typer.Option(help="Weight of the loss of tokens; the rest is that of whole responses.", min=0, max=1)
    ] = 0.5,
    held_out: Annotated[float, typer.Option(help="Share of the prompts that it is measured on.")] = 0.1,
    epochs: Annotated[float, typer.Option(help="Passes over the labels.", min=0.01)] = 2.0,
    batch_size: Annotated[int, typer.Option(help="Responses a step.", min=1)] = 32,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-4,
    seed: Seed = 7,
    as_json: AsJson = False,
) -> None:
    """Train a reward model on labels: classes of tokens, or the relevance of a whole response (TPPO 3.3)."""
    from service.contract.policy import load_policy
    from trainer.labels import read_labels
    from trainer.token_reward.rows import rows_of
    from trainer.token_reward.train import RewardConfig, train_reward

    config = RewardConfig(
        level=level,
        looks_ahead=looks_ahead,
        local_weight=local_weight,
        held_out=held_out,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    read = load_policy(policy)
    figures = train_reward(
        rows_of(read_labels(labels), read), read, output, work, config, version=version, quiet=as_json
    )
    say({"version": version, "directory": str(output), **figures}, as_json)


@app.command("ppo")
def ppo(
    prompts: Annotated[
        Path, typer.Option(help="Parquet file of `nextquery train prompts`, or a snapshot with --task.")
    ],
    policy: Annotated[str, typer.Option(help="The policy to go on from: a base, or an adapter on one.")],
    output: Annotated[Path, typer.Option(help="Where the new policy appears, beside its base; nothing may be there.")],
    version: Annotated[str, typer.Option(help="Name of the new version.")],
    rewards: Annotated[
        list[str],
        typer.Option(
            "--reward", help="Files in trainer/rewards: token_model, sentence_model, judge, ctr; NAME=WEIGHT to mix."
        ),
    ],
    task: Annotated[str | None, typer.Option(help="The task, where prompts come from a snapshot.")] = None,
    work: Annotated[Path, typer.Option(help="Checkpoints, metrics and curves; a second run goes on there.")] = Path(
        ".data/train/ppo"
    ),
    token_model: Annotated[Path | None, typer.Option(help="Reward model of tokens.")] = None,
    sentence_model: Annotated[Path | None, typer.Option(help="Reward model of whole responses.")] = None,
    predictor: Annotated[Path | None, typer.Option(help="Click predictor that rewards.")] = None,
    judge_predictor: Annotated[Path | None, typer.Option(help="One of other days that says what was gained.")] = None,
    judge: Judge = "embedding",
    at_the_end: Annotated[
        bool, typer.Option("--at-the-end", help="Pay everything at the last token: sentence-level PPO.")
    ] = False,
    values: Annotated[
        str, typer.Option(help="What classes are worth: centred (0, -1, 1 over the length) or published (0, 1, 2).")
    ] = "centred",
    alpha: Annotated[float, typer.Option(help="Steepness of the length penalty; below 0 there is none.")] = 1.0,
    suggested_length: Annotated[
        float | None, typer.Option(help="Tokens of a reasonable response. [90th percentile of what people typed]")
    ] = None,
    most: Most = None,
    steps: Annotated[int, typer.Option(help="Rounds of writing and learning.", min=1)] = 100,
    responses: Annotated[int, typer.Option(help="Responses a step, over all processes.", min=1)] = 64,
    batch_size: Annotated[int, typer.Option(help="Responses an update.", min=1)] = 16,
    epochs: Annotated[int, typer.Option(help="Passes over the responses of a step.", min=1)] = 1,
    learning_rate: Annotated[float, typer.Option(help="Of policy and values.")] = 1e-3,
    target_kl: Annotated[float, typer.Option(help="Nats a response from the base that the policy is held near.")] = 6.0,
    beta: Annotated[float, typer.Option(help="What a nat costs at first.")] = 0.02,
    lora_rank: Annotated[int, typer.Option(help="Rank of the adapter; 0 trains every weight.", min=0)] = 16,
    max_tokens: MaxTokens = 64,
    missing_cost: Annotated[
        float, typer.Option(help="Fine for a list without a query; one of three missing costs a third of it.", min=0)
    ] = 1.0,
    watch: Annotated[
        str | None,
        typer.Option(help="A judge that tells each step's share of relevant responses, and rewards nothing."),
    ] = None,
    milestones: Annotated[
        list[int] | None, typer.Option("--milestone", help="A step whose adapter is kept in WORK/milestone-STEP.")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(help="Who writes: vllm_local, model (the one that is trained), or auto: the first where it can."),
    ] = "auto",
    seed: Seed = 7,
    as_json: AsJson = False,
) -> None:
    """Train a policy by token-level PPO (TPPO 3.4). Many GPUs: `accelerate launch -m trainer ppo ...`."""
    from service.contract.policy import load_policy
    from trainer.ppo.config import PpoConfig
    from trainer.ppo.night import TaskPpo, run_for_task
    from trainer.ppo.run import PpoRun, run_ppo
    from trainer.prompt_files import read_prompts

    config = PpoConfig(
        steps=steps,
        prompts=responses,
        batch_size=batch_size,
        epochs=epochs,
        learning_rate=learning_rate,
        target_kl=target_kl,
        beta=beta,
        lora_rank=lora_rank,
        lora_alpha=2 * lora_rank,
        max_tokens=max_tokens,
        seed=seed,
    )
    models = {"token_model": token_model, "sentence_model": sentence_model}
    run = PpoRun(
        policy=load_policy(policy),
        prompts=[] if task else read_prompts(prompts, most=most),
        output=output,
        work=work,
        version=version,
        rewards=_weights(rewards),
        at_the_end=at_the_end,
        models={name: path for name, path in models.items() if path},
        predictor=predictor,
        judge=judge,
        values=values,
        alpha=None if alpha < 0 else alpha,
        suggested_length=suggested_length,
        missing_cost=missing_cost,
        watch=watch,
        milestones=tuple(milestones or ()),
        engine=engine,
        config=config,
    )
    if task:
        of_task = TaskPpo(task=task, snapshot=prompts, judge_predictor=judge_predictor, prompts=most or 300, seed=seed)
        told = run_for_task(run, of_task, quiet=as_json)
    else:
        told = run_ppo(run, quiet=as_json)
    if told:  # else another process tells
        say(told, as_json)


@app.command("relevance")
def relevance(
    policies: Annotated[
        list[str], typer.Argument(help="Policies, or causal models by path or hub id; the oldest first.")
    ],
    prompts: Annotated[
        list[Path], typer.Option(help="Parquet files of `nextquery train prompts`; each is a set of its own.")
    ],
    judge: Judge = "embedding",
    most: Most = None,
    engine: Engine = "auto",
    served: Annotated[
        bool, typer.Option("--served", help="Write as a service would, instead of at temperature 1.")
    ] = False,
    max_tokens: MaxTokens = 64,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure how relevant what policies write is to what people did: rates, and duels of all pairs (TPPO 4)."""
    import asyncio

    from service.contract.policy import load_policy
    from trainer.align import engines_of
    from trainer.prompt_files import read_prompts
    from trainer.relevance import Judged, divergence, duels, judged
    from trainer.relevance import relevance as relevance_of
    from trainer.word_judges import get_word_judge

    judging, engines = get_word_judge(judge, load_settings()), engines_of(engine)
    read = [load_policy(policy) for policy in policies]
    sets: dict[str, Any] = {}

    async def run() -> None:
        try:
            for file in prompts:
                rows, found, rates = read_prompts(file, most=most), dict[str, Judged](), {}
                for policy in read:
                    written = await judged(
                        await engines.of(policy), policy, rows, judging, seed=seed, max_tokens=max_tokens, served=served
                    )
                    kl = None if served else divergence(policy, written.written)
                    found[policy.version], rates[policy.version] = written, asdict(relevance_of(written, kl=kl))
                pairs = {pair: asdict(each) for pair, each in duels(found, judging).items()}
                sets[file.stem] = {"policies": rates, "duels": pairs}
        finally:
            await engines.close()

    asyncio.run(run())
    if as_json:
        say({"sets": sets, "spent": dict(judging.spent)}, as_json)
        return
    for name, found in sets.items():
        _show(f"{name}: share of relevant responses", "policy", found["policies"])
        _show(f"{name}: duels", "first against second", found["duels"])


def _show(title: str, first: str, rows: dict[str, dict[str, Any]]) -> None:
    """A table of figures, a row a name."""
    if rows:
        columns = list(next(iter(rows.values())))
        cells = [
            [f"{row[key]:.4g}" if isinstance(row[key], float) else row[key] for key in columns] for row in rows.values()
        ]
        print_table(title, [first, *columns], [[name, *row] for name, row in zip(rows, cells, strict=True)])


def _share(people: str) -> tuple[float, float]:
    from service.contract.errors import ConfigurationError

    try:
        begin, end = map(float, people.split(":"))
    except ValueError:
        raise ConfigurationError(f"{people!r} is no share of people. Write two numbers, as in 0:0.9.") from None
    return begin, end


def _weights(rewards: list[str]) -> dict[str, float]:
    from service.contract.errors import ConfigurationError

    found = {}
    for each in rewards:
        name, _, weight = each.partition("=")
        try:
            found[name] = float(weight or 1.0)
        except ValueError:
            raise ConfigurationError(f"{each!r} is no reward with a weight. Write it as ctr or ctr=0.5.") from None
    return found
