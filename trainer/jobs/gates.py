"""Gates: what speaks against a challenger, from figures alone.

They know no file, no database and no command. A figure that is missing or not finite speaks against it.
"""

import math
from collections.abc import Mapping
from typing import Any

from service.contract.settings import Jobs

Figures = Mapping[str, Any]


def against_predictor(challenger: Figures, champion: Figures | None, jobs: Jobs) -> tuple[str, ...]:
    """Reasons against a click predictor; figures of both on the same lists of a later day."""
    found: list[str | bool | None] = [_missing(challenger, "auc", "pcoc", "ece")]
    if found == [None]:
        auc, pcoc, ece = (float(challenger[name]) for name in ("auc", "pcoc", "ece"))
        found += [
            auc <= 0.5 and f"its AUC is {auc:.4f}, no better than chance",
            not jobs.pcoc_least <= pcoc <= jobs.pcoc_most
            and f"its PCOC is {pcoc:.3f}, outside {jobs.pcoc_least:g} to {jobs.pcoc_most:g}",
            ece > jobs.ece_most and f"its ECE is {ece:.4f}, above {jobs.ece_most:g}",
            champion is not None and _below(auc, champion.get("auc"), jobs.auc_drop, "AUC"),
        ]
    return tuple(reason for reason in found if isinstance(reason, str))


def against_build(challenger: Figures, champion: Figures | None, jobs: Jobs) -> tuple[str, ...]:
    """Reasons against a build for co-occurrence queries; both were measured on people that they had not learnt from."""
    found: list[str | bool | None] = [_missing(challenger, "coverage", "hit10")]
    if found == [None] and champion is not None:
        found += [
            _below(float(challenger[name]), champion.get(name), jobs.cor_drop, name) for name in ("coverage", "hit10")
        ]
    return tuple(reason for reason in found if isinstance(reason, str))


def against_policy(aligned: Figures, served: Figures, champion: Figures | None, jobs: Jobs) -> tuple[str, ...]:
    """Reasons against a policy.

    Args:
        aligned: of `nextquery train align`: by the predictor that judges, beside the policy that alignment began with.
        served: of `nextquery train evaluate`: on the engine that serves.
        champion: the same of the champion.
        jobs: the bounds.
    """
    found: list[str | bool | None] = [
        _missing(aligned, "aec_judge", "aec_judge_before", "parse_failures", "duplicate_share", "length_ratio")
        or _missing(served, "parse_ok_share", "latency_p95_ms")
    ]
    if found == [None]:
        aec, before, ratio = (float(aligned[name]) for name in ("aec_judge", "aec_judge_before", "length_ratio"))
        found += [
            aec <= before and f"its AEC is {aec:.4f} by the predictor that judges, not above {before:.4f}",
            _above(float(aligned["parse_failures"]), jobs.parse_failures_most, "share of lists that cannot be read"),
            _above(1 - float(served["parse_ok_share"]), jobs.parse_failures_most, "share of such lists on the engine")
            if champion is None
            else _below(
                float(served["parse_ok_share"]),
                champion.get("parse_ok_share"),
                jobs.parse_failures_most,
                "share of readable lists",
            ),
            _above(float(aligned["duplicate_share"]), jobs.duplicates_most, "share of repeated queries"),
            not jobs.length_least <= ratio <= jobs.length_most
            and f"its lists have {ratio:.3f} times the length, outside {jobs.length_least:g} to {jobs.length_most:g}",
            champion is not None and _slower(served, champion, jobs.latency_most),
        ]
    return tuple(reason for reason in found if isinstance(reason, str))


def _missing(figures: Figures, *names: str) -> str | None:
    wrong = [f"its {name} is {figures.get(name)}" for name in names if not _is_finite(figures.get(name))]
    return ", ".join(wrong) or None


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _below(value: float, champion: Any, drop: float, name: str) -> str | None:
    if _is_finite(champion) and value < champion - drop:
        return f"its {name} is {value:.4f}, and the champion's is {champion:.4f}"
    return None


def _above(value: float, most: float, name: str) -> str | None:
    return f"its {name} is {value:.4f}, above {most:g}" if value > most else None


def _slower(served: Figures, champion: Figures, most: float) -> str | None:
    mine, theirs = float(served["latency_p95_ms"]), champion.get("latency_p95_ms")
    if _is_finite(theirs) and theirs and mine > most * theirs:
        return (
            f"its lists take {mine:.0f} ms (95th percentile), more than {most:g} times the champion's {theirs:.0f} ms"
        )
    return None
