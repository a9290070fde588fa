"""Which arm a unit is in: a hash that never changes, and ranges of its values.

It knows nothing about files or requests.
"""

import hashlib
from collections.abc import Sequence

from service.experiments.definitions import Arm, Experiment, Holdout

SLOTS = 10_000


def slot_of(salt: str, unit: str) -> int:
    """SHA-256(salt, unit) mod 10,000 (RELIABILITY.md I7); the byte 0 between them keeps pairs apart."""
    digest = hashlib.sha256(f"{salt}\0{unit}".encode()).digest()
    return int.from_bytes(digest, "big") % SLOTS


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


def arm_of(experiment: Experiment, unit: str) -> Arm | None:
    """The arm of a unit; None where it takes no part."""
    slot = slot_of(experiment.salt or experiment.id, unit)
    ends = ends_of(experiment.share, [arm.weight for arm in experiment.arms])
    return next((arm for arm, end in zip(experiment.arms, ends, strict=True) if slot < end), None)


def is_held_out(holdout: Holdout, unit: str) -> bool:
    """True where a unit takes part in no experiment."""
    return slot_of(holdout.salt, unit) < ends_of(holdout.share, [1.0])[0]
