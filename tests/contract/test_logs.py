import json
import logging
from collections.abc import Iterator

import pytest

from service.contract.errors import DatabaseError
from service.contract.logs import REQUEST_ID, configure_logging

LOG = logging.getLogger("nextquery.test")
PERSONAL = "divorce lawyer"


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_record_is_one_json_line_on_stderr_with_its_request_id_and_extra_fields(capsys):
    configure_logging("INFO")
    token = REQUEST_ID.set("r-1")

    LOG.warning("The engine restarted.\nTwice.", extra={"attempt": 2})

    REQUEST_ID.reset(token)
    (line,) = _lines(capsys)
    assert str(line.pop("time")).endswith("+00:00")
    assert line == {
        "level": "WARNING",
        "logger": "nextquery.test",
        "message": "The engine restarted.\nTwice.",
        "attempt": 2,
        "request_id": "r-1",
    }


def test_a_record_outside_a_request_has_an_empty_request_id(capsys):
    configure_logging("INFO")

    LOG.info("Started.")

    assert _lines(capsys)[0]["request_id"] is None


def test_records_below_the_level_are_not_written(capsys):
    configure_logging("WARNING")

    LOG.info("Started.")

    assert _lines(capsys) == []


def test_uvicorns_errors_join_and_its_access_log_is_off(capsys):
    logging.getLogger("uvicorn.error").addHandler(logging.StreamHandler())
    configure_logging("INFO")

    logging.getLogger("uvicorn.error").info("Shutting down")
    logging.getLogger("uvicorn.access").info("GET /?q=secret")

    assert [line["message"] for line in _lines(capsys)] == ["Shutting down"]


def test_configuring_twice_writes_every_record_once(capsys):
    configure_logging("INFO")
    configure_logging("INFO")

    LOG.info("Started.")

    assert len(_lines(capsys)) == 1


@pytest.mark.parametrize("name", ["query", "queries", "prompt", "completion", "answer", "body"])
def test_a_field_that_holds_what_a_person_wrote_is_blanked(capsys, name):
    configure_logging("INFO")

    LOG.info("Recommended.", extra={name: PERSONAL})

    (line,) = _lines(capsys)
    assert line[name] == "(not logged)"


def test_the_message_of_a_foreign_exception_is_left_out_and_its_place_is_kept(capsys):
    configure_logging("INFO")

    try:
        raise ValueError(PERSONAL)
    except ValueError:
        LOG.exception("A row was not written.")

    (line,) = _lines(capsys)
    assert PERSONAL not in json.dumps(line)
    assert "ValueError" in str(line["exc_info"])
    assert "test_logs.py" in str(line["exc_info"])


def test_the_message_of_our_own_exception_is_kept_and_its_foreign_cause_is_not(capsys):
    configure_logging("INFO")

    try:
        try:
            raise ValueError(PERSONAL)
        except ValueError as cause:
            raise DatabaseError("The database did not answer.") from cause
    except DatabaseError:
        LOG.exception("A row was not written.")

    (line,) = _lines(capsys)
    assert "DatabaseError: The database did not answer." in str(line["exc_info"])
    assert PERSONAL not in json.dumps(line)
