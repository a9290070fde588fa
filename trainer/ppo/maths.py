"""The arithmetic of token-level PPO: rewards, advantages, losses and the pull to the reference. Pure tensors.

It knows nothing about models, rollouts or steps. Everywhere (B, T) are responses and their tokens, padded on the right, and a
mask says True where a token was written; what padding holds changes nothing. Eq. numbers are those of TPPO.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

CLASS_VALUES = {"published": (0.0, 1.0, 2.0), "centred": (0.0, -1.0, 1.0)}
"""What a token of class 0 (no word), 1 (irrelevant) and 2 (relevant) earns."""

LARGEST_LOG_RATIO = 20.0  # exp(20) is 5e8: no update comes from it, and none is lost to an infinity


def length_weighted_penalty(positions: Tensor, *, suggested_length: float, alpha: float) -> Tensor:
    """Weight in (0, 1) of each token's reward, of the shape of `positions`: eq. 4.

    About 1 up to the suggested length, half of it 6 / alpha tokens past it, then falling to 0.

    Args:
        positions: place of each token in the whole response, from 1.
        suggested_length: tokens that a reasonable response has.
        alpha: steepness; 0 leaves all rewards nearly as they are.
    """
    return torch.sigmoid(6.0 - alpha * (positions - suggested_length))


def class_rewards(probabilities: Tensor, *, values: str, suggested_length: float, alpha: float | None) -> Tensor:
    """What each token earns by its class, in expectation, (B, T): eq. 5.

    Under `published` classes 0, 1, 2 earn just that, times the penalty; then every token pays, and a policy learns to write
    more of them. Under `centred` they earn 0, -1, +1 over the suggested length, and the penalty takes from what is
    earned only: a bad token past the suggested length is not forgiven.

    Args:
        probabilities: of the classes of each token, (B, T, 3); one-hot where a judge gave them.
        values: `published` or `centred`.
        suggested_length: tokens that a reasonable response has.
        alpha: as in `length_weighted_penalty`; None is no penalty.
    """
    earned = probabilities @ probabilities.new_tensor(CLASS_VALUES[values])
    if values == "centred":
        earned = earned / suggested_length
    if alpha is None:
        return earned
    positions = torch.arange(1, earned.shape[-1] + 1, device=earned.device)
    penalty = length_weighted_penalty(positions, suggested_length=suggested_length, alpha=alpha)
    return torch.where(earned > 0, earned * penalty, earned)


def advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, discount: float, decay: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns, (B, T) each (Schulman and others, 2016, eq. 16).

    Args:
        rewards: of each token, (B, T).
        values: expected before each token, (B, T). After the last token nothing is expected.
        mask: True where a token was written, (B, T).
        discount: gamma. 1 counts late rewards like early ones.
        decay: lambda. 1 gives rewards to come less the value; 0 gives one step of it.
    """
    rewards, values = _written(rewards, mask), _written(values, mask)
    later = torch.zeros_like(values[:, 0])
    found = torch.zeros_like(values)
    for t in reversed(range(values.shape[1])):
        following = values[:, t + 1] if t + 1 < values.shape[1] else torch.zeros_like(later)
        later = rewards[:, t] + discount * following - values[:, t] + discount * decay * later
        found[:, t] = later
    return found, found + values


def whitened(values: Tensor, mask: Tensor, *, mean: float, deviation: float) -> Tensor:
    """Advantages of mean 0 and deviation 1, (B, T); both are given, since they are of the batch of all processes."""
    return _written((values - mean) / (deviation + 1e-8), mask)


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, *, clip: float
) -> tuple[Tensor, Tensor]:
    """What is lost at each token by the clipped objective, (B, T), and where it was clipped, (B, T): eq. 6.

    The ratio is to the policy that wrote the response. Eq. 7 writes the reference for both, and with it eq. 6 would clip away
    whatever was learnt in earlier steps.
    """
    advantages = _written(advantages, mask)
    ratio = _written(logprobs - old_logprobs, mask).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    free, bound = -advantages * ratio, -advantages * ratio.clamp(1.0 - clip, 1.0 + clip)
    return torch.maximum(free, bound), bound > free


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float) -> Tensor:
    """Half the squared error of each value, (B, T), the larger one of the value and of the same moved by `clip` at most."""
    bound = old_values + (values - old_values).clamp(-clip, clip)
    return _written(0.5 * torch.maximum((values - returns).square(), (bound - returns).square()), mask)


def kl_penalty(logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Log policy - log reference of each token that the policy wrote, (B, T): its mean over responses is the KL of eq. 8."""
    return _written(logprobs - reference_logprobs, mask)


def token_rewards(earned: Tensor, kl: Tensor, mask: Tensor, *, beta: float) -> Tensor:
    """What each token earns less beta times its share of the divergence, (B, T): the constraint of eq. 8 as a reward."""
    return _written(earned - beta * kl, mask)


@dataclass(slots=True)
class AdaptiveKl:
    """The beta that keeps the divergence near a target (Ziegler and others, 2019, 2.2).

    Attributes:
        beta: what a nat costs now.
        target: nats a response.
        horizon: responses over which beta follows; None keeps it.
    """

    beta: float
    target: float
    horizon: float | None = 10_000.0

    def follow(self, kl: float, responses: int) -> None:
        """Move beta after `responses` that were `kl` nats from the reference, by a fifth of their number over the horizon."""
        if self.horizon is not None:
            error = min(max(kl / self.target - 1.0, -0.2), 0.2)
            self.beta *= 1.0 + error * responses / self.horizon


def _written(values: Tensor, mask: Tensor) -> Tensor:
    """Values where the mask is True, and 0 elsewhere, whatever stands there: a product would keep what is no number."""
    return values.masked_fill(~mask, 0.0)
