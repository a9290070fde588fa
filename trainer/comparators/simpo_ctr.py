"""SimPO on the pairs of Algorithm 1's first round (GQR B.2)."""

from trainer.comparators.trained import Trained
from trainer.workshop import Workshop

COMPARATOR = Trained(category="ctr", rank=3, method="simpo", lists=Workshop.searched_pairs)
