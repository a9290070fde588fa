"""Faults of a database, staged: away, frozen, its connections cut.

It knows nothing about what is tested with them.
"""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from sqlalchemy.engine import make_url


def second_connection(url: str) -> Any:
    if url.startswith("sqlite"):
        return sqlite3.connect(str(make_url(url).database), isolation_level=None, timeout=2)
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True, connect_timeout=3)


@contextmanager
def away(url: str) -> Iterator[None]:
    """SQLite: somebody holds the write lock. PostgreSQL: no connection is let in, and those there are killed."""
    if url.startswith("sqlite"):
        with closing(second_connection(url)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")
        return
    parsed = make_url(url)
    server = parsed.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(server, autocommit=True, connect_timeout=3) as connection:
        connection.execute(f'ALTER DATABASE "{parsed.database}" ALLOW_CONNECTIONS false')
        try:
            terminate_others(server, parsed.database)
            yield
        finally:
            connection.execute(f'ALTER DATABASE "{parsed.database}" ALLOW_CONNECTIONS true')


def terminate_others(url: str, name: str | None = None) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True, connect_timeout=3) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = coalesce(%s, current_database())",
            (name,),
        )


class FreezableProxy:
    """Forwards to PostgreSQL while `running` is set; connections stay open while it is not."""

    def __init__(self, url: str) -> None:
        self._target = make_url(url)
        self.running = asyncio.Event()
        self.running.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "FreezableProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = self._target.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(self._target.host, self._target.port or 5432)
        for source, sink in ((reader, forth), (back, writer)):
            self._tasks.add(asyncio.create_task(self._pump(source, sink)))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                await self.running.wait()
                sink.write(data)
                await sink.drain()
        finally:
            sink.close()
