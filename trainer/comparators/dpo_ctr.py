"""DPO on the pairs of Algorithm 1's first round: one round of it (GQR B.2)."""

from trainer.comparators.trained import Made
from trainer.workshop import Workshop

COMPARATOR = Made(category="ctr", rank=4, policy=Workshop.first_round)
