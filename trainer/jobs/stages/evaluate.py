"""Stage `evaluate`: measures challengers and champions side by side; its gate says which may serve.

It knows nothing about how figures come about: predictors are met on the last day of the window, which neither learnt
from, and policies on the engine that serves.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.jobs.gates import against_policy, against_predictor
from trainer.jobs.stage import Judgement, Part, RunSoFar, Stage, Verdict
from trainer.jobs.stages.align import aligned
from trainer.jobs.stages.ctr_train import SEARCH

_FEWEST_DAYS = "3"  # what baselines learn from, which no gate looks at
_ENGINES = ("auto", "vllm_local", "transformers_local")
Outputs = Mapping[str, Mapping[str, Any]]


def _parts(run: RunSoFar) -> Sequence[Part]:
    found: list[Part] = []
    for task in run.settings.jobs.tasks:
        if not run.refused("ctr", task):
            champion = run.champion("ctr", task)
            found.append(_predictor(run, task, "challenger", str(_trained(run, task)["directory"])))
            found += [_predictor(run, task, "champion", champion.directory)] if champion else []
        if task in aligned(run):
            present = run.champion("policy", task)
            found.append(_policy(run, task, "challenger", str(aligned(run)[task]["directory"])))
            found += [_policy(run, task, "champion", present.directory)] if present else []
    return found


def _predictor(run: RunSoFar, task: str, who: str, directory: str) -> Part:
    log, work = str(run.outputs["snapshot"]["log"]["directory"]), run.settings.data_dir / "ctr-work"
    words = ("ctr", "evaluate", directory, "--snapshot", log, "--task", task, "--days", _FEWEST_DAYS)
    return Part(name=f"{task}-ctr-{who}", words=(*words, "--test-days", "1", "--work", str(work), "--json"))


def _policy(run: RunSoFar, task: str, who: str, directory: str) -> Part:
    engine = run.settings.engine if run.settings.engine in _ENGINES else "auto"
    return Part(name=f"{task}-policy-{who}", words=("train", "evaluate", directory, "--engine", engine, "--json"))


def _judge(run: RunSoFar, outputs: Outputs) -> Judgement:
    verdicts: list[Verdict] = []
    for task in run.settings.jobs.tasks:
        if f"{task}-ctr-challenger" in outputs:
            verdicts.append(_of_predictor(run, task, outputs))
        if f"{task}-policy-challenger" in outputs:
            verdicts.append(_of_policy(run, task, outputs))
    figures = {f"{each.task} {each.kind} {name}": value for each in verdicts for name, value in each.figures.items()}
    return Judgement(
        verdicts=tuple(verdicts), figures=figures, reason=None if verdicts else "There was no challenger to measure."
    )


def _of_predictor(run: RunSoFar, task: str, outputs: Outputs) -> Verdict:
    mine, theirs = (_methods(outputs, f"{task}-ctr-{who}") for who in ("challenger", "champion"))
    made = _trained(run, task)
    return Verdict(
        kind="ctr",
        task=task,
        version=str(made["version"]),
        directory=str(made["directory"]),
        revision=run.revision("ctr", task),
        reasons=against_predictor(mine or {}, theirs, run.settings.jobs),
        figures={**_shown("", mine), **_shown("champion ", theirs)},
    )


def _of_policy(run: RunSoFar, task: str, outputs: Outputs) -> Verdict:
    made, mine = aligned(run)[task], outputs[f"{task}-policy-challenger"]
    theirs = outputs.get(f"{task}-policy-champion")
    return Verdict(
        kind="policy",
        task=task,
        version=str(made["version"]),
        directory=str(made["directory"]),
        revision=run.revision("policy", task),
        reasons=against_policy(made["metrics"], mine, theirs, run.settings.jobs),
        figures={**made["metrics"], **mine, **{f"champion {name}": value for name, value in (theirs or {}).items()}},
    )


def _trained(run: RunSoFar, task: str) -> Mapping[str, Any]:
    return run.outputs["ctr-train"][f"{task}-{SEARCH}"]


def _methods(outputs: Outputs, part: str) -> Mapping[str, Any] | None:
    return outputs[part]["methods"]["nextquery"] if part in outputs else None


def _shown(before: str, figures: Mapping[str, Any] | None) -> dict[str, Any]:
    return {f"{before}{name}": figures.get(name) for name in ("auc", "pcoc", "ece")} if figures else {}


STAGE = Stage("evaluate", _parts, _judge)
