"""DPO on clicked lists against lists that SFT writes now without the clicked query (GQR B.2)."""

from trainer.comparators.trained import Trained
from trainer.workshop import Workshop

COMPARATOR = Trained(category="clk", rank=4, method="dpo", lists=Workshop.clicked_pairs)
