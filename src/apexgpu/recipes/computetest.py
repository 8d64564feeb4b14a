"""Tests one container: sends the programs that list its software and that compute."""

import ast
import json
import shlex
import threading
from dataclasses import dataclass
from functools import cache

from apexgpu.errors import CommandTimeoutError
from apexgpu.manageshell import containershell
from apexgpu.models import Host, Reply
from apexgpu.nvidia import query, smi
from apexgpu.nvidia.failures import NvidiaSmiError, UnknownOutputError
from apexgpu.nvidia.smi import Report
from apexgpu.recipes import computeoutput, verification
from apexgpu.recipes.computeoutput import ComputeRun, InstalledSoftware
from apexgpu.recipes.verification import ComputeChecks
from apexgpu.remote import remotescript
from apexgpu.ssh.transport import Limits, OnLine, Transport

_LOOK_LIMIT = 90.0
"""Seconds that looking at a dozen Pythons may take."""

_OVERHEAD = 30.0
"""Seconds that starting and ending Python may take beside the time for the run."""


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """What to test.

    `python` is a Python or an environment in the container; None finds one with TensorFlow. `wait`
    is how many seconds one run may take. `local_home` is the home directory on this machine,
    because the local shell may have expanded a `~` in `python` to it.
    """

    python: str | None = None
    wait: float = 600
    local_home: str = ""


# The commands


class _AnnotationRemover(ast.NodeTransformer):
    """Removes the annotations of functions, which Python 2.7 cannot read."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.returns = None
        for argument in node.args.args:
            argument.annotation = None
        if node.args.kwarg:
            node.args.kwarg.annotation = None
        return node


# Python 3.11 to 3.13 cannot parse in two threads at once: a SystemError, now and then.
_PARSER_LOCK = threading.Lock()


def program() -> str:
    """The program for the container's Python: `remote/programs/compute.py` without annotations."""
    with _PARSER_LOCK:
        return _program()


@cache
def _program() -> str:
    tree = ast.parse(remotescript.text("compute.py"))
    return ast.unparse(_AnnotationRemover().visit(tree))


def look_command(request: VerifyRequest, *, login: bool) -> str:
    """The command line that lists CUDAs, cuDNNs and Pythons; with `login`, on a login's PATH."""
    return _command(
        "look.sh", program(), request.python or "", request.local_home, as_after_login=login
    )


def compute_command(python: str, gpu: int, wait: float, *, login: bool) -> str:
    """The command line that computes on a GPU: as after a login, or as any command of ssh."""
    # The program ends itself at `limit`; `timeout` is for one that hangs in the driver.
    request = json.dumps({"do": "compute", "gpu": gpu, "limit": max(1, round(wait))})
    return _command(
        "compute.sh", python, program(), request, f"{wait + 5:.0f}", as_after_login=login
    )


def _command(name: str, *arguments: str, as_after_login: bool) -> str:
    words = ["sh", "-c", remotescript.text(name), "apexgpu", *arguments]
    if as_after_login:
        return shlex.join(["sh", "-c", remotescript.text("login_shell.sh"), "apexgpu", *words])
    return remotescript.apart(shlex.join(words))


# The test


def verify_container(
    transport: Transport,
    host: Host,
    request: VerifyRequest,
    *,
    connect_timeout: float,
    on_line: OnLine,
) -> ComputeChecks:
    """Test the container on `host`, check by check; the first that fails ends it.

    `on_line` is called with each line that shows progress. Errors that prevent the test are raised:
    RefusedError (stopped, not registered), UnreachableError, LoginError.
    """
    container = _ContainerQueries(transport, host, request, connect_timeout, on_line)
    try:
        report = container.query_nvidia_smi()
    except NvidiaSmiError as exc:
        return verification.without_driver(host.name, exc)
    on_line(f"driver {report.driver}; looking for CUDA and TensorFlow")
    software = container.find_software(login=True)
    with_login = software.is_complete
    if not with_login:
        # The login files start another program, or end the shell.
        software = container.find_software(login=False)
    checks = verification.check_files(
        host.name, report, software, named=request.python, with_login=with_login
    )
    if not checks.is_decided:
        on_line("computing")
        checks = verification.add_run(checks, container.compute(checks, login=with_login))
    if not checks.is_decided and with_login:
        on_line("computing again, as a command")
        checks = verification.add_command_run(checks, container.compute(checks, login=False))
    return verification.complete(checks)


@dataclass(frozen=True, slots=True)
class _ContainerQueries:
    """The questions that one container is asked."""

    transport: Transport
    host: Host
    request: VerifyRequest
    connect_timeout: float
    on_line: OnLine

    def query_nvidia_smi(self) -> Report:
        """The driver and the GPUs.

        A full report that apexgpu cannot read is replaced by a shorter one.
        """
        try:
            (report,) = query.look(
                self.transport, self.host, connect=self.connect_timeout, once=True
            )
        except UnknownOutputError:
            reply = self._query(remotescript.apart(smi.BRIEF_COMMAND), query.PATIENCE)
            brief_report = smi.brief(reply.out)
            if brief_report is None:
                raise
            return brief_report
        return report

    def find_software(self, *, login: bool) -> InstalledSoftware:
        """The CUDAs, the cuDNNs and the Pythons."""
        reply = self._query(look_command(self.request, login=login), _LOOK_LIMIT)
        return computeoutput.read_software(reply.out)

    def compute(self, checks: ComputeChecks, *, login: bool) -> ComputeRun:
        """Run the program that computes. If our own time limit ends it, that counts as its own."""
        assert checks.python is not None  # noqa: S101 - otherwise the checks are decided
        assert checks.gpu is not None  # noqa: S101 - as above
        lines: list[str] = []

        def on_line(line: str) -> None:
            lines.append(line)
            if not line.startswith(computeoutput.MARK):
                self.on_line(line)

        wait = self.request.wait
        command = compute_command(checks.python.path, checks.gpu.index, wait, login=login)
        try:
            reply = self._query(command, wait + _OVERHEAD, on_line=on_line)
        except CommandTimeoutError:
            lines.append(f"{computeoutput.MARK}-end {verification.ALARM_EXIT_CODE}")
            reply = Reply(0, "\n".join(lines))
        return computeoutput.read_run(reply.out, reply.err)

    def _query(self, command: str, seconds: float, *, on_line: OnLine | None = None) -> Reply:
        """Run a command on a new connection: an open one may have old variables."""
        limits = Limits(connect=self.connect_timeout, total=self.connect_timeout + seconds)
        return containershell.query(
            self.transport, self.host, command, limits=limits, on_line=on_line, once=True
        )
