"""Compares ways to teach a policy on one log: GQR's Table 3 and Figure 5 on your own clicks, row by row.

It knows no truth but what click predictors expect (AEC) and judges of quality say. Every row is kept as a file in the work
directory as soon as it is measured, so a run that was killed goes on with what is missing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from service.contract.engine import Adapter, Completion, Engine, Sampling
from service.contract.errors import ConfigurationError, JudgeError, NotEnoughData
from service.contract.policy import Policy
from service.contract.progress import Report
from trainer.assess import Assessment, Written, assess, write
from trainer.catalogue.example import Example
from trainer.comparators import Category, Comparator, Contestant, get_comparator
from trainer.encoding import encode
from trainer.list_judges import ListJudge
from trainer.prompts import AlignmentPrompt
from trainer.quality import compared
from trainer.rounds import JUDGES, SEARCHES
from trainer.workshop import Materials, Workshop

BASELINE = "sft"
_CONTEXT_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table.

    Attributes:
        assessment: what predictors expect, and how lists are made; None where there is no policy.
        quality: figures of `trainer.quality.Quality` against SFT, by judge; of a judge that refused there are none.
        problem: why something is missing, with counts.
    """

    name: str
    category: Category
    version: str | None
    assessment: Assessment | None
    quality: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    problem: str | None = None

    def improvement(self, baseline: "Row") -> float | None:
        """Relative growth of the judge's AEC over the baseline's."""
        if self.assessment is None or baseline.assessment is None or not baseline.assessment.aec[JUDGES]:
            return None
        return self.assessment.aec[JUDGES] / baseline.assessment.aec[JUDGES] - 1.0


async def compare(
    workshop: Workshop, names: Sequence[str], judges: Sequence[ListJudge], *, report: Report | None = None
) -> list[Row]:
    """The rows of these names, SFT among them whether or not it is named.

    A row that cannot be made, for want of clicks or of a judge's answer, says so in `problem`; the others go on.

    Raises:
        ConfigurationError: There is no such row, or the work directory belongs to another comparison.
        ArtifactError: Training failed.
    """
    wanted = list(dict.fromkeys([BASELINE, *names]))
    known = {name: get_comparator(name) for name in wanted}
    _claim(workshop)
    rows: list[Row] = []
    for number, name in enumerate(wanted):
        rows.append(await _row(workshop, name, known[name], judges))
        if report:
            report((number + 1) / len(wanted), {"rows": float(number + 1)})
    return rows


def written_for(materials: Materials, name: str) -> list[Written]:
    """The lists of a row that was made, in the order of the test prompts.

    Raises:
        ConfigurationError: It has none.
    """
    path = _lists_file(materials, name)
    if not path.is_file():
        raise ConfigurationError(f"The row {name} has no lists in {path.parent}. Make it first.")
    prompts = {prompt.prompt_id: prompt for prompt in materials.tested}
    return [
        Written(**{**row, "prompt": prompts[row["prompt"]], "queries": tuple(row["queries"])})
        for row in json.loads(path.read_text())
    ]


async def lists_of(workshop: Workshop, contestant: Contestant, prompts: Sequence[AlignmentPrompt]) -> list[Written]:
    """One list of a contestant for each prompt, sampled as it is served."""
    if contestant.engine is None:
        return await write(await workshop.engines.of(contestant.policy), contestant.policy, prompts)
    engines = workshop.engines_named(contestant.engine)
    try:
        engine: Engine = await engines.of(contestant.policy)
        if contestant.examples:
            engine = WithExamples(engine, contestant.policy, contestant.examples)
        return await write(engine, contestant.policy, prompts)
    finally:
        await engines.close()


