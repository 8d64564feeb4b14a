"""The links of the chain on this machine: recorded facts of each system in, probes out. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from apexgpu.models import Finding
from apexgpu.remote.programs.xwire import parse_display

_NO_SERVER, _NO_XAUTH = "no_server_installed", "no_xauth"
NOT_INSTALLED = frozenset({_NO_SERVER, _NO_XAUTH})
"""Codes of findings that a program of this machine's is missing."""
State = Literal["in", "not_let_in", "not_there", "not_asked"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found on this machine. Empty strings and tuples where there is nothing.

    `display` is the environment's; `answer` what came of a login there with xauth's cookie, `said` the server's
    vendor or the reason; `security` whether it has the SECURITY extension. `xauth` is the program that ssh will use,
    `xauth_option` whether ssh has to be told of it. `shell` is what sets a variable: `export` or PowerShell's way.

    Linux: `others` are displays whose sockets answer. `authority` is another file whose cookie opens the server.
    macOS: `launchd` is the session's DISPLAY, `xquartz` its version, `iglx` whether OpenGL is let through.
    Windows: `servers` are X servers that run, `installed` programs that could be one, `port` whether 6000 answers.
    """

    display: str = ""
    answer: State = "not_asked"
    said: str = ""
    security: bool = False
    xauth: str = ""
    xauth_option: bool = False
    cookie: bool = False
    over_ssh: bool = False
    others: tuple[str, ...] = ()
    wayland: bool = False
    authority: str = ""
    launchd: str = ""
    xquartz: str = ""
    iglx: bool | None = None
    servers: tuple[str, ...] = ()
    installed: tuple[str, ...] = ()
    port: bool = False


def probes(system: str, facts: Facts, *, trusted: bool, again: str) -> list[Finding]:
    """The chain from DISPLAY to the permission of untrusted programs. `system` is a `sys.platform` value.

    `again` is the command line that was given: a hint may add an option to it.
    """
    found: list[Finding] = []
    looks = {"darwin": _MACOS, "win32": _WINDOWS}.get(system, _LINUX)
    for check, look in looks.items():
        if any(one.verdict == "broken" for one in found):
            found.append(Finding(check, "skipped", "it needs what is broken above"))
        else:
            found.append(look(facts))
    broken = any(one.verdict == "broken" for one in found)
    found.append(
        Finding("permission", "skipped", "it needs what is broken above")
        if broken
        else _permission(facts, trusted, again)
    )
    if system == "darwin" and facts.iglx is not None:
        found.append(_opengl(facts))
    return found


def _valid(facts: Facts, better: str) -> Finding:
    if parse_display(facts.display) is None:
        return Finding(
            "DISPLAY",
            "broken",
            f"DISPLAY is {facts.display!r}, which names no display",
            better,
            "bad_display",
        )
    return Finding("DISPLAY", "ok", facts.display)


def _linux_display(facts: Facts) -> Finding:
    if facts.display:
        return _valid(facts, f"export DISPLAY={(*facts.others, ':0')[0]}")
    code = "no_display"
    if facts.over_ssh:
        return Finding(
            "DISPLAY",
            "broken",
            "DISPLAY is not set: this is an ssh session without X11 itself",
            "ssh -X   (to this machine, from the one whose screen you look at)",
            code,
        )
    if facts.others:
        return Finding(
            "DISPLAY",
            "broken",
            f"DISPLAY is not set, and an X server runs here as {facts.others[0]}",
            f"export DISPLAY={facts.others[0]}",
            code,
        )
    if facts.wayland:
        return Finding(
            "DISPLAY",
            "broken",
            "DISPLAY is not set: this Wayland session has no XWayland",
            "sudo apt install xwayland   (then log out and in again)",
            code,
        )
    return Finding(
        "DISPLAY",
        "broken",
        "DISPLAY is not set: no X server runs here",
        "sudo apt install xorg   (then log in to a graphical session)",
        code,
    )


def _linux_server(facts: Facts) -> Finding:
    if facts.answer != "not_there":
        return _answers(facts)
    if facts.others:
        hint = f"export DISPLAY={facts.others[0]}"
    else:
        hint = "echo $DISPLAY   (in a new terminal window; tmux and screen keep the old value)"
    return Finding(
        "X server",
        "broken",
        f"no X server answers at {facts.display}: {facts.said}",
        hint,
        "no_server",
    )


def _answers(facts: Facts) -> Finding:
    if facts.answer == "not_asked":
        return Finding("X server", "unknown", f"{facts.display} was not asked")
    kind = "XWayland" if facts.wayland and facts.display.startswith(":") else facts.said
    return Finding(
        "X server", "ok", f"{kind} answers" if facts.answer == "in" and kind else "it answers"
    )


def _linux_xauth(facts: Facts) -> Finding:
    return _xauth(facts, "sudo apt install xauth")


def _xauth(facts: Facts, install: str) -> Finding:
    if not facts.xauth:
        return Finding(
            "xauth",
            "broken",
            "xauth is not installed: ssh has no cookie for the X server",
            install,
            _NO_XAUTH,
        )
    return Finding("xauth", "ok", facts.xauth)


def _linux_cookie(facts: Facts) -> Finding:
    if facts.answer != "not_let_in":
        return _let_in(facts)
    what = "xauth's cookie is not the server's" if facts.cookie else "xauth has no cookie for it"
    if facts.authority:
        return Finding(
            "cookie",
            "broken",
            f"{facts.display} does not let you in: {what}; {facts.authority} has the right one",
            f"export XAUTHORITY={facts.authority}",
            "bad_cookie",
        )
    return Finding(
        "cookie",
        "broken",
        f"{facts.display} does not let you in: {what} ({facts.said})",
        "xhost +si:localuser:$USER   (in a window of that screen; or log out and in again)",
        "bad_cookie",
    )


def _let_in(facts: Facts) -> Finding:
    if facts.answer != "in":
        return Finding("cookie", "unknown", "the server was not asked")
    fact = "xauth's cookie opens it" if facts.cookie else "the server asks this account for none"
    return Finding("cookie", "ok", fact)


def _permission(facts: Facts, trusted: bool, again: str) -> Finding:
    if trusted:
        return Finding(
            "permission", "ok", "programs there are trusted with this whole screen, as you said"
        )
    if not facts.xauth:  # of Windows alone: elsewhere it is missing above
        why = "there is no xauth here to get an untrusted cookie with"
    elif facts.security:
        return Finding("permission", "ok", "the server can restrict untrusted programs (SECURITY)")
    elif facts.answer != "in":
        return Finding("permission", "unknown", "the server was not asked")
    else:
        why = "this X server cannot restrict programs (no SECURITY extension)"
    return Finding(
        "permission",
        "broken",
        f"{why}; they would have to be trusted with this whole screen",
        again.replace("x11 check", "x11 check --trusted", 1).replace(
            "x11 run", "x11 run --trusted", 1
        ),
        "no_security",
    )


_MAC_DISPLAY = "export DISPLAY=$(launchctl getenv DISPLAY)"


def _macos_display(facts: Facts) -> Finding:
    if not facts.xquartz and facts.answer != "in":
        return Finding(
            "DISPLAY",
            "broken",
            "XQuartz is not installed: macOS has no X server of its own",
            "brew install --cask xquartz   (then log out and in again)",
            _NO_SERVER,
        )
    if not facts.display and facts.launchd:
        return Finding(
            "DISPLAY",
            "broken",
            "DISPLAY is not set in this terminal, which is older than XQuartz or was "
            "started by something else",
            _MAC_DISPLAY,
            "no_display",
        )
    if not facts.display:
        fact = f"XQuartz {facts.xquartz} is installed, and this login does not know it yet"
        return Finding(
            "DISPLAY",
            "broken",
            fact,
            "open -a XQuartz   (DISPLAY stays empty? log out and in again)",
            "no_display",
        )
    return _valid(facts, _MAC_DISPLAY)


def _macos_server(facts: Facts) -> Finding:
    if facts.answer != "not_there":
        return _answers(facts)
    if facts.launchd and facts.launchd != facts.display:
        return Finding(
            "X server",
            "broken",
            f"no X server answers at {facts.display}, a session that is over "
            "(tmux and screen keep it)",
            _MAC_DISPLAY,
            "no_server",
        )
    return Finding(
        "X server",
        "broken",
        f"XQuartz does not answer at {facts.display}: {facts.said}",
        "open -a XQuartz",
        "no_server",
    )


def _macos_xauth(facts: Facts) -> Finding:
    found = _xauth(facts, "brew reinstall --cask xquartz   (it brings /opt/X11/bin/xauth)")
    if found.verdict == "ok" and facts.xauth_option:
        return Finding(
            "xauth",
            "ok",
            f"{facts.xauth}, which ssh does not find by itself: it is told",
            f"for plain ssh -X, in ~/.ssh/config: XAuthLocation {facts.xauth}",
        )
    return found


def _macos_cookie(facts: Facts) -> Finding:
    if facts.answer != "not_let_in":
        return _let_in(facts)
    return Finding(
        "cookie",
        "broken",
        f"XQuartz does not let you in: {facts.said or 'the cookie is not its own'}",
        "osascript -e 'quit app \"XQuartz\"'; rm -f ~/.Xauthority; open -a XQuartz",
        "bad_cookie",
    )


def _opengl(facts: Facts) -> Finding:
    if facts.iglx:
        return Finding("OpenGL", "ok", "indirect GLX is on")
    return Finding(
        "OpenGL",
        "unknown",
        "indirect GLX is off; only OpenGL programs need it",
        "defaults write org.xquartz.X11 enable_iglx -bool true   (then start XQuartz again)",
    )


_WINDOWS_DISPLAY = "127.0.0.1:0.0"
_SET = f'$env:DISPLAY = "{_WINDOWS_DISPLAY}"; setx DISPLAY {_WINDOWS_DISPLAY}'
_START = '& "{}" :0 -multiwindow -clipboard -wgl'


def _windows_server(facts: Facts) -> Finding:
    names = ", ".join(facts.servers)
    if facts.answer in {"in", "not_let_in"}:
        return Finding(
            "X server", "ok", f"{names or facts.said or 'something'} answers at {facts.display}"
        )
    if facts.port:
        return Finding("X server", "ok", f"{names or 'something'} listens on port 6000")
    if facts.servers:
        return Finding(
            "X server",
            "broken",
            f"{names} runs, and not as display 0: port 6000 is silent",
            "end it, and start it as display 0 (XLaunch: display number 0)",
            "no_server",
        )
    if facts.installed:
        return Finding(
            "X server", "broken", "no X server runs", _START.format(facts.installed[0]), "no_server"
        )
    return Finding(
        "X server",
        "broken",
        "there is no X server on this machine",
        "winget install marha.VcXsrv",
        _NO_SERVER,
    )


def _windows_display(facts: Facts) -> Finding:
    if not facts.display:
        return Finding(
            "DISPLAY",
            "broken",
            "DISPLAY is not set, so ssh does not ask for X11",
            _SET,
            "no_display",
        )
    place = parse_display(facts.display)
    if place is not None and not place.host:
        return Finding(
            "DISPLAY",
            "broken",
            f"DISPLAY is {facts.display}: ssh for Windows looks for a Unix socket "
            "there, and there is none",
            _SET,
            "bad_display",
        )
    return _valid(facts, _SET)


def _windows_login(facts: Facts) -> Finding:
    if facts.answer == "not_there":
        return Finding(
            "cookie",
            "broken",
            f"no X server answers at {facts.display}: {facts.said}",
            _SET,
            "no_server",
        )
    if facts.answer == "not_let_in":
        return Finding(
            "cookie",
            "broken",
            f"the X server does not let 127.0.0.1 in ({facts.said})",
            'Add-Content "$env:ProgramFiles\\VcXsrv\\X0.hosts" 127.0.0.1   (as administrator; then start '
            "it again)",
            "bad_cookie",
        )
    return _let_in(facts)


_LINUX: Mapping[str, Callable[[Facts], Finding]] = {
    "DISPLAY": _linux_display,
    "X server": _linux_server,
    "xauth": _linux_xauth,
    "cookie": _linux_cookie,
}
_MACOS: Mapping[str, Callable[[Facts], Finding]] = {
    "DISPLAY": _macos_display,
    "X server": _macos_server,
    "xauth": _macos_xauth,
    "cookie": _macos_cookie,
}
_WINDOWS: Mapping[str, Callable[[Facts], Finding]] = {
    "X server": _windows_server,
    "DISPLAY": _windows_display,
    "cookie": _windows_login,
}
