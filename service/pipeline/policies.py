"""Which policy writes the lists of a task, and on which engine; a newer champion takes over without a restart.

It knows nothing about the registry, nor which engine it is.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from service.contract.engine import Engine, Sampling
from service.contract.errors import EngineUnavailable, NextQueryError
from service.contract.ids import new_id
from service.contract.policy import Policy, load_policy
from service.contract.registry import ANY_TASK
from service.contract.tasks import get_task
from service.contract.types import PromptContext
from service.engines.pool import EngineLease, EnginePool
from service.engines.supervisor import EngineState
from service.pipeline.champion import KeptChampion, Newest
from service.pipeline.recent import Asked

_LOG = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 60.0  # between two tries of a policy that was refused: loading a model is work
_GRACE = 1.5


class ServedPolicy:
    """A policy, and the engine that writes with it. `problem`: why the engine cannot, though it runs."""

    def __init__(self, policy: Policy, lease: EngineLease, *, prompt_tokens: int) -> None:
        self.policy = policy
        self._prompt_tokens = prompt_tokens
        self.problem: str | None = None
        self._lease = lease
        self._proving: asyncio.Task[None] | None = None

    @property
    def version(self) -> str:
        """The version of the policy."""
        return self.policy.version

    @property
    def engine(self) -> Engine:
        """What generates; every call passes the policy's adapter."""
        return self._lease.engine

    @property
    def engine_state(self) -> EngineState:
        """What the engine is doing."""
        return self._lease.engine.state

    async def prove(self, recent: Sequence[Asked], timeout_s: float) -> None:
        """Return when the engine has generated with this policy, for which it loads the adapter, for what people asked.

        `recent`: at least one request.

        Raises:
            EngineError: It cannot.
        """
        await self._lease.engine.wait_ready(timeout_s, patient=False)
        try:
            async with asyncio.timeout(timeout_s):
                for task, context in recent:  # one after the other: those who are served come first
                    await self._warm(task, context)
        except TimeoutError:
            raise EngineUnavailable(
                f"The engine gave nothing for {self.version} within {timeout_s:g} s. Usually it is overloaded; the "
                "policy is tried again."
            ) from None

    async def _warm(self, task: str, context: PromptContext) -> None:
        rendered = get_task(task).render(context, self.policy.tokenizer, budget=self._prompt_tokens)
        prompt, sampling = rendered.token_ids[: self._prompt_tokens], Sampling(max_tokens=4, temperature=0.0)
        await self.engine.generate(f"warm-{new_id()}", prompt, sampling, self.policy.adapter)

    def prove_later(self, recent: Sequence[Asked], timeout_s: float) -> None:
        """Prove it as soon as its engine is ready; `problem` says what came out."""
        self._proving = asyncio.create_task(self._prove_when_ready(recent, timeout_s))

    async def _prove_when_ready(self, recent: Sequence[Asked], timeout_s: float) -> None:
        while True:
            try:
                await self._lease.engine.wait_ready(timeout_s)
                await self.prove(recent, timeout_s)
                return
            except EngineUnavailable:
                await asyncio.sleep(1.0)  # its supervisor starts it again
            except NextQueryError as error:
                self.problem = f"{self.version}: {error}"
                _LOG.error("The policy in service cannot write: %s", self.problem)
                return

    async def close(self) -> None:
        """Give its engine back."""
        if self._proving is not None:
            self._proving.cancel()
        await self._lease.close()


class Policies:
    """The champions among policies, by the task that they are champion of; "*" stands for all without their own.

    Beside them are the versions that arms of experiments name. `newest`: for each task, the version of its champion and
    how to open it. `named`: the same for a version. `longest_request_s`: an old one is kept longer than that, for the
    requests that it has.
    """

    def __init__(
        self,
        newest: Mapping[str, Newest[ServedPolicy]],
        *,
        named: Callable[[str], Newest[ServedPolicy]] | None = None,
        longest_request_s: float = 10.0,
    ) -> None:
        self._after_s = _GRACE * longest_request_s
        self._champions = {
            task: self._kept(f"The policy for {task}", each, may_end=task != ANY_TASK) for task, each in newest.items()
        }
        self._named = named
        self._of_arms: dict[str, KeptChampion[ServedPolicy]] = {}
        self._retired: list[KeptChampion[ServedPolicy]] = []

    def of(self, task: str, version: str | None = None) -> ServedPolicy | None:
        """What writes lists of `task`, None where there is none. Read it once for a request, which may outlast it.

        `version`: what an arm names; where that is not to be had, the champion.
        """
        if version in self._of_arms and (served := self._of_arms[version].now):
            return served
        for name in (task, ANY_TASK):
            if name in self._champions and (served := self._champions[name].now):
                return served
        return None

    @property
    def tasks(self) -> list[str]:
        """Those that may have a champion of their own, and "*"."""
        return list(self._champions)

    @property
    def in_service(self) -> dict[str, ServedPolicy]:
        """What writes for each task that has its own; "*" is all others."""
        return {task: kept.now for task, kept in self._champions.items() if kept.now}

    @property
    def problem(self) -> str | None:
        """Why a newer policy is not taken up."""
        every = [*self._champions.values(), *self._of_arms.values()]
        return " ".join(dict.fromkeys(kept.problem for kept in every if kept.problem)) or None

    async def keep_named(self, versions: Collection[str]) -> None:
        """Open the versions that arms name, and let go of those that no arm names any more."""
        for version in [each for each in self._of_arms if each not in versions]:
            gone = self._of_arms.pop(version)
            gone.retire()
            self._retired.append(gone)
        for version in versions:
            if version not in self._of_arms and self._named:
                self._of_arms[version] = self._kept(f"The policy {version} of an arm", self._named(version))
            await self._of_arms[version].refresh()

    async def refresh(self, task: str) -> None:
        """Take up the champion of `task` where it is not yet in service."""
        await self._champions[task].refresh()

    async def close(self) -> None:
        """Let go of all policies and their engines."""
        every = [*self._champions.values(), *self._of_arms.values(), *self._retired]
        await asyncio.gather(*(kept.close() for kept in every))

    def _kept(self, name: str, newest: Newest[ServedPolicy], *, may_end: bool = False) -> KeptChampion[ServedPolicy]:
        return KeptChampion(
            name, newest, longest_pause_s=_LONGEST_PAUSE_S, close_after_s=self._after_s, may_end=may_end
        )


async def open_policy(
    reference: str | Path,
    engines: EnginePool,
    *,
    recent: Sequence[Asked],
    prompt_tokens: int,
    timeout_s: float,
    proven: bool,
) -> ServedPolicy:
    """The policy in a directory, on the engine of its model.

    `proven`: it has generated for `recent` requests when it is returned. Else its engine may still be starting.

    Raises:
        ArtifactError: It is damaged, of another prompt, or without its base.
        EngineError: The engine cannot start, or cannot write with it, or not within `timeout_s`.
    """
    policy = await asyncio.to_thread(load_policy, reference)
    lease = await engines.lease(policy.model_directory, policy.adapter)
    served = ServedPolicy(policy, lease, prompt_tokens=prompt_tokens)
    if engines.off:
        return served
    if not proven:
        served.prove_later(recent, timeout_s)
        return served
    try:
        await served.prove(recent, timeout_s)
    except BaseException:
        await served.close()
        raise
    return served
