"""How a policy is trained by token-level PPO.

It knows nothing about models or rewards.
"""

from dataclasses import dataclass

from service.contract.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class PpoConfig:
    """The defaults suit the starter policy on a CPU.

    Attributes:
        steps: rounds of writing and learning.
        prompts: responses that are written in a step, one a prompt, over all processes.
        batch_size: of them, for each update, over all processes.
        epochs: passes over the responses of a step.
        clip: epsilon of TPPO eq. 6.
        value_clip: the same for values.
        value_weight: of the loss of values beside that of the policy; both share the layers below.
        discount, decay: gamma and lambda of the advantages.
        beta: what a nat of divergence from the reference costs at first (eq. 8).
        target_kl: nats a response that beta follows.
        horizon: responses over which it does; None keeps beta.
        max_tokens: of a response.
        lora_rank: of the adapter; 0 trains every weight.
    """

    steps: int = 100
    prompts: int = 64
    batch_size: int = 16
    epochs: int = 1
    learning_rate: float = 1e-3
    clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.1
    discount: float = 1.0
    decay: float = 0.95
    beta: float = 0.02
    target_kl: float = 6.0
    horizon: float | None = 1_000.0
    max_gradient: float = 1.0
    max_tokens: int = 64
    lora_rank: int = 16
    lora_alpha: int = 32
    seed: int = 7
    save_steps: int = 10

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            ConfigurationError: A number is out of bounds; the text says which.
        """
        if min(self.steps, self.prompts, self.batch_size, self.epochs, self.max_tokens, self.save_steps) < 1:
            raise ConfigurationError(
                f"steps, prompts, batch_size, epochs, max_tokens and save_steps must each be at least 1, in {self}."
            )
        if self.prompts % self.batch_size:
            raise ConfigurationError(
                f"{self.prompts} responses of a step are no whole number of batches of {self.batch_size}. Take a batch size "
                "that divides them."
            )
        if not (0 < self.clip < 1 and 0 <= self.discount <= 1 and 0 <= self.decay <= 1 and self.beta >= 0):
            raise ConfigurationError(
                f"clip is {self.clip}, discount {self.discount}, decay {self.decay} and beta {self.beta}. The first must be "
                "above 0 and below 1, the next two from 0 to 1, and beta not negative."
            )
