"""Training begins with what words say, also of rows that nobody was shown, and ends with the clicks."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctr.dataset import DataConfig, build_dataset
from ctr.features import Lists, Variant
from ctr.lessons import Lesson, Lessons, eased, recombined, shown
from ctr.merge import merged
from ctr.rows import Rows
from ctr.words import WordRates
from tests.ctr.small_log import small_log, snapshot_of


@pytest.fixture(scope="module")
def rows(tmp_path_factory, tokenizer) -> Rows:
    place = tmp_path_factory.mktemp("lessons")
    data = build_dataset(
        snapshot_of(place / "log", small_log(4, 300)), tokenizer, place / "data", DataConfig(task="suggest")
    )
    return merged(data.train, Variant.CTX)


@pytest.fixture(scope="module")
def rates(rows, tokenizer) -> WordRates:
    return WordRates(rows, len(tokenizer), Variant.CTX)


def query(lists: Lists, number: int) -> list[int]:
    return [int(token) for token in lists.tokens[lists.starts[number] : lists.starts[number + 1]]]


def queries_of(rows: Rows, row: int) -> list[list[int]]:
    """Tokens of q_user and all queries down to the target."""
    first = int(rows.first[row])
    return [query(rows.lists, first + k) for k in range(int(rows.position[row]) + 1)]


def test_a_recombined_row_has_what_stands_before_one_target_and_the_target_of_another(rows):
    chosen, target = np.arange(40), np.arange(40)[::-1] + 60

    lists, first = recombined(rows, chosen, target)

    for n in range(40):
        expected = [*queries_of(rows, chosen[n])[:-1], queries_of(rows, target[n])[-1]]
        assert [query(lists, int(first[n]) + k) for k in range(len(expected))] == expected
        begin, end = lists.starts[first[n]], lists.starts[first[n] + len(expected)]
        assert list(lists.domains[begin:end]) == [k for k, words in enumerate(expected) for _ in words]


def test_at_first_rows_are_such_that_nobody_was_shown_and_have_the_label_of_words(rows, rates):
    chosen = np.arange(len(rows))

    first, late = (Lessons(rows, rates, seed=3).of(chosen, step=0, done=done) for done in (0.0, 0.9))

    assert 0.8 < unshown(rows, first).mean() < 1.0  # there are few different queries, so some get the one they had
    assert 0.3 < unshown(rows, late).mean() < 0.5  # .9 ** 6 = .53 of the rows are those shown
    for lesson in (first, late):
        of_words, changed = rates.of(lesson.lists, lesson.first, lesson.position), unshown(rows, lesson)
        assert lesson.label[changed] == pytest.approx(of_words[changed], abs=1e-6)
        assert (lesson.weight[changed] == 1.0).all()


def unshown(rows: Rows, lesson: Lesson) -> NDArray[np.bool_]:
    """Which rows have another target than they were shown with."""
    targets = [query(lesson.lists, int(lesson.first[n]) + int(rows.position[n])) for n in range(len(rows))]
    return np.array([target != queries_of(rows, n)[-1] for n, target in enumerate(targets)])


def test_at_the_end_all_rows_are_those_shown_with_their_clicks(rows, rates):
    chosen = np.arange(0, len(rows), 3)

    last, as_shown = Lessons(rows, rates, seed=3).of(chosen, step=99, done=1.0), shown(rows, chosen)

    assert last.lists is rows.lists
    for name in ("first", "position", "label", "weight"):
        assert getattr(last, name) == pytest.approx(getattr(as_shown, name))
    assert as_shown.label == pytest.approx(rows.label[chosen])


def test_the_seed_and_the_step_decide_what_is_beside_the_rows_shown(rows, rates):
    def first_words(seed: int, step: int) -> Any:
        return Lessons(rows, rates, seed).of(np.arange(64), step=step, done=0.2).lists.tokens.tolist()

    assert first_words(3, 5) == first_words(3, 5)
    assert first_words(3, 5) != first_words(3, 6)
    assert first_words(3, 5) != first_words(4, 5)


def test_labels_begin_at_what_words_say_and_end_at_the_clicks():
    clicked, of_words = np.array([0.0, 1.0, 0.25]), np.array([0.1, 0.3, 0.2], np.float32)

    assert eased(clicked, of_words, 0.0) == pytest.approx(of_words)
    assert eased(clicked, of_words, 1.0) == pytest.approx(clicked)
    assert eased(clicked, of_words, 0.5) == pytest.approx(of_words + (clicked - of_words) / 64)  # (1 / 2) ** 6
