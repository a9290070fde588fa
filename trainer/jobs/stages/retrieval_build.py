"""Stage `retrieval-build`: mines and indexes what people ask next; its gate compares with the build that serves.

It knows nothing about mining. The champion's figures are those of its own night: people that it had not learnt from
then, it may have learnt from since.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from service.contract.registry import ANY_TASK
from trainer.jobs.gates import against_build
from trainer.jobs.stage import Judgement, Part, RunSoFar, Stage, Verdict


def _parts(run: RunSoFar) -> Sequence[Part]:
    log, data = str(run.outputs["snapshot"]["log"]["directory"]), run.settings.data_dir
    work = data / "cor-work"
    words: tuple[str, ...] = (
        "retrieval",
        "build",
        "--snapshot",
        log,
        "--destination",
        str(data / "cor"),
        "--work",
        str(work),
    )
    words += ("--no-promote", "--json", *run.more_words("retrieval-build"))
    return [Part(name="build", words=words, work=work)]


def _judge(run: RunSoFar, outputs: Mapping[str, Mapping[str, Any]]) -> Judgement:
    built, champion = outputs["build"], run.champion("cor", ANY_TASK)
    figures = built.get("evaluation", {}).get("methods", {}).get("cor", {})
    verdict = Verdict(
        kind="cor",
        task=ANY_TASK,
        version=str(built["version"]),
        directory=str(built["directory"]),
        revision=run.revision("cor", ANY_TASK),
        reasons=against_build(figures, champion.metrics if champion else None, run.settings.jobs),
        figures=figures,
    )
    return Judgement(verdicts=(verdict,), figures={name: figures.get(name) for name in ("coverage", "hit10")})


STAGE = Stage("retrieval-build", _parts, _judge)
