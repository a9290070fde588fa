"""The page at `/`, where a person tries each task: its files and the headers that keep it harmless.

It knows nothing about lists or clicks; the page calls the same API as everybody else.
"""

from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response

router = APIRouter(include_in_schema=False)
_DIRECTORY = Path(__file__).with_suffix("")
_MEDIA_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "pages.css": "text/css; charset=utf-8",
    "pages.js": "text/javascript; charset=utf-8",
}
_CONTENT = {name: (_DIRECTORY / name).read_bytes() for name in _MEDIA_TYPES}
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@router.get("/")
async def page() -> Response:
    """The page."""
    return _file("index.html")


@router.get("/console/{name}")
async def part(name: str) -> Response:
    """A file of the page; 404 for every other name."""
    if name not in _CONTENT:
        raise HTTPException(404)
    return _file(name)


def _file(name: str) -> Response:
    return Response(_CONTENT[name], media_type=_MEDIA_TYPES[name], headers=HEADERS)
