"""Hostile input of every kind gets a reply or a short problem document, and never comes back.

On both databases, with the engine off and scripted, against a real process.
"""

import json
import time
import uuid

import pytest

from service.events.click_token import TokenSigner, load_or_create_secret
from tests.api.conftest import claims
from tests.api.hostile import MARKER
from tests.api.hostile.bodies import BODIES, CLICK_TEMPLATES, HOLE, RECOMMEND_TEMPLATES, TOKEN
from tests.api.hostile.requests import WHOLE
from tests.api.hostile.values import VALUES
from tests.service_process import Answer, ServiceProcess, exchange, http, rows

_MOST_PROBLEM_BYTES = 2048
_JSON = {"content-type": "application/json"}
_OURS = b"x-request-id:"  # only the application writes this header; what has none was refused by the HTTP parser
_MALFORMED = "Invalid HTTP request received."


def test_the_corpus_has_many_times_150_cases() -> None:
    fields = len(RECOMMEND_TEMPLATES) + len(CLICK_TEMPLATES)

    cases = len(VALUES) * fields + 2 * len(BODIES) + len(WHOLE)

    assert min(len(VALUES) + len(BODIES), cases) >= 150


@pytest.mark.parametrize("name", VALUES)
def test_a_hostile_value_in_any_field_is_answered_or_refused(service: ServiceProcess, name: str) -> None:
    calls = [("/recommend", template) for template in RECOMMEND_TEMPLATES.values()]
    calls += [("/click", template) for template in CLICK_TEMPLATES.values()]

    token = TokenSigner(_secrets(service)).sign(claims()).encode()

    answers = [
        exchange(service.port, http("POST", path, body.replace(TOKEN, token).replace(HOLE, VALUES[name]), _JSON))
        for path, body in calls
    ]

    for answer in answers:
        _must_be_harmless(answer)


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_is_answered_or_refused(service: ServiceProcess, name: str) -> None:
    body = BODIES[name]

    answers = [exchange(service.port, http("POST", path, body.raw, body.headers)) for path in ("/recommend", "/click")]

    for answer in answers:
        _must_be_harmless(answer)


@pytest.mark.parametrize("name", WHOLE)
def test_a_hostile_request_is_answered_or_refused(service: ServiceProcess, name: str) -> None:
    answer = exchange(service.port, WHOLE[name], wait_s=3)

    _must_be_harmless(answer, may_be_silent=True)


def test_after_all_that_the_service_answers_and_its_log_knows_nothing_of_it(service: ServiceProcess) -> None:
    good = service.post("/recommend", {"task": "suggest", "query": "kyoto in autumn"})

    log = service.log()

    assert good.status_code == 200
    assert MARKER not in log.lower()
    assert [line for line in service.log_lines() if line.get("level") in ("ERROR", "CRITICAL")] == []


def _must_be_harmless(answer: Answer, *, may_be_silent: bool = False) -> None:
    if may_be_silent and not answer.raw:
        assert answer.closed_after_s is not None, "The connection was neither answered nor closed."
        return
    assert 200 <= answer.status < 300 or 400 <= answer.status < 500, answer.raw[:300]
    if answer.status >= 400:
        assert MARKER.encode() not in answer.raw.lower(), "What was sent came back."
        assert len(answer.raw) < _MOST_PROBLEM_BYTES
        _must_be_a_problem(answer)


def _must_be_a_problem(answer: Answer) -> None:
    if _OURS not in answer.head:
        assert answer.status in (400, 408, 431)
        assert answer.body.decode() in ("", _MALFORMED)
        return
    assert b"content-type: application/problem+json" in answer.head
    if b"\r\nallow:" in answer.head and not answer.body:
        return  # HEAD
    document = json.loads(answer.body)
    assert document["status"] == answer.status
    assert document["title"]
    assert document["detail"].endswith(".")
    assert document["request_id"]


