"""Runs of jobs: job_locks, job_runs, job_stages.

It knows nothing about the code: a migration stays as it was when the tables have moved on.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job_locks",
        sa.Column("job", sa.Text(), nullable=False, comment="the job, such as nightly"),
        sa.Column(
            "fence",
            sa.Integer(),
            nullable=False,
            comment="grows by one with every holder of the lock; who has an older number may change nothing",
        ),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False, comment="when the lock was taken last"),
        sa.PrimaryKeyConstraint("job"),
        comment="who may write as a job",
    )
    op.create_table(
        "job_runs",
        sa.Column("run_id", sa.Text(), nullable=False, comment="unique and sortable by time"),
        sa.Column("job", sa.Text(), nullable=False, comment="nightly"),
        sa.Column("window", sa.Text(), nullable=False, comment="the days it learns from: first day -- first day after"),
        sa.Column("state", sa.Text(), nullable=False, comment="running, waiting, done, kept, failed or stopped"),
        sa.Column("reason", sa.Text(), nullable=True, comment="why a challenger was kept out, or what failed"),
        sa.Column(
            "attempts",
            sa.Integer(),
            nullable=False,
            comment="how often it was started; a run that was killed goes on under the same id",
        ),
        sa.Column(
            "inputs",
            _json(),
            nullable=False,
            comment="settings of the job, versions of code, and the champions that it competes with",
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, comment="when it was started first"),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False, comment="last sign of life"),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True, comment="when it ended last"),
        sa.PrimaryKeyConstraint("run_id"),
        comment="runs of jobs, one row for each window",
    )
    op.create_index("ix_job_runs_window", "job_runs", ["job", "window"], unique=True)
    op.create_table(
        "job_stages",
        sa.Column("run_id", sa.Text(), nullable=False, comment="the run"),
        sa.Column(
            "stage",
            sa.Text(),
            nullable=False,
            comment="snapshot, retrieval-build, ctr-train, align, evaluate or publish",
        ),
        sa.Column("position", sa.Integer(), nullable=False, comment="place in the run, from 1"),
        sa.Column("state", sa.Text(), nullable=False, comment="running, done, kept, skipped, failed or stopped"),
        sa.Column(
            "reason",
            sa.Text(),
            nullable=True,
            comment="why a challenger was kept out, why it had nothing to do, or what failed",
        ),
        sa.Column(
            "parts",
            _json(),
            nullable=False,
            comment="its sub-processes: words, output, hash, exit code, seconds, memory",
        ),
        sa.Column(
            "verdicts",
            _json(),
            nullable=False,
            comment="which challengers passed, over which champion, with reasons and figures",
        ),
        sa.Column("figures", _json(), nullable=False, comment="what it measured"),
        sa.Column("plots", _json(), nullable=False, comment="pictures, by path below the data directory"),
        sa.Column("progress", _json(), nullable=False, comment="share done and figures of the sub-process that runs"),
        sa.Column("seconds", sa.Float(), nullable=False, comment="duration of its sub-processes"),
        sa.Column("peak_rss_mb", sa.Float(), nullable=False, comment="most memory that a sub-process took"),
        sa.Column("exit_code", sa.Integer(), nullable=True, comment="of the last sub-process"),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, comment="when it was started"),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True, comment="when it ended"),
        sa.PrimaryKeyConstraint("run_id", "stage"),
        comment="stages of the runs of jobs",
    )


def downgrade() -> None:
    for table in ("job_stages", "job_runs", "job_locks"):
        op.drop_table(table)


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
