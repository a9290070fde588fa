"""The rule by which a tried policy becomes champion or is dropped: always-valid intervals, and guardrails.

It knows nothing about jobs. Only experiments that say `promote` are decided.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract import registry
from service.contract.fence import Fence
from service.experiments import store
from service.experiments.definitions import Arm, Experiment
from service.experiments.report import ArmReport, Report, make_report

CONTROL, CHALLENGER = "control", "challenger"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What became of an experiment. `version`: of the policy that was promoted."""

    experiment: str
    state: Literal["promoted", "dropped", "open"]
    reason: str
    version: str | None = None


async def decide_all(
    database: AsyncEngine, *, most_days: int, fence: Fence | None = None, now: datetime | None = None
) -> list[Decision]:
    """Decide every experiment that runs and says `promote`. One is dropped when it is open after `most_days`.

    Raises:
        RegistryConflict: The job lost its lock, or somebody promoted another policy at the same moment.
        ArtifactError: The winner's files are damaged; its experiment goes on.
    """
    now = now or datetime.now(UTC)
    decided = []
    for each in await store.running_ones(database):
        if not each.definition.promote:
            continue
        decision = await _outlived(database, each.definition)
        if decision is None:
            report = await make_report(database, each.id, now)
            decision = _decide(report, now - each.started_at > timedelta(days=most_days))
        if decision.version:
            task = each.definition.tasks[0] if len(each.definition.tasks) == 1 else registry.ANY_TASK
            model = await registry.show(database, decision.version)
            await registry.put_in_front(database, model, task=task, fence=fence)
        if decision.state != "open":
            await store.end(database, each.id, decision.reason)
        decided.append(decision)
    return decided


async def try_policy(database: AsyncEngine, version: str, task: str, *, share: float, lift: float) -> str | None:
    """Give a registered policy `share` of the people, half of whom get the champion; the experiment, or None.

    None where another experiment about policies of that task is under way: one is tried at a time.

    Raises:
        ConfigurationError: The policy is not registered.
    """
    tasks = [] if task == registry.ANY_TASK else [task]
    name = "-".join(["try", *tasks, version]).lower()[:64]
    arms = [Arm(name=CONTROL, weight=0.5), Arm(name=CHALLENGER, weight=0.5, policy=version)]
    wanted = Experiment(id=name, share=share, tasks=tasks, lift=lift, promote=True, arms=arms)
    present = await store.running_ones(database)
    if any(
        each.id != name and each.definition.meets(wanted) and "policy" in each.definition.changed for each in present
    ):
        return None
    await store.start(database, wanted)
    return name


async def _outlived(database: AsyncEngine, experiment: Experiment) -> Decision | None:
    """Dropped, where an arm's policy is an adapter on a model that another has replaced; else None."""
    gone = await registry.retired(database, [arm.policy for arm in experiment.arms if arm.policy])
    if not gone:
        return None
    reason = f"The model that {' and '.join(sorted(gone))} stands on serves no longer. Align the one that does."
    return Decision(experiment=experiment.id, state="dropped", reason=reason)


def _decide(report: Report, is_old: bool) -> Decision:
    name = report.experiment.id
    policies = {arm.name: arm.policy for arm in report.experiment.arms}
    winners = [arm for arm in report.arms[1:] if _won(arm)]
    if winners:
        best = max(winners, key=lambda arm: arm.lift.value if arm.lift else 0.0)
        reason = f"{best.name} won: {_told(best)}."
        return Decision(experiment=name, state="promoted", reason=reason, version=policies[best.name])
    if report.problem:
        return Decision(experiment=name, state="dropped" if is_old else "open", reason=report.problem)
    hopeful = [arm for arm in report.arms[1:] if not _lost(arm)]
    told = "; ".join(f"{arm.name}: {_told(arm)}" for arm in report.arms[1:])
    if not hopeful:
        return Decision(experiment=name, state="dropped", reason=f"No arm is better. {told}.")
    if is_old:
        return Decision(experiment=name, state="dropped", reason=f"Nothing was decided in time. {told}.")
    return Decision(experiment=name, state="open", reason=f"Nothing is decided yet. {told}.")


def _won(arm: ArmReport) -> bool:
    return arm.lift is not None and arm.lift.always_low > 0 and not _broken(arm)


def _lost(arm: ArmReport) -> bool:
    return bool(_broken(arm)) or (arm.lift is not None and arm.lift.always_high < 0)


def _broken(arm: ArmReport) -> list[str]:
    return [name for name, guard in (arm.guardrails or {}).items() if not guard.holds]


def _told(arm: ArmReport) -> str:
    lift = "too few clicks"
    if arm.lift:
        found = arm.lift
        lift = f"lift {found.value:+.1%}, at all times within {found.always_low:+.1%} and {found.always_high:+.1%}"
    worse = f", worse in {', '.join(_broken(arm))}" if _broken(arm) else ""
    return f"{lift}{worse} ({arm.lists} lists)"
