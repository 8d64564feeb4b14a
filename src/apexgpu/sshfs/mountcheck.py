"""Checks during a mount: ssh logs in without a prompt, SFTP works, and the path exists."""

import contextlib
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote

from apexgpu.errors import ApexError, LoginError, RefusedError, UsageError
from apexgpu.models import Target
from apexgpu.platforms import hints
from apexgpu.process import Completed, StartedProgram, TimedCommand, start_timed
from apexgpu.ssh import sshoptions
from apexgpu.ssh.failures import HostKeyNotTrustedError, SshFailure, classify, failure_error
from apexgpu.ssh.route import config_arguments, target_arguments
from apexgpu.text import last_line

_HOME = re.compile(r"^Remote working directory: (/.*)\n", re.MULTILINE)
"""What sftp prints after `pwd`: the home directory."""


class PromptNeededError(LoginError):
    """ssh would ask for a passphrase or a password."""

    code = "key_prompt"


class PathCheck:
    """Asks for the full remote path while another program mounts it: what sshfs reports explains little."""

    def __init__(self, command: TimedCommand, target: Target, remote: str) -> None:
        """`command` is the `sftp_command` for `remote`."""
        self._command = command
        self._target = target
        self._remote = remote

    @contextlib.contextmanager
    def asking(self) -> "Iterator[RunningCheck]":
        """Ask during the block."""
        with start_timed(self._command) as program:
            yield RunningCheck(program, self._target, self._remote)


class RunningCheck:
    """A PathCheck that has been started."""

    def __init__(self, program: StartedProgram, target: Target, remote: str) -> None:
        self._program = program
        self._target = target
        self._remote = remote

    def full_path(self) -> str:
        """Wait for the full path. Raises the error for whatever prevented it."""
        return full_remote_path(self._program.wait(), self._target, self._remote)

    def path_of_mounted(self) -> str:
        """The full path of what has been mounted, so that only the home is not known yet.

        "~", or the path as it was asked for, if the check fails: a mount that works counts, whatever the check met.
        """
        if self._remote.startswith("/"):
            return posixpath.normpath(self._remote)
        # The end of sftp would take some more round trips.
        home = _HOME.search(self._program.output_until(lambda text: _HOME.search(text) is not None))
        if home is None or "\\" in home[1]:
            return self._remote or "~"
        return posixpath.normpath(posixpath.join(home[1], self._remote))


def sftp_command(
    target: Target,
    remote: str,
    *,
    config: Path,
    limit: float,
    agent_options: Sequence[str] = (),
) -> TimedCommand:
    """Ask OpenSSH's sftp for the home and for `remote`, with the options of the mount's ssh.

    `limit` is in seconds.
    """
    options = [
        *agent_options,
        *sshoptions.UNATTENDED,
        *sshoptions.NOT_SHARED,
        *sshoptions.COMMAND_ONLY,
        "ClearAllForwardings=yes",
        sshoptions.connect_timeout(limit),
        "ConnectionAttempts=1",
        "LogLevel=INFO",
    ]
    argv = ["sftp", "-b", "-", *config_arguments(config), *target_arguments(target)]
    argv += [*sshoptions.arguments(options), target.alias]
    batch = "pwd\n"
    if remote:
        batch += f"cd {quote_for_sftp(remote)}\n"
    return TimedCommand(tuple(argv), limit, batch.encode("utf-8", "surrogateescape"))


def quote_for_sftp(path: str) -> str:
    """A path as one word of a sftp batch (sftp(1), INTERACTIVE COMMANDS).

    Raises UsageError if it contains a newline, which no batch can express.
    """
    if "\n" in path or "\0" in path:
        message = (
            "a remote path that contains a newline cannot be mounted: mount the directory above it"
        )
        raise UsageError(message, hint="apexgpu mount --help")
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def parse_remote_path(word: str) -> str:
    """What `--remote` means: a path relative to the home (empty: the home), or an absolute one.

    >>> parse_remote_path("~/data/")
    'data'
    """
    if word in {"", "~", "."}:
        return ""
    path = word.removeprefix("~/")
    return posixpath.normpath(path) if path else ""


def full_remote_path(completed: Completed, target: Target, remote: str) -> str:
    """The full path of `remote`, from the output of sftp.

    Raises the error for whatever prevented it.
    """
    stderr = completed.err.decode("utf-8", "replace")
    if completed.timed_out:
        raise failure_error(target, SshFailure.TIMEOUT, stderr)
    match = _HOME.search(completed.text)
    if completed.code == 0 and match:
        home = match[1]
        # In some locales sftp prints what is not ASCII in octal. Then the path is left to sshfs.
        if "\\" in home and not remote.startswith("/"):
            return remote
        return posixpath.normpath(posixpath.join(home, remote))
    if match is None:
        _raise_login_error(target, stderr)
    raise _sftp_error(target.host.name, remote, stderr)


def _raise_login_error(target: Target, stderr: str) -> None:
    """Raise the error for a login that failed.

    Return if it did not fail, as far as ssh's stderr tells.
    """
    name = target.host.name
    failure = classify(stderr)
    if failure is SshFailure.KEY_REFUSED:
        message = (
            f"ssh to {name} would ask for a passphrase or a password, and a mount cannot ask: "
            "it needs a key in ssh-agent (no key at all: apexgpu login)"
        )
        raise PromptNeededError(message, hint=hints.add_key(None))
    if failure is SshFailure.HOST_KEY_UNKNOWN:
        message = f"the host key of {target.alias} is not known yet; this shows it in a terminal"
        raise HostKeyNotTrustedError(message, hint=f"apexgpu up {name}")
    if failure is not None and "subsystem request failed" not in stderr:
        raise failure_error(target, failure, stderr)


def _sftp_error(name: str, remote: str, stderr: str) -> ApexError:
    """What is wrong in the container, although its sshd accepted the login."""
    if "subsystem request failed" in stderr:
        hint = f"apexgpu ssh {name} -- sudo apt install openssh-sftp-server"
        return RefusedError(f"the sshd on {name} has no SFTP", hint=hint, code="no_sftp")
    if "Received message too long" in stderr or "packet too long" in stderr.lower():
        message = (
            f"the shell on {name} prints something when it starts, which breaks SFTP "
            "(a line in ~/.bashrc?); this command has to print nothing"
        )
        return RefusedError(message, hint=f"ssh {name} true", code="shell_talks")
    reason = last_line(stderr, "sftp did not say why")
    if "is not a directory" in reason:
        return _path_error(name, remote, "is not a directory")
    if "Permission denied" in reason:
        return _path_error(name, remote, "cannot be opened: permission denied")
    if "No such file" in reason or "not found" in reason:
        return _path_error(name, remote, "does not exist")
    message = f"{name} cannot be reached by sftp: {reason}"
    return ApexError(message, hint=f"apexgpu doctor {name}", code="sftp")


def _path_error(name: str, remote: str, problem: str) -> RefusedError:
    home = f"{Path.home()}/"
    if remote.startswith(home):
        # The local shell has replaced a `~` by the local home.
        path = remote.removeprefix(home)
        message = f"{remote} on {name} {problem} (your shell has replaced ~ by {home})"
        return RefusedError(
            message, hint=f"apexgpu mount {name} --remote {quote(path)}", code="no_path"
        )
    message = f"{remote or 'your home'} on {name} {problem}"
    return RefusedError(message, hint=f"apexgpu ssh {name} -- ls", code="no_path")
