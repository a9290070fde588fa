"""Traffic that writes down what it was promised: each acknowledged click goes to disk before the next request.

It knows the service by its calls only. After a fault, `ledger minus table` must be empty.
"""

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import httpx

from tests.service_process import ServiceProcess, rows

_GIVE_UP_S = 60


class Ledger:
    """A file of acknowledged clicks, one line each, on disk when `add` returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")
        self._lock = threading.Lock()

    def add(self, impression_id: str) -> None:
        """Remember one promise."""
        with self._lock:
            self._file.write(impression_id.encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def all(self) -> list[str]:
        """Everything that was promised."""
        with self._lock:
            self._file.seek(0)
            return self._file.read().decode().split()


_READS_S = 0.05  # else four people take both cores once lists come from a lower rung, and no engine can start beside


@dataclass
class Reply:
    """One /recommend as the client saw it. `status` 0: no answer came. Times are monotonic seconds."""

    began: float
    ended: float
    status: int
    served_by: str = ""
    reason: str | None = None
    policy: str | None = None
    impression_id: str = ""

    @property
    def seconds(self) -> float:
        """From sending to the reply."""
        return self.ended - self.began


@dataclass
class Traffic:
    """People who ask for a list and click on it, over and over, until the end of the `with` block.

    A click that was not acknowledged is sent again until it is, as a client should; that must do no harm.
    """

    service: ServiceProcess
    ledger: Ledger
    people: int = 4
    clicks: bool = True
    timeout_s: float = 10.0
    replies: list[Reply] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Traffic":
        self._threads = [threading.Thread(target=self._person, args=(number,)) for number in range(self.people)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(_GIVE_UP_S + self.timeout_s)

    def wait_for_model(self, since: float, within_s: float) -> float:
        """Seconds from `since` to the end of the first list of the model that was asked for after it."""
        while time.monotonic() < since + within_s:
            for reply in list(self.replies):
                if reply.began > since and reply.served_by == "model":
                    return reply.ended - since
            time.sleep(0.05)
        raise AssertionError(f"No list of the model within {within_s:g} s:\n{self.service.log()[-3000:]}")

    def _person(self, number: int) -> None:
        asked = 0
        with httpx.Client(base_url=self.service.url, timeout=self.timeout_s) as client:
            while not self._stop.is_set():
                asked += 1
                shown = self._ask(client, f"kyoto {number} {asked}")
                if shown is None:
                    time.sleep(0.05)
                elif self.clicks:
                    self._click(client, *shown)
                self._stop.wait(_READS_S)

    def _ask(self, client: httpx.Client, query: str) -> tuple[str, str] | None:
        began = time.monotonic()
        try:
            reply = client.post("/recommend", json={"task": "suggest", "query": query, "user_id": "u"})
        except httpx.HTTPError:
            self.replies.append(Reply(began, time.monotonic(), 0))
            return None
        found = reply.json()
        told = (found.get("served_by", ""), found.get("degraded_reason"))
        told += (found.get("versions", {}).get("policy"), found.get("impression_id", ""))
        self.replies.append(Reply(began, time.monotonic(), reply.status_code, *told))
        return (found["impression_id"], found["click_token"]) if reply.status_code == 200 else None

    def _click(self, client: httpx.Client, impression_id: str, token: str) -> None:
        event = {"click_token": token, "kind": "seen", "position": 0}
        give_up = time.monotonic() + _GIVE_UP_S
        while time.monotonic() < give_up:
            try:
                status = client.post("/click", json=event).status_code
            except httpx.HTTPError:
                status = 0
            self.statuses.append(status)
            if status in (200, 202):
                self.ledger.add(impression_id)
                return
            if self._stop.is_set():
                return
            time.sleep(0.05)


def must_hold(ledger: Ledger, database_url: str, *, at_least: int) -> None:
    """Everything promised is in the table, once."""
    promised = ledger.all()
    stored = [row["impression_id"] for row in rows(database_url, "clicks")]
    assert len(promised) >= at_least, f"Only {len(promised)} clicks were acknowledged: the fault met no traffic."
    assert set(promised) - set(stored) == set(), "Acknowledged clicks were lost."
    assert len(stored) == len(set(stored)), "Clicks were stored twice."


def quantile_s(replies: list[Reply], share: float) -> float:
    """Seconds that `share` of the replies did not exceed."""
    ordered = sorted(reply.seconds for reply in replies)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
