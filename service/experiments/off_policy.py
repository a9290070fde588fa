"""What an arm that reorders would have come to with other exploration, from the propensities that it logged.

It reads the lists of that arm, and knows nothing about predictors. Nothing else can be estimated: that a model wrote a list
has no probability that anybody knows.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract.database import database_errors
from service.contract.errors import ConfigurationError
from service.contract.tables import clicks, impressions
from service.experiments import store
from service.experiments.assignment import BUCKETS
from service.experiments.definitions import Arm
from service.experiments.estimate import OffPolicy, order_weights, snips
from service.experiments.rollup import happened_to_lists, in_arm

_FETCHED = 2_000
_MARGIN = 1e-9


async def estimate_off_policy(database: AsyncEngine, experiment: str, arm: str, explore_share: float) -> OffPolicy:
    """CTR of `arm` had it drawn the order of `explore_share` of its lists: 0 is the predictor's order throughout.

    Raises:
        ConfigurationError: It is not estimable: the arm does not reorder, drew no order, or has too few lists.
        DatabaseError: The database is away.
    """
    kept = store.named(await store.experiments_of(database), experiment)
    served = _explored(next((each for each in kept.definition.arms if each.name == arm), None), experiment, arm)
    since = kept.started_at - timedelta(minutes=1)
    best, length, clicked, cluster = [], [], [], []
    async for row in _lists(database, experiment, arm, since):
        if (is_best := _is_best(row.candidates)) is not None:
            best.append(is_best)
            length.append(row.n_shown)
            clicked.append(row.clicked)
            cluster.append(BUCKETS if row.unit_bucket is None else row.unit_bucket)
    found = None
    if best:
        weights = order_weights(np.array(best), np.array(length), served, explore_share)
        found = snips(np.array(clicked, dtype=np.float64), weights, np.array(cluster))
    if found is None:
        raise ConfigurationError(
            f"Not estimable: {arm} of {experiment} has {len(best)} lists with a logged propensity, of too few people. Let "
            "it run longer."
        )
    return found


def _explored(arm: Arm | None, experiment: str, name: str) -> float:
    """The share of its lists whose order was drawn."""
    if arm is None:
        raise ConfigurationError(
            f"{experiment} has no arm {name!r}. `nextquery experiments report` shows those there are."
        )
    if arm.rerank != "reorder" or not arm.explore_share:
        raise ConfigurationError(
            f"Not estimable: {name} of {experiment} shows lists as they come, and nobody knows how likely another list was. "
            "Only an arm with `rerank: reorder` and an `explore_share` logs propensities."
        )
    return arm.explore_share


def _is_best(candidates: Sequence[dict[str, Any]]) -> bool | None:
    """Whether the order shown is the best one: then each candidate stands where it does with 1 / n or more (decision 0010)."""
    known = [p for each in candidates if (p := each.get("propensity")) is not None]
    if not known or len(known) < len(candidates):
        return None
    return all(p >= 1 / len(known) - _MARGIN for p in known)


async def _lists(database: AsyncEngine, experiment: str, arm: str, since: Any) -> AsyncIterator[Any]:
    listed, happened = impressions.c, happened_to_lists(clicks.c.at >= since)
    query = (
        select(
            listed.n_shown, listed.candidates, listed.unit_bucket, func.coalesce(happened.c.clicked, 0).label("clicked")
        )
        .select_from(impressions.outerjoin(happened, happened.c.impression_id == listed.impression_id))
        .where(listed.at >= since, in_arm(experiment, arm))
    )
    with database_errors("the lists of an arm were read"):
        async with database.connect() as connection:
            result = await connection.stream(query)
            async for rows in result.partitions(_FETCHED):
                for row in rows:
                    yield row
