"""Writes the model card of a starter policy: what it is, its figures, what it writes, where it fails.

It knows nothing about training; every figure is handed in.
"""

from collections.abc import Sequence
from typing import Any

from service.contract.policy import Decoding
from service.contract.tasks import get_task
from service.contract.types import EventSource, HistoryEvent, PromptContext
from trainer.catalogue.example import Example
from trainer.evaluate import Quality, Written

# Queries from outside the catalogue's phrasing, shown in the card as they come, with the first seed.
PROBES = (
    "how to cook rice", "kyoto", "best laptop for college students", "python list comprehension",
    "headache after running", "cheap flights to lisbon", "what is inflation", "samsung tv won't turn on",
    "toddler won't sleep", "galaxy s24 battery life", "divorce lawyer cost", "gluten free pancakes",
)  # fmt: skip

_CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# nextquery starter policy: {name}

A small Llama ({parameters:.1f} million parameters, {layers} layers of {width}, byte-level BPE of 4,096 lower-case tokens,
context 1,024) that continues search queries. {purpose} It writes English only.

It reads the unified prompt of nextquery (GQR, template 1) as token ids; serve it through nextquery, which renders
the prompt and checks by its fingerprint that it is the one this model was trained on.

## Training

Trained from random weights on examples composed from the project's catalogue: kinds of things, entities, facets and
which facet people ask about next, all written for this project, and made-up names so that it learns to copy. No
text of people and no other model's output was used. One entity in ten was held out from every example.

{training}

## Figures

{lists} `suggest` queries of 3 wanted each, whose entities no training example names: {held_out} held-out entities of the
catalogue, {made_up} made-up names. Sampled as served (temperature {decoding.temperature},
top_p {decoding.top_p}, presence penalty {decoding.presence_penalty}, frequency penalty {decoding.frequency_penalty}),
which was chosen on other queries of this kind.

| figure | value | bar |
|---|---:|---:|
| `parse_ok_share`: finished, parsed, all queries there | {parse_ok:.3f} | 0.99 |
| `on_entity_share`: listed queries with every word of the entity | {on_entity:.3f} | 0.90 |
| `distinct_share`: listed queries not repeated in their list | {distinct:.3f} | 0.97 |
| `on_kind_share`: 300 names that training knows, asked without a wish: listed queries that fit such a thing | {on_kind:.3f} | |

The entities are new, but the phrasing of these queries is the catalogue's; freely worded queries do worse.

## What it writes

Not chosen: one sample each.

{samples}

## Failures seen

{failures}
"""


def probe_examples() -> list[Example]:
    """One example for each probe query, and one for each task besides `suggest`."""
    history = (
        HistoryEvent(source=EventSource.SEARCH, text="best hiking boots"),
        HistoryEvent(source=EventSource.CLICK, text="hiking boots: sizes"),
        HistoryEvent(source=EventSource.SEARCH, text="flights to oslo"),
    )
    probes = [Example(task="suggest", context=PromptContext(n=3, query=query)) for query in PROBES]
    return [
        *probes,
        Example(task="clarify", context=PromptContext(n=5, query="jaguar")),
        Example(task="clarify", context=PromptContext(n=5, query="tomatoes")),
        Example(task="snippets", context=PromptContext(n=8, query="write a poem about rain")),
        Example(
            task="hint", context=PromptContext(n=1, session=("sourdough starter", "how to feed sourdough starter"))
        ),
        Example(task="predict", context=PromptContext(n=3, history=history)),
    ]


def model_card(
    *, name: str, purpose: str, training: str, config: Any, quality: Quality, on_kind: float,
    counts: tuple[int, int], decoding: Decoding, samples: Sequence[Written], separator: str, failures: str,
) -> str:  # fmt: skip
    """The card as Markdown. `counts`: held-out and made-up entities asked about; `config`: the model's own."""
    return _CARD.format(
        name=name,
        purpose=purpose,
        training=training,
        parameters=_parameters(config) / 1e6,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        lists=quality.lists,
        held_out=counts[0],
        made_up=counts[1],
        decoding=decoding,
        parse_ok=quality.parse_ok_share,
        on_kind=on_kind,
        on_entity=quality.on_entity_share,
        distinct=quality.distinct_share,
        samples="\n".join(_sample(item, separator) for item in samples),
        failures=failures,
    )


def _sample(item: Written, separator: str) -> str:
    context = item.example.context
    asked = context.query or " / ".join([*context.session, *(event.text for event in context.history)])
    parsed = get_task(item.example.task).parse(item.text, n=context.n, separator=separator)
    texts = "".join(f"*{name}: {text}* " for name, text in parsed.texts.items())
    return f"- `{item.example.task}` **{asked}**: {texts}{' | '.join(parsed.queries) or parsed.problem}"


def _parameters(config: Any) -> int:
    width, head = config.hidden_size, config.head_dim
    attention = width * head * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
    layer = attention + 3 * width * config.intermediate_size + 2 * width
    return int(config.vocab_size * width + config.num_hidden_layers * layer + width)
