"""What a run of mining met and made, as numbers and as sentences.

It knows nothing about how it was done.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from retrieval.mining.rules import MiningRules


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningReport:
    """Counts of a whole window.

    Attributes:
        rules: what it was mined by.
        days: days of the log that have rows.
        days_from_cache: those of them that an earlier run had mined.
        rows_read: rows of these days.
        rows_of_other_origin: neither typed nor imported, so not mined.
        rows_without_user_and_session: nobody knows what came before or after, so not mined.
        rows_without_user: mined by their session, but they count for nobody.
        bots: people, and sessions of unknown people, that typed more than a person can on some day.
        rows_of_bots: all their rows, dropped.
        sessions: runs of queries without a longer silence; bots included, as in the next two.
        repeats: times a query followed itself, dropped.
        transitions: times another query followed.
        pairs: distinct (query, next query) of all but the bots.
        pair_count: sum of `count` over these pairs; what `popularity` is a part of.
        triples: those whose next query enough people typed.
        queries: distinct queries of the triples.
        shareable_queries: those of them that may be shown to others.
        seconds: time it took.
    """

    rules: MiningRules
    days: int
    days_from_cache: int
    rows_read: int
    rows_of_other_origin: int
    rows_without_user_and_session: int
    rows_without_user: int
    bots: int
    rows_of_bots: int
    sessions: int
    repeats: int
    transitions: int
    pairs: int
    pair_count: int
    triples: int
    queries: int
    shareable_queries: int
    seconds: float

    @property
    def triples_below_k(self) -> int:
        """Triples that were dropped because too few people typed their next query."""
        return self.pairs - self.triples

    def lines(self) -> list[str]:
        """The report in sentences; what did not happen is not told."""
        return [line for number, line in self._sentences() if number]

    def _sentences(self) -> Iterator[tuple[int, str]]:
        rules = self.rules
        yield 1, f"Searches read: {self.rows_read:,}, of {self.days:,} days, in {self.seconds:.1f} s."
        yield self.days_from_cache, f"Days that were mined before and did not change: {self.days_from_cache:,}."
        yield not self.rows_read, "The log is empty: there is nothing to mine."
        yield (
            self.rows_of_other_origin,
            f"Not mined because they were clicked, not typed: {self.rows_of_other_origin:,}.",
        )
        yield (
            self.rows_without_user_and_session,
            f"Not mined because they have neither user nor session: {self.rows_without_user_and_session:,}.",
        )
        yield (
            self.rows_without_user,
            f"Mined, but counted for nobody because they have no user: {self.rows_without_user:,}.",
        )
        yield (
            self.bots,
            f"Bots, with more than {rules.bot_queries_per_day:,} queries on one day: {self.bots:,}; dropped with their "
            f"{self.rows_of_bots:,} searches.",
        )
        yield self.repeats, f"Repeats of the query before, dropped: {self.repeats:,}."
        yield (
            self.sessions,
            f"Transitions to another query within {rules.silence_minutes} minutes: {self.transitions:,}, in "
            f"{self.sessions:,} sessions.",
        )
        yield self.rows_read and not self.pairs, "No query was followed by another, so there are no triples."
        yield (
            self.triples_below_k,
            f"Triples dropped because fewer than {rules.k} known people typed the next query: "
            f"{self.triples_below_k:,} of {self.pairs:,}.",
        )
        yield (
            1,
            f"Triples written: {self.triples:,}, of {self.queries:,} queries; of these, {self.shareable_queries:,} may "
            "be shown to others.",
        )
