"""Words judged by what the people of the simulated audience need: the truth of a scene, which no real log has.

It knows nothing about embeddings or clicks. A query is relevant when it meets a need of the scene; a word of it is relevant
when the query without the word meets that need less. What neither helps nor harms is as relevant as the query is.
"""

from collections.abc import Sequence

from service.contract.errors import ConfigurationError
from service.contract.settings import Settings
from trainer.audience.constants import FIRST
from trainer.audience.relevance import Reader
from trainer.audience.scene import Scene
from trainer.catalogue.catalogue import load_catalogue
from trainer.word_judges import Asked, GradingJudge, Judgement, mostly, without_each

_MEETS = 0.5  # of a need: the query names its entity and shares half of its words
_SAME = 1e-9


class IntentJudge(GradingJudge):
    """Knows the needs of scenes; of a context without one it cannot say anything."""

    name = "intent"

    def __init__(self, reader: Reader) -> None:
        super().__init__(enough=_MEETS, lead=_SAME)
        self._reader = reader

    def judge(self, asked: Sequence[Asked]) -> list[Judgement | None]:
        """See `WordJudge`."""
        return [self._judged(each) for each in asked]

    def grades(self, asked: Sequence[Asked]) -> list[float]:
        """The mean of how well each query meets the need that it meets best; 0 for none."""
        scenes = [_scene_of(each) for each in asked]
        return [
            sum(self._meets(scene, query) for query in each.queries) / max(1, len(each.queries))
            for scene, each in zip(scenes, asked, strict=True)
        ]

    def _judged(self, asked: Asked) -> Judgement:
        scene, found, met = _scene_of(asked), [], []
        for query, words in zip(asked.queries, asked.words, strict=True):
            whole = self._meets(scene, query)
            met.append(whole >= _MEETS)
            lost = [whole - self._meets(scene, text) for text in without_each(words)]
            found.append(tuple(each > _SAME or (met[-1] and each > -_SAME) for each in lost))
        return Judgement(tuple(found), mostly(met))

    def _meets(self, scene: Scene, query: str) -> float:
        """How well a query meets the need that it meets best."""
        return float(self._reader.read(scene, query).meets.max())


def _scene_of(asked: Asked) -> Scene:
    if asked.scene is None:
        raise ConfigurationError(
            "The judge intent knows the needs of simulated people only, and this response has no scene. Use the judge "
            "embedding or openai_http for a real log."
        )
    return asked.scene


def create(_settings: Settings) -> IntentJudge:
    """The judge of the first audience."""
    return IntentJudge(Reader(load_catalogue(), kinship=FIRST.kinship))
