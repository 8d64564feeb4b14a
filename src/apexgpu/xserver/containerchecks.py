"""The checks beyond this machine, from ssh to a window of the container on this screen. Pure: facts in, findings out.

The facts come from an ssh session with X11 forwarding in which a program of ours draws a window (`sshsessions`).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from apexgpu.models import Finding
from apexgpu.text import last_line
from apexgpu.xserver.sshforwarding import SshLog

_NO_SUCH_PROGRAM = 127
"""sh's exit status when a program does not exist."""


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """What `remote/programs/xcheck.py` reported from inside the session.

    sshd: the X11 options in the container's sshd_config. cookie: whether `authority` has one for `display`.
    locks: lock files of xauth that were left behind. writable: whether `authority` can be written.
    rc: files that sshd runs instead of xauth (sshd(8), SSHRC). ipv6: whether the container has IPv6.
    """

    display: str = ""
    xauth: str = ""
    sshd: Mapping[str, str] = field(default_factory=dict)
    cookie: bool = False
    authority: str = ""
    locks: tuple[str, ...] = ()
    writable: bool = True
    rc: tuple[str, ...] = ()
    ipv6: bool = True


@dataclass(frozen=True, slots=True)
class WindowTest:
    """How an ssh session with X11 forwarding went, in which the container was to draw a window.

    container: None if the container has no Python to report with.
    trouble, words: the error of the program there, and the X server's text about it.
    drawn: the program there has drawn the window. seen: it was found on this screen. painted: with its pixels.
    code, err: the exit status and the error output of the session.
    """

    log: SshLog
    container: ContainerFacts | None = None
    trouble: str = ""
    words: str = ""
    drawn: bool = False
    seen: bool = False
    painted: bool = False
    code: int = 0
    err: str = ""


def parse_facts(answer: Mapping[str, Any]) -> ContainerFacts:
    """Read the program's answer. A field of another type than expected counts as missing."""

    def text(name: str) -> str:
        value = answer.get(name)
        return value if isinstance(value, str) else ""

    def flag(name: str, default: bool) -> bool:
        value = answer.get(name)
        return value if isinstance(value, bool) else default

    def texts(name: str) -> tuple[str, ...]:
        value = answer.get(name)
        return tuple(map(str, value)) if isinstance(value, list) else ()

    sshd = answer.get("sshd")
    options = {}
    if isinstance(sshd, dict):
        options = {str(name): str(value) for name, value in sshd.items()}
    return ContainerFacts(
        display=text("display"),
        xauth=text("xauth"),
        sshd=options,
        cookie=flag("cookie", default=False),
        authority=text("authority"),
        locks=texts("locks"),
        writable=flag("writable", default=True),
        rc=texts("rc"),
        ipv6=flag("ipv6", default=True),
    )


def check_forwarding(test: WindowTest, host: str, *, trusted: bool) -> list[Finding]:
    """Check each link from ssh to the window; what comes after a broken one is skipped."""
    findings: list[Finding] = []
    is_broken = False
    for name, check in _CHECKS.items():
        finding = Finding.skipped(name) if is_broken else check(test, host, trusted)
        is_broken = is_broken or finding.verdict == "broken"
        findings.append(finding)
    return findings


def _check_ssh(test: WindowTest, host: str, trusted: bool) -> Finding:
    log = test.log
    if log.untrusted_failed:
        return Finding.broken(
            "ssh",
            "this machine's X server gave ssh no untrusted cookie (xauth generate); what trusting means:"
            " apexgpu x11 run --help",
            f"apexgpu x11 check --trusted {host}",
            code="untrusted_refused",
        )
    if not log.requested:
        why = "it cannot use DISPLAY" if log.no_display else "it does not report why"
        return Finding.broken(
            "ssh",
            f"ssh does not request X11 forwarding: {why}",
            f"ssh -v -X {host} true",
            code="not_requested",
        )
    kind = "trusted" if trusted else "untrusted"
    cookie = ", with a made-up cookie (xauth has none)" if log.made_up else ""
    return Finding.ok("ssh", f"it requests X11 forwarding, {kind}{cookie}")


