"""Questions and commands over an open connection that a sleep of the laptop has killed."""

from dataclasses import dataclass, field

import pytest

from apexgpu.errors import DroppedError
from apexgpu.hosts import manage
from apexgpu.models import Host, Reply, Target
from apexgpu.ssh.transport import UNANSWERED, Limits, OnLine, killed

HOST = Host("gpu7", "10.0.0.7", "alice", 22001)


@dataclass
class Dead:
    """A transport whose open connection takes the first command and says nothing more."""

    reply: Reply
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
        self.sent.append(command)
        if len(self.sent) == 1:
            raise DroppedError("the command on gpu7 was not answered", code=UNANSWERED)
        return self.reply


def test_a_question_is_asked_again() -> None:
    link = Dead(Reply(0, "Linux\n"))
    assert manage.inside(link, HOST, "uname").out == "Linux\n"
    assert link.sent == ["uname", "uname"]


def test_who_is_logged_in_is_not_taken_for_nobody() -> None:
    link = Dead(Reply(0, "apexgpu-starts\nalice pts/0\n---\n"))
    assert manage.use(link, HOST).sessions == ("alice pts/0",)


def test_what_a_command_said_before_a_signal_ended_it_is_passed_on() -> None:
    class Killing(Dead):
        def run(self, target: Target, command: str, **_: object) -> Reply:
            raise killed(target, "epoch 1\n", "nan\n")

    reply = manage.execute(Killing(Reply(0, "")), HOST, "python train.py", total=None)
    assert (reply.code, reply.out) == (255, "epoch 1\n")
    assert reply.err.startswith("nan\n")
    assert "ended by a signal" in reply.err


def test_a_command_of_the_users_is_not_sent_again() -> None:
    link = Dead(Reply(0, ""))
    with pytest.raises(DroppedError):
        manage.execute(link, HOST, "rm -r old", total=None)
    assert link.sent == ["rm -r old"]
