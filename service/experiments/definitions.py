"""What an experiment is: its unit, its share of traffic, its arms; and the file that people write them in.

It knows nothing about requests, nor about what is running.
"""

from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from service.contract.errors import ConfigurationError
from service.contract.tasks import all_tasks

HOLDOUT = "holdout"
_MODEL = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
_ROUNDING = 1e-6
# Neither "=" nor a space: they separate names where arms are logged.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")]
Share = Annotated[float, Field(gt=0, le=1)]
Unit = Literal["user", "session", "request"]


class Changes(BaseModel):
    """What is different for those in an arm; what is not said is as it is for everybody."""

    model_config = _MODEL
    policy: Version | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    cor: bool | None = None
    rerank: Literal["off", "best_of", "reorder"] | None = None
    best_of: Annotated[int, Field(ge=2, le=16)] | None = None
    explore_share: Annotated[float, Field(ge=0, le=1)] | None = None
    deadline_ms: Annotated[int, Field(ge=10, le=10_000)] | None = None

    def said(self) -> dict[str, Any]:
        """What this changes, by name."""
        return {name: value for name in Changes.model_fields if (value := getattr(self, name)) is not None}


class Arm(Changes):
    """One arm. `weight`: its share of those who take part; the weights of all arms are 1 together."""

    name: Name
    weight: Share


class Experiment(BaseModel):
    """Arms that are compared. The first is the control.

    `share`: of the units that take part. `salt`: of the hash that decides; the id where none is given. `tasks`: where
    it runs, everywhere where none is given. `lift`: the relative lift that it is planned to find. `promote`: whether the
    nightly run makes an arm's policy champion once it has won; then arms change nothing but the policy.
    """

    model_config = _MODEL
    id: Name
    unit: Unit = "user"
    tasks: list[str] = []
    share: Share = 1.0
    salt: Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,200}$")] | None = None
    lift: Annotated[float, Field(gt=0, le=10)] = 0.05
    promote: bool = False
    arms: Annotated[list[Arm], Field(min_length=2, max_length=20)]

    @property
    def changes(self) -> list[Changes]:
        """What each arm changes."""
        return list(self.arms)

    @cached_property
    def changed(self) -> frozenset[str]:
        """What any of its arms changes."""
        return frozenset(name for arm in self.arms for name in arm.said())

    def runs_for(self, task: str) -> bool:
        """True where it takes lists of `task`."""
        return not self.tasks or task in self.tasks

    def meets(self, other: "Experiment") -> bool:
        """True where both take lists of one task."""
        return not self.tasks or not other.tasks or bool(set(self.tasks) & set(other.tasks))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.id == HOLDOUT:
            raise ValueError(f"an experiment cannot be called {HOLDOUT}: that is the hold-out")
        if twice := _said_twice(arm.name for arm in self.arms):
            raise ValueError(f"two arms of {self.id} are called {twice}: give each a name of its own")
        total = sum(arm.weight for arm in self.arms)
        if abs(total - 1.0) > _ROUNDING:
            raise ValueError(f"the weights of the arms of {self.id} come to {total:g}: they must come to 1")
        if self.promote and self.changed != {"policy"}:
            raise ValueError(
                f"{self.id} wants its winner promoted, which can be a policy and nothing else: drop `promote`"
            )
        if unknown := sorted(set(self.tasks) - set(all_tasks())):
            raise ValueError(f"{unknown[0]!r} of {self.id} is no task: there are {', '.join(sorted(all_tasks()))}")
        return self


class Holdout(Changes):
    """Units that take part in no experiment, as long as it stands. `share`: of all units."""

    share: Share
    unit: Unit = "user"
    salt: Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,200}$")] = HOLDOUT

    @property
    def id(self) -> str:
        """Its name among experiments."""
        return HOLDOUT

    @property
    def tasks(self) -> list[str]:
        """It is of every task."""
        return []

    @property
    def changes(self) -> list[Changes]:
        """What is different for it."""
        return [self]


class Experiments(BaseModel):
    """The content of the file: all experiments that run, and the hold-out."""

    model_config = _MODEL
    holdout: Holdout | None = None
    experiments: Annotated[list[Experiment], Field(max_length=100)] = []

    @property
    def all(self) -> list["Experiment | Holdout"]:
        """The experiments, and the hold-out."""
        return [*self.experiments, *([self.holdout] if self.holdout else [])]

    @model_validator(mode="after")
    def _have_ids_of_their_own(self) -> Self:
        if twice := _said_twice(each.id for each in self.experiments):
            raise ValueError(f"two experiments are called {twice}: clone it under another id")
        return self


def _said_twice(names: Iterable[str]) -> str | None:
    """The first name that more than one has; None where each has its own."""
    return min((name for name, count in Counter(names).items() if count > 1), default=None)


def check_together(experiments: list[Experiment]) -> None:
    """Return if these can run at once; a file may also have some that ended, which contradict nobody.

    Raises:
        ValueError: Two have one salt, or both change one thing for the same lists.
    """
    for one, other in combinations(experiments, 2):
        if (one.salt or one.id) == (other.salt or other.id):
            raise ValueError(f"{one.id} and {other.id} have the same salt, so that their arms would go together")
        both = sorted(one.changed & other.changed)
        if one.meets(other) and both:
            raise ValueError(
                f"{one.id} and {other.id} both set {both[0]} for the same lists, so that neither could be told from "
                "the other: let one of them end first, or give them other tasks"
            )


def read_experiments(path: Path) -> Experiments:
    """The experiments in a YAML file.

    Raises:
        ConfigurationError: It is missing, is no YAML, or says what cannot be; the text says what and where.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"The experiment file {path} cannot be read: {error.strerror}. Put it back; to end all experiments, write "
            "`experiments: []` into it."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        where = f" at line {mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else ""
        raise ConfigurationError(f"The experiment file {path} is no YAML{where}. Mend it, or put it back.") from None
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"The experiment file {path} holds no `experiments:`. To end all experiments, write `experiments: []` into it."
        )
    try:
        return Experiments.model_validate(content)
    except ValidationError as error:
        said = "; ".join(_sentence(content, each) for each in error.errors()[:3])
        raise ConfigurationError(f"The experiment file {path} is refused: {said}.") from None


def _sentence(content: dict[str, Any], error: Any) -> str:
    """What is wrong, where: experiments are named by their ids, as far as they have one."""
    place = list(error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    if place[:1] == ["experiments"] and len(place) > 1:
        named = content["experiments"][place[1]]
        name = named.get("id") if isinstance(named, dict) else None
        place[:2] = [name if isinstance(name, str) else f"experiment {place[1] + 1}"]
    where = ".".join(str(part + 1) if isinstance(part, int) else str(part) for part in place)
    return f"{where}: {message}" if where and error["type"] != "value_error" else message
