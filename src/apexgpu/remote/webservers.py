"""TensorBoard and Jupyter in a container, from here: what is sent there to find, start or stop one, and its answer."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from apexgpu.errors import ApexError, RefusedError, UnreachableError
from apexgpu.models import Host, Reply, Target
from apexgpu.remote import remotescript
from apexgpu.remote.remotescript import MARK
from apexgpu.ssh.transport import Limits, OnLine, Transport

What = Literal["tensorboard", "jupyter"]
NAMES: Mapping[What, str] = {"tensorboard": "TensorBoard", "jupyter": "Jupyter"}
_THERE = ("processes.py", "search.py", "serve.py")  # in the order in which they need each other
_LOOKING = 90.0  # seconds that searching and listing may take beside the wait for the server


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted. `directory` None means the home, or for Jupyter whatever runs; `wait` is in seconds.

    `program` is a program or an environment in the container, for when several are there; `home` is the laptop's,
    which the laptop's shell may have put for a `~`.
    """

    what: What
    directory: str | None
    program: str | None = None
    wait: float = 60
    home: str = ""

    @property
    def name(self) -> str:
        """What it is called."""
        return NAMES[self.what]


@dataclass(frozen=True, slots=True)
class Server:
    """One that serves in the container. `path` ends its URL, with the token in it: not to be kept anywhere."""

    port: int
    path: str
    directory: str
    started: bool
    pid: int
    program: str = ""
    log: str = ""
    host: str = "localhost"
    secure: bool = False
    password: bool = False

    @property
    def secret(self) -> bool:
        """Whether the path holds a token."""
        return "?token=" in self.path


class ServerFailedError(RefusedError):
    """A server was started and ended at once; `said` are the last lines of its log."""

    code = "server_failed"

    def __init__(self, message: str, *, hint: str, said: list[str]) -> None:
        super().__init__(message, hint=hint)
        self.said = said


def program() -> str:
    """The text that runs in the container."""
    return remotescript.program(*_THERE)


def command(do: Literal["serve", "stop"], wish: Wish) -> str:
    """The command line for the container's shell, whichever that is."""
    asked = {
        "what": wish.what,
        "do": do,
        "directory": wish.directory,
        "program": wish.program,
        "wait": wish.wait,
        "home": wish.home,
    }
    return remotescript.command(program(), asked)


def serve(link: Transport, host: Host, wish: Wish, *, on_line: OnLine) -> Server:
    """The server that shows the directory: the one that does already, else one that is started now and stays."""
    answer = _ask(link, host, "serve", wish, on_line)
    token = str(answer.get("token") or "")
    path = str(answer["path"])
    return Server(
        port=int(answer["port"]),
        path=f"{path}?token={token}" if token else path,
        directory=str(answer["directory"]),
        started=bool(answer["started"]),
        pid=int(answer["pid"]),
        program=str(answer.get("program", "")),
        log=str(answer.get("log", "")),
        host=_reached(answer),
        secure=bool(answer.get("secure")),
        password=bool(answer.get("password")),
    )


def _reached(answer: Mapping[str, Any]) -> str:
    """The name by which a server is reached from its own machine."""
    name = str(answer.get("host") or "localhost")
    everywhere = {"0.0.0.0", "::", "*", ""}  # noqa: S104 - where others listen, not we
    return "localhost" if name in everywhere or name == "127.0.0.1" else name


def stop(link: Transport, host: Host, wish: Wish, *, on_line: OnLine) -> list[int]:
    """End what shows the directory; the ports on which it listened."""
    return [int(one["port"]) for one in _ask(link, host, "stop", wish, on_line)["stopped"]]


def _ask(
    link: Transport, host: Host, do: Literal["serve", "stop"], wish: Wish, on_line: OnLine
) -> dict[str, Any]:
    def line(text: str) -> None:
        if not text.startswith(MARK):  # the answer, which may hold a token
            on_line(text)

    limits = Limits(total=wish.wait + _LOOKING, silence=None)
    reply = link.run(Target(host, "container"), command(do, wish), limits=limits, on_line=line)
    answer = _read(reply, host)
    if "error" in answer:
        raise _refusal(answer, host, wish)
    return answer


def _read(reply: Reply, host: Host) -> dict[str, Any]:
    """The answer: the last marked line."""
    try:
        found = json.loads(remotescript.answers(reply.out)[-1])
    except (IndexError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise remotescript.no_answer(
            reply, host.name, hint=f"apexgpu ssh {host.name} -- python3 --version"
        )
    return found


def _refusal(answer: Mapping[str, Any], host: Host, wish: Wish) -> ApexError:
    name, where, why = wish.name, f"the container on {host.name}", answer["error"]
    said = [str(line) for line in answer.get("said", [])]
    log = str(answer.get("log") or "")
    look = f"apexgpu ssh {host.name} -- tail -n 50 {shlex.quote(log)}"
    if why == "no_directory":
        message = f"there is no directory {answer['directory']} in {where}"
        return RefusedError(message, hint=f"apexgpu ssh {host.name} -- ls", code=why)
    if why in {"no_program", "no_python"}:
        message = f"there is no {wish.program or name} in {where}"
        hint = f"apexgpu setup {host.name} {wish.what}"
        return RefusedError(message, hint=f"{hint}   (or name it: --program PATH)", code=why)
    if why == "slow":
        message = f"{name} in {where} is there, but does not answer after {wish.wait:g} s" + (
            f"; its log ends: {said[-1]}" if said else ""
        )
        hint = look if log else f"apexgpu {wish.what} {host.name} --help"
        again = f"run the same line again, it goes on waiting; or look: {hint}"
        return UnreachableError(message, hint=again, code="slow")
    message = f"{name} in {where} does not start: {said[-1] if said else 'it says nothing'}"
    return ServerFailedError(message, hint=look, said=said)
