"""The tables of nextquery: two logs, the quarantine, the registry of models, experiments, and the runs of jobs.

It opens no connection and holds no query; `migrations/` builds the same tables, and a test compares the two.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Column, DateTime, Dialect, Float, Index, Integer, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator

DEFAULT_TENANT = "default"
DEFAULT_ARM = "control"


class UtcDateTime(TypeDecorator[datetime]):
    """A moment with its time zone, on both databases; SQLite keeps it as text in UTC, which also sorts."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"The moment {value} has no time zone. Use datetime.now(UTC).")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_JSON = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
metadata = MetaData()


def _text(name: str, comment: str, **options: Any) -> Column[str]:
    return Column(name, Text, nullable=options.pop("nullable", False), comment=comment, **options)


def _optional(name: str, comment: str) -> Column[str]:
    return _text(name, comment, nullable=True)


def _at(name: str, comment: str, *, nullable: bool = False) -> Column[datetime]:
    return Column(name, UtcDateTime, nullable=nullable, comment=comment)


def _json(name: str, comment: str) -> Column[Any]:
    return Column(name, _JSON, nullable=False, comment=comment)


def _count(name: str, comment: str) -> Column[int]:
    return Column(name, Integer, nullable=False, comment=comment)


def _reported(name: str, kind: type[Float[float]] | type[Integer], comment: str) -> Column[Any]:
    """What reports add up; nothing is learned from it, so that snapshots leave it out."""
    return Column(name, kind, nullable=True, comment=comment, info={"reported": True})


def _tenant() -> Column[str]:
    return _text("tenant", "whose data this is", default=DEFAULT_TENANT, server_default=DEFAULT_TENANT)


def _arm() -> Column[str]:
    return _text("arm", "arm of the experiment", default=DEFAULT_ARM, server_default=DEFAULT_ARM)


impressions = Table(
    "impressions",
    metadata,
    _text("impression_id", "unique and sortable by time", primary_key=True),
    _at("at", "server time of the reply"),
    _tenant(),
    _text("task", "suggest, snippets, hint, clarify, predict, ..."),
    _optional("user_id", "the person, as the product names them"),
    _optional("session_id", "the session, as the product names it"),
    _optional("query", "what was typed; null where the task needs none"),
    _optional("locale", "language of the request, such as en"),
    _json("context", "all else that was seen: session, history, answer, documents, co_queries"),
    _text("prompt_fingerprint", "fingerprint of the prompt template that was rendered"),
    _count("prompt_tokens", "tokens of the rendered prompt; 0 when none was rendered"),
    _arm(),
    _optional("policy_version", "the policy that served or would have served"),
    _optional("ctr_version", "the click predictor that scored, if any"),
    _optional("cor_version", "the co-occurrence index that was asked, if any"),
    _json("sampling", "temperature, top_p, seed, max_tokens, n"),
    _json("candidates", "shown list in order: text, position, source, logprob, score, propensity"),
    _json("texts", "auxiliary texts shown with the list"),
    _count("n_shown", "queries shown"),
    _text("served_by", "rung of the ladder: model, popular, none, ..."),
    _optional("degraded_reason", "why a lower rung served"),
    _json("timings", "milliseconds of each stage"),
    _reported("unit_bucket", Integer, "which thousandth of all people, or else sessions, by a hash"),
    _reported("latency_ms", Float, "milliseconds until the list was there"),
    _reported("n_repeated", Integer, "queries that were left out because they repeat"),
    _reported("n_chars", Integer, "characters of all queries shown"),
    Index("ix_impressions_at", "at"),
    comment="every list that was shown, with all that learning needs later",
)

clicks = Table(
    "clicks",
    metadata,
    # No foreign key: a click may arrive before its impression is visible.
    _text("impression_id", "the list, as its token says", primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False, comment="from 1; 0 is the whole list"),
    _text("kind", "seen, click, dismiss, submit", primary_key=True),
    _at("at", "server time of arrival; it decides"),
    _at("client_at", "what the client's clock said", nullable=True),
    _tenant(),
    _optional("query", "what was typed, for a submit"),
    _text("task", "task of the list, from the token"),
    _arm(),
    _optional("policy_version", "policy of the list, from the token"),
    Index("ix_clicks_at", "at"),
    comment="what people did with the lists; the key makes a repeated event harmless",
)

searches = Table(
    "searches",
    metadata,
    _text("search_id", "unique and sortable by time", primary_key=True),
    _at("at", "server time"),
    _tenant(),
    _optional("user_id", "the person, as the product names them"),
    _optional("session_id", "the session, as the product names it"),
    _text("query", "one line, as typed"),
    _text("match_key", "the form under which two queries are the same"),
    _optional("locale", "language of the request"),
    _text("origin", "typed, clicked or import; mining takes typed and import only"),
    _optional("impression_id", "the list that it was clicked or submitted from"),
    Index("ix_searches_at", "at"),
    # A B-tree refuses keys over 2.7 KB; a hash takes any length.
    Index("ix_searches_match_key", "match_key", postgresql_using="hash"),
    comment="what people searched for",
)

quarantine = Table(
    "quarantine",
    metadata,
    _text("id", "unique and sortable by time", primary_key=True),
    _at("at", "server time"),
    _text("endpoint", "where it arrived"),
    _text("reason", "one word: forged, expired, malformed, ..."),
    _text("body", "the start of what was sent, 2 KB at most, without NUL"),
    _optional("impression_id", "the list it claims to belong to"),
    Index("ix_quarantine_at", "at"),
    comment="events that were refused, kept to be looked at; they never train",
)