def _check_xauth(test: WindowTest, host: str, trusted: bool) -> Finding:
    path = test.container.xauth if test.container is not None else ""
    is_missing = test.container is not None and not path
    if is_missing or test.log.no_xauth_there:
        return Finding.broken(
            "xauth there",
            f"the container on {host} has no xauth, so sshd sets no DISPLAY",
            f"apexgpu x11 install {host}",
            code="no_xauth_there",
        )
    if path:
        return Finding.ok("xauth there", path)
    fact = "sshd reports no problem with it"
    if _was_accepted(test):
        return Finding.ok("xauth there", fact)
    return Finding.unknown("xauth there", fact)


def _was_accepted(test: WindowTest) -> bool:
    return test.log.requested and not test.log.refused


def _check_sshd(test: WindowTest, host: str, trusted: bool) -> Finding:
    if _was_accepted(test):
        return Finding.ok("sshd", "it accepts the request")
    if test.log.denied_by_key:
        return Finding.broken(
            "sshd",
            f"authorized_keys on {host} forbids X11 for your key (an option in front of it)",
            f"apexgpu ssh {host} -- grep -n ssh- .ssh/authorized_keys",
            code="key_option",
        )
    container = test.container or ContainerFacts()
    sshd = f"the sshd in the container on {host}"
    if container.sshd.get("x11forwarding") != "yes":
        return Finding.broken(
            "sshd",
            f"{sshd} refuses X11 (X11Forwarding is not yes)",
            set_sshd_option(host, "X11Forwarding", "yes"),
            code="sshd_refuses",
        )
    if not container.ipv6:
        return Finding.broken(
            "sshd",
            f"{sshd} should forward X11, but finds no address to listen on: the container has no IPv6",
            set_sshd_option(host, "AddressFamily", "inet"),
            code="sshd_no_address",
        )
    return Finding.broken(
        "sshd",
        f"{sshd} refuses X11, although its file has X11Forwarding yes: it has not read the file since, or a Match"
        " block forbids it",
        f'apexgpu ssh {host} -- "sudo service ssh restart"',
        code="sshd_refuses",
    )


def set_sshd_option(host: str, option: str, value: str) -> str:
    """The command that sets an option of the container's sshd. It goes to the top, because the first value wins."""
    edit = f"-e '1i {option} {value}' -e '/^[[:space:]]*{option}[[:space:]]/Id'"
    return f'apexgpu ssh {host} -- "sudo sed -i {edit} /etc/ssh/sshd_config && sudo service ssh reload"'


def _check_display(test: WindowTest, host: str, trusted: bool) -> Finding:
    if test.container is None:
        return Finding.unknown(
            "DISPLAY there",
            "the container has no python3 to check with",
            f'apexgpu ssh {host} -- "sudo apt-get install -y python3-minimal"',
            code="no_python",
        )
    display = test.container.display
    files = ".profile .bashrc .ssh/rc .pam_environment /etc/environment"
    find_setting = f'apexgpu ssh {host} -- "grep -n DISPLAY {files}"'
    if not display:
        return Finding.broken(
            "DISPLAY there",
            "sshd accepted the request, but the session has no DISPLAY: something in the container unsets it",
            find_setting,
            code="no_display_there",
        )
    if display.startswith(":"):
        return Finding.broken(
            "DISPLAY there",
            f"the session has DISPLAY={display}, which is not sshd's: something in the container sets it",
            find_setting,
            code="other_display_there",
        )
    return Finding.ok("DISPLAY there", display)


def _check_cookie(test: WindowTest, host: str, trusted: bool) -> Finding:
    container = test.container
    if container is None:
        return Finding.unknown("cookie there", "the container has no python3 to check with")
    if container.cookie:
        return Finding.ok("cookie there", f"in {container.authority}")
    ssh = f"apexgpu ssh {host} --"
    if container.locks:
        # xauth makes two lock files, whose names end with -c and -l.
        lock = _plain_path(container.locks[0], ".Xauthority-c")[:-1]
        return Finding.broken(
            "cookie there",
            f"xauth in the container waits for a lock that was left behind: {container.locks[0]}",
            f"{ssh} rm -f {lock}c {lock}l",
            code="cookie_locked",
        )
    if not container.writable:
        path = _plain_path(container.authority, ".Xauthority")
        return Finding.broken(
            "cookie there",
            f"{container.authority} in the container is not writable",
            f'{ssh} "ls -l {path}; df -h ."',
            code="cookie_unwritable",
        )
    if container.rc:
        path = _plain_path(container.rc[0], ".ssh/rc")
        return Finding.broken(
            "cookie there",
            f"sshd runs {container.rc[0]} in the container instead of xauth, and that adds no cookie",
            f'{ssh} "sudo mv {path} {path}.off"',
            code="cookie_rc",
        )
    return Finding.broken(
        "cookie there",
        f"sshd has put no cookie into {container.authority} (is the disk full?)",
        f'{ssh} "df -h . && xauth list"',
        code="no_cookie_there",
    )


