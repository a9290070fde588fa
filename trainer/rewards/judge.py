"""A judge of words as a source, without a model between: what it says of a word, each token of the word earns.

It knows no judge by name. A response that the judge comes to no verdict about is not learnt from.
"""

from collections.abc import Mapping, Sequence

import torch

from trainer.audience.scene import Scene
from trainer.labels import asked_about
from trainer.ppo.maths import class_rewards
from trainer.ppo.rollout import Rollout
from trainer.rewards import Earned, Given
from trainer.word_judges import Judgement, WordJudge, get_word_judge
from trainer.words import token_classes


class JudgeReward:
    """Asks the judge about every response."""

    name, is_model = "judge", False

    def __init__(
        self,
        judge: WordJudge,
        scenes: Mapping[str, Scene],
        *,
        values: str,
        suggested_length: float,
        alpha: float | None,
    ) -> None:
        self._judge, self._scenes = judge, scenes
        self._values, self._length, self._alpha = values, suggested_length, alpha

    def earned(self, rollouts: Sequence[Rollout]) -> Earned:
        """See `RewardSource`."""
        asked = [asked_about(each.prompt, each.response, self._scenes.get(each.prompt.prompt_id)) for each in rollouts]
        return [self._of(each, judgement) for each, judgement in zip(rollouts, self._judge.judge(asked), strict=True)]

    def _of(self, rollout: Rollout, judgement: Judgement | None) -> list[float] | None:
        if judgement is None:
            return None
        if not rollout.response.ids:
            return []
        classes = token_classes(rollout.response, [word for query in judgement.words for word in query])
        one_hot = torch.nn.functional.one_hot(torch.tensor([classes]), 3).float()
        earned = class_rewards(one_hot, values=self._values, suggested_length=self._length, alpha=self._alpha)
        return [float(each) for each in earned[0]]


def create(given: Given) -> JudgeReward:
    """The source with the judge that was given."""
    return JudgeReward(
        get_word_judge(given.judge, given.settings),
        given.scenes,
        values=given.values,
        suggested_length=given.suggested_length,
        alpha=given.alpha,
    )
