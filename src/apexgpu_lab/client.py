"""The lab from outside: start it in a process of its own, ask it, break it, end it. Cheap to import."""

import contextlib
import json
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
from apexgpu.files import locked, private_directory
from apexgpu_lab.layout import Layout

if TYPE_CHECKING:
    import subprocess

_POLL = 0.02
_ASK = 10.0
MOST_HOSTS = 256
# Services that this process started: kept so that they can be reaped when they end.
_started: dict[int, "subprocess.Popen[bytes]"] = {}


def up(
    home: Path, *, hosts: int, registered: bool, timeout: float = 60, pace: float = 1
) -> dict[str, Any]:
    """Start a lab of `hosts` hosts in the directory `home`, or find it running there; its status.

    A running lab of another size is an error (RefusedError), as is one that does not come up (ApexError with its
    own last words, UnreachableError after `timeout` seconds).
    """
    if not 1 <= hosts <= MOST_HOSTS:
        raise UsageError(
            f"a lab has 1 to {MOST_HOSTS} hosts, not {hosts}", hint="apexgpu lab up --hosts 3"
        )
    need_extra()
    layout = Layout(private_directory(home).absolute())
    with locked(layout.home / "up.lock", what=f"the lab in {home}", timeout=timeout):
        if _alive(layout):
            _same(layout, hosts=hosts, registered=registered)
        else:
            _clear_remains(layout)
            _start(layout, hosts=hosts, registered=registered, pace=pace, timeout=timeout)
    return status(home)


def status(home: Path) -> dict[str, Any]:
    """The lab as `lab status --json` shows it; `running` is false, and the lists empty, when there is none."""
    layout = Layout(home)
    if not _alive(layout):
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
    return _ask(layout, "GET", "/status")


def environment(home: Path) -> dict[str, str]:
    """The variables that make an apexgpu use the running lab; RefusedError when none runs."""
    return Layout(home).environment(str(_described(Layout(home))["iam_url"]))


def fault(home: Path, host: str, kind: str, times: int | None = None) -> list[dict[str, Any]]:
    """Put a fault in force at a host or "iam"; the faults that are in force now."""
    asked = {"host": host, "kind": kind, "times": times}
    return list(_ask(Layout(home), "POST", "/fault", asked)["faults"])


def clear(home: Path, host: str, kind: str) -> list[dict[str, Any]]:
    """End a fault; the faults that are in force now."""
    asked = {"host": host, "kind": kind, "clear": True}
    return list(_ask(Layout(home), "POST", "/fault", asked)["faults"])


def add_user(home: Path, name: str, display_name: str | None = None) -> dict[str, Any]:
    """Put someone into the lab's directory: `{"name", "password"}`."""
    return _ask(Layout(home), "POST", "/user", {"name": name, "display_name": display_name})


def down(home: Path, timeout: float = 15) -> bool:
    """End the lab, every process it started and its directory; False when there was none."""
    layout = Layout(home)
    if not layout.home.is_dir() or not (layout.marker.exists() or layout.lock.exists()):
        return False
    described = layout.read()
    if _held(layout):
        with contextlib.suppress(ApexError):
            _ask(layout, "POST", "/stop", {}, limit=min(timeout, _ASK))
        if not _gone(layout, timeout):
            _kill(layout, described)
    _sweep(described)
    _remove(layout.home, timeout)
    return True


def need_extra() -> None:
    """MissingProgramError where the lab's own libraries, an extra, are not installed."""
    from importlib.util import find_spec

    missing = [name for name in ("asyncssh", "h11") if find_spec(name) is None]
    if missing:
        message = f"the embedded lab needs {' and '.join(missing)}"
        raise MissingProgramError(
            message, hint="pipx install --force '.[lab]'   (in apexgpu's source directory)"
        )


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
    flags = 0x00000008 | 0x00000200 if sys.platform == "win32" else 0  # DETACHED_PROCESS, new group
    layout.marker.touch()
    with layout.log.open("ab") as log:
        child = subprocess.Popen(  # noqa: S603 - our own program, with words that we made
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            creationflags=flags,
            cwd=layout.home.anchor or None,
            start_new_session=sys.platform != "win32",
        )
    _started[child.pid] = child
    limit = time.monotonic() + timeout
    while layout.read() is None:
        if child.poll() is not None:
            raise ApexError(
                f"the lab did not start: {_last_words(layout)}", hint=f"look at {layout.log}"
            )
        if time.monotonic() > limit:
            child.kill()
            child.wait()
            raise UnreachableError(
                f"the lab did not come up within {timeout:g} s", hint=f"look at {layout.log}"
            )
        time.sleep(_POLL)


