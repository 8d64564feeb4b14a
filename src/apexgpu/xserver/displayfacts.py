"""What this machine has for windows: programs are asked and sockets tried, each within a time limit. No judgement."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from apexgpu.errors import ApexError
from apexgpu.platforms import owner
from apexgpu.platforms.system import current
from apexgpu.process import Runner, which
from apexgpu.remote.programs.xdisplay import (
    Connection,
    NotLetInError,
    NotThereError,
    XError,
    connect,
)
from apexgpu.remote.programs.xwire import COOKIE, SECURITY, SOCKETS, Display, parse_display
from apexgpu.xserver.localchecks import Answer, DisplayFacts

_LIMIT = 5.0  # seconds that a program or an X server may take to answer
_START_LIMIT = 25.0  # XQuartz starts when its socket is first used
_ATTEMPTS = 3  # an X server that resets itself at this moment drops new connections
_WINDOWS_SERVERS = ("vcxsrv", "xming", "x410", "xwin", "xwin_mobax", "xlaunch")
_MAC_XAUTH = "/opt/X11/bin/xauth"
_WINDOWS_PROGRAMS = (("VcXsrv", "vcxsrv.exe"), ("Xming", "Xming.exe"))


@dataclass
class LocalDisplay:
    """The facts, and a connection to the X server if it admitted us. The caller closes it.

    An X server without any client may reset itself and forget what it has authorized, so the connection is kept as
    long as windows are wanted.
    """

    facts: DisplayFacts
    connection: Connection | None = None

    @property
    def xauth_for_ssh(self) -> str:
        """The path of xauth that ssh must be given; "" where ssh finds xauth itself."""
        return self.facts.xauth if self.facts.xauth_option else ""

    def close(self) -> None:
        """Leave the X server."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def collect(
    runner: Runner,
    environment: Mapping[str, str],
    ssh_arguments: Sequence[str] = (),
    *,
    system: str | None = None,
) -> LocalDisplay:
    """Collect the facts.

    `ssh_arguments` lead to a container, for which the user's ssh config may name another xauth.
    `system` is a `System`.
    """
    system = system or current()
    name = environment.get("DISPLAY", "")
    display = parse_display(name)
    configured_xauth = _configured_xauth(runner, ssh_arguments)
    xauth = find_xauth(configured_xauth, system)
    cookie = _cookie(runner, xauth, name) if display and xauth else None
    # A path as display is a socket of launchd, which starts XQuartz.
    limit = _START_LIMIT if name.startswith("/") else _LIMIT
    answer, server_answer, connection = _connect(display, cookie, limit)
    facts = DisplayFacts(
        display=name,
        answer=answer,
        server_answer=server_answer,
        security=_has_security(connection),
        xauth=xauth,
        xauth_option=bool(xauth) and xauth != configured_xauth,
        cookie=bool(cookie),
        over_ssh="SSH_CONNECTION" in environment,
    )
    add_system_facts = _SYSTEMS.get(system, _add_linux_facts)
    return LocalDisplay(add_system_facts(facts, runner, environment), connection)


