"""Work in your containers: a shell or a command in one of them, and a command in many.

from apexgpu import shells
from apexgpu.session import Session

result = shells.run(Session(), ["gpu7", "gpu8"], "nvidia-smi -L")
for outcome in result.outcomes:
    print(outcome.host.name, outcome.error or outcome.value.stdout)
"""

import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from apexgpu.boundedoutput import OutputTaker
from apexgpu.errors import (
    ApexError,
    CommandLeftError,
    ConnectionClosedError,
    NoForwardError,
    PortRefusedError,
    StoppedError,
    UnreachableError,
    UsageError,
)
from apexgpu.manageshell import terminals
from apexgpu.models import Host, Outcome, Reply, Target
from apexgpu.reporter import Reporter
from apexgpu.results import HostResults, JsonObject, Result, exit_code_of
from apexgpu.session import Session
from apexgpu.ssh import attachedssh, sshoptions
from apexgpu.ssh.attachedssh import AttachedSession
from apexgpu.ssh.failures import UnknownHostKeyError
from apexgpu.ssh.route import config_arguments, target_arguments
from apexgpu.text import counted

_OUTPUT_OF_ALL = 1 << 26
"""Bytes of stdout, and of stderr, that are kept of all hosts together."""

_LEAST_OUTPUT = 1 << 18
"""The same for each host, however many there are."""

_STREAMED_OUTPUT = 1 << 12
"""The same for each host where the output is passed on as it arrives."""

_OPEN_CONNECTION_LIMIT = 3.0
"""Seconds for an open connection to answer. It does so after a round trip, unless its network is gone."""

_PROXY_LIMIT = 120.0
"""Seconds for a jump host or a proxy command, which may ask the user. An sshd gives its user as many."""

_ASK_THE_HOST = (PortRefusedError, ConnectionClosedError, UnknownHostKeyError)
"""Failures of a login that the host can explain, or that have a remedy."""

_NO_TERMINAL_FOR_COMMANDS = {"auto", "no", "false"}
"""Values of RequestTTY with which ssh requests no terminal for a command."""


def ssh_arguments(session: Session, host: Host) -> list[str]:
    """Return the arguments with which `ssh` reaches the container."""
    target = Target(host, "container")
    options = config_arguments(session.settings.ssh_config)
    options += target_arguments(target)
    options += sshoptions.arguments(agent_options(session, target))
    return [*options, host.name]


def agent_options(session: Session, target: Target) -> tuple[str, ...]:
    """Return the ssh options that leave out an agent that does not answer: ssh would wait forever.

    The first call takes up to three seconds if there is such an agent.
    """
    from apexgpu.ssh import silentagent  # most commands start no ssh

    return silentagent.options(session.transport.route(target), session.agents)


def command_line(words: Sequence[str]) -> str:
    """Return the line for the remote shell: one word as it is (it may be a script), several quoted."""
    if words[:1] == ["--"]:
        words = words[1:]
    if len(words) == 1:
        return words[0]
    return shlex.join(words)


# ssh


@dataclass(frozen=True)
class SshSession(Result):
    """What `ssh` returns: the exit status of the shell or command."""

    status: int

    @property
    def exit_code(self) -> int:
        """See Result."""
        return self.status

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": self.ok, "exit": self.status}


def ssh(
    session: Session, name: str, command: Sequence[str] = (), *, captured: bool = False
) -> "SshSession | CommandOutputs":
    """Open a shell in the container on the host `name`, or run `command` there, on this terminal.

    A stopped container is started if the user agrees. With `captured`, the output of `command` is
    returned instead of shown, as `run` does.
    """
    host = session.one_host(name, several=f"apexgpu exec {shlex.quote(name)} -- uptime")
    line = command_line(command)
    if captured:
        if not line:
            hint = f"apexgpu ssh {host.name} --json -- uptime"
            message = "--json needs a command; it cannot be used with an interactive shell"
            raise UsageError(message, hint=hint)
        return _run_captured(session, host, line)
    attached = _attach(session, host, line if command else None)
    if attached.logged_in and command:
        # As after every other command: the next one is faster.
        session.transport.open_in_background(Target(host, "container"))
    return SshSession(attached.status)


def _run_captured(session: Session, host: Host, line: str) -> "CommandOutputs":
    outputs = _run(session, [host], line, limit=None, receive=None)
    error = outputs.outcomes[0].error
    if isinstance(error, StoppedError | NoForwardError):
        _ensure_running(session, host)
        outputs = _run(session, [host], line, limit=None, receive=None)
        error = outputs.outcomes[0].error
    if error is not None:
        raise error
    return outputs


