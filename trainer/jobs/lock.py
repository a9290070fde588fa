"""The lock of a job: an advisory lock in PostgreSQL, a file lock beside SQLite. RELIABILITY.md I9.

It knows nothing about what the job does. The kernel or the server frees the lock when the holder dies.
"""

import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psycopg
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract.database import connect_writer, database_errors
from service.contract.errors import JobBusy, JobError
from service.contract.fence import Fence, take_number

# The server gives a holder up whose machine is gone: it cannot see that the connection is.
_KEEPALIVE = {"tcp_keepalives_idle": 10, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3}


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A lock that is held, and the number that came with it."""

    fence: Fence
    is_held: Callable[[], bool]

    def check(self) -> None:
        """Raise JobError if the lock was lost meanwhile."""
        if not self.is_held():
            raise JobError(
                f"The lock of job {self.fence.job!r} was lost: the database was restarted, or is away. Nothing was "
                "published; the next run goes on from the last finished stage."
            )


@asynccontextmanager
async def hold_lock(database: AsyncEngine, job: str) -> AsyncIterator[HeldLock]:
    """Hold the lock of `job` with the next fencing number.

    Raises:
        JobBusy: Somebody else holds it.
        DatabaseError: The database is away.
    """
    lock = _in_a_file if database.dialect.name == "sqlite" else _in_postgresql
    with lock(database, job) as is_held:
        yield HeldLock(await take_number(database, job), is_held)


@contextmanager
def _in_a_file(database: AsyncEngine, job: str) -> Iterator[Callable[[], bool]]:
    path = Path(f"{database.url.database}.job-{job}.lock")
    with path.open("w") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(job) from None

        def is_held() -> bool:
            # Another file in its place could be locked by somebody else.
            return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())

        yield is_held


@contextmanager
def _in_postgresql(database: AsyncEngine, job: str) -> Iterator[Callable[[], bool]]:
    with database_errors("the lock of a job was taken"):
        opened = cast("psycopg.Connection", connect_writer(database))
    with closing(opened) as connection:
        with database_errors("the lock of a job was taken"):
            for name, value in _KEEPALIVE.items():
                connection.execute("SELECT set_config(%s, %s, false)", (name, str(value)))
            taken = connection.execute("SELECT pg_try_advisory_lock(%s)", (_key(job),)).fetchone()
        if taken != (True,):
            raise _busy(job)

        def is_held() -> bool:
            try:
                connection.execute("SELECT 1")
            except psycopg.Error:
                return False
            return True

        yield is_held


def _key(job: str) -> int:
    digest = hashlib.blake2b(f"nextquery job {job}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _busy(job: str) -> JobBusy:
    return JobBusy(f"Another run of job {job!r} is under way. `nextquery job list` shows it; wait until it is done.")
