"""Experiments: the table experiments.

It knows nothing about the code: a migration stays as it was when the tables have moved on.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


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


def downgrade() -> None:
    op.drop_table("experiments")
