"""TensorBoard and Jupyter in a container: asks `programs/serve.py` there to find, start or stop one."""

import re
import shlex
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal
from urllib.parse import quote

from apexgpu import readers
from apexgpu.errors import ApexError, RefusedError, UnreachableError
from apexgpu.models import Host, Reply, Target
from apexgpu.readers import Fields
from apexgpu.remote import remotescript
from apexgpu.remote.remotescript import MARK
from apexgpu.ssh.transport import Limits, OnLine, Transport

PROGRAMS = ("processes.py", "search.py", "serve.py")
"""What is sent, in the order in which the files need each other."""

_SEARCH_LIMIT = 90.0
"""Seconds that searching and listing may take, in addition to the wait for the server."""

_ADDRESS = re.compile(r"[0-9A-Za-z][0-9A-Za-z.:_-]{0,252}")
_ALL_ADDRESSES = {"0.0.0.0", "::", "*", ""}  # noqa: S104 - where servers listen, not we


class ServerKind(StrEnum):
    """Which web server."""

    TENSORBOARD = "tensorboard"
    JUPYTER = "jupyter"

    @property
    def label(self) -> str:
        """Its name, for people."""
        return "TensorBoard" if self is ServerKind.TENSORBOARD else "Jupyter"


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """Which server is wanted.

    `directory` is what it shows; None means the home directory or, for Jupyter, whatever a running
    one shows. `program` is a program or an environment in the container; None means the first that
    is found. `wait` is in seconds. `laptop_home` is the home directory of the user on the laptop,
    whose shell may have replaced a `~` by it.
    """

    kind: ServerKind
    directory: str | None
    program: str | None = None
    wait: float = 60
    laptop_home: str = ""


@dataclass(frozen=True, slots=True)
class WebServer:
    """A server that runs in the container.

    `path` is the end of its URL and may contain a token, so it must not be written to any file.
    `host` and `port` are where it is reached from the container. `started` tells whether we started
    it, `password` whether it asks for the password that the user has set.
    """

    port: int
    path: str
    directory: str
    started: bool
    pid: int
    program: str = ""
    log: str = ""
    host: str = "localhost"
    https: bool = False
    password: bool = False

    @property
    def has_token(self) -> bool:
        """Whether `path` contains a token."""
        return "?token=" in self.path


class ServerFailedError(RefusedError):
    """A server was started and ended at once; `log_lines` are the last lines of its log."""

    code = "server_failed"

    def __init__(self, message: str, *, hint: str, log_lines: list[str]) -> None:
        super().__init__(message, hint=hint)
        self.log_lines = log_lines


def command(action: Literal["serve", "stop"], request: ServerRequest) -> str:
    """Return the command line for the container's shell."""
    action_and_request = {
        "what": request.kind.value,
        "do": action,
        "directory": request.directory,
        "program": request.program,
        "wait": request.wait,
        "home": request.laptop_home,
    }
    return remotescript.python_command(*PROGRAMS, request=action_and_request)


def serve(
    transport: Transport, host: Host, request: ServerRequest, *, on_line: OnLine
) -> WebServer:
    """Return the server that shows the directory: the running one, else one that is started now.

    A new one keeps running after we have left. `on_line` is called with lines of progress.
    Raises RefusedError (no such directory or program), ServerFailedError (it does not start),
    UnreachableError (it does not answer in time) and the errors of `transport`.
    """
    answer = _ask(transport, host, "serve", request, on_line)
    token = answer.text("token", "")
    # A base path may be quoted already, so a % stays.
    path = quote(answer.text("path"), safe="/%:@!$&'()*+,;=~")
    if token:
        path += f"?token={quote(token, safe='')}"
    return WebServer(
        port=answer.port("port"),
        path=path,
        directory=answer.text("directory"),
        started=answer.flag("started"),
        pid=answer.number("pid"),
        program=answer.text("program", ""),
        log=answer.text("log", ""),
        host=_reachable_name(answer.text("host", "") or "localhost"),
        https=answer.flag("secure", False),
        password=answer.flag("password", False),
    )


def stop(transport: Transport, host: Host, request: ServerRequest, *, on_line: OnLine) -> list[int]:
    """Stop the servers that show the directory; return the ports on which they listened."""
    answer = _ask(transport, host, "stop", request, on_line)
    return [server.number("port", most=65535) for server in answer.objects("stopped")]


def _reachable_name(address: str) -> str:
    """Return the name by which a server that listens on `address` is reached from its machine."""
    if address in _ALL_ADDRESSES or address == "127.0.0.1":
        return "localhost"
    # It becomes a part of ssh's command line.
    if not _ADDRESS.fullmatch(address):
        readers.required(None, "the address of the server", address)
    return address


def _ask(
    transport: Transport,
    host: Host,
    action: Literal["serve", "stop"],
    request: ServerRequest,
    on_line: OnLine,
) -> Fields:
    def progress(line: str) -> None:
        # The answer is not progress, and may contain a token.
        if not line.startswith(MARK):
            on_line(line)

    limits = Limits(total=request.wait + _SEARCH_LIMIT, silence=None)
    target = Target(host, "container")
    reply = transport.run(target, command(action, request), limits=limits, on_line=progress)
    answer = _parse(reply, host)
    if "error" in answer:
        raise _error(answer, host, request)
    return answer


def _parse(reply: Reply, host: Host) -> Fields:
    """Return the answer: the last marked line."""
    answers = remotescript.json_answers(reply.out)
    if not answers:
        hint = f"apexgpu ssh {host.name} -- python3 --version"
        raise remotescript.no_answer_error(reply, host.name, hint=hint)
    return Fields(answers[-1], f"the answer of {host.name}")


def _error(answer: Fields, host: Host, request: ServerRequest) -> ApexError:
    """Return the error that an answer with `error` stands for."""
    code = answer.text("error")
    name = request.kind.label
    container = f"the container on {host.name}"
    log_lines = list(answer.texts("said", ()))
    log = answer.text("log", "")
    show_log = f"apexgpu ssh {host.name} -- tail -n 50 {shlex.quote(log)}"
    if code == "no_directory":
        message = f"there is no directory {answer.text('directory')} in {container}"
        return RefusedError(message, hint=f"apexgpu ssh {host.name} -- ls", code=code)
    if code in {"no_program", "no_python"}:
        message = f"there is no {request.program or name} in {container}"
        if not request.program:
            message += " (if it is in an unusual place, add --program PATH)"
        return RefusedError(message, hint=f"apexgpu setup {host.name} {request.kind}", code=code)
    if code == "slow":
        message = f"{name} in {container} is running, but does not answer after {request.wait:g} s"
        if log_lines:
            message += f" (its log ends: {log_lines[-1]})"
        message += "; run the same command again to keep waiting"
        hint = show_log if log else f"apexgpu {request.kind} {host.name} --help"
        return UnreachableError(message, hint=hint, code=code)
    last_line = log_lines[-1] if log_lines else "it prints nothing"
    message = f"{name} in {container} does not start: {last_line}"
    return ServerFailedError(message, hint=show_log, log_lines=log_lines)
