"""Experiments: experiments, exposures, arm_days, arm_positions, rolled_days, and what reports read of impressions.

It knows nothing about the code: a migration stays as it was when the tables have moved on.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_REPORTED = (
    ("unit_bucket", sa.Integer, "which thousandth of all people, or else sessions, by a hash"),
    ("latency_ms", sa.Float, "milliseconds until the list was there"),
    ("n_repeated", sa.Integer, "queries that were left out because they repeat"),
    ("n_chars", sa.Integer, "characters of all queries shown"),
)


def upgrade() -> None:
    op.create_table(
        "experiments",
        sa.Column(
            "id", sa.Text(), nullable=False, comment="its name, which is never used again; holdout is the hold-out"
        ),
        sa.Column(
            "definition",
            sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql"),
            nullable=False,
            comment="as it was accepted; it never changes",
        ),
        sa.Column("source", sa.Text(), nullable=False, comment="file or job"),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, comment="when it was accepted"),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True, comment="when it ended; null while it runs"),
        sa.Column("reason", sa.Text(), nullable=True, comment="why it ended"),
        sa.PrimaryKeyConstraint("id"),
        comment="experiments that ran or run",
    )
    for name, kind, comment in _REPORTED:
        op.add_column("impressions", sa.Column(name, kind(), nullable=True, comment=comment))
    op.create_table(
        "arm_days",
        sa.Column("day", sa.Text(), nullable=False, comment="UTC day of the lists"),
        sa.Column("task", sa.Text(), nullable=False, comment="task of the lists"),
        sa.Column("arm", sa.Text(), nullable=False, comment="arm as logged"),
        sa.Column(
            "unit_bucket",
            sa.Integer(),
            autoincrement=False,
            nullable=False,
            comment="as in impressions; -1 is unknown",
        ),
        sa.Column("lists", sa.Integer(), nullable=False, comment="replies, empty ones too"),
        sa.Column("clicked", sa.Integer(), nullable=False, comment="of them those with a click"),
        sa.Column("seen", sa.Integer(), nullable=False, comment="of them those that were seen"),
        sa.Column(
            "degraded", sa.Integer(), nullable=False, comment="of them those that are not the model's full answer"
        ),
        sa.Column("repeated", sa.Integer(), nullable=False, comment="queries left out because they repeat"),
        sa.Column("shown", sa.Integer(), nullable=False, comment="queries shown"),
        sa.Column("chars", sa.Integer(), nullable=False, comment="characters of them"),
        sa.Column("latency_ms", sa.Float(), nullable=False, comment="sum of the milliseconds of all lists"),
        sa.PrimaryKeyConstraint("day", "task", "arm", "unit_bucket"),
        comment="sums over the log, so that reports need not read it again",
    )
    op.create_table(
        "arm_positions",
        sa.Column("day", sa.Text(), nullable=False, comment="UTC day of the lists"),
        sa.Column("task", sa.Text(), nullable=False, comment="task of the lists"),
        sa.Column("arm", sa.Text(), nullable=False, comment="arm as logged"),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False, comment="from 1"),
        sa.Column("shown", sa.Integer(), nullable=False, comment="queries shown there"),
        sa.Column("clicked", sa.Integer(), nullable=False, comment="of them those clicked"),
        sa.PrimaryKeyConstraint("day", "task", "arm", "position"),
        comment="the same by position",
    )
    op.create_table(
        "exposures",
        sa.Column("experiment", sa.Text(), nullable=False, comment="the experiment"),
        sa.Column("unit", sa.Text(), nullable=False, comment="the person or session"),
        sa.Column("arm", sa.Text(), nullable=False, comment="its arm"),
        sa.PrimaryKeyConstraint("experiment", "unit", "arm"),
        comment="who took part: counted once, however often they came",
    )
    op.create_table(
        "rolled_days",
        sa.Column("day", sa.Text(), nullable=False, comment="UTC day"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, comment="when its sums were made"),
        sa.PrimaryKeyConstraint("day"),
        comment="days that were added up",
    )


def downgrade() -> None:
    for table in ("rolled_days", "exposures", "arm_positions", "arm_days", "experiments"):
        op.drop_table(table)
    with op.batch_alter_table("impressions") as impressions:
        for name, _, _ in _REPORTED:
            impressions.drop_column(name)
