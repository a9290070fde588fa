"""The engine of another machine: any server of OpenAI's completions API, such as vLLM behind a router.

It knows nothing about queries, tasks or HTTP servers of ours. Prompts go as token ids. A vLLM server that was started with
`--logits-processors service.engines._vllm_distinct:DistinctPieces` says nothing twice, as the one in this process.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from tokenizers import Tokenizer

from service.contract.engine import Adapter, Completion, Sampling
from service.contract.errors import EngineBusy, EngineError, EngineUnavailable
from service.contract.settings import Settings
from service.engines._distinct_argument import as_argument
from service.engines.limits import ModelLimits, completion, read_limits

_BUSY = (429, 503)
_MOST_SAID = 300  # characters of a server's own words


class OpenAiHttp:
    """One model of a server, with LoRA adapters by their names."""

    name = "openai_http"

    def __init__(self, directory: Path, settings: Settings, limits: ModelLimits) -> None:
        self._directory, self._settings, self._limits = directory, settings, limits
        self._client: httpx.AsyncClient | None = None
        self._model = settings.engine_model or ""
        self._loaded: set[str] = set()
        self._tokenizer: Tokenizer | None = None
        self._closed = False
        self.running = 0

    async def start(self) -> None:
        self._refuse_when_closed()
        settings = self._settings
        if not settings.engine_url:
            raise EngineUnavailable(
                "The engine openai_http has no server. Set NEXTQUERY_ENGINE_URL, as in http://127.0.0.1:8000/v1."
            )
        key = settings.engine_api_key.get_secret_value() if settings.engine_api_key else None
        self._client = httpx.AsyncClient(
            base_url=settings.engine_url.rstrip("/") + "/",
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(settings.timeouts.engine_http_s, connect=settings.timeouts.database_connect_s),
            limits=httpx.Limits(max_connections=settings.engine_queue, max_keepalive_connections=settings.engine_queue),
        )
        names = await self._names()
        if not self._model and len(names) != 1:
            raise EngineUnavailable(
                f"The server at {settings.engine_url} has the models {', '.join(names) or 'none'}. Say which one by "
                "NEXTQUERY_ENGINE_MODEL."
            )
        self._model = self._model or names[0]
        await self.check()

    async def generate(
        self, request_id: str, prompt_token_ids: Sequence[int], sampling: Sampling, adapter: Adapter | None = None
    ) -> list[Completion]:
        self._refuse_unless_started()
        most, stops = self._limits.room(prompt_token_ids, sampling), self._limits.stop_ids(sampling)
        model = await self._name_of(adapter) if adapter else self._model
        self.running += 1
        try:
            found = await self._post("completions", _body(model, prompt_token_ids, sampling, most, stops))
        finally:
            self.running -= 1
        choices = sorted(found["choices"], key=lambda choice: choice.get("index", 0))
        return [self._completion(choice, stops) for choice in choices]

    async def check(self) -> None:
        one_token = Sampling(max_tokens=1, temperature=0.0, exact_tokens=True)
        await self.generate("check", (0,), one_token)

    async def drop(self, adapter: Adapter) -> None:
        if adapter.name in self._loaded and self._client is not None:
            self._loaded.discard(adapter.name)
            await self._client.post("unload_lora_adapter", json={"lora_name": adapter.name})

    async def close(self) -> None:
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _name_of(self, adapter: Adapter) -> str:
        """The adapter's name, once the server has it: from its own start, or loaded now, which vLLM must allow."""
        if adapter.name in self._loaded:
            return adapter.name
        if adapter.name not in await self._names():
            body = {"lora_name": adapter.name, "lora_path": adapter.path}
            answer = await self._ask("POST", "load_lora_adapter", json=body)
            if answer.is_error:
                raise EngineError(
                    f"The adapter {adapter.name} in {adapter.path} cannot be loaded by the server at "
                    f"{self._settings.engine_url} ({answer.status_code}: {answer.text[:_MOST_SAID]}). It must lie there under "
                    "the same path, and vLLM must be allowed to load it: --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1; "
                    f"else start it with `--lora-modules {adapter.name}=PATH`."
                )
        self._loaded.add(adapter.name)
        return adapter.name

    async def _names(self) -> list[str]:
        answer = await self._ask("GET", "models")
        if answer.is_error:
            raise self._refused(answer)
        return [str(model["id"]) for model in answer.json()["data"]]

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = await self._ask("POST", path, json=body)
        if answer.is_error:
            raise self._refused(answer)
        return answer.json()

    async def _ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        client = self._client
        if client is None:
            raise EngineUnavailable("The engine openai_http is not started. Call start() and wait for it.")
        try:
            return await client.request(method, path, **content)
        except httpx.HTTPError as error:
            raise EngineUnavailable(
                f"The server at {self._settings.engine_url} did not answer ({type(error).__name__}). Check that it runs, and "
                "that NEXTQUERY_ENGINE_URL is right."
            ) from error

    def _refused(self, answer: httpx.Response) -> EngineError:
        said = f"{answer.status_code}: {answer.text[:_MOST_SAID]}"
        if answer.status_code in _BUSY:
            return EngineBusy(f"The server at {self._settings.engine_url} has too much to do ({said}).")
        kind = EngineUnavailable if answer.status_code >= 500 else EngineError
        return kind(f"The server at {self._settings.engine_url} refused the request ({said}).")

    def _completion(self, choice: dict[str, Any], stops: frozenset[int]) -> Completion:
        """What was written; servers that give no token ids give text, which is read with the model's own tokenizer."""
        logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or []
        token_ids = choice.get("token_ids")
        if token_ids is None:
            token_ids = self._encode(choice["text"])
            if choice.get("finish_reason") == "stop" and self._limits.end_ids:
                token_ids = [*token_ids, min(self._limits.end_ids)]
        if len(logprobs) != len(token_ids):
            logprobs = [sum(logprobs) / max(1, len(token_ids))] * len(token_ids)
        return completion(token_ids, [min(0.0, float(p)) for p in logprobs], stops)

    def _encode(self, text: str) -> list[int]:
        if self._tokenizer is None:
            self._tokenizer = Tokenizer.from_file(str(self._directory / "tokenizer.json"))
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _refuse_unless_started(self) -> None:
        self._refuse_when_closed()
        if self._client is None:
            raise EngineUnavailable("The engine openai_http is not started. Call start() and wait for it.")

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise EngineUnavailable("The engine openai_http is closed. Create a new one.")


def create(directory: Path, settings: Settings) -> OpenAiHttp:
    """The engine for the model in `directory`, which the server must have too; not yet started."""
    return OpenAiHttp(directory, settings, read_limits(directory, settings.engine_context_tokens))


def _body(
    model: str, prompt_token_ids: Sequence[int], sampling: Sampling, max_tokens: int, stops: frozenset[int]
) -> dict[str, Any]:
    """The request. What OpenAI's API does not know, vLLM does; others leave it out or say that they do not know it."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(prompt_token_ids),
        "n": sampling.n,
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p if sampling.temperature else 1.0,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logprobs": 0,
        "stop_token_ids": sorted(stops),
        "ignore_eos": True,  # the ends are among the stops
        "return_token_ids": True,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.distinct:
        body["vllm_xargs"] = as_argument(sampling.distinct, stops)
    return body
