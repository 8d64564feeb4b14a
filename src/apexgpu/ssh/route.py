"""How ssh would reach a target: `ssh -G` asked once per target, its answer as values."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apexgpu.errors import ConfigError
from apexgpu.models import Target
from apexgpu.process import Runner
from apexgpu.text import last_line


@dataclass(frozen=True, slots=True)
class Route:
    """What the user's ssh configuration says of a target, with IAM's address, user and port in force."""

    target: Target
    options: dict[str, list[str]]

    def one(self, name: str, default: str = "") -> str:
        """The first value of an option."""
        return self.options.get(name, [default])[0]

    @property
    def address(self) -> str:
        """Host name or address to connect to."""
        return self.one("hostname", self.target.host.address)

    @property
    def port(self) -> int:
        """TCP port."""
        return int(self.one("port", str(self.target.port)))

    @property
    def user(self) -> str:
        """Account."""
        return self.one("user", self.target.user)

    @property
    def known_hosts_files(self) -> list[Path]:
        """The user's files first, then the system's."""
        return [*_paths(self.one("userknownhostsfile")), *_paths(self.one("globalknownhostsfile"))]

    @property
    def new_keys_file(self) -> Path | None:
        """Where a new host key goes: the first of the user's files that can keep one, None for a config without any.

        That is not /dev/null, which many a config names; and the system's files are not ours to write.
        """
        files = _paths(self.one("userknownhostsfile"))
        return next((file for file in files if file.is_file() or not file.exists()), None)

    @property
    def identity_files(self) -> list[Path]:
        """Private keys that ssh would offer by itself, whether they exist or not."""
        return [_path(name) for name in self.options.get("identityfile", []) if name != "none"]

    @property
    def needs_openssh(self) -> bool:
        """Whether only OpenSSH itself can go this way (jump hosts, hardware keys, certificates …)."""
        jumps = (
            self.one("proxyjump", "none") != "none" or self.one("proxycommand", "none") != "none"
        )
        special = self.one("pkcs11provider", "none") != "none" or "certificatefile" in self.options
        return jumps or special


def keeping_cure(config: Path) -> str:
    """What to tell whose configuration keeps no host keys."""
    return f"in {config}, above that line: UserKnownHostsFile ~/.ssh/known_hosts   (for the lab's names)"


def _paths(names: str) -> list[Path]:
    """The files of a list that `ssh -G` gave, which expands names and then quotes none of them.

    So a piece that begins as no path does (they are absolute) belongs to a name with blanks.
    """
    pieces = re.split(r" (?=[~/\\]|[A-Za-z]:[/\\]|none$)", names)
    return [_path(name) for name in pieces if name and name != "none"]


def _path(name: str) -> Path:
    # ssh takes `~` from the password database, not from HOME.
    return Path(home() + name[1:]) if name.startswith("~/") else Path(name)


def home() -> str:
    """The home directory that ssh believes in."""
    try:
        import pwd
    except ImportError:  # Windows: ssh takes the profile directory
        return str(Path.home())
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return str(Path.home())


def config_arguments(config: Path) -> list[str]:
    """`-F FILE`, only where ssh would not read that file by itself (with -F it skips the system's)."""
    return [] if config == Path(home()) / ".ssh" / "config" else ["-F", str(config)]


def target_arguments(target: Target) -> list[str]:
    """The options that put IAM's address, account and port in force over whatever a config file says."""
    return [
        "-o",
        f"HostName={target.host.address}",
        "-o",
        f"User={target.user}",
        "-o",
        f"Port={target.port}",
    ]


def parse(text: str) -> dict[str, list[str]]:
    """The output of `ssh -G`: lower-case option -> its values in order."""
    options: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        options.setdefault(name, []).append(value)
    return options


def resolve(target: Target, *, config: Path, runner: Runner) -> Route:
    """Ask `ssh -G`. ConfigError with ssh's own words when it rejects the user's configuration."""
    argv: Sequence[str] = [
        "ssh",
        "-G",
        *(config_arguments(config) if config.exists() else ["-F", os.devnull]),
        *target_arguments(target),
        target.alias,
    ]
    done = runner.run(argv, timeout=10)
    if done.code != 0:
        # Its last line only says how many are wrong.
        lines = [
            line
            for line in done.err.decode("utf-8", "replace").splitlines()
            if ": terminating, " not in line
        ]
        message = f"ssh cannot read its configuration: {last_line(chr(10).join(lines), f'exit status {done.code}')}"
        raise ConfigError(message, hint=f"correct that line in {config}", code="ssh_config")
    return Route(target, parse(done.text))
