"""The OpenSSH client as a child: for what paramiko cannot do, by the same protocol and the same errors."""

import re
import tempfile
from pathlib import Path

from apexgpu.errors import ConnectionClosedError, ConnectionLostError
from apexgpu.models import PublicKey, Reply, Target
from apexgpu.process import Completed, Runner
from apexgpu.ssh import sshoptions
from apexgpu.ssh.failures import (
    SshFailure,
    UnknownHostKeyError,
    classify,
    command_timeout_error,
    failure_error,
    unreachable_error,
    was_logged_in,
)
from apexgpu.ssh.route import Route, config_arguments, target_arguments
from apexgpu.ssh.transport import Limits, OnLine


def argv(target: Target, command: str, *, config: Path, connect: float) -> list[str]:
    """The whole command line. No terminal; a shell request where `command` is empty."""
    words = ["ssh", *config_arguments(config), "-T", *target_arguments(target)]
    words += sshoptions.words(
        [
            *sshoptions.UNATTENDED,
            *sshoptions.PLAIN,
            *sshoptions.BARE,
            *sshoptions.ALONE,
            *sshoptions.alive(15, 4),
            sshoptions.connect_limit(connect),
            "LogLevel=INFO",
        ]
    )
    words.append(target.alias)
    return [*words, command] if command else words


class OpenSSHLink:
    """Runs commands through `ssh`."""

    def __init__(self, runner: Runner, config: Path) -> None:
        self._runner = runner
        self._config = config

    def run(self, route: Route, command: str, *, limits: Limits, on_line: OnLine | None) -> Reply:
        """See transport.Link."""
        target = route.target
        words = argv(target, command, config=self._config, connect=limits.connect)
        total = None if limits.total is None else limits.connect + limits.total
        with tempfile.TemporaryDirectory(prefix="apexgpu-") as directory:
            # ssh's own words go to a file, so that they cannot be mistaken for the command's.
            log = Path(directory) / "log"
            words[1:1] = ["-E", str(log)]
            done = self._runner.stream(words, on_line=on_line, total=total, silence=limits.silence)
            said = log.read_text(errors="replace") if log.exists() else ""
        reply = Reply(done.code, done.text, done.err.decode("utf-8", "replace"))
        self._check(route, done, reply, said, limits)
        return reply

    def _check(
        self, route: Route, done: Completed, reply: Reply, said: str, limits: Limits
    ) -> None:
        target = route.target
        if done.timed_out:
            raise command_timeout_error(target, reply.out)
        # This one sentence ssh writes to stderr, whatever -E says.
        if reply.code == 255 and re.search(
            r"^Connection to \S+ closed by remote host\.\r?$", reply.err, re.MULTILINE
        ):
            said += "Connection closed by remote host\n"
        failure = classify(said) if reply.code == 255 else None
        if failure is None:
            return
        if failure is SshFailure.HOST_KEY_UNKNOWN:
            raise UnknownHostKeyError(route, self.first_key(route, limits))
        if failure in {SshFailure.CLOSED, SshFailure.TIMEOUT} and (
            reply.out or was_logged_in(said + reply.err)
        ):
            raise ConnectionLostError(
                f"the connection to {target.alias} was lost",
                seen=reply.out,
                hint=f"apexgpu status {target.host.name}",
            )
        raise failure_error(target, failure, said)

    def first_key(self, route: Route, limits: Limits) -> PublicKey:
        """The key that a target shows, fetched with a known_hosts file of its own so that nothing is trusted."""
        from apexgpu.iam.publickeys import parse_line

        with tempfile.TemporaryDirectory(prefix="apexgpu-") as directory:
            file = Path(directory) / "known_hosts"
            words = argv(route.target, "exit", config=self._config, connect=limits.connect)
            for option in (f"UserKnownHostsFile={file}", "GlobalKnownHostsFile=none"):
                words[1:1] = ["-o", option]
            words[words.index(sshoptions.KNOWN_KEY)] = "StrictHostKeyChecking=accept-new"
            self._runner.run(words, timeout=limits.connect + 5)
            text = file.read_text() if file.exists() else ""
        for line in text.splitlines():
            key = parse_line(line.partition(" ")[2])
            if key is not None:
                return key
        raise unreachable_error(route.target, "it shows no host key", ConnectionClosedError)
