"""What a token-level reward model is trained on: TPPO eq. 1 to 3. Pure tensors.

It knows nothing about models or rows. (B, T) are tokens of prompts and responses; classes are those of `trainer.words`.
"""

import torch
from torch import Tensor
from torch.nn import functional

CLASSES = 3


def local_loss(logits: Tensor, classes: Tensor, valid: Tensor, *, weights: Tensor) -> Tensor:
    """Weighted cross-entropy of the classes of valid tokens, summed over a response, mean over responses: eq. 1.

    Args:
        logits: (B, T, 3).
        classes: 0, 1 or 2 for each token, (B, T); anything where `valid` is False.
        valid: the set V: tokens of responses, balanced, (B, T).
        weights: w_c of each class, (3,).
    """
    known = classes.masked_fill(~valid, 0)
    each = functional.cross_entropy(logits.float().transpose(1, 2), known, weight=weights, reduction="none")
    return each.masked_fill(~valid, 0.0).sum(1).mean()


def global_loss(logits: Tensor, classes: Tensor, valid: Tensor, *, relevant: Tensor) -> Tensor:
    """Squared distance of the mean reward of a response's words from the class of the whole, mean over responses: eq. 2.

    The paper takes the likeliest class of each token, which has no gradient; here it is the expected one. Its set V keeps class
    0, so that many separators would make a good response look bad; here the mean is over tokens of classes 1 and 2. A
    response without any such token tells nothing, and counts as 0.

    Args:
        logits: (B, T, 3).
        classes: (B, T).
        valid: (B, T).
        relevant: whether each response is relevant as a whole, (B,); R_global is 2 then, else 1.
    """
    words = valid & (classes > 0)
    expected = logits.float().softmax(-1) @ torch.arange(CLASSES, device=logits.device, dtype=torch.float32)
    count = words.sum(1)
    mean = expected.masked_fill(~words, 0.0).sum(1) / count.clamp(min=1)
    return ((mean - (1.0 + relevant.float())).square() * (count > 0)).mean()


def balanced(classes: Tensor, mask: Tensor, *, most: float, generator: torch.Generator) -> Tensor:
    """The set V of training, (B, T): the more frequent of classes 1 and 2 is thinned out at random to `most` times the other.

    Class 0 stays. Where a class is absent there is nothing to balance with, and all stay.

    Args:
        classes: (B, T).
        mask: True where a token is one of a response, (B, T).
        most: of the more frequent class, for each of the other; the paper's bounds are 1:3 and 3:1.
        generator: decides who stays.
    """
    counts = [int(((classes == kind) & mask).sum()) for kind in (1, 2)]
    if not all(counts) or max(counts) <= most * min(counts):
        return mask
    frequent = 1 + counts.index(max(counts))
    stays = torch.rand(classes.shape, generator=generator).to(classes.device) < most * min(counts) / max(counts)
    return mask & (stays | (classes != frequent))
