"""The links beyond this machine: what one ssh session came to in, probes out. Pure."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from apexgpu.models import Finding
from apexgpu.text import last_line
from apexgpu.xserver.probes import SshSaid


@dataclass(frozen=True, slots=True)
class There:
    """What `apexgpu.remote.programs.xcheck` reported. `sshd` is what the container's sshd_config says of X11."""

    display: str = ""
    xauth: str = ""
    sshd: Mapping[str, str] = field(default_factory=dict)
    cookie: bool = False
    authority: str = ""
    locks: tuple[str, ...] = ()
    writable: bool = True
    rc: tuple[str, ...] = ()
    ipv6: bool = True


def told(value: Mapping[str, Any]) -> There:
    """What a container says, whatever it says: a field of another kind is as if it were not there."""
    sshd = value.get("sshd")
    lists = {
        name: tuple(map(str, value[name]))
        for name in ("locks", "rc")
        if isinstance(value.get(name), list)
    }
    texts = {
        name: value[name]
        for name in ("display", "xauth", "authority")
        if isinstance(value.get(name), str)
    }
    flags = {
        name: value[name]
        for name in ("cookie", "writable", "ipv6")
        if isinstance(value.get(name), bool)
    }
    pairs = {str(name): str(said) for name, said in sshd.items()} if isinstance(sshd, dict) else {}
    return There(**texts, **flags, locks=lists.get("locks", ()), rc=lists.get("rc", ()), sshd=pairs)


@dataclass(frozen=True, slots=True)
class Session:
    """What one ssh session with X11 came to: ssh's words, the container's facts, and how the window fared.

    `there` is None where no Python answered. `trouble` and `words` are why the client there gave up; `drawn` is its
    word, `seen` says that the window was found on this screen, `painted` that its pixels were.
    """

    said: SshSaid
    there: There | None = None
    trouble: str = ""
    words: str = ""
    drawn: bool = False
    seen: bool = False
    painted: bool = False
    code: int = 0
    err: str = ""


def chain(session: Session, host: str, *, trusted: bool) -> list[Finding]:
    """The links from ssh to the window, in their order; what comes after a broken one is skipped where it must fail."""
    found: list[Finding] = []
    for check, look in _LINKS.items():
        if any(one.verdict == "broken" for one in found):
            found.append(Finding(check, "skipped", "it needs what is broken above"))
        else:
            found.append(look(session, host, trusted))
    return found


def _ssh(session: Session, host: str, trusted: bool) -> Finding:
    said = session.said
    if said.untrusted_failed:
        return Finding(
            "ssh",
            "broken",
            "the X server here gave ssh no untrusted cookie (xauth generate)",
            f"apexgpu x11 check --trusted {host}   (what that means: apexgpu x11 run --help)",
            "untrusted_refused",
        )
    if not said.requested:
        why = "DISPLAY is no use to it" if said.no_display else "it does not say why"
        return Finding(
            "ssh",
            "broken",
            f"ssh does not ask for X11: {why}",
            f"ssh -v -X {host} true",
            "not_requested",
        )
    without = ", with a made-up cookie (xauth has none)" if said.made_up else ""
    return Finding(
        "ssh", "ok", f"it asks for X11 forwarding, {'trusted' if trusted else 'untrusted'}{without}"
    )


def _xauth_there(session: Session, host: str, trusted: bool) -> Finding:
    path = session.there.xauth if session.there else ""
    if session.said.no_xauth_there or (session.there and not path):
        return Finding(
            "xauth there",
            "broken",
            f"the container on {host} has no xauth, so sshd sets no DISPLAY",
            f"apexgpu x11 install {host}",
            "no_xauth_there",
        )
    if not path:
        return Finding(
            "xauth there", "ok" if _accepted(session) else "unknown", "sshd did not complain of it"
        )
    return Finding("xauth there", "ok", path)


