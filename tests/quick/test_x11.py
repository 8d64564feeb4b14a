"""What ssh is told, what its words mean, and the links beyond this machine: tables of recorded words and facts."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apexgpu.boundedoutput import OnOutput
from apexgpu.errors import ApexError
from apexgpu.models import Host
from apexgpu.process import Completed, LocalRunner, Readiness, Watch
from apexgpu.xserver import containerchecks, sshforwarding, sshsessions
from apexgpu.xserver.containerchecks import ContainerFacts, WindowTest
from apexgpu.xserver.sshforwarding import ForwardingOptions, SshLog

HOST = Host("gpu7", "10.0.0.7", "alice", 22001)
# As OpenSSH 9.2 writes them with -v; "Rejected X11 connection after …" is channels.c, "DISPLAY … invalid" clientloop.c.
GOOD = """\
debug1: Remote: /home/a/.ssh/authorized_keys:1: key options: agent-forwarding port-forwarding pty user-rc x11-forwarding
debug1: Requesting X11 forwarding with authentication spoofing.
debug1: Sending command: xeyes
debug1: client_input_channel_open: ctype x11 rchan 3 win 65536 max 16384
debug1: client_request_x11: request from 127.0.0.1 47234
debug1: channel 1: new x11 [x11] (inactive timeout: 0)
debug1: confirm x11
debug1: client_input_channel_req: channel 0 rtype exit-status reply 0
debug1: Exit status 0
"""
BARE = "debug1: Remote: No xauth program; cannot forward X11.\r\nX11 forwarding request failed on channel 0\r\n"
THERE = ContainerFacts(
    display="localhost:10.0",
    xauth="/usr/bin/xauth",
    sshd={"x11forwarding": "yes"},
    cookie=True,
    authority="/home/alice/.Xauthority",
)
SAID = SshLog(requested=True, opened=1, ended=True)
WELL = WindowTest(SAID, THERE, drawn=True, seen=True, painted=True)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (GOOD, SAID),
        (GOOD + "\r\nX11 forwarding request failed on channel 0\r\n", replace(SAID, refused=True)),
        (BARE, SshLog(refused=True, no_xauth_there=True)),
        (
            "Warning: untrusted X11 forwarding setup failed: xauth key data not generated\n",
            SshLog(untrusted_failed=True),
        ),
        ("debug1: X11 forwarding requested but DISPLAY not set\n", SshLog(no_display=True)),
        ('DISPLAY "; rm -rf" invalid; disabling X11 forwarding\n', SshLog(no_display=True)),
        (
            "Warning: No xauth data; using fake authentication data for X11 forwarding.\n" + GOOD,
            replace(SAID, made_up=True),
        ),
        (
            GOOD + "X11 connection rejected because of wrong authentication.\n",
            replace(SAID, rejected=True),
        ),
        (
            GOOD + "Rejected X11 connection after ForwardX11Timeout expired\n",
            replace(SAID, expired=True),
        ),
        (
            GOOD + "connect /tmp/.X11-unix/X0: No such file or directory\n",
            replace(SAID, unreached="/tmp/.X11-unix/X0: No such file or directory"),
        ),
        (
            GOOD + "connect localhost port 6000: Connection refused\n",
            replace(SAID, unreached="localhost port 6000: Connection refused"),
        ),
        (GOOD.replace(" x11-forwarding\n", "\n"), replace(SAID, denied_by_key=True)),
        (GOOD.replace("exit-status", "exit-signal"), replace(SAID, signalled=True)),
        (GOOD + "Killed by signal 2.\n", replace(SAID, killed=2)),
        ("", SshLog()),
        ("debug1: Remote: Requesting X11 forwarding of a kind\nnoise\n", SshLog()),
    ],
)
def test_the_words_of_ssh(log: str, said: SshLog) -> None:
    assert sshforwarding.parse_log(log) == said


@pytest.mark.parametrize("trusted", [True, False])
def test_every_link_is_well(trusted: bool) -> None:
    found = containerchecks.check_forwarding(WELL, "gpu7", trusted=trusted)
    assert [(one.check, one.verdict) for one in found] == [
        ("ssh", "ok"),
        ("xauth there", "ok"),
        ("sshd", "ok"),
        ("DISPLAY there", "ok"),
        ("cookie there", "ok"),
        ("window", "ok"),
    ]


NOT_SEEN = replace(WELL, seen=False, painted=False)
DEAD = replace(NOT_SEEN, drawn=False)
REFUSED = SshLog(requested=True, refused=True)
BARE_COOKIE = replace(THERE, cookie=False)


@pytest.mark.parametrize(
    ("session", "check", "code", "words"),
    [
        (
            WindowTest(SshLog(untrusted_failed=True)),
            "ssh",
            "untrusted_refused",
            "check --trusted gpu7",
        ),
        (WindowTest(SshLog(no_display=True)), "ssh", "not_requested", "ssh -v -X gpu7"),
        (WindowTest(SshLog()), "ssh", "not_requested", "ssh -v -X gpu7"),
        (
            WindowTest(replace(REFUSED, no_xauth_there=True), THERE),
            "xauth there",
            "no_xauth_there",
            "x11 install gpu7",
        ),
        (
            WindowTest(REFUSED, replace(THERE, xauth="")),
            "xauth there",
            "no_xauth_there",
            "x11 install gpu7",
        ),
        (
            WindowTest(replace(REFUSED, denied_by_key=True), THERE),
            "sshd",
            "key_option",
            "authorized_keys",
        ),
        (
            WindowTest(REFUSED, replace(THERE, sshd={"x11forwarding": "no"})),
            "sshd",
            "sshd_refuses",
            "1i X11Forwarding yes",
        ),
        (
            WindowTest(REFUSED, replace(THERE, sshd={})),
            "sshd",
            "sshd_refuses",
            "1i X11Forwarding yes",
        ),
        (WindowTest(REFUSED, THERE), "sshd", "sshd_refuses", "service ssh restart"),
        (
            WindowTest(REFUSED, replace(THERE, ipv6=False)),
            "sshd",
            "sshd_no_address",
            "1i AddressFamily inet",
        ),
        (
            replace(WELL, container=replace(THERE, display="")),
            "DISPLAY there",
            "no_display_there",
            "grep -n DISPLAY",
        ),
        (
            replace(WELL, container=replace(THERE, display=":0")),
            "DISPLAY there",
            "other_display_there",
            "grep -n DISPLAY",
        ),
        (replace(WELL, container=BARE_COOKIE), "cookie there", "no_cookie_there", "df -h"),
        (
            replace(WELL, container=replace(BARE_COOKIE, writable=False)),
            "cookie there",
            "cookie_unwritable",
            "ls -l",
        ),
        (
            replace(WELL, container=replace(BARE_COOKIE, locks=("/h/.Xauthority-c",))),
            "cookie there",
            "cookie_locked",
            "rm -f /h/.Xauthority-c /h/.Xauthority-l",
        ),
        (
            replace(WELL, container=replace(BARE_COOKIE, rc=("/etc/ssh/sshrc",))),
            "cookie there",
            "cookie_rc",
            "mv /etc/ssh/sshrc",
        ),
        (
            replace(DEAD, log=replace(SAID, rejected=True)),
            "window",
            "rejected",
            "x11 check --trusted gpu7",
        ),
        (
            replace(DEAD, log=replace(SAID, unreached="localhost port 6000: Connection refused")),
            "window",
            "unreached",
            "apexgpu x11 check",
        ),
        (
            replace(DEAD, trouble="not_let_in", words="Invalid MIT-MAGIC-COOKIE-1 key"),
            "window",
            "rejected",
            "apexgpu x11 check",
        ),
        (
            replace(DEAD, trouble="not_there", words="connection refused"),
            "window",
            "window_refused",
            "apexgpu x11 check",
        ),
        (replace(DEAD, trouble="not_shown"), "window", "window_refused", "apexgpu x11 check"),
        (
            replace(DEAD, err="Segmentation fault\n\n", code=139),
            "window",
            "client_died",
            "apexgpu x11 check",
        ),
        (replace(DEAD, log=replace(SAID, expired=True)), "window", "expired", "apexgpu x11 check"),
        (NOT_SEEN, "window", "not_seen", "xwininfo -root -tree"),
    ],
)
def test_each_broken_link_has_its_code_and_its_line(
    session: WindowTest, check: str, code: str, words: str
) -> None:
    found = containerchecks.check_forwarding(session, "gpu7", trusted=False)
    verdicts = [one.verdict for one in found]
    at = verdicts.index("broken")
    assert (found[at].check, found[at].code) == (check, code)
    assert words in (found[at].hint or "")
    assert set(verdicts[at + 1 :]) <= {"skipped"}
    assert "broken" not in verdicts[:at]


@pytest.mark.parametrize(
    "change", [{"locks": ("/h/$(reboot)",)}, {"rc": ("/h/$(reboot)",)}, {"writable": False}]
)
def test_what_the_container_calls_its_files_is_not_pasted_unless_it_is_a_plain_path(
    change: dict[str, Any],
) -> None:
    there = replace(BARE_COOKIE, authority="/h/$(reboot)", **change)
    found = containerchecks.check_forwarding(replace(WELL, container=there), "gpu7", trusted=False)[
        4
    ]
    assert found.verdict == "broken"
    assert "reboot" not in (found.hint or "")


@pytest.mark.parametrize(
    "value",
    [
        {},
        {
            "display": 7,
            "sshd": "yes",
            "locks": "abc",
            "rc": {"a": 1},
            "cookie": "no",
            "writable": None,
            "xauth": [],
        },
    ],
)
def test_a_container_that_says_strange_things_is_not_believed(value: dict[str, Any]) -> None:
    assert containerchecks.parse_facts(value) == ContainerFacts()


def test_what_a_container_tells() -> None:
    value = {
        "display": "localhost:10.0",
        "xauth": "/usr/bin/xauth",
        "sshd": {"x11forwarding": "yes"},
        "cookie": True,
        "authority": "/home/alice/.Xauthority",
        "locks": [],
        "writable": True,
        "rc": [],
        "ipv6": True,
    }
    assert containerchecks.parse_facts(value) == THERE


def test_a_container_without_python_leaves_unknown_what_cannot_be_looked_at() -> None:
    found = containerchecks.check_forwarding(
        WindowTest(SAID, trouble="no_python"), "gpu7", trusted=False
    )
    assert [one.verdict for one in found] == ["ok", "ok", "ok", "unknown", "unknown", "unknown"]


def test_the_line_for_sshd_puts_the_option_first_whatever_stood_there(tmp_path: Path) -> None:
    line = containerchecks.set_sshd_option("gpu7", "X11Forwarding", "yes")
    assert line.startswith('apexgpu ssh gpu7 -- "sudo sed -i ')
    edit = line.split('"')[1].split(" && ")[0].removeprefix("sudo ")
    for text in (
        "X11Forwarding no\n",
        "# X11Forwarding no\nPort 22\n",
        "Port 22\n  x11forwarding  NO\n",
    ):
        file = tmp_path / "sshd_config"
        file.write_text(text)
        subprocess.run(["sh", "-c", edit.replace("/etc/ssh/sshd_config", str(file))], check=True)
        first = next(
            one
            for one in file.read_text().splitlines()
            if "x11forwarding" in one.lower() and "#" not in one
        )
        assert first == "X11Forwarding yes"


ALWAYS = (
    "-o ControlMaster=no -o ControlPath=none -o RemoteCommand=none -o ServerAliveInterval=15 "
    "-o ServerAliveCountMax=4 -o ConnectTimeout=10"
)


@pytest.mark.parametrize(
    ("manner", "expected"),
    [
        (
            ForwardingOptions(trusted=False),
            f"-T -o ForwardX11=yes -o ForwardX11Trusted=no -o ForwardX11Timeout=1w {ALWAYS}",
        ),
        (
            ForwardingOptions(trusted=True, compress=True, terminal=True, background=True),
            f"-t -C -n -o ForwardX11=yes -o ForwardX11Trusted=yes -o ForwardX11Timeout=1w {ALWAYS}",
        ),
        (
            ForwardingOptions(trusted=False, xauth="/opt/X11/bin/xauth", batch=True),
            f"-T -o ForwardX11=yes -o ForwardX11Trusted=no -o ForwardX11Timeout=1w {ALWAYS} -o BatchMode=yes "
            "-o ClearAllForwardings=yes -o PermitLocalCommand=no -o XAuthLocation=/opt/X11/bin/xauth",
        ),
    ],
)
def test_the_command_line_of_ssh(manner: ForwardingOptions, expected: str) -> None:
    assert (
        sshforwarding.ssh_command(["gpu7"], "xeyes", manner, log="LOG")
        == f"ssh -v -E LOG {expected} gpu7 xeyes".split()
    )


@pytest.mark.parametrize(
    ("said", "code", "trusted", "found"),
    [
        (SAID, 0, False, None),
        (SAID, 127, False, ("no_program", "apexgpu x11 install gpu7")),
        (SAID, 1, False, ("died_untrusted", "apexgpu x11 run --trusted gpu7 xeyes")),
        (SAID, 1, True, ("died", "")),
        (SAID, 137, True, ("died", "")),
        (replace(SAID, signalled=True), 255, False, ("died", "")),
        (replace(SAID, opened=0), 1, False, ("no_window", "apexgpu x11 check gpu7")),
        (replace(SAID, expired=True), 0, False, ("expired", "apexgpu x11 check gpu7")),
    ],
)
def test_what_is_said_when_a_program_has_ended(
    said: SshLog, code: int, trusted: bool, found: tuple[str, str] | None
) -> None:
    probe = containerchecks.explain_end(
        said, "gpu7", code, trusted=trusted, again="apexgpu x11 run gpu7 xeyes"
    )
    assert (probe and (probe.code, (probe.hint or "").partition("   ")[0])) == found
    assert not said.reports_broken_link


@pytest.mark.parametrize(
    "said",
    [
        SshLog(),
        REFUSED,
        replace(SAID, rejected=True),
        replace(SAID, unreached="x: y"),
        SshLog(untrusted_failed=True),
    ],
)
def test_what_ssh_complains_of_is_looked_into(said: SshLog) -> None:
    assert said.reports_broken_link


class Ssh(LocalRunner):
    """An ssh that leaves a log and ends."""

    def __init__(self, code: int, log: str) -> None:
        self.code, self.log = code, log

    def attach(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        watch: Watch | None = None,
    ) -> int:
        assert watch is None
        Path(argv[argv.index("-E") + 1]).write_text(self.log)
        return self.code

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
        assert (total, silence) == (None, None)  # it may run all day
        return Completed(tuple(argv), self.attach(argv), b"out", b"err")


SIGNALLED = GOOD.replace("exit-status", "exit-signal")


@pytest.mark.parametrize("captured", [True, False])
@pytest.mark.parametrize(
    ("code", "log", "terminal", "ended"),
    [
        (0, GOOD, False, 0),
        (7, GOOD, False, 7),
        (255, GOOD, False, 255),
        (255, "Killed by signal 2.\n", False, 130),
        (255, GOOD + "Killed by signal 15.\n", False, 143),
        (255, SIGNALLED, True, 130),
        (255, SIGNALLED, False, 255),
    ],
)
def test_how_a_program_with_windows_ended(
    code: int, log: str, terminal: bool, ended: int, captured: bool
) -> None:
    found = sshsessions.run_program(
        Ssh(code, log),
        HOST,
        ["gpu7"],
        "xeyes",
        ForwardingOptions(True, terminal=terminal),
        captured=captured,
    )
    assert (found.code, found.out, found.err) == (
        ended,
        *(("out", "err") if captured else ("", "")),
    )


@pytest.mark.parametrize(
    ("log", "exit_code", "code"),
    [
        ("", 5, "dropped"),
        ("Connection to 10.0.0.7 closed by remote host.\n", 5, "dropped"),
        ("ssh: connect to host 10.0.0.7 port 22001: Connection refused\n", 5, "connection_refused"),
        ("alice@10.0.0.7: Permission denied (publickey).\n", 4, "key_refused"),
        ("@  WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!  @\n", 4, "host_key"),
    ],
)
def test_a_connection_that_ends_before_the_program_is_an_error(
    log: str, exit_code: int, code: str
) -> None:
    with pytest.raises(ApexError) as caught:
        sshsessions.run_program(
            Ssh(255, log), HOST, ["gpu7"], "xeyes", ForwardingOptions(True), captured=True
        )
    assert caught.value.exit_code == exit_code
    assert caught.value.code.startswith(code)
