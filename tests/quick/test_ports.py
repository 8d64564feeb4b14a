"""Which local port a tunnel gets, who holds one, when to try again: pure, in tables."""

import subprocess

import pytest

from apexgpu.errors import UsageError
from apexgpu.forwarding import failures, listeners, portowners, ports, supervisor
from apexgpu.forwarding.listeners import ListenerState
from apexgpu.forwarding.ports import Destination
from apexgpu.forwarding.sshconnection import argv

IPV6_LOOPBACK = "00000000000000000000000001000000"


@pytest.mark.parametrize(
    ("word", "target", "shown"),
    [
        ("6006", "localhost:6006", "6006"),
        ("db:5432", "db:5432", "db:5432"),
        ("10.0.3.7:80", "10.0.3.7:80", "10.0.3.7:80"),
        ("[::1]:8888", "[::1]:8888", "::1:8888"),
    ],
)
def test_what_a_port_means(word: str, target: str, shown: str) -> None:
    destination = ports.parse_destination(word)
    assert destination.ssh_form == target
    assert str(destination) == shown
    assert ports.parse_destination(str(destination)) == destination


@pytest.mark.parametrize(
    ("word", "local", "remote"),
    [
        ("6006", None, "6006"),
        ("8123:80", 8123, "80"),
        ("8123:db:5432", 8123, "db:5432"),
        ("8123:[::1]:80", 8123, "[::1]:80"),
        ("db:5432", None, "db:5432"),
        ("10.0.3.7:80", None, "10.0.3.7:80"),
        ("2001:db8::1:80", None, "2001:db8::1:80"),
        ("0:80", None, "0:80"),
        ("99999:80", None, "99999:80"),
    ],
)
def test_a_port_before_the_port_is_the_local_one(word: str, local: int | None, remote: str) -> None:
    assert ports.split_local(word) == (local, remote)


@pytest.mark.parametrize(
    ("output", "word", "state"),
    [
        ("apexgpu 0100007F:1776 11\napexgpu 00000000:0016 12\n", "6006", ListenerState.LISTENING),
        (
            f"apexgpu 0100007F:1776 11\napexgpu {IPV6_LOOPBACK}:1776 12\n",
            "6006",
            ListenerState.LISTENING,
        ),
        (
            "apexgpu 00000000000000000000000000000000:1776 11\n",
            "6006",
            ListenerState.LISTENING,
        ),
        (f"apexgpu {IPV6_LOOPBACK}:1776 11\n", "6006", ListenerState.IPV6_ONLY),
        ("apexgpu 0100007F:1777 11\n", "6006", ListenerState.NOTHING),
        ("apexgpu 0100007F:1777 11\n", "db:6006", ListenerState.UNKNOWN),
        ("", "6006", ListenerState.UNKNOWN),
        ("Welcome: you have mail at 10:30\napexgpu 10:30\n", "6006", ListenerState.UNKNOWN),
    ],
)
def test_what_the_container_tells_of_a_port(output: str, word: str, state: ListenerState) -> None:
    destination = ports.parse_destination(word)
    assert listeners.state_of(destination, listeners.parse(output)) is state


def test_only_a_container_on_this_machine_lists_our_own_socket() -> None:
    """The same port of another machine has another inode."""
    with ports.listen_anywhere() as ours:
        words = ["sh", "-c", listeners.list_command()]
        output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert listeners.contain(listeners.parse(output), ours)
        port = ours.getsockname()[1]
        elsewhere = listeners.parse(f"apexgpu 0100007F:{port:04X} 1\n")
        assert listeners.state_of(Destination(port), elsewhere) is ListenerState.LISTENING
        assert not listeners.contain(elsewhere, ours)
        assert not listeners.contain([], ours)


@pytest.mark.parametrize(
    "word", ["", "x", "0", "65536", "-1", "a b:1", "-x:1", "a;b:1", "1:2:x", "６"]
)
def test_what_is_no_port(word: str) -> None:
    with pytest.raises(UsageError):
        ports.parse_destination(word)


