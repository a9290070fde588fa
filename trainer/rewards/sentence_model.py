"""The sentence-level reward model as a source: a response earns once, at its last token. The baseline of TPPO.

It knows nothing about words.
"""

from collections.abc import Sequence

from trainer.ppo.maths import CLASS_VALUES
from trainer.ppo.rollout import Rollout
from trainer.rewards import Earned, Given
from trainer.token_reward.model import RewardModel, load_model, scores


class SentenceModelReward:
    """The value of class 1 or 2 for the response as a whole, in expectation."""

    name, is_model = "sentence_model", True

    def __init__(self, model: RewardModel, *, values: str) -> None:
        self._model, (_, self._irrelevant, self._relevant) = model, CLASS_VALUES[values]

    def earned(self, rollouts: Sequence[Rollout]) -> Earned:
        """See `RewardSource`."""
        found = scores(self._model, [each.prompt_ids for each in rollouts], [each.response.ids for each in rollouts])
        return [
            [0.0] * (len(each.response.ids) - 1) + [self._worth(float(p))] if each.response.ids else []
            for each, p in zip(rollouts, found, strict=True)
        ]

    def _worth(self, p: float) -> float:
        return p * self._relevant + (1.0 - p) * self._irrelevant


def create(given: Given) -> SentenceModelReward:
    """The source with the reward model that was given."""
    return SentenceModelReward(load_model(given.model("sentence_model"), given.policy), values=given.values)
