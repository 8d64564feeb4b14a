"""Starts a lab in a process of its own, and controls it over HTTP on loopback. Cheap to import."""

import contextlib
import hashlib
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apexgpu.errors import (
    ApexError,
    MissingProgramError,
    RefusedError,
    UnknownHostError,
    UnreachableError,
    UsageError,
)
from apexgpu.files import locked, private_directory, replace_atomically
from apexgpu.platforms.starting import background_flags, neutral_directory
from apexgpu.platforms.system import current, is_windows
from apexgpu_lab.layout import Layout

if TYPE_CHECKING:
    import subprocess

_INSTALLERS = "Share/GPU_Server"
"""The directory of installers on the NAS."""

_POLL_INTERVAL = 0.02
_REQUEST_TIMEOUT = 10.0
MOST_HOSTS = 256
# Services that this process started, by process number: `down` waits for them, or they would stay zombies.
_started: dict[int, "subprocess.Popen[bytes]"] = {}


def up(
    home: Path, *, hosts: int, registered: bool, timeout: float = 60, pace: float = 1
) -> dict[str, Any]:
    """Start a lab of `hosts` hosts in the directory `home`, unless it runs already; return its status.

    `pace` scales the pauses of the real servers (1: as slow as they are, 0: no pauses).

    Raises RefusedError if a lab of another size runs there, ApexError (with the last line of its
    log) if it ends while it starts, UnreachableError if it does not start within `timeout` seconds.
    """
    if not 1 <= hosts <= MOST_HOSTS:
        raise UsageError(
            f"a lab has 1 to {MOST_HOSTS} hosts, not {hosts}", hint="apexgpu lab up --hosts 3"
        )
    need_extra()
    layout = Layout(private_directory(home).absolute())
    with locked(layout.home / "up.lock", what=f"the lab in {home}", timeout=timeout):
        if _is_running(layout):
            _require_same_lab(layout, hosts=hosts, registered=registered)
        else:
            _delete_remains(layout)
            _start(layout, hosts=hosts, registered=registered, pace=pace, timeout=timeout)
            _accept_installers(layout)
    return status(home)


def status(home: Path) -> dict[str, Any]:
    """Return what `lab status --json` prints; if no lab runs, `running` is false and the lists are empty."""
    layout = Layout(home)
    if not _is_running(layout):
        return {
            "schema": 1,
            "running": False,
            "iam_url": None,
            "hosts": [],
            "users": [],
            "faults": [],
            "nas": None,
            "state": None,
        }
    return _request(layout, "GET", "/status")


def environment(home: Path) -> dict[str, str]:
    """Return the environment variables that point apexgpu at the lab. Raises RefusedError if none runs."""
    return Layout(home).environment(str(_running_description(Layout(home))["iam_url"]))


def fault(home: Path, host: str, kind: str, times: int | None = None) -> list[dict[str, Any]]:
    """Set a fault on a host or on "iam"; return all faults that are set now."""
    wanted = {"host": host, "kind": kind, "times": times}
    return list(_request(Layout(home), "POST", "/fault", wanted)["faults"])


def clear(home: Path, host: str, kind: str) -> list[dict[str, Any]]:
    """Clear a fault; return the faults that are still set."""
    wanted = {"host": host, "kind": kind, "clear": True}
    return list(_request(Layout(home), "POST", "/fault", wanted)["faults"])


def add_user(home: Path, name: str, display_name: str | None = None) -> dict[str, Any]:
    """Add a user to the lab's domain; return `{"name", "password"}`."""
    return _request(Layout(home), "POST", "/user", {"name": name, "display_name": display_name})


def down(home: Path, timeout: float = 15) -> bool:
    """Stop the lab and delete its directory; return False if there was none.

    Ends every process that the lab started, also if the lab itself was killed.
    """
    layout = Layout(home)
    if not layout.home.is_dir() or not (layout.marker.exists() or layout.lock.exists()):
        return False
    description = layout.read()
    if _lock_is_held(layout):
        with contextlib.suppress(ApexError):
            _request(layout, "POST", "/stop", {}, timeout=min(timeout, _REQUEST_TIMEOUT))
        if not _wait_until_stopped(layout, timeout):
            _kill_service(layout, description)
    _clean_up_after_service(description)
    _remove_home(layout.home, timeout)
    return True


def need_extra() -> None:
    """Raise MissingProgramError if this machine lacks what the lab needs: the extra `lab`; on Windows, sh."""
    from importlib.util import find_spec

    if is_windows():
        message = "the embedded lab needs sh and /proc, which Windows lacks: run it in WSL"
        raise MissingProgramError(message, hint="wsl --install -d Ubuntu")

    missing = [name for name in ("asyncssh", "h11") if find_spec(name) is None]
    if missing:
        message = f"the embedded lab needs {' and '.join(missing)}"
        raise MissingProgramError(
            f"{message} (run the command in apexgpu's source directory)", hint=install_command()
        )


def _accept_installers(layout: Layout) -> None:
    """Let an apexgpu that uses the lab know the stand-ins on its NAS, so that it does not warn of their checksums."""
    directory = Path(str(_request(layout, "GET", "/status")["nas"])) / _INSTALLERS
    checksums = {}
    for path in sorted(directory.glob("*")):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            checksums[f"/newNAS/{_INSTALLERS}/{path.name}"] = digest
    replace_atomically(layout.state / "installers.json", json.dumps(checksums).encode())


