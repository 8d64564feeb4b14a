"""containers, shells and manyhosts as a Python API, over recorded replies."""

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.openssh import TRANSCRIPTS

from apexgpu import containers, manyhosts, shells
from apexgpu.commands import work
from apexgpu.errors import ApexError, PortRefusedError, RefusedError, StoppedError, UnreachableError
from apexgpu.models import Host, Outcome, PublicKey, Reply, Target
from apexgpu.session import Session
from apexgpu.shells import CommandOutput, CommandOutputs
from apexgpu.ssh.failures import UnknownHostKeyError
from apexgpu.ssh.route import Route

HOSTS = (Host("gpu2", "10.0.0.2", "alice", 22001), Host("gpu7", "10.0.0.7", "alice", 22001))


@dataclass
class Recorded:
    """A transport that answers (host, role) with a recording or an error."""

    answers: dict[tuple[str, str], str | ApexError]
    sent: list[tuple[str, str, str]] = field(default_factory=list)

    def run(self, target: Target, command: str, **_: object) -> Reply:
        self.sent.append((target.host.name, target.role, command))
        answer = self.answers[target.host.name, target.role]
        if isinstance(answer, ApexError):
            raise answer
        if target.role == "container":
            return Reply(0, answer)
        recorded = json.loads((TRANSCRIPTS / f"{answer}.json").read_text())
        return Reply(recorded["exit"], recorded["stdout"], recorded["stderr"])


def session_with(link: Any, tmp_path: Path, **more: Any) -> Session:
    """A session as a program has it that imports apexgpu."""
    return Session(
        environment={"APEXGPU_STATE_DIR": str(tmp_path), "HOME": str(tmp_path)},
        flags={"user": "alice"},
        make_transport=lambda _: link,
        settled_hosts=HOSTS,
        pause=lambda _: None,
        **more,
    )


def test_a_status_is_a_value_for_each_host(tmp_path: Path) -> None:
    link = Recorded(
        {
            ("gpu2", "manage"): "07-up-running",
            ("gpu7", "manage"): UnreachableError("gpu7: no answer in time"),
        }
    )
    result = containers.status(session_with(link, tmp_path), [])
    assert result.exit_code == 3
    assert [row["running"] for row in result.to_json()["hosts"] if row["ok"]] == [True]
    assert result.outcomes[1].error is not None


@dataclass
class Edited(Recorded):
    """As Recorded, with one text of gpu2's answers replaced."""

    old: str = ""
    new: str = ""

    def run(self, target: Target, command: str, **_: object) -> Reply:
        reply = super().run(target, command)
        if target.host.name != "gpu2":
            return reply
        text = re.sub(f"^{self.old}.*$", self.new, reply.out, flags=re.MULTILINE)
        assert text != reply.out
        return replace(reply, out=text)


@pytest.mark.parametrize(
    ("old", "new", "quoted"),
    [
        ("PID:", "PID:            ²", "PID: ²"),
        ("PID:", f"PID:            {'9' * 5000}", f"PID: {'9' * 195}…"),
        ("Memory use:", "Memory use:     1.2.3 MiB", "Memory use: 1.2.3 MiB"),
        ("IP:", "IP:             nowhere", "IP: nowhere"),
    ],
)
def test_what_is_not_understood_of_one_host_is_its_error_and_the_rest_stays(
    tmp_path: Path, old: str, new: str, quoted: str
) -> None:
    answers: dict[tuple[str, str], str | ApexError] = {
        (name, "manage"): "07-up-running" for name in ("gpu2", "gpu7")
    }
    result = containers.status(session_with(Edited(answers, [], old, new), tmp_path), [])
    first, second = result.to_json()["hosts"]
    assert (first["state"], first["ok"], first["error"]["code"]) == ("running", False, "unexpected")
    assert quoted in first["error"]["message"]
    assert (second["state"], second["ok"]) == ("running", True)
    assert result.exit_code == 3


def test_a_state_that_is_no_word_is_the_hosts_error(tmp_path: Path) -> None:
    link = Edited({("gpu2", "manage"): "07-up-running"}, [], "State:", "State:          ²running")
    session = replace(session_with(link, tmp_path), settled_hosts=HOSTS[:1])
    (row,) = containers.status(session, []).to_json()["hosts"]
    assert row["error"]["code"] == "unexpected"
    assert "²running" in row["error"]["message"]


