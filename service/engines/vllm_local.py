"""The vLLM engine: AsyncLLM in this process, its core in a child process that never outlives this one.

It knows nothing about queries, tasks or HTTP; nothing outside this file imports vLLM or sets its variables.
"""

import asyncio
import gc
import itertools
import logging
import multiprocessing
import threading
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

from service.contract.engine import Adapter, Completion, Sampling
from service.contract.errors import EngineError, EngineUnavailable
from service.contract.settings import Settings
from service.engines import device_kind
from service.engines._distinct_argument import as_argument
from service.engines.limits import ModelLimits, completion, read_limits
from service.engines.vllm_process import (
    FORK_SERVER,
    EngineProcesses,
    borrowed,
    dtype,
    environment,
)

_WARM_UP_BATCH = 8
_SHUTDOWN_S = 1.5
_OWNER_ENDS_S = 4.0  # vLLM's shutdown, then the fork server's
_DISTINCT = "service.engines._vllm_distinct:DistinctPieces"
_CANARY_PRIORITY = -1  # vLLM takes smaller first, so that a check is not stuck behind a queue of prompts


class VllmLocal:
    """One model in vLLM, with LoRA adapters chosen per request."""

    name = "vllm_local"

    def __init__(self, directory: Path, settings: Settings, limits: ModelLimits) -> None:
        self._directory = directory
        self._settings = settings
        self._limits = limits
        self._processes = EngineProcesses()
        self._llm: Any = None
        self._closed = False
        self._release = threading.Event()
        self._owner: threading.Thread | None = None
        self._adapters: dict[int, Any] = {}
        self._numbers = itertools.count()

    @property
    def running(self) -> int:
        """Completions that vLLM is working on now."""
        return int(self._llm.get_num_unfinished_requests()) if self._llm else 0

    async def start(self) -> None:
        self._refuse_when_closed()
        loop = asyncio.get_running_loop()
        built: asyncio.Future[Any] = loop.create_future()
        self._owner = threading.Thread(target=self._own, args=(loop, built), name="vllm-owner", daemon=True)
        self._owner.start()
        try:
            llm = await built
            self._refuse_when_closed()
            self._llm = llm
            self._processes.alive()  # remembers the core's own children while it lives
            await self._warm_up()
        except EngineError:
            raise
        except Exception as error:
            raise EngineUnavailable(
                f"vLLM could not load {self._directory} ({type(error).__name__}: {error}). Run `nextquery doctor`, or "
                "set NEXTQUERY_ENGINE=transformers_local."
            ) from error

    async def generate(
        self, request_id: str, prompt_token_ids: Sequence[int], sampling: Sampling, adapter: Adapter | None = None
    ) -> list[Completion]:
        self._refuse_unless_started()
        return await self._generate(request_id, prompt_token_ids, sampling, adapter)

    async def check(self) -> None:
        self._refuse_unless_started()
        one_token = Sampling(max_tokens=1, temperature=0.0, exact_tokens=True)
        await self._generate(f"check-{next(self._numbers)}", (0,), one_token, None, priority=_CANARY_PRIORITY)

    async def drop(self, adapter: Adapter) -> None:
        if self._llm is not None and self._adapters.pop(adapter.number, None):
            with suppress(Exception):  # an engine that died holds none
                await self._llm.remove_lora(adapter.number)

    async def close(self) -> None:
        self._closed = True
        llm, self._llm = self._llm, None
        self._release.set()
        try:
            if llm is not None:
                _fail_in_flight(llm)
                llm.output_handler.cancel()  # else it reports the core's end as a crash
        finally:
            await self._processes.end()
        if self._owner is not None:
            await asyncio.to_thread(self._owner.join, _OWNER_ENDS_S)
        await self._processes.end()  # those that a start, interrupted just now, still made

    async def _generate(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        sampling: Sampling,
        adapter: Adapter | None,
        *,
        priority: int = 0,
    ) -> list[Completion]:
        from vllm.v1.engine.exceptions import EngineDeadError

        llm = self._llm
        stops = self._limits.stop_ids(sampling)
        params = _sampling_params(sampling, self._limits.room(prompt_token_ids, sampling), stops)
        prompt = {"type": "token", "prompt_token_ids": list(prompt_token_ids)}  # the rendered form skips a thread hop
        try:
            lora = await self._lora(llm, adapter) if adapter else None
            stream = llm.generate(prompt, params, request_id, lora_request=lora, priority=priority)
            async with aclosing(stream):  # leaving early, by cancellation too, aborts the request in the engine
                output = await anext(stream)
        except EngineError:
            raise
        except EngineDeadError as error:
            raise EngineUnavailable("The vLLM engine died. It is started again; try in half a minute.") from error
        except Exception as error:
            if llm.errored or self._closed:
                raise EngineUnavailable("The vLLM engine died. It is started again; try in half a minute.") from error
            raise EngineError(f"vLLM refused the request ({type(error).__name__}: {error}).") from error
        return [completion(o.token_ids, o.logprobs.logprobs, stops) for o in output.outputs]

    async def _lora(self, llm: Any, adapter: Adapter) -> Any:
        """The request for an adapter, loaded beforehand: one that cannot be read would kill the engine in a step."""
        if adapter.number not in self._adapters:
            from vllm.lora.request import LoRARequest

            request = LoRARequest(adapter.name, adapter.number, adapter.path)
            try:
                await llm.add_lora(request)
            except Exception as error:
                if llm.errored:
                    raise
                with suppress(Exception):  # what is half loaded would count as loaded the next time
                    await llm.remove_lora(adapter.number)
                raise EngineError(
                    f"The adapter {adapter.name} in {adapter.path} cannot be loaded ({error}). Check that it was "
                    f"trained on this base and that its rank is at most {self._settings.lora_max_rank}."
                ) from error
            self._adapters[adapter.number] = request
        return self._adapters[adapter.number]

    async def _warm_up(self) -> None:
        """The first requests take seconds: send them before anybody waits, alone and as a batch."""
        sampling = Sampling(max_tokens=4, exact_tokens=True)
        prompt = [0] * min(64, self._limits.context_tokens - 4)
        await self._generate("warm-up", prompt, sampling, None)
        await asyncio.gather(
            *(self._generate(f"warm-up-{k}", prompt[k:], sampling, None) for k in range(_WARM_UP_BATCH))
        )

    def _own(self, loop: asyncio.AbstractEventLoop, built: "asyncio.Future[Any]") -> None:
        """Build the engine, then live as long as it: its processes are told to die when this thread does."""
        llm, forked = None, device_kind() == "cpu"
        try:
            with self._processes.starting(), borrowed(environment(self._settings)):
                if forked:
                    FORK_SERVER.borrow()
                llm = _build(self._directory, self._settings, self._limits, self._release)
            _tell(loop, built, llm, None)
        except BaseException as error:
            _tell(loop, built, None, error)
        self._release.wait()
        if llm is not None:
            llm.shutdown(timeout=_SHUTDOWN_S)
        if forked:
            FORK_SERVER.give_back()

    def _refuse_unless_started(self) -> None:
        self._refuse_when_closed()
        if self._llm is None:
            raise EngineUnavailable("The vLLM engine is not started. Call start() and wait for it.")

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise EngineUnavailable("The vLLM engine is closed. Create a new one.")


