"""Only the user who runs the lab can use it: a login there is a shell of that user."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.lab.calls import fetch, ssh_argv

from apexgpu.errors import UsageError
from apexgpu_lab import socketowners
from apexgpu_lab.inprocess import Lab

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFI3ejlo01kPk+MsgdwAb2xJDPBYsBpWoEBu0NMWG8Xh stranger\n"
STRANGER = 61234
needs_root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can act as another user"
)
_CALL = """
import encodings.idna, os, socket, sys  # a stranger may be unable to read Python's files
request = sys.stdin.buffer.read()
os.setgid({uid}); os.setuid({uid})
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as connection:
        connection.sendall(request)
        sys.stdout.write(repr(connection.recv(100)))
except ConnectionResetError:
    sys.stdout.write("reset")
"""


def as_stranger(address: str, port: int, text: str, code: str = _CALL) -> str:
    """Connect as another user of this machine and send `text`; what came back, or `reset`."""
    done = subprocess.run(
        [sys.executable, "-c", code.format(uid=STRANGER), address, str(port)],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def iam_address(lab: Lab) -> tuple[str, int]:
    host, _, port = lab.iam_url.removeprefix("http://").partition(":")
    return host, int(port)


@needs_root
def test_another_user_cannot_talk_to_iam(new_lab: Lab) -> None:
    new_lab.fault("iam", "empty-password")
    body = "keys=" + KEY.strip().replace(" ", "+") + "&password="
    request = (
        "POST /manage/ssh-key/alice HTTP/1.1\r\nHost: x\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    assert as_stranger(*iam_address(new_lab), request) == "reset"
    assert new_lab.call(lambda lab_state: lab_state.users.keys) == {}
    assert new_lab.call(lambda lab_state: lab_state.users.registered) == {}


@needs_root
def test_another_user_cannot_talk_to_a_host(lab: Lab) -> None:
    host = lab.status()["hosts"][0]
    assert as_stranger(host["address"], host["port"], "SSH-2.0-x\r\n") in ("reset", "b''")


@needs_root
def test_a_request_from_another_user_who_disconnects_at_once_is_not_served(new_lab: Lab) -> None:
    """Its socket has no owner any more when the lab looks."""
    code = _CALL.replace("sys.stdout.write(repr(connection.recv(100)))", "")
    for _ in range(10):
        request = "GET /manage/ssh-key/alice HTTP/1.1\r\nHost: x\r\n\r\n"
        address, port = iam_address(new_lab)
        as_stranger(address, port, request, code)
    assert fetch(new_lab.iam_url, "/user/bob/port").status == 404  # the lab is still there
    assert new_lab.call(lambda lab_state: lab_state.users.registered) == {}


def test_the_owner_is_served_over_an_ipv6_socket_too(new_lab: Lab) -> None:
    address, port = iam_address(new_lab)
    with socket.socket(socket.AF_INET6) as connection:
        connection.settimeout(20)
        connection.connect((f"::ffff:{address}", port))
        connection.sendall(b"GET /users HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_an_empty_password_is_refused_unless_the_fault_is_set(new_lab: Lab) -> None:
    fetch(new_lab.iam_url, "/manage/ssh-key/alice")
    form = {"keys": KEY, "password": ""}
    assert fetch(new_lab.iam_url, "/manage/ssh-key/alice", form).status == 401
    new_lab.fault("iam", "empty-password")
    assert fetch(new_lab.iam_url, "/manage/ssh-key/alice", form).status == 302


def test_where_the_system_does_not_identify_clients_the_password_is_always_needed(
    new_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socketowners, "_PROC", tmp_path)
    with pytest.raises(UsageError, match="any user could log in"):
        new_lab.fault("iam", "empty-password")
    form = {"keys": KEY, "password": ""}
    assert fetch(new_lab.iam_url, "/manage/ssh-key/alice", form).status == 401


@pytest.mark.openssh
def test_after_six_refused_keys_the_server_disconnects(lab: Lab, tmp_path: Path) -> None:
    """As OpenSSH's: the right key, if it is the seventh, is never tried."""
    options = []
    for number in range(6):
        path = tmp_path / f"id{number}"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        options += ["-o", f"IdentityFile={path}"]

    def log_in(wrong_keys: int) -> subprocess.CompletedProcess[str]:
        # Files from the command line come before that of the lab's config.
        argv = ssh_argv(lab, *options[: 2 * wrong_keys], "gpu2-manage", "help")
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    assert log_in(5).returncode == 0
    refused = log_in(6)
    assert refused.returncode == 255
    assert "Too many authentication failures" in refused.stderr
