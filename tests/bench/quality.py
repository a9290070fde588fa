"""Quality of the starter policy as it is served: vLLM, and queries whose entities its training never saw.

It knows nothing about how the policy was trained.
"""

import asyncio
import json
import sys

from service.contract.policy import load_policy
from service.contract.settings import STARTER, Settings
from service.engines import create_engine
from trainer.evaluate import evaluate, unseen_queries


async def starter_quality() -> dict[str, float]:
    """The three shares over 500 lists: 350 held-out entities of the catalogue, 150 names made up for the purpose."""
    policy = load_policy(STARTER)
    engine = create_engine("auto", policy.directory, Settings())
    await engine.start()
    try:
        found, written = await evaluate(engine, policy, unseen_queries())
    finally:
        await engine.close()
    for item in written[:40]:
        print(f"  {item.example.context.query} -> {item.text}", file=sys.stderr)
    return {name: getattr(found, name) for name in ("parse_ok_share", "on_entity_share", "distinct_share")}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(starter_quality())))
