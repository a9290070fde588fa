"""Trains word embeddings only of the tokens that occur, which changes no result and saves most of a small model's step.

The embedding of a token that never occurs has no gradient, so Adam never moves it (there is no weight decay). Of a small
log those are nearly all of 30,000. It knows nothing about rows beyond the token ids in them.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ctr.features import Ints, Layout

_CHUNK = 1 << 20


class NarrowEmbedding(nn.Module):  # type: ignore[misc]
    """Looks up the rows of `used` tokens of an embedding; other tokens must not come."""

    def __init__(self, whole: Any, used: NDArray[np.int64]) -> None:
        """Begin with the rows of `whole` as they are, on its device."""
        super().__init__()
        self.whole = [whole]  # in a list, so that its weights are not among this module's
        self.used = torch.from_numpy(used).to(whole.weight.device)
        self.embedding_dim = whole.embedding_dim
        self.weight = nn.Parameter(whole.weight.detach()[self.used].clone())
        place = torch.zeros(whole.num_embeddings, dtype=torch.long, device=whole.weight.device)
        place[self.used] = torch.arange(len(used), device=whole.weight.device)
        self.register_buffer("place", place, persistent=False)

    def forward(self, token_ids: Any) -> Any:
        """Embeddings of token ids, (B, L, width)."""
        return nn.functional.embedding(self.place[token_ids], self.weight)


def narrow(model: Any, used: NDArray[np.int64]) -> None:
    """Put a narrow embedding in the place of the model's, on the same device."""
    model.backbone.set_input_embeddings(NarrowEmbedding(model.backbone.get_input_embeddings(), used))


def widen(model: Any) -> None:
    """Put the whole embedding back, with what was learnt since `narrow`."""
    part = model.backbone.get_input_embeddings()
    (whole,) = part.whole
    with torch.no_grad():
        whole.weight[part.used] = part.weight
    model.backbone.set_input_embeddings(whole)


def used_tokens(tokens: Iterable[Ints], layout: Layout, size: int) -> NDArray[np.int64]:
    """Ids of the tokens that rows of these arrays can have, special ones and suffixes included, in rising order."""
    seen = np.zeros(size, bool)
    seen[[layout.cls_id, layout.sep_id, layout.pad_id, *(token for suffix in layout.suffixes for token in suffix)]] = (
        True
    )
    for array in tokens:
        for begin in range(0, len(array), _CHUNK):
            seen[array[begin : begin + _CHUNK]] = True
    return np.flatnonzero(seen)
