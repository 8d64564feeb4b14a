"""Questions and commands to a host: what is sent, how often, and what an open connection that died makes of them."""

import contextlib
import functools
import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.openssh import TRANSCRIPTS

from apexgpu.errors import (
    ApexError,
    CommandTimeoutError,
    ConnectionClosedError,
    ConnectionLostError,
    ConnectTimeoutError,
    DroppedError,
    NoRouteError,
    NotRegisteredError,
    PortRefusedError,
    RefusedError,
    UnansweredError,
    UnreachableError,
    UsageError,
)
from apexgpu.files import locked
from apexgpu.manageshell import (
    archivecommands,
    containershell,
    hostlock,
    manage,
    portmaps,
    starting,
)
from apexgpu.manageshell.replies import StartReply
from apexgpu.models import Host, Reply, Target
from apexgpu.ssh.failures import command_killed_error
from apexgpu.ssh.transport import Limits, OnLine

HOST = Host("gpu7", "10.0.0.7", "alice", 22001)


@dataclass
class Dead:
    """A transport whose open connection takes the first command and says nothing more."""

    reply: Reply
    sent: list[str] = field(default_factory=list)

    def run(self, target: Target, command: str, **_: object) -> Reply:
        self.sent.append(command)
        if len(self.sent) == 1:
            raise UnansweredError("the command on gpu7 was not answered")
        return self.reply


def test_a_question_is_asked_again() -> None:
    link = Dead(Reply(0, "Linux\n"))
    assert containershell.query(link, HOST, "uname").out == "Linux\n"
    assert link.sent == ["uname", "uname"]


def test_who_is_logged_in_is_not_taken_for_nobody() -> None:
    link = Dead(Reply(0, "apexgpu-starts\nalice pts/0\n---\n"))
    assert containershell.activity(link, HOST).sessions == ("alice pts/0",)


def test_what_a_command_said_before_a_signal_ended_it_is_passed_on() -> None:
    class Killing(Dead):
        def run(self, target: Target, command: str, **_: object) -> Reply:
            raise command_killed_error(target, "epoch 1\n", "nan\n")

    reply = containershell.execute(Killing(Reply(0, "")), HOST, "python train.py", total=None)
    assert (reply.code, reply.out) == (255, "epoch 1\n")
    assert reply.err.startswith("nan\n")
    assert "ended by a signal" in reply.err


def test_a_command_of_the_users_is_not_sent_again() -> None:
    link = Dead(Reply(0, ""))
    with pytest.raises(DroppedError):
        containershell.execute(link, HOST, "rm -r old", total=None)
    assert link.sent == ["rm -r old"]


@dataclass
class Told:
    """A transport that gives each command an answer, recorded or raised, and notes how it was sent."""

    answers: dict[str, str | ApexError]
    sent: list[tuple[str, str, float | None, bool]] = field(default_factory=list)

    def run(
        self,
        target: Target,
        command: str,
        *,
        limits: Limits | None = None,
        on_line: OnLine | None = None,
        once: bool = False,
    ) -> Reply:
        self.sent.append((target.role, command, limits.total if limits else 0, once))
        answer = self.answers[command]
        if isinstance(answer, ApexError):
            raise answer
        recorded = json.loads((TRANSCRIPTS / f"{answer}.json").read_text())
        return Reply(recorded["exit"], recorded["stdout"], recorded["stderr"])


Change = Callable[[Told, Path], object]


def register(link: Told, state_dir: Path, host: Host = HOST) -> bool:
    return manage.register(
        link, host, state_dir=state_dir, on_line=lambda _: None, resend_keys=lambda: False
    )


