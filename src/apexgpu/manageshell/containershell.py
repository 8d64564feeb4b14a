"""Runs commands in a container.

A container that refuses the connection is explained by asking its host.

The host's reply tells a stopped container from one whose port is not forwarded, and from an account
that does not exist.
"""

from dataclasses import dataclass, replace

from apexgpu import readers
from apexgpu.boundedoutput import OnLine, OutputTaker
from apexgpu.errors import (
    ApexError,
    CommandKilledError,
    CommandLeftError,
    DroppedError,
    PortRefusedError,
    UnansweredError,
)
from apexgpu.manageshell import manage, replies
from apexgpu.manageshell.manage import HostStatus
from apexgpu.models import Host, Reply, Target
from apexgpu.remote import disks, remotescript
from apexgpu.ssh.failures import key_refused_error
from apexgpu.ssh.transport import MOST_OUTPUT, Limits, StreamingTransport, Transport

_DIGITS = frozenset("0123456789")
# Puts the mark into the environment, in the language of whichever login shell reads it. Between double quotes, csh
# takes a backslash as it is, and all others let it quote the next character. So `"\"` is a whole text for csh, and for
# the others a text that continues: csh runs `setenv` and has `export` between quotes; sh, bash, zsh, fish the reverse.
_SET_MARK = r'true "\" ; setenv APEXGPU_EXEC {mark} ; true "\" ; true "\"" ; export APEXGPU_EXEC={mark} ; true ""\" ; '
_SSH_FAILED = 255  # the exit status of `ssh` itself when the command has none
# For `stop_command`: tenths of a second that a login shell may need to start a command, and that TERM gets.
_START_TENTHS, _TERM_TENTHS = 20, 30


@dataclass(frozen=True, slots=True)
class Activity:
    """What a stop would interrupt: login sessions (lines of `who`), processes on a GPU, runs (their names)."""

    sessions: tuple[str, ...] = ()
    gpu_processes: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether anybody would notice a stop."""
        return bool(self.sessions or self.gpu_processes or self.runs)


def query(
    transport: Transport,
    host: Host,
    command: str,
    *,
    limits: Limits | None = None,
    on_line: OnLine | None = None,
    once: bool = False,
) -> Reply:
    """Run a command that changes nothing, in a container that may be stopped.

    StoppedError for a stopped container, NotRegisteredError without an account.
    """
    try:
        if once or on_line is not None:
            # These need a new connection. Only an open one can turn out to be dead.
            target = Target(host, "container")
            return transport.run(target, command, limits=limits, on_line=on_line, once=once)
        return query_running(transport, host, command, limits=limits)
    except PortRefusedError as exc:
        raise _explain_refusal(transport, host, exc) from None


def query_running(
    transport: Transport, host: Host, command: str, *, limits: Limits | None = None
) -> Reply:
    """Run a command that changes nothing, in a container that is known to run.

    It is sent again when an open connection turns out to be dead, as it is after a laptop has
    slept.
    """
    target = Target(host, "container")
    try:
        return transport.run(target, command, limits=limits)
    except UnansweredError:
        return transport.run(target, command, limits=limits)


def execute(
    transport: Transport,
    host: Host,
    command: str,
    *,
    total: float | None,
    output: int = MOST_OUTPUT,
) -> Reply:
    """Run a command of the user's, at most once. Its exit status is a value, never an error.

    `total` limits it, in seconds; None is no limit. Of output that is longer than `output` bytes,
    the middle is left out. StoppedError for a stopped container.
    """
    limits = Limits(total=total, silence=None, output=output, keeps_reading=True)
    try:
        return transport.run(Target(host, "container"), command, limits=limits)
    except CommandKilledError as exc:
        return Reply(_SSH_FAILED, exc.seen, f"{exc.err}{exc.message}\n")
    except PortRefusedError as exc:
        raise _explain_refusal(transport, host, exc) from None


def stream(
    transport: StreamingTransport,
    host: Host,
    command: str,
    *,
    total: float | None,
    mark: str,
    taker: OutputTaker,
    output: int,
) -> Reply:
    """As `execute`, and all of the output goes to `taker` as it arrives.

    `mark`, a word, is put into the environment of the command, where `stop_command` finds it.
    """
    limits = Limits(total=total, silence=None, output=output, keeps_reading=True)
    line = f"{_SET_MARK.format(mark=mark)}{command}"
    try:
        return transport.stream(Target(host, "container"), line, limits=limits, taker=taker)
    except CommandKilledError as exc:
        taker.take_err(f"{exc.message}\n".encode())
        return Reply(_SSH_FAILED, exc.seen, f"{exc.err}{exc.message}\n")
    except PortRefusedError as exc:
        raise _explain_refusal(transport, host, exc) from None


def stop_command(transport: Transport, host: Host, mark: str) -> None:
    """End the processes of a command that `stream` started with `mark`.

    CommandLeftError if some do not end.
    """
    arguments = [mark, str(_START_TENTHS), str(_TERM_TENTHS)]
    program = remotescript.one_line_command(
        "run_processes.sh", "command_stop.sh", arguments=arguments
    )
    reply = query_running(transport, host, program, limits=Limits(total=15))
    answers = remotescript.answers(reply.out)
    if not answers:
        raise remotescript.no_answer_error(reply, host.name, hint=f"apexgpu ssh {host.name}")
    kind, _, processes = answers[-1].partition(" ")
    if kind == "left":
        message = f"some processes do not end: {processes}"
        raise CommandLeftError(message, hint=f"apexgpu exec {host.name} -- ps -fp {processes}")


def _explain_refusal(transport: Transport, host: Host, refusal: PortRefusedError) -> ApexError:
    """Ask the host why the container's port refuses connections."""
    host_status = manage.status(transport, host)
    if not host_status.registered:
        return key_refused_error(Target(host, "manage"))
    if host_status.container is not None and host_status.container.running:
        from apexgpu.manageshell.starting import explain_port_error  # rarely needed

        return explain_port_error(host, refusal)
    return replies.container_stopped(host.name)


