"""The engines in service: one for each model, shared by all policies that are that model or adapters on it.

It knows nothing about policies, nor which engine it is.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from service.contract.engine import Adapter, Engine
from service.contract.settings import Timeouts
from service.engines.supervisor import SupervisedEngine


class EnginePool:
    """Leases supervised engines: a model's is started for its first lease and closed after its last.

    `create` makes an engine for a model directory. `off`: engines are never started, and answer nothing.
    """

    def __init__(self, create: Callable[[Path], Engine], *, timeouts: Timeouts, queue: int, off: bool = False) -> None:
        self.off = off
        self._create, self._timeouts, self._queue = create, timeouts, queue
        self._engines: dict[Path, SupervisedEngine] = {}
        self._leases: Counter[tuple[Path, Adapter | None]] = Counter()

    @property
    def engines(self) -> list[SupervisedEngine]:
        """Every engine that is leased now."""
        return list(self._engines.values())

    async def lease(self, model_directory: Path, adapter: Adapter | None = None) -> "EngineLease":
        """The engine of that model, which may still be starting. `adapter` stays loaded as long as it is leased."""
        model = _resolved(model_directory)
        if model not in self._engines:
            create = self._create
            self._engines[model] = SupervisedEngine(lambda: create(model), queue=self._queue, timeouts=self._timeouts)
        self._leases[model, adapter] += 1
        engine = self._engines[model]
        if not self.off:
            await engine.start()
        return EngineLease(engine, self, model, adapter)

    async def give_back(self, model: Path, adapter: Adapter | None) -> None:
        """End one lease."""
        self._leases[model, adapter] -= 1
        self._leases += Counter()  # drops what is at nought
        if all(leased != model for leased, _ in self._leases):
            await self._engines.pop(model).close()
        elif adapter is not None and (model, adapter) not in self._leases:
            await self._engines[model].drop(adapter)


@dataclass(slots=True)
class EngineLease:
    """The right to use an engine, with an adapter or without, until `close`."""

    engine: SupervisedEngine
    pool: EnginePool
    model: Path
    adapter: Adapter | None
    _closed: bool = field(default=False, init=False)

    async def close(self) -> None:
        """Give it back; may be called twice."""
        if not self._closed:
            self._closed = True
            await self.pool.give_back(self.model, self.adapter)


def _resolved(directory: Path) -> Path:
    """One name for one directory."""
    return directory.resolve()