CHANGES: dict[str, tuple[Change, tuple[str, str, float | None, bool]]] = {
    "register": (register, ("register", "alice", None, True)),
    "down": (
        lambda link, where: manage.down(link, HOST, state_dir=where, on_line=lambda _: None),
        ("manage", "stop", 180, True),
    ),
    "up": (
        lambda link, where: starting.up(
            link, HOST, state_dir=where, on_line=lambda _: None, wait=0, pause=lambda _: None
        ),
        ("manage", "", 900, True),
    ),
    "port": (
        lambda link, where: portmaps.map_and_remember(link, HOST, 6006, state_dir=where),
        ("manage", "port 6006", 0, True),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_a_host_is_sent_once_and_a_registration_is_never_cut(
    tmp_path: Path, what: str
) -> None:
    change, sent = CHANGES[what]
    link = Told(
        {
            "": "06-up-stopped",
            "stop": "17-stop-running",
            "port 6006": "13-port-6006",
            "alice": "03-register",
            "help": "07-up-running",
            "true": ConnectionLostError("lost"),
        }
    )
    with contextlib.suppress(ApexError):
        change(link, tmp_path)
    assert link.sent[0] == sent
    if what == "register":  # a connection from before knows nothing of the new account
        assert link.sent[1] == ("manage", "help", 0, True)


@pytest.mark.parametrize("what", CHANGES)
def test_two_of_our_own_never_change_one_host_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def at_once(path: Path, *, what: str, timeout: float) -> AbstractContextManager[None]:
        return locked(path, what=what, timeout=0)

    monkeypatch.setattr(hostlock, "locked", at_once)
    link = Told({})
    with (
        locked(tmp_path / "locks" / "gpu7.lock", what="gpu7"),
        pytest.raises(ApexError, match="gpu7 is in use by another apexgpu"),
    ):
        CHANGES[what][0](link, tmp_path)
    assert link.sent == []
    other = replace(HOST, name="gpu8")
    with locked(tmp_path / "locks" / "gpu7.lock", what="gpu7"), hostlock.only_one(tmp_path, other):
        pass  # another host is nobody's business


@pytest.mark.parametrize("user", ["", "alice bob", "alice;x", "-x", "../x", "$(x)"])
def test_no_registration_for_a_name_that_a_shell_would_read(tmp_path: Path, user: str) -> None:
    link = Told({})
    with pytest.raises(RefusedError, match="not a user name"):
        register(link, tmp_path, replace(HOST, user=user))
    assert link.sent == []


@pytest.mark.parametrize(
    "word",
    [
        "",
        "a b",
        "a\tb",
        "a\nb",
        "a'b",
        'a"b',
        "a\\b",
        "a*",
        "a?",
        "[a]",
        "$a",
        "`a`",
        "a;b",
        "a&b",
        "a|b",
        "a<b",
        "a>b",
        "a\x1bb",
        "a\x00b",
        "a\x7f",
    ],
)
def test_only_plain_words_go_to_a_manage_shell(word: str) -> None:
    link = Told({})
    with pytest.raises(RefusedError, match="cannot be sent"):
        archivecommands.recover(link, HOST, "0123abcd", word)
    assert link.sent == []
    assert manage.is_sendable("/NAS/用户/alice_1.2-3.tar.gz")


@pytest.mark.parametrize(("lost", "times"), [(ConnectionLostError, 2), (CommandTimeoutError, 1)])
def test_a_question_that_ran_out_of_time_is_not_asked_for_twice_as_long(
    lost: type[DroppedError], times: int
) -> None:
    link = Told({"port": lost("lost")})
    with pytest.raises(DroppedError):
        manage.list_port_maps(link, HOST)
    assert len(link.sent) == times


@pytest.mark.parametrize(
    ("said", "busy"),
    [
        ("---\n", False),
        ("alice pts/0\n---\n", True),
        ("---\n4711, python3\n", True),
        ("---\nNVIDIA-SMI has failed\n", False),
    ],
)
def test_a_container_is_busy_when_somebody_is_there_or_computes(said: str, busy: bool) -> None:
    link = Dead(Reply(0, f"Welcome!\napexgpu-starts\n{said}"))
    assert containershell.activity(link, HOST).busy is busy


def test_a_container_that_cannot_be_asked_is_not_known_to_be_busy() -> None:
    class Gone(Dead):
        def run(self, target: Target, command: str, **_: object) -> Reply:
            raise UnreachableError("gpu7: no answer in time")

    assert not containershell.activity(Gone(Reply(0, "")), HOST).busy


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("05-help-stopped", "stopped"),
        ("07-up-running", "no_forward"),
        (NotRegisteredError("no"), "not_registered"),
        (RefusedError("no", code="iam"), "iam"),
    ],
)
def test_a_port_that_refuses_is_explained_by_the_host(state: str | ApexError, code: str) -> None:
    refused = PortRefusedError("the container on gpu7: connection refused")
    for run in (containershell.query, functools.partial(containershell.execute, total=None)):
        with pytest.raises(ApexError) as caught:
            run(Told({"true": refused, "help": state}), HOST, "true")
        assert caught.value.code == code


def test_a_status_that_is_refused_for_another_reason_is_not_an_absent_registration() -> None:
    with pytest.raises(RefusedError, match="IAM"):
        manage.status(Told({"help": RefusedError("IAM is down", code="iam")}), HOST)
    assert not manage.status(Told({"help": NotRegisteredError("no")}), HOST).registered


