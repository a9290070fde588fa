"""How often a response says again what it said already, or what the person asked.

It knows nothing about who wrote it.
"""

from service.contract.prompt import UnifiedTask
from service.contract.query_text import match_key, one_line
from trainer.prompts import AlignmentPrompt


def repeats(text: str, task: UnifiedTask, prompt: AlignmentPrompt, separator: str) -> int:
    """Queries of a response that stand above in it, or are the person's own."""
    mark = separator.strip()
    lines = [line for line in text.split("\n") if line.partition(":")[0].strip().lower() not in task.auxiliary]
    keys = [key for line in lines for piece in line.split(mark) if (key := match_key(one_line(piece)))]
    said = {match_key(one_line(prompt.context.query or ""))}
    repeated = 0
    for key in keys:
        repeated += key in said
        said.add(key)
    return repeated
