"""Stage `publish`: decides what was tried on people, and puts into service, or to the test, what passed every gate.

By compare-and-set under the fencing number of the run. It knows nothing about files or statistics. A challenger whose
champion was replaced meanwhile by somebody else stays out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trainer.jobs.stage import Judgement, Part, RunSoFar, Stage, Verdict

_DECIDE = "decide"


def _parts(run: RunSoFar) -> Sequence[Part]:
    """Experiments are decided first, so that the next policy can be tried."""
    days = str(run.settings.jobs.policy_days)
    decide = Part(name=_DECIDE, words=("experiments", "decide", "--most-days", days, "--json"), is_fenced=True)
    return [
        decide,
        *(
            part
            for each in run.verdicts
            if each.passed and not _is_late(run, each)
            for part in _of_challenger(run, each)
        ),
    ]


def _of_challenger(run: RunSoFar, verdict: Verdict) -> list[Part]:
    name = f"{verdict.task}-{verdict.kind}".removeprefix("*-")
    over = ("--expected-revision", str(verdict.revision), "--json")
    if verdict.kind == "cor":
        words: tuple[str, ...] = ("retrieval", "publish", verdict.directory, *over)
    elif verdict.kind == "ctr":
        words = ("ctr", "publish", verdict.directory, "--promote", *over)
    elif share := run.settings.jobs.policy_share:
        of_task = ("--task", verdict.task)
        return [
            Part(name=f"{name}-register", words=("models", "register", verdict.directory, *of_task, "--json")),
            Part(
                name=f"{name}-try",
                words=("experiments", "try", verdict.version, *of_task, "--share", str(share), "--json"),
            ),
        ]
    else:
        words = ("models", "promote", verdict.directory, "--task", verdict.task, *over)
    return [Part(name=name, words=words, is_fenced=True)]


def _is_late(run: RunSoFar, verdict: Verdict) -> bool:
    now = run.champions_now.get((verdict.kind, verdict.task))
    return now is not None and now.version != verdict.version and now.revision != verdict.revision


def _judge(run: RunSoFar, outputs: Mapping[str, Mapping[str, Any]]) -> Judgement:
    why = ("another version was put into service while this run was under way",)
    kept = tuple(replace(each, reasons=why) for each in run.verdicts if each.passed and _is_late(run, each))
    decided = outputs[_DECIDE]["decided"]
    tried = [output["experiment"] for name, output in outputs.items() if name.endswith("-try")]
    put = [name for name in outputs if name != _DECIDE and not name.endswith(("-try", "-register"))]
    promoted = sum(each["state"] == "promoted" for each in decided)
    told = [f"{each['experiment']}: {each['reason']}" for each in decided]
    if None in tried:
        told.append("Another policy is being tried on that task, so the new one was not.")
    if not (put or kept or told or tried):
        told.append("No challenger passed its gates, so the champions serve on.")
    figures = {
        "published": len(put) + promoted,
        "tried": sum(each is not None for each in tried),
        "decided": len(decided),
    }
    return Judgement(verdicts=kept, figures=figures, reason=" ".join(told) or None)


STAGE = Stage("publish", _parts, _judge)
