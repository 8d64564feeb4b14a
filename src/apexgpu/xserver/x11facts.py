"""What there is on this machine for windows: programs asked, sockets tried, each within a limit. No verdicts."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from apexgpu.errors import ApexError
from apexgpu.process import Runner, which
from apexgpu.remote.programs.xdisplay import Connection, NotLetInError, NotThereError, XError, reach
from apexgpu.remote.programs.xwire import COOKIE, SECURITY, SOCKETS, Display, parse_display
from apexgpu.xserver.x11local import Facts, State

_ASK = 5.0  # seconds a program or a server may take to answer
_TRIES = 3  # a server that begins anew in this moment drops who has just come
_START = 25.0  # XQuartz starts when its socket is first used
_X_SERVERS = ("vcxsrv", "xming", "x410", "xwin", "xwin_mobax", "xlaunch")
_MAC_XAUTH = "/opt/X11/bin/xauth"
_WINDOWS_PROGRAMS = (("VcXsrv", "vcxsrv.exe"), ("Xming", "Xming.exe"))


@dataclass
class Here:
    """The facts, and the connection on which they were found, if the server let us in: whoever holds it closes it.

    A server without any other client may begin anew when its last one leaves, and forget what it has authorized:
    so it is kept as long as windows are wanted.
    """

    facts: Facts
    link: Connection | None = None

    def close(self) -> None:
        """Leave the X server."""
        if self.link is not None:
            self.link.close()
            self.link = None


def collect(
    runner: Runner,
    environment: Mapping[str, str],
    where: Sequence[str] = (),
    *,
    system: str = sys.platform,
) -> Here:
    """Ask everything. `where` leads to a container: the user's ssh config may name another xauth for it."""
    shown = environment.get("DISPLAY", "")
    place = parse_display(shown)
    configured = _configured_xauth(runner, where)
    xauth = find_xauth(configured, system)
    cookie = _cookie(runner, xauth, shown) if place and xauth else None
    state, said, link = _log_in(place, cookie, _START if shown.startswith("/") else _ASK)
    found = Facts(
        display=shown,
        answer=state,
        said=said,
        security=_security(link),
        xauth=xauth,
        xauth_option=bool(xauth) and xauth != configured,
        cookie=bool(cookie),
        over_ssh="SSH_CONNECTION" in environment,
        **{"darwin": _macos, "win32": _windows}.get(system, _linux)(
            runner, environment, place, state
        ),  # type: ignore[arg-type]  # each names its own
    )
    return Here(found, link)


def _configured_xauth(runner: Runner, where: Sequence[str]) -> str:
    """What `ssh -G` says of XAuthLocation."""
    with suppress(ApexError):
        text = runner.run(["ssh", "-G", *(where or ["localhost"])], timeout=_ASK).text
        found = re.search(r"^xauthlocation (.+)$", text, re.MULTILINE)
        return found[1].strip() if found else ""
    return ""


def find_xauth(configured: str, system: str) -> str:
    """The xauth that ssh would run, or the one that it has to be told of; empty where there is none."""
    others = [which("xauth") or "", *([_MAC_XAUTH] if system == "darwin" else [])]
    if system == "win32":
        # ssh runs it through a shell and does not quote it: no blanks (the short name of "Program Files").
        others += [rf"C:\PROGRA~1\{folder}\xauth.exe" for folder, _ in _WINDOWS_PROGRAMS]
    return next((path for path in (configured, *others) if path and Path(path).is_file()), "")


def _cookie(runner: Runner, xauth: str, shown: str, authority: str = "") -> bytes | None:
    """The cookie as ssh would get it."""
    name = f"unix:{shown.removeprefix('localhost:')}" if shown.startswith("localhost:") else shown
    words = [xauth, *(["-f", authority] if authority else []), "list", name]
    with suppress(ApexError, ValueError):
        for line in runner.run(words, timeout=_ASK).text.splitlines():
            fields = line.split()
            if len(fields) >= 3 and fields[-2] == COOKIE:
                return bytes.fromhex(fields[-1])
    return None


