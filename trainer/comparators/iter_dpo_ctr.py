"""Iterative DPO: Algorithm 1 until it gains no more (GQR 3.2.2)."""

from trainer.comparators.trained import Made
from trainer.workshop import Workshop

COMPARATOR = Made(category="ctr", rank=5, policy=Workshop.last_round)
