"""Which arm a unit is in: a hash that never changes, and ranges of its values.

It knows nothing about files or requests.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.contract.tables import DEFAULT_ARM
from service.experiments.definitions import HOLDOUT, Experiment, Experiments, Unit

SLOTS = 10_000
BUCKETS = 1_000


@dataclass(frozen=True, slots=True)
class Assignment:
    """How a request is served. `arm`: as it is logged, such as `dpo-1=control`; `changes`: what is different, by name.

    A request that is in several experiments has their arms in one line, with a space between.
    """

    arm: str = DEFAULT_ARM
    changes: Mapping[str, Any] = field(default_factory=dict)


class Assigner:
    """The arm of each request, under the experiments that run. A unit that is not known takes no part."""

    def __init__(self, experiments: Experiments) -> None:
        """Work out the ranges once."""
        self._all = [_Ranges(each) for each in experiments.experiments]
        holdout = experiments.holdout
        self._holdout = holdout
        self._held_out = ends_of(holdout.share, [1.0])[0] if holdout else 0

    def assign(self, task: str, units: Mapping[Unit, str | None]) -> Assignment:
        """The arms for lists of `task`. `units`: who asks, by the kinds of units that experiments go by."""
        holdout = self._holdout
        if holdout and (unit := units[holdout.unit]) and slot_of(holdout.salt, unit) < self._held_out:
            return Assignment(HOLDOUT, holdout.said())
        found = [arm for each in self._all if (arm := each.arm(task, units))]
        if not found:
            return Assignment()
        changes = {name: value for _, said in found for name, value in said.items()}
        return Assignment(" ".join(label for label, _ in found), changes)


def arms_in(logged: str) -> Iterator[tuple[str, str]]:
    """The (experiment, arm) pairs in a logged arm."""
    for pair in logged.split():
        experiment, mark, arm = pair.partition("=")
        if mark:
            yield experiment, arm


class _Ranges:
    """The arms of one experiment with the slots at which they end."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._salt = experiment.salt or experiment.id
        self._ends = ends_of(experiment.share, [arm.weight for arm in experiment.arms])
        self._arms = [(f"{experiment.id}={arm.name}", arm.said()) for arm in experiment.arms]

    def arm(self, task: str, units: Mapping[Unit, str | None]) -> tuple[str, dict[str, Any]] | None:
        unit = units[self._experiment.unit] if self._experiment.runs_for(task) else None
        if unit is None or (slot := slot_of(self._salt, unit)) >= self._ends[-1]:
            return None
        return self._arms[bisect_right(self._ends, slot)]


def slot_of(salt: str, unit: str) -> int:
    """SHA-256(salt, unit) mod 10,000 (RELIABILITY.md I7); the byte 0 between them keeps pairs apart."""
    digest = hashlib.sha256(f"{salt}\0{unit}".encode()).digest()
    return int.from_bytes(digest, "big") % SLOTS


def bucket_of(unit: str) -> int:
    """Which thousandth of all units this one is in, whatever experiments run: a cluster of reports."""
    return slot_of("bucket", unit) % BUCKETS


def ends_of(share: float, weights: Sequence[float]) -> list[int]:
    """The slot at which the range of each arm ends; the first begins at 0, each other where the one before ends.

    What is over after rounding down goes to the arms that lost most, so that the ranges fill `share` of all slots.
    """
    taken = round(share * SLOTS)
    exact = [weight * taken for weight in weights]
    sizes = [int(size + 1e-9) for size in exact]
    lost = sorted(range(len(sizes)), key=lambda i: (sizes[i] - exact[i], i))
    for i in lost[: taken - sum(sizes)]:
        sizes[i] += 1
    return [sum(sizes[: i + 1]) for i in range(len(sizes))]