def _accepted(session: Session) -> bool:
    return session.said.requested and not session.said.refused


def _sshd(session: Session, host: str, trusted: bool) -> Finding:
    if _accepted(session):
        return Finding("sshd", "ok", "it takes the request")
    there = session.there or There()
    set_to = there.sshd.get("x11forwarding")
    if session.said.denied_by_key:
        return Finding(
            "sshd",
            "broken",
            f"your key may not use X11 on {host}: an option before it in authorized_keys",
            f"apexgpu ssh {host} -- grep -n ssh- .ssh/authorized_keys",
            "key_option",
        )
    if set_to == "yes" and not there.ipv6:
        return Finding(
            "sshd",
            "broken",
            f"the sshd in the container on {host} is to forward X11, and finds no address "
            "to listen on: there is no IPv6",
            sshd_line(host, "AddressFamily", "inet"),
            "sshd_no_address",
        )
    if set_to == "yes":
        return Finding(
            "sshd",
            "broken",
            f"the sshd in the container on {host} refuses X11, though its file says "
            "X11Forwarding yes: it has not read it since, or a Match block says no",
            f'apexgpu ssh {host} -- "sudo service ssh restart"',
            "sshd_refuses",
        )
    return Finding(
        "sshd",
        "broken",
        f"the sshd in the container on {host} refuses X11 (X11Forwarding is not yes)",
        sshd_line(host, "X11Forwarding", "yes"),
        "sshd_refuses",
    )


def sshd_line(host: str, option: str, value: str) -> str:
    """The line that sets an option of the container's sshd: the first value wins, so it is put at the top."""
    edit = f"-e '1i {option} {value}' -e '/^[[:space:]]*{option}[[:space:]]/Id'"
    return f'apexgpu ssh {host} -- "sudo sed -i {edit} /etc/ssh/sshd_config && sudo service ssh reload"'


def _display_there(session: Session, host: str, trusted: bool) -> Finding:
    if session.there is None:
        return Finding(
            "DISPLAY there",
            "unknown",
            "there is no python3 in the container to look with",
            f'apexgpu ssh {host} -- "sudo apt-get install -y python3-minimal"',
            "no_python",
        )
    shown = session.there.display
    look = f'apexgpu ssh {host} -- "grep -n DISPLAY .profile .bashrc .ssh/rc .pam_environment /etc/environment"'
    if not shown:
        return Finding(
            "DISPLAY there",
            "broken",
            "sshd took the request, and the session has no DISPLAY: something there unsets it",
            look,
            "no_display_there",
        )
    if shown.startswith(":"):
        return Finding(
            "DISPLAY there",
            "broken",
            f"the session has DISPLAY={shown}, which is not sshd's: something there sets it",
            look,
            "other_display_there",
        )
    return Finding("DISPLAY there", "ok", shown)


def _cookie_there(session: Session, host: str, trusted: bool) -> Finding:
    there = session.there
    if there is None:
        return Finding(
            "cookie there", "unknown", "there is no python3 in the container to look with"
        )
    if there.cookie:
        return Finding("cookie there", "ok", f"in {there.authority}")
    path = _plain(there.authority, ".Xauthority")
    if there.locks:
        lock = _plain(there.locks[0], ".Xauthority-c")[:-1]
        return Finding(
            "cookie there",
            "broken",
            f"xauth there waits for a lock that somebody left: {there.locks[0]}",
            f"apexgpu ssh {host} -- rm -f {lock}c {lock}l",
            "cookie_locked",
        )
    if not there.writable:
        return Finding(
            "cookie there",
            "broken",
            f"{there.authority} cannot be written there",
            f'apexgpu ssh {host} -- "ls -l {path}; df -h ."',
            "cookie_unwritable",
        )
    if there.rc:
        own = _plain(there.rc[0], ".ssh/rc")
        return Finding(
            "cookie there",
            "broken",
            f"{there.rc[0]} is there, so sshd leaves xauth to it, and it adds no cookie",
            f'apexgpu ssh {host} -- "sudo mv {own} {own}.off"',
            "cookie_rc",
        )
    return Finding(
        "cookie there",
        "broken",
        f"sshd has put no cookie into {there.authority} (is the disk full?)",
        f'apexgpu ssh {host} -- "df -h . && xauth list"',
        "no_cookie_there",
    )