def detailed_status(transport: Transport, host: Host) -> HostStatus:
    """As `manage.status`, and a running container is asked for its uptime and its disks.

    A disk that hangs costs only the values after it; a container that is out of reach costs both.
    """
    host_status = manage.status(transport, host)
    if host_status.container is None or not host_status.container.running:
        return host_status
    try:
        output = _query_details(transport, host)
    except PortRefusedError:
        return replace(host_status, reachable=False)
    first_line = output.partition("\n")[0].strip()
    uptime = readers.decimal(first_line)
    reachable = True if output else None
    found = disks.parse_disks(output)
    return replace(host_status, uptime=uptime, disks=found, reachable=reachable)


def with_reachability(transport: Transport, host: Host, host_status: HostStatus) -> HostStatus:
    """Return the status of a running container with `reachable`: whether its SSH port is forwarded."""
    try:
        query_running(transport, host, "true")
    except PortRefusedError:
        return replace(host_status, reachable=False)
    except ApexError:
        return host_status
    return replace(host_status, reachable=True)


def _query_details(transport: Transport, host: Host) -> str:
    command = remotescript.sh_command("uptime.sh", "disks.sh", arguments=disks.ROOTS)
    try:
        reply = query_running(transport, host, command, limits=Limits(total=12))
    except DroppedError as exc:
        return remotescript.output(exc.seen)
    except PortRefusedError:
        raise
    except ApexError:
        return ""
    return remotescript.output(reply.out)


def activity(transport: Transport, host: Host) -> Activity:
    """Return what runs in a running container; nothing if it does not answer."""
    try:
        command = remotescript.sh_command("run_processes.sh", "activity.sh")
        reply = query_running(transport, host, command)
    except ApexError:
        return Activity()
    sessions, _, others = remotescript.output(reply.out).partition("---\n")
    processes, _, runs = others.partition("---\n")
    return Activity(
        sessions=tuple(line.strip() for line in sessions.splitlines() if line.strip()),
        # A line of a process begins with its PID. nvidia-smi prints its own errors here too.
        gpu_processes=tuple(
            line.strip() for line in processes.splitlines() if line.strip()[:1] in _DIGITS
        ),
        runs=tuple(line.strip() for line in runs.splitlines() if line.strip()),
    )
