"""The door of the click predictor: a context and queries in, calibrated click probabilities and list rewards out.

It knows nothing about training. Others import this module and no other of `ctr`.

    predictor = open_predictor(directory)
    p = predictor.p_click(context, queries)         # (N,), each given those before it
    list_reward(p, single_choice=False)             # GQR eq. 3; eq. 4 with single_choice=True
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.calibrate import Platt
from ctr.features import Layout, Variant, layout_for, lists_of, tokenize, user_query
from ctr.reward import Reward, aec, list_reward
from service.contract.artifact import manifest_sha256, verify
from service.contract.errors import ArtifactError, NextQueryError
from service.contract.query_text import one_line
from service.contract.types import PromptContext

__all__ = ["KIND", "Predictor", "Reward", "aec", "list_reward", "open_predictor"]

KIND = "ctr"
_CACHED = 200_000

Key = tuple[str, str, str, tuple[str, ...] | int, str]
Probabilities = NDArray[np.float64]
_List = tuple[str, tuple[str, ...]]


class Predictor:
    """A click predictor that is ready to score; many threads may use one.

    `task`: the one it was trained for, "*" where for all. `sha256` stands for all its files.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        platt: Platt,
        *,
        version: str,
        task: str,
        sha256: str,
        cached: int = _CACHED,
    ) -> None:
        """Score with `model`, in float32. `cached`: scores that are remembered, the latest used."""
        self.version, self.task, self.sha256 = version, task, sha256
        self._model, self._tokenizer, self._platt = model.float().eval(), tokenizer, platt
        self._layout: Layout = layout_for(tokenizer, Variant(model.config.variant), model.config.positions)
        self._shift = math.log(model.config.keep_share)
        self._cache: OrderedDict[Key, float] = OrderedDict()
        self._cached = cached
        self._lock = threading.Lock()

    def p_click(self, context: PromptContext, queries: Sequence[str]) -> Probabilities:
        """P(click) of each query of a list, given those before it, (N,)."""
        return self.p_click_lists([(context, queries)])[0]

    def p_click_lists(self, lists: Sequence[tuple[PromptContext, Sequence[str]]]) -> list[Probabilities]:
        """The same for many lists at once: each (N,), in the order given. Each distinct row is scored once."""
        clean = [(user_query(context), _one_lines(queries)) for context, queries in lists]
        rows = [(number, k) for number, (_, queries) in enumerate(clean) for k in range(1, len(queries) + 1)]
        ends = np.cumsum([len(queries) for _, queries in clean])
        return np.split(self._probabilities(clean, rows), ends[:-1]) if clean else []

    def score_next(self, context: PromptContext, prefix: Sequence[str], candidates: Sequence[str]) -> Probabilities:
        """P(click) of each candidate, were it to stand next after `prefix`, (C,): one round of a beam search."""
        before, asked = _one_lines(prefix), user_query(context)
        lists = [(asked, (*before, text)) for text in _one_lines(candidates)]
        return self._probabilities(lists, [(number, len(before) + 1) for number in range(len(lists))])

    def score_beams(
        self, context: PromptContext, beams: Sequence[tuple[Sequence[str], Sequence[str]]]
    ) -> list[Probabilities]:
        """`score_next` for every (prefix, candidates) of a beam in one call, each (C,)."""
        return self.score_round([(context, prefix, candidates) for prefix, candidates in beams])

    def score_round(self, beams: Sequence[tuple[PromptContext, Sequence[str], Sequence[str]]]) -> list[Probabilities]:
        """`score_next` for every (context, prefix, candidates) in one call, each (C,): a round of many beam searches."""
        lists: list[_List] = []
        rows: list[tuple[int, int]] = []
        for context, prefix, candidates in beams:
            asked, before = user_query(context), _one_lines(prefix)
            for text in _one_lines(candidates):
                rows.append((len(lists), len(before) + 1))
                lists.append((asked, (*before, text)))
        ends = np.cumsum([len(candidates) for _, _, candidates in beams])
        return np.split(self._probabilities(lists, rows), ends[:-1]) if beams else []

    def _probabilities(self, lists: Sequence[_List], rows: Sequence[tuple[int, int]]) -> Probabilities:
        """P(click) of the query at position k of a list, for every (list, k) of `rows`, (R,)."""
        keys = [self._key(*lists[number], k) for number, k in rows]
        with self._lock:
            found = {key: self._cache[key] for key in keys if key in self._cache}
            missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in found}
            found.update(zip(missing, self._score(lists, list(missing.values())), strict=True))
            self._remember(found)
        return np.fromiter((found[key] for key in keys), np.float64, len(keys))

    def _score(self, lists: Sequence[_List], rows: Sequence[tuple[int, int]]) -> list[float]:
        if not rows:
            return []
        from ctr.score import score_rows

        numbers = {number: order for order, number in enumerate(dict.fromkeys(number for number, _ in rows))}
        texts = [[asked, *queries] for asked, queries in (lists[number] for number in numbers)]
        encoded = iter(tokenize(self._tokenizer, [text for each in texts for text in each]))
        begins = np.cumsum([0, *map(len, texts)])
        first = np.array([begins[numbers[number]] for number, _ in rows])
        position = np.array([k for _, k in rows])
        laid_out = lists_of([[next(encoded) for _ in each] for each in texts])
        logits = score_rows(self._model, laid_out, first, position, self._layout) + self._shift
        return [float(p) for p in self._platt.probabilities(logits)]

    def _key(self, asked: str, queries: tuple[str, ...], k: int) -> Key:
        """What the probability depends on, no more: `plain` does not see what stands before, `pid` only how much."""
        before: tuple[str, ...] | int = 0
        if self._layout.variant is Variant.CTX:
            before = queries[: k - 1]
        elif self._layout.variant is Variant.PID:
            before = k - 1
        return self.sha256, self.task, asked, before, queries[k - 1]

    def _remember(self, scores: dict[Key, float]) -> None:
        for key, p in scores.items():
            self._cache[key] = p
            self._cache.move_to_end(key)
        while len(self._cache) > self._cached:
            self._cache.popitem(last=False)