@pytest.mark.parametrize("error", [PortRefusedError, ConnectionClosedError, ConnectionLostError])
def test_a_container_that_has_just_started_is_waited_for(error: type[UnreachableError]) -> None:
    link = Told({"true": error("not yet")})

    def pause(_: float) -> None:
        link.answers["true"] = "07-up-running"

    starting.wait_for_ssh(link, HOST, 5, pause)
    assert len(link.sent) == 2


@pytest.mark.parametrize(
    ("error", "then"), [(NoRouteError, "stale_forward"), (ConnectTimeoutError, "timeout")]
)
def test_what_waiting_does_not_cure_is_said_at_once(
    error: type[UnreachableError], then: str
) -> None:
    link = Told({"true": error("never")})
    with pytest.raises(ApexError) as caught:
        starting.wait_for_ssh(link, HOST, 30, lambda _: pytest.fail("it was waited for"))
    assert caught.value.code == then


@pytest.mark.parametrize(
    ("error", "uptime"),
    [
        (CommandTimeoutError("slow", seen="Welcome\napexgpu-starts\n77\n"), 77.0),
        (PortRefusedError("connection refused"), None),
    ],
)
def test_a_disk_that_hangs_takes_nothing_from_what_was_said_before(
    error: ApexError, uptime: float | None
) -> None:
    class Hanging(Told):
        def run(self, target: Target, command: str, **more: Any) -> Reply:
            if target.role == "container":
                raise error
            return super().run(target, command, **more)

    found = containershell.detailed_status(Hanging({"help": "07-up-running"}), HOST)
    assert found.container is not None
    assert (found.container.running, found.uptime) == (True, uptime)


def started(
    link: Told, where: Path, begun: dict[str, StartReply] | None = None, wait: float = 0
) -> starting.StartedContainer:
    return starting.up(
        link,
        HOST,
        state_dir=where,
        on_line=lambda _: None,
        wait=wait,
        pause=lambda _: None,
        started=begun,
    )


def test_a_start_is_one_when_the_container_answers_and_goes_on_from_where_it_was(
    tmp_path: Path,
) -> None:
    begun: dict[str, StartReply] = {}
    link = Told({"": "06-up-stopped", "true": PortRefusedError("refused")})
    with pytest.raises(RefusedError) as caught:
        started(link, tmp_path, begun)
    assert caught.value.code == "no_forward"
    link.answers["true"] = "07-up-running"
    assert not started(link, tmp_path, begun).was_running
    assert [(role, command) for role, command, _, _ in link.sent] == [
        ("manage", ""),
        ("container", "true"),
        ("container", "true"),
    ]


class WithoutAddress(Told):
    """A start whose container has no address yet."""

    def run(self, target: Target, command: str, **more: Any) -> Reply:
        reply = super().run(target, command, **more)
        text = re.sub(r"^IP:.*\n", "", reply.out, flags=re.MULTILINE)
        return replace(reply, out=text) if not command else reply


def test_an_address_that_comes_late_is_waited_for_and_one_that_does_not_is_said(
    tmp_path: Path,
) -> None:
    link = WithoutAddress({"": "06-up-stopped", "help": "07-up-running", "true": "07-up-running"})
    assert started(link, tmp_path, wait=20).container.addresses
    with pytest.raises(RefusedError) as caught:
        started(link, tmp_path)
    assert caught.value.code == "no_address"


@pytest.mark.parametrize("lost", [CommandTimeoutError, ConnectionLostError])
def test_a_start_that_was_cut_before_a_word_names_iam(
    tmp_path: Path, lost: type[DroppedError]
) -> None:
    with pytest.raises(UnreachableError) as caught:
        started(Told({"": lost("lost")}), tmp_path)
    assert caught.value.code == "silent"


def test_maps_are_remembered_by_host_and_forgotten_by_host(tmp_path: Path) -> None:
    other = replace(HOST, name="gpu8")
    portmaps.remember(tmp_path, other, (1234,))
    assert portmaps.map_and_remember(
        Told({"port 6006": "13-port-6006"}), HOST, 6006, state_dir=tmp_path
    )
    portmaps.remember(tmp_path, HOST, (8888, 6006))
    assert portmaps.remembered(tmp_path, HOST) == (6006, 8888)
    portmaps.forget(tmp_path, HOST)
    assert portmaps.remembered(tmp_path, HOST) == ()
    assert portmaps.remembered(tmp_path, other) == (1234,)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port_is_not_sent(port: int) -> None:
    link = Told({})
    with pytest.raises(UsageError):
        manage.map_port(link, HOST, port)
    assert link.sent == []
