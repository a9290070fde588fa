"""How relevant the responses of policies are, as a judge sees them: rates by both templates, duels, and what it cost (TPPO 4).

It knows no judge by name and no reward. All policies write for the same prompts with the same seeds.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from scipy.stats import binomtest

from service.contract.engine import Engine
from service.contract.errors import ConfigurationError
from service.contract.policy import Policy
from trainer.labels import asked_about
from trainer.methods.models import fresh
from trainer.ppo.actor_critic import Sequences, logprobs_of
from trainer.ppo.rollout import Rollout, as_served, sample
from trainer.prompt_files import KnownPrompt
from trainer.word_judges import Asked, Vote, WordJudge

_AT_ONCE = 32  # responses in a forward pass
_OTHER = {"first": "second", "second": "first", "neither": "neither"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Relevance:
    """Of one policy on one set of prompts.

    Attributes:
        words_first: share of the responses that are relevant, each word judged before.
        sentence: the same, asked for directly.
        unjudged: verdicts that the judge did not come to, of both; they are in no share.
        failures: share of the responses that are not a whole list of as many queries as were asked for.
        tokens: mean of a response.
        kl: nats a response from the base without adapter, of responses at temperature 1; None as served.
    """

    prompts: int
    words_first: float
    sentence: float
    unjudged: int
    failures: float
    tokens: float
    kl: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """Two policies on the same prompts.

    Attributes:
        wins, ties, losses: of the first, by the judge's vote, asked twice with the order swapped; disagreement is a tie.
        unjudged: prompts without both votes.
        gained, lost: prompts on which only the first, or only the second, is relevant (words first).
        p: two-sided, exact, that chance alone makes so uneven a pair of them (McNemar).
    """

    wins: int
    ties: int
    losses: int
    unjudged: int
    gained: int
    lost: int
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a policy wrote for a set of prompts, and the verdicts."""

    written: Sequence[Rollout]
    asked: Sequence[Asked]
    words_first: Sequence[bool | None]
    sentence: Sequence[bool | None]


async def judged(
    engine: Engine,
    policy: Policy,
    prompts: Sequence[KnownPrompt],
    judge: WordJudge,
    *,
    seed: int = 0,
    max_tokens: int = 64,
    served: bool = False,
) -> Judged:
    """What `policy` writes for the prompts, at temperature 1 or as it is served, and what `judge` says of it.

    Raises:
        JudgeError: The judge does not answer at all.
    """
    plain = [each.prompt for each in prompts]
    if served:
        written = await as_served(engine, policy, plain, seed=seed, max_tokens=max_tokens)
    else:
        written = await sample(engine, policy, plain, seed=seed, max_tokens=max_tokens, adapter=policy.adapter)
    asked = [asked_about(each.prompt, each.response, known.scene) for each, known in zip(written, prompts, strict=True)]
    judgements = await asyncio.to_thread(judge.judge, asked)
    return Judged(
        written=written,
        asked=asked,
        words_first=[None if each is None else each.whole for each in judgements],
        sentence=await asyncio.to_thread(judge.whole, asked),
    )


def relevance(found: Judged, *, kl: float | None = None) -> Relevance:
    """What was judged, in figures.

    Raises:
        ConfigurationError: There is nothing.
    """
    if not found.written:
        raise ConfigurationError("There are no prompts to measure relevance on. Give a file that has some.")
    count = len(found.written)
    return Relevance(
        prompts=count,
        words_first=_share(found.words_first),
        sentence=_share(found.sentence),
        unjudged=sum(each is None for each in (*found.words_first, *found.sentence)),
        failures=failure_share(found.written),
        tokens=sum(len(each.response.ids) for each in found.written) / count,
        kl=kl,
    )


def failure_share(written: Sequence[Rollout]) -> float:
    """Share of the responses that are not a whole list of as many queries as were asked for."""
    failed = [
        each.response.problem is not None or len(each.response.queries) < each.prompt.context.n for each in written
    ]
    return sum(failed) / max(1, len(failed))


def duel(one: Judged, other: Judged, judge: WordJudge) -> Duel:
    """The first against the second on the same prompts."""
    pairs = list(zip(one.asked, other.asked, strict=True))
    straight, swapped = judge.votes(pairs), judge.votes([(second, first) for first, second in pairs])
    outcomes = [_agreed(*votes) for votes in zip(straight, swapped, strict=True)]
    verdicts = list(zip(one.words_first, other.words_first, strict=True))
    gained = sum(first is True and second is False for first, second in verdicts)
    lost = sum(first is False and second is True for first, second in verdicts)
    return Duel(
        wins=outcomes.count("first"),
        ties=outcomes.count("neither"),
        losses=outcomes.count("second"),
        unjudged=outcomes.count(None),
        gained=gained,
        lost=lost,
        p=float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
    )


def duels(found: Mapping[str, Judged], judge: WordJudge) -> dict[str, Duel]:
    """Every pair of policies, by "one against other", later ones first: what is newer is tried against what was."""
    named = list(found.items())[::-1]
    return {
        f"{one} against {other}": duel(mine, theirs, judge) for (one, mine), (other, theirs) in combinations(named, 2)
    }


def divergence(policy: Policy, written: Sequence[Rollout]) -> float:
    """Mean of log policy - log base over what the policy wrote at temperature 1, in nats a response: its KL from the base."""
    if policy.adapter is None:
        return 0.0
    model, total = fresh(policy), 0.0
    order = sorted(written, key=lambda each: len(each.prompt_ids) + len(each.response.ids))
    for at in range(0, len(order), _AT_ONCE):
        part = order[at : at + _AT_ONCE]
        sequences = Sequences.of([each.prompt_ids for each in part], [each.response.ids for each in part])
        mine = logprobs_of(model, sequences)
        with model.disable_adapter():
            base = logprobs_of(model, sequences)
        total += float(((mine - base) * sequences.mask).sum(dtype=torch.float64))
    return total / max(1, len(written))


def _agreed(straight: Vote | None, swapped: Vote | None) -> Vote | None:
    if straight is None or swapped is None:
        return None
    return straight if straight == _OTHER[swapped] else "neither"


def _share(verdicts: Sequence[bool | None]) -> float:
    known = [each for each in verdicts if each is not None]
    return sum(known) / max(1, len(known))