def create(directory: Path, settings: Settings) -> VllmLocal:
    """A vLLM engine for the model in `directory`, not yet started."""
    return VllmLocal(directory, settings, read_limits(directory, settings.engine_context_tokens))


def _build(directory: Path, settings: Settings, limits: ModelLimits, release: threading.Event) -> Any:
    with _uncollected():
        import vllm.v1.engine.utils
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

    _quiet_here()
    if release.is_set():  # the import took seconds, in which the engine was closed
        raise EngineUnavailable("The vLLM engine was closed while it started. Create a new one.")
    arguments = AsyncEngineArgs(
        model=str(directory),
        skip_tokenizer_init=True,
        max_model_len=limits.context_tokens,
        enable_prefix_caching=True,
        scheduling_policy="priority",
        enable_lora=True,
        max_loras=settings.lora_max_adapters,
        max_lora_rank=settings.lora_max_rank,
        disable_log_stats=True,
        use_tqdm_on_load=False,
        dtype=dtype(settings),
        logits_processors=[_DISTINCT],
        **(_on_cpu() if device_kind() == "cpu" else {"gpu_memory_utilization": settings.vllm_gpu_memory_share}),
    )
    if device_kind() == "cpu":
        # vLLM knows fork and spawn only, and on a CPU spawns: a second import of itself, 9 of 25 seconds.
        vllm.v1.engine.utils.get_mp_context = lambda: multiprocessing.get_context("forkserver")
    return AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.OPENAI_API_SERVER)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Import without garbage collection, which took a fifth of the time and finds nothing: modules stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _on_cpu() -> dict[str, Any]:
    """On a CPU the worker runs inside the core's process: as fast as vLLM's two processes, half the start-up time.

    A prompt is never split over two steps: vLLM then rewinds the generator of a seeded request, which torch's CPU
    generator cannot do, and the engine dies of it.

    vLLM's blocks of 128 tokens are longer than most prompts here, and only whole blocks are cached: with 32, a search for
    candidates, which goes on from the same prompts, takes three quarters of the time.
    """
    return {
        "block_size": 32,
        "enable_chunked_prefill": False,
        "enforce_eager": True,
        "distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor",
    }


def _sampling_params(sampling: Sampling, max_tokens: int, stops: frozenset[int]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=sampling.n,
        max_tokens=max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p if sampling.temperature else 1.0,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=sampling.seed,
        stop_token_ids=list(stops),
        ignore_eos=True,  # the ends are among `stops`
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args=as_argument(sampling.distinct, stops) if sampling.distinct else None,
        skip_clone=True,
    )


def _fail_in_flight(llm: Any) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    llm.output_processor.propagate_error(EngineDeadError())


def _tell(
    loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Any]", result: Any, error: BaseException | None
) -> None:
    def settle() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(EngineUnavailable(f"vLLM could not start: {type(error).__name__}: {error}"))

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)


def _quiet_here() -> None:
    """Hand vLLM's messages in this process to the service's log instead of vLLM's own handler."""
    logger = logging.getLogger("vllm")
    logger.handlers.clear()
    logger.propagate = True
