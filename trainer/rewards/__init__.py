"""One file per source of rewards for token-level PPO.

They know nothing about advantages or losses. What a token earns is worked out before anything is taken for divergence.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from trainer.ppo.rollout import Rollout


class RewardSource(Protocol):
    """What a written response earns, token by token. `name`: its file. A new source is a new file that has a class of these."""

    name: str

    def earned(self, rollouts: Sequence[Rollout]) -> list[list[float]]:
        """For each response what each of its tokens earns, the end of sequence too, (T,).

        Raises:
            ArtifactError: A model of it gives what is no reward.
            JudgeError: A judge of it did not answer.
        """
        ...


class Mixed:
    """Several sources at once, each times its weight."""

    name = "mixed"

    def __init__(self, sources: Mapping[RewardSource, float]) -> None:
        self._sources = dict(sources)

    def earned(self, rollouts: Sequence[Rollout]) -> list[list[float]]:
        """See `RewardSource`."""
        found = [(source.earned(rollouts), weight) for source, weight in self._sources.items()]
        return [
            [sum(weight * each[row][t] for each, weight in found) for t in range(len(rollout.response.ids))]
            for row, rollout in enumerate(rollouts)
        ]


class AtTheEnd:
    """The sum of what a source pays, at the last token: sentence-level PPO, by the same loop."""

    def __init__(self, source: RewardSource) -> None:
        self._source = source
        self.name = source.name

    def earned(self, rollouts: Sequence[Rollout]) -> list[list[float]]:
        """See `RewardSource`."""
        return [[0.0] * (len(each) - 1) + [sum(each)] if each else [] for each in self._source.earned(rollouts)]
