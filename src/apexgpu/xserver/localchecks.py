"""The checks on this machine, from DISPLAY to the permission of untrusted programs. Pure: facts in, findings out.

The facts of each system are collected by `displayfacts`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from apexgpu.models import Finding
from apexgpu.remote.programs.xwire import parse_display

_NO_SERVER, _NO_XAUTH = "no_server_installed", "no_xauth"
NOT_INSTALLED = frozenset({_NO_SERVER, _NO_XAUTH})
"""The codes of findings that a program of this machine is not installed."""


class Answer(Enum):
    """What came of connecting to the X server that DISPLAY names, with xauth's cookie."""

    ADMITTED = "admitted"
    REJECTED = "rejected"
    NO_SERVER = "no server"
    NOT_ASKED = "not asked"


@dataclass(frozen=True, slots=True)
class DisplayFacts:
    """What was found on this machine. Empty strings and tuples where there is nothing.

    `display` is the environment's DISPLAY. `server_answer` is the X server's vendor, or why it
    rejected us; `security` tells whether it has the SECURITY extension. `xauth` is the program that
    ssh will use, and `xauth_option` whether ssh must be given its path; `cookie` tells whether
    xauth has one for this display. `over_ssh` tells whether this is an ssh session.

    Linux: `other_displays` have sockets that answer; `authority` is another file whose cookie the
    server accepts. macOS: `launchd` is the login session's DISPLAY, `xquartz` its version, `iglx`
    whether it allows indirect OpenGL. Windows: `servers` are X servers that run, `installed`
    programs that could be started, `port` whether port 6000 answers.
    """

    display: str = ""
    answer: Answer = Answer.NOT_ASKED
    server_answer: str = ""
    security: bool = False
    xauth: str = ""
    xauth_option: bool = False
    cookie: bool = False
    over_ssh: bool = False
    other_displays: tuple[str, ...] = ()
    wayland: bool = False
    authority: str = ""
    launchd: str = ""
    xquartz: str = ""
    iglx: bool | None = None
    servers: tuple[str, ...] = ()
    installed: tuple[str, ...] = ()
    port: bool = False


def check_display(system: str, facts: DisplayFacts, *, trusted: bool, again: str) -> list[Finding]:
    """Check each link from DISPLAY to the X server; what comes after a broken one is skipped.

    `system` is a `System`. `again` is the command that the user ran: a hint may add an option to it.
    """
    checks = {"darwin": _MACOS, "win32": _WINDOWS}.get(system, _LINUX)
    findings: list[Finding] = []
    is_broken = False
    for name, check in checks.items():
        finding = Finding.skipped(name) if is_broken else check(facts)
        is_broken = is_broken or finding.verdict == "broken"
        findings.append(finding)
    if is_broken:
        findings.append(Finding.skipped("permission"))
    else:
        findings.append(_check_permission(facts, trusted, again))
    if system == "darwin" and facts.iglx is not None:
        findings.append(_check_macos_opengl(facts))
    return findings


# Checks that the systems share


def _check_display_name(facts: DisplayFacts, hint: str) -> Finding:
    if parse_display(facts.display) is None:
        fact = f"DISPLAY is {facts.display!r}, which names no display"
        return Finding.broken("DISPLAY", fact, hint, code="bad_display")
    return Finding.ok("DISPLAY", facts.display)


def _server_answers(facts: DisplayFacts) -> Finding:
    """The finding for an X server that answered, or was not asked."""
    if facts.answer is Answer.NOT_ASKED:
        return Finding.unknown("X server", f"{facts.display} was not asked")
    is_xwayland = facts.wayland and facts.display.startswith(":")
    name = facts.server_answer
    if is_xwayland:
        name = "XWayland"
    # A server that rejected us answered with its reason instead of its name.
    if facts.answer is Answer.ADMITTED and name:
        return Finding.ok("X server", f"{name} answers")
    return Finding.ok("X server", "it answers")


def _check_xauth(facts: DisplayFacts, install: str) -> Finding:
    if not facts.xauth:
        fact = "xauth is not installed: ssh has no cookie for the X server"
        return Finding.broken("xauth", fact, install, code=_NO_XAUTH)
    return Finding.ok("xauth", facts.xauth)


def _admitted(facts: DisplayFacts) -> Finding:
    if facts.answer is not Answer.ADMITTED:
        return Finding.unknown("cookie", "the X server was not asked")
    if facts.cookie:
        return Finding.ok("cookie", "the X server accepts xauth's cookie")
    return Finding.ok("cookie", "the X server admits this account without a cookie")