def _last_words(layout: Layout) -> str:
    lines = [
        line
        for line in layout.log.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    return lines[-1].removeprefix("error: ") if lines else "it printed nothing"


def _same(layout: Layout, *, hosts: int, registered: bool) -> None:
    described = _described(layout)
    if described["hosts"] != hosts or (registered and not described["registered"]):
        kind = "registered" if described["registered"] else "not registered"
        size = "1 host" if described["hosts"] == 1 else f"{described['hosts']} hosts"
        raise RefusedError(
            f"another lab is running, with {size} ({kind})",
            hint="apexgpu lab down",
        )


def _alive(layout: Layout) -> bool:
    """Whether a service serves."""
    return layout.read() is not None and _held(layout)


def _held(layout: Layout) -> bool:
    """Whether a service holds the lab's lock: a pid may be someone else's by now, or a zombie's."""
    if not layout.lock.exists():
        return False
    try:
        with locked(layout.lock, what="the lab", timeout=0):
            return False
    except ApexError:
        return True


def _described(layout: Layout) -> dict[str, Any]:
    described = layout.read() if _alive(layout) else None
    if described is None:
        raise RefusedError("no lab is running", hint="apexgpu lab up")
    return described


def _ask(
    layout: Layout,
    method: str,
    path: str,
    asked: dict[str, Any] | None = None,
    *,
    limit: float = _ASK,
) -> dict[str, Any]:
    from urllib.error import HTTPError, URLError
    from urllib.request import ProxyHandler, Request, build_opener

    described = _described(layout)
    body = None if asked is None else json.dumps(asked).encode()
    request = Request(  # noqa: S310  # our own http URL
        f"{described['control']}{path}",
        body,
        method=method,
        headers={"Authorization": f"Bearer {described['token']}"},
    )
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=limit) as answer:
            return dict(json.load(answer))
    except HTTPError as error:
        with error:
            told = json.load(error)
        kind = UnknownHostError if told["code"] == UnknownHostError.code else UsageError
        raise kind(told["error"], hint=told["hint"], code=told["code"]) from None
    except (URLError, OSError) as error:
        raise UnreachableError(
            f"the lab does not answer: {error}", hint="apexgpu lab down"
        ) from None


def _gone(layout: Layout, timeout: float) -> bool:
    limit = time.monotonic() + timeout
    while _held(layout):
        if time.monotonic() > limit:
            return False
        time.sleep(_POLL)
    return True


def _kill(layout: Layout, described: dict[str, Any] | None) -> None:
    """End a service that does not listen any more; that it holds the lock proves that the pid is its own."""
    from apexgpu_lab.processes import kill

    if described and _held(layout):
        kill(int(described["pid"]))
        if not _gone(layout, 5):
            raise ApexError(
                f"the lab's process {described['pid']} cannot be ended",
                hint=f"kill -9 {described['pid']}",
            )


def _sweep(described: dict[str, Any] | None) -> None:
    """What a killed service left behind: programs in containers, and its second name for its directory."""
    from apexgpu_lab.processes import kill_marked

    if described:
        child = _started.pop(int(described["pid"]), None)
        if child:
            child.wait(5)
        kill_marked(f"APEXGPU_LAB_CONTAINER={described['root']}/")
        if described.get("alias"):
            Path(described["alias"]).unlink(missing_ok=True)


def _clear_remains(layout: Layout) -> None:
    """Take away what an earlier lab left in the directory, but for the locks."""
    _sweep(layout.read())
    if layout.marker.exists():
        for path in layout.home.iterdir():
            if path.name not in ("up.lock", "lab.lock"):
                _delete(path)


def _remove(home: Path, timeout: float) -> None:
    limit = time.monotonic() + timeout
    while home.exists():
        _delete(home)
        if home.exists() and time.monotonic() > limit:
            raise ApexError(f"{home} cannot be removed", hint=f"rm -r {home}")


def _delete(path: Path) -> None:
    from apexgpu_lab.trees import remove_tree

    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        remove_tree(path)
