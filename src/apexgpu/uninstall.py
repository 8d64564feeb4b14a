"""uninstall: remove everything that apexgpu wrote on this machine. The user's keys stay."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from apexgpu import credentials, questions, shellcompletion, sshconfig
from apexgpu.archives.journal import Journal
from apexgpu.errors import ConfigError
from apexgpu.forwarding import records
from apexgpu.platforms import hints
from apexgpu.results import JsonObject, Result
from apexgpu.session import Session
from apexgpu.settings import Settings
from apexgpu.ssh import controlmaster
from apexgpu.sshfiles import configblock, configfile, knownhostsedit
from apexgpu.sshfs import mountrecords, mounts, unmounting
from apexgpu.text import counted

# The names that apexgpu uses in its two directories. A directory that the user shares with other
# files (its name does not contain "apexgpu") loses only these.
_OUR_NAMES = (
    "account.json",
    "backups",
    "completion.*",
    "config.toml",
    "connections.json",
    "hosts",
    "installers.json",
    "journal",
    "keys",
    "known_hosts",
    "known_hosts.json",
    "lab",
    "locks",
    "mounts.json",
    "ports.json",
    "runs.json",
    "settings.lock",
    "snapshot-names",
    "ssh_config.*",
    "ssh_hosts.conf",
    "starts",
    "tunnels",
)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to remove: its name in JSON, what a person reads, and how it is removed."""

    name: str
    description: str
    remove: Callable[[], object]


@dataclass(frozen=True)
class Uninstallation(Result):
    """What `uninstall` removed, by name; facts about what is left; interrupted work on hosts."""

    removed: tuple[str, ...]
    left: tuple[str, ...]
    interrupted: tuple[str, ...]

    def to_json(self) -> JsonObject:
        """See Result."""
        return {
            "ok": True,
            "changed": bool(self.removed),
            "removed": list(self.removed),
            "left": list(self.left),
            "interrupted": list(self.interrupted),
        }


def uninstall(session: Session) -> Uninstallation:
    """Remove everything that apexgpu wrote on this machine, after showing it.

    Raises:
        DeclinedError: the user did not agree.
        RefusedError: a program uses a mounted directory.
        ConfigError: a file cannot be changed. What was not removed yet stays.
    """
    reporter = session.reporter
    items = list_items(session)
    interrupted = _interrupted_work(session.settings)
    for fact in interrupted:
        reporter.warn(f"{fact}; after uninstall, nothing on this machine knows about it")
    if items and not session.yes:
        for item in items:
            reporter.note(f"  {item.name:<12} {item.description}")
        session.confirm(questions.UNINSTALL.fill())
    for item in items:
        item.remove()
        reporter.success(f"removed: {item.description}")
    left = _left_behind(session)
    for fact in left:
        reporter.note(f"left: {fact}")
    return Uninstallation(
        removed=tuple(item.name for item in items),
        left=tuple(left),
        interrupted=tuple(interrupted),
    )


def list_items(session: Session) -> list[Item]:
    """Return what there is to remove, in the order in which it has to be removed.

    Mounts come before the embedded lab, because they may lead to it. The directories are last,
    because the others are recorded there.
    """
    return [
        *_mounts(session),
        *_lab(session),
        *_tunnels(session),
        *_ssh_config(session),
        *_known_hosts(session),
        *_password(session),
        *_completion(session),
        *_connections(),
        *_directory_items(session.settings),
    ]


def _mounts(session: Session) -> Iterator[Item]:
    state_dir = session.state_dir
    if not mountrecords.load(state_dir):
        return
    directories = [mount.directory for mount in mounts.find_own_mounts(state_dir)]
    names = ", ".join(directories) or "directories of earlier mounts"
    yield Item("mounts", f"mounts: {names}", partial(unmounting.unmount_own, state_dir))


def _lab(session: Session) -> Iterator[Item]:
    home = session.state_dir / "lab"
    if not home.exists():
        return

    def end_lab() -> None:
        from apexgpu_lab import client

        release_lab(session, home)
        client.down(home)

    yield Item("lab", f"the embedded lab in {home}", end_lab)


def release_lab(session: Session, home: Path) -> None:
    """Unmount and close what leads to the embedded lab in `home`: without it, the mounts would hang.

    Raises RefusedError if a mount is in use.
    """
    # As `lab env` sets it, see apexgpu_lab.layout.
    state_dir = home / "state"
    if not state_dir.is_dir():
        return
    for mount in unmounting.unmount_own(state_dir):
        session.reporter.success(f"unmounted {mount.directory}")
    for tunnel in records.list_open(state_dir):
        records.close(state_dir, tunnel)
        session.reporter.success(f"closed {tunnel.id}")


