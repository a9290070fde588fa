"""A headless Chromium for tests of the page, and what it complained about.

It knows nothing about the page.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, Page, async_playwright

from tests.conftest import require

_QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
_ALONE = ("--disable-component-update", "--disable-sync")
_STEP_MS = 10_000  # a click or an expectation that takes longer has failed


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The browser of this machine; without one the test is skipped with the reason, and fails in CI."""
    path = shutil.which("chromium")
    require(path, "Chromium is not installed: apt-get install chromium.")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=[*_QUIET, *_ALONE])
        yield browser
        await browser.close()


@asynccontextmanager
async def open_page(
    browser: Browser, url: str, *, width: int = 1280, height: int = 800, dark: bool = False
) -> AsyncIterator[tuple[Page, list[str]]]:
    """A page at `url`, and the list that its console errors, exceptions and CSP violations are added to."""
    page = await browser.new_page(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light")
    page.set_default_timeout(_STEP_MS)
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(url)
    yield page, complaints
    await page.close()
