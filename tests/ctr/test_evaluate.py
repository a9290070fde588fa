"""The table of metrics: every method on the same rows, slices that add up, and equation 9 over equal samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctr.baselines.cross_encoder import CrossEncoderBaseline
from ctr.baselines.hashed_words import HashedWords
from ctr.baselines.popularity import Popularity
from ctr.baselines.position import Position
from ctr.dataset import DataConfig, Dataset, build_dataset
from ctr.evaluate import evaluate, frequency_of
from ctr.features import Variant
from ctr.metrics import auc
from ctr.plots import plot_reliability, plot_roc
from tests.ctr.small_log import Shown, small_log, snapshot_of, true_p


@pytest.fixture(scope="module")
def log() -> list[Shown]:
    """Nine days of lists, more on some than on others."""
    return [shown for shown in small_log(9, 400) if shown.day % 2 == 0 or int(shown.impression_id, 16) % 2 == 0]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any, log: list[Shown]) -> Dataset:
    """Three of the nine days test; half of the lists without a click are left out of training."""
    place = tmp_path_factory.mktemp("data")
    config = DataConfig(task="suggest", keep_share=0.5)
    return build_dataset(snapshot_of(place / "log", log), tokenizer, place / "data", config)


@pytest.fixture(scope="module")
def truth(log: list[Shown]) -> Any:
    """The true probability of each test row."""
    tested = [shown for shown in log if shown.day >= 6]
    return np.concatenate([true_p((shown.user_query or "").removeprefix("about "), shown.queries) for shown in tested])


def test_the_truth_is_calibrated_and_ranks_best(data, truth):
    position = Position()
    position.fit(data.train)

    found = evaluate(data, {"truth": truth, "position": position.predict(data.test)})

    # About 2,400 rows with 450 clicks: clicks vary by 19, 4 %, and days by that times sqrt(3).
    assert found.methods["truth"].pcoc == pytest.approx(1.0, abs=4 * 0.045)
    assert found.methods["truth"].auc > found.methods["position"].auc + 0.1
    assert found.diff_ctr["truth"] < 0.03


def test_equation_9_takes_as_many_rows_of_each_day(data, truth):
    found = evaluate(data, {"truth": truth})

    days = np.unique(data.test.list_day[data.test.row_list], return_counts=True)[1]
    assert len(set(days)) > 1
    assert (found.days, found.rows_per_day) == (3, days.min())


def test_slices_of_a_kind_add_up_to_all_rows(data, truth):
    found = evaluate(data, {"truth": truth})

    assert {kind: sum(m.rows for m in parts.values()) for kind, parts in found.slices.items()} == dict.fromkeys(
        ("position", "task", "arm", "frequency"), len(data.test)
    )
    assert list(found.slices["position"]) == ["1", "2", "3"]
    assert set(found.slices["arm"]) == {"control", "treatment"}
    assert list(found.slices["frequency"]) == ["head", "torso", "tail"]


def test_head_torso_and_tail_are_thirds_by_how_often_a_query_was_shown(tmp_path, tokenizer):
    # In training `a` was shown four times, `b` twice, `c` once and `d` never; each is shown twice on the test day.
    train = [("a", "b"), ("a", "b"), ("a", "c"), ("a", "x")]
    test = [("a", "b"), ("a", "b"), ("c", "c"), ("d", "d")]
    shown = {0: train, 1: test, 2: test, 3: test}
    log = [
        Shown(f"{day}-{number}", day, "q", queries, (1,) if number == 0 else ())
        for day, lists in shown.items()
        for number, queries in enumerate(lists)
    ]
    data = build_dataset(snapshot_of(tmp_path / "log", log), tokenizer, tmp_path / "data", DataConfig(task="suggest"))

    found = frequency_of(data.train, data.test)

    # Of eight rows with counts 0 0 1 1 2 2 4 4 the cuts at a third and two thirds are 1 and 2.
    assert found.tolist() == ["head", "torso", "head", "torso", "tail", "tail", "tail", "tail"]


def test_baselines_make_up_for_sampling(data):
    for baseline in (Position(), Popularity(), HashedWords()):
        baseline.fit(data.train)
        p = baseline.predict(data.test)

        clicks = data.test.label.sum()
        # Clicks of training and test vary by about 5 % each, and the sampled lists add a little.
        assert p.sum() / clicks == pytest.approx(1.0, abs=4 * 0.08), baseline.name


def test_the_position_baseline_is_the_click_rate_of_each_position(data, log):
    position = Position()

    position.fit(data.train)

    trained = [shown for shown in log if shown.day < 4]
    for k in (1, 2, 3):
        real = np.mean([k in shown.clicked for shown in trained])
        predicted = position.predict(data.test)[data.test.position[:] == k]
        assert predicted == pytest.approx(real, abs=0.03)  # lists without a click are a sample of half


def test_an_unseen_query_has_the_popularity_of_all(tmp_path, tokenizer):
    log = [
        Shown(f"{day}-{n}", day, "q", ("seen" if day < 3 else f"new {n}",), (1,) if n < 2 else ())
        for day in range(4)
        for n in range(8)
    ]
    data = build_dataset(snapshot_of(tmp_path / "log", log), tokenizer, tmp_path / "data", DataConfig(task="suggest"))
    popularity = Popularity()

    popularity.fit(data.train)

    assert popularity.predict(data.test).tolist() == [0.25] * 8
    assert popularity.predict(data.validation).tolist() == [0.25] * 8  # (2 + 20 * .25) / (8 + 20)


def test_pairs_of_words_beat_the_words_of_the_query_alone(data, truth):
    words, popularity = HashedWords(), Popularity()
    words.fit(data.train)
    popularity.fit(data.train)

    labels = data.test.label[:]
    assert auc(labels, words.predict(data.test)) > auc(labels, popularity.predict(data.test)) + 0.02


@pytest.mark.slow
def test_the_cross_encoder_runs_on_the_same_rows(tmp_path, data, tokenizer):
    from transformers import BertConfig, BertModel

    shape = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    shape.initializer_range = 0.1
    BertModel(shape).save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    pid = CrossEncoderBaseline(tmp_path / "start", Variant.PID, epochs=4, batch_size=64, learning_rate=3e-3)

    pid.fit(data.train)
    p = pid.predict(data.test)

    assert pid.name == "cross_encoder_pid"
    assert p.shape == (len(data.test),)
    assert pid._pair(data.test, 1)[1].endswith("_2")
    assert auc(data.test.label[:], p) > 0.5


def test_plots_are_png(tmp_path: Path, data, truth):
    predictions = {"truth": truth, "half": np.full(len(truth), 0.5)}

    plot_reliability(data.test.label[:], predictions, tmp_path / "reliability.png")
    plot_roc(data.test.label[:], predictions, tmp_path / "roc.png")

    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000