def _tunnels(session: Session) -> Iterator[Item]:
    state_dir = session.state_dir
    tunnels = records.list_open(state_dir)
    if not tunnels:
        return

    def close_all() -> None:
        for tunnel in tunnels:
            records.close(state_dir, tunnel)

    ids = ", ".join(tunnel.id for tunnel in tunnels)
    yield Item("tunnels", f"open tunnels: {ids}", close_all)


def _ssh_config(session: Session) -> Iterator[Item]:
    path = session.settings.ssh_config
    # A FIFO in its place must not be opened: that would wait forever.
    old = path.read_bytes() if path.is_file() else b""
    try:
        has_block = configblock.unmerge(old) != old
    except ConfigError:
        has_block = True  # its removal will report what is damaged, and where
    if has_block:
        remove = partial(
            configfile.remove_block, path, state_dir=session.state_dir, runner=session.runner
        )
        yield Item("ssh config", f"apexgpu's block in {path}", remove)


def _known_hosts(session: Session) -> Iterator[Item]:
    added = knownhostsedit.list_added(session.state_dir)
    for path, names in added.items():
        keys = counted(len(names), "host key")
        remove = partial(knownhostsedit.remove, path, names)
        yield Item("known_hosts", f"{keys} in {path} that apexgpu added", remove)


def _password(session: Session) -> Iterator[Item]:
    if session.settings.user is None:
        return
    if not credentials.password_problem(session):
        forget = partial(credentials.forget_password, session)
        yield Item("password", "the domain password in the keyring", forget)


def _completion(session: Session) -> Iterator[Item]:
    config_dir = session.settings.config_dir
    files = shellcompletion.installed_files(config_dir)
    if files:
        names = ", ".join(str(path) for path in files)
        remove = partial(shellcompletion.remove, config_dir)
        yield Item("completion", f"completion in {names}", remove)


def _connections() -> Iterator[Item]:
    processes = controlmaster.list_open()
    if processes or controlmaster.sockets():
        description = counted(len(processes), "open connection")
        yield Item("connections", description, controlmaster.close_all)


def _directory_items(settings: Settings) -> Iterator[Item]:
    for directory in _directories(settings):
        paths = _our_paths(directory)
        if paths:
            yield Item("directory", str(directory), partial(_delete, directory, paths))


def _directories(settings: Settings) -> list[Path]:
    """The config and the state directory; on macOS they are the same."""
    return list(dict.fromkeys((settings.config_dir, settings.state_dir)))


def _our_paths(directory: Path) -> list[Path]:
    """What in `directory` is ours: all of it if its name says so, else only what apexgpu makes."""
    if not directory.is_dir():
        return []
    if "apexgpu" in directory.name:
        return [directory]
    paths: set[Path] = set()
    for pattern in _OUR_NAMES:
        paths.update(directory.glob(pattern))
    if paths:
        return sorted(paths)
    is_empty = not any(directory.iterdir())
    return [directory] if is_empty else []


def _delete(directory: Path, paths: list[Path]) -> None:
    """Delete `paths` in `directory`, and the directory itself if it is empty then."""
    try:
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
    except OSError as error:
        message = f"{error.filename or directory} cannot be removed: {error.strerror or error}"
        raise ConfigError(message, hint=hints.list_directory(directory)) from None


def _interrupted_work(settings: Settings) -> list[str]:
    """A sentence for each piece of interrupted work on a host: only the journal knows of it."""
    journal = Journal(settings.state_dir)
    facts = []
    for host in journal.hosts():
        try:
            entry = journal.find(host)
        except ConfigError as error:
            facts.append(error.message)
            continue
        if entry is not None:
            facts.append(f"{entry.describe()}; apexgpu {entry.what} {host} finishes or undoes it")
    return facts


def _left_behind(session: Session) -> list[str]:
    """A sentence for each thing that stays and that the user may want to know about."""
    facts = []
    for directory in _directories(session.settings):
        if directory.is_dir():
            facts.append(f"{directory} contains files that are not apexgpu's")
    line = sshconfig.pasted_line(session)
    if line is not None:
        path = session.settings.ssh_config
        facts.append(f"{path} still has the line that you pasted: {line}")
    return facts
