"""What OpenSSH makes of an ssh config: `ssh -G` for many names, and checks of its output.

OpenSSH is the judge: no rule of ssh_config is reimplemented here.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from apexgpu.errors import ConfigError, UnreachableError
from apexgpu.iam.hostlist import Network
from apexgpu.models import Host
from apexgpu.process import Runner
from apexgpu.sshfiles import configblock

MAX_OTHER_NAMES = 25
"""How many of the user's own names are compared before and after a merge."""

TIME_LIMIT = 30.0
"""Seconds for one `ssh -G`: it may have to wait for DNS (CanonicalizeHostname) or a `Match exec`."""

_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_NOISE = ("Pseudo-terminal will not", "terminating,")
_KEEP_FILE_HINT = "apexgpu config sync --include"


class SshDestination(NamedTuple):
    """Where `ssh NAME` goes; empty strings where ssh printed none."""

    hostname: str
    user: str
    port: str

    def __str__(self) -> str:
        text = f"{self.user}@{self.hostname} port {self.port}"
        return ascii(text)[1:-1]  # the values may contain anything


@dataclass(frozen=True, slots=True)
class Resolved:
    """What `ssh -G NAME` printed, and its exit status; `timed_out` if it did not end in time."""

    code: int
    out: bytes
    err: bytes
    timed_out: bool = False

    def all_options(self) -> dict[str, list[str]]:
        """Return each keyword (in lower case) with its values in order."""
        options: dict[str, list[str]] = {}
        for line in self.out.decode("utf-8", "replace").splitlines():
            keyword, _, value = line.partition(" ")
            options.setdefault(keyword, []).append(value)
        return options

    def options(self) -> dict[str, str]:
        """Return each keyword (in lower case) with its first value."""
        return {keyword: values[0] for keyword, values in self.all_options().items()}

    def destination(self) -> SshDestination:
        """Return where ssh would connect to."""
        options = self.options()
        return SshDestination(
            options.get("hostname", ""), options.get("user", ""), options.get("port", "")
        )

    def config_is_readable(self) -> bool:
        """Return whether ssh could read the config file, even if it then refused this name."""
        return self.code == 0 or self.timed_out or b"Could not resolve" in self.err


@dataclass(frozen=True, slots=True)
class NameConflict:
    """A name of the lab's that the user's own lines already send to another machine."""

    name: str
    current: str


@dataclass(frozen=True, slots=True)
class SettingWarning:
    """One of the user's own settings that applies to the lab's hosts and causes surprises.

    `keyword` is the setting's name, `text` a sentence about it, `replacement` the config line that
    avoids the problem. `harmful` if connections fail or reach the wrong machine because of it.
    """

    keyword: str
    text: str
    replacement: str
    harmful: bool


def destinations(hosts: Iterable[Host]) -> dict[str, SshDestination]:
    """Return every ssh name of `hosts` with the destination that it must have."""
    names = {}
    for host in hosts:
        manage_port = str(host.manage_port)
        names[host.manage_name] = SshDestination(host.address, host.user, manage_port)
        if host.port is not None:
            names[host.name] = SshDestination(host.address, host.user, str(host.port))
    return names


def resolve(config: Path, names: Iterable[str], runner: Runner) -> dict[str, Resolved]:
    """Run `ssh -G` for each of `names`, several at once, with `config` as the user's file."""
    from concurrent.futures import ThreadPoolExecutor

    unique_names = list(dict.fromkeys(names))
    workers = min(8, 2 * (os.cpu_count() or 1))
    with ThreadPoolExecutor(workers) as pool:
        answers = pool.map(lambda name: _resolve(config, name, runner), unique_names)
        return dict(zip(unique_names, answers, strict=True))


def _resolve(config: Path, name: str, runner: Runner) -> Resolved:
    argv = ["ssh", "-G", "-F", str(config), "--", name]
    try:
        completed = runner.run(argv, timeout=TIME_LIMIT)
    except UnreachableError as error:
        return Resolved(-1, b"", error.message.encode(), timed_out=True)
    return Resolved(completed.code, completed.out, completed.err)


@contextmanager
def as_file(data: bytes) -> Iterator[Path]:
    """Write `data` to a file in a private directory for ssh to read, and delete it afterwards.

    Relative Includes in it still work, because ssh resolves them from ~/.ssh anyway.
    """
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="apexgpu-") as directory:
        path = Path(directory) / "config"
        path.write_bytes(data)
        yield path


