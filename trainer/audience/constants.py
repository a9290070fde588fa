"""The numbers an audience behaves by, frozen under one hash; and a prior that a second audience is drawn from.

Where each number comes from stands in `deploy/decisions/0009-the-simulated-audience.md`; changing one re-runs every
table that names the hash.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from random import Random

# P(looks at position k), for k = 1 .. 10: with them the shares of clicks by rank are those of real searchers (TREC
# Session 2012 and 2013; `trainer/audience/fit.py` finds them). Beyond ten each is the one before times the last ratio.
EXAMINATION = (0.95, 0.693, 0.436, 0.299, 0.316, 0.144, 0.174, 0.142, 0.123, 0.064)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """How people behave. The numbers of a click are on the scale of its logit.

    Attributes:
        name: of the audience.
        examination: probability that a person looks at position k, (K,); beyond K it goes on falling.
        base: a query that was looked at, says nothing of the need, and has no other merit or fault.
        meets: added where a query meets the need wholly; in proportion below that.
        kinship: how far a query about a neighbouring facet meets a need, 0 .. 1.
        wording: standard deviation of how much people like the words of a query, whatever they need.
        repeats: taken where a query repeats one above it or one that was asked; in proportion to what they share.
        known: taken for what the person knows already.
        knows: probability that a person knows a facet already.
        long: taken for each word beyond `words`.
        words: a query of so many words is not long.
        openness: standard deviation between people of how easily they click.
        next_chances: probability that the next need is the facet's first, second, ... relation.
        further: probability that it is a relation of one of those.
        again: probability that it is the same facet, in other words.
        entities: exponent of Zipf's law by which entities and kinds are popular.
        goes_on: probability that a person who got what they need has a further need in the same session.
        drift_days: after so many days people's liking for words has turned by a quarter, when drift is on.
    """

    name: str = "first"
    examination: tuple[float, ...] = EXAMINATION
    base: float = -3.7
    meets: float = 2.4
    kinship: float = 0.35
    wording: float = 1.8
    repeats: float = 2.5
    known: float = 1.5
    knows: float = 0.15
    long: float = 0.25
    words: int = 7
    openness: float = 0.7
    next_chances: tuple[float, ...] = (0.36, 0.24, 0.14, 0.06)
    further: float = 0.1
    again: float = 0.04
    entities: float = 0.8
    goes_on: float = 0.55
    drift_days: float = 28.0

    def digest(self) -> str:
        """A hash of every number, 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def looks(self, position: int) -> float:
        """Probability that a person looks at `position`, which counts from 1."""
        listed = self.examination
        if position <= len(listed):
            return listed[position - 1]
        return float(listed[-1] * (listed[-1] / listed[0]) ** ((position - len(listed)) / (len(listed) - 1)))


FIRST = Constants()


def drawn(seed: int) -> Constants:
    """A second audience from the written prior: every number of a click between .6 and 1.6 of the first one's.

    Log-uniform and independent; `base` is shifted by a normal number of standard deviation .3; chances of needs are
    mixed with a random order of themselves, half and half; examination is raised to a power between .7 and 1.4.
    """
    rng = Random(f"audience:{seed}")
    scaled = {name: getattr(FIRST, name) * 1.6 ** rng.uniform(-1.1, 1.0) for name in _SCALED}
    chances = list(FIRST.next_chances)
    rng.shuffle(chances)
    power = 0.7 * 2 ** rng.uniform(0, 1)
    return replace(
        FIRST,
        name=f"drawn-{seed}",
        base=FIRST.base + rng.gauss(0, 0.3),
        examination=tuple(round(looks**power, 4) for looks in FIRST.examination),
        next_chances=tuple(round((a + b) / 2, 4) for a, b in zip(FIRST.next_chances, chances, strict=True)),
        **{name: round(value, 4) for name, value in scaled.items()},
    )


_SCALED = ("meets", "kinship", "wording", "repeats", "known", "knows", "long", "openness", "entities")
