"""The page at `/`, in a real browser: lists in their form, events with their answers, and no foreign script.

It knows nothing about models. Behind the page is a fake that speaks the real schemas, and once the real service.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import uvicorn
from fastapi import FastAPI, Request, Response
from playwright.async_api import Browser, Page, expect

from service.api import console
from service.api.errors import problem
from service.api.schemas import (
    ClickEvent,
    ClickReply,
    EventResult,
    Explanation,
    RecommendBody,
    RecommendReply,
    ShownQuery,
)
from service.contract.tasks import all_tasks
from service.contract.types import ClickKind, ServedBy
from service.events.intake import Ending
from tests.browser import chromium, open_page
from tests.service_process import ServiceProcess, rows, running

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one browser serves them all
_SCRIPT = '<img src=x onerror="window.harmed = 1"><script>window.harmed = 1</script>'
_LISTS = {
    "suggest": ["kyoto in november weather", "best temples for autumn leaves", "kyoto two day itinerary"],
    "snippets": ["that makes everyone laugh", "about our childhood", "in under two minutes", "with a toast at the end",
                 "that rhymes", "in a warm tone", "with a story about travelling", "for her 30th birthday"],
    "hint": ["how to score sourdough bread"],
    "clarify": ["jaguar the animal", "jaguar cars", "jaguar mac os", "fender jaguar"],
    "predict": [f"half marathon plan {week}" for week in range(1, 11)],
}  # fmt: skip
_TEXTS = {
    "snippets": {"guide": "what should the speech be like?", "prefix": "write a birthday speech for my sister"},
    "clarify": {"question": "which jaguar do you mean?"},
}


@dataclass
class FakeService:
    """Canned lists. `served_by`, `reason`, `text` and the refusals change what comes; `asked` and `events` say what came."""

    url: str = ""
    served_by: ServedBy = ServedBy.MODEL
    reason: str | None = None
    refusal: str | None = None
    event_refusal: str | None = None
    text: str | None = None
    ready: bool = True
    asked: list[RecommendBody] = field(default_factory=list)
    events: list[ClickEvent] = field(default_factory=list)

    def app(self) -> FastAPI:
        app = FastAPI()
        app.include_router(console.router)
        app.add_api_route("/recommend", self.recommend, methods=["POST"])
        app.add_api_route("/click", self.click, methods=["POST"])
        app.add_api_route("/readyz", self.readyz)
        return app

    async def recommend(self, request: Request) -> Response:
        body = RecommendBody.model_validate_json(await request.body())
        self.asked.append(body)
        if self.refusal:
            return problem(503, self.refusal)
        await asyncio.sleep(0.02)
        return Response(self._reply(body).model_dump_json(), media_type="application/json")

    async def click(self, request: Request) -> Response:
        event = ClickEvent.model_validate_json(await request.body())
        if self.event_refusal:
            return problem(403, self.event_refusal)
        key = (event.click_token, event.kind, event.position)
        known = key in [(e.click_token, e.kind, e.position) for e in self.events]
        status = Ending.DUPLICATE if known else Ending.STORED
        self.events.append(event)
        reply = ClickReply(results=[EventResult(index=0, status=status)])
        return Response(reply.model_dump_json(), status_code=202, media_type="application/json")

    async def readyz(self) -> Response:
        body = {"ready": self.ready, "parts": {"engine": "ready" if self.ready else "starting"}}
        return Response(json.dumps(body), status_code=200 if self.ready else 503, media_type="application/json")

    def _reply(self, body: RecommendBody) -> RecommendReply:
        number, task = len(self.asked), body.task.value
        texts = [self.text or text for text in _LISTS[task]][: body.n or all_tasks()[task].default_n]
        shown = texts if self.served_by is not ServedBy.NONE else []
        return RecommendReply(
            impression_id=f"{number:08x}c0ffee",
            task=body.task,
            queries=[ShownQuery(text=text, position=at, source=self.served_by) for at, text in enumerate(shown, 1)],
            texts=_TEXTS.get(task, {}),
            served_by=self.served_by,
            degraded_reason=self.reason,
            recorded=True,
            versions={"policy": "starter-sft-1", "prompt": "5f1c", "ctr": None, "cor": None},
            click_token=f"token-{number}",
            timings_ms={"generate": 80.2, "total": 84.4},
            explain=Explanation(
                prompt=f"### Instructions:\nWrite queries.\n### Inputs:\nQuery: {body.query}\n### Response:\n",
                prompt_tokens=40,
                prompt_dropped=["Answer"],
                completion=" <sep> ".join(texts),
                finish_reason="stop",
                sampling={},
                refused={},
            ),
        )


@pytest.fixture
def fake() -> Iterator[FakeService]:
    fake = FakeService()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fake.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server = uvicorn.Server(uvicorn.Config(fake.app(), log_level="error"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield fake
        server.should_exit = True
        thread.join()


@pytest.fixture
def real_service(tmp_path: Path, policy_directory: Path) -> Iterator[ServiceProcess]:
    with running(tmp_path, until="/readyz", engine="scripted", policy=str(policy_directory)) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, fake: FakeService) -> AsyncIterator[Page]:
    """The page in the browser; at the end it must not have complained."""
    async with open_page(browser, fake.url) as (opened, complaints):
        yield opened
        assert complaints == []


async def _ask(page: Page, task: str) -> None:
    await page.click(f".tasks a[href='#{task}']")
    await page.click(f"#task-{task} button.primary")


async def test_suggest_shows_a_conversation_with_three_follow_ups(page: Page) -> None:
    await _ask(page, "suggest")

    await expect(page.locator(".bubble.asked")).to_have_text("when is the best time to see autumn leaves in kyoto")
    await expect(page.locator(".bubble.answered")).to_contain_text("mid November")
    await expect(page.locator("#task-suggest .list button")).to_have_text(_LISTS["suggest"])


async def test_the_answer_of_an_example_goes_when_another_question_is_typed(page: Page) -> None:
    await page.fill("#task-suggest [name=query]", "tesla model 3")
    typed = await page.input_value("#task-suggest [name=answer]")
    await page.fill("#task-suggest [name=answer]", "an answer of my own")
    await page.fill("#task-suggest [name=query]", "tesla model 3 range")

    assert typed == ""
    assert await page.input_value("#task-suggest [name=answer]") == "an answer of my own"


async def test_snippets_show_their_guiding_sentence_and_the_full_request(page: Page) -> None:
    await _ask(page, "snippets")
    await page.hover("#task-snippets .list li:nth-child(5) button")

    await expect(page.locator(".guide")).to_have_text("what should the speech be like?")
    await expect(page.locator("#task-snippets .list button")).to_have_text(_LISTS["snippets"])
    await expect(page.locator(".request")).to_have_text("write a birthday speech for my sister that rhymes")


async def test_the_hint_stands_in_the_empty_box_and_enter_clicks_it(page: Page, fake: FakeService) -> None:
    await _ask(page, "hint")
    await expect(page.locator("#search-box")).to_have_attribute("placeholder", "How to score sourdough bread")
    await page.press("#search-box", "Enter")

    await expect(page.locator("#search-box")).to_have_value("how to score sourdough bread")
    await expect(page.locator("#events .status.stored")).to_have_count(2)
    assert [(event.kind, event.position) for event in fake.events] == [(ClickKind.SEEN, 0), (ClickKind.CLICK, 1)]


async def test_a_query_typed_over_the_hint_is_sent_as_submitted(page: Page, fake: FakeService) -> None:
    await _ask(page, "hint")
    await expect(page.locator("#task-hint .list button")).to_have_count(1)
    await page.fill("#search-box", "rye bread")
    await page.press("#search-box", "Enter")

    await expect(page.locator("#events .status.stored")).to_have_count(2)
    assert (fake.events[-1].kind, fake.events[-1].query) == (ClickKind.SUBMIT, "rye bread")


async def test_clarify_asks_its_question_with_options_as_buttons(page: Page) -> None:
    await _ask(page, "clarify")
    await page.click("text=fender jaguar")

    await expect(page.locator(".question")).to_have_text("which jaguar do you mean?")
    await expect(page.locator("#task-clarify .list button")).to_have_text(_LISTS["clarify"])
    await expect(page.locator(".outcome")).to_have_text("The search goes on with: fender jaguar")


async def test_predict_sends_the_edited_history_and_shows_ten_queries(page: Page, fake: FakeService) -> None:
    await page.click(".tasks a[href='#predict']")
    await page.click("#add-row")
    await page.select_option("#history li:last-child select", "visit")
    await page.fill("#history li:last-child input", "city marathon")
    await page.check("input[value='10']")
    await page.press("#history li:last-child input", "Enter")

    await expect(page.locator("#task-predict .list button")).to_have_text(_LISTS["predict"])
    last = fake.asked[0].history[-1]
    assert (last.source.value, last.text, fake.asked[0].n) == ("visit", "city marathon", 10)


async def test_a_click_is_sent_with_position_and_token_and_shown_as_stored(page: Page, fake: FakeService) -> None:
    await _ask(page, "predict")
    await page.click("#task-predict .list li:nth-child(2) button")

    newest = page.locator("#events li").first
    await expect(newest).to_contain_text("click · position 2")
    await expect(newest.locator(".status")).to_have_text("stored")
    await expect(newest).to_contain_text("list 00000001")
    clicked = fake.events[-1]
    assert (clicked.kind, clicked.position, clicked.click_token) == (ClickKind.CLICK, 2, "token-1")


async def test_a_second_click_on_the_same_query_is_shown_as_a_duplicate(page: Page) -> None:
    await _ask(page, "clarify")
    await page.click("#task-clarify .list li:nth-child(1) button")
    await page.click("#task-clarify .list li:nth-child(1) button")

    await expect(page.locator("#events .status.duplicate")).to_have_text("duplicate")


async def test_a_clicked_follow_up_is_the_next_query_of_the_same_session(page: Page, fake: FakeService) -> None:
    await _ask(page, "suggest")
    await page.click("text=best temples for autumn leaves")

    await expect(page.locator(".bubble.asked")).to_have_count(2)
    first, second = fake.asked
    assert (first.origin, second.origin, second.query) == ("typed", "clicked", "best temples for autumn leaves")
    assert (second.session, second.session_id) == ([first.query], first.session_id)


async def test_a_script_in_a_query_is_shown_as_text(page: Page, fake: FakeService) -> None:
    fake.text = _SCRIPT

    await page.fill("#suggest-query", _SCRIPT)
    for task in _LISTS:
        await _ask(page, task)
        await page.click(f"#task-{task} .list li:first-child button")

    await expect(page.locator(".bubble.asked").first).to_have_text(_SCRIPT)
    await expect(page.locator("#events .text").first).to_have_text(_SCRIPT)
    assert await page.evaluate("window.harmed === undefined && document.images.length === 0")


async def test_the_browser_refuses_a_script_that_gets_into_the_page(browser: Browser, fake: FakeService) -> None:
    async with open_page(browser, fake.url) as (page, complaints):
        await page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.harmed = 1'}))"
        )

        assert await page.evaluate("window.harmed === undefined")
        assert "Content Security Policy" in complaints[0]


async def test_the_panel_says_how_the_list_was_made_and_explains_it(page: Page) -> None:
    await _ask(page, "suggest")
    await page.click("#explain summary")

    for fact in ("the language model", "starter-sft-1", "84 ms", "yes, before it was shown"):
        await expect(page.locator("#facts")).to_contain_text(fact)
    await expect(page.locator("#prompt")).to_contain_text("### Instructions:")
    await expect(page.locator("#completion")).to_contain_text("<sep> best temples")
    await expect(page.locator("#degraded")).to_be_hidden()


async def test_a_degraded_list_says_why(page: Page, fake: FakeService) -> None:
    fake.served_by, fake.reason = ServedBy.POPULAR, "deadline"

    await _ask(page, "suggest")

    await expect(page.locator("#degraded")).to_have_text("The model did not finish in time: popular queries are shown.")


async def test_an_empty_list_says_why_and_sends_no_event(page: Page, fake: FakeService) -> None:
    fake.served_by, fake.reason = ServedBy.NONE, "no_policy"

    await _ask(page, "snippets")

    await expect(page.locator("#task-snippets .stage")).to_contain_text("Nothing to show. No model is installed")
    assert fake.events == []


async def test_a_problem_is_shown_as_its_sentence(browser: Browser, fake: FakeService) -> None:
    fake.refusal = "The service is full. Try again in a second."
    async with open_page(browser, fake.url) as (page, _):  # the browser logs the 503 itself
        await _ask(page, "clarify")

        await expect(page.locator("#task-clarify .error")).to_have_text("The service is full. Try again in a second.")
        await expect(page.locator("#task-clarify")).to_have_attribute("aria-busy", "false")


async def test_an_event_that_is_not_believed_is_shown_as_a_problem(browser: Browser, fake: FakeService) -> None:
    fake.event_refusal = "The click token has expired."
    async with open_page(browser, fake.url) as (page, _):  # the browser logs the 403 itself
        await _ask(page, "clarify")

        await expect(page.locator("#events li .status")).to_have_text("problem")
        await expect(page.locator("#events li")).to_contain_text("The click token has expired.")


async def test_the_page_says_that_the_model_loads_until_it_is_ready(browser: Browser, fake: FakeService) -> None:
    fake.ready, fake.served_by, fake.reason = False, ServedBy.POPULAR, "engine_unavailable"
    async with open_page(browser, fake.url) as (page, _):
        await expect(page.locator("#readiness")).to_have_text("The model is loading…")
        await _ask(page, "suggest")
        await expect(page.locator("#degraded")).to_have_text("The model is still loading: popular queries are shown.")
        fake.ready = True

        await expect(page.locator("#readiness")).to_have_text("Ready")


async def test_the_page_fits_a_narrow_screen(browser: Browser, fake: FakeService) -> None:
    async with open_page(browser, fake.url, width=400) as (page, _):
        for task in _LISTS:
            await _ask(page, task)
            await expect(page.locator(f"#task-{task} .list")).to_be_visible()

            assert await page.evaluate("document.documentElement.scrollWidth") <= 400


async def test_every_file_of_the_page_has_the_strict_headers(fake: FakeService) -> None:
    async with httpx.AsyncClient(base_url=fake.url) as client:
        for path in ("/", "/console/console.css", "/console/console.js"):
            headers = (await client.get(path)).raise_for_status().headers

            policy = headers["content-security-policy"].split("; ")
            assert policy[:3] == ["default-src 'none'", "script-src 'self'", "style-src 'self'"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", ["console.py", "..%2fconsole.py", "%2e%2e/console.py", "index.htm", "%00"])
async def test_no_other_file_is_served(fake: FakeService, name: str) -> None:
    async with httpx.AsyncClient(base_url=fake.url) as client:
        assert (await client.get(f"console/{name}")).status_code == 404


async def test_a_journey_on_the_page_is_in_the_database_of_the_real_service(
    browser: Browser, real_service: ServiceProcess
) -> None:
    async with open_page(browser, real_service.url) as (page, complaints):
        await _ask(page, "suggest")
        clicked = await page.locator("#task-suggest .list button").nth(1).inner_text()
        await page.click("#task-suggest .list li:nth-child(2) button")
        await expect(page.locator("#events .status.stored")).to_have_count(3)  # seen, click, and the next list seen

        assert complaints == []
    first, second = sorted(rows(real_service.database_url, "searches"), key=lambda row: str(row["at"]))
    assert (first["origin"], second["origin"], second["query"]) == ("typed", "clicked", clicked.lower())
    clicks = {(row["kind"], row["position"]) for row in rows(real_service.database_url, "clicks")}
    assert clicks == {("seen", 0), ("click", 2)}
    assert len(rows(real_service.database_url, "impressions")) == 2
