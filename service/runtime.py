"""Everything the online half is made of, built once at start-up and taken apart at the end.

It knows nothing about HTTP.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from retrieval.searcher import Searcher, SearchRule, open_searcher
from service.contract import database as db
from service.contract import registry
from service.contract.errors import ConfigurationError, DatabaseError
from service.contract.policy import version_named
from service.contract.settings import STARTER, Settings
from service.contract.tasks import all_tasks
from service.engines import create_engine, device_kind, resolve
from service.engines.pool import EnginePool
from service.events.click_token import TokenSigner, load_or_create_secret
from service.events.group_commit import GroupCommit
from service.events.intake import ClickIntake
from service.events.quarantine import Quarantine
from service.experiments.kept import KeptExperiments
from service.pipeline.champion import Newest
from service.pipeline.choose import Choice, Chooser
from service.pipeline.co_occurrence import CoOccurrence
from service.pipeline.generate import Generator
from service.pipeline.looking import Looking
from service.pipeline.policies import Policies, ServedPolicy, open_policy
from service.pipeline.popular import PopularQueries
from service.pipeline.recent import RecentRequests
from service.pipeline.recommend import Recommender
from service.pipeline.record import Recorder
from service.pipeline.score import ClickPrediction, Scorer, open_scorer

_CHAMPION = "champion"
_LOOK_ENDS_S = 1.0  # of the ten seconds in which a service must be gone
_DEADLINE_S = {"cuda": 0.3, "cpu": 2.0}  # RELIABILITY.md I5


class Runtime:
    """The running parts. Build it, `start` it, `close` it."""

    def __init__(self, settings: Settings) -> None:
        """Build every part; nothing is opened before `start`."""
        self.settings = settings
        self.stopping = False
        times = settings.timeouts
        self.deadline_s = times.recommend_s or _DEADLINE_S[device_kind()]
        self.database: AsyncEngine = db.create(settings.resolved_database_url(), times)
        self.engines = EnginePool(
            partial(create_engine, settings.engine, settings=settings),
            queue=settings.engine_queue,
            timeouts=times,
            off=settings.engine == "off",
        )
        kept = (registry.ANY_TASK, *all_tasks()) if settings.policy == _CHAMPION else (registry.ANY_TASK,)
        self.policies = Policies(
            {task: partial(self._newest_policy, task) for task in kept},
            named=self._named_policy,
            longest_request_s=times.recommend_max_s,
        )
        self.recent = RecentRequests()
        self._has_starter = False
        self.writer = GroupCommit(self.database)
        self.popular = PopularQueries(
            self.database,
            min_people=settings.popular_min_people,
            days=settings.popular_days,
            timeout_s=times.database_statement_s,
        )
        self.co_occurrence = CoOccurrence(
            self._newest_build,
            tasks=_known_tasks(settings.cor_tasks),
            timeout_s=times.cor_s,
        )
        self.click_prediction = ClickPrediction(
            {task: partial(self._newest_predictor, task) for task in (registry.ANY_TASK, *all_tasks())},
            is_wanted=lambda: settings.ctr_use != "off" or self.experiments.needs_predictor,
        )
        self.experiments = KeptExperiments(self.database, settings.resolved_experiments_file())
        self._looking = Looking()

    async def start(self) -> None:
        """Open the database, take up the policy, begin to load the model; lower rungs answer until it is ready."""
        settings = self.settings
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        await db.check_schema(self.database)
        signer = TokenSigner(self._secrets(), valid_days=settings.click_token_days)
        await self.writer.start()
        await self.policies.refresh(registry.ANY_TASK)
        generator = Generator(
            self.policies.of,
            prompt_tokens=settings.prompt_tokens,
            context_tokens=settings.engine_context_tokens,
            decoding=settings.decoding(),
            exact_tokens=settings.exact_tokens,
            recent=self.recent,
        )
        self.recommender = Recommender(
            generator,
            self._chooser(),
            self.co_occurrence,
            self.popular,
            Recorder(self.writer, signer),
            co_queries_in_prompt=settings.cor_in_prompt,
            assign=lambda task, units: self.experiments.assigner.assign(task, units),
        )
        quarantine = await Quarantine.open(self.database, most_rows=settings.quarantine_max_rows)
        self.clicks = ClickIntake(self.writer, signer, quarantine)
        await self.experiments.refresh()
        await self.click_prediction.start()
        times, looking = settings.timeouts, self._looking
        looking.begin(self.popular.refresh, times.popular_refresh_s)
        looking.begin(self.co_occurrence.refresh, times.cor_refresh_s)
        looking.begin(self.click_prediction.refresh, times.ctr_refresh_s)
        looking.begin(self._refresh_experiments, times.experiments_refresh_s)
        if settings.policy == _CHAMPION:  # what else the settings name stays what it is
            for task in self.policies.tasks:
                looking.begin(partial(self.policies.refresh, task), times.policy_refresh_s)

    def begin_stop(self) -> None:
        """Not ready from now on; what is in flight is still answered."""
        self.stopping = True

    @property
    def engine_name(self) -> str:
        """The engine that writes the lists."""
        return resolve(self.settings.engine)

    async def close(self) -> None:
        """Stop taking part in anything; what was accepted is committed first."""
        self.begin_stop()
        await self._looking.end(_LOOK_ENDS_S)
        await self.co_occurrence.close()
        await self.click_prediction.close()
        await self.policies.close()
        await self.writer.close()
        await self.database.dispose()

    async def health(self) -> dict[str, str]:
        """State of each part: ready, off, or what is wrong."""
        if self.stopping:
            return {"service": "stopping"}
        policies = self.policies
        policy = policies.problem or ("ready" if policies.in_service else "off")
        builds = self.co_occurrence
        cor = builds.problem or ("ready" if builds.version else "off")
        predictors = self.click_prediction
        ctr = predictors.problem or ("ready" if predictors.versions else "off")
        running = self.experiments
        experiments = running.problem or ("ready" if running.now.experiments or running.now.holdout else "off")
        database, engine = await self._database_state(), self.engine_phase
        return {
            "database": database,
            "engine": engine,
            "policy": policy,
            "cor": cor,
            "ctr": ctr,
            "experiments": experiments,
        }

    @property
    def engine_phase(self) -> str:
        """State of the engines that write lists: ready, off, starting, down, or why there is no list of theirs."""
        if self.settings.engine == "off":
            return "off"
        serving = self.policies.in_service
        if registry.ANY_TASK not in serving:
            return f"no policy: {self.policies.problem}"
        states = [served.problem or served.engine_state.phase for served in serving.values()]
        return next((state for state in states if state != "ready"), "ready")

    def _chooser(self) -> Chooser:
        settings = self.settings
        choice = Choice(settings.ctr_use, settings.ctr_best_of, settings.ctr_explore_share)
        return Chooser(self.click_prediction, choice, timeout_s=settings.timeouts.ctr_s)

    async def _refresh_experiments(self) -> None:
        """Follow the experiments, and open the policies that they name, but for adapters whose base serves no longer."""
        await self.experiments.refresh()
        with suppress(DatabaseError):  # what is open stays open; `experiments` says that the database is away
            named = self.experiments.policies
            if self.settings.policy == _CHAMPION:
                named -= await registry.retired(self.database, named)
            await self.policies.keep_named(named)

    def _named_policy(self, version: str) -> Newest[ServedPolicy]:
        """How an arm's policy is found and opened; it has generated before it serves."""

        async def newest() -> tuple[str, Callable[[], Awaitable[ServedPolicy]]]:
            model = await registry.show(self.database, version)
            return version, partial(self._open_policy, model.directory, model.task, proven=True)

        return newest

    async def _open_policy(self, reference: str | Path, task: str, *, proven: bool) -> ServedPolicy:
        return await open_policy(
            reference,
            self.engines,
            recent=self.recent.of(task),
            prompt_tokens=self.settings.prompt_tokens,
            timeout_s=self.settings.timeouts.engine_start_s,
            proven=proven,
        )

    async def _newest_policy(self, task: str) -> tuple[str, Callable[[], Awaitable[ServedPolicy]]] | None:
        is_first = task == registry.ANY_TASK and self.policies.of(task) is None
        opened = partial(
            self._open_policy, task=task, proven=not is_first
        )  # while nothing serves there is nothing to keep
        if self.settings.policy != _CHAMPION:
            return await asyncio.to_thread(version_named, self.settings.policy), partial(opened, self.settings.policy)
        if is_first and not self._has_starter:
            await registry.ensure_starter(self.database, STARTER)
            self._has_starter = True
        champion = await registry.champion(self.database, "policy", task)
        if champion is None or champion.task != task:  # that of "*" is opened once, not for each task
            return None
        return champion.version, partial(opened, champion.directory)

    async def _newest_build(self) -> tuple[str, Callable[[], Awaitable[Searcher]]] | None:
        champion = await registry.champion(self.database, "cor", registry.ANY_TASK)
        if champion is None:
            return None
        settings = self.settings
        rule = SearchRule(n=settings.cor_n, neighbours=settings.cor_neighbours, floor=settings.cor_similarity_floor)

        async def open_it() -> Searcher:
            return await open_searcher(
                champion.directory, rule, redis_url=settings.redis_url, redis_timeout_s=settings.timeouts.redis_s
            )

        return champion.version, open_it

    async def _newest_predictor(self, task: str) -> tuple[str, Callable[[], Awaitable[Scorer]]] | None:
        champion = await registry.champion(self.database, "ctr", task)
        if champion is None or champion.task != task:  # that of "*" is opened once, not for each task
            return None
        return champion.version, partial(
            open_scorer, champion.directory, task, timeout_s=self.settings.timeouts.ctr_open_s
        )

    async def _database_state(self) -> str:
        try:
            async with (
                asyncio.timeout(self.settings.timeouts.database_statement_s),
                self.database.connect() as connection,
            ):
                await connection.execute(text("SELECT 1"))
        except (SQLAlchemyError, OSError, TimeoutError):
            return "away"
        return "ready"

    def _secrets(self) -> list[str]:
        given = [secret.get_secret_value() for secret in self.settings.click_token_secrets]
        return given or load_or_create_secret(self.settings.data_dir)


def _known_tasks(names: list[str]) -> list[str]:
    unknown = sorted(set(names) - set(all_tasks()))
    if unknown:
        raise ConfigurationError(
            f"NEXTQUERY_COR_TASKS names {', '.join(map(repr, unknown))}, which is no task. There are "
            f"{', '.join(sorted(all_tasks()))}."
        )
    return names
