"""What words alone say of a click: the slow way gives the same, and training begins there and ends at the clicks."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ctr.dataset import DataConfig, build_dataset
from ctr.features import Variant
from ctr.merge import merged
from ctr.train import _eased
from ctr.words import word_rates
from tests.ctr.small_log import small_log, snapshot_of


@pytest.fixture(scope="module")
def rows(tmp_path_factory, tokenizer):
    place = tmp_path_factory.mktemp("words")
    data = build_dataset(
        snapshot_of(place / "log", small_log(4, 300)), tokenizer, place / "data", DataConfig(task="suggest")
    )
    return merged(data.train, Variant.PID)


@pytest.mark.parametrize("with_position", [True, False])
def test_rates_are_those_of_a_regression_on_dense_counts(rows, tokenizer, with_position):
    size = len(tokenizer)
    used = sorted({int(token) for token in rows.lists.tokens})
    column = {token: number for number, token in enumerate(used)}
    dense = np.zeros((len(rows), len(used) + 13))
    for row in range(len(rows)):
        query = int(rows.first[row]) + int(rows.position[row])
        tokens = rows.lists.tokens[rows.lists.starts[query] : rows.lists.starts[query + 1]]
        for token in tokens:
            dense[row, column[int(token)]] += 1.0 / np.sqrt(len(tokens))
        if with_position:
            dense[row, len(used) + int(rows.position[row])] = 1.0
    twice = np.concatenate([dense, dense])
    sides = np.repeat([1, 0], len(rows))
    share = np.asarray(rows.label, np.float64)
    weight = np.concatenate([rows.weight * share, rows.weight * (1.0 - share)])
    slow = LogisticRegression(C=10.0, max_iter=2000).fit(twice, sides, weight).predict_proba(dense)[:, 1]

    found = word_rates(rows, size, with_position=with_position)

    assert found.shape == (len(rows),)
    assert np.abs(found - slow).max() < 0.01


def test_more_rows_than_are_fitted_on_are_all_rated(rows, tokenizer, monkeypatch):
    monkeypatch.setattr("ctr.words._MOST_ROWS", 100)

    found = word_rates(rows, len(tokenizer), with_position=True)

    assert len(found) == len(rows) > 100
    assert ((found > 0) & (found < 1)).all()


def test_labels_begin_at_the_rates_of_words_and_end_at_the_clicks():
    clicked, guide = np.array([0.0, 1.0, 0.25]), np.array([0.1, 0.3, 0.2], np.float32)

    assert _eased(clicked, guide, 0.0) == pytest.approx(guide)
    assert _eased(clicked, guide, 1.0) == pytest.approx(clicked)
    assert _eased(clicked, guide, 0.5) == pytest.approx(guide + 0.125 * (clicked - guide))  # (1 / 2) ** 3
