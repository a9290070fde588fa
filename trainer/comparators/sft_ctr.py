"""SFT on the chosen lists of Algorithm 1's first round (GQR B.2)."""

from trainer.comparators.trained import Trained
from trainer.workshop import Workshop

COMPARATOR = Trained(category="ctr", rank=1, method="sft", lists=Workshop.searched_pairs)
