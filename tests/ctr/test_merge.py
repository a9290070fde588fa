"""Rows that a model cannot tell apart become one, and nothing that was clicked or shown is lost."""

from collections import defaultdict

import numpy as np
import pytest

from ctr.dataset import DataConfig, build_dataset
from ctr.features import Variant, compose, layout_for
from ctr.merge import merged
from tests.ctr.small_log import small_log, snapshot_of


@pytest.fixture(scope="module")
def rows(tmp_path_factory, tokenizer):
    place = tmp_path_factory.mktemp("merge")
    config = DataConfig(task="suggest", most_lists=2)  # weights differ
    return build_dataset(snapshot_of(place / "log", small_log(4, 300)), tokenizer, place / "data", config).train


def seen_by(rows, variant, tokenizer):
    """What the model is given of each row, as bytes: the slow way to tell rows apart."""
    layout, position = layout_for(tokenizer, variant, 3), np.asarray(rows.position)
    found = []
    for row in range(len(rows)):
        batch = compose(rows.lists, rows.first[row : row + 1], position[row : row + 1], layout)
        k = position[row] if variant is not Variant.PLAIN else 0
        found.append((batch.token_ids.tobytes(), batch.domains.tobytes(), batch.segments.tobytes(), int(k)))
    return found


@pytest.mark.parametrize("variant", list(Variant))
def test_distinct_rows_are_those_that_a_model_tells_apart(rows, variant, tokenizer):
    clicks, shown = defaultdict(float), defaultdict(float)
    for seen, label, weight in zip(seen_by(rows, variant, tokenizer), rows.label, rows.weight, strict=True):
        clicks[seen] += label * weight
        shown[seen] += weight

    found = merged(rows, variant)

    mean = sum(shown.values()) / len(shown)
    seen = seen_by(found, variant, tokenizer)
    assert len(set(seen)) == len(seen) == len(shown) < len(rows)
    assert found.label == pytest.approx([clicks[each] / shown[each] for each in seen], abs=1e-6)
    assert found.weight == pytest.approx([shown[each] / mean for each in seen], rel=1e-5)


def test_rows_stay_in_the_order_of_their_first_showing(rows):
    found = merged(rows, Variant.CTX)

    assert (np.diff(found.row_list) >= 0).all()
