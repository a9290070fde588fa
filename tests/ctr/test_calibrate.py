"""Platt's two numbers undo a known distortion, keep the order, and are refused where they would turn it round."""

import numpy as np
import pytest

from ctr.calibrate import fit_platt
from service.contract.errors import ConfigurationError


def logits_and_clicks(slope: float, offset: float, rows: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    logits = random.normal(-2, 1, rows)
    labels = (random.random(rows) < 1 / (1 + np.exp(-(slope * logits + offset)))).astype(np.uint8)
    return logits.astype(np.float32), labels


def test_the_distortion_of_logits_is_found():
    logits, labels = logits_and_clicks(slope=0.5, offset=-1.0)

    platt = fit_platt(logits, labels)

    # The standard error of the slope is about 1 / sqrt(40,000 * .11) = .015.
    assert platt.slope == pytest.approx(0.5, abs=0.06)
    assert platt.probabilities(logits).sum() == pytest.approx(labels.sum(), rel=1e-3)  # maximum likelihood


def test_scaling_keeps_the_order_without_ties():
    logits, labels = logits_and_clicks(slope=1.0, offset=0.0, rows=2_000)

    p = fit_platt(logits, labels).probabilities(logits)

    assert (np.argsort(p, kind="stable") == np.argsort(logits, kind="stable")).all()
    assert len(np.unique(p)) == len(np.unique(logits))


def test_scores_that_go_with_fewer_clicks_are_refused():
    logits, labels = logits_and_clicks(slope=-1.0, offset=-4.0)

    with pytest.raises(ConfigurationError, match="higher scores go with fewer clicks"):
        fit_platt(logits, labels)


@pytest.mark.parametrize("value", [0.3, np.nan])
def test_scores_that_say_nothing_are_refused(value):
    with pytest.raises(ConfigurationError, match="the same, or NaN"):
        fit_platt(np.full(4, value, np.float32), np.array([0, 1, 0, 1]))
