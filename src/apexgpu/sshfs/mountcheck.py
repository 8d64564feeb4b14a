"""What is looked at before a mount: OpenSSH gets there without a prompt, SFTP works, the path is there."""

import posixpath
import re
from pathlib import Path

from apexgpu.errors import ApexError, DeclinedError, LoginError, RefusedError, UsageError
from apexgpu.models import Target
from apexgpu.process import Completed, TimedCommand
from apexgpu.ssh import sshoptions
from apexgpu.ssh.failures import SshFailure, classify, failure_error
from apexgpu.ssh.route import config_arguments, target_arguments
from apexgpu.text import last_line


def job(target: Target, remote: str, *, config: Path, limit: float) -> TimedCommand:
    """OpenSSH's sftp asked for the home and for `remote`, with the options that the mount's ssh will have."""
    words = ["sftp", "-b", "-", *config_arguments(config), *target_arguments(target)]
    words += sshoptions.arguments(
        [
            *sshoptions.UNATTENDED,
            *sshoptions.NOT_SHARED,
            *sshoptions.COMMAND_ONLY,
            "ClearAllForwardings=yes",
            sshoptions.connect_timeout(limit),
            "ConnectionAttempts=1",
            "LogLevel=INFO",
        ]
    )
    batch = f"pwd\ncd {quoted(remote)}\n" if remote else "pwd\n"
    return TimedCommand((*words, target.alias), limit, batch.encode("utf-8", "surrogateescape"))


def quoted(path: str) -> str:
    """A path as a word of sftp's (sftp(1), INTERACTIVE COMMANDS). UsageError for one that no line can hold."""
    if "\n" in path or "\0" in path:
        message = "a remote path with a newline in it cannot be mounted by itself"
        raise UsageError(message, hint="mount the directory above it")
    return '"{}"'.format(path.replace("\\", "\\\\").replace('"', '\\"'))


def remote_path(word: str) -> str:
    """What `--remote` stands for: from the home there, unless it begins with a slash; `~/` is the home there too."""
    path = word.removeprefix("~/") if word.startswith("~/") else "" if word in {"~", "."} else word
    return posixpath.normpath(path) if path else ""


def absolute(done: Completed, target: Target, remote: str) -> str:
    """The path there in full, from sftp's answer; otherwise our error for what stood in the way."""
    name = target.host.name
    said = done.err.decode("utf-8", "replace")
    if done.timed_out:
        raise failure_error(target, SshFailure.TIMEOUT, said)
    home = re.search(r"^Remote working directory: (/.*)$", done.text, re.MULTILINE)
    if done.code == 0 and home:
        plain = "\\" not in home[1]  # sftp shows what is no ASCII in octal, in some locales
        return (
            posixpath.normpath(posixpath.join(home[1], remote))
            if plain or remote.startswith("/")
            else remote
        )
    failure = classify(said)
    if home is None and failure is SshFailure.KEY_REFUSED:
        message = f"ssh cannot log in to {name} without a prompt, and a mount has nobody to ask"
        raise LoginError(
            message,
            hint="ssh-add   (then the agent has the key; no key at all: apexgpu login)",
            code="key_prompt",
        )
    if home is None and failure is SshFailure.HOST_KEY_UNKNOWN:
        raise DeclinedError(
            f"the host key of {target.alias} is not known yet",
            code="host_key_unknown",
            hint=f"apexgpu up {name}   (in a terminal: it shows the key)",
        )
    if home is None and failure is not None and "subsystem request failed" not in said:
        raise failure_error(target, failure, said)
    raise _there(name, remote, said)


def _there(name: str, remote: str, said: str) -> ApexError:
    """What is wrong in the container, though its sshd took the login."""
    if "subsystem request failed" in said:
        hint = f"apexgpu ssh {name} -- sudo apt install openssh-sftp-server"
        return RefusedError(f"the sshd on {name} has no SFTP", hint=hint, code="no_sftp")
    if "Received message too long" in said or "packet too long" in said.lower():
        message = f"the shell on {name} prints something at its start, which SFTP cannot have (a line in ~/.bashrc?)"
        return RefusedError(
            message, hint=f"ssh {name} true   (it has to print nothing)", code="shell_talks"
        )
    why = last_line(said, "sftp did not say why")
    for part, words in (
        ("is not a directory", "is no directory"),
        ("Permission denied", "may not be entered"),
        ("No such file", "is not there"),
        ("not found", "is not there"),
    ):
        if part in why:
            return _no_path(name, remote, words)
    return ApexError(
        f"{name} cannot be reached by sftp: {why}", hint=f"apexgpu doctor {name}", code="sftp"
    )


def _no_path(name: str, remote: str, words: str) -> RefusedError:
    home = str(Path.home())
    if remote.startswith(f"{home}/"):
        # The shell here has made the home here out of a `~`.
        hint = (
            f"--remote {remote.removeprefix(home + '/')}   (your shell here made {home} of the ~)"
        )
        return RefusedError(f"{remote} {words} on {name}", hint=hint, code="no_path")
    return RefusedError(
        f"{remote or 'your home'} {words} on {name}",
        hint=f"apexgpu ssh {name} -- ls",
        code="no_path",
    )