def _attach(session: Session, host: Host, line: str | None) -> AttachedSession:
    """Run ssh at the terminal: over an open connection, else over a new one.

    Only where ssh cannot log in, the host is asked why, and the start of a stopped container is
    offered. A `line` is sent again only if it has certainly not been run.
    """
    env = _terminal_environment(session, host, line)
    attached = _attach_over_open_connection(session, host, line, env)
    if attached is not None:
        return attached
    attached = _attach_over_new_connection(session, host, line, env)
    if attached.has_failed:
        error = session.transport.explain_failure(Target(host, "container"), attached.log)
        if error is not None and not isinstance(error, _ASK_THE_HOST):
            raise error
        # This finds the reason and raises it, or it removes the cause.
        _ensure_running(session, host)
        attached = _attach_over_new_connection(session, host, line, env)
        attachedssh.show(attached.messages)
    return attached


def _terminal_environment(session: Session, host: Host, line: str | None) -> dict[str, str] | None:
    """The variables to change for ssh, so that the container knows the terminal.

    The name of the terminal is all that a server learns about it. The container is asked about rare
    names only, and only where it gets a terminal.
    """
    terminal = session.environment.get("TERM", "")
    check = terminals.check_command(terminal)
    if check == terminals.NO_CHECK:
        return None
    if line is not None:
        route = session.transport.route(Target(host, "container"))
        if route.option("requesttty", "auto") in _NO_TERMINAL_FOR_COMMANDS:
            return None
    return terminals.environment(terminal, _ensure_running(session, host, check))


def _attach_over_open_connection(
    session: Session, host: Host, line: str | None, env: Mapping[str, str] | None
) -> AttachedSession | None:
    """Run ssh over the connection that apexgpu has open; None if there is none, or it does not work."""
    target = Target(host, "container")
    socket = session.transport.open_socket(target)
    if socket is None:
        return None
    arguments = [
        *sshoptions.arguments(sshoptions.shared(socket, master=False)),
        *config_arguments(session.settings.ssh_config),
        *target_arguments(target),
        host.name,
    ]
    attached = attachedssh.run(
        session.runner,
        _with_command(arguments, line),
        env=env,
        limit=min(session.settings.timeout, _OPEN_CONNECTION_LIMIT),
        is_unreachable=lambda: True,
        logs_session=False,
    )
    if attached.has_failed:
        # It has lost its network: without an answer to ssh, no command is sent over it.
        session.transport.close(target)
        return None
    return attached


def _attach_over_new_connection(
    session: Session, host: Host, line: str | None, env: Mapping[str, str] | None
) -> AttachedSession:
    route = session.transport.route(Target(host, "container"))
    # A refused key is explained instead. (NumberOfPasswordPrompts=0 would forbid passphrases too.)
    options = ["PasswordAuthentication=no", "KbdInteractiveAuthentication=no"]
    if route.option("stricthostkeychecking", "ask") == "ask":
        # A new key is shown to the user as by all other commands.
        options.append(sshoptions.KNOWN_HOST_KEY)
    arguments = [
        *sshoptions.arguments(options),
        *_own_connection(session, host),
        *_connect_timeout(session, host),
        *ssh_arguments(session, host),
    ]
    found: list[UnreachableError] = []

    def is_unreachable() -> bool:
        if route.proxy is not None:
            # The jump host may be asking the user for something, and would ask a second time.
            return False
        error = _connection_error(session, host)
        if error is not None:
            found.append(error)
        return error is not None

    attached = attachedssh.run(
        session.runner,
        _with_command(arguments, line),
        env=env,
        limit=session.settings.timeout + route.seconds,
        is_unreachable=is_unreachable,
        logs_session=route.logs_session,
        log_level=route.option("loglevel", "INFO"),
    )
    if attached.is_overdue:
        raise found[0] if found else _overdue_error(host, attached)
    return attached


def _overdue_error(host: Host, attached: AttachedSession) -> UnreachableError:
    from apexgpu.ssh import sshlog
    from apexgpu.ssh.opensshclient import login_timeout_error

    return login_timeout_error(Target(host, "container"), sshlog.parse(attached.log))


def _with_command(arguments: Sequence[str], line: str | None) -> list[str]:
    if line is None:
        return list(arguments)
    # The user's config may say what a shell is (RemoteCommand tmux …). ssh refuses to have two
    # commands.
    return ["-o", "RemoteCommand=none", *arguments, line]


def _ensure_running(session: Session, host: Host, command: str = "true") -> str:
    from apexgpu import containers  # `ssh` to a container that runs does not need it

    return containers.ensure_running(session, host, command)


