"""One file per source of rewards for token-level PPO, found by its file name.

They know nothing about advantages or losses. What a token earns is worked out before anything is taken for divergence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from service.contract.errors import ConfigurationError
from service.contract.plugins import files_that_define, plugin
from service.contract.policy import Policy
from service.contract.settings import Settings
from trainer.audience.scene import Scene
from trainer.ppo.rollout import Rollout

Earned = list[list[float] | None]


class RewardSource(Protocol):
    """What a written response earns, token by token. `name`: its file. A new source is a new file that has a class of these.

    `is_model`: whether most of its time is a model's forward pass.
    """

    name: str
    is_model: bool

    def earned(self, rollouts: Sequence[Rollout]) -> Earned:
        """For each response what each of its tokens earns, the end of sequence too, (T,).

        None where nobody can say what one earns: it is not learnt from.

        Raises:
            ArtifactError: A model of it gives what is no reward.
            JudgeError: A judge of it did not answer at all.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What sources are made from; each takes what it needs and refuses without it.

    Attributes:
        policy: the one that is trained.
        settings: name the judge over HTTP.
        models: directories of reward models, by the name of the source.
        predictor: directory of a click predictor.
        judge: the file in `trainer/word_judges`.
        scenes: of simulated people, by prompt id.
        values: `published` or `centred`; see `trainer.ppo.maths.class_rewards`.
        suggested_length: s_l of TPPO eq. 4, in tokens.
        alpha: of eq. 4; None is no penalty.
    """

    policy: Policy
    settings: Settings = field(default_factory=Settings)
    models: Mapping[str, Path] = field(default_factory=dict)
    predictor: Path | None = None
    judge: str = "embedding"
    scenes: Mapping[str, Scene] = field(default_factory=dict)
    values: str = "centred"
    suggested_length: float = 32.0
    alpha: float | None = 1.0

    def model(self, name: str) -> Path:
        """The reward model of a source.

        Raises:
            ConfigurationError: None was given.
        """
        if name not in self.models:
            raise ConfigurationError(
                f"The reward {name} needs a reward model. Train one with `nextquery train reward`, and give its directory."
            )
        return self.models[name]


class Mixed:
    """Several sources at once, each times its weight."""

    name = "mixed"

    def __init__(self, sources: Mapping[RewardSource, float]) -> None:
        self._sources = dict(sources)
        self.is_model = all(source.is_model for source in sources)

    def earned(self, rollouts: Sequence[Rollout]) -> Earned:
        """See `RewardSource`; what one source cannot say is not made up by the others."""
        found = [(source.earned(rollouts), weight) for source, weight in self._sources.items()]
        return [_sum([(each[row], weight) for each, weight in found]) for row in range(len(rollouts))]


class AtTheEnd:
    """The sum of what a source pays, at the last token: sentence-level PPO, by the same loop."""

    def __init__(self, source: RewardSource) -> None:
        self._source = source
        self.name, self.is_model = source.name, source.is_model

    def earned(self, rollouts: Sequence[Rollout]) -> Earned:
        """See `RewardSource`."""
        return [
            None if each is None else [0.0] * (len(each) - 1) + [sum(each)] if each else []
            for each in self._source.earned(rollouts)
        ]


class LessMissing:
    """A source less what a list lacks: each query that was asked for and is not there costs its share, at the last token.

    Judges say how relevant the queries are that were written, so that a policy learns to write the one that is safe, or two in
    one without a separator. The papers have no such cost.
    """

    def __init__(self, source: RewardSource, cost: float) -> None:
        """`cost`: of a list without any query."""
        self._source, self._cost = source, cost
        self.name, self.is_model = source.name, source.is_model

    def earned(self, rollouts: Sequence[Rollout]) -> Earned:
        """See `RewardSource`."""
        found = self._source.earned(rollouts)
        for rollout, each in zip(rollouts, found, strict=True):
            if each:
                asked = rollout.prompt.context.n
                each[-1] -= self._cost * (asked - len(rollout.response.queries)) / asked
        return found


def get_source(weights: Mapping[str, float], given: Given) -> RewardSource:
    """The sources of these names, mixed by their weights where there are several.

    Raises:
        ConfigurationError: There is no such source, or `given` lacks what it needs.
        ArtifactError: A model of it cannot be trusted.
    """
    create = {name: plugin(name, "create", __file__, __name__, one="reward", several="rewards") for name in weights}
    made = {cast(RewardSource, create[name](given)): weight for name, weight in weights.items()}
    if not made:
        raise ConfigurationError(f"There is no reward to learn from. Name one of {', '.join(names())}.")
    return next(iter(made)) if list(made.values()) == [1.0] else Mixed(made)


def names() -> list[str]:
    """Every source there is: the files here that define `create`."""
    return files_that_define("create", __file__)


def _sum(weighted: Sequence[tuple[list[float] | None, float]]) -> list[float] | None:
    total: list[float] | None = None
    for each, weight in weighted:
        if each is None:
            return None
        total = [weight * value + before for value, before in zip(each, total or [0.0] * len(each), strict=True)]
    return total
