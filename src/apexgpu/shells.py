"""Work in your containers: a shell or a command in one of them, and a command in many.

from apexgpu import shells
from apexgpu.session import Session

result = shells.run(Session(), ["gpu7", "gpu8"], "nvidia-smi -L")
for outcome in result.outcomes:
    print(outcome.host.name, outcome.error or outcome.value.stdout)
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from apexgpu import containers, manyhosts
from apexgpu.errors import UsageError
from apexgpu.manageshell import containershell, terminals
from apexgpu.models import Host, Reply, Target
from apexgpu.results import HostResults, JsonObject, Result, exit_code_of
from apexgpu.session import Session
from apexgpu.ssh import sshoptions
from apexgpu.ssh.route import config_arguments, target_arguments
from apexgpu.text import counted

_OUTPUT_OF_ALL = 1 << 26
"""Bytes of stdout, and of stderr, that are kept of all hosts together."""

_LEAST_OUTPUT = 1 << 18
"""The same for each host, however many there are."""


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
    host = containers.one_host(session, name, several=f"apexgpu exec '{name}' -- CMD")
    line = command_line(command)
    if captured:
        if not line:
            hint = f"apexgpu ssh {host.name} --json -- CMD"
            message = "--json needs a command; it cannot be used with an interactive shell"
            raise UsageError(message, hint=hint)
        containers.ensure_running(session, host)
        return _run(session, [host], line, limit=None)
    terminal = session.environment.get("TERM", "")
    output = containers.ensure_running(session, host, terminals.check_command(terminal))
    arguments = [
        *_own_connection(session, host),
        *_connect_timeout(session, host),
        *ssh_arguments(session, host),
    ]
    if command:
        # The user's config may say what a shell is (RemoteCommand tmux …). ssh refuses to have two
        # commands.
        arguments = ["-o", "RemoteCommand=none", *arguments, line]
    # The name of the terminal is all that a server learns about it.
    env = terminals.environment(terminal, output)
    return SshSession(session.runner.attach(["ssh", *arguments], env=env))


def _connect_timeout(session: Session, host: Host) -> list[str]:
    """The option that limits the time until the keys are exchanged.

    What comes after that has no limit: ssh may ask for a passphrase, or for a touch of a key. A limit
    in the user's config is left alone.
    """
    configured = session.transport.route(Target(host, "container")).option("connecttimeout", "none")
    if configured != "none":
        return []
    return sshoptions.arguments([sshoptions.connect_timeout(session.settings.timeout)])


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
) -> CommandOutputs:
    """Run a command line in the containers on the hosts that `patterns` name, all at once.

    `limit` is the time that it may take, in seconds; None is no limit. Stopped containers are not
    started.
    """
    return _run(session, session.some_hosts(patterns, everything), command, limit=limit)


def _run(
    session: Session, hosts: Sequence[Host], command: str, *, limit: float | None
) -> CommandOutputs:
    output = max(_LEAST_OUTPUT, _OUTPUT_OF_ALL // max(1, len(hosts)))

    def work(host: Host) -> CommandOutput:
        reply = containershell.execute(session.transport, host, command, total=limit, output=output)
        return CommandOutput(reply)

    with session.reporter.working(f"running on {counted(len(hosts), 'host')}"):
        outcomes = manyhosts.run(session, hosts, work)
    return CommandOutputs(outcomes)