@pytest.mark.parametrize(
    ("port", "first"),
    [
        (6006, [6006, 6007, 6008]),
        (80, [8080, 8081]),
        (443, [8443]),
        (6000, [6001]),
        (6665, [6670]),
        (65535, [65535, 1024]),
        (10080, [10081]),
    ],
)
def test_the_order_of_local_ports(port: int, first: list[int]) -> None:
    candidates = list(ports.local_candidates(port))
    assert candidates[: len(first)] == first
    assert not ports.BLOCKED_BY_BROWSERS & set(candidates)


def test_back_off_is_capped() -> None:
    assert [supervisor.pause_before(attempt, 30) for attempt in (0, 1, 2, 6, 1000)] == [
        0.5,
        1,
        2,
        30,
        30,
    ]


def test_only_a_changed_host_key_is_final() -> None:
    assert failures.is_final("Host key verification failed.")
    assert not failures.is_final("ssh: connect to host gpu7 port 22: Connection refused")


def test_ssh_never_asks_and_always_checks_host_keys() -> None:
    words = argv(
        ["-F", "cfg", "gpu7"],
        [("/run/s/0", "localhost:6006")],
        connect_timeout=5,
        keep_alive=5,
        platform="linux",
    )
    assert words[:3] == ["ssh", "-F", "cfg"]
    assert words[-4:] == ["-L", "/run/s/0:localhost:6006", "gpu7", "exec cat"]
    options = {
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "ControlPath=none",
        "ClearAllForwardings=no",
    }
    assert options <= set(words)


@pytest.mark.parametrize(
    ("platform", "fatal"), [("linux", "no"), ("darwin", "no"), ("win32", "yes")]
)
def test_a_forward_that_fails_is_fatal_where_it_is_a_port_that_others_could_have(
    platform: str, fatal: str
) -> None:
    """ssh_config(5), ExitOnForwardFailure; Windows' ssh has no sockets of its own to listen on."""
    here = "127.0.0.1:50000" if platform == "win32" else "/run/s/0"
    words = argv(
        ["gpu7"], [(here, "[::1]:6006")], connect_timeout=0.2, keep_alive=4, platform=platform
    )
    assert f"ExitOnForwardFailure={fatal}" in words
    assert {"ConnectTimeout=1", "ServerAliveInterval=4", "ServerAliveCountMax=3"} <= set(words)
    assert words[words.index("-L") + 1] == f"{here}:[::1]:6006"


TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1776 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31337 1 0
   1: 0100007F:1776 0100007F:C001 01 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 999 1 0
"""


def test_linux_says_which_socket_listens() -> None:
    assert portowners.linux_inodes(TCP, 0x1776) == {"31337"}
    assert portowners.linux_inodes(TCP, 80) == set()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("p4711\ncjupyter-lab\nf7\n", portowners.LocalProgram(4711, "jupyter-lab")),
        ("", portowners.UNKNOWN),
    ],
)
def test_macos_lsof(text: str, found: portowners.LocalProgram) -> None:
    assert portowners.lsof_listener(text) == found


NETSTAT = """
Aktive Verbindungen

  Proto  Lokale Adresse         Remoteadresse          Status           PID
  TCP    0.0.0.0:135            0.0.0.0:0              ABHÖREN         1040
  TCP    127.0.0.1:6006         0.0.0.0:0              ABHÖREN         9120
  TCP    127.0.0.1:50123        127.0.0.1:6006         HERGESTELLT     77
"""


def test_windows_netstat_in_any_language() -> None:
    assert portowners.windows_listener(NETSTAT, 6006) == 9120
    assert portowners.windows_listener(NETSTAT, 50123) is None
    assert portowners.windows_program(
        '"python.exe","9120","Console","1","50,000 K"', 9120
    ) == portowners.LocalProgram(9120, "python.exe")
    assert portowners.windows_program("INFO: No tasks", None) == portowners.UNKNOWN
