"""The numbers that mining goes by.

It knows nothing about how they are applied.
"""

from dataclasses import dataclass, fields

from service.contract.errors import ConfigurationError

_MINUTES_OF_A_DAY = 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningRules:
    """All of them are whole numbers from 1.

    Attributes:
        k: a text is shown to others only when at least so many known people typed it.
        silence_minutes: a longer silence ends a session.
        per_person_cap: how often one person counts for one pair of queries, or for one query, in the whole window.
        bot_queries_per_day: whoever typed more than this on any day is a bot.
    """

    k: int = 5
    silence_minutes: int = 30
    per_person_cap: int = 3
    bot_queries_per_day: int = 1000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 1:
                raise ConfigurationError(f"{field.name} is {value}; mining needs a whole number from 1.")
        if self.silence_minutes > _MINUTES_OF_A_DAY:
            raise ConfigurationError(
                f"silence_minutes is {self.silence_minutes}, but a day is mined with the day before it only, so a "
                f"silence can last {_MINUTES_OF_A_DAY} minutes at most."
            )

    @property
    def silence_us(self) -> int:
        """The longest silence inside a session, in microseconds."""
        return self.silence_minutes * 60_000_000
