"""How ssh reaches a target, as the user's ssh config says: the output of `ssh -G`, parsed.

apexgpu does not read the ssh config itself. OpenSSH resolves Host, Match, Include, tokens and defaults.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from apexgpu import readers
from apexgpu.errors import ConfigError
from apexgpu.models import Target
from apexgpu.process import Runner
from apexgpu.sshfiles.sshhome import home
from apexgpu.text import last_line

_TIME_LIMIT = 10  # seconds for `ssh -G`; it is local, but a `Match exec` may run any program


@dataclass(frozen=True, slots=True)
class Route:
    """The resolved ssh options for a target, with the address, user and port that IAM lists.

    `options` maps each option, in lower case, to its values in order.
    """

    target: Target
    options: dict[str, list[str]]

    def option(self, name: str, default: str = "") -> str:
        """The first value of an option."""
        return self.options.get(name, [default])[0]

    @property
    def address(self) -> str:
        """The host name or address to connect to."""
        return self.option("hostname", self.target.host.address)

    @property
    def port(self) -> int:
        """The TCP port."""
        text = self.option("port", str(self.target.port))
        return readers.required(readers.port(text), f"the port of {self.target.alias}", text)

    @property
    def user(self) -> str:
        """The account to log in as."""
        return self.option("user", self.target.user)

    @property
    def known_hosts_files(self) -> list[Path]:
        """The known_hosts files: the user's, then the system's."""
        user_files = _split_paths(self.option("userknownhostsfile"))
        return user_files + _split_paths(self.option("globalknownhostsfile"))

    @property
    def new_host_keys_file(self) -> Path | None:
        """The file for a new host key: the user's first known_hosts file that can store one, else None.

        Many configs name /dev/null, which stores nothing. The system's files are not apexgpu's to change.
        """
        for file in _split_paths(self.option("userknownhostsfile")):
            if file.is_file() or not file.exists():
                return file
        return None

    @property
    def identity_files(self) -> list[Path]:
        """The private key files that ssh would offer, whether they exist or not."""
        return [_path(name) for name in self.options.get("identityfile", []) if name != "none"]

    @property
    def needs_openssh(self) -> bool:
        """Whether only OpenSSH can make this connection (a jump host, a hardware key, a certificate …)."""
        has_proxy = (
            self.option("proxyjump", "none") != "none"
            or self.option("proxycommand", "none") != "none"
        )
        has_special_key = (
            self.option("pkcs11provider", "none") != "none" or "certificatefile" in self.options
        )
        return has_proxy or has_special_key


def keep_host_keys_advice(config: Path) -> str:
    """What a user has to write whose ssh config stores no host keys; a part of a message."""
    line = "UserKnownHostsFile ~/.ssh/known_hosts"
    return f"for the lab's names, write into {config}, above that line: {line}"


def _split_paths(value: str) -> list[Path]:
    """The files in a value of `ssh -G`, which separates them by blanks and quotes none.

    A part that does not begin like a path (`ssh -G` prints absolute ones) belongs to a name that contains blanks.
    """
    parts = re.split(r" (?=[~/\\]|[A-Za-z]:[/\\]|none$)", value)
    return [_path(name) for name in parts if name and name != "none"]


def _path(name: str) -> Path:
    if name.startswith("~/"):
        return Path(home() + name[1:])
    return Path(name)


def config_arguments(config: Path) -> list[str]:
    """`-F FILE`, unless ssh reads that file anyway: with -F, ssh skips /etc/ssh/ssh_config."""
    if config == Path(home()) / ".ssh" / "config":
        return []
    return ["-F", str(config)]


def target_arguments(target: Target) -> list[str]:
    """The options that set address, account and port, so that no config file can override them."""
    host_name = f"HostName={target.host.address}"
    return ["-o", host_name, "-o", f"User={target.user}", "-o", f"Port={target.port}"]


def parse(text: str) -> dict[str, list[str]]:
    """The output of `ssh -G`: each option, in lower case, with its values in order."""
    options: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        options.setdefault(name, []).append(value)
    return options


def resolve(target: Target, *, config: Path, runner: Runner) -> Route:
    """Ask `ssh -G` for the route. ConfigError with ssh's message if ssh rejects the user's config."""
    if config.exists():
        config_file = config_arguments(config)
    else:
        # Without -F, ssh would read the user's own config instead.
        config_file = ["-F", os.devnull]
    argv = ["ssh", "-G", *config_file, *target_arguments(target), target.alias]
    completed = runner.run(argv, timeout=_TIME_LIMIT)
    if completed.code != 0:
        reason = _config_error(completed.err, completed.code)
        message = f"ssh cannot read its configuration: {reason}"
        raise ConfigError(message, hint=f"correct that line in {config}", code="ssh_config")
    return Route(target, parse(completed.text))


def _config_error(stderr: bytes, status: int) -> str:
    lines = stderr.decode("utf-8", "replace").splitlines()
    # ssh ends with "FILE: terminating, 1 bad configuration options"; the line before names the option.
    specific = [line for line in lines if ": terminating, " not in line]
    return last_line("\n".join(specific), f"exit status {status}")
