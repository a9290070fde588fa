"""A chat model behind any OpenAI-compatible endpoint, asked for JSON: schemas, attempts, and what it cost.

It knows no rubric and no verdict. What people typed is written by strangers: it travels as JSON in the message and is
never an instruction.
"""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

from service.contract.errors import ConfigurationError, JudgeError
from service.contract.query_text import one_line
from service.contract.settings import Settings

ATTEMPTS = 5
_LONGEST_PAUSE_S = 30.0
_QUOTED_CHARS = 200
_BUSY = {408, 409, 425, 429}

Reply = TypeVar("Reply", bound=BaseModel)
Found = TypeVar("Found")


class Unreadable(Exception):
    """What came back answers nothing; another attempt may. Its text says what is wrong, `pause_s` when to come again."""

    def __init__(self, message: str, pause_s: float = 0.0) -> None:
        super().__init__(message)
        self.pause_s = pause_s


@dataclass(frozen=True, slots=True)
class Errand(Generic[Reply]):
    """A kind of question: `name` of its schema, the `rubric` that comes first, and what the `reply` must look like."""

    name: str
    rubric: str
    reply: type[Reply]


@dataclass(frozen=True, slots=True)
class Question(Generic[Reply, Found]):
    """One question: `message` as JSON, and how its reply is read; `read` raises Unreadable where it answers another."""

    message: Mapping[str, Any]
    read: Callable[[Reply], Found]