def _plain_path(path: str, default: str) -> str:
    """A path that the container named, for a command to paste, if it can be nothing but a path; else `default`."""
    return path if re.fullmatch(r"[\w./+-]+", path) else default


def _check_window(test: WindowTest, host: str, trusted: bool) -> Finding:
    if test.seen:
        fact = "drawn in the container, shown on this screen"
        if test.painted:
            fact += ", with its pixels"
        return Finding.ok("window", fact)
    if test.container is None:
        return Finding.unknown(
            "window",
            "the container has no python3 to draw with",
            f"apexgpu x11 run {host} xeyes",
            code="no_python",
        )
    return _find_why_not_seen(test, host, trusted)


def _find_why_not_seen(test: WindowTest, host: str, trusted: bool) -> Finding:
    again = f"apexgpu x11 check {host}"
    as_trusted = again if trusted else f"apexgpu x11 check --trusted {host}"
    if test.log.expired:
        return _expired(host)
    if test.log.unreached:
        return Finding.broken(
            "window",
            f"ssh could not reach the X server of this machine: {test.log.unreached}",
            "apexgpu x11 check",
            code="unreached",
        )
    if test.log.rejected or test.trouble == "not_let_in":
        why = f": {test.words}" if test.words else ""
        return Finding.broken(
            "window", f"the window's cookie was rejected{why}", as_trusted, code="rejected"
        )
    if test.drawn:
        return Finding.broken(
            "window",
            "the container drew the window, but it was not found on this screen",
            "xwininfo -root -tree",
            code="not_seen",
        )
    if test.trouble:
        return Finding.broken(
            "window",
            f"no window was opened: {test.words or test.trouble}",
            as_trusted,
            code="window_refused",
        )
    last = last_line(test.err, f"exit status {test.code}")
    return Finding.broken(
        "window",
        f"the test program in the container ended before its window was seen: {last}",
        again,
        code="client_died",
    )


def _expired(host: str) -> Finding:
    return Finding.broken(
        "window",
        "ssh admits no new window: ForwardX11Timeout has passed",
        f"apexgpu x11 check {host}",
        code="expired",
    )


_CHECKS: Mapping[str, Callable[[WindowTest, str, bool], Finding]] = {
    "ssh": _check_ssh,
    "xauth there": _check_xauth,
    "sshd": _check_sshd,
    "DISPLAY there": _check_display,
    "cookie there": _check_cookie,
    "window": _check_window,
}


def explain_end(log: SshLog, host: str, code: int, *, trusted: bool, again: str) -> Finding | None:
    """Why a program ended with the exit status `code` although no link was broken; None if that needs no explanation.

    `again` is the command that the user ran, for hints that add an option to it.
    """
    if log.expired:
        return _expired(host)
    if code == _NO_SUCH_PROGRAM:
        return Finding.broken(
            "program",
            f"the container on {host} has no such program; the packages for windows have xeyes, xclock and the like",
            f"apexgpu x11 install {host}",
            code="no_program",
        )
    if code == 0:
        return None
    by_signal = ""
    if log.signalled:
        by_signal = "by a signal"
    elif 128 < code < 160:  # a shell's status for a program that a signal ended
        by_signal = f"by signal {code - 128}"
    ended = f"was ended {by_signal}" if by_signal else f"ended with {code}"
    fact = f"the program on {host} {ended}"
    if not log.opened:
        return Finding.unknown(
            "program",
            f"{fact}, and had not opened a window",
            f"apexgpu x11 check {host}",
            code="no_window",
        )
    if not trusted and not by_signal:
        return Finding.unknown(
            "program",
            f"{fact}; some programs do not work as untrusted X clients",
            again.replace("x11 run", "x11 run --trusted", 1),
            code="died_untrusted",
        )
    return Finding.unknown("program", fact, code="died")
