"""suggest: follow-up queries after an answer (GQR T1).

It knows nothing about engines or training.
"""

from service.contract.prompt import UnifiedTask

TASK = UnifiedTask(
    name="suggest",
    instruction="Write {n} queries that the user is most likely to click next.",
    default_n=3,
    max_n=10,
    needs_query=True,
    single_choice=False,
)
