"""The transformers engine: `generate` in one worker thread, wherever vLLM cannot be installed.

It knows nothing about queries, tasks or HTTP.
"""

import asyncio
import math
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.contract.engine import Adapter, Completion, Sampling
from service.contract.errors import EngineError, EngineUnavailable
from service.contract.settings import Settings
from service.engines.limits import ModelLimits, completion, read_limits

_BATCH = 8


@dataclass(eq=False, slots=True)
class _Job:
    """One request: waiting, or in the batch of now. `left`: nobody waits for it any more."""

    prompt: list[int]
    sampling: Sampling
    room: int
    adapter: Adapter | None
    answer: "asyncio.Future[list[Completion]]"
    left: threading.Event = field(default_factory=threading.Event)

    @property
    def kind(self) -> object:
        """Jobs of one kind go together; a seed wants its own batch, as the generator of torch is one for all."""
        return (self.sampling, self.room, self.adapter) if self.sampling.seed is None else id(self)


class TransformersLocal:
    """One model, one batch at a time."""

    name = "transformers_local"

    def __init__(self, directory: Path, settings: Settings, limits: ModelLimits) -> None:
        self._directory, self._settings, self._limits = directory, settings, limits
        self._model: Any = None
        self._adapters: dict[int, str] = {}
        self._waiting: deque[_Job] = deque()
        self._at_work: list[_Job] = []
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="transformers")
        self._loop_task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closed = False

    @property
    def running(self) -> int:
        """Requests waiting or at work."""
        return len(self._waiting) + len(self._at_work)

    async def start(self) -> None:
        self._refuse_when_closed()
        try:
            self._model = await self._in_thread(_load, self._directory, self._settings)
        except Exception as error:
            raise EngineUnavailable(
                f"transformers could not load {self._directory} ({type(error).__name__}: {error}). Run "
                "`nextquery doctor`, or give another model."
            ) from error
        self._refuse_when_closed()
        self._loop_task = asyncio.create_task(self._serve())
        await self.check()

    async def generate(
        self, request_id: str, prompt_token_ids: Sequence[int], sampling: Sampling, adapter: Adapter | None = None
    ) -> list[Completion]:
        self._refuse_when_closed()
        if self._loop_task is None:
            raise EngineUnavailable("The transformers engine is not started. Call start() and wait for it.")
        room = self._limits.room(prompt_token_ids, sampling)
        job = _Job(list(prompt_token_ids), sampling, room, adapter, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._wake.set()
        try:
            return await job.answer
        finally:
            job.left.set()
            if job in self._waiting:
                self._waiting.remove(job)

    async def check(self) -> None:
        await self.generate("check", (0,), Sampling(max_tokens=1, temperature=0.0, exact_tokens=True))

    async def drop(self, adapter: Adapter) -> None:
        if self._model is not None:
            await self._in_thread(self._drop, adapter.number)

    async def close(self) -> None:
        self._closed = True
        task, self._loop_task = self._loop_task, None
        if task is not None:
            task.cancel()
        for job in [*self._waiting, *self._at_work]:
            job.left.set()
            _settle(job, EngineUnavailable("The transformers engine was closed. Create a new one."))
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._model = None

    async def _serve(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                self._at_work = self._next_batch()
                await self._answer(self._at_work)
                self._at_work = []

    def _next_batch(self) -> list[_Job]:
        first = self._waiting.popleft()
        same = [job for job in self._waiting if job.kind == first.kind][: _BATCH - 1]
        for job in same:
            self._waiting.remove(job)
        return [first, *same]

    async def _answer(self, jobs: list[_Job]) -> None:
        try:
            answers = await self._in_thread(self._run, jobs)
        except EngineError as error:
            answers = [error for _ in jobs]
        except Exception as error:
            answers = [EngineError(f"transformers failed ({type(error).__name__}: {error}).") for _ in jobs]
        for job, answer in zip(jobs, answers, strict=True):
            _settle(job, answer)

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work, *arguments)

    def _run(self, jobs: list[_Job]) -> list[list[Completion]]:
        """Generate for jobs of one kind, in the worker thread."""
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        sampling, n = jobs[0].sampling, jobs[0].sampling.n
        stops = self._limits.stop_ids(sampling)
        ids, mask = _left_padded([job.prompt for job in jobs], self._model.device)
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        self._choose(jobs[0].adapter)
        rows_left = [job.left for job in jobs for _ in range(n)]
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=_decoding(sampling, jobs[0].room, stops),
                stopping_criteria=StoppingCriteriaList([_leavers(rows_left)]),
                logits_processor=LogitsProcessorList(
                    [_penalties(sampling, ids.shape[1]), _distinct(sampling, ids.shape[1], stops)]
                ),
            )
            tokens = out.sequences[:, ids.shape[1] :]
            raw = torch.stack(out.logits, dim=1).float().log_softmax(-1)
            logprobs = raw.gather(-1, tokens[:, :, None])[:, :, 0].tolist()
        rows = [completion(row, marks, stops) for row, marks in zip(tokens.tolist(), logprobs, strict=True)]
        return [rows[k * n : (k + 1) * n] for k in range(len(jobs))]

    def _choose(self, adapter: Adapter | None) -> None:
        if adapter is not None and adapter.number not in self._adapters:
            self._load_adapter(adapter)
        if adapter is not None:
            self._model.set_adapter(self._adapters[adapter.number])
        if self._adapters:
            base = self._model.base_model
            (base.enable_adapter_layers if adapter else base.disable_adapter_layers)()

    def _load_adapter(self, adapter: Adapter) -> None:
        from peft import PeftConfig, PeftModel

        label = f"adapter_{adapter.number}"  # names with a dot are refused by torch
        try:
            if not isinstance(self._model, PeftModel):
                config = PeftConfig.from_pretrained(adapter.path)
                self._model = PeftModel(self._model, config, adapter_name=label).eval()
            self._model.load_adapter(adapter.path, adapter_name=label)
        except Exception as error:
            self._unload(label)  # it may be half loaded
            raise EngineError(
                f"The adapter {adapter.name} in {adapter.path} cannot be loaded ({error}). Check that it was trained "
                "on this base."
            ) from error
        self._adapters[adapter.number] = label
        if len(self._adapters) > self._settings.lora_max_adapters:
            self._drop(next(iter(self._adapters)))

    def _drop(self, number: int) -> None:
        if number in self._adapters:
            self._unload(self._adapters.pop(number))

    def _unload(self, label: str) -> None:
        loaded = getattr(self._model, "peft_config", {})
        if list(loaded) == [label]:
            self._model = self._model.unload()  # peft cannot generate without any adapter
        elif label in loaded:
            self._model.delete_adapter(label)

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise EngineUnavailable("The transformers engine is closed. Create a new one.")


