"""KTO on the chosen and the rejected lists of Algorithm 1's first round (GQR B.2)."""

from trainer.comparators.trained import Trained
from trainer.workshop import Workshop

COMPARATOR = Trained(category="ctr", rank=2, method="kto", lists=Workshop.searched_pairs)
