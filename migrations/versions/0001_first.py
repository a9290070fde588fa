"""The first tables: impressions, clicks, searches, quarantine, model_versions, champions.

It knows nothing about the code: a migration stays as it was when the tables have moved on.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "impressions",
        sa.Column("impression_id", sa.Text(), nullable=False, comment="unique and sortable by time"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, comment="server time of the reply"),
        sa.Column("tenant", sa.Text(), nullable=False, server_default="default", comment="whose data this is"),
        sa.Column("task", sa.Text(), nullable=False, comment="suggest, snippets, hint, clarify, predict, ..."),
        sa.Column("user_id", sa.Text(), nullable=True, comment="the person, as the product names them"),
        sa.Column("session_id", sa.Text(), nullable=True, comment="the session, as the product names it"),
        sa.Column("query", sa.Text(), nullable=True, comment="what was typed; null where the task needs none"),
        sa.Column("locale", sa.Text(), nullable=True, comment="language of the request, such as en"),
        sa.Column(
            "context",
            _json(),
            nullable=False,
            comment="all else that was seen: session, history, answer, documents, co_queries",
        ),
        sa.Column(
            "prompt_fingerprint",
            sa.Text(),
            nullable=False,
            comment="fingerprint of the prompt template that was rendered",
        ),
        sa.Column(
            "prompt_tokens",
            sa.Integer(),
            nullable=False,
            comment="tokens of the rendered prompt; 0 when none was rendered",
        ),
        sa.Column("arm", sa.Text(), nullable=False, server_default="control", comment="arm of the experiment"),
        sa.Column("policy_version", sa.Text(), nullable=True, comment="the policy that served or would have served"),
        sa.Column("ctr_version", sa.Text(), nullable=True, comment="the click predictor that scored, if any"),
        sa.Column("cor_version", sa.Text(), nullable=True, comment="the co-occurrence index that was asked, if any"),
        sa.Column("sampling", _json(), nullable=False, comment="temperature, top_p, seed, max_tokens, n"),
        sa.Column(
            "candidates",
            _json(),
            nullable=False,
            comment="shown list in order: text, position, source, logprob, score, propensity",
        ),
        sa.Column("texts", _json(), nullable=False, comment="auxiliary texts shown with the list"),
        sa.Column("n_shown", sa.Integer(), nullable=False, comment="queries shown"),
        sa.Column("served_by", sa.Text(), nullable=False, comment="rung of the ladder: model, popular, none, ..."),
        sa.Column("degraded_reason", sa.Text(), nullable=True, comment="why a lower rung served"),
        sa.Column("timings", _json(), nullable=False, comment="milliseconds of each stage"),
        sa.PrimaryKeyConstraint("impression_id"),
        comment="every list that was shown, with all that learning needs later",
    )
    op.create_index("ix_impressions_at", "impressions", ["at"])
    op.create_table(
        "clicks",
        sa.Column("impression_id", sa.Text(), nullable=False, comment="the list, as its token says"),
        sa.Column("position", sa.Integer(), nullable=False, autoincrement=False, comment="from 1; 0 is the whole list"),
        sa.Column("kind", sa.Text(), nullable=False, comment="seen, click, dismiss, submit"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, comment="server time of arrival; it decides"),
        sa.Column("client_at", sa.DateTime(timezone=True), nullable=True, comment="what the client's clock said"),
        sa.Column("tenant", sa.Text(), nullable=False, server_default="default", comment="whose data this is"),
        sa.Column("query", sa.Text(), nullable=True, comment="what was typed, for a submit"),
        sa.Column("task", sa.Text(), nullable=False, comment="task of the list, from the token"),
        sa.Column("arm", sa.Text(), nullable=False, server_default="control", comment="arm of the experiment"),
        sa.Column("policy_version", sa.Text(), nullable=True, comment="policy of the list, from the token"),
        sa.PrimaryKeyConstraint("impression_id", "position", "kind"),
        comment="what people did with the lists; the key makes a repeated event harmless",
    )
    op.create_index("ix_clicks_at", "clicks", ["at"])
    op.create_table(
        "searches",
        sa.Column("search_id", sa.Text(), nullable=False, comment="unique and sortable by time"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, comment="server time"),
        sa.Column("tenant", sa.Text(), nullable=False, server_default="default", comment="whose data this is"),
        sa.Column("user_id", sa.Text(), nullable=True, comment="the person, as the product names them"),
        sa.Column("session_id", sa.Text(), nullable=True, comment="the session, as the product names it"),
        sa.Column("query", sa.Text(), nullable=False, comment="one line, as typed"),
        sa.Column("match_key", sa.Text(), nullable=False, comment="the form under which two queries are the same"),
        sa.Column("locale", sa.Text(), nullable=True, comment="language of the request"),
        sa.Column(
            "origin", sa.Text(), nullable=False, comment="typed, clicked or import; mining takes typed and import only"
        ),
        sa.Column("impression_id", sa.Text(), nullable=True, comment="the list that it was clicked or submitted from"),
        sa.PrimaryKeyConstraint("search_id"),
        comment="what people searched for",
    )
    op.create_index("ix_searches_at", "searches", ["at"])
    op.create_index("ix_searches_match_key", "searches", ["match_key"], postgresql_using="hash")
    op.create_table(
        "quarantine",
        sa.Column("id", sa.Text(), nullable=False, comment="unique and sortable by time"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, comment="server time"),
        sa.Column("endpoint", sa.Text(), nullable=False, comment="where it arrived"),
        sa.Column("reason", sa.Text(), nullable=False, comment="one word: forged, expired, malformed, ..."),
        sa.Column("body", sa.Text(), nullable=False, comment="the start of what was sent, 2 KB at most, without NUL"),
        sa.Column("impression_id", sa.Text(), nullable=True, comment="the list it claims to belong to"),
        sa.PrimaryKeyConstraint("id"),
        comment="events that were refused, kept to be looked at; they never train",
    )
    op.create_index("ix_quarantine_at", "quarantine", ["at"])
    op.create_table(
        "model_versions",
        sa.Column("version", sa.Text(), nullable=False, comment="name of the version; it never changes"),
        sa.Column("kind", sa.Text(), nullable=False, comment="policy, ctr, cor, ..."),
        sa.Column("task", sa.Text(), nullable=False, comment="the task it is for; * is all"),
        sa.Column(
            "path",
            sa.Text(),
            nullable=False,
            comment="its directory: absolute, relative to the data directory, or starter:NAME",
        ),
        sa.Column(
            "manifest_sha256",
            sa.Text(),
            nullable=False,
            comment="SHA-256 of its manifest, which lists the SHA-256 of its files",
        ),
        sa.Column("parent", sa.Text(), nullable=True, comment="the version it was trained from"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, comment="when it was registered"),
        sa.Column("metrics", _json(), nullable=False, comment="what was measured before registration"),
        sa.PrimaryKeyConstraint("version"),
        comment="every model that was published",
    )
    op.create_table(
        "champions",
        sa.Column("kind", sa.Text(), nullable=False, comment="policy, ctr, cor, ..."),
        sa.Column("task", sa.Text(), nullable=False, comment="the task; * is all that have none of their own"),
        sa.Column("version", sa.Text(), nullable=False, comment="the version that serves"),
        sa.Column(
            "previous", sa.Text(), nullable=True, comment="the version that served before; a rollback returns to it"
        ),
        sa.Column(
            "revision",
            sa.Integer(),
            nullable=False,
            comment="grows by one with every change; the compare in compare-and-set",
        ),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, comment="when it last changed"),
        sa.PrimaryKeyConstraint("kind", "task"),
        comment="which version serves",
    )


def downgrade() -> None:
    for table in ("champions", "model_versions", "quarantine", "searches", "clicks", "impressions"):
        op.drop_table(table)


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
