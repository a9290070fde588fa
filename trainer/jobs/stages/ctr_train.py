"""Stage `ctr-train`: two click predictors for each task, one that searches and one that judges.

It knows nothing about models. The two share neither a day of learning nor a seed, so that what the search exploits in one
is no error of the other. Its gate keeps out what no alignment can use; the champion is met in stage `evaluate`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.jobs.gates import against_predictor
from trainer.jobs.stage import Judgement, Part, RunSoFar, Stage, Verdict

SEARCH, JUDGE = "search", "judge"


def _parts(run: RunSoFar) -> Sequence[Part]:
    jobs = run.settings.jobs
    # search: learns from the days before the later ones; judge: from the later ones but the last, on which both are met
    plans = ((SEARCH, jobs.days, jobs.later_days, 1), (JUDGE, jobs.later_days - 1, 1, 2))
    return [
        _part(run, task, name, days, test_days, seed) for task in jobs.tasks for name, days, test_days, seed in plans
    ]


def _part(run: RunSoFar, task: str, name: str, days: int, test_days: int, seed: int) -> Part:
    log, data = str(run.outputs["snapshot"]["log"]["directory"]), run.settings.data_dir
    work = data / "ctr-work" / f"{task}-{name}"
    words: tuple[str, ...] = (
        "ctr",
        "train",
        "--snapshot",
        log,
        "--task",
        task,
        "--days",
        str(days),
        "--test-days",
        str(test_days),
    )
    words += ("--seed", str(seed), "--destination", str(data / "ctr"), "--work", str(work), "--json")
    return Part(name=f"{task}-{name}", words=(*words, *run.more_words("ctr-train")), work=work)


def _judge(run: RunSoFar, outputs: Mapping[str, Mapping[str, Any]]) -> Judgement:
    verdicts: list[Verdict] = []
    figures: dict[str, Any] = {}
    for task in run.settings.jobs.tasks:
        made, reasons = outputs[f"{task}-{SEARCH}"], []
        for name in (SEARCH, JUDGE):
            found = outputs[f"{task}-{name}"]["evaluation"]["methods"]["nextquery"]
            figures |= {f"{task} {name} {figure}": found.get(figure) for figure in ("auc", "pcoc", "ece")}
            reasons += [f"{name} predictor: {why}" for why in against_predictor(found, None, run.settings.jobs)]
        if reasons:
            verdicts.append(
                Verdict(
                    kind="ctr",
                    task=task,
                    version=str(made["version"]),
                    directory=str(made["directory"]),
                    revision=run.revision("ctr", task),
                    reasons=tuple(reasons),
                )
            )
    return Judgement(verdicts=tuple(verdicts), figures=figures)


STAGE = Stage("ctr-train", _parts, _judge)
