"""Stage `align`: aligns the policy of each task to its two click predictors, by rounds of DPO, token-level PPO, or both.

It knows nothing about training. A task whose predictors were kept out is not aligned.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from service.contract.errors import JobError
from trainer.jobs.stage import Judgement, Part, RunSoFar, Stage
from trainer.jobs.stages.ctr_train import JUDGE, SEARCH

_DPO, _PPO = "iter_dpo", "token_ppo"
_PASSES, _RESPONSES = 8, 64  # of PPO over the prompts, and in each of its steps
_METHODS = {"iter_dpo": (_DPO,), "token_ppo": (_PPO,), "both": (_DPO, _PPO), "none": ()}


def aligned(run: RunSoFar) -> dict[str, Mapping[str, Any]]:
    """What came out for each task; of two methods the one of which the judge expects more clicks."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, made in run.outputs["align"].items():
        task = name.rpartition("-")[0]
        if task not in found or _expected(made) > _expected(found[task]):
            found[task] = made
    return found


def _expected(made: Mapping[str, Any]) -> float:
    expected = made["metrics"].get("aec_judge")
    return float(expected) if isinstance(expected, int | float) and expected == expected else float("-inf")


def _parts(run: RunSoFar) -> Sequence[Part]:
    jobs = run.settings.jobs
    tasks = [task for task in jobs.tasks if not run.refused("ctr", task)]
    return [_part(run, task, method) for task in tasks for method in _METHODS[jobs.align]]


def _part(run: RunSoFar, task: str, method: str) -> Part:
    jobs, data, policy = run.settings.jobs, run.settings.data_dir, run.champion("policy", task)
    if policy is None:
        raise JobError(
            f"There is no policy for task {task!r} to align. `nextquery models promote` puts one into service."
        )
    search, judge = (run.outputs["ctr-train"][f"{task}-{name}"] for name in (SEARCH, JUDGE))
    log = str(run.outputs["snapshot"]["log"]["directory"])
    if method == _DPO:
        words: tuple[str, ...] = ("train", "align", "--task", task, "--snapshot", log)
        words += ("--search-predictor", str(search["directory"]), "--judge-predictor", str(judge["directory"]))
        limits = ("--max-rounds", str(jobs.max_rounds), "--prompts", str(jobs.prompts), *run.more_words("align"))
    else:
        words = ("train", "ppo", "--task", task, "--prompts", log, "--reward", "ctr")
        words += ("--predictor", str(search["directory"]), "--judge-predictor", str(judge["directory"]))
        steps = max(1, _PASSES * jobs.prompts // _RESPONSES)
        limits = ("--most", str(jobs.prompts), "--steps", str(steps), *run.more_words("ppo"))
    words += ("--policy", policy.directory)
    digest = _digest(task, method, str(search["version"]), str(judge["version"]), policy.version, *limits)
    version = f"{method.rpartition('_')[2]}-{task}-{run.window.until:%Y%m%d}-{digest}"
    work = data / "align-work" / version
    places = ("--output", str(data / "policies" / version), "--work", str(work), "--version", version)
    return Part(name=f"{task}-{method}", words=(*words, *limits, *places, "--json"), work=work, pictures=work)


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
