"""The policy that was fine-tuned on annotated lists, as it is: what every other row is compared with."""

from trainer.comparators.trained import Made
from trainer.workshop import Workshop

COMPARATOR = Made(category="baseline", rank=2, policy=Workshop.start)