def open_predictor(directory: Path, *, cached: int = _CACHED) -> Predictor:
    """The predictor in `directory`, after every file was compared with the manifest.

    Raises:
        ArtifactError: It is no click predictor, a file is missing or altered, its tokenizer is another one than it was
            trained with, or a weight is not a finite number.
    """
    model, tokenizer, platt, manifest = load_verified(directory)
    return Predictor(
        model,
        tokenizer,
        platt,
        version=str(manifest["version"]),
        task=str(manifest["task"]),
        sha256=manifest_sha256(directory),
        cached=cached,
    )


def load_verified(directory: Path) -> tuple[Any, Any, Platt, dict[str, Any]]:
    """Model, tokenizer, calibration and manifest of a predictor; raises as `open_predictor` does."""
    manifest = verify(directory)
    if manifest.get("kind") != KIND:
        raise ArtifactError(
            f"{directory} is no click predictor: its manifest says {manifest.get('kind')!r}. `nextquery ctr train` makes one."
        )
    model, tokenizer = _load(directory)
    refuse_unfit(model, tokenizer, directory)
    platt = manifest["calibration"]
    return model, tokenizer, Platt(platt["slope"], platt["offset"]), manifest


def refuse_unfit(model: Any, tokenizer: Any, name: Path) -> None:
    """Raise ArtifactError where a weight is not finite, or the tokenizer is not the one the model was trained with."""
    from ctr.tokenizer import fingerprint

    broken = [key for key, tensor in model.state_dict().items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ArtifactError(
            f"The click predictor {name} has NaN or infinity in {broken[0]}, so its scores mean nothing. Train it anew; "
            "usually the learning rate was too high."
        )
    found = fingerprint(tokenizer)
    if found != model.config.tokenizer_fingerprint:
        raise ArtifactError(
            f"The click predictor {name} was trained with tokenizer {model.config.tokenizer_fingerprint}, and the one "
            f"beside it is {found}. Usually it was copied from another predictor: publish the predictor again."
        )


def _load(directory: Path) -> tuple[Any, Any]:
    import torch
    from transformers.utils import logging

    from ctr.model import ClickModel
    from ctr.tokenizer import load_tokenizer

    logging.disable_progress_bar()
    try:
        tokenizer = load_tokenizer(directory)
        model, found = ClickModel.from_pretrained(str(directory), dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, NextQueryError) as error:
        raise ArtifactError(
            f"The click predictor {directory} cannot be loaded: {(str(error) or repr(error)).splitlines()[0]} Publish it "
            "again."
        ) from None
    if found["missing_keys"]:
        raise ArtifactError(
            f"The click predictor {directory} lacks the weights {sorted(found['missing_keys'])[0]}. Publish it again."
        )
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _one_lines(queries: Sequence[str]) -> tuple[str, ...]:
    return tuple(one_line(query) for query in queries)