def verify(
    candidate: Path,
    user_bytes: bytes,
    hosts: Sequence[Host],
    other_names: Sequence[str],
    *,
    shown: Path,
    runner: Runner,
) -> None:
    """Check that `candidate` is right for `hosts` and changes no other name.

    Args:
        candidate: the merged config, in a temporary file.
        user_bytes: the user's own config, without our block.
        hosts: what the block in `candidate` names.
        other_names: the names in `user_bytes`. Up to 25 of them and a random one are compared.
        shown: the path to use in messages.

    Raises:
        ConfigError: the merge must not be written.
    """
    with as_file(user_bytes) as before:
        check_managed(candidate, hosts, shown=shown, runner=runner, before=before)
        managed = destinations(hosts)
        comparable = [name for name in other_names if name not in managed and _is_plain(name)]
        random_name = f"apexgpu-{os.urandom(4).hex()}"
        names = [*_sample(comparable), random_name]
        for name in _changed_names(before, candidate, names, runner):
            raise ConfigError(
                f"{shown}: `ssh {name}` would mean something else after the merge; "
                f"nothing was written (to keep the file as it is: {_KEEP_FILE_HINT})",
                hint=f"ssh -G {name}",
            )


def check_managed(
    config: Path, hosts: Sequence[Host], *, shown: Path, runner: Runner, before: Path | None = None
) -> None:
    """Check that ssh takes every name of `hosts` to its host with `config`.

    `before` is the config without the block: if ssh cannot read that either, the error says that
    the user's file was broken already.

    Raises:
        ConfigError: a name is wrong, with ssh's own message if it printed one.
    """
    expected = destinations(hosts)
    for name, resolved in resolve(config, expected, runner).items():
        if resolved.code == 0 and resolved.destination() == expected[name]:
            continue
        if resolved.code == 0:
            raise ConfigError(
                f"{shown}: `ssh {name}` would go to {resolved.destination()}; nothing was written",
                hint=_KEEP_FILE_HINT,
            )
        if before is not None:
            _refuse_unreadable(_resolve(before, name, runner), before, shown, name)
        raise ConfigError(
            f"{shown}: ssh refuses the merged file: {describe_error(resolved, config, shown)}",
            hint=_KEEP_FILE_HINT,
        )


def check_readable(data: bytes, *, shown: Path, runner: Runner) -> None:
    """Raise ConfigError with ssh's own message if ssh cannot read `data` as a config."""
    # An address, so that no name has to be looked up.
    name = "127.0.0.1"
    with as_file(data) as file:
        _refuse_unreadable(_resolve(file, name, runner), file, shown, name)


def _refuse_unreadable(resolved: Resolved, file: Path, shown: Path, name: str) -> None:
    if not resolved.config_is_readable():
        raise ConfigError(
            f"ssh cannot read {shown}: {describe_error(resolved, file, shown)} "
            "(correct the file until the command below succeeds)",
            hint=f"ssh -G -F '{shown}' {name}",
        )


def describe_error(resolved: Resolved, file: Path, shown: Path) -> str:
    """Return ssh's message about `file` on one line, escaped, with `shown` as the file's name."""
    text = resolved.err.decode("utf-8", "replace")
    # ssh starts most messages with the file's name, which our own message gives already.
    text = text.replace(f"{file}: ", "").replace(f"{file} line", "line")
    text = text.replace(str(file), str(shown))
    lines = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped and not line.startswith(_NOISE):
            lines.append(stripped)
    message = "; ".join(lines[:2]) or f"exit status {resolved.code}"
    return configblock.escape(message)[:300]


def _is_plain(name: str) -> bool:
    return not name.startswith("-") and _NAME_LETTERS.issuperset(name)


def _sample(names: Sequence[str]) -> list[str]:
    """At most MAX_OTHER_NAMES of `names`, evenly spread over the file."""
    step = max(1, len(names) / MAX_OTHER_NAMES)
    count = min(MAX_OTHER_NAMES, len(names))
    return [names[int(index * step)] for index in range(count)]


def _changed_names(
    before: Path, after: Path, names: Sequence[str], runner: Runner
) -> Iterator[str]:
    """Those of `names` that mean something else with `after` than with `before`."""
    old = {}
    for name, resolved in resolve(before, names, runner).items():
        if not resolved.timed_out:
            old[name] = resolved
    new = resolve(after, old, runner)
    for name, resolved in old.items():
        if _same(resolved, new[name]):
            continue
        # A `Match exec` may give another result every time. Ask again: only a name that is stable
        # with the old file can show that the new file changes it.
        again = _resolve(before, name, runner)
        if _same(resolved, again) and not _same(again, _resolve(after, name, runner)):
            yield name


