"""How ssh reaches a target, as the user's ssh config says: the output of `ssh -G`, parsed.

apexgpu does not read the ssh config itself. OpenSSH resolves Host, Match, Include, tokens and defaults.
"""

import os
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from apexgpu import readers
from apexgpu.errors import (
    ConfigError,
    NoLocalUserError,
    ProgramTimeoutError,
    SlowConfigError,
)
from apexgpu.models import Target
from apexgpu.platforms import hints
from apexgpu.platforms.system import is_windows
from apexgpu.process import Runner
from apexgpu.ssh import sshoptions
from apexgpu.sshfiles import identityfile, permissions
from apexgpu.sshfiles.agentquery import DEFAULT_AGENT, agent_socket
from apexgpu.sshfiles.sshhome import home, is_default_config
from apexgpu.text import last_line

_TIME_LIMIT = 20  # seconds for `ssh -G`; it is local, but a `Match exec` may run any program
_MOST_CONFIG_BYTES = 1 << 20

# Options that change which key is offered, which host key is accepted or how the connection is made,
# and that only ssh implements. Each with the values that mean "not set".
_ONLY_OPENSSH = {
    "proxyjump": {"none"},
    "proxycommand": {"none"},
    "pkcs11provider": {"none"},
    "certificatefile": set(),
    "knownhostscommand": {"none"},
    "revokedhostkeys": {"none"},
    "verifyhostkeydns": {"no", "false"},
    "checkhostip": {"no"},
    "bindaddress": set(),
    "bindinterface": set(),
    "addressfamily": {"any", "inet"},
    "pubkeyauthentication": {"yes", "true"},
    "hostbasedauthentication": {"no"},
    "preferredauthentications": {"publickey"},
    "usekeychain": {"no"},  # macOS
}


@dataclass(frozen=True, slots=True)
class Route:
    """The resolved ssh options for a target, with the address, user and port that IAM lists.

    `options` maps each option, in lower case, to its values in order. `seconds` is how long ssh
    needed to read its configuration; it needs as long again for each connection of its own.
    """

    target: Target
    options: dict[str, list[str]]
    seconds: float = 0.0

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
        values = [name for name in self.options.get("identityfile", []) if name != "none"]
        paths = [identityfile.expand(value, self.options, self.target.alias) for value in values]
        return [path for path in paths if path is not None]

    @property
    def agent_socket(self) -> str:
        """The socket of the ssh-agent that ssh asks; "" if it asks none."""
        return agent_socket(self.option("identityagent", DEFAULT_AGENT), os.environ)

    @property
    def openssh_reason(self) -> str | None:
        """The option for which only OpenSSH can make this connection (a jump host …); None if there is none."""
        for name, unset in _ONLY_OPENSSH.items():
            for value in self.options.get(name, []):
                if value.lower() not in unset:
                    return name
        for value in self.options.get("identityfile", []):
            if identityfile.expand(value, self.options, self.target.alias) is None:
                return "identityfile"
        known_hosts = self.option("userknownhostsfile") + self.option("globalknownhostsfile")
        if (
            "%" in known_hosts or "$" in known_hosts
        ):  # ssh before 9.2 prints them as they are written
            return "userknownhostsfile"
        # A list of the user's own fixes the order, in which ssh then ignores what is in known_hosts.
        algorithms = self.option("hostkeyalgorithms")
        if algorithms and "-cert-v01@openssh.com" not in algorithms.partition(",")[0]:
            return "hostkeyalgorithms"
        return None

    @property
    def needs_openssh(self) -> bool:
        """Whether only OpenSSH can make this connection (a jump host, a hardware key, a certificate …)."""
        return self.openssh_reason is not None

    @property
    def proxy(self) -> str | None:
        """The jump host or the proxy command, None for a direct connection."""
        for name in ("proxyjump", "proxycommand"):
            value = self.option(name, "none")
            if value != "none":
                return value
        return None

    @property
    def logs_session(self) -> bool:
        """Whether an ssh with `sshoptions.SESSION_IS_LOGGED` logs that its session is open, and does so at once."""
        if sshoptions.NAMELESS_VARIABLE not in self.options.get("sendenv", []):
            return False  # the user's config has `SendEnv -*`
        if self.option("sessiontype", "default") != "default":
            return False
        # A LocalCommand runs between the login and the session, and may take as long as it likes.
        return self.option("permitlocalcommand", "no") == "no" or "localcommand" not in self.options

    @property
    def host_key_algorithms(self) -> set[str]:
        """The algorithms that ssh accepts for a host key; empty if it does not print them."""
        return set(filter(None, self.option("hostkeyalgorithms").split(",")))

    @property
    def key_algorithms(self) -> set[str]:
        """The algorithms with which ssh logs in; empty if it does not print them."""
        names = ("pubkeyacceptedalgorithms", "pubkeyacceptedkeytypes")  # the second before 8.5
        return {value for name in names for value in self.option(name).split(",") if value}

    @property
    def least_rsa_bits(self) -> int:
        """The size below which ssh does not use an RSA key."""
        value = self.option("requiredrsasize", "1024")
        return int(value) if value.isdigit() else 1024