def _connection_error(session: Session, host: Host) -> UnreachableError | None:
    """Why the container cannot be reached; None if it can, or if only the user can tell.

    ssh may wait for a passphrase, or for a touch of a key. Nobody is asked for anything here.
    """
    quiet_session = replace(session, reporter=Reporter())
    try:
        quiet_session.transport.run(Target(host, "container"), "true", once=True)
    except UnreachableError as exc:
        return exc
    except ApexError:
        return None
    return None


def _connect_timeout(session: Session, host: Host) -> list[str]:
    """The option that limits the time until the keys are exchanged.

    A limit in the user's config is left alone.
    """
    route = session.transport.route(Target(host, "container"))
    if route.option("connecttimeout", "none") != "none":
        return []
    limit = session.settings.timeout
    if route.proxy is not None:
        # ssh counts the login to a jump host too, where the user may have to type something.
        limit = max(limit, _PROXY_LIMIT)
    return sshoptions.arguments([sshoptions.connect_timeout(limit)])


def _own_connection(session: Session, host: Host) -> list[str]:
    """The options that avoid a shared connection that may lead to another machine.

    A container and its host, or two containers, may differ in the port only. A ControlPath that
    leaves out the port would lead to the other machine.
    """
    path = _control_path(session, Target(host, "container"))
    if path == "none":
        return []
    # One other container is enough: a path that does not tell two apart does not tell any apart.
    other_targets = [Target(host, "manage")]
    for other_host in session.known_hosts:
        if other_host != host and other_host.port:
            other_targets.append(Target(other_host, "container"))
            break
    for target in other_targets:
        if _control_path(session, target) == path:
            return ["-o", "ControlPath=none"]
    return []


def _control_path(session: Session, target: Target) -> str:
    return session.transport.route(target).option("controlpath", "none")


# run


@dataclass(frozen=True)
class CommandOutput:
    """What a command in a container printed, and its exit status."""

    reply: Reply

    @property
    def stdout(self) -> str:
        """What it printed on stdout."""
        return self.reply.out

    def to_json(self) -> JsonObject:
        """Its keys in a row of `exec`."""
        return {
            "exit": self.reply.code,
            "stdout": self.reply.out,
            "stderr": self.reply.err,
            "truncated": self.reply.is_cut,
        }


class CommandOutputs(HostResults[CommandOutput]):
    """What `run` returns."""

    @property
    def exit_code(self) -> int:
        """The command's own status for one host. For several: 0, or 3 if some failed.

        If all failed: 1, or the code of their errors where all are errors of one kind.
        """
        first = self.outcomes[0].value
        if len(self.outcomes) == 1 and first is not None:
            return first.reply.code
        failed = [
            outcome
            for outcome in self.outcomes
            if outcome.value is None or outcome.value.reply.code
        ]
        if not failed:
            return 0
        if len(failed) < len(self.outcomes):
            return 3
        if all(outcome.error is not None for outcome in self.outcomes):
            return exit_code_of(self.outcomes)
        return 1


def run(
    session: Session,
    patterns: Sequence[str],
    command: str,
    *,
    everything: bool = False,
    limit: float | None = None,
    receive: "MakeReceiver | None" = None,
) -> CommandOutputs:
    """Run a command line in the containers on the hosts that `patterns` name, all at once.

    `limit` is the time that it may take, in seconds; None is no limit. Stopped containers are not
    started. With `receive`, the output is passed on as it arrives, and the result is a
    StreamedOutputs; without it, the result contains the output, with the middle of a very long one
    left out.

    A KeyboardInterrupt, and an OSError of the receiver, are raised after the command has been ended
    in the containers. Those where this was not possible are reported.
    """
    hosts = session.some_hosts(patterns, everything)
    return _run(session, hosts, command, limit=limit, receive=receive)


class OutputReceiver:
    """What the output of `run` is passed on to. Its methods are called in many threads at once."""

    def take(self, host: Host, data: bytes, *, is_error: bool) -> None:
        """The command on `host` has printed this, on stderr if `is_error`. An OSError ends the run."""

    def end(self, outcome: Outcome[CommandOutput]) -> None:
        """The command on a host has ended, or could not be run."""


MakeReceiver = Callable[[Sequence[Host]], OutputReceiver]
"""Makes the receiver for the commands on some hosts."""


class StreamedOutputs(CommandOutputs):
    """What `run` returns where the output has been passed on: the exit statuses."""


