"""Pages that the service draws: one frame, every text escaped, headers that keep them harmless.

It knows nothing about what is on them.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from service.api.console import HEADERS

PAGES = {
    "/": "Try it",
    "/traffic": "Traffic",
    "/experiments": "Experiments",
    "/models": "Models",
    "/jobs": "Nightly runs",
    "/events": "Events",
}


def _figure(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.1%}"


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds:.1f} s"


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("console")), autoescape=True, undefined=StrictUndefined
)
_TEMPLATES.filters |= {
    "figure": _figure,
    "share": _share,
    "signed": _signed,
    "minute": _minute,
    "duration": _duration,
}


def drawn(template: str, here: str, *, is_live: bool = False, **values: Any) -> Response:
    """A page. `here`: the place in the navigation that it belongs to; `is_live`: it draws itself again every two seconds."""
    page = _TEMPLATES.get_template(template)
    text = page.render(pages=PAGES, here=here, is_live=is_live, now=datetime.now(UTC), **values)
    return HTMLResponse(text, headers=HEADERS)
