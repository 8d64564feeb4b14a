"""What OpenSSH itself makes of a config: `ssh -G`, asked about many names at once, and judged. No writing."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from apexgpu.errors import ConfigError, UnreachableError
from apexgpu.iam.iamconfig import Network
from apexgpu.models import Host
from apexgpu.process import Completed, Runner
from apexgpu.sshfiles import configblock

OTHERS = 25
"""How many of the user's own names are compared before and after."""

_TIMEOUT = 5.0  # a name may wait for DNS (CanonicalizeHostname), or for a `Match exec`
_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_NOISE = ("Pseudo-terminal will not", "terminating,")


@dataclass(frozen=True, slots=True)
class Answer:
    """What `ssh -G NAME` said; `slow` when it did not end in time."""

    code: int
    out: bytes
    err: bytes
    slow: bool = False

    def values(self) -> dict[str, str]:
        """Keyword -> its first value."""
        found: dict[str, str] = {}
        for line in self.out.decode("utf-8", "replace").splitlines():
            keyword, _, value = line.partition(" ")
            found.setdefault(keyword, value)
        return found

    def target(self) -> tuple[str, str, str]:
        """Hostname, user and port; empty strings where ssh gave none."""
        values = self.values()
        return values.get("hostname", ""), values.get("user", ""), values.get("port", "")


def wanted(hosts: Iterable[Host]) -> dict[str, tuple[str, str, str]]:
    """Every ssh name of `hosts`, and what it must mean."""
    names: dict[str, tuple[str, str, str]] = {}
    for host in hosts:
        names[host.manage_name] = (host.address, host.user, str(host.manage_port))
        if host.port is not None:
            names[host.name] = (host.address, host.user, str(host.port))
    return names


def ask(config: Path, names: Iterable[str], runner: Runner) -> dict[str, Answer]:
    """`ssh -G` for each of `names` with `config` as the user's file; several at once."""
    from concurrent.futures import ThreadPoolExecutor

    asked = list(dict.fromkeys(names))
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        return dict(
            zip(asked, pool.map(lambda name: _ask(config, name, runner), asked), strict=True)
        )


def _ask(config: Path, name: str, runner: Runner) -> Answer:
    try:
        done: Completed = runner.run(["ssh", "-G", "-F", str(config), "--", name], timeout=_TIMEOUT)
    except UnreachableError as error:
        return Answer(-1, b"", error.message.encode(), slow=True)
    return Answer(done.code, done.out, done.err)


@contextmanager
def as_file(data: bytes) -> Iterator[Path]:
    """`data` as a file in a private directory, for ssh to read (relative Includes mean ~/.ssh anyway)."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="apexgpu-") as directory:
        path = Path(directory) / "config"
        path.write_bytes(data)
        yield path


def verify(
    candidate: Path,
    mine: bytes,
    hosts: Sequence[Host],
    others: Sequence[str],
    *,
    shown: Path,
    runner: Runner,
) -> None:
    """ConfigError unless `candidate` is right for `hosts` and changes no other name that `mine` gives.

    `mine` are the user's own bytes without our block, `others` the names in them; `shown` is what errors call
    the file.
    """
    with as_file(mine) as before:
        check_managed(candidate, hosts, shown=shown, runner=runner, before=before)
        managed = wanted(hosts)
        names = [
            *_spread([name for name in others if name not in managed and _askable(name)]),
            f"apexgpu-{os.urandom(4).hex()}",
        ]
        for name in _changed(before, candidate, names, runner):
            raise ConfigError(
                f"{shown}: `ssh {name}` would mean something else after the merge; nothing was written",
                hint=f"compare: ssh -G {name}; or keep the file: apexgpu config sync --include",
            )


def check_managed(
    config: Path, hosts: Sequence[Host], *, shown: Path, runner: Runner, before: Path | None = None
) -> None:
    """ConfigError, in ssh's own words, unless every name of `hosts` means its host in `config`.

    When ssh cannot read `before` either, the error says that the file was broken already.
    """
    right = wanted(hosts)
    for name, answer in ask(config, right, runner).items():
        if answer.code == 0 and answer.target() == right[name]:
            continue
        if answer.code != 0 and before is not None:
            _refuse_broken(_ask(before, name, runner), before, shown, name)
        if answer.code != 0:
            raise ConfigError(
                f"{shown}: ssh refuses the merged file: {words(answer, config, shown)}",
                hint="keep the file as it is: apexgpu config sync --include",
            )
        raise ConfigError(
            f"{shown}: `ssh {name}` would go to {_told(answer)}; nothing was written",
            hint="keep the file as it is: apexgpu config sync --include",
        )


def check_readable(data: bytes, *, shown: Path, runner: Runner) -> None:
    """ConfigError with ssh's own words when ssh cannot read `data` as a config."""
    with as_file(data) as file:
        _refuse_broken(_ask(file, "127.0.0.1", runner), file, shown, "127.0.0.1")


def readable(answer: Answer) -> bool:
    """Whether ssh could read the config, whatever it then thought of the name."""
    return answer.code == 0 or answer.slow or b"Could not resolve" in answer.err