def _run(
    session: Session,
    hosts: Sequence[Host],
    command: str,
    *,
    limit: float | None,
    receive: MakeReceiver | None,
) -> CommandOutputs:
    from apexgpu import manyhosts  # `ssh` needs neither
    from apexgpu.manageshell import containershell

    output = max(_LEAST_OUTPUT, _OUTPUT_OF_ALL // max(1, len(hosts)))
    receiver = OutputReceiver()
    if receive is not None:
        output = _STREAMED_OUTPUT
        receiver = receive(hosts)
    commands = _RunningCommands()

    def work(host: Host) -> CommandOutput:
        taker = _Taker(host, receiver, commands)
        reply = containershell.stream(
            session.transport,
            host,
            command,
            total=limit,
            mark=commands.mark(host),
            taker=taker,
            output=output,
        )
        return CommandOutput(reply)

    def end(outcome: Outcome[CommandOutput]) -> None:
        commands.ended(outcome.host)
        receiver.end(outcome)

    try:
        if receive is not None:
            return StreamedOutputs(manyhosts.run(session, hosts, work, on_done=end))
        with session.reporter.working(f"running on {counted(len(hosts), 'host')}"):
            return CommandOutputs(manyhosts.run(session, hosts, work, on_done=end))
    except KeyboardInterrupt:
        _end_commands(session, commands)
        raise
    except _ReceiverFailed as exc:
        _end_commands(session, commands)
        raise exc.error from None


class _ReceiverFailed(BaseException):
    """The receiver can take no more output: nobody reads it (`| head`), or the disk is full.

    A BaseException, because it is about the whole run: an Exception would be the error of one host.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _RunningCommands:
    """On which hosts the command may be running, and the mark by which it is found there."""

    def __init__(self) -> None:
        import secrets  # `ssh` does not need it

        self._token = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._running: list[Host] = []
        self._is_stopped = False

    def mark(self, host: Host) -> str:
        """The mark of the command on `host`. Each has its own: containers may see one another's processes."""
        return f"{self._token}.{host.name}."

    def starting(self, host: Host) -> None:
        """The command is about to be sent to `host`. After `stop`, it must not be."""
        with self._lock:
            if self._is_stopped:
                raise _StoppedBefore
            if host not in self._running:
                self._running.append(host)

    def ended(self, host: Host) -> None:
        """The command on `host` has ended."""
        with self._lock:
            if host in self._running:
                self._running.remove(host)

    def stop(self) -> list[Host]:
        """Let the command start nowhere else. Returns the hosts on which it may be running."""
        with self._lock:
            self._is_stopped = True
            return list(self._running)

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called: nobody waits for output any more."""
        return self._is_stopped


class _StoppedBefore(BaseException):
    """The run was ended before the command was sent to a host."""


class _Taker(OutputTaker):
    """Passes on the output of one host."""

    def __init__(self, host: Host, receiver: OutputReceiver, commands: _RunningCommands) -> None:
        self._host = host
        self._receiver = receiver
        self._commands = commands

    def starting(self) -> None:
        """See OutputTaker."""
        self._commands.starting(self._host)

    def take_out(self, data: bytes) -> None:
        """See OutputTaker."""
        self._pass_on(data, is_error=False)

    def take_err(self, data: bytes) -> None:
        """See OutputTaker."""
        self._pass_on(data, is_error=True)

    def _pass_on(self, data: bytes, *, is_error: bool) -> None:
        if not data or self._commands.is_stopped:
            return
        try:
            self._receiver.take(self._host, data, is_error=is_error)
        except OSError as exc:
            raise _ReceiverFailed(exc) from None


def _end_commands(session: Session, commands: _RunningCommands) -> None:
    """End the command wherever it may be running. Where this is not possible, report it."""
    hosts = commands.stop()
    if not hosts:
        return
    from apexgpu import manyhosts
    from apexgpu.manageshell import containershell

    def work(host: Host) -> None:
        containershell.stop_command(session.transport, host, commands.mark(host))

    where = _names(hosts)
    left = list(hosts)
    not_ended: list[Outcome[None]] = []

    def ended(outcome: Outcome[None]) -> None:
        if outcome.error is None:
            left.remove(outcome.host)
        elif isinstance(outcome.error, CommandLeftError):
            not_ended.append(outcome)

    try:
        with session.reporter.working(f"ending the command on {where}"):
            manyhosts.run(session, hosts, work, on_done=ended)
    finally:
        # Also after another Ctrl-C.
        session.reporter.errors(not_ended)
        if left:
            message = f"the command may still be running on {_names(left)}"
            names = " ".join(host.name for host in left)
            session.reporter.warn(message, hint=f"apexgpu exec {names} -- ps -fu {hosts[0].user}")


def _names(hosts: Sequence[Host]) -> str:
    return ", ".join(host.name for host in hosts)
