"""predict: the next queries of a person, from their long-term history (TPPO 3.1).

Nothing needs to be typed. It knows nothing about engines or training.
"""

from service.contract.prompt import UnifiedTask

TASK = UnifiedTask(
    name="predict",
    instruction="Predict the next {n} queries of the user from the history.",
    default_n=3,
    max_n=10,
    needs_query=False,
    single_choice=False,
)
