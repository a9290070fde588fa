"""Stage `publish`: puts into service what passed every gate, by compare-and-set under the fencing number of the run.

It knows nothing about files. A challenger whose champion was replaced meanwhile by somebody else stays out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trainer.jobs.stage import Judgement, Part, RunSoFar, Stage, Verdict


def _parts(run: RunSoFar) -> Sequence[Part]:
    return [
        Part(name=f"{each.task}-{each.kind}".removeprefix("*-"), words=_words(each), is_fenced=True)
        for each in run.verdicts
        if each.passed and not _is_late(run, each)
    ]


def _words(verdict: Verdict) -> tuple[str, ...]:
    over = ("--expected-revision", str(verdict.revision), "--json")
    if verdict.kind == "cor":
        return ("retrieval", "publish", verdict.directory, *over)
    if verdict.kind == "ctr":
        return ("ctr", "publish", verdict.directory, "--promote", *over)
    return ("models", "promote", verdict.directory, "--task", verdict.task, *over)


def _is_late(run: RunSoFar, verdict: Verdict) -> bool:
    now = run.champions_now.get((verdict.kind, verdict.task))
    return now is not None and now.version != verdict.version and now.revision != verdict.revision


def _judge(run: RunSoFar, outputs: Mapping[str, Mapping[str, Any]]) -> Judgement:
    why = ("another version was put into service while this run was under way",)
    kept = tuple(replace(each, reasons=why) for each in run.verdicts if each.passed and _is_late(run, each))
    reason = None if outputs or kept else "No challenger passed its gates, so the champions serve on."
    return Judgement(verdicts=kept, figures={"published": len(outputs)}, reason=reason)


STAGE = Stage("publish", _parts, _judge)
