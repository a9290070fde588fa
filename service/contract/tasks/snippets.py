"""snippets: short refinements of a creative-writing request, with a guiding sentence (GQR T2).

prefix + snippet + suffix is a full request. It knows nothing about engines or training.
"""

from service.contract.prompt import UnifiedTask

TASK = UnifiedTask(
    name="snippets",
    instruction="The query asks for a piece of writing. Write a guiding sentence, a prefix, a suffix and {n} short snippets "
    "that refine it.",
    default_n=8,
    max_n=12,
    needs_query=True,
    single_choice=True,
    auxiliary=("guide", "prefix", "suffix"),
)
