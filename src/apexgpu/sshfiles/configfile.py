"""The user's ssh config as a file: plan a merge, let `ssh -G` verify it, and write it safely.

`configblock` decides what the bytes become, `configcheck` what ssh makes of them. Nothing here asks
the user.
"""

import glob
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from apexgpu import files
from apexgpu.errors import ApexError, ConfigError, MissingProgramError
from apexgpu.iam import hostlist
from apexgpu.models import Host
from apexgpu.platforms import hints, owner, replacing
from apexgpu.platforms.system import is_windows
from apexgpu.process import Runner
from apexgpu.sshfiles import configbackups, configblock, configcheck, permissions
from apexgpu.sshfiles.configcheck import NameConflict, SettingWarning
from apexgpu.sshfiles.slowconfig import WORTH_A_NOTE, SlowLine
from apexgpu.sshfiles.sshhome import is_default_config

_MAX_TRIES = 5


@dataclass(frozen=True, slots=True)
class MovedHost:
    """A host whose address in the config differs from the one that IAM reports now."""

    name: str
    old_address: str
    new_address: str


@dataclass(frozen=True, slots=True)
class ConfigPlan:
    """What a sync would do to the file `path`; nothing has been done yet.

    `moved` are the hosts that get another address, `conflicts` the names that mean something else
    today. `user_bytes` is the user's own part of the ssh config, `answers` what ssh has been asked
    about it: the proof of this plan. `slow_lines` are lines that cost seconds for every name.
    """

    path: Path
    hosts: tuple[Host, ...]
    identity_file: str | None
    old: bytes
    new: bytes
    diff: str = ""
    moved: tuple[MovedHost, ...] = ()
    conflicts: tuple[NameConflict, ...] = ()
    user_bytes: bytes = b""
    is_include: bool = False
    answers: configcheck.ConfigAnswers | None = None
    slow_lines: tuple[SlowLine, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return self.old != self.new


def read_config(path: Path) -> bytes:
    """Return the bytes of the config `path`, b"" if there is no file.

    Raises:
        ConfigError: the file cannot be read, or it is not a regular file.
    """
    with _errors_naming(path):
        return _read(path) or b""


def plan(
    path: Path,
    hosts: Sequence[Host],
    *,
    runner: Runner,
    identity_file: str | None = None,
    except_names: Sequence[str] = (),
    include: Path | None = None,
    networks: Sequence[hostlist.Network] = hostlist.NETWORKS,
) -> ConfigPlan:
    """Work out what merging `hosts` into the config `path` would change.

    ssh proves that the merged config leads every name to its host and changes no other name: it is
    asked once about each name, with the user's own config and with the merged one. With nothing to
    change, ssh is not run at all.

    Args:
        identity_file: the private key to name for every host, if any.
        except_names: the hosts to leave out, by either of their ssh names.
        include: a file to write the block to instead, which `path` includes.
        networks: where the lab's addresses may be.

    Raises:
        ConfigError: damaged markers, a read-only file, a file that ssh cannot read today, or one
            that it would not read as intended after the merge.
    """
    left_out = set(except_names)
    kept = tuple(host for host in hosts if not {host.name, host.manage_name} & left_out)
    target = include or path
    with _errors_naming(target):
        old = _read(target) or b""
        new = configblock.merge(old, kept, identity_file=identity_file)
        if new == old:
            return ConfigPlan(target, kept, identity_file, old, new)
        known = {host.name: host for host in configblock.managed_hosts(old)}
        _check_writable(target)
    with _errors_naming(path):
        user_bytes = configblock.unmerge(_read(path) or b"")
    added = []
    moved = []
    for host in kept:
        if host.name not in known:
            added.append(host)
        elif known[host.name].address != host.address:
            moved.append(MovedHost(host.name, known[host.name].address, host.address))
    answers = configcheck.ConfigAnswers(runner)
    merged = configblock.merge(user_bytes, kept, identity_file=identity_file)
    names = [*configcheck.destinations(kept), *answers.compared_names(user_bytes, kept)]
    answers.ask((user_bytes, names), (merged, names))
    conflicts = configcheck.find_conflicts(
        user_bytes, merged, added, networks, shown=path, answers=answers
    )
    configcheck.verify(user_bytes, merged, kept, shown=path, answers=answers)
    return ConfigPlan(
        target,
        kept,
        identity_file,
        old,
        new,
        diff=configblock.diff(old, new, str(target)),
        moved=tuple(moved),
        conflicts=tuple(conflicts),
        user_bytes=user_bytes,
        is_include=include is not None,
        answers=answers,
        slow_lines=_find_slow_lines(path, user_bytes, answers),
    )


def _find_slow_lines(
    path: Path, user_bytes: bytes, answers: configcheck.ConfigAnswers
) -> tuple[SlowLine, ...]:
    """The lines that cost seconds, with the names and line numbers of the files on the disk."""
    name, seconds = answers.slowest()
    if seconds < WORTH_A_NOTE:
        return ()
    # The block of an earlier merge is above the user's lines.
    on_disk = _read(path) or b""
    offset = on_disk.count(b"\n") - user_bytes.count(b"\n")
    lines = []
    for line in answers.find_slow_lines(user_bytes, name):
        if not line.file:
            number = None if line.line is None else line.line + offset
            line = replace(line, file=str(path), line=number)
        lines.append(line)
    return tuple(lines)


def commit(plan: ConfigPlan, *, state_dir: Path, runner: Runner) -> bool:
    """Write what `plan` says, verified by ssh before and after; return whether anything was written.

    If the file changed since the plan was made, the hosts are merged into its present bytes.

    Raises:
        ConfigError: ssh would not read the new file as intended; the file is as it was.
    """
    if not plan.changed:
        return False

    def change(old: bytes) -> bytes:
        return configblock.merge(old, plan.hosts, identity_file=plan.identity_file)

    answers = plan.answers or configcheck.ConfigAnswers(runner)

    def verify(_candidate: Path, old: bytes) -> None:
        # For the bytes that the plan was made for, ssh has answered already.
        user_bytes = plan.user_bytes if plan.is_include else configblock.unmerge(old)
        merged = configblock.merge(user_bytes, plan.hosts, identity_file=plan.identity_file)
        configcheck.verify(user_bytes, merged, plan.hosts, shown=plan.path, answers=answers)

    def verify_written() -> None:
        # The bytes are those that were verified; one host shows that ssh reads them in this place.
        first = plan.hosts[:1]
        configcheck.check_managed(plan.path, first, shown=plan.path, runner=runner)
        for host in first:
            _check_permissions(plan, host.manage_name, runner)

    return _SafeWrite(plan.path, state_dir, change, verify, verify_written).run()


def _check_permissions(plan: ConfigPlan, name: str, runner: Runner) -> None:
    """Check that ssh reads the file of `plan` where it is; with `-F`, it does not look at who may write it."""
    if plan.is_include:
        line = include_line(plan.path).encode()
        with configcheck.as_file(line + b"\n") as including:
            permissions.check_config(including, name, runner)
    elif is_default_config(plan.path):
        permissions.check_config(plan.path, name, runner)


def remove_block(path: Path, *, state_dir: Path, runner: Runner) -> bool:
    """Remove our block from `path`, and the file itself if apexgpu created it and it is empty then.

    Return whether anything was changed. This works without ssh, and on a file that ssh cannot read.

    Raises:
        ConfigError: the markers are damaged, or the file cannot be written.
    """
    if path.exists() and not path.is_file():
        return False  # a directory or a FIFO, which we cannot have written

    def verify(_candidate: Path, old: bytes) -> None:
        with suppress(MissingProgramError):
            try:
                configcheck.check_readable(old, shown=path, runner=runner)
            except ConfigError:
                return  # the user's file is broken already; removing our lines cannot break it
            configcheck.check_readable(configblock.unmerge(old), shown=path, runner=runner)

    return _SafeWrite(path, state_dir, configblock.unmerge, verify).run()


def restore(path: Path, number: int, *, state_dir: Path, runner: Runner) -> bool:
    """Restore backup `number` of `path`. Return whether that changed anything.

    The present bytes become backup 0. Restoring number 0 itself keeps them as the newest backup,
    unless a backup has the same bytes already.

    Raises:
        ConfigError: there is no such backup, or ssh cannot read it.
    """
    backups = configbackups.list_backups(state_dir, path)
    by_number = {backup.number: backup for backup in backups}
    if number not in by_number:
        raise ConfigError(
            f"there is no backup {number} of {path}, there are {len(backups)}",
            hint="apexgpu config status",
        )
    chosen = by_number[number]
    data = chosen.path.read_bytes()

    def change(_old: bytes) -> bytes:
        return data

    def verify(_candidate: Path, _old: bytes) -> None:
        configcheck.check_readable(data, shown=chosen.path, runner=runner)

    def keep(old: bytes | None, target: Path) -> None:
        if number == 0 and old is not None:
            kept_already = old in {backup.path.read_bytes() for backup in backups}
            if kept_already:
                return
        configbackups.keep(old, target, state_dir, undo=number != 0)

    return _SafeWrite(path, state_dir, change, verify, keep=keep).run()


def include_line(include: Path) -> str:
    """Return the line that makes an ssh config read the file `include`."""
    text = re.sub(r"([][*?\\])", r"\\\1", include.as_posix())  # Include expands globs
    if re.search(r"[\s#'=]", text):
        return f'Include "{text}"'
    return f"Include {text}"


def leads_to(path: Path, hosts: Sequence[Host], *, runner: Runner) -> bool:
    """Return whether ssh, with the config `path`, connects every name of `hosts` to its host."""
    if not path.exists():
        return False
    try:
        configcheck.check_managed(path, hosts, shown=path, runner=runner)
    except ConfigError:
        return False
    return True


def find_warnings(path: Path, hosts: Sequence[Host], *, runner: Runner) -> list[SettingWarning]:
    """Return a warning for each setting in `path` that causes surprises on the lab's hosts."""
    with _errors_naming(path):
        old = _read(path)
        if old is None:
            return []
        block_names_key = configblock.managed_identity(old) is not None
    return configcheck.find_warnings(path, hosts, block_names_key=block_names_key, runner=runner)


def _accept() -> None:
    """The check after a write that needs none."""


@dataclass(frozen=True)
class _SafeWrite:
    """One safe change of the file `path`; every write of an ssh config goes through here.

    `change` computes the new bytes. `verify` raises ConfigError if the new bytes, in a temporary
    file, must not be written. `verify_written` does the same for the file in its place; then the
    old bytes are restored. `keep` backs up the old bytes; by default they become the newest backup.
    """

    path: Path
    state_dir: Path
    change: Callable[[bytes], bytes]
    verify: Callable[[Path, bytes], None]
    verify_written: Callable[[], None] = _accept
    keep: Callable[[bytes | None, Path], None] | None = None

    def run(self) -> bool:
        """Change the file; return whether anything was written."""
        # A symbolic link (into a dotfiles repository, say) stays a link: its target is written.
        target = Path(os.path.realpath(self.path))
        lock = files.locked(self.state_dir / "ssh_config.lock", what=str(self.path))
        with lock, _errors_naming(self.path):
            for _attempt in range(_MAX_TRIES):
                old = _read(target)
                new = self.change(old or b"")
                if new == (old or b""):
                    return False
                _check_writable(target)
                if self._replace(target, old, new):
                    self._check_written(target, old, new)
                    return True
        raise ConfigError(f"another program keeps changing {self.path}", hint="apexgpu config sync")

    def _replace(self, target: Path, old: bytes | None, new: bytes) -> bool:
        """Replace `old` by `new`; return False, with nothing done, if the file has changed."""
        files.private_directory(target.parent)
        candidate = _write_candidate(target, new)
        try:
            self.verify(candidate, old or b"")
            if _read(target) != old:
                return False
            if self.keep is None:
                configbackups.keep(old, target, self.state_dir)
            else:
                self.keep(old, target)
            _keep_owner(candidate, target)
            # Making the backup took a moment, so look again: the rename must follow at once.
            if _read(target) != old:
                return False
            if not new and str(target) in configbackups.created_configs(self.state_dir):
                target.unlink()
            else:
                replacing.replace(candidate, target)
        finally:
            with suppress(FileNotFoundError):
                candidate.unlink()
        files.sync_directory(target.parent)
        return True

    def _check_written(self, target: Path, old: bytes | None, new: bytes) -> None:
        try:
            self.verify_written()
        except ApexError:
            # Undo only our own write: if another program wrote in between, its bytes stay.
            if _read(target) == new:
                if old is None:
                    target.unlink()
                else:
                    files.replace_atomically(target, old)
            raise


def _write_candidate(target: Path, new: bytes) -> Path:
    """Write `new` to a temporary file beside `target`, mode 0600.

    Its name starts with a dot, so that an `Include ~/.ssh/config*` does not match it.
    """
    from tempfile import mkstemp

    prefix = f".{target.name}.apexgpu-"
    for stale in target.parent.glob(f"{glob.escape(prefix)}*.tmp"):  # left by a run that was killed
        with suppress(OSError):
            stale.unlink()
    descriptor, name = mkstemp(prefix=prefix, suffix=".tmp", dir=target.parent)
    candidate = Path(name)
    try:
        with files.errors_naming(target), os.fdopen(descriptor, "wb") as stream:
            stream.write(new)
            stream.flush()
            files.sync(stream.fileno())
    except OSError:
        candidate.unlink()  # a full disk
        raise
    return candidate


def _read(path: Path) -> bytes | None:
    """The bytes, or None if there is no file; ConfigError for anything but a regular file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a FIFO would wait forever
            raise ConfigError(f"{path} is not a regular file", hint=hints.look_at(path))
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _check_writable(path: Path) -> None:
    """Raise ConfigError if the file or its directory is read-only, or the file has two names.

    The mode bits are looked at too, because root could write a file that is read-only on purpose.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and target.stat().st_nlink > 1:
        # A safe write makes a new file, and the other name would silently keep the old one.
        raise ConfigError(
            f"{target} has a second name (a hard link), which a safe write would cut off; make one of"
            " the two a symbolic link",
            hint=hints.list_names_of(target),
        )
    existing = target if target.exists() else target.parent
    while not existing.exists():
        existing = existing.parent
    directory = existing if existing.is_dir() else existing.parent
    if is_windows() and existing.is_file() and not existing.stat().st_mode & 0o222:
        raise ConfigError(f"{path} is marked as read-only", hint=hints.make_writable(existing))
    for real_path in (existing, directory):
        has_write_bit = real_path.stat().st_mode & 0o222
        if is_windows() and real_path.is_dir():
            has_write_bit = 1  # for directories, Windows' read-only mark means nothing
        is_in_nix_store = "/nix/store/" in str(real_path)  # where home-manager keeps its files
        if not has_write_bit or not os.access(real_path, os.W_OK) or is_in_nix_store:
            raise ConfigError(
                f"{path} is read-only: {real_path} cannot be written (a dotfiles tool may own it)",
                hint="apexgpu config sync --include",
            )


def _keep_owner(candidate: Path, target: Path) -> None:
    """Give `candidate` the owner of `target`: under sudo, the user's ssh could not read it."""
    with suppress(OSError):
        old = target.stat()
        new = candidate.stat()
        if old.st_uid != new.st_uid:
            owner.give_to(candidate, old)


@contextmanager
def _errors_naming(path: Path) -> Iterator[None]:
    """Add the file's name to errors about its bytes, and turn OSError into ConfigError."""
    try:
        yield
    except ConfigError as error:
        if str(path) not in error.message:
            error.message = f"{path}: {error.message}"
            error.args = (error.message,)
        raise
    except OSError as error:
        place = Path(os.fsdecode(error.filename or path))
        if place.parent not in (path.parent, Path(os.path.realpath(path)).parent):
            raise  # about a file in the state directory: a backup, the lock
        raise ConfigError(
            f"{path} cannot be used: {error.strerror or error}",
            hint="apexgpu config sync --include",
        ) from None
