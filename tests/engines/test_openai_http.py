"""The engine that asks a server: what it says when something is wrong, and how it reads servers that give text only."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.contract.engine import Adapter, Sampling
from service.contract.errors import EngineBusy, EngineError, EngineUnavailable
from service.contract.settings import Settings, Timeouts
from service.engines.openai_http import OpenAiHttp, create
from tests import tiny_models

ONE = Sampling(max_tokens=4, temperature=0.0)


class Server(ThreadingHTTPServer):
    """Answers as it is told: `models` it has, `status` and `choice` of a completion. `asked`: what came in."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models = ["policy"]
        self.status = 200
        self.choice: dict[str, Any] = {"index": 0, "token_ids": [10, 11], "logprobs": {"token_logprobs": [-1.0, -2.0]}}
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._answer(200, {"data": [{"id": name} for name in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, body, self.headers.get("authorization")))
        if self.path.endswith("load_lora_adapter"):
            self._answer(404, {"error": "not allowed"})
        else:
            self._answer(self.server.status, {"choices": [self.server.choice]})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    threading.Thread(target=started.serve_forever, daemon=True).start()
    yield started
    started.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_model(tmp_path_factory.mktemp("model"))


async def _started(model: Path, url: str | None, **settings: Any) -> OpenAiHttp:
    engine = create(model, Settings(engine_url=url, _env_file=None, **settings))  # type: ignore[call-arg]
    await engine.start()
    return engine


async def test_a_completion_is_asked_by_token_ids_and_read_from_them(model: Path, server: Server) -> None:
    engine = await _started(model, server.url, engine_api_key="a key")

    (found,) = await engine.generate("r", [1, 5, 6], ONE)
    await engine.close()

    path, body, key = server.asked[-1]
    assert (path, body["model"], body["prompt"], key) == ("/v1/completions", "policy", [1, 5, 6], "Bearer a key")
    assert (found.token_ids, found.token_logprobs, found.finish_reason) == ((10, 11), (-1.0, -2.0), "length")


async def test_a_server_that_gives_text_only_is_read_with_the_models_tokenizer(model: Path, server: Server) -> None:
    server.choice = {"index": 0, "text": "how to cook rice", "finish_reason": "stop", "logprobs": None}
    engine = await _started(model, server.url)

    (found,) = await engine.generate("r", [1, 5], Sampling(max_tokens=40, temperature=0.0))
    await engine.close()

    assert [1, *found.token_ids] == tiny_models.prompt_ids(model, "how to cook rice")
    assert (found.finish_reason, found.stop_token_id) == ("stop", tiny_models.EOS_ID)
    assert len(found.token_logprobs) == len(found.token_ids)


@pytest.mark.parametrize(
    ("status", "error"), [(429, EngineBusy), (503, EngineBusy), (500, EngineUnavailable), (400, EngineError)]
)
async def test_what_the_server_refuses_is_an_error_of_ours(
    model: Path, server: Server, status: int, error: type[EngineError]
) -> None:
    engine = await _started(model, server.url)
    server.status = status

    with pytest.raises(error, match=str(status)):
        await engine.generate("r", [1, 5], ONE)
    await engine.close()


async def test_without_a_server_it_says_which_setting_is_missing_or_wrong(model: Path, server: Server) -> None:
    with pytest.raises(EngineUnavailable, match="NEXTQUERY_ENGINE_URL"):
        await _started(model, None)
    quick = Timeouts(database_connect_s=0.2)
    with pytest.raises(EngineUnavailable, match=r"did not answer .* NEXTQUERY_ENGINE_URL is right"):
        await _started(model, "http://127.0.0.1:9/v1", timeouts=quick)
    server.models = ["one", "other"]
    with pytest.raises(EngineUnavailable, match=r"has the models one, other\. Say which one by NEXTQUERY_ENGINE_MODEL"):
        await _started(model, server.url)


async def test_an_adapter_that_the_server_has_is_asked_by_its_name_and_another_says_what_to_do(
    model: Path, server: Server
) -> None:
    server.models = ["policy", "dpo-1"]
    engine = await _started(model, server.url, engine_model="policy")

    await engine.generate("r", [1, 5], ONE, Adapter("dpo-1", 1, "/dpo-1"))
    asked = server.asked[-1][1]["model"]
    with pytest.raises(EngineError, match=r"dpo-2 in /dpo-2 cannot be loaded .*VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        await engine.generate("r", [1, 5], ONE, Adapter("dpo-2", 2, "/dpo-2"))
    await engine.close()

    assert asked == "dpo-1"