class Chat:
    """A model at an endpoint, asked at temperature 0, several questions at once."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: SecretStr | None = None,
        timeout_s: float = 60.0,
        at_once: int = 8,
        pause_s: float = 1.0,
    ) -> None:
        """Ask `model` at `url`, which ends before `/chat/completions`.

        Args:
            url: as in https://api.openai.com/v1.
            model: as the endpoint calls it.
            api_key: sent as a bearer token; never in a message of ours.
            timeout_s: longest wait for one answer.
            at_once: requests under way at the same time.
            pause_s: after a first failure; it doubles with each further one.

        Raises:
            ConfigurationError: The key cannot be sent.
        """
        self._url, self._model, self._key = f"{url.rstrip('/')}/chat/completions", model, _header_safe(api_key)
        self._timeout_s, self._at_once, self._pause_s = timeout_s, at_once, pause_s
        self._structured = True
        self._spent: Counter[str] = Counter()
        self._counting = threading.Lock()

    @property
    def spent(self) -> dict[str, int]:
        """What asking cost so far: requests, those of them that were repeats, tokens as the endpoint counts them."""
        return dict(self._spent)

    def answers(self, errand: Errand[Reply], questions: Sequence[Question[Reply, Found]]) -> list[Found]:
        """The answer to each question; the first failure ends all.

        Raises:
            JudgeError: A question got no answer that can be read in `ATTEMPTS` attempts.
            ConfigurationError: The endpoint refuses the request, or there can be none.
        """
        return self._each(lambda client, question: self._answer(client, errand, question), questions)

    def answers_or_none(self, errand: Errand[Reply], questions: Sequence[Question[Reply, Found]]) -> list[Found | None]:
        """The same, with None where a question got no answer that can be read.

        Raises:
            JudgeError: Not one question got an answer.
            ConfigurationError: The endpoint refuses the request, or there can be none.
        """
        problems: list[JudgeError] = []

        def ask(client: httpx.Client, question: Question[Reply, Found]) -> Found | None:
            try:
                return self._answer(client, errand, question)
            except JudgeError as error:
                problems.append(error)
                return None

        found: list[Found | None] = self._each(ask, questions)
        if problems and len(problems) == len(questions):
            raise problems[-1]
        return found

    def _each(
        self, ask: Callable[[httpx.Client, Question[Reply, Found]], Any], questions: Sequence[Question[Reply, Found]]
    ) -> list[Any]:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=self._at_once)
        with (
            httpx.Client(headers=headers, timeout=self._timeout_s, limits=limits) as client,
            ThreadPoolExecutor(self._at_once, thread_name_prefix="judge") as pool,
        ):
            asked = [pool.submit(ask, client, question) for question in questions]
            try:
                return [each.result() for each in asked]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _answer(self, client: httpx.Client, errand: Errand[Reply], question: Question[Reply, Found]) -> Found:
        # A < is escaped, so that no text can hold a token of somebody's chat template.
        message, problem = json.dumps(question.message, ensure_ascii=False).replace("<", "\\u003c"), ""
        for attempt in range(ATTEMPTS):
            try:
                return question.read(self._ask(client, errand, message, attempt))
            except Unreadable as unreadable:
                problem = self._without_key(str(unreadable))
                self._wait(attempt, unreadable.pause_s)
        self._count(unanswered=1)
        raise JudgeError(
            f"The judge {self._model} at {self._shown_url()} was asked {ATTEMPTS} times about the same: {problem} "
            "Nothing is taken for good without a verdict. Look whether the endpoint is well, or use the judge embedding."
        )

    def _ask(self, client: httpx.Client, errand: Errand[Reply], message: str, attempt: int) -> Reply:
        structured = self._structured
        response = self._post(client, errand, message, structured)
        if structured and response.status_code in (400, 422):  # it may not know `response_format`
            response = self._post(client, errand, message, False)
            if response.is_success:
                self._structured = False
        self._count(requests=1, repeats=min(1, attempt))
        self._refuse(response)
        return self._read(response, errand)

    def _post(self, client: httpx.Client, errand: Errand[Reply], message: str, structured: bool) -> httpx.Response:
        messages = [{"role": "system", "content": errand.rubric}, {"role": "user", "content": message}]
        body: dict[str, Any] = {"model": self._model, "temperature": 0, "messages": messages}
        if structured:
            schema = {"name": errand.name, "strict": True, "schema": errand.reply.model_json_schema()}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        try:
            return client.post(self._url, json=body)
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as error:
            raise ConfigurationError(
                f"The judge cannot be asked at {self._shown_url()}: {type(error).__name__}. Set NEXTQUERY_JUDGE_URL to a "
                "URL such as https://api.openai.com/v1."
            ) from None
        except httpx.HTTPError as error:
            raise Unreadable(f"it did not answer ({type(error).__name__}).") from None

    def _refuse(self, response: httpx.Response) -> None:
        """Raise where the status says that there is no answer: Unreadable where another attempt may bring one."""
        status = response.status_code
        if response.is_success:
            return
        if status in _BUSY or status >= 500:
            raise Unreadable(f"it answered {status}.", _retry_after_s(response))
        said = self._without_key(one_line(response.text[:_QUOTED_CHARS]))
        raise ConfigurationError(
            f"The judge {self._model} at {self._shown_url()} refused the request with {status}: {said!r}. Check "
            "NEXTQUERY_JUDGE_URL, NEXTQUERY_JUDGE_MODEL and NEXTQUERY_JUDGE_API_KEY."
        )

    def _read(self, response: httpx.Response, errand: Errand[Reply]) -> Reply:
        try:
            completion = response.json()
            choice = completion["choices"][0]
            refusal, content = choice["message"].get("refusal"), choice["message"].get("content")
            reason, usage = choice["finish_reason"], completion.get("usage") or {}
            self._count(**{name: int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")})
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise Unreadable("what came back is no chat completion.") from None
        if refusal:
            raise Unreadable(f"it refused to judge: {one_line(str(refusal)[:_QUOTED_CHARS])!r}.")
        if reason != "stop" or not isinstance(content, str):
            raise Unreadable(f"its answer is not whole (finish_reason {reason!r}).")
        try:
            return errand.reply.model_validate_json(_json_in(content))
        except ValidationError:
            raise Unreadable(f"its answer cannot be read: {one_line(content[:_QUOTED_CHARS])!r}.") from None

    def _wait(self, attempt: int, asked_s: float) -> None:
        if attempt < ATTEMPTS - 1:
            own_s = self._pause_s * 2**attempt * random.uniform(0.75, 1.25)
            time.sleep(min(max(own_s, asked_s), _LONGEST_PAUSE_S))

    def _count(self, **more: int) -> None:
        with self._counting:
            self._spent.update(more)

    def _shown_url(self) -> str:
        """The URL without user, password and query, which may be secrets."""
        try:
            return str(httpx.URL(self._url).copy_with(userinfo=b"", query=None))
        except (httpx.InvalidURL, UnicodeError):
            return "its URL"

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def chat_of(settings: Settings) -> Chat:
    """The chat model that `settings` name as the judge.

    Raises:
        ConfigurationError: They name none.
    """
    if not (settings.judge_url and settings.judge_model):
        raise ConfigurationError(
            "The judge openai_http needs NEXTQUERY_JUDGE_URL, such as https://api.openai.com/v1, and "
            "NEXTQUERY_JUDGE_MODEL. Set both, or use the judge embedding, which needs neither."
        )
    return Chat(
        settings.judge_url,
        settings.judge_model,
        api_key=settings.judge_api_key,
        timeout_s=settings.timeouts.judge_s,
        at_once=settings.judge_at_once,
    )


def _header_safe(api_key: SecretStr | None) -> str:
    """The key without the line break that a file ends with; empty for none."""
    key = api_key.get_secret_value().strip() if api_key else ""
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError("NEXTQUERY_JUDGE_API_KEY has characters that no HTTP header may have. Copy it again.")
    return key


def _json_in(content: str) -> str:
    """The JSON object in a reply that may have thoughts before it and a fence around it."""
    said = content.rpartition("</think>")[2]
    return said[said.find("{") : said.rfind("}") + 1]


def _retry_after_s(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0