def install_command() -> str:
    """The command that adds the extra `lab` to this installation, as it was installed: with pipx, uv or pip."""
    prefix = Path(sys.prefix)
    if "pipx" in prefix.parts:
        return "pipx install --force '.[lab]'"
    if (prefix / "uv-receipt.toml").exists():
        return "uv tool install --reinstall '.[lab]'"
    return f"{shlex.quote(sys.executable)} -m pip install '.[lab]'"


def _start(layout: Layout, *, hosts: int, registered: bool, pace: float, timeout: float) -> None:
    import subprocess

    argv = [
        sys.executable,
        "-m",
        "apexgpu_lab",
        "serve",
        "--directory",
        str(layout.home),
        "--hosts",
        str(hosts),
        "--pace",
        str(pace),
        *(["--registered"] if registered else []),
    ]
    layout.marker.touch()
    with layout.log.open("ab") as log:
        child = subprocess.Popen(  # noqa: S603 - our own program, with words that we made
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            creationflags=background_flags(current()),
            cwd=neutral_directory(current()),
            start_new_session=not is_windows(),
        )
    _started[child.pid] = child
    deadline = time.monotonic() + timeout
    while layout.read() is None:
        if child.poll() is not None:
            raise ApexError(
                f"the lab did not start: {_last_log_line(layout)}", hint=f"look at {layout.log}"
            )
        if time.monotonic() > deadline:
            child.kill()
            child.wait()
            raise UnreachableError(
                f"the lab did not come up within {timeout:g} s", hint=f"look at {layout.log}"
            )
        time.sleep(_POLL_INTERVAL)


def _last_log_line(layout: Layout) -> str:
    lines = [
        line
        for line in layout.log.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    return lines[-1].removeprefix("error: ") if lines else "it printed nothing"


def _require_same_lab(layout: Layout, *, hosts: int, registered: bool) -> None:
    description = _running_description(layout)
    if description["hosts"] != hosts or (registered and not description["registered"]):
        kind = "registered" if description["registered"] else "not registered"
        count = description["hosts"]
        size = "1 host" if count == 1 else f"{count} hosts"
        raise RefusedError(
            f"another lab is running, with {size} ({kind})",
            hint="apexgpu lab down",
        )


def _is_running(layout: Layout) -> bool:
    """Tell whether a service serves in this directory."""
    return layout.read() is not None and _lock_is_held(layout)


def _lock_is_held(layout: Layout) -> bool:
    """Tell whether a service holds the lab's lock.

    The lock, not the process number, is the proof: a killed service's number may belong to another
    program by now.
    """
    if not layout.lock.exists():
        return False
    try:
        with locked(layout.lock, what="the lab", timeout=0):
            return False
    except ApexError:
        return True


def _running_description(layout: Layout) -> dict[str, Any]:
    description = layout.read() if _is_running(layout) else None
    if description is None:
        raise RefusedError("no lab is running", hint="apexgpu lab up")
    return description


def _request(
    layout: Layout,
    method: str,
    path: str,
    content: dict[str, Any] | None = None,
    *,
    timeout: float = _REQUEST_TIMEOUT,
) -> dict[str, Any]:
    from urllib.error import HTTPError, URLError
    from urllib.request import ProxyHandler, Request, build_opener

    description = _running_description(layout)
    body = None if content is None else json.dumps(content).encode()
    request = Request(  # noqa: S310  # our own http URL
        f"{description['control']}{path}",
        body,
        method=method,
        headers={"Authorization": f"Bearer {description['token']}"},
    )
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=timeout) as response:
            return dict(json.load(response))
    except HTTPError as error:
        with error:
            reply = json.load(error)
        # An error of the lab arrives as JSON: its code is all that is left of its class.
        is_unknown_host = reply["code"] == UnknownHostError.code
        error_class = UnknownHostError if is_unknown_host else UsageError
        raise error_class(reply["error"], hint=reply["hint"], code=reply["code"]) from None
    except (URLError, OSError) as error:
        raise UnreachableError(
            f"the lab does not answer: {error}", hint="apexgpu lab down"
        ) from None


def _wait_until_stopped(layout: Layout, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while _lock_is_held(layout):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_INTERVAL)
    return True


def _kill_service(layout: Layout, description: dict[str, Any] | None) -> None:
    """Kill a service that does not answer. It holds the lock, so the process number is its own."""
    from apexgpu_lab.processes import kill

    if description and _lock_is_held(layout):
        kill(int(description["pid"]))
        if not _wait_until_stopped(layout, 5):
            raise ApexError(
                f"the lab's process {description['pid']} cannot be ended",
                hint=f"kill -9 {description['pid']}",
            )


def _clean_up_after_service(description: dict[str, Any] | None) -> None:
    """Remove what a killed service left: programs in containers, and the symlink to its directory."""
    from apexgpu_lab.processes import kill_marked

    if description:
        child = _started.pop(int(description["pid"]), None)
        if child:
            child.wait(5)
        kill_marked(f"APEXGPU_LAB_CONTAINER={description['root']}/")
        if description.get("alias"):
            Path(description["alias"]).unlink(missing_ok=True)


def _delete_remains(layout: Layout) -> None:
    """Delete what an earlier lab left in the directory, except the locks."""
    _clean_up_after_service(layout.read())
    if layout.marker.exists():
        for path in layout.home.iterdir():
            if path.name not in ("up.lock", "lab.lock"):
                _delete(path)


def _remove_home(home: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while home.exists():
        _delete(home)
        if home.exists() and time.monotonic() > deadline:
            raise ApexError(f"{home} cannot be removed", hint=f"rm -r {home}")


def _delete(path: Path) -> None:
    from apexgpu_lab.trees import remove_tree

    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        remove_tree(path)
