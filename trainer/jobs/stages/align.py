"""Stage `align`: aligns the policy of each task to its two click predictors.

It knows nothing about training. A task whose predictors were kept out is not aligned.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from service.contract.errors import ConfigurationError, JobError
from trainer.jobs.stage import Judgement, Part, RunSoFar, Stage
from trainer.jobs.stages.ctr_train import JUDGE, SEARCH

METHODS = ("iter_dpo", "none")


def refuse_unknown_method(align: str) -> None:
    """Raise ConfigurationError for a method that this version does not have."""
    if align not in METHODS:
        raise ConfigurationError(
            f"Aligning by {align!r} needs token-level PPO, which this version of nextquery does not have. Set "
            f"NEXTQUERY_JOBS__ALIGN, or --align, to one of {', '.join(METHODS)}."
        )


def _parts(run: RunSoFar) -> Sequence[Part]:
    jobs = run.settings.jobs
    refuse_unknown_method(jobs.align)
    if jobs.align == "none":
        return []
    return [_part(run, task) for task in jobs.tasks if not run.refused("ctr", task)]


def _part(run: RunSoFar, task: str) -> Part:
    jobs, data, policy = run.settings.jobs, run.settings.data_dir, run.champion("policy", task)
    if policy is None:
        raise JobError(
            f"There is no policy for task {task!r} to align. `nextquery models promote` puts one into service."
        )
    search, judge = (run.outputs["ctr-train"][f"{task}-{name}"] for name in (SEARCH, JUDGE))
    words: tuple[str, ...] = ("train", "align", "--task", task)
    words += ("--snapshot", str(run.outputs["snapshot"]["log"]["directory"]))
    words += ("--search-predictor", str(search["directory"]), "--judge-predictor", str(judge["directory"]))
    words += ("--policy", policy.directory)
    limits = ("--max-rounds", str(jobs.max_rounds), "--prompts", str(jobs.prompts), *run.more_words("align"))
    digest = _digest(task, str(search["version"]), str(judge["version"]), policy.version, *limits)
    version = f"dpo-{task}-{run.window.until:%Y%m%d}-{digest}"
    work = data / "align-work" / version
    places = ("--output", str(data / "policies" / version), "--work", str(work), "--version", version)
    return Part(name=task, words=(*words, *limits, *places, "--json"), work=work, pictures=work)


def _digest(*inputs: str) -> str:
    """A short hash of all that decides the result: the versions of predictors stand for the log that they learnt from."""
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:8]


def _judge(run: RunSoFar, outputs: Mapping[str, Mapping[str, Any]]) -> Judgement:
    jobs = run.settings.jobs
    figures = {f"{task} {name}": value for task, made in outputs.items() for name, value in made["metrics"].items()}
    if outputs:
        return Judgement(figures=figures)
    why = "NEXTQUERY_JOBS__ALIGN is none" if jobs.align == "none" else "no task has predictors to align to"
    return Judgement(reason=f"Nothing was aligned: {why}.")


STAGE = Stage("align", _parts, _judge)
