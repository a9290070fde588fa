"""The commands that compare methods: `nextquery train compare` and `clicks`.

It knows how to ask and how to show; torch is imported only inside a command.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.contract.commands import load_settings, print_json, print_table, say

if TYPE_CHECKING:
    from trainer.compare import Row

app = typer.Typer(add_completion=False, no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and no progress.")]
Days = Annotated[int, typer.Option(help="Days before the last that lists and prompts come from.", min=1)]
Lists = Annotated[int, typer.Option(help="At most so many clicked lists, and as many others (N_pos, N_neg).", min=1)]
Snapshot = Annotated[Path, typer.Option(help="The log.")]
_HEADS = ("row", "AEC", "gain", "failed", "repeat", "related", "exclusive")


@app.command("compare")
def compare_methods(
    task: Annotated[str, typer.Option(help="The task to compare for.")],
    snapshot: Snapshot,
    search_predictor: Annotated[Path, typer.Option(help="The click predictor that the search maximises.")],
    judge_predictor: Annotated[Path, typer.Option(help="One of other days and another seed: the AEC of the table.")],
    policy: Annotated[Path, typer.Option(help="SFT, which every other policy is trained from: a whole model.")],
    few_shot: Annotated[str, typer.Option(help="The model that is shown five examples instead, by path or hub id.")],
    output: Annotated[Path, typer.Option(help="Folder in which the policies appear, beside the base.")],
    work: Annotated[Path, typer.Option(help="Rows, pairs and checkpoints; a second run goes on from there.")] = Path(
        ".data/train/compare"
    ),
    version: Annotated[str, typer.Option(help="Policies are called VERSION-<row>.")] = "compare-1",
    rows: Annotated[
        list[str] | None, typer.Option("--row", help="A file in trainer/comparators. [all of them]")
    ] = None,
    judges: Annotated[
        list[str] | None, typer.Option("--judge", help="A file in trainer/list_judges, or none. [embedding]")
    ] = None,
    few_shot_engine: Annotated[
        str, typer.Option(help="auto, vllm_local, transformers_local, or openai_http for any model elsewhere.")
    ] = "auto",
    lists: Lists = 10_000,
    prompts: Annotated[int, typer.Option(help="Prompts that are searched for lists.", min=1)] = 300,
    test_prompts: Annotated[int, typer.Option(help="Prompts of the last day that rows are measured on.", min=1)] = 300,
    prompt_days: Days = 7,
    max_rounds: Annotated[int, typer.Option(help="Of iterative DPO.", min=1)] = 3,
    epochs: Annotated[float, typer.Option(help="Passes over the lists of a row.", min=0.01)] = 4.0,
    overlap: Annotated[str, typer.Option(help="The judge of overlap: embedding, openai_http or none.")] = "embedding",
    engine: Annotated[str, typer.Option(help="auto, vllm_local or transformers_local.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of prompts, lists, samples and training.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Compare eleven ways to teach a policy on one log (GQR Table 3, Figure 5)."""
    import asyncio

    from service.contract.policy import load_policy
    from service.contract.progress import reporter
    from service.contract.snapshot import open_snapshot
    from trainer import comparators
    from trainer.candidates import SearchConfig
    from trainer.compare import compare
    from trainer.compare_plots import plot
    from trainer.list_judges import get_list_judge
    from trainer.methods import MethodConfig
    from trainer.prompts import learnt_and_tested
    from trainer.rounds import RoundsConfig
    from trainer.two_predictors import open_two
    from trainer.workshop import Materials, Workshop

    searching, judging = open_two(search_predictor, judge_predictor)
    log = open_snapshot(snapshot)
    learnt, tested = learnt_and_tested(
        log, task, learnt=prompts, tested=test_prompts, learnt_days=prompt_days, seed=seed
    )
    materials = Materials(
        task=task,
        snapshot=log,
        sft=load_policy(policy),
        few_shot=load_policy(few_shot),
        searching=searching,
        judging=judging,
        learnt=learnt,
        tested=tested,
        click_days=list(log.files("impressions"))[-1 - prompt_days : -1],
        lists=lists,
        work=work,
        output=output,
        version=version,
        overlap=None if overlap == "none" else overlap,
        few_shot_engine=few_shot_engine,
        engine=engine,
        rounds=RoundsConfig(
            max_rounds=max_rounds, search=SearchConfig(seed=seed), training=MethodConfig(seed=seed, epochs=epochs)
        ),
    )
    asked = [get_list_judge(name, load_settings()) for name in judges or ["embedding"] if name != "none"]
    report = reporter(work / "progress.jsonl", every_s=0.0, quiet=as_json)
    workshop = Workshop(materials, quiet=as_json)

    async def run() -> "list[Row]":
        try:
            return await compare(workshop, rows or comparators.names(), asked, report=report)
        finally:
            await workshop.close()

    found = asyncio.run(run())
    plot(found, work)
    _show(found, as_json)


@app.command("clicks")
def lists_of_clicks(
    task: Annotated[str, typer.Option(help="Of which task.")],
    snapshot: Snapshot,
    policy: Annotated[str, typer.Option(help="The policy to be trained; with --pairs it writes the rejected lists.")],
    output: Annotated[Path, typer.Option(help="The Parquet file to write, for `nextquery train preferences`.")],
    pairs: Annotated[
        bool, typer.Option("--pairs", help="A rejected list of the same prompt for each, for dpo and simpo.")
    ] = False,
    lists: Lists = 10_000,
    days: Days = 7,
    engine: Annotated[str, typer.Option(help="auto, vllm_local or transformers_local.")] = "auto",
    seed: Annotated[int, typer.Option(help="Which lists.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write clicked lists of a log as chosen ones, and others as rejected ones (GQR B.2): for kto and sft, or in pairs."""
    import asyncio

    from service.contract.policy import load_policy
    from service.contract.snapshot import open_snapshot
    from trainer.align import engines_of
    from trainer.clicked import feedback, write_click_pairs, write_single_lists

    log, trained = open_snapshot(snapshot), load_policy(policy)
    found = feedback(log, task, list(log.files("impressions"))[-1 - days : -1], most=lists, seed=seed)

    async def write() -> int:
        engines = engines_of(engine)
        try:
            return await write_click_pairs(found, await engines.of(trained), trained, output, seed=seed)
        finally:
            await engines.close()

    count = asyncio.run(write()) if pairs else write_single_lists(found, trained.tokenizer.format, output)
    say({"rows": count, "clicked": len(found.clicked), "unclicked": len(found.unclicked), "file": str(output)}, as_json)


def _show(rows: "list[Row]", as_json: bool) -> None:
    if as_json:
        print_json([asdict(row) | {"improvement": row.improvement(rows[0])} for row in rows])
        return
    print_table(
        "AEC by the judge predictor; related, exclusive: wins less losses against sft, in points",
        _HEADS,
        [_cells(row, rows[0]) for row in rows],
    )
    if problems := {row.name: row.problem for row in rows if row.problem}:
        say(problems, as_json=False)


def _cells(row: "Row", baseline: "Row") -> list[str | None]:
    found, gained = row.assessment, row.improvement(baseline)
    if found is None:
        return [row.name, "-", *[None] * 5]  # why stands below the table
    quality = next(iter(row.quality.values()), {})
    net = [quality.get(f"{name}_net") for name in ("relatedness", "exclusivity")]
    return [
        row.name,
        f"{found.aec['judge']:.4f}",
        None if gained is None else f"{gained:+.1%}",
        f"{found.parse_failures:.1%}",
        f"{found.duplicate_share:.1%}",
        *(None if value is None else f"{value:+.0f}" for value in net),
    ]