def _check_permission(facts: DisplayFacts, trusted: bool, again: str) -> Finding:
    if trusted:
        fact = "programs in the container are trusted with this whole screen, as requested"
        return Finding.ok("permission", fact)
    if not facts.xauth:  # possible on Windows only; elsewhere it is a broken link
        why = "this machine has no xauth to make an untrusted cookie with"
    elif facts.security:
        return Finding.ok("permission", "the X server can restrict untrusted programs (SECURITY)")
    elif facts.answer is not Answer.ADMITTED:
        return Finding.unknown("permission", "the X server was not asked")
    else:
        why = "this X server cannot restrict programs (no SECURITY extension)"
    hint = again
    for command in ("x11 check", "x11 run"):
        hint = hint.replace(command, f"{command} --trusted", 1)
    fact = f"{why}; they would have to be trusted with this whole screen"
    return Finding.broken("permission", fact, hint, code="no_security")


# Linux


def _check_linux_display(facts: DisplayFacts) -> Finding:
    if facts.display:
        other = facts.other_displays[0] if facts.other_displays else ":0"
        return _check_display_name(facts, f"export DISPLAY={other}")
    if facts.over_ssh:
        fact = (
            "DISPLAY is not set: this is an ssh session without X11 itself; connect to this"
            " machine with X11 forwarding"
        )
        # The command for the other machine, with the names of this one.
        hint = 'echo "ssh -X $USER@$(hostname)"'
    elif facts.other_displays:
        fact = f"DISPLAY is not set, and an X server runs here as {facts.other_displays[0]}"
        hint = f"export DISPLAY={facts.other_displays[0]}"
    elif facts.wayland:
        fact = "DISPLAY is not set: this Wayland session has no XWayland; after its installation, log in again"
        hint = "sudo apt install xwayland"
    else:
        fact = "DISPLAY is not set: no X server runs here; after its installation, log in to a graphical session"
        hint = "sudo apt install xorg"
    return Finding.broken("DISPLAY", fact, hint, code="no_display")


def _check_linux_server(facts: DisplayFacts) -> Finding:
    if facts.answer is not Answer.NO_SERVER:
        return _server_answers(facts)
    fact = f"no X server answers at {facts.display}: {facts.server_answer}"
    if facts.other_displays:
        hint = f"export DISPLAY={facts.other_displays[0]}"
    else:
        fact += "; tmux and screen keep an old DISPLAY, so compare it in a new terminal window"
        hint = "echo $DISPLAY"
    return Finding.broken("X server", fact, hint, code="no_server")


def _check_linux_xauth(facts: DisplayFacts) -> Finding:
    return _check_xauth(facts, "sudo apt install xauth")


def _check_linux_cookie(facts: DisplayFacts) -> Finding:
    if facts.answer is not Answer.REJECTED:
        return _admitted(facts)
    why = "xauth's cookie is not the X server's" if facts.cookie else "xauth has no cookie for it"
    if facts.authority:
        fact = f"{facts.display} rejects you: {why}; {facts.authority} has the right one"
        hint = f"export XAUTHORITY={facts.authority}"
    else:
        fact = (
            f"{facts.display} rejects you: {why} ({facts.server_answer}); log out and in again, or run the command in a"
            " window of that screen"
        )
        hint = "xhost +si:localuser:$USER"
    return Finding.broken("cookie", fact, hint, code="bad_cookie")


# macOS

_MACOS_DISPLAY = "export DISPLAY=$(launchctl getenv DISPLAY)"


def _check_macos_display(facts: DisplayFacts) -> Finding:
    if not facts.xquartz and facts.answer is not Answer.ADMITTED:
        fact = "XQuartz is not installed: macOS has no X server of its own; after its installation, log in again"
        return Finding.broken("DISPLAY", fact, "brew install --cask xquartz", code=_NO_SERVER)
    if facts.display:
        return _check_display_name(facts, _MACOS_DISPLAY)
    if facts.launchd:
        fact = "DISPLAY is not set in this terminal: it is older than XQuartz, or another program started it"
        hint = _MACOS_DISPLAY
    else:
        fact = (
            f"XQuartz {facts.xquartz} is installed, but this login does not know it yet; if DISPLAY stays empty, log"
            " in again"
        )
        hint = "open -a XQuartz"
    return Finding.broken("DISPLAY", fact, hint, code="no_display")


def _check_macos_server(facts: DisplayFacts) -> Finding:
    if facts.answer is not Answer.NO_SERVER:
        return _server_answers(facts)
    if facts.launchd and facts.launchd != facts.display:
        fact = f"no X server answers at {facts.display}, which belongs to an old session (tmux and screen keep it)"
        hint = _MACOS_DISPLAY
    else:
        fact = f"XQuartz does not answer at {facts.display}: {facts.server_answer}"
        hint = "open -a XQuartz"
    return Finding.broken("X server", fact, hint, code="no_server")