class WithExamples:
    """An engine that reads examples before every prompt, as many of them as fit: few-shot prompting."""

    def __init__(self, engine: Engine, policy: Policy, examples: Sequence[Example]) -> None:
        self.name = engine.name
        self._engine = engine
        encoded = [encode(example, policy.tokenizer) for example in examples]
        self._examples = [(*each.prompt, *each.response) for each in encoded]

    async def start(self) -> None:
        """It is started already."""

    async def generate(
        self, request_id: str, prompt_token_ids: Sequence[int], sampling: Sampling, adapter: Adapter | None = None
    ) -> list[Completion]:
        """See `Engine`."""
        room = _CONTEXT_TOKENS - len(prompt_token_ids) - sampling.max_tokens
        before: list[int] = []
        for example in self._examples:
            if len(before) + len(example) <= room:
                before += example
        return await self._engine.generate(request_id, [*before, *prompt_token_ids], sampling, adapter)

    async def check(self) -> None:
        """See `Engine`."""
        await self._engine.check()

    async def drop(self, adapter: Adapter) -> None:
        """See `Engine`."""
        await self._engine.drop(adapter)

    async def close(self) -> None:
        """Whoever started the engine ends it."""


async def _row(workshop: Workshop, name: str, comparator: Comparator, judges: Sequence[ListJudge]) -> Row:
    """A row from its file, made where it is not there; what judges say is added where they were not asked yet."""
    path = workshop.materials.work / "rows" / f"{name}.json"
    row = _read(path) if path.is_file() else await _made(workshop, name, comparator)
    if row.assessment is not None and name != BASELINE:
        row = _with_quality(workshop.materials, row, judges)
    _put(path, asdict(row))
    return row


async def _made(workshop: Workshop, name: str, comparator: Comparator) -> Row:
    materials, category = workshop.materials, comparator.category
    try:
        contestant = await comparator.contestant(workshop)
    except NotEnoughData as problem:
        return Row(name=name, category=category, version=None, assessment=None, problem=str(problem))
    written = await lists_of(workshop, contestant, materials.tested)
    _put(_lists_file(materials, name), [_as_row(each) for each in written])
    predictors = {SEARCHES: materials.searching, JUDGES: materials.judging}
    version, found = contestant.policy.version, assess(written, predictors)
    return Row(name=name, category=category, version=version, assessment=found)


def _with_quality(materials: Materials, row: Row, judges: Sequence[ListJudge]) -> Row:
    quality, problems = dict(row.quality), []
    mine, against = written_for(materials, row.name), written_for(materials, BASELINE)
    for judge in judges:
        if judge.name in quality:
            continue
        try:
            quality[judge.name] = compared(mine, against, judge).figures()
        except JudgeError as problem:
            problems.append(
                f"Not enough data: the judge {judge.name} gave no verdict on {len(against)} pairs. {problem}"
            )
    return replace(row, quality=quality, problem=" ".join(problems) or None)


def _claim(workshop: Workshop) -> None:
    """Let the work directory belong to this comparison, so that no row of another one is taken for one of it."""
    found = workshop.materials
    identity = {
        "task": found.task,
        "snapshot": found.snapshot.manifest["files"],
        "sft": found.sft.version,
        "few_shot": found.few_shot.version,
        "searching": found.searching.sha256,
        "judging": found.judging.sha256,
        "learnt": [prompt.prompt_id for prompt in found.learnt],
        "tested": [prompt.prompt_id for prompt in found.tested],
        "lists": found.lists,
        "overlap": found.overlap,
        "rounds": asdict(found.rounds),
    }
    path = found.work / "compare.json"
    if not path.is_file():
        _put(path, identity)
    elif other := [key for key, value in json.loads(path.read_text()).items() if value != identity.get(key)]:
        raise ConfigurationError(
            f"{found.work} holds the rows of another comparison: {', '.join(other)} differ. Give another work directory, "
            "or remove this one."
        )


def _lists_file(materials: Materials, name: str) -> Path:
    return materials.work / "rows" / f"{name}.lists.json"


def _as_row(each: Written) -> dict[str, Any]:
    return {
        "prompt": each.prompt.prompt_id,
        "queries": list(each.queries),
        "texts": dict(each.texts),
        "problem": each.problem,
        "tokens": each.tokens,
        "repeated": each.repeated,
    }


def _read(path: Path) -> Row:
    values = json.loads(path.read_text())
    assessment = values.pop("assessment")
    return Row(**values, assessment=Assessment(**assessment) if assessment else None)


def _put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(value, indent=1))
    draft.replace(path)
