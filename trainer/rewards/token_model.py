"""The token-level reward model as a source: every token earns by its class, less what it costs to be long (TPPO eq. 4, 5).

It knows nothing about judges or clicks.
"""

from collections.abc import Sequence

from trainer.ppo.maths import class_rewards
from trainer.ppo.rollout import Rollout
from trainer.rewards import Earned, Given
from trainer.token_reward.model import RewardModel, load_model, scores


class TokenModelReward:
    """Expected rewards under the probabilities of a reward model."""

    name, is_model = "token_model", True

    def __init__(self, model: RewardModel, *, values: str, suggested_length: float, alpha: float | None) -> None:
        self._model, self._values, self._length, self._alpha = model, values, suggested_length, alpha

    def earned(self, rollouts: Sequence[Rollout]) -> Earned:
        """See `RewardSource`."""
        found = scores(self._model, [each.prompt_ids for each in rollouts], [each.response.ids for each in rollouts])
        return [
            class_rewards(probabilities[None], values=self._values, suggested_length=self._length, alpha=self._alpha)[
                0
            ].tolist()
            for probabilities in found
        ]


def create(given: Given) -> TokenModelReward:
    """The source with the reward model that was given."""
    return TokenModelReward(
        load_model(given.model("token_model"), given.policy),
        values=given.values,
        suggested_length=given.suggested_length,
        alpha=given.alpha,
    )
