"""A start for click models of few lists: all-MiniLM-L6-v2, taught to read rows of `+pid`.

As it comes it turns one text into one vector and has never read two together; a few hundred clicks do not teach it that.
Here [CLS] learns what a row says: which `_k` it ends with, and how near its two texts are, which is the cosine of their own
vectors (distillation into a cross-encoder; the other way round is Augmented SBERT, Thakur and others 2021). No click is
needed, and no text of the lists that a click model is tested on is seen. What either bears on clicks is left to be learnt.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy, mse_loss

from ctr.features import MOST_POSITIONS, Layout, Lists, Variant, compose, layout_for, lists_of, row_lengths, tokenize
from ctr.model import from_start
from ctr.score import to_tensors
from ctr.tokenizer import default_tokenizer, load_tokenizer
from retrieval.encoder import Encoder, default_encoder

_PAIRS = 4_000  # that belong together; as many again are drawn among near texts, or among all
_NEAR, _NEAR_SHARE = 50, 0.75
_LONGEST = 90  # characters of a query, or of what stands in the place of a title
_MEAN_COSINE, _SPREAD = 0.45, 6.0  # the logit of a row is 6 (cosine - .45): about -3 .. 3
_NEAR_SIZE, _END_SIZE = 0.02, 0.05
_BATCH, _SORTED = 32, 20
_WARMUP = 20
_PACE, _PACE_OF_SHIFT = 1e-4, 1e-3


def matching_start(data: Path, directory: Path, *, seed: int = 0) -> str:
    """Save such an encoder in `directory` and return its path; `data` holds shared texts without clicks."""
    random, tokenizer = Random(seed), load_tokenizer(default_tokenizer())
    texts, pairs, cosines = _with_near_texts(_pairs(data, random), random)
    encoded = tokenize(tokenizer, texts)
    position = np.array([random.randint(1, MOST_POSITIONS) for _ in pairs])
    lists = lists_of([encoded[one], *[encoded[other]] * k] for (one, other), k in zip(pairs, position, strict=True))
    first = np.cumsum(position + 1) - (position + 1)
    layout = layout_for(tokenizer, Variant.PID, MOST_POSITIONS)
    torch.manual_seed(seed)
    backbone = from_start(default_tokenizer(), tokenizer, variant=Variant.PID.value, positions=1).backbone
    _teach(backbone, _Lessons(lists, first, position, cosines), layout, random)
    backbone.save_pretrained(directory)
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


@dataclass(frozen=True, slots=True)
class _Lessons:
    """Rows as `compose` takes them, and the cosine of the two texts of each, (R,)."""

    lists: Lists
    first: NDArray[np.int64]
    position: NDArray[np.int64]
    cosines: NDArray[np.float32]


def _teach(backbone: Any, lessons: _Lessons, layout: Layout, random: Random) -> None:
    """One pass over the rows without dropout, Adam with linear decay; words stay where they are.

    The directions of [CLS] in which the cosine and each `_k` stand are drawn and stay: the encoder has to make them large,
    and a click model then finds them among 384 with few clicks.
    """
    width = backbone.config.hidden_size
    near, ends = torch.randn(width) * _NEAR_SIZE, torch.randn(width, MOST_POSITIONS) * _END_SIZE
    shift = torch.zeros(1 + MOST_POSITIONS, requires_grad=True)
    words = backbone.get_input_embeddings()
    words.weight.requires_grad_(False)
    trained = [each for each in backbone.parameters() if each.requires_grad]
    groups = [{"params": trained, "highest": _PACE}, {"params": [shift], "highest": _PACE_OF_SHIFT}]
    optimizer = torch.optim.Adam(groups, fused=True)
    wanted = torch.from_numpy(_SPREAD * (lessons.cosines - _MEAN_COSINE))
    batches = list(_batches(lessons, layout, random))
    backbone.eval()
    for step, chosen in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * min((step + 1) / _WARMUP, 1 - step / len(batches))
        batch = compose(lessons.lists, lessons.first[chosen], lessons.position[chosen], layout)
        token_ids, segments, _, mask = to_tensors(batch, "cpu")
        encoded = backbone(inputs_embeds=words(token_ids), attention_mask=mask, token_type_ids=segments)
        cls = encoded.last_hidden_state[:, 0]
        nearness = mse_loss(cls @ near + shift[0], wanted[chosen])
        loss = nearness + cross_entropy(cls @ ends + shift[1:], torch.from_numpy(lessons.position[chosen] - 1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _batches(lessons: _Lessons, layout: Layout, random: Random) -> Iterator[NDArray[np.int64]]:
    """Rows in random order, sorted by length within every 20 batches."""
    order = np.array(random.sample(range(len(lessons.first)), len(lessons.first)))
    for begin in range(0, len(order), _BATCH * _SORTED):
        chosen = order[begin : begin + _BATCH * _SORTED]
        lengths = row_lengths(lessons.lists, lessons.first[chosen], lessons.position[chosen], layout)
        chosen = chosen[np.argsort(lengths, kind="stable")]
        parts = [chosen[at : at + _BATCH] for at in range(0, len(chosen), _BATCH)]
        yield from random.sample(parts, len(parts))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)