def _log_in(
    place: Display | None, cookie: bytes | None, limit: float
) -> tuple[State, str, Connection | None]:
    if place is None:
        return "not_asked", "", None
    said = ""
    for _ in range(_TRIES):
        try:
            link = Connection(place, cookie, limit)
        except NotLetInError as exc:
            return "not_let_in", str(exc), None
        except NotThereError as exc:
            said = str(exc)
            if "clos" not in said and "reset" not in said and "pipe" not in said:
                break
        else:
            return "in", link.server.vendor, link
    return "not_there", said, None


def _security(link: Connection | None) -> bool:
    if link is None:
        return False
    try:
        return link.has(SECURITY)
    except (NotThereError, XError):
        return False


def _linux(
    runner: Runner, environment: Mapping[str, str], place: Display | None, state: State
) -> dict[str, object]:
    found: dict[str, object] = {"wayland": bool(environment.get("WAYLAND_DISPLAY"))}
    if place is None or state == "not_there":
        found["others"] = tuple(_living())
    if place is not None and state == "not_let_in":
        found["authority"] = _other_authority(runner, place, environment)
    return found


def _living() -> list[str]:
    """The displays whose sockets somebody listens on."""
    found = []
    for path in sorted(Path(SOCKETS).parent.glob("X*")):
        number = path.name.removeprefix("X")
        if number.isdigit():
            with suppress(NotThereError):
                reach(Display(int(number), "", str(path)), 1).close()
                found.append(f":{number}")
    return found


def _other_authority(runner: Runner, place: Display, environment: Mapping[str, str]) -> str:
    """Another authority file with which the server lets us in: where display managers and compositors put theirs."""
    run = Path(environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    places = [Path(environment.get("HOME", "/")) / ".Xauthority"]
    for pattern in ("gdm/Xauthority", ".mutter-Xwaylandauth.*", "xauth_*", "lyxauth", "Xauthority"):
        places += sorted(run.glob(pattern))
    xauth = which("xauth")
    for path in places if xauth else ():
        cookie = _cookie(runner, xauth or "", f":{place.number}", str(path))
        state, _, link = _log_in(place, cookie, _ASK) if cookie else ("not_asked", "", None)
        if link is not None:
            link.close()
        if state == "in":
            return str(path)
    return ""


def _said(runner: Runner, *argv: str) -> str:
    """What a program says, stripped; nothing where it fails."""
    with suppress(ApexError):
        done = runner.run(list(argv), timeout=_ASK)
        return done.text.strip() if done.code == 0 else ""
    return ""


def _macos(
    runner: Runner, environment: Mapping[str, str], place: Display | None, state: State
) -> dict[str, object]:
    app = "/Applications/Utilities/XQuartz.app"
    # defaults(1), launchctl(1); 2.8 and newer call their domain org.xquartz, older ones org.macosforge.xquartz.
    version = _said(
        runner, "defaults", "read", f"{app}/Contents/Info", "CFBundleShortVersionString"
    )
    if not version and Path("/opt/X11/bin/Xquartz").exists():
        version = "of unknown version"
    iglx = _said(runner, "defaults", "read", "org.xquartz.X11", "enable_iglx")
    return {
        "launchd": _said(runner, "launchctl", "getenv", "DISPLAY"),
        "xquartz": version,
        "iglx": iglx == "1" if version else None,
    }


def _windows(
    runner: Runner, environment: Mapping[str, str], place: Display | None, state: State
) -> dict[str, object]:
    listening = True
    try:
        reach(Display(0, "127.0.0.1", ""), 2).close()
    except NotThereError:
        listening = False
    roots = [environment.get(name, "") for name in ("ProgramFiles", "ProgramFiles(x86)")]
    found = [
        rf"{root}\{folder}\{name}" for root in roots if root for folder, name in _WINDOWS_PROGRAMS
    ]
    return {
        "servers": x_servers(_said(runner, "tasklist", "/FO", "CSV", "/NH")),
        "port": listening,
        "installed": tuple(path for path in found if Path(path).is_file()),
    }


def x_servers(table: str) -> tuple[str, ...]:
    """The X servers in the answer of `tasklist /FO CSV /NH`, whose first field is the program's name."""
    names = dict.fromkeys(re.findall(r'^"([^"]+)"', table, re.MULTILINE))
    return tuple(name for name in names if name.lower().removesuffix(".exe") in _X_SERVERS)
