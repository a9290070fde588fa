"""Writes the settings reference: `.env.example` and `deploy/SETTINGS.md`, from the settings classes.

It knows no setting by name. Run `python -m service.contract.settings_reference` after changing a setting.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from service.contract.settings import Settings

_ROOT = Path(__file__).parents[2]
_COMMAND = "python -m service.contract.settings_reference"
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One variable as a reader sees it. `default` is written as in an environment file, empty for none."""

    variable: str
    default: str
    bounds: str
    meaning: str


def entries(model: type[BaseModel] = Settings, prefix: str = "NEXTQUERY_") -> Iterator[Entry]:
    """Every variable, those of nested classes too, in the order of the classes."""
    for name, field in model.model_fields.items():
        variable = prefix + name.upper()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from entries(field.annotation, f"{variable}__")
        else:
            yield Entry(
                variable, _written(field.get_default(call_default_factory=True)), _bounds(field), _meaning(field)
            )


def env_example() -> str:
    """Text of `.env.example`: every variable with its default, commented out."""
    blocks = [
        f"# {entry.meaning}{f' ({entry.bounds})' if entry.bounds else ''}\n#{entry.variable}={entry.default}\n"
        for entry in entries()
    ]
    head = f"# Copy to .env and take away the # of what you change. Written by `{_COMMAND}`.\n"
    return "\n".join([head, *blocks])


def markdown() -> str:
    """Text of `deploy/SETTINGS.md`: the same as tables."""
    rows = [
        f"| `{entry.variable}` | {_code(entry.default)} | {entry.bounds} | {entry.meaning} |" for entry in entries()
    ]
    return "\n".join(
        [
            "# Settings",
            "",
            "Set them as environment variables, or in a file `.env` in the folder that nextquery is started in;",
            "options of `nextquery serve` go before both. Lists are JSON, as in `[1, 2]`; an empty variable means its",
            "default.",
            "",
            f"Written by `{_COMMAND}` from `service/contract/settings.py`: edit that, not this.",
            "",
            "| variable | default | allowed | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


FILES = {_ROOT / ".env.example": env_example, _ROOT / "deploy" / "SETTINGS.md": markdown}


def _written(default: Any) -> str:
    if default is None:
        return ""
    return json.dumps(default) if isinstance(default, (list, dict)) else str(default)


def _bounds(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(map(str, get_args(field.annotation)))
    found = [(sign, getattr(bound, name, None)) for bound in field.metadata for name, sign in _SIGNS.items()]
    return ", ".join(f"{sign} {limit:g}" for sign, limit in found if limit is not None)


def _meaning(field: FieldInfo) -> str:
    return field.description or ""


def _code(value: str) -> str:
    return f"`{value}`" if value else ""


if __name__ == "__main__":
    for path, render in FILES.items():
        path.write_text(render(), encoding="utf-8")
        print(f"Wrote {path.relative_to(_ROOT)}.")
