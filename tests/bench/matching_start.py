"""A start for click models of few lists: all-MiniLM-L6-v2, taught to tell how near the two texts of one row are.

As it comes it turns one text into one vector and has never read two together; a few hundred clicks do not teach it that.
Here it reads rows as a click model does, and [CLS] learns the cosine that its own vectors have (distillation into a
cross-encoder; the other way round is Augmented SBERT, Thakur and others 2021). No click is needed, and no text of the lists
that a click model is tested on is seen. It knows nothing about clicks.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctr.features import Layout, Lists, Variant, compose, layout_for, lists_of, row_lengths, tokenize
from ctr.model import from_start
from ctr.score import to_tensors
from ctr.tokenizer import default_tokenizer, load_tokenizer
from retrieval.encoder import Encoder, default_encoder

_PAIRS = 4_000  # that belong together; as many again are drawn among near texts, or among all
_NEAR, _NEAR_SHARE = 50, 0.75
_LONGEST = 90  # characters of a query, or of what stands in the place of a title
_MEAN_COSINE, _SPREAD = 0.45, 6.0  # the logit of a row is 6 (cosine - .45): about -3 .. 3
_BATCH, _SORTED = 32, 20
_PACE, _PACE_OF_NEW = 1e-4, 1e-3


def matching_start(data: Path, directory: Path, *, seed: int = 0) -> str:
    """Save such an encoder in `directory` and return its path; `data` holds shared texts without clicks."""
    random, tokenizer = Random(seed), load_tokenizer(default_tokenizer())
    texts, pairs, cosines = _with_near_texts(_pairs(data, random), random)
    encoded = tokenize(tokenizer, texts)
    lists = lists_of([encoded[one], encoded[other]] for one, other in pairs)
    torch.manual_seed(seed)
    layout = layout_for(tokenizer, Variant.PLAIN, 1)
    model = from_start(default_tokenizer(), tokenizer, variant=Variant.PLAIN.value, positions=1).eval()  # no dropout
    _teach(model, lists, layout, torch.from_numpy(_SPREAD * (cosines - _MEAN_COSINE)), random)
    model.backbone.save_pretrained(directory)
    return str(directory)


def _pairs(data: Path, random: Random) -> list[tuple[str, str]]:
    """Pairs that belong together: a query with an option, an answer's beginning, the next query, or one of its session.

    Panes of MIMICS-Duo are left out: click models are tested on them too.
    """
    found = []
    for row in _rows(data / "panes.jsonl"):
        if row["source"] != "mimics_duo":
            found.append((row["query"], random.choice(row["options"])))
    for row in _rows(data / "next_query.jsonl"):
        found.append((row["query"], row["answer"][:_LONGEST] or row["next_query"]))
        found.append((row["query"], row["next_query"]))
    for row in _rows(data / "sessions.jsonl"):
        one, other = random.sample(row["queries"], 2)
        found.append((one, other))
    return random.sample([pair for pair in found if all(pair) and len(pair[0]) <= _LONGEST], _PAIRS)


def _with_near_texts(
    pairs: list[tuple[str, str]], random: Random
) -> tuple[list[str], NDArray[np.int64], NDArray[np.float32]]:
    """The texts; pairs of them as numbers, (2 N, 2), each first text once more with another second; their cosines."""
    texts = sorted({text for pair in pairs for text in pair})
    number = {text: n for n, text in enumerate(texts)}
    vectors = Encoder(default_encoder()).encode(texts)
    natural = np.array([[number[one], number[other]] for one, other in pairs])
    seconds = np.unique(natural[:, 1])
    nearest = np.argsort(-vectors[natural[:, 0]] @ vectors[seconds].T, axis=1)[:, :_NEAR]
    drawn = [
        seconds[random.choice(near) if random.random() < _NEAR_SHARE else random.randrange(len(seconds))]
        for near in nearest
    ]
    both = np.concatenate([natural, np.column_stack([natural[:, 0], drawn])])
    return texts, both, np.einsum("nd,nd->n", vectors[both[:, 0]], vectors[both[:, 1]])


def _teach(model: Any, lists: Lists, layout: Layout, wanted: Any, random: Random) -> None:
    """One pass over the rows: the squared error of the logit, Adam, linear decay; words stay where they are."""
    words = model.backbone.get_input_embeddings().weight.requires_grad_(False)
    trained = [each for each in model.backbone.parameters() if each is not words]
    new = [*model.mlp.parameters(), *model.domain_embeddings.parameters()]
    groups = [{"params": trained, "highest": _PACE}, {"params": new, "highest": _PACE_OF_NEW}]
    optimizer = torch.optim.Adam(groups, fused=True)
    batches = list(_batches(lists, layout, len(wanted), random))
    for step, chosen in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * min((step + 1) / 20, 1 - step / len(batches))
        batch = compose(lists, 2 * chosen, np.ones_like(chosen), layout)
        loss = torch.nn.functional.mse_loss(model(*to_tensors(batch, "cpu")), wanted[chosen])
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*trained, *new], 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _batches(lists: Lists, layout: Layout, rows: int, random: Random) -> Iterator[NDArray[np.int64]]:
    """Rows in random order, sorted by length within every 20 batches."""
    order = np.array(random.sample(range(rows), rows))
    for begin in range(0, rows, _BATCH * _SORTED):
        chosen = order[begin : begin + _BATCH * _SORTED]
        lengths = row_lengths(lists, 2 * chosen, np.ones_like(chosen), layout)
        chosen = chosen[np.argsort(lengths, kind="stable")]
        parts = [chosen[at : at + _BATCH] for at in range(0, len(chosen), _BATCH)]
        yield from random.sample(parts, len(parts))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)
