"""hint: the one query shown in the empty search box, from the session so far (GQR T3).

Nothing needs to be typed. It knows nothing about engines or training.
"""

from service.contract.prompt import UnifiedTask

TASK = UnifiedTask(
    name="hint",
    instruction="Write {n} query for the search box, from what the user did in this session.",
    default_n=1,
    max_n=3,
    needs_query=False,
    single_choice=True,
)