def _refuse_broken(answer: Answer, file: Path, shown: Path, name: str) -> None:
    if not readable(answer):
        raise ConfigError(
            f"ssh cannot read {shown} as it is: {words(answer, file, shown)}",
            hint=f"mend it until this works, then try again: ssh -G -F '{shown}' {name}",
        )


def words(answer: Answer, file: Path, shown: Path) -> str:
    """Ssh's complaint about `file` on one line, `shown` where it needs its name; control characters escaped."""
    text = answer.err.decode("utf-8", "replace")
    text = (
        text.replace(f"{file}: ", "").replace(f"{file} line", "line").replace(str(file), str(shown))
    )
    lines = [
        line.strip() for line in text.splitlines() if line.strip() and not line.startswith(_NOISE)
    ]
    said = "; ".join(lines[:2]) or f"exit status {answer.code}"
    return configblock.escaped(said)[:300]


def _askable(name: str) -> bool:
    return not name.startswith("-") and _NAME_LETTERS.issuperset(name)


def _spread(names: Sequence[str]) -> list[str]:
    """At most OTHERS of `names`, from all over the file."""
    step = max(1, len(names) / OTHERS)
    return [names[int(index * step)] for index in range(min(OTHERS, len(names)))]


def _changed(before: Path, after: Path, names: Sequence[str], runner: Runner) -> Iterator[str]:
    was = {name: answer for name, answer in ask(before, names, runner).items() if not answer.slow}
    now = ask(after, was, runner)
    for name, answer in was.items():
        if _same(answer, now[name]):
            continue
        # A `Match exec` may answer by the minute: only a name that stands still by itself can tell.
        again = _ask(before, name, runner)
        if _same(answer, again) and not _same(again, _ask(after, name, runner)):
            yield name


def _same(one: Answer, other: Answer) -> bool:
    return (one.code, one.out) == (other.code, other.out)


def taken(
    mine: bytes,
    merged: bytes,
    hosts: Sequence[Host],
    networks: Sequence[Network],
    *,
    shown: Path,
    runner: Runner,
) -> list[tuple[str, str]]:
    """The names of `hosts` that already go elsewhere in the user's own bytes, and where they go.

    ConfigError when ssh can read neither these bytes nor the `merged` ones: no merge could be verified.
    """
    right = wanted(hosts)
    found: list[tuple[str, str]] = []
    with as_file(mine) as file, as_file(merged) as after:
        for name, answer in ask(file, right, runner).items():
            # What fails for this name only (a HostName that cannot be expanded, say) the merge may well cure.
            if not readable(answer) and not readable(_ask(after, name, runner)):
                _refuse_broken(answer, file, shown, name)
            hostname = answer.target()[0].lower()
            if (
                answer.code != 0
                or hostname in (name.lower(), right[name][0])
                or _in(hostname, networks)
            ):
                continue
            found.append((name, _told(answer)))
    return found


def _in(hostname: str, networks: Sequence[Network]) -> bool:
    try:
        address = ip_address(hostname)
    except ValueError:
        return False
    return any(address in network for network in networks)


def _told(answer: Answer) -> str:
    hostname, user, port = answer.target()
    return ascii(f"{user}@{hostname} port {port}")[1:-1]


def warnings(
    config: Path, hosts: Sequence[Host], *, own_identity: bool, runner: Runner
) -> list[str]:
    """What of the user's own settings reaches the lab's names and will surprise, one sentence each."""
    values = {name: answer.values() for name, answer in ask(config, wanted(hosts), runner).items()}
    found = [
        f"ControlPath {path} is the same for {_listed(names)}: `ssh {names[0]}` can land in the wrong "
        "machine; put %C into it"
        for path, names in _groups(values, "controlpath")
        if len(names) > 1
    ]
    tell: list[tuple[str, str, Callable[[str], bool]]] = [
        ("proxyjump", "the lab is reached through another host", bool),
        ("proxycommand", "the lab is reached through another program", bool),
        ("remotecommand", "plain `ssh HOST CMD`, scp and rsync fail there", bool),
    ]
    if not own_identity:
        tell.append(
            (
                "identitiesonly",
                "keys that only the agent holds are not offered",
                lambda value: value == "yes",
            )
        )
    for keyword, effect, applies in tell:
        found += [
            f"{_SPELLED[keyword]} {value} reaches {_listed(names)}: {effect}"
            for value, names in _groups(values, keyword)
            if applies(value)
        ]
    return found


_SPELLED = {
    "proxyjump": "ProxyJump",
    "proxycommand": "ProxyCommand",
    "remotecommand": "RemoteCommand",
    "identitiesonly": "IdentitiesOnly",
}


def _groups(values: Mapping[str, Mapping[str, str]], keyword: str) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for name, options in values.items():
        value = options.get(keyword, "none")
        if value != "none":
            groups.setdefault(ascii(value)[1:-1], []).append(name)
    return list(groups.items())


def _listed(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return " and ".join(names)
    return f"{', '.join(names[:2])} and {len(names) - 2} more"
