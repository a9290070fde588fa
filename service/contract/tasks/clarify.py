"""clarify: a clarifying question with options, for an ambiguous query (GQR's query clarification, MIMICS).

It knows nothing about engines or training.
"""

from service.contract.prompt import UnifiedTask

TASK = UnifiedTask(
    name="clarify",
    instruction="The query is unclear. Write a clarifying question and {n} options to click.",
    default_n=5,
    max_n=5,
    needs_query=True,
    single_choice=True,
    auxiliary=("question",),
)
