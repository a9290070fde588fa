"""Gates: a challenger stays out for each figure that is bad, missing or no number, and for nothing else."""

import math
from typing import Any

import pytest

from service.contract.settings import Jobs
from trainer.jobs.gates import against_build, against_policy, against_predictor

JOBS = Jobs()
GOOD = {"auc": 0.7, "pcoc": 1.0, "ece": 0.01}
BUILD = {"coverage": 0.9, "hit10": 0.3}
ALIGNED = {"aec_judge": 0.2, "aec_judge_before": 0.1, "parse_failures": 0, "duplicate_share": 0.0, "length_ratio": 1.0}
SERVED = {"parse_ok_share": 0.99, "latency_p95_ms": 100.0}


def test_good_figures_pass_with_and_without_a_champion() -> None:
    assert against_predictor(GOOD, None, JOBS) == against_predictor(GOOD, GOOD, JOBS) == ()
    assert against_build(BUILD, None, JOBS) == against_build(BUILD, BUILD, JOBS) == ()
    assert against_policy(ALIGNED, SERVED, None, JOBS) == against_policy(ALIGNED, SERVED, SERVED, JOBS) == ()


@pytest.mark.parametrize(
    ("changed", "reasons"),
    [
        ({"auc": 0.6951}, 0),  # the champion's .7 less the tolerance of .005 is .695
        ({"auc": 0.6949}, 1),
        ({"auc": 0.5}, 2),
        ({"auc": None}, 1),
        ({"auc": True}, 1),
        ({"pcoc": 0.79}, 1),
        ({"pcoc": 1.26}, 1),
        ({"pcoc": math.inf}, 1),
        ({"ece": 0.051}, 1),
        ({"ece": math.nan, "pcoc": 9.0}, 1),
    ],
)
def test_a_predictor_is_judged_by_auc_pcoc_and_ece(changed: dict[str, Any], reasons: int) -> None:
    assert len(against_predictor({**GOOD, **changed}, GOOD, JOBS)) == reasons


@pytest.mark.parametrize(
    ("changed", "reasons"), [({"hit10": 0.281}, 0), ({"hit10": 0.279}, 1), ({"coverage": 0.5}, 1), ({"hit10": None}, 1)]
)
def test_a_build_is_judged_by_coverage_and_hits(changed: dict[str, Any], reasons: int) -> None:
    assert len(against_build({**BUILD, **changed}, BUILD, JOBS)) == reasons


@pytest.mark.parametrize(
    ("aligned", "served", "reasons"),
    [
        ({"aec_judge": 0.1001}, {}, 0),
        ({"aec_judge": 0.1}, {}, 1),
        ({"aec_judge": math.nan}, {}, 1),
        ({"parse_failures": 0.021}, {}, 1),
        ({"duplicate_share": 0.011}, {}, 1),
        ({"length_ratio": 0.89}, {}, 1),
        ({"length_ratio": 1.11}, {}, 1),
        ({}, {"latency_p95_ms": 149.0}, 0),
        ({}, {"latency_p95_ms": 151.0}, 1),
        ({}, {"latency_p95_ms": None}, 1),
        ({}, {"parse_ok_share": 0.96}, 1),
    ],
)
def test_a_policy_is_judged_by_its_judge_and_on_the_engine(
    aligned: dict[str, Any], served: dict[str, Any], reasons: int
) -> None:
    assert len(against_policy({**ALIGNED, **aligned}, {**SERVED, **served}, SERVED, JOBS)) == reasons


def test_a_champion_without_figures_bars_nobody() -> None:
    assert against_predictor(GOOD, {}, JOBS) == ()
    assert against_build(BUILD, {"coverage": "nan"}, JOBS) == ()
