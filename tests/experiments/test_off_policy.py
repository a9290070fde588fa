"""An explored arm tells what its best order alone would come to; other arms tell nothing, and say so."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import insert

from service.contract.errors import ConfigurationError
from service.contract.tables import clicks, impressions
from service.experiments import store
from service.experiments.definitions import Arm, Experiment
from service.experiments.off_policy import estimate_off_policy

SHARE = 0.5


def _experiment():
    arms = [
        Arm(name="control", weight=0.5),
        Arm(name="best", weight=0.5, rerank="reorder", explore_share=SHARE),
    ]
    return Experiment(id="order-1", unit="session", arms=arms)


async def _explore(engine, lists=6_000, seed=3):
    """Lists whose best order is clicked in .3 of the cases, others in .2; propensities are those of decision 0010."""
    await store.start(engine, _experiment())
    rng, shown, happened = np.random.default_rng(seed), [], []
    for number in range(lists):
        order = rng.permutation(3) if rng.random() < SHARE else np.arange(3)
        row = {
            "impression_id": f"i{number}",
            "at": datetime.now(UTC) + timedelta(seconds=1),
            "task": "suggest",
            "arm": "order-1=best",
            "context": {},
            "prompt_fingerprint": "",
            "prompt_tokens": 0,
            "sampling": {},
            "candidates": [
                {"text": f"q{i}", "propensity": (1 - SHARE) * bool(i == k) + SHARE / 3} for k, i in enumerate(order)
            ],
            "texts": {},
            "n_shown": 3,
            "served_by": "model",
            "timings": {},
            "unit_bucket": number % 500,
        }
        shown.append(row)
        if rng.random() < (0.3 if (order == np.arange(3)).all() else 0.2):
            same = {"impression_id": row["impression_id"], "at": row["at"], "task": "suggest", "arm": row["arm"]}
            happened.append({**same, "position": 1, "kind": "click"})
    async with engine.begin() as connection:
        await connection.execute(insert(impressions), shown)
        await connection.execute(insert(clicks), happened)
    return len(happened) / lists


async def test_the_best_order_alone_and_all_orders_drawn(engine):
    served = await _explore(engine)

    best = await estimate_off_policy(engine, "order-1", "best", 0.0)
    drawn = await estimate_off_policy(engine, "order-1", "best", 1.0)
    same = await estimate_off_policy(engine, "order-1", "best", SHARE)

    assert best.low < 0.3 < best.high
    assert drawn.low < 0.3 / 6 + 0.2 * 5 / 6 < drawn.high
    assert same.value == pytest.approx(served)
    assert same.effective_lists == pytest.approx(6_000)
    # Of half of the orders drawn 7 in 12 are the best one, so that so many lists count.
    assert best.effective_lists == pytest.approx(6_000 * 7 / 12, rel=0.03)


@pytest.mark.parametrize(
    ("experiment", "arm", "said"),
    [
        ("order-1", "control", "Not estimable: control of order-1 shows lists as they come"),
        ("order-1", "best", "Not estimable: best of order-1 has 0 lists"),
        ("order-1", "worst", "has no arm 'worst'"),
        ("order-2", "best", "no experiment 'order-2'"),
    ],
)
async def test_what_cannot_be_estimated_is_refused(engine, experiment, arm, said):
    await store.start(engine, _experiment())

    with pytest.raises(ConfigurationError, match=said):
        await estimate_off_policy(engine, experiment, arm, 0.0)
