"""Query quality of one policy's lists against another's: wins, ties and losses with intervals (GQR B.1, Figure 5).

It knows no judge by name and no policy: lists in, figures out.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import fmean

from trainer.assess import Written
from trainer.list_judges import ListJudge, Pair, Rating, Relatedness, Repeat

_CLEAR = 1e-9  # means of few levels: what differs at all differs by more
_Z = 1.96
REPEATS: tuple[Repeat, ...] = ("query", "answer", "list")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Of `prompts` that were judged, those that each side won; `unjudged` are in no share."""

    wins: int
    ties: int
    losses: int
    unjudged: int

    @property
    def net(self) -> float:
        """Wins less losses, in points: -100 to 100; 0 where nothing was judged."""
        return 100.0 * (self.wins - self.losses) / max(1, self.judged)

    @property
    def judged(self) -> int:
        """Prompts with a verdict."""
        return self.wins + self.ties + self.losses

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `net`, in points; prompts are the units."""
        if not self.judged:
            return (-100.0, 100.0)
        decided, mean = (self.wins + self.losses) / self.judged, self.net / 100.0
        half = 100.0 * _Z * sqrt(max(0.0, decided - mean**2) / self.judged)
        return (max(-100.0, self.net - half), min(100.0, self.net + half))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """One policy against another on the same prompts, and the first by itself.

    Attributes:
        levels: shares of its queries of low, moderate and high relatedness; empty where the judge cannot tell.
        repeats: share of its queries that say again what was asked, what the answer says, what stands above them.
    """

    judge: str
    relatedness: Tally
    exclusivity: Tally
    levels: tuple[float, ...]
    repeats: tuple[float, ...]

    def figures(self) -> dict[str, float]:
        """Everything as flat numbers."""
        found: dict[str, float] = {}
        for name, tally in (("relatedness", self.relatedness), ("exclusivity", self.exclusivity)):
            low, high = tally.interval
            counts = {f"{name}_{key}": float(value) for key, value in asdict(tally).items()}
            found |= counts | {f"{name}_net": tally.net, f"{name}_net_low": low, f"{name}_net_high": high}
        found |= {f"share_{name}": share for name, share in zip(("low", "moderate", "high"), self.levels, strict=False)}
        return found | {f"repeats_{name}": share for name, share in zip(REPEATS, self.repeats, strict=True)}


def compared(mine: Sequence[Written], theirs: Sequence[Written], judge: ListJudge) -> Quality:
    """What `mine` are worth against `theirs`, both written for the same prompts.

    Each pair is judged twice with the order turned; a win in one order alone is a tie. An empty list loses to one with
    queries, and two empty ones are a tie.
    """
    pairs = [
        Pair(task=one.prompt.task, context=one.prompt.context, first=one.queries, second=other.queries)
        for one, other in zip(mine, theirs, strict=True)
    ]
    straight = judge.ratings(pairs)
    turned = judge.ratings([pair.swapped() for pair in pairs])
    both = [(one, other and (other[1], other[0])) for one, other in zip(straight, turned, strict=True)]
    known = [each[0] for each in straight if each]
    return Quality(
        judge=judge.name,
        relatedness=_tally([_agreed(one, other, _relatedness) for one, other in both]),
        exclusivity=_tally([_agreed(one, other, _exclusivity) for one, other in both]),
        levels=_levels(known),
        repeats=tuple(_share_that_repeat(known, kind) for kind in REPEATS),
    )


_Ratings = tuple[Rating, Rating] | None
_Score = Callable[[Rating], float | None]


def _relatedness(rating: Rating) -> float | None:
    return rating.relatedness if rating.repeats else -1.0


def _exclusivity(rating: Rating) -> float | None:
    return -1.0 if rating.exclusivity is None else rating.exclusivity


def _agreed(straight: _Ratings, turned: _Ratings, score: _Score) -> int | None:
    """1 for a win in both orders, -1 for a loss in both, else 0; None without both verdicts."""
    if straight is None or turned is None:
        return None
    one, other = _sign(*straight, score), _sign(*turned, score)
    if one is None or other is None:
        return None
    return one if one == other else 0


def _sign(mine: Rating, theirs: Rating, score: _Score) -> int | None:
    one, other = score(mine), score(theirs)
    if one is None or other is None:
        return None
    return 0 if abs(one - other) < _CLEAR else (1 if one > other else -1)


def _tally(outcomes: Sequence[int | None]) -> Tally:
    return Tally(
        wins=outcomes.count(1), ties=outcomes.count(0), losses=outcomes.count(-1), unjudged=outcomes.count(None)
    )


def _levels(ratings: Sequence[Rating]) -> tuple[float, ...]:
    levels = [level for rating in ratings for level in rating.related]
    return tuple(levels.count(level) / len(levels) for level in Relatedness) if levels else ()


def _share_that_repeat(ratings: Sequence[Rating], kind: Repeat) -> float:
    repeated = [kind in repeats for rating in ratings for repeats in rating.repeats]
    return fmean(repeated) if repeated else 0.0
