"""The one command `nextquery`: finds its sub-commands as entry points and loads each only when it is called.

It knows no sub-command; packages announce theirs in the group `nextquery.commands` of `pyproject.toml`.
"""

import sys
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any

import typer
from typer.core import TyperGroup

from service.contract.errors import ConfigurationError, NextQueryError

GROUP = "nextquery.commands"
_MISTAKE = 2


class LazyGroup(TyperGroup):
    """A command group whose members are entry points; one that cannot be loaded does not harm the others."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all sub-commands, without loading any."""
        return sorted(_announced())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The sub-command for a listing: None when nobody announced it, a stand-in when its module is broken."""
        entry = _announced().get(cmd_name)
        try:
            return _load(entry) if entry else None
        except Exception as error:  # whatever a broken module raises
            return TyperGroup(name=cmd_name, help=f"(cannot be loaded: {type(error).__name__}: {error})")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The sub-command that was called.

        Raises:
            ConfigurationError: Its module cannot be imported.
        """
        entry = _announced().get(args[0])
        if entry is None:
            return super().resolve_command(ctx, args)
        try:
            return entry.name, _load(entry), args[1:]
        except Exception as error:  # whatever a broken module raises
            raise ConfigurationError(
                f"`nextquery {entry.name}` cannot be loaded: {type(error).__name__}: {error}. Usually a package is "
                "missing from the environment: run `make`, then `nextquery doctor`."
            ) from error


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("nextquery"))
        raise typer.Exit


@app.callback()
def root(
    _version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Online query recommendation by a language model that learns from its own clicks."""


def main() -> None:
    """Run the command line. A mistake that nextquery recognises ends with a sentence on stderr and exit code 2."""
    try:
        app()
    except NextQueryError as error:
        typer.secho(str(error), err=True, fg="red")
        sys.exit(_MISTAKE)


def _announced() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _load(entry: EntryPoint) -> Any:
    command = typer.main.get_command(entry.load())
    command.name = entry.name
    return command


if __name__ == "__main__":
    main()
