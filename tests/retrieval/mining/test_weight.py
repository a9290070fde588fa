"""The weight of a triple goes from plain frequency to lift as damping grows, and halves with age."""

import numpy as np
import pytest

from retrieval.mining.weight import weight

# Of 100 transitions, q has 10: 4 to the hub, to which 40 of all lead, and 2 to the niche, to which 2 of all lead.
HUB, NICHE = 0, 1
TRIPLES = {"count": [4, 2], "total": [10, 10], "popularity": [40, 2], "pair_count": 100, "smoothing": 0}


def test_without_damping_it_is_the_frequency() -> None:
    found = weight(**TRIPLES, age_days=[0, 0], damping=0)

    np.testing.assert_allclose(found, [0.4, 0.2])


def test_at_damping_one_it_is_the_lift() -> None:
    found = weight(**TRIPLES, age_days=[0, 0], damping=1)

    np.testing.assert_allclose(found, [0.4 / 0.4, 0.2 / 0.02])  # a lift of 1: q does not change how likely the hub is


def test_damping_in_between_prefers_what_belongs_to_the_query() -> None:
    found = weight(**TRIPLES, age_days=[0, 0], damping=0.5)

    np.testing.assert_allclose(found, [0.4 / 0.4**0.5, 0.2 / 0.02**0.5])
    assert found[NICHE] > found[HUB]


@pytest.mark.parametrize("days", [0.0, 7.0, 14.0])
def test_it_halves_with_every_half_life(days: float) -> None:
    fresh = weight(**TRIPLES, age_days=[0, 0], half_life_days=7)

    old = weight(**TRIPLES, age_days=[days, days], half_life_days=7)

    np.testing.assert_allclose(old, fresh * {0: 1, 7: 0.5, 14: 0.25}[days])


def test_no_triples_have_no_weights() -> None:
    assert weight([], [], [], [], pair_count=0).shape == (0,)