@pytest.mark.parametrize("kind", ["forged", "malformed", "expired", "never_shown"])
def test_a_click_that_cannot_be_believed_is_refused_and_quarantined_with_its_reason(
    service: ServiceProcess, kind: str
) -> None:
    event = {"click_token": _unbelievable(service)[kind], "kind": "click", "position": 1, "session_id": MARKER}

    answer = exchange(service.port, http("POST", "/click", json.dumps(event).encode(), _JSON))

    assert answer.status == 403
    _must_be_harmless(answer)
    kept = [row for row in rows(service.database_url, "quarantine") if event["click_token"] in row["body"]]
    assert [(row["reason"], row["endpoint"]) for row in kept] == [(kind, "/click")]
    assert MARKER in kept[0]["body"]


def test_a_token_with_any_byte_altered_is_never_believed(service: ServiceProcess) -> None:
    token = _good_token(service)
    altered = [token[:i] + _other(token[i]) + token[i + 1 :] for i in range(len(token))]
    altered += [token[:i] for i in range(len(token))][1:] + [token[i:] for i in range(1, len(token))]
    altered += [token + "A", "A" + token, token + "." + token, token.replace(".", ".."), token.swapcase()]
    events = [{"click_token": forged, "kind": "seen", "position": 0} for forged in altered if forged != token]

    results = [
        result
        for start in range(0, len(events), 500)
        for result in service.post("/click", {"events": events[start : start + 500]}).json()["results"]
    ]

    assert len(results) == len(events)
    assert {result["status"] for result in results} == {"quarantined"}
    assert {result["reason"] for result in results} <= {"forged", "malformed"}


def test_a_token_of_another_key_is_forged_even_when_all_it_says_is_true(service: ServiceProcess) -> None:
    theirs = TokenSigner(["another secret of another service"]).sign(claims())

    reply = service.post("/click", {"click_token": theirs, "kind": "seen", "position": 0})

    assert reply.status_code == 403
    assert [row["reason"] for row in rows(service.database_url, "quarantine") if theirs in row["body"]] == ["forged"]


def test_a_position_beyond_the_list_was_never_shown(service: ServiceProcess) -> None:
    token = TokenSigner(_secrets(service)).sign(claims(n_shown=3))

    statuses = [
        service.post("/click", {"click_token": token, "kind": "click", "position": position}).status_code
        for position in (3, 4, 20)
    ]

    assert statuses == [202, 403, 403]


def test_good_events_of_a_batch_are_stored_among_bad_ones(service: ServiceProcess) -> None:
    token = TokenSigner(_secrets(service)).sign(claims(n_shown=2))
    good = {"click_token": token, "kind": "click", "position": 1}
    bad = [None, 7, MARKER, [], {}, {**good, "position": 99}, {**good, "kind": MARKER}, {**good, MARKER: 1}]
    events = [good, *bad, {**good, "click_token": "a.b"}, {**good, "position": 20}, {**good, "position": 2}, good]

    reply = service.post("/click", {"events": events})

    assert reply.status_code == 202
    assert [result["status"] for result in reply.json()["results"]] == [
        "stored",
        *["refused"] * len(bad),
        "quarantined",
        "quarantined",
        "stored",
        "duplicate",
    ]
    assert MARKER not in reply.text


def _good_token(service: ServiceProcess) -> str:
    return str(service.post("/recommend", {"task": "suggest", "query": "kyoto"}).json()["click_token"])


def _secrets(service: ServiceProcess) -> list[str]:
    return load_or_create_secret(service.data_dir)


def _unbelievable(service: ServiceProcess) -> dict[str, str]:
    ours = TokenSigner(_secrets(service))
    payload, _, signature = ours.sign(claims()).partition(".")
    return {
        "forged": f"{payload}.{_other(signature[0])}{signature[1:]}",
        "malformed": payload + uuid.uuid4().hex,
        "expired": ours.sign(claims(expires_at=int(time.time()) - 1)),
        "never_shown": ours.sign(claims(n_shown=0)),
    }


def _other(character: str) -> str:
    return "A" if character.upper() not in "ABCD" else "q"  # base64: another value in every bit that counts
