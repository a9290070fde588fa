"""Where a real PostgreSQL is for tests and benchmarks, and databases of their own on it.

It knows nothing about pytest.
"""

import contextlib
import getpass
import os
import uuid
from collections.abc import Iterator

import psycopg
from sqlalchemy import make_url


def server() -> str | None:
    """URL of a PostgreSQL that answers: NEXTQUERY_TEST_POSTGRES, else 127.0.0.1:5432; None where there is none."""
    given = os.environ.get("NEXTQUERY_TEST_POSTGRES")
    users = ("postgres", getpass.getuser())
    for url in [given] if given else [f"postgresql://{user}@127.0.0.1/postgres" for user in users]:
        plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(plain, connect_timeout=3).close()
            return plain
    return None


@contextlib.contextmanager
def fresh_database(at: str | None = None) -> Iterator[str]:
    """SQLAlchemy URL of an empty database, dropped at the end.

    Raises:
        RuntimeError: No PostgreSQL answers.
    """
    url = at or server()
    if url is None:
        raise RuntimeError("PostgreSQL does not answer: start it on 127.0.0.1:5432, or set NEXTQUERY_TEST_POSTGRES.")
    name = f"nextquery_test_{uuid.uuid4().hex[:12]}"
    _execute(url, f'CREATE DATABASE "{name}"')
    try:
        yield make_url(url).set(drivername="postgresql+psycopg", database=name).render_as_string(hide_password=False)
    finally:
        _execute(url, f'DROP DATABASE "{name}" WITH (FORCE)')


def _execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True, connect_timeout=3) as connection:
        connection.execute(statement.encode())
