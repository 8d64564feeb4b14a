"""Work on many hosts: whatever happens to one of them, the others keep their results."""

import json

import pytest

from apexgpu.errors import ApexError, BugError, UnexpectedError
from apexgpu.models import Host, Outcome
from apexgpu.results import HostResults, JsonObject
from apexgpu.ssh import fanout

HOSTS = [Host(f"gpu{number}", f"10.0.0.{number}", "alice", 22001) for number in range(2, 6)]


def fail(exc: Exception) -> str:
    raise exc


def test_an_exception_of_one_host_is_its_own_error_and_the_others_have_results() -> None:
    exceptions: dict[str, Exception] = {
        "gpu2": ValueError("boom"),
        "gpu3": RecursionError("deep"),
        "gpu4": UnexpectedError("the memory is not understood: 1.2.3 MiB"),
    }

    def work(host: Host) -> str:
        return fail(exceptions[host.name]) if host.name in exceptions else "fine"

    outcomes = fanout.each(HOSTS, work)

    assert [outcome.value for outcome in outcomes] == [None, None, None, "fine"]
    bug = outcomes[0].error
    assert isinstance(bug, BugError)
    assert bug.message == "apexgpu itself failed: ValueError"
    assert bug.__cause__ is exceptions["gpu2"]
    unexpected = outcomes[2].error
    assert isinstance(unexpected, UnexpectedError)
    assert unexpected.message == "the answer of gpu4: the memory is not understood: 1.2.3 MiB"
    assert unexpected.hint == "apexgpu doctor gpu4"


def test_an_exception_of_the_only_host_is_its_error() -> None:
    (outcome,) = fanout.each(HOSTS[:1], lambda _: fail(KeyError("x")))
    assert isinstance(outcome.error, BugError)


def test_a_full_disk_is_not_called_a_bug() -> None:
    full = OSError(28, "No space left on device")
    (outcome,) = fanout.each(HOSTS[:1], lambda _: fail(full))
    assert isinstance(outcome.error, ApexError)
    assert outcome.error.code == "no_space"


def test_ctrl_c_in_the_work_is_raised() -> None:
    def interrupt(_: Host) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fanout.each(HOSTS, interrupt)


class Text:
    """A value with a JSON form."""

    def to_json(self) -> JsonObject:
        """See HasJson."""
        return {"text": "fine"}


def test_the_document_has_a_row_for_the_host_that_failed_and_the_status_3() -> None:
    error = BugError("apexgpu itself failed: ValueError")
    result = HostResults([Outcome(HOSTS[0], Text()), Outcome(HOSTS[1], None, error)])
    rows = json.loads(json.dumps(result.to_json()))["hosts"]
    assert [row["ok"] for row in rows] == [True, False]
    assert rows[1]["error"]["code"] == "bug"
    assert result.exit_code == 3
    assert result.errors == [error]
