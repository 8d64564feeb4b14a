"""What OpenSSH makes of an ssh config: `ssh -G` for many names, and checks of its output.

OpenSSH is the judge: no rule of ssh_config is reimplemented here.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from apexgpu.errors import ConfigError, UnreachableError
from apexgpu.iam.hostlist import Network
from apexgpu.models import Host
from apexgpu.process import Runner
from apexgpu.sshfiles import configblock
from apexgpu.sshfiles.slowconfig import SlowLine, find_slow_lines

MAX_OTHER_NAMES = 25
"""How many of the user's own names are compared before and after a merge."""

TIME_LIMIT = 30.0
"""Seconds for one `ssh -G`: it may have to wait for DNS (CanonicalizeHostname) or a `Match exec`."""

_SLOW_LIMIT = 10.0  # seconds to find the line that costs the time
_MOST_AT_ONCE = 40  # ssh processes
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
    """What `ssh -G NAME` printed with the config `file`, its exit status, and the seconds it took.

    `timed_out` if it did not end in time.
    """

    file: Path
    code: int
    out: bytes
    err: bytes
    timed_out: bool = False
    seconds: float = 0.0

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
    """Run `ssh -G` for each of `names`, many at once, with `config` as the user's file."""
    unique_names = list(dict.fromkeys(names))
    answers = _resolve_all([(config, name) for name in unique_names], runner)
    return dict(zip(unique_names, answers, strict=True))


def _resolve_all(questions: Sequence[tuple[Path, str]], runner: Runner) -> list[Resolved]:
    """The answers to questions, each a config file and a name, in their order."""
    from concurrent.futures import ThreadPoolExecutor

    if not questions:
        return []
    # Many: with a `Match exec`, each ssh waits most of its time.
    with ThreadPoolExecutor(min(_MOST_AT_ONCE, len(questions))) as pool:
        return list(
            pool.map(lambda question: _resolve(question[0], question[1], runner), questions)
        )


def _resolve(config: Path, name: str, runner: Runner) -> Resolved:
    argv = ["ssh", "-G", "-F", str(config), "--", name]
    start = time.monotonic()
    try:
        completed = runner.run(argv, timeout=TIME_LIMIT)
    except UnreachableError as error:
        return Resolved(config, -1, b"", error.message.encode(), timed_out=True, seconds=TIME_LIMIT)
    seconds = time.monotonic() - start
    return Resolved(config, completed.code, completed.out, completed.err, seconds=seconds)


