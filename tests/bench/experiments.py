"""Experiments: assignment, intervals that hold, looks every day, sample ratios, off-policy values, and how long a report takes.

`python -m tests.bench.experiments --json`. Clicks of the statistical figures are drawn from beta-distributed people, and those
of `offpolicy_coverage` and `planted_winner` are simulated by the audience.
"""

import sys
import time
from collections.abc import Iterator
from itertools import permutations
from random import Random

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, chisquare

from service.experiments import estimate
from service.experiments.assignment import BUCKETS, SLOTS, Assigner, slot_of
from service.experiments.definitions import Arm, Experiment, Experiments
from service.experiments.estimate import Rates, lift, order_weights, power, sample_ratio_p, snips
from tests.bench import experiments_service
from tests.bench.alignment_truth import draw_scenes
from tests.bench.experiments_log import report_of_log
from tests.bench.report import Bar, Cell, main
from tests.experiments.test_assignment import GOLDEN
from trainer.audience.audience import Audience
from trainer.audience.scene import Scene

BARS = [
    Bar("golden_vectors", "1 = hold", ">=", 1),
    Bar("uniformity_least_p", "p", ">", 0.001),
    Bar("independence_p", "p", ">", 0.001),
    Bar("false_positive_fixed_low_margin", "share", ">=", 0.04),
    Bar("false_positive_fixed", "share", "<=", 0.06),
    Bar("false_positive_daily_looks", "share", "<=", 0.05),
    Bar("interval_coverage_low_margin", "share", ">=", 0.93),
    Bar("interval_coverage", "share", "<=", 0.97),
    Bar("power_found", "share"),
    Bar("power_computed", "share"),
    Bar("power_error", "points", "<=", 5),
    Bar("srm_false_alarm", "share", "<=", 0.002),
    Bar("srm_51_49_caught", "1 = caught", ">=", 1),
    Bar("offpolicy_coverage_low_margin", "share", ">=", 0.93),
    Bar("offpolicy_coverage", "share", "<=", 0.97),
    Bar("offpolicy_effective_share", "share"),
    Bar("assignment_ms", "ms", "<=", 0.2),
    Bar("report_s_sqlite_1m", "s", "<=", 10),
    Bar("report_s_postgresql_10m", "s", "<=", 30),
    Bar("adapters8_ratio", "ratio", ">=", 0.85),
    Bar("adapters8_per_s", "requests/s"),
    Bar("adapter1_per_s", "requests/s"),
    Bar("planted_winner_promoted", "1 = promoted", ">=", 1),
    Bar("planted_winner_days", "days"),
    Bar("planted_winner_lists", "lists"),
    Bar("planted_loser_kept_out", "1 = kept out", ">=", 1),
    Bar("planted_loser_dropped", "1 = dropped"),
    Bar("planted_loser_lists", "lists"),
]
_SALTS, _UNITS = 20, 100_000
_TESTS = 2_000
_PEOPLE, _DAYS, _COMES = 2_000, 14, 0.5  # of one test; lists a person and day
_PLANTED = 0.1
_OF = ("service/experiments", "tests/bench/experiments.py")


