"""One container, tried: what is sent there to look at its CUDA and its Pythons and to compute, and the answers."""

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
from apexgpu.recipes import evidence, verification
from apexgpu.recipes.evidence import Run, There
from apexgpu.recipes.verification import Proof
from apexgpu.remote import remotescript
from apexgpu.ssh.transport import Limits, OnLine, Transport

_LOOKING = 90.0  # seconds that looking at a dozen Pythons may take
_GRACE = 30.0  # seconds that starting Python and ending may take beside the wait

# The login shell of the account, as somebody sits before it who typed `ssh HOST`: it reads all of its files.
_AFTER_LOGIN = """\
case "${SHELL:-/bin/sh}" in
*/fish) exec "$SHELL" -i -l -c 'echo; exec $argv' "$@" ;;
*/csh|*/tcsh) echo; exec "$@" ;;
*) exec "${SHELL:-/bin/sh}" -ilc 'echo; exec "$@"' apexgpu "$@" ;;
esac
"""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted: a Python or environment in the container (None: the one that is found), seconds to wait.

    `home` is the laptop's, which the laptop's shell may have put for a `~`.
    """

    python: str | None = None
    wait: float = 600
    home: str = ""


class _Plain(ast.NodeTransformer):
    """Takes out what Python 2.7 cannot read."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.returns = None
        for one in node.args.args:
            one.annotation = None
        if node.args.kwarg:
            node.args.kwarg.annotation = None
        return node


_ONE_AT_A_TIME = threading.Lock()


def program() -> str:
    """The text that runs in the container's Python: `apexgpu.remote.programs.compute` without its annotations."""
    with (
        _ONE_AT_A_TIME
    ):  # Python 3.11 to 3.13 cannot parse in two threads at once: SystemError, now and then
        return _program()


@cache
def _program() -> str:
    text = remotescript.text("compute.py")
    return ast.unparse(_Plain().visit(ast.parse(text)))


def look_command(wish: Wish, *, login: bool) -> str:
    """The command line that looks at CUDA and Pythons; with `login`, on the PATH that the account has after one."""
    words = [
        "sh",
        "-c",
        remotescript.text("look.sh"),
        "apexgpu",
        program(),
        wish.python or "",
        wish.home,
    ]
    return _after_login(*words) if login else remotescript.apart(shlex.join(words))


def compute_command(python: str, gpu: int, wait: float, *, login: bool) -> str:
    """The command line that computes: as after a login, or as any command that ssh is given."""
    asked = json.dumps({"do": "compute", "gpu": gpu, "limit": max(1, round(wait))})
    words = [
        "sh",
        "-c",
        remotescript.text("compute.sh"),
        "apexgpu",
        python,
        program(),
        asked,
        f"{wait + 5:.0f}",
    ]
    return _after_login(*words) if login else remotescript.apart(shlex.join(words))


def _after_login(*words: str) -> str:
    return shlex.join(["sh", "-c", _AFTER_LOGIN, "apexgpu", *words])


def prove(link: Transport, host: Host, wish: Wish, *, connect: float, on_line: OnLine) -> Proof:
    """Try the chain of one host link by link; the first that does not hold ends it.

    Raises what keeps it from being tried: RefusedError (stopped, not registered), UnreachableError, LoginError.
    """
    try:
        report = _report(link, host, connect)
    except NvidiaSmiError as exc:
        return verification.without_driver(host.name, exc)
    on_line(f"driver {report.driver}; looking for CUDA and TensorFlow")
    there = _look(link, host, wish, connect, login=True)
    login = there.looked
    if not login:  # its files hand the login over to another program, or end it
        there = _look(link, host, wish, connect, login=False)
    proof = verification.begin(host.name, report, there, named=wish.python, login=login)
    if not proof.decided:
        on_line("computing")
        proof = verification.add(
            proof, _compute(link, host, proof, wish, connect, on_line, login=login)
        )
    if not proof.decided and login:
        on_line("computing again, as a command")
        proof = verification.again(
            proof, _compute(link, host, proof, wish, connect, on_line, login=False)
        )
    return verification.finish(proof)


def _report(link: Transport, host: Host, connect: float) -> Report:
    """What nvidia-smi tells of driver and GPUs; one whose report we do not know is asked for less."""
    try:
        (report,) = query.look(link, host, connect=connect, once=True)
    except UnknownOutputError:
        limits = Limits(connect=connect, total=connect + query.PATIENCE)
        found = smi.brief(
            containershell.query(
                link, host, remotescript.apart(smi.BRIEF_COMMAND), limits=limits, once=True
            ).out
        )
        if found is None:
            raise
        return found
    return report


def _look(link: Transport, host: Host, wish: Wish, connect: float, *, login: bool) -> There:
    limits = Limits(connect=connect, total=connect + _LOOKING)
    return evidence.there(
        containershell.query(
            link, host, look_command(wish, login=login), limits=limits, once=True
        ).out
    )


def _compute(
    link: Transport,
    host: Host,
    proof: Proof,
    wish: Wish,
    connect: float,
    on_line: OnLine,
    *,
    login: bool,
) -> Run:
    """One run of the program that computes. One that is cut by our own limit is told like one that was by its own."""
    assert proof.python is not None  # noqa: S101 - the proof would be decided
    assert proof.gpu is not None  # noqa: S101 - as above
    seen: list[str] = []

    def line(text: str) -> None:
        seen.append(text)
        if not text.startswith(evidence.MARK):
            on_line(text)

    command = compute_command(proof.python.path, proof.gpu.index, wish.wait, login=login)
    limits = Limits(connect=connect, total=connect + wish.wait + _GRACE, silence=None)
    try:
        reply = containershell.query(link, host, command, limits=limits, on_line=line, once=True)
    except CommandTimeoutError:
        reply = Reply(0, "\n".join([*seen, f"{evidence.MARK}-end {verification.TOO_SLOW}"]))
    return evidence.run(reply.out, reply.err)
