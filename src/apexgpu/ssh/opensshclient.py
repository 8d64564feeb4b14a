"""The `ssh` program as a client: for the routes that paramiko cannot take, with the same replies and errors."""

import re
import tempfile
from pathlib import Path

from apexgpu.errors import ApexError, ConnectionClosedError, ConnectionLostError
from apexgpu.models import PublicKey, Reply, Target
from apexgpu.process import Runner
from apexgpu.ssh import sshoptions
from apexgpu.ssh.failures import (
    SshFailure,
    UnknownHostKeyError,
    classify,
    command_timeout_error,
    failure_error,
    too_much_output_error,
    unreachable_error,
    was_logged_in,
)
from apexgpu.ssh.route import Route, config_arguments, target_arguments
from apexgpu.ssh.transport import Limits, OnLine

_SSH_FAILED = 255  # the exit status of ssh for failures of its own; a command may have it too
_CLOSED_BY_SERVER = re.compile(r"^Connection to \S+ closed by remote host\.\r?$", re.MULTILINE)


def argv(target: Target, command: str, *, config: Path, connect: float) -> list[str]:
    """The command line of ssh, without a terminal. An empty command asks for a shell."""
    words = ["ssh", *config_arguments(config), "-T", *target_arguments(target)]
    options = [
        *sshoptions.UNATTENDED,
        *sshoptions.COMMAND_ONLY,
        *sshoptions.NO_FORWARDING,
        *sshoptions.NOT_SHARED,
        *sshoptions.keep_alive(15, 4),
        sshoptions.connect_timeout(connect),
        "LogLevel=INFO",
    ]
    words += [*sshoptions.arguments(options), target.alias]
    if command:
        words.append(command)
    return words


class OpenSshClient:
    """Runs each command in an `ssh` process of its own."""

    def __init__(self, runner: Runner, config: Path) -> None:
        self._runner = runner
        self._config = config

    def run(self, route: Route, command: str, *, limits: Limits, on_line: OnLine | None) -> Reply:
        """See transport.Client."""
        target = route.target
        arguments = argv(target, command, config=self._config, connect=limits.connect)
        total = None
        if limits.total is not None:
            total = limits.connect + limits.total
        with tempfile.TemporaryDirectory(prefix="apexgpu-") as directory:
            # ssh's messages go to a file (-E), so that they cannot be confused with the command's stderr.
            log = Path(directory) / "log"
            arguments[1:1] = ["-E", str(log)]
            completed = self._runner.stream(
                arguments,
                on_line=on_line,
                total=total,
                silence=limits.silence,
                output=limits.output,
                keeps_reading=limits.keeps_reading,
            )
            messages = ""
            if log.exists():
                messages = log.read_text(errors="replace")
        err = completed.err.decode("utf-8", "replace")
        reply = Reply(completed.code, completed.text, err, completed.is_cut)
        if completed.timed_out:
            raise command_timeout_error(target, reply.out)
        if completed.too_much:
            raise too_much_output_error(target, limits.output)
        if reply.code == _SSH_FAILED:
            self._raise_failure(route, reply, messages, limits)
        return reply

    def _raise_failure(self, route: Route, reply: Reply, messages: str, limits: Limits) -> None:
        """Raise ssh's failure; return if the status 255 is the command's own."""
        # ssh writes this message to stderr even with -E.
        if _CLOSED_BY_SERVER.search(reply.err):
            messages += "Connection closed by remote host\n"
        failure = classify(messages)
        if failure is None:
            return
        if failure is SshFailure.HOST_KEY_UNKNOWN:
            raise UnknownHostKeyError(route, self._fetch_host_key(route, limits))
        started = bool(reply.out) or was_logged_in(messages + reply.err)
        if started and failure in {SshFailure.CLOSED, SshFailure.TIMEOUT}:
            raise _lost_error(route.target, reply.out)
        raise failure_error(route.target, failure, messages)

    def _fetch_host_key(self, route: Route, limits: Limits) -> PublicKey:
        """The key that a target shows.

        ssh is told to accept it into a known_hosts file that is deleted afterwards, so nothing is trusted.
        """
        from apexgpu.iam.publickeys import parse_line

        with tempfile.TemporaryDirectory(prefix="apexgpu-") as directory:
            file = Path(directory) / "known_hosts"
            words = argv(route.target, "exit", config=self._config, connect=limits.connect)
            words[words.index(sshoptions.KNOWN_HOST_KEY)] = "StrictHostKeyChecking=accept-new"
            files = sshoptions.arguments(
                [f"UserKnownHostsFile={file}", "GlobalKnownHostsFile=none"]
            )
            words[1:1] = files
            self._runner.run(words, timeout=limits.connect + 5)
            lines = file.read_text().splitlines() if file.exists() else []
        for line in lines:
            key = parse_line(line.partition(" ")[2])
            if key is not None:
                return key
        raise unreachable_error(route.target, "it shows no host key", ConnectionClosedError)


def _lost_error(target: Target, seen: str) -> ApexError:
    message = f"the connection to {target.alias} was lost"
    return ConnectionLostError(message, hint=f"apexgpu status {target.host.name}", seen=seen)
