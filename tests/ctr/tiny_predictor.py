"""A sealed click predictor with random weights: what a service needs to score, in a second.

It knows nothing about training, so that its probabilities mean nothing.
"""

from pathlib import Path

import torch

from ctr.model import from_scratch
from ctr.predictor import KIND
from ctr.tokenizer import default_tokenizer, load_tokenizer
from service.contract.artifact import seal


def tiny_predictor(directory: Path, *, version: str, task: str = "*", kind: str = KIND, seed: int = 1) -> Path:
    """A predictor for `task` in `directory`, as `nextquery ctr train` leaves it, less card and figures."""
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(default_tokenizer())
    model = from_scratch("bert", "tiny", tokenizer, variant="ctx", positions=10)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    seal(directory, {"kind": kind, "version": version, "task": task, "calibration": {"slope": 1.0, "offset": -1.0}})
    return directory
