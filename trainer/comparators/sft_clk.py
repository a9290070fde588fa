"""SFT on clicked lists (GQR B.2)."""

from trainer.comparators.trained import Trained
from trainer.workshop import Workshop

COMPARATOR = Trained(category="clk", rank=1, method="sft", lists=Workshop.clicked_lists)