def create(directory: Path, settings: Settings) -> TransformersLocal:
    """A transformers engine for the model in `directory`, not yet started."""
    return TransformersLocal(directory, settings, read_limits(directory, settings.engine_context_tokens))


def _load(directory: Path, settings: Settings) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    on_mps = torch.backends.mps.is_available()
    device = "cuda" if torch.cuda.is_available() else "mps" if on_mps else "cpu"
    dtype = "float32" if settings.engine_dtype == "auto" and device == "cpu" else settings.engine_dtype
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).to(device).eval()
    model.generation_config = GenerationConfig()  # the request says how to decode, not the model's file
    return model


def _decoding(sampling: Sampling, room: int, stops: frozenset[int]) -> Any:
    from transformers import GenerationConfig

    chosen = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=room,
        num_return_sequences=sampling.n,
        eos_token_id=sorted(stops) or None,
        pad_token_id=min(stops, default=0),
        output_logits=True,
        return_dict_in_generate=True,
        **(chosen if sampling.temperature > 0 else {"do_sample": False}),
    )


def _left_padded(prompts: list[list[int]], device: Any) -> tuple[Any, Any]:
    import torch

    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask


def _penalties(sampling: Sampling, prompt_width: int) -> Any:
    """A logits processor with the penalties that vLLM has and transformers has not."""
    import torch

    presence, frequency = sampling.presence_penalty, sampling.frequency_penalty

    def lowered(input_ids: Any, scores: Any) -> Any:
        if not (presence or frequency):
            return scores
        written = input_ids[:, prompt_width:]
        counts = torch.zeros_like(scores).scatter_add_(1, written, torch.ones_like(written, dtype=scores.dtype))
        return scores - presence * (counts > 0) - frequency * counts

    return lowered


def _distinct(sampling: Sampling, prompt_width: int, stops: frozenset[int]) -> Any:
    """A logits processor that rules out the end of a piece which was said already."""
    distinct = sampling.distinct

    def kept_apart(input_ids: Any, scores: Any) -> Any:
        if distinct is None:
            return scores
        repeats = [distinct.repeats(written) for written in input_ids[:, prompt_width:].tolist()]
        for token in (distinct.separator_id, *stops):
            scores[repeats, token] = -math.inf
        return scores

    return kept_apart


def _leavers(rows_left: list[threading.Event]) -> Any:
    """A stopping criterion that ends the rows nobody waits for."""
    import torch

    def left(input_ids: Any, scores: Any, **_: Any) -> Any:
        return torch.tensor([row.is_set() for row in rows_left], device=input_ids.device)

    return left


def _settle(job: _Job, answer: list[Completion] | Exception) -> None:
    if job.answer.done():
        return
    if isinstance(answer, Exception):
        job.answer.set_exception(answer)
    else:
        job.answer.set_result(answer)
