"""Scores many rows with a click model: sorted by length, in float32, in batches of bounded size.

It knows nothing about calibration, caches or where rows come from.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctr.features import Batch, Ints, Layout, Lists, compose, row_lengths

_BATCH_TOKENS = 8_192
_CHUNK_ROWS = 65_536  # bounds memory, whatever the number of rows


def score_rows(model: Any, lists: Lists, first: Ints, position: Ints, layout: Layout) -> NDArray[np.float32]:
    """Logits of P(click) of rows, (R,), in evaluation mode; the model's mode is left as it was."""
    found = np.empty(len(position), np.float32)
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(position), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            found[part] = _score_chunk(model, lists, np.asarray(first[part]), np.asarray(position[part]), layout)
    finally:
        model.train(was_training)
    return found


def to_tensors(batch: Batch, device: Any) -> tuple[Any, Any, Any, Any]:
    """The arguments of the model's forward pass, on its device."""
    arrays = (batch.token_ids, batch.segments, batch.domains, batch.mask)
    token_ids, segments, domains, mask = (torch.from_numpy(each).to(device, non_blocking=True) for each in arrays)
    return token_ids, segments, domains, mask


def _score_chunk(model: Any, lists: Lists, first: Ints, position: Ints, layout: Layout) -> NDArray[np.float32]:
    found = np.empty(len(position), np.float32)
    lengths = row_lengths(lists, first, position, layout)
    order = np.argsort(lengths, kind="stable")
    begin = 0
    with torch.inference_mode():
        while begin < len(order):
            end = _end_of_batch(lengths, order, begin)
            rows = order[begin:end]
            batch = compose(lists, first[rows], position[rows], layout)
            found[rows] = model(*to_tensors(batch, model.device)).cpu().numpy()
            begin = end
    return found


def _end_of_batch(lengths: NDArray[np.int64], order: NDArray[np.int64], begin: int) -> int:
    """The longest run of rows from `begin`, in rising length, that fits into a batch; one row at least."""
    sizes = lengths[order[begin : begin + _BATCH_TOKENS]] * np.arange(1, len(order[begin : begin + _BATCH_TOKENS]) + 1)
    return begin + max(1, int(np.searchsorted(sizes, _BATCH_TOKENS, side="right")))
