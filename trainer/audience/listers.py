"""Who writes the lists that simulated people see: a policy, or a rule without a model.

It knows nothing about clicks.
"""

from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any, Protocol

from service.contract.engine import Engine
from service.contract.policy import Policy
from service.contract.tasks import get_task
from trainer.audience.audience import Audience
from trainer.audience.scene import Scene
from trainer.catalogue.asking import ask
from trainer.encoding import PROMPT_BUDGET

_MAX_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Shown:
    """A list: its queries and auxiliary texts, which policy wrote it from what prompt, and the sum of log-probabilities."""

    queries: tuple[str, ...]
    texts: dict[str, str] = field(default_factory=dict)
    policy_version: str | None = None
    fingerprint: str = ""
    prompt_tokens: int = 0
    sampling: dict[str, Any] = field(default_factory=dict)


class Lister(Protocol):
    """Whatever writes a list for a scene."""

    async def __call__(self, scene: Scene, rng: Random) -> Shown:
        """The list that people in `scene` are shown."""


def written_by(engine: Engine, policy: Policy) -> Lister:
    """Lists that `policy` writes, sampled as the policy says, as serving samples them. The engine is started already."""
    tokenizer = policy.tokenizer
    logged = {**asdict(policy.decoding), "max_tokens": _MAX_TOKENS, "n": 1}

    async def lister(scene: Scene, rng: Random) -> Shown:
        task = get_task(scene.task)
        prompt = task.render(scene.context, tokenizer, budget=PROMPT_BUDGET)
        seed = rng.getrandbits(31)
        sampling = policy.sampling(scene.context, max_tokens=_MAX_TOKENS, seed=seed)
        name = f"simulate-{rng.getrandbits(60)}"
        [completion] = await engine.generate(name, prompt.token_ids, sampling, policy.adapter)
        text = tokenizer.decode(completion.token_ids)
        parsed = task.parse(text, n=scene.context.n, separator=tokenizer.format.separator)
        return Shown(
            queries=parsed.queries,
            texts=dict(parsed.texts),
            policy_version=policy.version,
            fingerprint=task.fingerprint(tokenizer.format),
            prompt_tokens=len(prompt.token_ids),
            sampling={**logged, "seed": seed},
        )

    return lister


def at_random(audience: Audience) -> Lister:
    """Lists of random queries that make sense for the thing: what a policy could write that learned nothing else."""

    async def lister(scene: Scene, rng: Random) -> Shown:
        return random_list(audience, scene, scene.context.n, rng)

    return lister


def random_list(audience: Audience, scene: Scene, n: int, rng: Random) -> Shown:
    """`n` queries for different needs of those that people in the scene may have; the wrappers of its own form."""
    catalogue, need = audience.world.catalogue, rng.choice(scene.needs)
    if form := next((form for form in catalogue.forms if form.id == need.kind), None):
        prefix, suffix = rng.choice(form.wrappers)
        snippets = [snippet for group in form.snippets for snippet in group]
        return Shown(tuple(rng.sample(snippets, min(n, len(snippets)))), {"prefix": prefix, "suffix": suffix})
    if need.kind not in catalogue.kind:
        return Shown(tuple(each.text for each in rng.sample(scene.needs, min(n, len(scene.needs)))))
    facets = catalogue.kind[need.kind].facets
    in_turn = [facet for _ in range(0, n, len(facets)) for facet in rng.sample(facets, len(facets))]
    return Shown(tuple(dict.fromkeys(ask(facet, need.about, rng) for facet in in_turn[:n])))


async def the_question_again(scene: Scene, rng: Random) -> Shown:
    """A list of one query: what was asked last."""
    return Shown(scene.known[-1:] if scene.context.query is None else (scene.context.query,))
