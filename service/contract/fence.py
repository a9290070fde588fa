"""Fencing numbers: whoever lost the lock of a job cannot write as that job any more. RELIABILITY.md I9.

It knows nothing about locks or stages. Every holder of a lock takes the next number; what it writes afterwards is
written only while no later one was taken.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.contract.database import database_errors
from service.contract.errors import ConfigurationError, RegistryConflict
from service.contract.tables import job_locks


@dataclass(frozen=True, slots=True)
class Fence:
    """The number that a holder of the lock of `job` took. As text: nightly:7."""

    job: str
    number: int

    def __str__(self) -> str:
        return f"{self.job}:{self.number}"


def parse_fence(text: str) -> Fence:
    """The fence that `text` names.

    Raises:
        ConfigurationError: It names none.
    """
    job, mark, number = text.partition(":")
    if not (job and mark and number.isascii() and number.isdigit() and len(number) < 10):
        raise ConfigurationError(f"{text!r} is no fence. A job writes its name and number, as in nightly:7.")
    return Fence(job, int(number))


async def take_number(database: AsyncEngine, job: str) -> Fence:
    """Take the next number, once the lock is held. Raises DatabaseError when the database is away."""
    dialect = postgresql if database.dialect.name == "postgresql" else sqlite
    now = datetime.now(UTC)
    statement = (
        dialect.insert(job_locks)
        .values(job=job, fence=1, taken_at=now)
        .on_conflict_do_update(index_elements=["job"], set_={"fence": job_locks.c.fence + 1, "taken_at": now})
        .returning(job_locks.c.fence)
    )
    with database_errors("the number of a job was taken"):
        async with database.begin() as connection:
            return Fence(job, (await connection.execute(statement)).scalar_one())


async def check_fence(connection: AsyncConnection, fence: Fence) -> None:
    """Return if no later number was taken; none can be until the transaction of `connection` ends.

    Raises:
        RegistryConflict: Another run has the lock now.
    """
    mine = (job_locks.c.job == fence.job) & (job_locks.c.fence == fence.number)
    statement = update(job_locks).where(mine).values(fence=job_locks.c.fence).returning(job_locks.c.fence)
    if (await connection.execute(statement)).first() is None:
        raise RegistryConflict(
            f"The run with number {fence.number} of job {fence.job!r} lost its lock to a later one, so it may change "
            "nothing any more. `nextquery job list` shows the later one."
        )
