"""ssh's own words: which of them mean that a command may have been taken."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from apexgpu.boundedoutput import OnOutput
from apexgpu.models import Host, Target
from apexgpu.process import Completed, LocalRunner, Readiness
from apexgpu.ssh import failures, opensshclient
from apexgpu.ssh.route import Route
from apexgpu.ssh.transport import Limits


@pytest.mark.parametrize(
    "said",
    [
        "Connection to 10.0.0.7 closed by remote host.\r\n",
        "client_loop: send disconnect: Broken pipe\n",
        "debug line\nRead from remote host 10.0.0.7: Connection reset by peer\n",
        "Timeout, server 10.0.0.7 not responding.\r\n",
    ],
)
def test_a_connection_that_was_lost_after_the_login(said: str) -> None:
    assert failures.was_logged_in(said)


@pytest.mark.parametrize(
    "said",
    [
        "kex_exchange_identification: Connection closed by remote host\nConnection closed by 10.0.0.7 port 22\n",
        "Connection reset by 10.0.0.7 port 22\n",
        "ssh: connect to host gpu7 port 22: Connection timed out\n",
        "banner exchange: Connection to 10.0.0.7 port 22: invalid format\n",
        "",
    ],
)
def test_one_over_which_nothing_was_sent(said: str) -> None:
    assert not failures.was_logged_in(said)


def test_a_full_agent_is_not_a_key_that_is_not_known() -> None:
    said = "Received disconnect from 10.0.0.7 port 22:2: Too many authentication failures\r\n"
    failure = failures.classify(said)
    assert failure is failures.SshFailure.TOO_MANY_KEYS
    error = failures.failure_error(
        Target(Host("gpu7", "10.0.0.7", "alice", 22001), "manage"), failure, said
    )
    assert (error.exit_code, error.code) == (4, "too_many_keys")
    assert "ssh-add -d" in error.message
    assert error.hint == "ssh-add -l"


@pytest.mark.parametrize(
    ("limits", "total"), [(Limits(10, 30, None), 41), (Limits(10, None, 5), None)]
)
def test_the_time_to_connect_is_not_taken_from_the_commands_own(
    limits: Limits, total: float | None
) -> None:
    asked: list[tuple[float | None, float | None]] = []

    class Hearing(LocalRunner):
        def stream(
            self,
            argv: Sequence[str],
            *,
            stdin: bytes = b"",
            on_line: OnOutput | None,
            total: float | None,
            silence: float | None,
            output: int | None = None,
            keeps_reading: bool = False,
            ready: Readiness | None = None,
            env: Mapping[str, str] | None = None,
        ) -> Completed:
            assert ready is not None
            assert ready.limit == 11
            asked.append((total, silence))
            return Completed(tuple(argv), 0, b"", b"")

    route = Route(Target(Host("gpu7", "10.0.0.7", "alice", 22001), "container"), {})
    opensshclient.OpenSshClient(Hearing(), Path("/c")).run(
        route, "true", limits=limits, on_line=None
    )
    assert asked == [(total, limits.silence)]