def assignment() -> dict[str, float]:
    """The hash: frozen, even, and without memory from one salt to another."""
    least = 1.0
    for salt in range(_SALTS):
        slots = np.array([slot_of(f"salt-{salt}", f"unit-{unit}") for unit in range(_UNITS)])
        least = min(least, float(chisquare(np.bincount(slots // 100, minlength=SLOTS // 100)).pvalue))
    table = np.zeros((4, 4))
    for unit in range(_UNITS):
        table[slot_of("one", f"unit-{unit}") // 2_500, slot_of("other", f"unit-{unit}") // 2_500] += 1
    return {
        "golden_vectors": float(all(slot_of(*pair) == slot for pair, slot in GOLDEN.items())),
        "uniformity_least_p": least * _SALTS,  # of 20 the least is small by chance: Bonferroni
        "independence_p": float(chi2_contingency(table).pvalue),
        "assignment_ms": _assignment_ms(),
    }


def _assignment_ms() -> float:
    """Eight experiments and a hold-out, the median of 20,000 requests."""
    knobs = ["policy", "temperature", "top_p", "presence_penalty", "frequency_penalty", "cor", "rerank", "best_of"]
    values = ["v", 1.0, 0.9, 0.1, 0.1, True, "reorder", 4]
    running = [
        Experiment(
            id=f"e-{name}".replace("_", "-"),
            arms=[Arm(name="control", weight=0.5), Arm.model_validate({"name": "new", "weight": 0.5, name: value})],
        )
        for name, value in zip(knobs, values, strict=True)
    ]
    assign, times = (
        Assigner(Experiments.model_validate({"holdout": {"share": 0.01}, "experiments": running})).assign,
        [],
    )
    for number in range(20_000):
        began = time.perf_counter()
        assign("suggest", {"user": f"u-{number}", "session": f"s-{number}", "request": f"r-{number}"})
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1000


def looks() -> dict[str, float]:
    """A/A tests: how often something is found in one look at the end, and in one of 14 looks, one a day."""
    fixed = daily = 0
    for rng in _seeds(_TESTS):
        every = [lift(Rates.of(top, bottom), top.sum(1), 1, _PLANTED) for top, bottom in _test(rng)]
        daily += any(found is not None and not found.always_low <= 0 <= found.always_high for found in every)
        last = every[-1]
        fixed += last is not None and not last.low <= 0 <= last.high
    return {
        "false_positive_fixed": fixed / _TESTS,
        "false_positive_fixed_low_margin": fixed / _TESTS,
        "false_positive_daily_looks": daily / _TESTS,
    }


def planted() -> dict[str, float]:
    """Planted lifts: how often the interval holds them, and how often they are found beside how often they should be."""
    held = found = 0
    computed = []
    for rng in _seeds(_TESTS, 1):
        *_, (top, bottom) = _test(rng, _PLANTED)
        now = lift(Rates.of(top, bottom), top.sum(1), 1, _PLANTED)
        if now is None:
            continue
        held += now.low <= _PLANTED <= now.high
        found += now.low > 0 or now.high < 0
        computed.append(power(now.variance, _PLANTED))
    return {
        "interval_coverage": held / _TESTS,
        "interval_coverage_low_margin": held / _TESTS,
        "power_found": found / _TESTS,
        "power_computed": float(np.mean(computed)),
        "power_error": 100 * abs(found / _TESTS - float(np.mean(computed))),
    }


def sample_ratios() -> dict[str, float]:
    """How often fair assignments raise an alarm, and whether 51 to 49 does at 100,000 units."""
    halves = np.array([0.5, 0.5])
    drawn = np.random.default_rng(2).binomial(_UNITS, 0.5, 100_000)
    alarms = [sample_ratio_p(np.array([n, _UNITS - n], dtype=float), halves) < estimate.SRM_LEVEL for n in drawn]
    uneven = np.array([0.51, 0.49]) * _UNITS
    return {
        "srm_false_alarm": float(np.mean(alarms)),
        "srm_51_49_caught": float(sample_ratio_p(uneven, halves) < estimate.SRM_LEVEL),
    }


def off_policy() -> dict[str, float]:
    """An arm that draws a third of its orders tells what its best order alone would come to, for people of the audience."""
    audience, share, lists = Audience(), 0.33, 4_000
    scenes = draw_scenes(audience, "suggest", 200, seed=11)
    orders = list(permutations(range(3)))
    rng = Random("off-policy")
    p = np.array([[_p_list(audience, scene, order, number) for order in orders] for number, scene in enumerate(scenes)])
    best = p.argmax(axis=1)
    true = float(p.max(axis=1).mean())
    held, worth = 0, []
    for test in range(_TESTS):
        draws = np.random.default_rng(rng.getrandbits(32) + test)
        shown = draws.integers(len(scenes), size=lists)
        order = np.where(draws.random(lists) < share, draws.integers(6, size=lists), best[shown])
        clicked = (draws.random(lists) < p[shown, order]).astype(float)
        weights = order_weights(order == best[shown], np.full(lists, 3), share, 0.0)
        found = snips(clicked, weights, np.arange(lists) % BUCKETS)
        if found:
            held += found.low <= true <= found.high
            worth.append(found.effective_lists / lists)
    coverage = held / _TESTS
    return {
        "offpolicy_coverage": coverage,
        "offpolicy_coverage_low_margin": coverage,
        "offpolicy_effective_share": float(np.mean(worth)),
    }


def _p_list(audience: Audience, scene: Scene, order: tuple[int, ...], number: int) -> float:
    """True CTR of a list that names three needs of the scene in this order."""
    said = [f"{need.about} {need.facet}" for need in scene.needs]
    people = audience.people(scene, Random(f"people {number}"), 200)
    shown = [said[i % len(said)] for i in order]
    return float(audience.list_click(scene, audience.p_click(scene, shown, people)).mean())


def _seeds(count: int, kind: int = 0) -> Iterator[np.random.Generator]:
    return (np.random.default_rng([kind, number]) for number in range(count))


def _test(rng: np.random.Generator, planted: float = 0.0) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Sums of clicked lists and lists by arm and bucket, (2, B) each, after each day. People come again, and differ."""
    arm, bucket = rng.integers(0, 2, _PEOPLE), rng.integers(0, BUCKETS, _PEOPLE)
    taste = np.minimum(1.0, rng.beta(2, 8, _PEOPLE) * (1 + planted * arm))
    place, size = arm * BUCKETS + bucket, 2 * BUCKETS
    top, bottom = np.zeros(size), np.zeros(size)
    for _ in range(_DAYS):
        lists = rng.poisson(_COMES, _PEOPLE)
        bottom += np.bincount(place, lists, size)
        top += np.bincount(place, rng.binomial(lists, taste), size)
        yield top.reshape(2, -1).copy(), bottom.reshape(2, -1).copy()


CELLS = [
    Cell("assignment", assignment, of=_OF),
    Cell("looks", looks, of=_OF, about_s=120),
    Cell("planted", planted, of=_OF, about_s=60),
    Cell("sample_ratios", sample_ratios, of=_OF),
    Cell("off_policy", off_policy, of=(*_OF, "trainer/audience"), about_s=60),
    *report_of_log(_OF),
    *experiments_service.cells(_OF),
]


if __name__ == "__main__":
    sys.exit(main("experiments", BARS, CELLS, within_s=1100))
