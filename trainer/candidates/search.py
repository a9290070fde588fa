"""Lists to prefer and lists to avoid for each prompt: Algorithm 1 of GQR, lines 2 to 24, over many prompts at once.

It knows nothing about pairs or training. Each round of the beam search is one wave of engine requests over all prompts
and beams, so that an engine batches them and re-uses the cache of their prefixes, and one call of the click predictor.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from ctr.predictor import Predictor, Reward
from service.contract.artifact import MANIFEST, manifest_sha256
from service.contract.engine import Engine
from service.contract.errors import ConfigurationError
from service.contract.policy import Policy
from service.contract.progress import Report
from service.contract.query_text import match_key
from service.contract.tasks import get_task
from trainer.candidates.beams import Beam, lowest, select
from trainer.candidates.click_reward import ClickReward
from trainer.candidates.config import SearchConfig
from trainer.candidates.near_duplicates import new_ones
from trainer.candidates.query_sampler import Next, QuerySampler, Response, Stopwatch, all_of, both, seed_of
from trainer.candidates.report import SearchReport
from trainer.candidates.scored_lists import Candidates, ScoredList, Shards, to_parquet
from trainer.encoding import PROMPT_BUDGET
from trainer.judges import Similar
from trainer.prompts import AlignmentPrompt

_SHARDS_AT_ONCE = 2  # while the lists of one are scored, the engine writes for the other

T = TypeVar("T")
_Lists = list[tuple[ScoredList, ...]]  # of each prompt


@dataclass(slots=True)
class _Tree:
    """The search for one prompt: its beams, group by group. `asked`: keys of what the person typed."""

    prompt: AlignmentPrompt
    texts: dict[str, str]
    asked: frozenset[str]
    groups: list[list[Beam]]

    @property
    def n(self) -> int:
        return self.prompt.context.n


@dataclass(slots=True)
class _Expansion:
    """One beam of a tree with what may stand next; `p`: click probability of each."""

    tree: _Tree
    group: int
    beam: Beam
    following: list[Next]
    p: list[float] = field(default_factory=list)

    def grown(self) -> Iterator[Beam]:
        """The beams that it becomes."""
        for each, p in zip(self.following, self.p, strict=True):
            if each.query is not None:
                ended = each.ends or len(self.beam.queries) + 1 == self.tree.n
                yield self.beam.plus(each.query, p, each.token_ids, ended=ended)


class CandidateSearch:
    """Searches with one policy on one engine, which is started already, under one click predictor.

    The same seed, engine and predictor find the same lists, in whatever shards.
    """

    def __init__(
        self,
        policy: Policy,
        engine: Engine,
        predictor: Predictor,
        config: SearchConfig = SearchConfig(),  # noqa: B008  # it is frozen
        *,
        similar: Similar | None = None,
        prompt_tokens: int = PROMPT_BUDGET,
        at_once: int = 256,
    ) -> None:
        """`similar` finds near-duplicates. `at_once`: most requests in flight.

        `prompt_tokens`: budget of a prompt; the engine's context must hold it and a whole response.

        Raises:
            ConfigurationError: Near-duplicates are to be dropped and nothing finds them, or the policy decodes greedily.
        """
        if config.near_duplicate is not None and similar is None:
            raise ConfigurationError(
                "Near-duplicates cannot be found without an embedder. Give one as `similar`, or set near_duplicate to None."
            )
        if not policy.decoding.temperature:
            raise ConfigurationError(
                f"Policy {policy.version} decodes greedily, so that all its random responses are the same. Give it a "
                "decoding with a temperature above 0."
            )
        self._policy, self._config, self._similar = policy, config, similar
        self._identity = identity_of(policy, predictor, config)
        self._tally: Counter[str] = Counter()
        self._sampler = QuerySampler(policy, engine, self._tally, prompt_tokens=prompt_tokens, at_once=at_once)
        self._searching = Stopwatch()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="candidates")  # the loop stays free for the engine
        self._reward = ClickReward(predictor, self._tally, self._thread)

    @property
    def report(self) -> SearchReport:
        """What this object did so far."""
        counted = {name: self._tally[name] for name in SearchReport.__dataclass_fields__}
        seconds = self._searching.seconds
        share = self._sampler.busy.seconds / seconds if seconds else 0.0
        return SearchReport(**{**counted, "seconds": seconds, "engine_busy_share": share})  # type: ignore[arg-type]

    async def search(self, prompts: Sequence[AlignmentPrompt]) -> list[Candidates]:
        """Candidates of each prompt, in the order given.

        Raises:
            ConfigurationError: The predictor is for another task.
            ArtifactError: The predictor gives what is no probability, or the same to whatever stands next.
            EngineError: The engine failed.
        """
        self._reward.refuse_other_tasks({prompt.task for prompt in prompts})
        with self._searching:
            ids = [self._sampler.prompt_ids(prompt) for prompt in prompts]
            drawn = await all_of(self._random(*each) for each in zip(prompts, ids, strict=True))
            choose = self._best_beams if self._config.beam_search else self._best_of_random
            rejected, chosen = await both(self._rejected(prompts, drawn), choose(prompts, ids, drawn))
        found = [
            Candidates(prompt=prompt, chosen=best, rejected=worst)
            for prompt, best, worst in zip(prompts, chosen, rejected, strict=True)
        ]
        self._tally["prompts"] += len(found)
        self._tally["lists"] += sum(len(each.chosen) + len(each.rejected) for each in found)
        return found

    async def search_to(
        self,
        directory: Path,
        prompts: Sequence[AlignmentPrompt],
        *,
        shard_size: int = 64,
        report: Report | None = None,
    ) -> SearchReport:
        """Search shard by shard into `directory`, two at once; a run that was killed goes on with those that are missing.

        A shard of 64 prompts still fills an engine, and there are two of them also where prompts are few.

        `read_candidates` reads them. `report` is told after each shard.

        Raises:
            ConfigurationError: `directory` has another search, or cannot be written.
        """
        shards = Shards(directory, prompts, shard_size, self._identity)
        missing = shards.missing()
        gate = asyncio.Semaphore(_SHARDS_AT_ONCE)
        done = shards.count - len(missing)

        async def one(number: int) -> None:
            nonlocal done
            async with gate:
                shards.write(number, to_parquet(await self.search(shards.prompts(number))))
            done += 1
            if report:
                now = self.report
                report(done / shards.count, {"lists_per_s": now.lists_per_s, "engine_busy": now.engine_busy_share})

        await all_of(one(number) for number in missing)
        return self.report

    async def _random(self, prompt: AlignmentPrompt, prompt_ids: tuple[int, ...]) -> list[Response]:
        seed = seed_of(self._config.seed, prompt.prompt_id, "random")
        return await self._sampler.whole(prompt, prompt_ids, self._config.random_lists, seed)

    async def _rejected(self, prompts: Sequence[AlignmentPrompt], drawn: Sequence[Sequence[Response]]) -> _Lists:
        """The lowest of the random responses of each prompt (Algorithm 1, lines 19 to 24); of equal lists one."""
        return [self._lowest(*each) for each in await self._distinct_with_rewards(prompts, drawn)]

    async def _best_of_random(
        self, prompts: Sequence[AlignmentPrompt], ids: Sequence[tuple[int, ...]], _: Sequence[Sequence[Response]]
    ) -> _Lists:
        """The best of whole responses, sampled as the queries of a beam search are and for about as many tokens (-BS)."""
        config = self._config
        drawn = await all_of(
            self._sampler.whole(
                prompt,
                prompt_ids,
                config.lists_instead(prompt.context.n),
                seed_of(config.seed, prompt.prompt_id, "instead of beams"),
                temperature=config.temperature,
                top_p=config.top_p,
            )
            for prompt, prompt_ids in zip(prompts, ids, strict=True)
        )
        found = await self._distinct_with_rewards(prompts, drawn)
        return [self._best(prompt, *each) for prompt, each in zip(prompts, found, strict=True)]

    async def _distinct_with_rewards(
        self, prompts: Sequence[AlignmentPrompt], drawn: Sequence[Sequence[Response]]
    ) -> list[tuple[list[Response], list[float]]]:
        """The responses of each prompt, of equal lists one, and their rewards: one call of the predictor."""
        distinct = [list({_keys(each.queries): each for each in reversed(lists)}.values())[::-1] for lists in drawn]
        asked = [
            (prompt.context, each.queries, get_task(prompt.task).single_choice)
            for prompt, lists in zip(prompts, distinct, strict=True)
            for each in lists
        ]
        rewards = iter(await self._reward.of_lists(asked))
        return [(lists, [next(rewards) for _ in lists]) for lists in distinct]

    def _best(
        self, prompt: AlignmentPrompt, lists: Sequence[Response], rewards: Sequence[float]
    ) -> tuple[ScoredList, ...]:
        best = sorted(zip(lists, rewards, strict=True), key=lambda each: -each[1])[: self._config.beams]
        return tuple(self._to_write(prompt, one.queries, one.texts, reward) for one, reward in best)

    def _lowest(self, lists: Sequence[Response], rewards: Sequence[float]) -> tuple[ScoredList, ...]:
        queries = [each.queries for each in lists]
        worst = lowest(queries, rewards, self._config.rejected, diversity=self._config.diversity)
        return tuple(self._scored(queries[i], lists[i].texts, rewards[i], lists[i].text) for i in worst)

    def _tree(self, prompt: AlignmentPrompt, prompt_ids: tuple[int, ...], drawn: Sequence[Response]) -> _Tree:
        """One empty list for each group; where texts come first, those of the first random response (one set a prompt)."""
        task, context = get_task(prompt.task), prompt.context
        asked = frozenset(match_key(text) for text in (context.query, *context.session) if text)
        texts, opening = {}, prompt_ids
        if task.auxiliary and not drawn:
            self._tally["without_texts"] += 1
            return _Tree(prompt, {}, asked, [])
        if task.auxiliary:
            texts, opening = drawn[0].texts, drawn[0].opening
        empty = Beam(token_ids=opening, reward=Reward(task.single_choice))
        return _Tree(prompt, texts, asked, [[empty] for _ in range(self._config.groups)])

    async def _best_beams(
        self,
        prompts: Sequence[AlignmentPrompt],
        ids: Sequence[tuple[int, ...]],
        drawn: Sequence[Sequence[Response]],
    ) -> _Lists:
        trees = [self._tree(*each) for each in zip(prompts, ids, drawn, strict=True)]
        await self._grow(trees)
        return [self._chosen(tree) for tree in trees]

    async def _grow(self, trees: Sequence[_Tree]) -> None:
        """The beam search (Algorithm 1, lines 4 to 17): round k puts a k-th query into every list that goes on."""
        for k in range(1, max((tree.n for tree in trees), default=0) + 1):
            expansions = await self._expand(trees, k)
            if not expansions:
                break
            await self._drop_near_duplicates(expansions)
            await self._score(expansions)
            self._keep_best(trees, expansions, k)

    async def _expand(self, trees: Sequence[_Tree], k: int) -> list[_Expansion]:
        """Every open beam with distinct next queries: one wave of requests."""
        growing = [
            (tree, group, number, beam)
            for tree in trees
            for group, beams in enumerate(tree.groups)
            for number, beam in enumerate(beams)
            if not beam.ended
        ]

        async def one(tree: _Tree, group: int, number: int, beam: Beam) -> _Expansion:
            config, known = self._config, tree.asked.union(beam.keys)
            separator = self._policy.tokenizer.separator_ids if beam.queries else ()
            following = await self._sampler.following(
                get_task(tree.prompt.task),
                (*beam.token_ids, *separator),
                config.expansions,
                seed_of(config.seed, tree.prompt.prompt_id, k, group * config.beams + number),
                temperature=config.temperature,
                top_p=config.top_p,
                said=known,
            )
            return _Expansion(tree, group, beam, self._distinct(following, known))

        return await all_of(one(*each) for each in growing)

    def _distinct(self, following: Sequence[Next], known: frozenset[str]) -> list[Next]:
        """Each new query once; it goes on where any of its samples does."""
        kept: dict[str, Next] = {}
        for each in following:
            key = match_key(each.query) if each.query is not None else ""
            if each.query is not None and (key in known or key in kept):
                self._tally["exact_duplicates"] += 1
            if key not in known and (key not in kept or (kept[key].ends and not each.ends)):
                kept[key] = each
        return list(kept.values())

    async def _drop_near_duplicates(self, expansions: Sequence[_Expansion]) -> None:
        """Leave out what says the same as the person's query, a query above, or an earlier one that may stand next."""
        threshold, similar = self._config.near_duplicate, self._similar
        if threshold is None or similar is None:
            return
        several = [each for each in expansions if each.tree.n > 1]  # one query: the best of all, without a filter
        asked = [(_above(each), _queries(each)) for each in several]
        told = await self._in_thread(lambda: new_ones(asked, similar, threshold=threshold))
        for each, news in zip(several, told, strict=True):
            new = iter(news)
            each.following = [one for one in each.following if one.query is None or next(new)]
            self._tally["near_duplicates"] += news.count(False)

    async def _score(self, expansions: Sequence[_Expansion]) -> None:
        """P(click) of everything that may stand next: one call of the predictor."""
        asked = [(each.tree.prompt.context, each.beam.queries, _queries(each)) for each in expansions]
        for each, found in zip(expansions, await self._reward.of_following(asked), strict=True):
            p = iter(found)
            each.p = [0.0 if one.query is None else float(next(p)) for one in each.following]

    def _keep_best(self, trees: Sequence[_Tree], expansions: Sequence[_Expansion], k: int) -> None:
        """The best lists of each group, of those that grew and those that ended (Algorithm 1, line 15)."""
        grown: dict[int, list[_Expansion]] = {}
        for each in expansions:
            grown.setdefault(id(each.tree), []).append(each)
        for tree in trees:
            pools = [[beam for beam in group if beam.ended] for group in tree.groups]
            for each in grown.get(id(tree), []):
                pools[each.group] += each.grown()
                if each.beam.queries and any(one.query is None for one in each.following):
                    pools[each.group].append(each.beam.closed())
            width = self._config.beams // self._config.groups
            tree.groups = select(pools, k, width=width, diversity=self._config.diversity)

    def _chosen(self, tree: _Tree) -> tuple[ScoredList, ...]:
        beams = sorted((beam for group in tree.groups for beam in group), key=lambda beam: -beam.reward.value)
        return tuple(self._to_write(tree.prompt, beam.queries, tree.texts, beam.reward.value) for beam in beams)

    def _to_write(
        self, prompt: AlignmentPrompt, queries: tuple[str, ...], texts: dict[str, str], reward: float
    ) -> ScoredList:
        """A chosen list, with the response that a policy is to write for it."""
        response = get_task(prompt.task).response(list(queries), texts, self._policy.tokenizer.format)
        return self._scored(queries, texts, reward, response)

    def _scored(self, queries: tuple[str, ...], texts: dict[str, str], reward: float, response: str) -> ScoredList:
        tokens = len(self._policy.tokenizer.encode_response(response))
        return ScoredList(queries=queries, texts=texts, reward=reward, response=response, tokens=tokens)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def identity_of(policy: Policy, predictor: Predictor, config: SearchConfig) -> dict[str, object]:
    """What decides which lists are found, besides the prompts, as JSON."""
    sealed = (policy.directory / MANIFEST).is_file()
    return {
        "policy": policy.version,
        "policy_sha256": manifest_sha256(policy.directory) if sealed else None,
        "predictor": predictor.version,
        "predictor_sha256": predictor.sha256,
        "config": asdict(config),
    }


def _keys(queries: Sequence[str]) -> tuple[str, ...]:
    return tuple(match_key(query) for query in queries)


def _queries(expansion: _Expansion) -> list[str]:
    return [each.query for each in expansion.following if each.query is not None]


def _above(expansion: _Expansion) -> list[str]:
    """What the person asked, and the queries of the beam."""
    context = expansion.tree.prompt.context
    return [*([context.query] if context.query else context.session[-1:]), *expansion.beam.queries]