def _same(first: Resolved, second: Resolved) -> bool:
    return (first.code, first.out) == (second.code, second.out)


def find_conflicts(
    user_bytes: bytes,
    merged: bytes,
    hosts: Sequence[Host],
    networks: Sequence[Network],
    *,
    shown: Path,
    runner: Runner,
) -> list[NameConflict]:
    """Return the names of `hosts` that the user's own lines already send to another machine.

    A name is no conflict if its HostName is the name itself, the host's address, or an address in
    the lab's `networks`.

    Raises:
        ConfigError: ssh can read neither `user_bytes` nor `merged`, so no merge could be verified.
    """
    expected = destinations(hosts)
    conflicts = []
    with as_file(user_bytes) as before, as_file(merged) as after:
        for name, resolved in resolve(before, expected, runner).items():
            # An error about this name only (a HostName that cannot be expanded, say) may be gone
            # after the merge, because our HostName comes first. So look at the merged file too.
            if (
                not resolved.config_is_readable()
                and not _resolve(after, name, runner).config_is_readable()
            ):
                _refuse_unreadable(resolved, before, shown, name)
            if resolved.code != 0:
                continue
            hostname = resolved.destination().hostname.lower()
            own_names = (name.lower(), expected[name].hostname)
            if hostname not in own_names and not _is_in(hostname, networks):
                conflicts.append(NameConflict(name, str(resolved.destination())))
    return conflicts


def _is_in(hostname: str, networks: Sequence[Network]) -> bool:
    try:
        address = ip_address(hostname)
    except ValueError:
        return False
    return any(address in network for network in networks)


class _Surprise(NamedTuple):
    """A setting that may apply to the lab's hosts by accident, and what happens then."""

    keyword: str
    effect: str
    replacement: str
    harmful: bool = False


_SURPRISES = (
    _Surprise("ProxyJump", "the lab is reached through another host", "ProxyJump none"),
    _Surprise("ProxyCommand", "the lab is reached through another program", "ProxyCommand none"),
    _Surprise(
        "RemoteCommand",
        "plain `ssh HOST CMD`, scp and rsync fail there",
        "RemoteCommand none",
        harmful=True,
    ),
)
_AGENT_KEYS_HIDDEN = _Surprise(
    "IdentitiesOnly", "keys that only the agent has are not offered", "IdentitiesOnly no"
)


def find_warnings(
    config: Path, hosts: Sequence[Host], *, block_names_key: bool, runner: Runner
) -> list[SettingWarning]:
    """Return a warning for each of the user's settings that causes surprises on the lab's hosts.

    `block_names_key` if our block contains IdentityFile and IdentitiesOnly: then these are ours.
    """
    options = {}
    for name, resolved in resolve(config, destinations(hosts), runner).items():
        options[name] = resolved.options()
    warnings = []
    for path, names in _group_by_value(options, "ControlPath").items():
        # A container and its host have the same address and user, so a path made of these two
        # lets `ssh gpu7` use the connection to gpu7-manage.
        if len(names) > 1:
            warnings.append(
                SettingWarning(
                    "ControlPath",
                    f"ControlPath {path} is the same for {_list_names(names)}: `ssh {names[0]}` "
                    "can connect to the wrong machine; put %C into it",
                    "ControlPath ~/.ssh/control-%C",
                    harmful=True,
                )
            )
    for surprise in _SURPRISES:
        for value, names in _group_by_value(options, surprise.keyword).items():
            if value:
                warnings.append(_warn(surprise, value, names))
    if not block_names_key:
        for value, names in _group_by_value(options, "IdentitiesOnly").items():
            if value == "yes":
                warnings.append(_warn(_AGENT_KEYS_HIDDEN, value, names))
    return warnings


def _warn(surprise: _Surprise, value: str, names: Sequence[str]) -> SettingWarning:
    text = (
        f"your ssh config sets {surprise.keyword} {value} for {_list_names(names)}: "
        f"{surprise.effect}"
    )
    return SettingWarning(surprise.keyword, text, surprise.replacement, surprise.harmful)


def _group_by_value(options: Mapping[str, Mapping[str, str]], keyword: str) -> dict[str, list[str]]:
    """The values of `keyword` other than "none", each with the names that have it."""
    groups: dict[str, list[str]] = {}
    for name, values in options.items():
        value = values.get(keyword.lower(), "none")
        if value != "none":
            printable = ascii(value)[1:-1]  # the value may contain anything
            groups.setdefault(printable, []).append(name)
    return groups


def _list_names(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return " and ".join(names)
    return f"{', '.join(names[:2])} and {len(names) - 2} more"