class ConfigAnswers:
    """What ssh makes of the bytes of ssh configs. The same name is asked once for the same bytes."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._answers: dict[tuple[bytes, str], Resolved] = {}
        self._random_name = f"apexgpu-{os.urandom(4).hex()}"

    def compared_names(self, user_bytes: bytes, hosts: Iterable[Host]) -> list[str]:
        """Return names that must mean the same before and after a merge of `hosts`.

        Up to 25 names of the user's own, and one that is in no config.
        """
        managed = destinations(hosts)
        comparable = []
        for name in configblock.user_host_names(user_bytes):
            if name not in managed and _is_plain(name):
                comparable.append(name)
        return [*_sample(comparable), self._random_name]

    def ask(self, *questions: tuple[bytes, Iterable[str]]) -> None:
        """Ask ssh about names with the bytes of a config, several such pairs at once."""
        with ExitStack() as stack:
            keys = []
            open_questions = []
            for data, names in questions:
                file = stack.enter_context(as_file(data))
                for name in dict.fromkeys(names):
                    if (data, name) not in self._answers:
                        keys.append((data, name))
                        open_questions.append((file, name))
            answers = _resolve_all(open_questions, self._runner)
        self._answers.update(zip(keys, answers, strict=True))

    def get(self, data: bytes, name: str) -> Resolved:
        """Return the answer for one name; ssh is asked now if it was not yet."""
        self.ask((data, [name]))
        return self._answers[data, name]

    def ask_again(self, data: bytes, name: str) -> Resolved:
        """Ask ssh once more, whatever it answered before."""
        with as_file(data) as file:
            return _resolve(file, name, self._runner)

    def find_slow_lines(self, data: bytes, name: str) -> list[SlowLine]:
        """Return the lines of `data` because of which ssh needs seconds for `name`."""
        with as_file(data) as file:
            lines = find_slow_lines(file, name, self._runner, limit=_SLOW_LIMIT)
            found = []
            for line in lines:
                if line.file == str(file):
                    line = replace(line, file="")
                found.append(line)
        return found

    def slowest(self) -> tuple[str, float]:
        """Return the name for which ssh needed longest, and the seconds; "" if none was asked."""
        name, seconds = "", 0.0
        for (_data, asked), resolved in self._answers.items():
            if resolved.seconds > seconds:
                name, seconds = asked, resolved.seconds
        return name, seconds


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
    user_bytes: bytes,
    merged: bytes,
    hosts: Sequence[Host],
    *,
    shown: Path,
    answers: ConfigAnswers,
) -> None:
    """Check that the config `merged` is right for `hosts` and changes no other name.

    Args:
        user_bytes: the user's own config, without our block.
        merged: the same with the block.
        hosts: what the block names.
        shown: the path to use in messages.
        answers: what ssh has been asked already.

    Raises:
        ConfigError: the merge must not be written.
    """
    expected = destinations(hosts)
    answers.ask((merged, expected))
    for name, destination in expected.items():
        resolved = answers.get(merged, name)
        if resolved.code == 0 and resolved.destination() == destination:
            continue
        if resolved.timed_out:
            raise _too_slow_error(merged, name, shown, answers)
        if resolved.code == 0:
            raise _wrong_destination_error(resolved, name, shown)
        _refuse_unreadable(answers.get(user_bytes, name), shown, name)
        raise _refused_error(resolved, shown)
    for name in _changed_names(user_bytes, merged, hosts, answers):
        raise ConfigError(
            f"{shown}: `ssh {name}` would mean something else after the merge; "
            f"nothing was written (to keep the file as it is: {_KEEP_FILE_HINT})",
            hint=f"ssh -G {name}",
        )


def check_managed(config: Path, hosts: Sequence[Host], *, shown: Path, runner: Runner) -> None:
    """Check that ssh takes every name of `hosts` to its host with the file `config`.

    Raises:
        ConfigError: a name is wrong, with ssh's own message if it printed one.
    """
    expected = destinations(hosts)
    for name, resolved in resolve(config, expected, runner).items():
        if resolved.code == 0 and resolved.destination() == expected[name]:
            continue
        if resolved.timed_out:
            lines = find_slow_lines(config, name, runner, limit=_SLOW_LIMIT)
            raise slow_error(name, shown, lines)
        if resolved.code == 0:
            raise _wrong_destination_error(resolved, name, shown)
        raise _refused_error(resolved, shown)


def _wrong_destination_error(resolved: Resolved, name: str, shown: Path) -> ConfigError:
    return ConfigError(
        f"{shown}: `ssh {name}` would go to {resolved.destination()}; nothing was written",
        hint=_KEEP_FILE_HINT,
    )


def _refused_error(resolved: Resolved, shown: Path) -> ConfigError:
    return ConfigError(
        f"{shown}: ssh refuses the merged file: {describe_error(resolved, shown)}",
        hint=_KEEP_FILE_HINT,
    )


def _too_slow_error(data: bytes, name: str, shown: Path, answers: ConfigAnswers) -> ConfigError:
    return slow_error(name, shown, answers.find_slow_lines(data, name))


def slow_error(name: str, shown: Path, lines: Sequence[SlowLine]) -> ConfigError:
    """The error for a config that ssh needs too long to read. It was not refused."""
    causes = []
    for line in lines:
        text = line.describe() if line.file else replace(line, file=str(shown)).describe()
        causes.append(configblock.escape(text))
    cause = f": {'; '.join(causes)}" if causes else ""
    return ConfigError(
        f"{shown}: ssh needs more than {TIME_LIMIT:g} s to read it for {name}{cause}",
        hint=f"ssh -G -vvv -F '{shown}' {name}",
    )


def check_readable(data: bytes, *, shown: Path, runner: Runner) -> None:
    """Raise ConfigError with ssh's own message if ssh cannot read `data` as a config."""
    # An address, so that no name has to be looked up.
    name = "127.0.0.1"
    with as_file(data) as file:
        _refuse_unreadable(_resolve(file, name, runner), shown, name)


def _refuse_unreadable(resolved: Resolved, shown: Path, name: str) -> None:
    if not resolved.config_is_readable():
        raise ConfigError(
            f"ssh cannot read {shown}: {describe_error(resolved, shown)} "
            "(correct the file until the command below succeeds)",
            hint=f"ssh -G -F '{shown}' {name}",
        )


def describe_error(resolved: Resolved, shown: Path) -> str:
    """Return ssh's message about the config on one line, escaped, with `shown` as the file's name."""
    file = resolved.file
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
    before: bytes, after: bytes, hosts: Sequence[Host], answers: ConfigAnswers
) -> Iterator[str]:
    """The user's own names that mean something else with `after` than with `before`."""
    names = answers.compared_names(before, hosts)
    answers.ask((before, names), (after, names))
    for name in names:
        old, new = answers.get(before, name), answers.get(after, name)
        if old.timed_out or new.timed_out or _same(old, new):
            continue
        # A `Match exec` may give another result every time. Ask again: only a name that is stable
        # with the old file can show that the new file changes it.
        again = answers.ask_again(before, name)
        if _same(old, again) and not _same(again, answers.ask_again(after, name)):
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
    answers: ConfigAnswers,
) -> list[NameConflict]:
    """Return the names of `hosts` that the user's own lines already send to another machine.

    A name is no conflict if its HostName is the name itself, the host's address, or an address in
    the lab's `networks`.

    Raises:
        ConfigError: ssh can read neither `user_bytes` nor `merged`, so no merge could be verified.
    """
    conflicts = []
    expected = destinations(hosts)
    answers.ask((user_bytes, expected), (merged, expected))
    for name, destination in expected.items():
        resolved = answers.get(user_bytes, name)
        # An error about this name only (a HostName that cannot be expanded, say) may be gone
        # after the merge, because our HostName comes first. So look at the merged file too.
        readable = resolved.config_is_readable()
        if not readable and not answers.get(merged, name).config_is_readable():
            _refuse_unreadable(resolved, shown, name)
        if resolved.code != 0:
            continue
        hostname = resolved.destination().hostname.lower()
        own_names = (name.lower(), destination.hostname)
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