def test_a_running_container_is_not_stopped_while_nobody_can_agree(tmp_path: Path) -> None:
    link = Recorded({("gpu2", "manage"): "07-up-running", ("gpu2", "container"): ""})
    with pytest.raises(ApexError, match="Stop the running container on gpu2"):
        containers.down(session_with(link, tmp_path), ["gpu2"])
    assert ("gpu2", "manage", "stop") not in link.sent


def test_a_stopped_container_is_not_started_while_nobody_can_agree(tmp_path: Path) -> None:
    link = Recorded(
        {("gpu2", "manage"): "05-help-stopped", ("gpu2", "container"): PortRefusedError("refused")}
    )
    session = session_with(link, tmp_path)
    assert not containers.is_running(session, HOSTS[0])
    with pytest.raises(StoppedError):
        containers.ensure_running(session, HOSTS[0])
    assert ("gpu2", "manage", "") not in link.sent


def test_a_running_container_gives_the_output_of_the_command(tmp_path: Path) -> None:
    link = Recorded({("gpu2", "container"): "Linux\n"})
    session = session_with(link, tmp_path)
    assert containers.ensure_running(session, HOSTS[0], "uname") == "Linux\n"


class FirstContact:
    """A transport whose hosts show a new key until it has been accepted."""

    def __init__(self, known_hosts: Path) -> None:
        self._known_hosts = known_hosts

    def run(self, target: Target, command: str, **_: object) -> Reply:
        if not self._known_hosts.exists():
            options = {"userknownhostsfile": [str(self._known_hosts)]}
            key = PublicKey("ssh-ed25519", f"AAAA{target.host.name}")
            raise UnknownHostKeyError(Route(target, options), key)
        return Reply(0, "")

    stream = run


def test_new_host_keys_stay_an_error_while_nobody_can_accept_them(tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    session = session_with(FirstContact(known_hosts), tmp_path)
    result = shells.run(session, ["*"], "true")
    assert [type(outcome.error) for outcome in result.outcomes] == [UnknownHostKeyError] * 2
    assert not known_hosts.exists()


def outputs(*values: int | ApexError) -> CommandOutputs:
    outcomes: list[Outcome[CommandOutput]] = []
    for host, value in zip(HOSTS, values, strict=False):
        if isinstance(value, ApexError):
            outcomes.append(Outcome(host, None, value))
        else:
            outcomes.append(Outcome(host, CommandOutput(Reply(value, ""))))
    return CommandOutputs(outcomes)


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ((0,), 0),
        ((4,), 4),
        ((UnreachableError("silent"),), 5),
        ((0, 0), 0),
        ((0, 4), 3),
        ((4, 4), 1),
        ((0, UnreachableError("silent")), 3),
        ((4, UnreachableError("silent")), 1),
        ((UnreachableError("silent"), UnreachableError("silent")), 5),
        ((UnreachableError("silent"), RefusedError("no")), 1),
    ],
)
def test_the_exit_status_of_a_command_on_one_host_and_on_many(
    values: tuple[int | ApexError, ...], code: int
) -> None:
    assert outputs(*values).exit_code == code


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--", "df -h | tail -1"], "df -h | tail -1"),
        (["echo", "a b"], "echo 'a b'"),
        (["echo", "--"], "echo --"),
        ([], ""),
    ],
)
def test_one_word_is_a_script_and_several_are_quoted(words: list[str], line: str) -> None:
    assert shells.command_line(words) == line


@pytest.mark.parametrize(
    ("words", "everything", "split"),
    [
        (["gpu2", "gpu7", "--", "df", "-h"], False, (["gpu2", "gpu7"], "df -h")),
        (["gpu2", "gpu7", "df", "-h"], False, (["gpu2", "gpu7"], "df -h")),
        (["gpu?", "uname"], False, (["gpu?"], "uname")),
        (["gpu9", "uname"], False, (["gpu9"], "uname")),
        (["uname", "-a"], True, ([], "uname -a")),
        (["--", "uname"], True, ([], "uname")),
    ],
)
def test_where_the_hosts_of_exec_end_and_the_command_begins(
    words: list[str], everything: bool, split: tuple[list[str], str], tmp_path: Path
) -> None:
    session = session_with(Recorded({}), tmp_path)
    assert work._split(session, words, everything) == split


def test_a_transport_for_one_host_accepts_no_keys_of_others(tmp_path: Path) -> None:
    session = session_with(FirstContact(tmp_path / "known_hosts"), tmp_path, accept_new=True)
    link = manyhosts.AcceptingTransport(session, HOSTS[0])
    with pytest.raises(UnknownHostKeyError):
        link.run(Target(HOSTS[1], "container"), "true")
    assert not (tmp_path / "known_hosts").exists()
