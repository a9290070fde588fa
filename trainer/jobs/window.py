"""The days that a run learns from.

It knows nothing about what is learnt.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from service.contract.errors import ConfigurationError
from service.contract.settings import Jobs
from service.contract.snapshot import parse_moment

_MARK = "--"


@dataclass(frozen=True, slots=True)
class Window:
    """Whole UTC days, [since, until). As text: 2026-11-01--2026-11-22."""

    since: date
    until: date

    @property
    def name(self) -> str:
        """As text, which sorts by time."""
        return f"{self.since}{_MARK}{self.until}"

    @property
    def days(self) -> list[date]:
        """Every day, oldest first."""
        return [self.since + timedelta(days=number) for number in range((self.until - self.since).days)]


def window_until(until: date, jobs: Jobs) -> Window:
    """As many days before `until` as the settings say."""
    return Window(until - timedelta(days=jobs.days + jobs.later_days), until)


def latest_window(jobs: Jobs) -> Window:
    """The window that ends with yesterday, in UTC."""
    return window_until(datetime.now(UTC).date(), jobs)


def parse_window(text: str, jobs: Jobs) -> Window:
    """The window FROM--TO, where TO is the first day after it.

    Raises:
        ConfigurationError: That is none, or not as long as the settings say.
    """
    since, mark, until = text.partition(_MARK)
    if not mark:
        raise ConfigurationError(
            f"{text!r} is no window. Write its first day and the first day after it: 2026-11-01--2026-11-22."
        )
    found = Window(parse_moment(since).date(), parse_moment(until).date())
    if len(found.days) != jobs.days + jobs.later_days:
        raise ConfigurationError(
            f"The window {text} has {len(found.days)} days, and {jobs.days + jobs.later_days} are learnt from. Name "
            "another one, or change NEXTQUERY_JOBS__DAYS and NEXTQUERY_JOBS__LATER_DAYS."
        )
    return found
