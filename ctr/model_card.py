"""Writes the model card of a click predictor: what it is, what it was trained on, its figures, its limits.

It knows nothing about training; every figure is handed in.
"""

from collections.abc import Mapping
from typing import Any

from ctr.evaluate import Evaluation
from ctr.metrics import Metrics

_CARD = """---
library_name: transformers
pipeline_tag: text-classification
tags: [click-through-rate, query-recommendation, nextquery]
---

# {version}

The probability that a person clicks the k-th query of a list, given their own query and the queries before it (GQR
3.2.1): a {backbone} with {layers} layers of {width}, variant `{variant}`, and a two-layer MLP on its first token.
Task: `{task}`.

Use it through nextquery, which composes the rows, checks every file, and calibrates the scores:

```python
from ctr.predictor import list_reward, open_predictor

predictor = open_predictor(directory)
p = predictor.p_click(context, queries)
```

## Training

Impressions and clicks of {window}: N rows a list, a row is a click where a `click` event came for its position.

| part | days | rows |
|---|---|---:|
{parts}

Of the lists without a click {keep_share:.0%} were kept for training, which the predictor undoes. Adam, {steps:,} steps of
{batch_size} rows. Platt's slope is {slope:.3f}, its offset {offset:+.3f}. Lists that could not be read: {skipped}.

## Figures

On the test days, from which nothing was learnt. `diff_ctr` is GQR eq. 9 over {days} days of {rows_per_day:,} rows each.

{methods}

This model by how often the query was shown in training, and by position:

{slices}

![Reliability](reliability.png) ![ROC](roc.png)

## Limits

- It predicts clicks on lists that the policies of its time showed. A search for its maximum finds its errors: expect a
  gain that is about half of the predicted one (GQR table 4), and judge with another predictor than the one searched with.
- Positions beyond {positions} count as {positions}. Queries are cut after 24 tokens.
- It was trained on what people did on one product, and says nothing about another.
"""
_COLUMNS = ("auc", "gauc", "pair_accuracy", "logloss", "normalised_entropy", "pcoc", "ece")


def model_card(config: Any, evaluation: Evaluation, facts: Mapping[str, Any]) -> str:
    """The card as Markdown. `config` is the model's, `facts` its manifest."""
    shape = config.backbone
    training, platt = facts["training"], facts["calibration"]
    return _CARD.format(
        version=facts["version"],
        task=facts["task"],
        backbone=shape["model_type"],
        layers=shape.get("num_hidden_layers", 12),  # transformers leaves out what is BERT's default
        width=shape.get("hidden_size", 768),
        variant=config.variant,
        positions=config.positions,
        window=" to ".join(moment[:10] for moment in facts["window"]),
        parts="\n".join(
            f"| {part} | {_span(days)} | {facts['rows'][part]:,} |" for part, days in facts["days"].items()
        ),
        keep_share=config.keep_share,
        steps=training["steps"],
        batch_size=training["batch_size"],
        slope=platt["slope"],
        offset=platt["offset"],
        skipped=sum(facts["skipped"].values()),
        days=evaluation.days,
        rows_per_day=evaluation.rows_per_day,
        methods=_table("method", evaluation.methods, evaluation.diff_ctr),
        slices=_table("slice", {**evaluation.slices["frequency"], **_named(evaluation.slices["position"])}),
    )


def _span(days: list[str]) -> str:
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _named(positions: Mapping[str, Metrics]) -> dict[str, Metrics]:
    return {f"position {name}": metrics for name, metrics in positions.items()}


def _table(title: str, rows: Mapping[str, Metrics], diff_ctr: Mapping[str, float | None] | None = None) -> str:
    columns = ["rows", *_COLUMNS, *(["diff_ctr"] if diff_ctr else [])]
    lines = [f"| {title} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name, metrics in rows.items():
        cells = [f"{metrics.rows:,}", *(_cell(getattr(metrics, column)) for column in _COLUMNS)]
        cells += [_cell(diff_ctr[name])] if diff_ctr else []
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
