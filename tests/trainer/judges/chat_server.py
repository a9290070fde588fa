"""A real OpenAI-compatible chat endpoint on a free loopback port, which plays the answers that a test wants.

It knows nothing about judges but what they send: by default it finds an overlap where two texts have the same words.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

Play = Callable[[dict[str, Any]], Response]


@dataclass
class ChatServer:
    """What it was asked, and what it will answer: `plays` in turn, then a good answer for ever."""

    url: str
    plays: list[Play] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    pause_s: float = 0.0
    usual: Play | None = None
    at_once: int = 0
    most_at_once: int = 0

    @property
    def questions(self) -> list[dict[str, Any]]:
        """The JSON in the user's message of every request."""
        return [json.loads(body["messages"][1]["content"]) for body in self.bodies]

    def answer(self, body: dict[str, Any], headers: dict[str, str]) -> Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.pause_s)
        self.bodies.append(body)
        self.headers.append(headers)
        self.at_once -= 1
        play = self.plays.pop(0) if self.plays else self.usual or good
        return play(body)


def good(body: dict[str, Any]) -> Response:
    """One verdict for each list."""
    return said(json.dumps({"verdicts": verdicts(body)}))


def verdicts(body: dict[str, Any]) -> list[dict[str, Any]]:
    """What a reader of words would say."""
    question = json.loads(body["messages"][1]["content"])
    known = [*question["asked"], question["answer"]]
    return [{"list": each["list"], "overlaps": _overlaps(each["queries"], known)} for each in question["lists"]]


def relevant(body: dict[str, Any]) -> Response:
    """What a judge of words says who looks for a word in the history: of words, of wholes or of pairs, as it is asked."""
    question = json.loads(body["messages"][1]["content"])
    known = frozenset().union(*(_words(each["text"]) for each in question["history"]))
    if "words" in question:
        words = [{"word": each["word"], "relevant": int(_words(each["text"]) <= known)} for each in question["words"]]
        verdict: dict[str, Any] = {"words": words, "relevant": int(sum(each["relevant"] for each in words) > 0)}
    elif "first" in question:
        shared = [sum(len(_words(text) & known) for text in question[side]) for side in ("first", "second")]
        verdict = {"better": "neither" if shared[0] == shared[1] else "first" if shared[0] > shared[1] else "second"}
    else:
        verdict = {"relevant": int(any(_words(text) & known for text in question["queries"]))}
    return said(json.dumps(verdict), prompt_tokens=100, completion_tokens=10)


def said(content: str | None, *, finish_reason: str = "stop", refusal: str | None = None, **usage: int) -> Response:
    """A chat completion; `usage` is what it cost."""
    message = {"role": "assistant", "content": content, "refusal": refusal}
    return JSONResponse(
        {"object": "chat.completion", "choices": [{"message": message, "finish_reason": finish_reason}], "usage": usage}
    )


def status(code: int, text: str = "", **headers: str) -> Play:
    """A failure."""
    return lambda body: Response(text, code, {name.replace("_", "-"): value for name, value in headers.items()})


def refuse_formats(body: dict[str, Any]) -> Response:
    """A server that knows no `response_format`."""
    return Response("unknown field", 400) if "response_format" in body else good(body)


@contextlib.contextmanager
def running() -> Iterator[ChatServer]:
    """The server in a thread of this process, until the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        played = ChatServer(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        app = FastAPI()

        @app.post("/v1/chat/completions")
        def complete(body: dict[str, Any], request: Request) -> Response:
            return played.answer(body, dict(request.headers))

        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield played
        finally:
            server.should_exit = True
            thread.join(5)


def _overlaps(queries: list[str], known: list[str]) -> bool:
    seen = [_words(text) for text in known if text]
    for query in queries:
        if any(_words(query) <= other for other in seen):
            return True
        seen.append(_words(query))
    return False


def _words(text: str) -> frozenset[str]:
    words = frozenset("".join(c if c.isalnum() else " " for c in text.casefold()).split())
    return words or frozenset({text})
