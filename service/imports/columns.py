"""Finds the columns of a search log under the names that a file has for them.

It knows nothing about how a file keeps its columns.
"""

from collections.abc import Mapping, Sequence

from service.contract.errors import ConfigurationError

COLUMNS = ("query", "user_id", "session_id", "at")


def parse_columns(text: str) -> dict[str, str]:
    """The names said in `text`: "query=q,at=time" is {"query": "q", "at": "time"}. Raises ConfigurationError."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(column.strip() in COLUMNS and name.strip() for column, _, name in pairs):
        raise ConfigurationError(
            f"--columns {text!r} does not say which column is which. Write it such as query=q,user_id=u,at=time; the "
            f"columns of a search log are {', '.join(COLUMNS)}."
        )
    return {column.strip(): name.strip() for column, _, name in pairs}


def find_columns(present: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """The name in the file of each column that it has; `names` says which are called otherwise. Only query must be there.

    Raises:
        ConfigurationError: A column that `names` names, or query, is not there; or there are two of one name.
    """
    wanted = {column: names.get(column, column) for column in COLUMNS}
    for column, name in wanted.items():
        if name not in present and (column in names or column == "query"):
            raise ConfigurationError(
                f"The file has no column {name!r} for {column}. Say which of its columns it is, such as "
                f"--columns {column}=NAME."
            )
        if present.count(name) > 1:
            raise ConfigurationError(f"The file has {present.count(name)} columns called {name!r}. Rename all but one.")
    return {column: name for column, name in wanted.items() if name in present}
