"""What words alone say of a click: the slow way gives the same."""

from collections import defaultdict
from itertools import pairwise, product

import numpy as np
import pytest
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

from ctr.dataset import DataConfig, build_dataset
from ctr.features import Variant
from ctr.merge import merged
from ctr.words import WordRates
from tests.ctr.small_log import small_log, snapshot_of


@pytest.fixture(scope="module")
def rows(tmp_path_factory, tokenizer):
    place = tmp_path_factory.mktemp("words")
    data = build_dataset(
        snapshot_of(place / "log", small_log(4, 300)), tokenizer, place / "data", DataConfig(task="suggest")
    )
    return merged(data.train, Variant.PID)


@pytest.mark.parametrize("variant", Variant)
def test_rates_are_those_of_a_regression_on_words_and_their_pairs(rows, tokenizer, variant):
    queries = [
        [int(token) for token in rows.lists.tokens[begin:end]] for begin, end in pairwise(map(int, rows.lists.starts))
    ]
    features = []
    for first, position in zip(map(int, rows.first), map(int, rows.position), strict=True):
        asked, shown = queries[first], queries[first + position]
        seen = defaultdict(float)
        for token in shown:
            seen[token] += len(shown) ** -0.5
            for other in asked:
                seen[other, token] += 0.7 * (len(asked) * len(shown)) ** -0.5
        for left, right in pairwise(shown):
            seen["bigram", left, right] += 0.5 * (len(shown) - 1) ** -0.5
        seen["said"] = sum(token in asked for token in shown) / len(shown)
        seen["all said"] = float(seen["said"] == 1.0)
        seen["length"] = len(shown) / 10
        if variant is not Variant.PLAIN:
            seen[f"k={position}"] = 1.0
        if variant is Variant.CTX:
            before = [token for k in range(1, position) for token in queries[first + k]]
            seen["said above"] = sum(token in before for token in shown) / len(shown)
        if variant is Variant.CTX and position > 1:
            above = queries[first + position - 1]
            for token, other in product(shown, above):
                seen["above", other, token] += 0.35 * (len(above) * len(shown)) ** -0.5
        features.append({str(name): value for name, value in seen.items()})
    dense = DictVectorizer(sparse=False).fit_transform(features)
    twice = np.concatenate([dense, dense])
    sides = np.repeat([1, 0], len(rows))
    share = np.asarray(rows.label, np.float64)
    weight = 8.0 * np.concatenate([rows.weight * share, rows.weight * (1.0 - share)])
    slow = LogisticRegression(C=1.0, max_iter=2000).fit(twice, sides, weight).predict_proba(dense)[:, 1]

    found = WordRates(rows, len(tokenizer), variant, times=8.0).of(rows.lists, rows.first, rows.position)

    assert found.shape == (len(rows),)
    assert np.abs(found - slow).max() < 0.01


def test_more_rows_than_are_fitted_on_are_all_rated(rows, tokenizer, monkeypatch):
    monkeypatch.setattr("ctr.words._MOST_ROWS", 100)

    found = WordRates(rows, len(tokenizer), Variant.CTX).of(rows.lists, rows.first, rows.position)

    assert len(found) == len(rows) > 100
    assert ((found > 0) & (found < 1)).all()
