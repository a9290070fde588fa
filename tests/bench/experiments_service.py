"""Experiments in a running service: what eight live adapters cost, and a winner that becomes champion with nobody at hand.

It knows the service by its commands, its experiment file and its HTTP calls. The people of `planted_winner` are simulated.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from service.contract.settings import STARTER
from service.experiments.assignment import Assigner
from service.experiments.definitions import Experiments
from tests.bench import load, servers
from tests.bench.command import nextquery
from tests.bench.experiments_policies import OF as _POLICIES_OF
from tests.bench.experiments_policies import TASK, make_policies
from tests.bench.report import Cell
from tests.bench.serve import is_generated
from tests.service_process import adapter_policy

_SETTINGS = {"engine": "vllm_local", "policy": "champion", "timeouts__recommend_s": "10"}
_TOKENS = 24  # of every list, so that adapters that write longer ones cost no more
_ADAPTERS, _ROUNDS, _REQUESTS, _AT_ONCE = 8, 16, 192, 32  # as many at once as the benchmark of serving
_PEOPLE, _DAY_S, _DAYS = 120, 60, 6  # a day of 60 s, after each of which the nightly rule decides
_TAKEN_UP_S = 60.0


def cells(of: tuple[str, ...]) -> list[Cell]:
    """The cells; the policies are a cell of their own, since they take as long as all else."""
    mine = (*of, "service/pipeline", "service/engines", "tests/bench/experiments_service.py", *_POLICIES_OF)
    return [
        Cell("adapters8", adapters, of=mine, about_s=180),
        Cell("policies", _made, of=_POLICIES_OF, about_s=900),
        Cell("planted_winner", planted_winner, of=(*mine, "trainer/audience"), about_s=500),
    ]


def adapters() -> dict[str, float]:
    """Requests a second of people in an experiment of eight arms, each an adapter, over those of people who all get one.

    Both kinds of people ask the same service in turn; the one adapter is the champion, and one of the eight.
    """
    with tempfile.TemporaryDirectory(prefix="nextquery-adapters-") as scratch:
        place, data = Path(scratch), Path(scratch) / "data"
        names = [f"adapter-{number}" for number in range(_ADAPTERS)]
        for seed, name in enumerate(names):
            register(data, adapter_policy(place / name, STARTER, seed=seed))
        nextquery(data, "models", "promote", names[0])
        arms = [
            {"name": name, "weight": 1 / _ADAPTERS} | ({"policy": name} if k else {}) for k, name in enumerate(names)
        ]
        experiment = {"id": "eight", "share": 0.5, "arms": arms}
        write_experiments(data, [experiment])
        people = _people(experiment)
        with servers.nextquery(data, exact_tokens=str(_TOKENS), **_SETTINGS) as service:
            served = asyncio.run(_taken_up(service.port, people["in"], set(names)))
            rates = asyncio.run(_rates(service.port, people))
    print(f"  adapters in service: {sorted(served)}; requests/s: {rates}", file=sys.stderr)
    return {
        "adapters8_ratio": statistics.median(a / b for a, b in zip(rates["in"], rates["out"], strict=True)),
        "adapters8_per_s": statistics.median(rates["in"]),
        "adapter1_per_s": statistics.median(rates["out"]),
    }


def _people(experiment: Mapping[str, Any]) -> dict[str, list[str]]:
    """As many people who take part, the same number of each arm, as people who do not."""
    assigner = Assigner(Experiments.model_validate({"experiments": [experiment]}))
    by_arm: dict[str, list[str]] = {}
    for number in range(4_000):
        user = f"u-{number}"
        by_arm.setdefault(assigner.assign(TASK, {"user": user, "session": user, "request": user}).arm, []).append(user)
    inside = [users[: _REQUESTS // _ADAPTERS] for arm, users in sorted(by_arm.items()) if arm.startswith("eight=")]
    (outside,) = [users for arm, users in by_arm.items() if not arm.startswith("eight=")]
    mixed = [user for users in zip(*inside, strict=True) for user in users]  # as people come
    return {"in": mixed, "out": outside[:_REQUESTS]}


async def _taken_up(port: int, people: Iterable[str], wanted: set[str]) -> set[str]:
    """Ask until every policy wanted has written a list."""
    served: set[str] = set()
    ends = time.monotonic() + _TAKEN_UP_S
    while not wanted <= served:
        if time.monotonic() > ends:
            raise RuntimeError(f"After {_TAKEN_UP_S:g} s only {sorted(served)} write lists, not {sorted(wanted)}.")
        found = await load.closed_loop(port, _requests(people, "kyoto"), concurrency=_AT_ONCE, keep_bodies=True)
        served = _wrote(found)
    return served


async def _rates(port: int, people: Mapping[str, list[str]]) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {"in": [], "out": []}
    for number in range(_ROUNDS):
        for kind in sorted(rates, reverse=bool(number % 2)):
            requests = _requests(people[kind], f"kyoto {number}")
            found = await load.closed_loop(port, requests, concurrency=_AT_ONCE, keep_bodies=True)
            policies = _wrote(found)
            if len(policies) != (_ADAPTERS if kind == "in" else 1):
                raise RuntimeError(f"People {kind} the experiment got lists of {sorted(policies)}.")
            rates[kind].append(round(found.per_s, 2))
    return rates


def _wrote(found: load.Result) -> set[str]:
    """The policies that wrote; every reply must be of one."""
    replies = [json.loads(body) for body in found.bodies]
    if set(found.statuses) != {200} or not all(map(is_generated, replies)):
        raise RuntimeError(f"Some replies were not written by a model: {found.statuses}.")
    return {reply["versions"]["policy"] for reply in replies}


def _requests(people: Iterable[str], query: str) -> list[bytes]:
    bodies = [{"task": TASK, "query": f"{query} {user}", "user_id": user, "session_id": user} for user in people]
    return [load.http_post("/recommend", body) for body in bodies]


def _made() -> dict[str, float]:
    make_policies()
    return {}


def planted_winner() -> dict[str, float]:
    """From a line in the file to the champion that serves everybody, by the commands of a night; and a loser before it."""
    winner, loser = make_policies()
    with tempfile.TemporaryDirectory(prefix="nextquery-planted-") as scratch:
        data = Path(scratch) / "data"
        for policy in (winner, loser):
            register(data, policy)
        with servers.nextquery(data, **_SETTINGS) as service:
            experiments: list[dict[str, Any]] = []
            before = _champion(service.port)
            lost = _tried(data, service.port, experiments, loser.name, seed=1)
            champion_after_loser = _serves(service.port, before)  # those of its arm, too, once the service saw it end
            won = _tried(data, service.port, experiments, winner.name, seed=2)
            champion = _serves(service.port, winner.name)
    print(f"  {loser.name}: {lost}\n  {winner.name}: {won}\n  champion {champion}", file=sys.stderr)
    return {
        "planted_winner_promoted": float(won["state"] == "promoted" and champion == winner.name),
        "planted_winner_days": float(won["days"]),
        "planted_winner_lists": float(won["lists"]),
        "planted_loser_kept_out": float(lost["state"] != "promoted" and champion_after_loser == before),
        "planted_loser_dropped": float(lost["state"] == "dropped"),
        "planted_loser_lists": float(lost["lists"]),
    }


def _tried(data: Path, port: int, experiments: list[dict[str, Any]], policy: str, *, seed: int) -> dict[str, Any]:
    """An experiment in the file, then days of people, after each of which the rule decides, until it has."""
    arms = [{"name": "control", "weight": 0.5}, {"name": "new", "weight": 0.5, "policy": policy}]
    experiments.append({"id": f"try-{policy}", "tasks": [TASK], "lift": 0.5, "promote": True, "arms": arms})
    write_experiments(data, experiments)
    wait_until_taken_up(data, f"try-{policy}")
    url, lists = f"http://127.0.0.1:{port}", 0
    for day in range(1, _DAYS + 1):
        crowd = f"simulate --people {_PEOPLE} --days 1 --day-s {_DAY_S} --task {TASK} --seed {100 * seed + day} --json"
        lists += json.loads(nextquery(data, *crowd.split(), "--url", url))["lists"]
        found = json.loads(nextquery(data, "experiments", "decide", "--json"))["decided"]
        mine = next(each for each in found if each["experiment"] == f"try-{policy}")
        print(f"  day {day}: {mine['state']}: {mine['reason']}", file=sys.stderr, flush=True)
        if mine["state"] != "open":
            break
    return {**mine, "days": day, "lists": lists}


def write_experiments(data: Path, experiments: list[dict[str, Any]]) -> None:
    """Put the experiments into the file that a service on `data` reads."""
    data.mkdir(parents=True, exist_ok=True)
    draft = data / "experiments.draft"
    draft.write_text(yaml.safe_dump({"experiments": experiments}))
    draft.replace(data / "experiments.yaml")


def register(data: Path, policy: Path) -> None:
    """Let a service on `data` know a policy."""
    data.mkdir(parents=True, exist_ok=True)
    nextquery(data, "db", "upgrade")
    nextquery(data, "models", "register", str(policy))


def wait_until_taken_up(data: Path, experiment: str) -> None:
    """Wait until the service has taken the experiment up from the file."""
    ends = time.monotonic() + _TAKEN_UP_S
    while time.monotonic() < ends:
        listed = json.loads(nextquery(data, "experiments", "list", "--json"))
        if any(each["id"] == experiment for each in listed):
            return
        time.sleep(1.0)
    raise RuntimeError(f"{experiment} was not taken up from the file in {_TAKEN_UP_S:g} s.")


def _champion(port: int) -> str:
    body = {"task": TASK, "query": "kyoto in autumn", "user_id": "somebody"}
    return str(httpx.post(f"http://127.0.0.1:{port}/recommend", json=body, timeout=30).json()["versions"]["policy"])


def _serves(port: int, version: str) -> str:
    """The champion, once it is `version`, or after a while what it is instead."""
    ends = time.monotonic() + _TAKEN_UP_S
    while (found := _champion(port)) != version and time.monotonic() < ends:
        time.sleep(0.5)
    return found