def keep_host_keys_advice(config: Path) -> str:
    """What a user has to write whose ssh config stores no host keys; a part of a message."""
    line = "UserKnownHostsFile ~/.ssh/known_hosts"
    return f"for the lab's names, write into {config}, above that line: {line}"


def _split_paths(value: str) -> list[Path]:
    """The files in a value of `ssh -G`, which separates them by blanks and quotes none.

    A part that does not begin like a path (`ssh -G` prints absolute ones) belongs to a name that contains blanks.
    """
    parts = re.split(r" (?=[~/\\]|[A-Za-z]:[/\\]|__PROGRAMDATA__|none$)", value)
    return [_path(name) for name in parts if name and name != "none"]


def _path(name: str) -> Path:
    if name.startswith("~/"):
        return Path(home() + name[1:])
    # Windows' ssh leaves this word in place; Git's writes /c/Users.
    name = name.replace("__PROGRAMDATA__", os.environ.get("PROGRAMDATA", "__PROGRAMDATA__"))
    if is_windows() and re.match(r"/[A-Za-z]/", name):
        name = f"{name[1].upper()}:{name[2:]}"
    return Path(name)


def config_arguments(config: Path) -> list[str]:
    """`-F FILE`, unless ssh reads that file anyway: with -F, ssh skips /etc/ssh/ssh_config."""
    if is_default_config(config):
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
    """Ask `ssh -G` for the route.

    Raises:
        ConfigError: ssh rejects the user's config; the message is ssh's.
        ConfigPermissionsError: others may write to the config, so ssh does not read it.
        SlowConfigError: ssh did not finish, because of a `Match exec` that takes long.
        NoLocalUserError: this account has no entry in the password database.
    """
    if config.exists():
        config_file = config_arguments(config)
    else:
        # Without -F, ssh would read the user's own config instead.
        config_file = ["-F", os.devnull]
    log = sshoptions.arguments([sshoptions.SESSION_IS_LOGGED])
    argv = ["ssh", "-G", *config_file, *target_arguments(target), *log, target.alias]
    began = time.monotonic()
    try:
        completed = runner.run(argv, timeout=_TIME_LIMIT)
    except ProgramTimeoutError:
        raise slow_config_error(target, config, _TIME_LIMIT) from None
    if completed.code != 0:
        raise _config_error(completed.err, completed.code, config)
    return Route(target, parse(completed.text), time.monotonic() - began)


def slow_config_error(target: Target, config: Path, seconds: float) -> SlowConfigError:
    """The error for an ssh that did not finish reading its configuration; it names the lines that run programs."""
    lines = exec_lines(config)
    cause = ""
    if lines:
        number, text = lines[0]
        cause = f"; line {number} of {config} runs a program: {text}"
        if len(lines) > 1:
            cause += f" (and {len(lines) - 1} more such lines)"
    message = f"ssh did not finish reading its configuration for {target.alias} within {seconds:g} s{cause}"
    return SlowConfigError(message, hint=hints.measure(f"ssh -G {target.alias}"))


def exec_lines(config: Path) -> list[tuple[int, str]]:
    """The lines of a config that run a program while ssh reads it (`Match exec`), with their numbers."""
    try:
        with config.open("rb") as stream:
            text = stream.read(_MOST_CONFIG_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if re.match(r"\s*match\b.*\bexec\b", line, re.IGNORECASE):
            found.append((number, line.strip()[:120]))
    return found


def _config_error(stderr: bytes, status: int, config: Path) -> ConfigError | NoLocalUserError:
    text = stderr.decode("utf-8", "replace")
    permissions_error = permissions.config_error(text)
    if permissions_error is not None:
        return permissions_error
    if "No user exists for uid" in text or "You don't exist, go away" in text:
        return no_local_user_error(text)
    # ssh ends with "FILE: terminating, 1 bad configuration options"; the line before names the option.
    specific = [line for line in text.splitlines() if ": terminating, " not in line]
    reason = last_line("\n".join(specific), f"exit status {status}")
    message = f"ssh cannot read its configuration: {reason}"
    return ConfigError(
        message, hint=f"ssh -F {shlex.quote(str(config))} -G localhost", code="ssh_config"
    )


def no_local_user_error(stderr: str) -> NoLocalUserError:
    """The error for an ssh that does not run, because this machine's password database lacks our account."""
    reason = last_line(stderr, "No user exists")
    message = f"ssh does not run under this account: {reason}"
    return NoLocalUserError(message, hint=hints.show_account())