def _check_macos_xauth(facts: DisplayFacts) -> Finding:
    # XQuartz brings /opt/X11/bin/xauth.
    finding = _check_xauth(facts, "brew reinstall --cask xquartz")
    if finding.verdict == "ok" and facts.xauth_option:
        fact = (
            f"{facts.xauth}; ssh does not find it and is given the path; for plain ssh -X, ~/.ssh/config needs"
            f" the line: XAuthLocation {facts.xauth}"
        )
        return Finding.ok("xauth", fact)
    return finding


def _check_macos_cookie(facts: DisplayFacts) -> Finding:
    if facts.answer is not Answer.REJECTED:
        return _admitted(facts)
    fact = f"XQuartz rejects you: {facts.server_answer or 'the cookie is not its own'}"
    hint = "osascript -e 'quit app \"XQuartz\"'; rm -f ~/.Xauthority; open -a XQuartz"
    return Finding.broken("cookie", fact, hint, code="bad_cookie")


def _check_macos_opengl(facts: DisplayFacts) -> Finding:
    if facts.iglx:
        return Finding.ok("OpenGL", "indirect GLX is on")
    return Finding.unknown(
        "OpenGL",
        "indirect GLX is off; only OpenGL programs need it; XQuartz reads the setting when it starts",
        "defaults write org.xquartz.X11 enable_iglx -bool true",
    )


# Windows

_WINDOWS_DISPLAY = "127.0.0.1:0.0"
_SET_DISPLAY = f'$env:DISPLAY = "{_WINDOWS_DISPLAY}"; setx DISPLAY {_WINDOWS_DISPLAY}'
_START_SERVER = '& "{}" :0 -multiwindow -clipboard -wgl'


def _check_windows_server(facts: DisplayFacts) -> Finding:
    names = ", ".join(facts.servers)
    if facts.answer in {Answer.ADMITTED, Answer.REJECTED}:
        server = names or facts.server_answer or "an X server"
        return Finding.ok("X server", f"{server} answers at {facts.display}")
    if facts.port:
        return Finding.ok("X server", f"{names or 'a program'} listens on port 6000")
    if facts.servers:
        fact = f"{names} runs, but not as display 0: port 6000 does not answer"
        hint = "apexgpu x11 check"
        if facts.installed:
            # Two servers can run side by side, so that no window has to be closed.
            hint = _START_SERVER.format(facts.installed[0])
        return Finding.broken("X server", fact, hint, code="no_server")
    if facts.installed:
        hint = _START_SERVER.format(facts.installed[0])
        return Finding.broken("X server", "no X server runs", hint, code="no_server")
    fact = "there is no X server on this machine"
    return Finding.broken("X server", fact, "winget install marha.VcXsrv", code=_NO_SERVER)


def _check_windows_display(facts: DisplayFacts) -> Finding:
    if not facts.display:
        fact = "DISPLAY is not set, so ssh does not request X11 forwarding"
        return Finding.broken("DISPLAY", fact, _SET_DISPLAY, code="no_display")
    display = parse_display(facts.display)
    if display is not None and not display.host:
        fact = f"DISPLAY is {facts.display}: ssh would look for a Unix socket, and Windows has none"
        return Finding.broken("DISPLAY", fact, _SET_DISPLAY, code="bad_display")
    return _check_display_name(facts, _SET_DISPLAY)


def _check_windows_login(facts: DisplayFacts) -> Finding:
    if facts.answer is Answer.NO_SERVER:
        fact = f"no X server answers at {facts.display}: {facts.server_answer}"
        return Finding.broken("cookie", fact, _SET_DISPLAY, code="no_server")
    if facts.answer is Answer.REJECTED:
        fact = (
            f"the X server rejects 127.0.0.1 ({facts.server_answer}); run the command as "
            "administrator, then start the X server again"
        )
        hint = 'Add-Content "$env:ProgramFiles\\VcXsrv\\X0.hosts" 127.0.0.1'
        return Finding.broken("cookie", fact, hint, code="bad_cookie")
    return _admitted(facts)


_Check = Callable[[DisplayFacts], Finding]
_LINUX: Mapping[str, _Check] = {
    "DISPLAY": _check_linux_display,
    "X server": _check_linux_server,
    "xauth": _check_linux_xauth,
    "cookie": _check_linux_cookie,
}
_MACOS: Mapping[str, _Check] = {
    "DISPLAY": _check_macos_display,
    "X server": _check_macos_server,
    "xauth": _check_macos_xauth,
    "cookie": _check_macos_cookie,
}
_WINDOWS: Mapping[str, _Check] = {
    "X server": _check_windows_server,
    "DISPLAY": _check_windows_display,
    "cookie": _check_windows_login,
}
