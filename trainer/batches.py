"""Composed examples as batches of token ids: grouped by length, in an order that only the seed decides.

It knows nothing about models. Rows are grouped instead of packed, so that each starts at position 0 without
neighbours, as in serving, and almost nothing is padding.
"""

from collections.abc import Iterator, Sequence
from itertools import count, islice
from random import Random
from typing import Any

from service.contract.tokenizer import PromptTokenizer
from trainer.catalogue.catalogue import load_catalogue
from trainer.catalogue.compose import compose, queries_in_a_row
from trainer.catalogue.example import Example
from trainer.encoding import Encoded, encode, encode_in_a_row

REAL_ONE_IN = 40  # 2.5 % real queries at most: they are few and would be learnt by heart
_POOL = 2048  # examples sorted by length together
_IN_A_ROW = 2048  # plain rows of queries beside them: a third of all tokens
_MAX_TOKENS = 320  # of a training row; one in two thousand is longer and left out


def batches(
    tokenizer: PromptTokenizer,
    *,
    seed: int,
    tokens: int,
    start: tuple[int, int] = (0, -1),
    real: Sequence[Example] = (),
) -> Iterator[tuple[tuple[int, int], list[Encoded]]]:
    """Batches of about `tokens` padded tokens without end, each with its position, from after `start`.

    `real`: examples of real people's queries; they are mixed in as one in `REAL_ONE_IN`.
    """
    catalogue = load_catalogue()
    for pool in count(start[0]):
        rng = Random(pool)
        its_seed = seed * 1_000_003 + pool
        examples = list(islice(compose(catalogue, its_seed), _POOL))
        examples[::REAL_ONE_IN] = rng.choices(real, k=len(examples[::REAL_ONE_IN])) if real else examples[::REAL_ONE_IN]
        plain = islice(queries_in_a_row(catalogue, its_seed), _IN_A_ROW)
        rows = [encode(example, tokenizer) for example in examples]
        rows += [encode_in_a_row(queries, tokenizer) for queries in plain]
        rows.sort(key=len)
        groups = _grouped([row for row in rows if len(row) <= _MAX_TOKENS], tokens)
        rng.shuffle(groups)
        for number, group in enumerate(groups):
            if (pool, number) > tuple(start):
                yield (pool, number), group


def padded(rows: list[Encoded], prompt_weight: float) -> tuple[Any, Any]:
    """Token ids (B, T) and the weight of each as a target (B, T); padding has weight 0."""
    import torch

    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    weights = torch.zeros(len(rows), longest)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row.prompt + row.response)
        weights[i, : len(row.prompt)] = prompt_weight
        weights[i, len(row.prompt) : len(row)] = 1.0
    return ids, weights


def _grouped(rows: list[Encoded], tokens: int) -> list[list[Encoded]]:
    """Neighbours in groups whose padded size is at most `tokens`."""
    groups: list[list[Encoded]] = [[]]
    for row in rows:
        if len(row) * (len(groups[-1]) + 1) > tokens and groups[-1]:
            groups.append([])
        groups[-1].append(row)
    return groups
