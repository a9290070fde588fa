"""Preference pairs from candidate lists: overlap filter and length matching (GQR Algorithm 1, lines 25-27).

It knows nothing about how lists are found or models are trained. The file of pairs serves every method: those that
prefer read `chosen` and `rejected`, those that imitate (GQR's SFT_ctr) read `chosen` alone.
"""

import json
import os
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.logged_context import as_whole, from_whole
from trainer.candidates import Candidates, ScoredList
from trainer.judges import OverlapJudge
from trainer.prompts import AlignmentPrompt

LEAST_MARGIN = 1e-6
"""Rewards that differ by less are the same: the predictor computes in float32."""

STEPS = {
    "no_chosen": "had no chosen list: usually the policy writes nothing that can be parsed",
    "overlap": "had only chosen lists with an overlap: usually the policy repeats itself, or the judge is too strict",
    "no_rejected": "had no rejected list: usually the policy writes nothing that can be parsed",
    "same_text": "had the same text chosen and rejected: usually the policy knows one list only; raise the temperature",
    "reward": "had no chosen list that is better than a rejected one: usually the predictor scores all alike",
}
"""Why a prompt gives no pair, in the order in which it is looked at."""

_LIST = [("queries", pa.list_(pa.string())), ("texts", pa.string()), ("reward", pa.float64()), ("tokens", pa.int64())]
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("prompt_id", "task", "context", "chosen", "rejected")]
    + [(f"{side}_{name}", kind) for side in ("chosen", "rejected") for name, kind in _LIST]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A prompt and two lists for it; `chosen` has the higher reward."""

    prompt: AlignmentPrompt
    chosen: ScoredList
    rejected: ScoredList


@dataclass(frozen=True, slots=True, kw_only=True)
class PairReport:
    """What became of the prompts.

    `dropped`: prompts that gave no pair, by step. `overlapping`: chosen lists that the judge took out, of `chosen`.
    The rest are means over the pairs.
    """

    prompts: int
    pairs: int
    dropped: dict[str, int]
    chosen: int
    overlapping: int
    chosen_tokens: float
    rejected_tokens: float
    chosen_reward: float
    rejected_reward: float

    @property
    def shares(self) -> dict[str, float]:
        """Share of the prompts that each step dropped."""
        return {step: count / max(1, self.prompts) for step, count in self.dropped.items()}

    def figures(self) -> dict[str, float]:
        """Everything as flat numbers, for a run record."""
        plain = {name: float(value) for name, value in asdict(self).items() if name != "dropped"}
        counts = {f"dropped_{step}": float(count) for step, count in self.dropped.items()}
        return plain | counts | {f"dropped_{step}_share": share for step, share in self.shares.items()}


def make_pairs(
    candidates: Sequence[Candidates], overlap: OverlapJudge | None, *, match_length: bool = True
) -> tuple[list[Pair], PairReport]:
    """At most one pair a prompt, in the order of `candidates`, and what became of the others.

    The chosen and the rejected list are those with the most similar lengths (GQR eq. 6), among equals the better
    chosen, then the worse rejected; without `match_length` (the paper's -LM) simply the best and the worst. Lists of the
    same text, and a chosen list that is not better, make no pair. No judge (None) filters nothing (the paper's -RF).

    Raises:
        ConfigurationError: No pair is left; the text says which step dropped how many prompts.
        JudgeError: The judge did not answer.
    """
    kept = _without_overlap(candidates, overlap)
    pairs, dropped = [], Counter[str]()
    for each, chosen in zip(candidates, kept, strict=True):
        found = _pair(each, chosen, match_length)
        if isinstance(found, Pair):
            pairs.append(found)
        else:
            dropped[found] += 1
    if not pairs:
        raise _no_pair(len(candidates), dropped, overlap)
    return pairs, _report(candidates, kept, pairs, dropped)


def _without_overlap(candidates: Sequence[Candidates], overlap: OverlapJudge | None) -> list[list[ScoredList]]:
    """The chosen lists of every prompt that the judge lets pass, all asked about in one batch."""
    if overlap is None:
        return [list(each.chosen) for each in candidates]
    asked = [(each.prompt.context, [listed.queries for listed in each.chosen]) for each in candidates]
    return [
        [listed for listed, overlaps in zip(each.chosen, verdicts, strict=True) if not overlaps]
        for each, verdicts in zip(candidates, overlap.overlaps_many(asked), strict=True)
    ]


def _pair(each: Candidates, chosen: Sequence[ScoredList], match_length: bool) -> Pair | str:
    """The pair of one prompt, or the step that it was dropped at."""
    if not each.chosen:
        return "no_chosen"
    if not chosen:
        return "overlap"
    if not each.rejected:
        return "no_rejected"
    differing = [(c, r) for c, r in product(chosen, each.rejected) if c.response != r.response]
    if not differing:
        return "same_text"
    better = [(c, r) for c, r in differing if c.reward - r.reward > LEAST_MARGIN]
    if not better:
        return "reward"
    best, worst = min(better, key=lambda two: _unlikeness(two[0], two[1], match_length))
    return Pair(prompt=each.prompt, chosen=best, rejected=worst)


def _unlikeness(chosen: ScoredList, rejected: ScoredList, match_length: bool) -> tuple[int, float, float]:
    """What eq. 6 makes least, then the tie-breaks."""
    return abs(chosen.tokens - rejected.tokens) if match_length else 0, -chosen.reward, rejected.reward


def _no_pair(prompts: int, dropped: Counter[str], overlap: OverlapJudge | None) -> ConfigurationError:
    if not prompts:
        return ConfigurationError("There are no candidates to make pairs of. Name days on which lists were shown.")
    judge = f" (judge {overlap.name})" if overlap and dropped["overlap"] else ""
    steps = "; ".join(f"{dropped[step]} {meaning}" for step, meaning in STEPS.items() if dropped[step])
    return ConfigurationError(f"No preference pair is left of {prompts} prompts{judge}: {steps}. Nothing is trained.")


def _report(
    candidates: Sequence[Candidates], kept: Sequence[Sequence[ScoredList]], pairs: Sequence[Pair], dropped: Counter[str]
) -> PairReport:
    chosen = sum(len(each.chosen) for each in candidates)
    return PairReport(
        prompts=len(candidates),
        pairs=len(pairs),
        dropped={step: dropped[step] for step in STEPS},
        chosen=chosen,
        overlapping=chosen - sum(map(len, kept)),
        chosen_tokens=fmean(pair.chosen.tokens for pair in pairs),
        rejected_tokens=fmean(pair.rejected.tokens for pair in pairs),
        chosen_reward=fmean(pair.chosen.reward for pair in pairs),
        rejected_reward=fmean(pair.rejected.reward for pair in pairs),
    )


def write_pairs(pairs: Sequence[Pair], path: Path) -> None:
    """Make the Parquet file `path` appear whole, in place of what is there; the same pairs give the same bytes.

    `datasets.load_dataset("parquet", data_files=str(path))` reads it: `chosen` and `rejected` are responses, `context`
    is JSON as the log has it (service/contract/logged_context.py), with `query` and `n` in it.

    Raises:
        ConfigurationError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([_row(pair) for pair in pairs], _SCHEMA), draft, compression="zstd")
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise ConfigurationError(
            f"The pairs {path} cannot be written: {error.strerror or error}. Make room, or name another place."
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def read_pairs(path: Path) -> list[Pair]:
    """The pairs that `write_pairs` wrote.

    Raises:
        ArtifactError: There is no such file, or it holds something else.
    """
    try:
        return [_read(row) for row in pq.read_table(path, columns=_SCHEMA.names).to_pylist()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"The pairs {path} cannot be read: {(str(error) or repr(error)).splitlines()[0]} Make them again."
        ) from None


def _row(pair: Pair) -> dict[str, Any]:
    prompt = pair.prompt
    row: dict[str, Any] = {
        "prompt_id": prompt.prompt_id,
        "task": prompt.task,
        "context": _json(as_whole(prompt.context)),
    }
    for side, listed in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        row |= {side: listed.response, f"{side}_queries": list(listed.queries), f"{side}_texts": _json(listed.texts)}
        row |= {f"{side}_reward": listed.reward, f"{side}_tokens": listed.tokens}
    return row


def _read(row: dict[str, Any]) -> Pair:
    context = from_whole(json.loads(row["context"]))
    prompt = AlignmentPrompt(prompt_id=row["prompt_id"], task=row["task"], context=context)
    chosen, rejected = (
        ScoredList(
            queries=tuple(row[f"{side}_queries"]),
            texts=json.loads(row[f"{side}_texts"]),
            reward=row[f"{side}_reward"],
            response=row[side],
            tokens=row[f"{side}_tokens"],
        )
        for side in ("chosen", "rejected")
    )
    return Pair(prompt=prompt, chosen=chosen, rejected=rejected)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