model_versions = Table(
    "model_versions",
    metadata,
    _text("version", "name of the version; it never changes", primary_key=True),
    _text("kind", "policy, ctr, cor, ..."),
    _text("task", "the task it is for; * is all"),
    _text("path", "its directory: absolute, relative to the data directory, or starter:NAME"),
    _text("manifest_sha256", "SHA-256 of its manifest, which lists the SHA-256 of its files"),
    _optional("parent", "the version it was trained from"),
    _at("created_at", "when it was registered"),
    _json("metrics", "what was measured before registration"),
    comment="every model that was published",
)

champions = Table(
    "champions",
    metadata,
    _text("kind", "policy, ctr, cor, ...", primary_key=True),
    _text("task", "the task; * is all that have none of their own", primary_key=True),
    _text("version", "the version that serves"),
    _optional("previous", "the version that served before; a rollback returns to it"),
    _count("revision", "grows by one with every change; the compare in compare-and-set"),
    _at("changed_at", "when it last changed"),
    comment="which version serves",
)

experiments = Table(
    "experiments",
    metadata,
    _text("id", "its name, which is never used again; holdout is the hold-out", primary_key=True),
    _json("definition", "as it was accepted; it never changes"),
    _text("source", "file or job"),
    _at("started_at", "when it was accepted"),
    _at("ended_at", "when it ended; null while it runs", nullable=True),
    _optional("reason", "why it ended"),
    comment="experiments that ran or run",
)

arm_days = Table(
    "arm_days",
    metadata,
    _text("day", "UTC day of the lists", primary_key=True),
    _text("task", "task of the lists", primary_key=True),
    _text("arm", "arm as logged", primary_key=True),
    Column("unit_bucket", Integer, primary_key=True, autoincrement=False, comment="as in impressions; -1 is unknown"),
    _count("lists", "replies, empty ones too"),
    _count("clicked", "of them those with a click"),
    _count("seen", "of them those that were seen"),
    _count("degraded", "of them those that are not the model's full answer"),
    _count("repeated", "queries left out because they repeat"),
    _count("shown", "queries shown"),
    _count("chars", "characters of them"),
    Column("latency_ms", Float, nullable=False, comment="sum of the milliseconds of all lists"),
    comment="sums over the log, so that reports need not read it again",
)

arm_positions = Table(
    "arm_positions",
    metadata,
    _text("day", "UTC day of the lists", primary_key=True),
    _text("task", "task of the lists", primary_key=True),
    _text("arm", "arm as logged", primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False, comment="from 1"),
    _count("shown", "queries shown there"),
    _count("clicked", "of them those clicked"),
    comment="the same by position",
)

exposures = Table(
    "exposures",
    metadata,
    _text("experiment", "the experiment", primary_key=True),
    _text("unit", "the person or session", primary_key=True),
    _text("arm", "its arm", primary_key=True),
    comment="who took part: counted once, however often they came",
)

rolled_days = Table(
    "rolled_days",
    metadata,
    _text("day", "UTC day", primary_key=True),
    _at("at", "when its sums were made"),
    comment="days that were added up",
)

job_locks = Table(
    "job_locks",
    metadata,
    _text("job", "the job, such as nightly", primary_key=True),
    _count("fence", "grows by one with every holder of the lock; who has an older number may change nothing"),
    _at("taken_at", "when the lock was taken last"),
    comment="who may write as a job",
)

job_runs = Table(
    "job_runs",
    metadata,
    _text("run_id", "unique and sortable by time", primary_key=True),
    _text("job", "nightly"),
    _text("window", "the days it learns from: first day -- first day after"),
    _text("state", "running, waiting, done, kept, failed or stopped"),
    _optional("reason", "why a challenger was kept out, or what failed"),
    _count("attempts", "how often it was started; a run that was killed goes on under the same id"),
    _json("inputs", "settings of the job, versions of code, and the champions that it competes with"),
    _at("started_at", "when it was started first"),
    _at("heartbeat_at", "last sign of life"),
    _at("ended_at", "when it ended last", nullable=True),
    Index("ix_job_runs_window", "job", "window", unique=True),
    comment="runs of jobs, one row for each window",
)

job_stages = Table(
    "job_stages",
    metadata,
    _text("run_id", "the run", primary_key=True),
    _text("stage", "snapshot, retrieval-build, ctr-train, align, evaluate or publish", primary_key=True),
    _count("position", "place in the run, from 1"),
    _text("state", "running, done, kept, skipped, failed or stopped"),
    _optional("reason", "why a challenger was kept out, why it had nothing to do, or what failed"),
    _json("parts", "its sub-processes: words, output, hash, exit code, seconds, memory"),
    _json("verdicts", "which challengers passed, over which champion, with reasons and figures"),
    _json("figures", "what it measured"),
    _json("plots", "pictures, by path below the data directory"),
    _json("progress", "share done and figures of the sub-process that runs"),
    Column("seconds", Float, nullable=False, comment="duration of its sub-processes"),
    Column("peak_rss_mb", Float, nullable=False, comment="most memory that a sub-process took"),
    Column("exit_code", Integer, nullable=True, comment="of the last sub-process"),
    _at("started_at", "when it was started"),
    _at("ended_at", "when it ended", nullable=True),
    comment="stages of the runs of jobs",
)
