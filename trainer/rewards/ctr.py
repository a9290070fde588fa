"""Clicks as the reward: what each query adds to the list reward is paid where it ends (GQR eq. 3 and 4 as a process reward).

It knows nothing about judges. The gains of a list add up to its reward, so that a whole list earns what Algorithm 1 scores it.
"""

from collections.abc import Sequence

from ctr.predictor import Predictor, Reward, open_predictor
from service.contract.errors import ConfigurationError
from service.contract.tasks import get_task
from service.contract.tokenizer import PromptTokenizer
from trainer.ppo.rollout import Rollout
from trainer.rewards import Earned, Given
from trainer.words import Response


class CtrReward:
    """One click predictor. A query that repeats another or goes past N earns nothing, and so does one that was cut."""

    name, is_model = "ctr", True

    def __init__(self, predictor: Predictor, tokenizer: PromptTokenizer) -> None:
        self._predictor = predictor
        of_its_own = tokenizer.format.separator_is_token  # else it is text, and any token may follow a query
        self._ends = {*tokenizer.separator_ids, *tokenizer.eos_ids} if of_its_own else None

    def earned(self, rollouts: Sequence[Rollout]) -> Earned:
        """See `RewardSource`."""
        p = self._predictor.p_click_lists([(each.prompt.context, each.response.queries) for each in rollouts])
        return [self._paid(rollout, list(map(float, found))) for rollout, found in zip(rollouts, p, strict=True)]

    def _paid(self, rollout: Rollout, p: Sequence[float]) -> list[float]:
        paid, reward = [0.0] * len(rollout.response.ids), Reward(get_task(rollout.prompt.task).single_choice)
        for p_click, end in zip(p, rollout.response.ends, strict=True):
            place = self._closing(rollout.response, end)
            if place is None:
                break  # what follows stands after a query that is not whole
            grown = reward.plus(p_click)
            paid[place] += grown.value - reward.value
            reward = grown
        return paid

    def _closing(self, response: Response, end: int) -> int | None:
        """The token that ends the query that ends at byte `end`: a separator, or the end of sequence; None where it was cut."""
        after = (token for token, (begin, _) in enumerate(response.spans) if begin >= end)
        return next((token for token in after if self._ends is None or response.ids[token] in self._ends), None)


def create(given: Given) -> CtrReward:
    """The source with the predictor that was given."""
    if given.predictor is None:
        raise ConfigurationError(
            "The reward ctr needs a click predictor. Train one with `nextquery ctr train`, and give its directory."
        )
    return CtrReward(open_predictor(given.predictor), given.policy.tokenizer)
