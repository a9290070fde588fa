"""KTO on clicked lists and on as many that were not clicked (GQR B.2)."""

from trainer.comparators.trained import Trained
from trainer.workshop import Workshop

COMPARATOR = Trained(category="clk", rank=2, method="kto", lists=Workshop.clicked_lists)
