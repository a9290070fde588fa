"""What each step of training learns from: rows that were shown, and at first also rows that nobody was shown.

A model from scratch sets out from what words alone say (`ctr/words.py`; why, decision 0012). At first every row gets the
target of another row, and the label that words say; so there is no end of rows, and what words say is learnt as a rule, not
row by row. Late in the training rows turn to those that were shown, and their labels to the clicks themselves. At the end
all are rows that were shown, with their clicks: eq. 5 of GQR.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.features import Ints, Lists, ragged, tokens_of
from ctr.rows import Rows
from ctr.words import WordRates

_TURN = 6  # half of the rows are such as were shown after nine tenths of the training
_NEAR, _WITHIN = 0.8, 8  # share of the others whose target comes from a row about the same, so many rows away at most


@dataclass(frozen=True, slots=True)
class Lesson:
    """The rows of a step, B of them. `lists`, `first`, `position`: as `compose` takes them. `label`, `weight`: (B,)."""

    lists: Lists
    first: Ints
    position: Ints
    label: NDArray[np.float32]
    weight: NDArray[np.float32]


def shown(rows: Rows, chosen: Ints) -> Lesson:
    """The rows as they were shown and clicked."""
    first, position = rows.list_first[rows.row_list[chosen]], np.asarray(rows.position[chosen])
    return Lesson(
        rows.lists,
        first,
        position,
        np.asarray(rows.label[chosen], np.float32),
        np.asarray(rows.weight[chosen], np.float32),
    )


class Lessons:
    """Lessons for a model from scratch; the seed and the step alone decide what is beside the rows shown."""

    def __init__(self, rows: Rows, rates: WordRates, seed: int) -> None:
        """`rows`: of the training part, each once."""
        self._rows, self._rates, self._seed = rows, rates, seed
        self._of_words = rates.of(rows.lists, rows.first, rows.position)
        self._in_order = _by_rarest_word(rows, np.random.default_rng(seed))
        self._place = np.empty_like(self._in_order)
        self._place[self._in_order] = np.arange(len(rows))

    def of(self, chosen: Ints, *, step: int, done: float) -> Lesson:
        """What a step learns from these rows when that share of the training is done."""
        random = np.random.default_rng([self._seed, step])
        as_shown = shown(self._rows, chosen)
        label = eased(as_shown.label, self._of_words[chosen], done)
        unshown = random.random(len(chosen)) >= done**_TURN
        if not unshown.any():
            return Lesson(as_shown.lists, as_shown.first, as_shown.position, label, as_shown.weight)
        target = np.where(unshown, self._others(chosen, random), chosen)
        lists, first = recombined(self._rows, chosen, target)
        of_words = self._rates.of(lists, first[unshown], as_shown.position[unshown])
        label[unshown] = of_words
        return Lesson(lists, first, as_shown.position, label, np.where(unshown, np.float32(1), as_shown.weight))

    def _others(self, chosen: Ints, random: np.random.Generator) -> NDArray[np.int64]:
        """A row for each whose target to take: four in five about the same as it, the others any, (B,)."""
        anywhere = random.integers(0, len(self._rows), len(chosen))
        beside = self._place[chosen] + random.integers(-_WITHIN, _WITHIN + 1, len(chosen))
        near = self._in_order[np.clip(beside, 0, len(self._rows) - 1)]
        return np.where(random.random(len(chosen)) < _NEAR, near, anywhere)


def eased(clicked: NDArray[Any], of_words: NDArray[np.float32], done: float) -> NDArray[np.float32]:
    """Labels that turn from what words alone say to the clicks themselves while training goes from 0 to 1.

    Clicks on one row are few and chance; what words say of it is known from all rows. So a model from scratch learns that
    first, and what else there is late, at low learning rates.
    """
    return np.asarray(of_words + np.float32(done**_TURN) * (clicked - of_words), np.float32)


def recombined(rows: Rows, chosen: Ints, target: Ints) -> tuple[Lists, NDArray[np.int64]]:
    """Lists that hold what stands before the target in the rows `chosen`, then the targets of the rows `target`.

    Returns them with the index of each one's q_user, (B,); the position of each is that of its row in `chosen`.
    """
    lists = rows.lists
    first, position = (np.asarray(each, np.int64) for each in (rows.first[chosen], rows.position[chosen]))
    targets = np.asarray(rows.first[target], np.int64) + rows.position[target]
    row, k = ragged(position + 1)
    queries = np.where(k < position[row], first[row] + k, targets[row])
    tokens, lengths = tokens_of(lists, queries)
    return (
        Lists(tokens, np.repeat(k, lengths), np.concatenate([[0], np.cumsum(lengths)])),
        np.concatenate([[0], np.cumsum(position + 1)[:-1]]),
    )


def _by_rarest_word(rows: Rows, random: np.random.Generator) -> NDArray[np.int64]:
    """The rows in an order in which those whose q_user has the same rarest token stand together, (R,)."""
    lists, (asked, of_row) = rows.lists, np.unique(np.asarray(rows.first, np.int64), return_inverse=True)
    tokens, n = tokens_of(lists, asked)
    query = np.repeat(np.arange(len(n)), n)
    count = np.bincount(tokens, minlength=1)
    rarity = count[tokens] * len(count) + tokens
    rarest = np.full(len(asked), -1, np.int64)  # of a q_user without tokens
    rarest[query] = rarity
    np.minimum.at(rarest, query, rarity)
    return np.asarray(np.lexsort((random.random(len(of_row)), rarest[of_row])), np.int64)