def _configured_xauth(runner: Runner, ssh_arguments: Sequence[str]) -> str:
    """The XAuthLocation that `ssh -G` prints."""
    try:
        text = runner.run(["ssh", "-G", *(ssh_arguments or ["localhost"])], timeout=_LIMIT).text
    except ApexError:
        return ""
    match = re.search(r"^xauthlocation (.+)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def find_xauth(configured: str, system: str) -> str:
    """The xauth that ssh would run (`configured`), or else one that ssh must be given; "" if there is none."""
    candidates = [configured, which("xauth") or ""]
    if system == "darwin":
        candidates.append(_MAC_XAUTH)
    if system == "win32":
        # ssh runs it through a shell without quotes, so no blanks: PROGRA~1 is the short name of "Program Files".
        candidates += [rf"C:\PROGRA~1\{folder}\xauth.exe" for folder, _ in _WINDOWS_PROGRAMS]
    for path in candidates:
        if path and Path(path).is_file():
            return path
    return ""


def _cookie(runner: Runner, xauth: str, display: str, authority: str = "") -> bytes | None:
    """The cookie for a display, found as ssh finds it; None if xauth has none."""
    name = display
    if display.startswith("localhost:"):
        name = f"unix:{display.removeprefix('localhost:')}"
    argv = [xauth, *(["-f", authority] if authority else []), "list", name]
    with suppress(ApexError, ValueError):
        for line in runner.run(argv, timeout=_LIMIT).text.splitlines():
            fields = line.split()
            if len(fields) >= 3 and fields[-2] == COOKIE:
                return bytes.fromhex(fields[-1])
    return None


def _connect(
    display: Display | None, cookie: bytes | None, limit: float
) -> tuple[Answer, str, Connection | None]:
    """Connect to the X server: what came of it, the server's vendor or the reason, and the connection."""
    if display is None:
        return Answer.NOT_ASKED, "", None
    reason = ""
    for _ in range(_ATTEMPTS):
        try:
            connection = Connection(display, cookie, limit)
        except NotLetInError as exc:
            return Answer.REJECTED, str(exc), None
        except NotThereError as exc:
            reason = str(exc)
            was_dropped = "clos" in reason or "reset" in reason or "pipe" in reason
            if not was_dropped:
                break
        else:
            return Answer.ADMITTED, connection.server.vendor, connection
    return Answer.NO_SERVER, reason, None


def _has_security(connection: Connection | None) -> bool:
    if connection is None:
        return False
    try:
        return connection.has(SECURITY)
    except (NotThereError, XError):
        return False


def _output(runner: Runner, *argv: str) -> str:
    """The output of a program, stripped; "" if it fails."""
    with suppress(ApexError):
        completed = runner.run(list(argv), timeout=_LIMIT)
        if completed.code == 0:
            return completed.text.strip()
    return ""


# Linux


def _add_linux_facts(
    facts: DisplayFacts, runner: Runner, environment: Mapping[str, str]
) -> DisplayFacts:
    facts = replace(facts, wayland=bool(environment.get("WAYLAND_DISPLAY")))
    display = parse_display(facts.display)
    if display is None or facts.answer is Answer.NO_SERVER:
        return replace(facts, other_displays=tuple(_answering_displays()))
    if facts.answer is Answer.REJECTED:
        return replace(facts, authority=_other_authority(runner, display, environment))
    return facts


def _answering_displays() -> list[str]:
    """The displays on whose sockets a program listens."""
    displays = []
    for path in sorted(Path(SOCKETS).parent.glob("X*")):
        number = path.name.removeprefix("X")
        if number.isdigit():
            with suppress(NotThereError):
                connect(Display(int(number), "", str(path)), 1).close()
                displays.append(f":{number}")
    return displays


def _other_authority(runner: Runner, display: Display, environment: Mapping[str, str]) -> str:
    """Another authority file whose cookie the X server accepts, where display managers and compositors put theirs."""
    xauth = which("xauth")
    if xauth is None:
        return ""
    runtime = Path(environment.get("XDG_RUNTIME_DIR") or f"/run/user/{owner.user_id()}")
    candidates = [Path(environment.get("HOME", "/")) / ".Xauthority"]
    for pattern in ("gdm/Xauthority", ".mutter-Xwaylandauth.*", "xauth_*", "lyxauth", "Xauthority"):
        candidates += sorted(runtime.glob(pattern))
    for path in candidates:
        cookie = _cookie(runner, xauth, f":{display.number}", str(path))
        if cookie is None:
            continue
        answer, _, connection = _connect(display, cookie, _LIMIT)
        if connection is not None:
            connection.close()
        if answer is Answer.ADMITTED:
            return str(path)
    return ""


# macOS


def _add_macos_facts(
    facts: DisplayFacts, runner: Runner, environment: Mapping[str, str]
) -> DisplayFacts:
    app = "/Applications/Utilities/XQuartz.app"
    version = _output(
        runner, "defaults", "read", f"{app}/Contents/Info", "CFBundleShortVersionString"
    )
    if not version and Path("/opt/X11/bin/Xquartz").exists():
        version = "of unknown version"
    # The settings of XQuartz 2.8 and newer; older versions call their domain org.macosforge.xquartz.
    iglx = _output(runner, "defaults", "read", "org.xquartz.X11", "enable_iglx")
    return replace(
        facts,
        launchd=_output(runner, "launchctl", "getenv", "DISPLAY"),
        xquartz=version,
        iglx=iglx == "1" if version else None,
    )


# Windows


def _add_windows_facts(
    facts: DisplayFacts, runner: Runner, environment: Mapping[str, str]
) -> DisplayFacts:
    listening = True
    try:
        connect(Display(0, "127.0.0.1", ""), 2).close()
    except NotThereError:
        listening = False
    installed = []
    for variable in ("ProgramFiles", "ProgramFiles(x86)"):
        root = environment.get(variable, "")
        for folder, program in _WINDOWS_PROGRAMS:
            path = rf"{root}\{folder}\{program}"
            if root and Path(path).is_file():
                installed.append(path)
    return replace(
        facts,
        servers=x_servers(_output(runner, "tasklist", "/FO", "CSV", "/NH")),
        port=listening,
        installed=tuple(installed),
    )


def x_servers(table: str) -> tuple[str, ...]:
    """The X servers in the output of `tasklist /FO CSV /NH`, whose first field is the program's name."""
    names = dict.fromkeys(re.findall(r'^"([^"]+)"', table, re.MULTILINE))
    servers = []
    for name in names:
        if name.lower().removesuffix(".exe") in _WINDOWS_SERVERS:
            servers.append(name)
    return tuple(servers)


_AddFacts = Callable[[DisplayFacts, Runner, Mapping[str, str]], DisplayFacts]
_SYSTEMS: Mapping[str, _AddFacts] = {"darwin": _add_macos_facts, "win32": _add_windows_facts}
