"""The rule of mining once more, slow and obvious: plain Python over all rows at once.

It shares no code with the miner that it is compared with, but for the numbers of the queries.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

from retrieval.mining.rules import MiningRules
from tests.retrieval.mining.logs import Search

Person = tuple[str, str]
Rows = list[dict[str, Any]]


def mine_slowly(log: Iterable[Search], rules: MiningRules) -> tuple[Rows, Rows]:
    """The triples and the queries of `log`, sorted as the files are."""
    rows = [row for row in log if row.origin != "clicked" and (row.user_id or row.session_id)]
    per_day = Counter((_person(row), row.at.date()) for row in rows)
    bots_by_day = {key for key, n in per_day.items() if n > rules.bot_queries_per_day}
    bots = {person for person, _ in bots_by_day}
    typed, typed_days = _count(((_person(row), (row.query_id,), row.at.date()) for row in rows), bots)
    steps, step_days = _count(_transitions(rows, rules), bots)
    people = {query: _known(by_person) for (query,), by_person in typed.items()}
    count = {pair: _capped(by_person, rules) for pair, by_person in steps.items()}
    total, popularity = Counter[int](), Counter[int]()
    for (query, following), n in count.items():
        total[query] += n
        popularity[following] += n
    triples = [
        {
            "query_id": query,
            "next_id": following,
            "count": n,
            "people": _known(steps[query, following]),
            "last_day": max(step_days[query, following]),
            "total": total[query],
            "popularity": popularity[following],
        }
        for (query, following), n in sorted(count.items())
        if people[following] >= rules.k
    ]
    forms = defaultdict[int, Counter[str]](Counter)
    for row in rows:
        if (_person(row), row.at.date()) not in bots_by_day:
            forms[row.query_id][row.query] += 1
    queries = [
        {
            "query_id": query,
            "text": min(forms[query], key=lambda form: (-forms[query][form], form)),
            "people": people[query],
            "count": _capped(typed[(query,)], rules),
            "last_day": max(typed_days[(query,)]),
            "shareable": people[query] >= rules.k,
        }
        for query in sorted({t["query_id"] for t in triples} | {t["next_id"] for t in triples})
    ]
    return triples, queries


def _person(row: Search) -> Person:
    return ("user", row.user_id) if row.user_id else ("session", str(row.session_id))


def _transitions(rows: Sequence[Search], rules: MiningRules) -> Iterable[tuple[Person, tuple[int, int], date]]:
    streams = defaultdict[tuple[str | None, str | None], list[Search]](list)
    for row in sorted(rows, key=lambda row: (row.at, row.search_id)):
        streams[row.user_id, row.session_id].append(row)
    for stream in streams.values():
        for one, other in pairwise(stream):
            is_soon = other.at - one.at <= timedelta(minutes=rules.silence_minutes)
            if is_soon and one.query_id != other.query_id:
                yield _person(one), (one.query_id, other.query_id), other.at.date()


def _count(
    events: Iterable[tuple[Person, tuple[int, ...], date]], bots: set[Person]
) -> tuple[dict[tuple[int, ...], Counter[Person]], dict[tuple[int, ...], set[date]]]:
    counts = defaultdict[tuple[int, ...], Counter[Person]](Counter)
    days = defaultdict[tuple[int, ...], set[date]](set)
    for person, what, day in events:
        if person not in bots:
            counts[what][person] += 1
            days[what].add(day)
    return counts, days


def _known(by_person: Counter[Person]) -> int:
    return sum(kind == "user" for kind, _ in by_person)


def _capped(by_person: Counter[Person], rules: MiningRules) -> int:
    return sum(min(n, rules.per_person_cap) for n in by_person.values())