def _plain(path: str, otherwise: str) -> str:
    """A path that the container named, for a line to paste: only where it can be nothing but a path."""
    return path if re.fullmatch(r"[\w./+-]+", path) else otherwise


def _window(session: Session, host: str, trusted: bool) -> Finding:
    if session.seen:
        how = "drawn there, seen here" + (", pixels and all" if session.painted else "")
        return Finding("window", "ok", how)
    if session.there is None:
        return Finding(
            "window",
            "unknown",
            "there is no python3 in the container to draw with",
            f"apexgpu x11 run {host} xeyes",
            "no_python",
        )
    said, words = session.said, session.words
    again = f"apexgpu x11 check {host}"
    if said.expired:
        return Finding(
            "window",
            "broken",
            "ssh lets no new window in: ForwardX11Timeout has passed",
            again,
            "expired",
        )
    if said.unreached:
        return Finding(
            "window",
            "broken",
            f"ssh could not reach the X server here: {said.unreached}",
            "apexgpu x11 check",
            "unreached",
        )
    if said.rejected or session.trouble == "not_let_in":
        why = f": {words}" if words else ""
        return Finding(
            "window",
            "broken",
            f"the window's cookie was refused{why}",
            _other(again, trusted),
            "rejected",
        )
    if session.drawn:
        return Finding(
            "window",
            "broken",
            "the window was drawn there, and was not found on this screen",
            "xwininfo -root -tree",
            "not_seen",
        )
    if session.trouble:
        return Finding(
            "window",
            "broken",
            f"no window came: {words or session.trouble}",
            _other(again, trusted),
            "window_refused",
        )
    last = last_line(session.err, f"exit status {session.code}")
    return Finding(
        "window",
        "broken",
        f"the client in the container died before its window was seen: {last}",
        again,
        "client_died",
    )


def _other(again: str, trusted: bool) -> str:
    return again if trusted else again.replace("check", "check --trusted")


def aftermath(said: SshSaid, host: str, code: int, *, trusted: bool, again: str) -> Finding | None:
    """What is to be said of a program that ended with `code`, when no link was broken; None when nothing is.

    `again` is the command line that was given, for hints that add an option to it.
    """
    if said.expired:
        return _window(Session(said, There(), code=code), host, trusted)
    if code == 127:
        return Finding(
            "program",
            "broken",
            f"the container on {host} has no such program",
            f"apexgpu x11 install {host}   (it brings xeyes, xclock and the like)",
            "no_program",
        )
    if code == 0:
        return None
    signal = (
        "by a signal" if said.signalled else f"by signal {code - 128}" if 128 < code < 160 else ""
    )
    ended = f"the program on {host} " + (f"was ended {signal}" if signal else f"ended with {code}")
    if not said.opened:
        return Finding(
            "program",
            "unknown",
            f"{ended}, and had not opened a window",
            f"apexgpu x11 check {host}",
            "no_window",
        )
    if not trusted and not signal:
        return Finding(
            "program",
            "unknown",
            f"{ended}; some programs do not bear to be untrusted",
            again.replace("x11 run", "x11 run --trusted", 1),
            "died_untrusted",
        )
    return Finding("program", "unknown", ended, None, "died")


_LINKS: Mapping[str, Callable[[Session, str, bool], Finding]] = {
    "ssh": _ssh,
    "xauth there": _xauth_there,
    "sshd": _sshd,
    "DISPLAY there": _display_there,
    "cookie there": _cookie_there,
    "window": _window,
}
