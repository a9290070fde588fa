"""The bodies of the API, as pydantic models: the only place where user input is validated.

It knows nothing about what happens to a valid body.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic.config import JsonDict, JsonValue

from service.contract.tasks import all_tasks
from service.contract.types import ClickKind, EventSource, ServedBy
from service.events.intake import Ending

TaskName = StrEnum("TaskName", {name: name for name in sorted(all_tasks())})  # type: ignore[misc]

# Printable ASCII: an id is compared, logged and used as a key, never shown.
Id = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,128}$")]
_NO_NUL = r"^[^\x00]*$"  # PostgreSQL's text cannot hold it
ChampionTask = Annotated[str, StringConstraints(pattern=rf"^({'|'.join(sorted(all_tasks()))}|\*)$")]
Query = Annotated[str, StringConstraints(max_length=500, pattern=_NO_NUL)]
Text = Annotated[str, StringConstraints(max_length=20_000, pattern=_NO_NUL)]
Document = Annotated[str, StringConstraints(max_length=5_000, pattern=_NO_NUL)]
Locale = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8}){0,3}$")]


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("In UTC this moment is not in the years 1 to 9999. Send the time of the event.") from None


def _without_point(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value  # JSON has one kind of number


_Whole = BeforeValidator(_without_point)
Wanted = Annotated[int, Field(ge=1, le=20), _Whole]
Milliseconds = Annotated[int, Field(ge=10, le=10_000), _Whole]
Position = Annotated[int, Field(ge=0, le=20), _Whole]
Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]

# Strict: what the OpenAPI document does not allow, such as "3" for 3, is refused.
_BODY = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, ser_json_inf_nan="null")


def _between(least: int, most: int) -> JsonValue:
    return {"anyOf": [{"type": "integer", "minimum": least, "maximum": most}, {"type": "null"}]}


def _rules_of_tasks() -> list[JsonValue]:
    """What `RecommendBody._fits_task` checks, for the OpenAPI document."""
    rules: list[JsonValue] = []
    for task in all_tasks().values():
        properties: JsonDict = {"task": {"const": task.name}, "n": _between(1, task.max_n)}
        if task.needs_query:
            properties["query"] = {"type": "string", "pattern": r"\S"}
        required: list[JsonValue] = ["task", "query"] if task.needs_query else ["task"]
        rules.append({"title": task.name, "properties": properties, "required": required})
    return rules


# What `ClickEvent._fits_kind` checks, for the OpenAPI document.
_RULES_OF_KINDS: list[JsonValue] = [
    {
        "title": "click",
        "properties": {"kind": {"const": "click"}, "position": {"type": "integer", "minimum": 1, "maximum": 20}},
        "required": ["position"],
    },
    {
        "title": "seen or dismiss",
        "properties": {"kind": {"enum": ["seen", "dismiss"]}, "position": {"const": 0}},
        "required": ["kind"],
    },
    {
        "title": "submit",
        "properties": {"kind": {"const": "submit"}, "query": {"type": "string", "pattern": r"\S"}},
        "required": ["kind", "query"],
    },
]


class HistoryItem(BaseModel):
    """One thing the person did in the past, in any session."""

    model_config = _BODY
    source: EventSource = EventSource.SEARCH
    text: Query
    at: Moment | None = None


class RecommendBody(BaseModel):
    """What the person is doing now."""

    model_config = _BODY | ConfigDict(
        json_schema_extra={
            "anyOf": _rules_of_tasks(),
            "examples": [
                {"task": "suggest", "query": "kyoto in autumn", "session_id": "s-1", "user_id": "u-1"},
                {"task": "hint", "session": ["sourdough starter", "sourdough bread recipe"], "session_id": "s-1"},
            ],
        }
    )
    task: TaskName = Field(description="Which component shows the list.")
    query: Query | None = Field(None, description="What was typed; `hint` and `predict` need none.")
    n: Wanted | None = Field(None, description="Queries wanted; each task has its default and its most.")
    user_id: Id | None = Field(None, description="Your id of the person; without it nothing typed becomes popular.")
    session_id: Id | None = Field(None, description="Your id of the session.")
    session: list[Query] = Field(default_factory=list, max_length=50, description="Earlier queries, oldest first.")
    history: list[HistoryItem] = Field(default_factory=list, max_length=100, description="Long term, oldest first.")
    answer: Text | None = Field(None, description="What the assistant answered to the query.")
    documents: list[Document] = Field(default_factory=list, max_length=10, description="Texts, best first.")
    locale: Locale = Field("en", description="Language of the person, such as en or pt-BR.")
    timeout_ms: Milliseconds | None = Field(None, description="Deadline of this reply in milliseconds.")
    track: bool = Field(True, description="Whether the query may enter the search log.")
    origin: Literal["typed", "clicked"] = Field(
        "typed", description="clicked when the query came from a recommended list, so that it is not learned from."
    )
    explain: bool = Field(False, description="Whether to say how the list was made.")

    @model_validator(mode="after")
    def _fits_task(self) -> "RecommendBody":
        task = all_tasks()[self.task.value]
        if self.n is not None and self.n > task.max_n:
            raise ValueError(f"{task.name} gives at most {task.max_n} queries: ask for fewer.")
        if task.needs_query and not (self.query or "").strip():
            raise ValueError(f"{task.name} needs a query: send what was typed in `query`.")
        return self


class ShownQuery(BaseModel):
    """One query of the list."""

    text: str
    position: int = Field(ge=1, description="From 1, as UBI ordinals are.")
    source: ServedBy
    score: float | None = Field(None, description="Calibrated click probability, where a click predictor ran.")
    logprob: float | None = Field(None, description="Sequence log-probability under the policy.")


class Explanation(BaseModel):
    """How a list was made."""

    prompt: str | None
    prompt_tokens: int
    prompt_dropped: list[str] = Field(description="Input lines left out or shortened for the token budget.")
    cor_problem: str | None = Field(None, description="Why co-occurrence queries are incomplete: late, or away.")
    ctr_problem: str | None = Field(
        None, description="Why the click predictor did not choose: late, failed, or no_predictor."
    )
    completion: str | None
    finish_reason: str | None
    sampling: dict[str, Any]
    refused: dict[str, int] = Field(description="Candidates that were not fit to show, by reason.")


class RecommendReply(BaseModel):
    """The list to show, and what to send back when it is clicked."""

    impression_id: str
    task: TaskName
    queries: list[ShownQuery]
    texts: dict[str, str] = Field(description="Auxiliary texts, such as guide, prefix, suffix or question.")
    served_by: ServedBy
    degraded_reason: str | None = Field(description="Why this is not the model's full answer; null when it is.")
    recorded: bool = Field(description="Whether the impression was committed before this reply.")
    versions: dict[str, str | None]
    click_token: str
    timings_ms: dict[str, float]
    explain: Explanation | None = None


class ClickEvent(BaseModel):
    """What happened to a list; `position` 0 is the list as a whole."""

    model_config = _BODY | ConfigDict(
        json_schema_extra={
            "anyOf": _RULES_OF_KINDS,
            "examples": [{"click_token": "token-from-recommend", "kind": "click", "position": 1}],
        }
    )
    click_token: Annotated[str, StringConstraints(min_length=1, max_length=2048, pattern=r"^[\x21-\x7e]+$")]
    kind: ClickKind = ClickKind.CLICK
    position: Position = 0
    query: Query | None = Field(None, description="With `submit`: the query that was sent to the search engine.")
    at: Moment | None = Field(None, description="The client's time; the server's decides.")
    user_id: Id | None = None
    session_id: Id | None = None
    locale: Locale = "en"

    @model_validator(mode="after")
    def _fits_kind(self) -> "ClickEvent":
        if self.kind is ClickKind.CLICK and self.position == 0:
            raise ValueError("A click is on one query: send its position, from 1.")
        if self.kind in (ClickKind.SEEN, ClickKind.DISMISS) and self.position != 0:
            raise ValueError("seen and dismiss concern the whole list: send position 0.")
        if self.kind is ClickKind.SUBMIT and not (self.query or "").strip():
            raise ValueError("submit needs the query that was sent.")
        return self


class ClickBatch(BaseModel):
    """Up to 1,000 events at once; each gets its own result, and what is no event is refused by itself."""

    model_config = _BODY
    events: list[Any] = Field(
        min_length=1,
        max_length=1000,
        json_schema_extra={"items": {"anyOf": [{"$ref": "#/components/schemas/ClickEvent"}, {}]}},
    )


class PromoteBody(BaseModel):
    """Which version is to serve."""

    model_config = _BODY | ConfigDict(json_schema_extra={"examples": [{"version": "dpo-1"}]})
    version: Id = Field(description="A registered version.")
    task: ChampionTask | None = Field(None, description="Whose lists; its own where none is given, * is all.")


class RollbackBody(BaseModel):
    """Which champion is to give way to the one before."""

    model_config = _BODY | ConfigDict(json_schema_extra={"examples": [{"kind": "policy", "task": "*"}]})
    kind: Literal["policy", "ctr", "cor"] = "policy"
    task: ChampionTask = "*"


class ChampionReply(BaseModel):
    """What serves now."""

    kind: str
    task: str
    version: str
    previous: str | None
    revision: int


class EventResult(BaseModel):
    """What became of one event."""

    index: int
    status: Ending
    reason: str | None = None


class ClickReply(BaseModel):
    """What became of the events, in their order."""

    results: list[EventResult]


class Problem(BaseModel):
    """RFC 9457 problem document; it never repeats what was sent."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = Field(default_factory=list)
    request_id: str | None = None
