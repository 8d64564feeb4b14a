"""An interrupted start: it is reported, remembered, shown by `status`, and the next `up` offers to cure it."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.openssh import TRANSCRIPTS

from apexgpu import containers
from apexgpu.errors import (
    ApexError,
    CommandTimeoutError,
    HalfMadeError,
    NoForwardError,
    PortRefusedError,
    UnreachableError,
)
from apexgpu.manageshell import replies, startrecords
from apexgpu.models import Host, Reply, Target
from apexgpu.reporter import PlainReporter
from apexgpu.session import Session
from apexgpu.ssh.transport import Limits, OnLine

HOST = Host("gpu7", "10.0.0.7", "alice", 22001)


def recorded(name: str) -> Reply:
    """A recording of a real server."""
    document = json.loads((TRANSCRIPTS / f"{name}.json").read_text())
    return Reply(document["exit"], document["stdout"], document["stderr"])


@dataclass
class Server:
    """A host with a container. `at_start` is called when a start is sent, before it has forwarded the port."""

    running: bool = False
    forwarded: bool = False
    iam_answers: bool = True
    at_start: Callable[[], None] = lambda: None
    sent: list[str] = field(default_factory=list)

    def run(
        self,
        target: Target,
        command: str,
        *,
        limits: Limits | None = None,
        on_line: OnLine | None = None,
        once: bool = False,
    ) -> Reply:
        """See Transport."""
        if target.role == "container":
            if not (self.running and self.forwarded):
                raise PortRefusedError("connection refused")
            return Reply(0, "")
        self.sent.append(command or "start")
        if not self.iam_answers:
            assert limits is not None
            assert limits.total == 20
            raise CommandTimeoutError("no answer in time", seen="Welcome to Ubuntu\n")
        if command == "help":
            return recorded("b04-help-running" if self.running else "05-help-stopped")
        if command == "stop":
            self.running = self.forwarded = False
            return recorded("17-stop-running")
        was_running, self.running = self.running, True
        if was_running:
            return recorded("07-up-running")
        self.at_start()
        self.forwarded = True
        return recorded("06-up-stopped")

    def close(self, target: Target) -> None:
        """No connection is kept."""


def session_of(server: Any, directory: Path, *, yes: bool = False) -> tuple[Session, io.StringIO]:
    """A session without a terminal, and what it reports."""
    err = io.StringIO()
    session = Session(
        environment={"APEXGPU_STATE_DIR": str(directory), "HOME": str(directory)},
        flags={"user": "alice"},
        make_transport=lambda _: server,
        settled_hosts=(HOST,),
        pause=lambda _: None,
        reporter=PlainReporter(err=err, stdin=io.StringIO()),
        yes=yes,
    )
    return session, err


def interrupt() -> None:
    raise KeyboardInterrupt


def interrupted(directory: Path) -> tuple[Server, io.StringIO]:
    """A server on which a start was interrupted, and what was reported then."""
    server = Server(at_start=interrupt)
    session, err = session_of(server, directory)
    with pytest.raises(KeyboardInterrupt):
        containers.up(session, ["gpu7"])
    server.at_start = lambda: None
    server.sent.clear()
    return server, err


def test_an_interruption_is_reported_and_remembered(tmp_path: Path) -> None:
    _, err = interrupted(tmp_path)
    assert (
        "warning: the start on gpu7 was interrupted: the container may be running" in err.getvalue()
    )
    assert "hint: apexgpu up gpu7\n" in err.getvalue()
    assert startrecords.find(tmp_path, HOST) is not None


@pytest.mark.parametrize("patterns", [[], ["gpu7"]])
def test_status_shows_that_nobody_can_reach_it(tmp_path: Path, patterns: list[str]) -> None:
    server, _ = interrupted(tmp_path)
    session, _ = session_of(server, tmp_path)
    (row,) = containers.status(session, patterns).to_json()["hosts"]
    assert (row["state"], row["reachable"]) == ("running", False)


def test_the_next_up_stops_and_starts_it(tmp_path: Path) -> None:
    server, _ = interrupted(tmp_path)
    session, _ = session_of(server, tmp_path, yes=True)
    result = containers.up(session, ["gpu7"])
    assert result.exit_code == 0
    assert server.sent[:4] == ["help", "stop", "help", "start"]
    assert startrecords.find(tmp_path, HOST) is None


def test_the_next_ssh_stops_and_starts_it(tmp_path: Path) -> None:
    server, _ = interrupted(tmp_path)
    session, _ = session_of(server, tmp_path, yes=True)
    containers.ensure_running(session, HOST)
    assert (server.running, server.forwarded) == (True, True)


def test_without_an_answer_nothing_is_stopped_and_the_error_says_what_to_type(
    tmp_path: Path,
) -> None:
    server, _ = interrupted(tmp_path)
    session, err = session_of(server, tmp_path)
    result = containers.up(session, ["gpu7"])
    assert server.sent == ["help"]
    assert isinstance(result.outcomes[0].error, NoForwardError)
    assert err.getvalue().count("error: ") == 1
    assert " hint: apexgpu up gpu7 --yes\n" in err.getvalue()


def test_a_container_that_was_running_before_is_never_stopped_by_itself(tmp_path: Path) -> None:
    server = Server(running=True, forwarded=False)
    session, _ = session_of(server, tmp_path, yes=True)
    result = containers.up(session, ["gpu7"], wait=0)
    assert isinstance(result.outcomes[0].error, NoForwardError)
    assert "stop" not in server.sent
    assert startrecords.find(tmp_path, HOST) is None


def test_an_old_record_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, _ = interrupted(tmp_path)
    monkeypatch.setattr(startrecords, "_TRUSTED_FOR", 0.0)
    session, _ = session_of(server, tmp_path, yes=True)
    result = containers.up(session, ["gpu7"])
    assert isinstance(result.outcomes[0].error, NoForwardError)
    assert "stop" not in server.sent


@pytest.mark.parametrize("text", ["", "{", '{"began": 1e99}', "[]", '{"began": "now"}'])
def test_an_edited_record_counts_as_none(tmp_path: Path, text: str) -> None:
    startrecords.record(tmp_path, HOST)
    (tmp_path / "starts" / "gpu7.json").write_text(text)
    assert startrecords.find(tmp_path, HOST) is None


def test_a_host_that_waits_for_iam_is_reported_after_20_seconds_without_its_motd(
    tmp_path: Path,
) -> None:
    server = Server(iam_answers=False)
    session, _ = session_of(server, tmp_path)
    (outcome,) = containers.up(session, ["gpu7"]).outcomes
    assert isinstance(outcome.error, UnreachableError)
    assert outcome.error.code == "silent"
    assert "IAM" in outcome.error.message
    assert "Ubuntu" not in outcome.error.message
    assert server.sent == ["help"]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(
            0, "GNU bash, version 4.4.20(1)-release (x86_64-pc-linux-gnu)\nThese shell commands\n"
        ),
        Reply(127, "Welcome to Ubuntu 18.04\n", "bash: stop: command not found\n"),
        Reply(127, "", "sh: 1: help: not found\n"),
    ],
)
@pytest.mark.parametrize(
    "parse",
    [replies.parse_status, replies.parse_start, replies.parse_stop, replies.parse_port_maps],
)
def test_every_command_reports_a_half_made_account(
    reply: Reply, parse: Callable[[Reply, str], object]
) -> None:
    with pytest.raises(HalfMadeError, match="the account is half-made") as caught:
        parse(reply, "gpu7")
    assert caught.value.hint == "apexgpu register gpu7"


def test_an_unknown_reply_is_not_called_half_made() -> None:
    with pytest.raises(ApexError) as caught:
        replies.parse_status(Reply(0, "Bonjour\n"), "gpu7")
    assert caught.value.code == "unexpected"
