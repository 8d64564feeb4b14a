"""Everything that apexgpu wrote on this machine, part by part, and how each goes. The user's keys are not among it."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from apexgpu import shellcompletion
from apexgpu.archives.journal import Journal
from apexgpu.errors import ConfigError
from apexgpu.forwarding import records
from apexgpu.process import Runner
from apexgpu.settings import Settings
from apexgpu.ssh import controlmaster
from apexgpu.sshfiles import configblock, configfile, knownhostsedit
from apexgpu.sshfs import mountnotes, mounts

# What may lie in the two directories. In one that is not plainly apexgpu's own, nothing else is touched.
_OURS = (
    "account.json",
    "backups",
    "completion.*",
    "config.toml",
    "hosts",
    "installers.json",
    "journal",
    "known_hosts",
    "known_hosts.json",
    "lab",
    "locks",
    "mounts.json",
    "ports.json",
    "ssh_config.*",
    "ssh_hosts.conf",
    "tunnels",
)


@dataclass(frozen=True, slots=True)
class Part:
    """One thing to take away: what it is, for people, and how."""

    name: str
    what: str
    take: Callable[[], None]


def parts(settings: Settings, runner: Runner, *, password: Callable[[], bool] | None) -> list[Part]:
    """What there is, in the order in which it has to go: the directories last, for the others are noted there.

    `password` forgets the one in the keyring; None when there is none.
    """
    state, found = settings.state_dir, []
    if mountnotes.load(state):  # before the lab: they may lead to it
        open_mounts = (
            ", ".join(one.directory for one in mounts.ours(state)) or "directories of earlier ones"
        )
        found.append(Part("mounts", f"mounts: {open_mounts}", partial(_unmount, state)))
    if (state / "lab").exists():
        found.append(
            Part("lab", f"the embedded lab in {state / 'lab'}", partial(_end_lab, state / "lab"))
        )
    if open_ones := records.list_open(state):
        what = f"open tunnels: {', '.join(one.id for one in open_ones)}"
        found.append(Part("tunnels", what, partial(_close_all, state, open_ones)))
    found += _config(settings, runner)
    for path, names in knownhostsedit.list_added(state).items():
        take = partial(knownhostsedit.remove, path, names)
        keys = "a host key" if len(names) == 1 else f"{len(names)} host keys"
        found.append(Part("known_hosts", f"{keys} in {path} that apexgpu added", take))
    if password is not None:
        found.append(
            Part("password", "the domain password in the keyring", partial(_ignore, password))
        )
    if traces := shellcompletion.installed_files(settings.config_dir):
        what = f"completion in {', '.join(map(str, traces))}"
        found.append(Part("completion", what, partial(shellcompletion.remove, settings.config_dir)))
    if sockets := controlmaster.sockets():
        what = (
            "a connection that is" if len(sockets) == 1 else f"{len(sockets)} connections that are"
        )
        found.append(
            Part("connections", f"{what} kept open", partial(controlmaster.close_all, runner))
        )
    for directory in _directories(settings):
        if own := _own(directory):
            found.append(Part("directory", str(directory), partial(_delete, directory, own)))
    return found


def interrupted(settings: Settings) -> list[str]:
    """What was cut on hosts and only the journal knows of, a sentence each: it goes with the state directory."""
    journal = Journal(settings.state_dir)
    found = []
    for host in journal.hosts():
        try:
            entry = journal.find(host)
        except ConfigError as exc:
            found.append(exc.message)
        else:
            found += (
                [f"{entry.words()}; apexgpu {entry.what} {host} finishes or undoes it"]
                if entry
                else []
            )
    return found


def left(settings: Settings) -> list[str]:
    """What stays behind and the user may want to know of, a fact each."""
    path = settings.ssh_config
    facts = [
        f"{directory} holds things that are not apexgpu's"
        for directory in _directories(settings)
        if directory.is_dir()
    ]
    line = configfile.include_line(settings.config_dir / "ssh_hosts.conf")
    if path.is_file() and line.encode() in path.read_bytes():
        facts.append(f"{path} still has the line that you pasted: {line}")
    return facts


def _directories(settings: Settings) -> list[Path]:
    """Each once: on macOS they are the same."""
    return list(dict.fromkeys((settings.config_dir, settings.state_dir)))


def _config(settings: Settings, runner: Runner) -> list[Part]:
    path = settings.ssh_config
    try:
        old = path.read_bytes() if path.is_file() else b""
        ours = configblock.unmerge(old) != old
    except ConfigError:
        ours = True  # the removal says what is damaged, and where
    if not ours:
        return []
    take = partial(
        _ignore, partial(configfile.remove_block, path, state_dir=settings.state_dir, runner=runner)
    )
    return [Part("ssh config", f"apexgpu's block in {path}", take)]


def _ignore(work: Callable[[], bool]) -> None:
    work()


def _close_all(state: Path, open_ones: list[records.Tunnel]) -> None:
    for one in open_ones:
        records.close(state, one)


def _unmount(state: Path) -> None:
    mounts.unmount_ours(state)


def _end_lab(home: Path) -> None:
    from apexgpu_lab import client

    client.down(home)


def _own(directory: Path) -> list[Path]:
    """What of a directory is ours: all of it when its name says so, else only what apexgpu makes."""
    if not directory.is_dir():
        return []
    if "apexgpu" in directory.name:
        return [directory]
    return sorted({path for pattern in _OURS for path in directory.glob(pattern)}) or (
        [] if any(directory.iterdir()) else [directory]
    )


def _delete(directory: Path, own: list[Path]) -> None:
    try:
        for path in own:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
    except OSError as error:
        message = f"{error.filename or directory} cannot be removed: {error.strerror or error}"
        raise ConfigError(message, hint=f"ls -la {directory}") from None
