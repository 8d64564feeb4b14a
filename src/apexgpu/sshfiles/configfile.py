"""The user's ssh config as a file: plan a merge, have `ssh -G` judge it, and the one safe write.

What the bytes become is sshconfig's business, what ssh makes of them sshverify's; nothing here asks the user.
"""

import glob
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from apexgpu import files
from apexgpu.errors import ApexError, ConfigError, MissingProgramError
from apexgpu.iam import iamconfig
from apexgpu.models import Host
from apexgpu.process import Runner
from apexgpu.sshfiles import configbackups, configblock, configcheck
from apexgpu.sshfiles.configbackups import Backup, backups

__all__ = [
    "Backup",
    "Plan",
    "backups",
    "commit",
    "include_effective",
    "include_line",
    "plan",
    "read",
    "remove",
    "restore",
    "warnings",
]

_TRIES = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sync would do to the file `path`; nothing has been done yet.

    `moved`: (host, old address, new address). `taken`: (ssh name, where the user's own lines send it today).
    """

    path: Path
    hosts: tuple[Host, ...]
    identity_file: str | None
    old: bytes
    new: bytes
    diff: str = ""
    moved: tuple[tuple[str, str, str], ...] = ()
    taken: tuple[tuple[str, str], ...] = ()

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return self.old != self.new


def read(path: Path) -> bytes:
    """The bytes of the config `path`, none without a file; ConfigError for what cannot be read or is no file."""
    with _named(path):
        return _read(path) or b""


def plan(
    path: Path,
    hosts: Sequence[Host],
    *,
    runner: Runner,
    identity_file: str | None = None,
    except_names: Sequence[str] = (),
    include: Path | None = None,
    networks: Sequence[iamconfig.Network] = iamconfig.NETWORKS,
) -> Plan:
    """What merging `hosts` into the config `path` means, or writing them to the file `include` instead.

    ConfigError when it cannot be done: damaged marks, a read-only file, a file that ssh cannot read today.
    With nothing to change, ssh is not asked at all.
    """
    kept = tuple(host for host in hosts if not {host.name, host.manage_name} & set(except_names))
    target = include or path
    with _named(target):
        old = _read(target) or b""
        new = configblock.merge(old, kept, identity_file=identity_file)
        before = {host.name: host for host in configblock.managed(old)}
        if new == old:
            return Plan(target, kept, identity_file, old, new)
        _check_writable(target)
    with _named(path):
        mine = configblock.unmerge(_read(path) or b"")
    fresh = [host for host in kept if host.name not in before]
    moved = tuple(
        (host.name, before[host.name].address, host.address)
        for host in kept
        if host.name in before and before[host.name].address != host.address
    )
    merged = configblock.merge(mine, kept, identity_file=identity_file)
    taken = configcheck.taken(mine, merged, fresh, networks, shown=path, runner=runner)
    return Plan(
        target,
        kept,
        identity_file,
        old,
        new,
        configblock.diff(old, new, str(target)),
        moved,
        tuple(taken),
    )


def commit(plan: Plan, *, state_dir: Path, runner: Runner) -> bool:
    """Write what `plan` says, judged by ssh before and after; True if anything was written.

    A file that changed since the plan is merged anew: the block says the same.
    """
    if not plan.changed:
        return False

    def change(old: bytes) -> bytes:
        return configblock.merge(old, plan.hosts, identity_file=plan.identity_file)

    def judge(candidate: Path, old: bytes) -> None:
        mine = configblock.unmerge(old)
        configcheck.verify(
            candidate,
            mine,
            plan.hosts,
            configblock.host_names(mine),
            shown=plan.path,
            runner=runner,
        )

    def recheck() -> None:
        configcheck.check_managed(plan.path, plan.hosts, shown=plan.path, runner=runner)

    return _rewrite(plan.path, change, judge, recheck, state_dir)


def remove(path: Path, *, state_dir: Path, runner: Runner) -> bool:
    """Cut our block out of `path`; a file that we made goes with it. True if there was anything to do."""
    if path.exists() and not path.is_file():
        return False  # a directory or a FIFO, where we cannot have written

    def judge(_candidate: Path, old: bytes) -> None:
        # Removing must work without ssh, and on a file that the user broke; it must not break a sound one.
        with suppress(MissingProgramError):
            try:
                configcheck.check_readable(old, shown=path, runner=runner)
            except ConfigError:
                return
            configcheck.check_readable(configblock.unmerge(old), shown=path, runner=runner)

    return _rewrite(path, configblock.unmerge, judge, lambda: None, state_dir)


def restore(path: Path, n: int, *, state_dir: Path, runner: Runner) -> bool:
    """Put backup `n` back; True if that changed anything. The present bytes are kept as number 0.

    Going back to number 0 keeps them as the newest, unless they are kept already.
    """
    kept = backups(state_dir, path)
    chosen = next((backup for backup in kept if backup.n == n), None)
    if chosen is None:
        raise ConfigError(
            f"there is no backup {n} of {path}, there are {len(kept)}", hint="apexgpu config status"
        )
    data = chosen.path.read_bytes()

    def judge(_candidate: Path, _old: bytes) -> None:
        configcheck.check_readable(data, shown=chosen.path, runner=runner)

    def keep(old: bytes | None, target: Path) -> None:
        if n == 0 and old is not None and old in {backup.path.read_bytes() for backup in kept}:
            return
        configbackups.keep(old, target, state_dir, undo=n != 0)

    return _rewrite(path, lambda _old: data, judge, lambda: None, state_dir, keep)


def include_line(include: Path) -> str:
    """The line to paste at the top of an ssh config that must stay as it is."""
    text = re.sub(r"([][*?\\])", r"\\\1", include.as_posix())  # Include expands globs
    return f'Include "{text}"' if re.search(r"[\s#'=]", text) else f"Include {text}"


def include_effective(path: Path, hosts: Sequence[Host], *, runner: Runner) -> bool:
    """Whether, with the config `path` as it is, ssh takes every name of `hosts` to its host."""
    if not path.exists():
        return False
    try:
        configcheck.check_managed(path, hosts, shown=path, runner=runner)
    except ConfigError:
        return False
    return True


def warnings(path: Path, hosts: Sequence[Host], runner: Runner) -> list[str]:
    """What of the user's own settings reaches the lab's names and will surprise, one sentence each."""
    with _named(path):
        old = _read(path)
        if old is None:
            return []
        own_identity = configblock.identity(old) is not None
    return configcheck.warnings(path, hosts, own_identity=own_identity, runner=runner)


def _rewrite(
    path: Path,
    change: Callable[[bytes], bytes],
    judge: Callable[[Path, bytes], None],
    recheck: Callable[[], None],
    state_dir: Path,
    keep: Callable[[bytes | None, Path], None] | None = None,
) -> bool:
    """The one safe write: `change` the bytes of `path`, once `judge` agrees; True if written.

    `keep` backs the old bytes up; without it they become the newest backup.
    """
    target = Path(os.path.realpath(path))
    keep = keep or (lambda old, target: configbackups.keep(old, target, state_dir))
    with files.locked(state_dir / "ssh_config.lock", what=str(path)), _named(path):
        for _ in range(_TRIES):
            old = _read(target)
            new = change(old or b"")
            if new == (old or b""):
                return False
            _check_writable(target)
            if _replaced(target, old, new, judge, keep, state_dir):
                _rechecked(target, old, new, recheck)
                return True
    raise ConfigError(
        f"{path} keeps changing while apexgpu wants to write it",
        hint="close what writes it, then: apexgpu config sync",
    )


def _replaced(
    target: Path,
    old: bytes | None,
    new: bytes,
    judge: Callable[[Path, bytes], None],
    keep: Callable[[bytes | None, Path], None],
    state_dir: Path,
) -> bool:
    """Put `new` in the place of `old`; False, and nothing done, when the file is not `old` any more."""
    files.private_directory(target.parent)
    candidate = _candidate(target, new)
    try:
        judge(candidate, old or b"")
        if _read(target) != old:
            return False
        keep(old, target)
        _keep_owner(candidate, target)
        # Backing up took a moment: look again, so that the rename follows at once.
        if _read(target) != old:
            return False
        if not new and str(target) in configbackups.created(state_dir):
            target.unlink()
        else:
            candidate.replace(target)
    finally:
        with suppress(FileNotFoundError):
            candidate.unlink()
    files.sync_directory(target.parent)
    return True


def _rechecked(target: Path, old: bytes | None, new: bytes, recheck: Callable[[], None]) -> None:
    try:
        recheck()
    except ApexError:
        # Only what we wrote is taken back: someone else's write in between is theirs.
        if _read(target) == new:
            if old is None:
                target.unlink()
            else:
                files.replace_atomically(target, old)
        raise


def _candidate(target: Path, new: bytes) -> Path:
    """`new` on disk beside `target`, 0600, under a dot name that no `Include ~/.ssh/config*` sees."""
    from tempfile import mkstemp

    prefix = f".{target.name}.apexgpu-"
    for stale in target.parent.glob(f"{glob.escape(prefix)}*.tmp"):  # of a run that was killed
        with suppress(OSError):
            stale.unlink()
    descriptor, name = mkstemp(prefix=prefix, suffix=".tmp", dir=target.parent)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(new)
        stream.flush()
        os.fsync(stream.fileno())
    return Path(name)


def _read(path: Path) -> bytes | None:
    """The bytes, or None without a file; ConfigError for what is no regular file (a FIFO would hang)."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path} is no regular file", hint=f"ls -ld {path}")
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _check_writable(path: Path) -> None:
    """ConfigError for a file or directory that is read-only on purpose; root could write it all the same."""
    target = Path(os.path.realpath(path))
    here = target if target.exists() else target.parent
    while not here.exists():
        here = here.parent
    for place in (here, here if here.is_dir() else here.parent):
        if (
            not place.stat().st_mode & 0o222
            or not os.access(place, os.W_OK)
            or "/nix/store/" in str(place)
        ):
            raise ConfigError(
                f"{path} is read-only: {place} cannot be written (a dotfiles tool may own it)",
                hint="apexgpu config sync --include",
            )


def _keep_owner(candidate: Path, target: Path) -> None:
    """Under sudo the file stays its owner's, or that user's ssh could not read it any more."""
    with suppress(OSError):
        before, now = target.stat(), candidate.stat()
        if before.st_uid != now.st_uid and hasattr(os, "chown"):
            os.chown(candidate, before.st_uid, before.st_gid)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors about bytes get the file's name; the system's refusals become ConfigError."""
    try:
        yield
    except ConfigError as error:
        if str(path) not in error.message:
            error.message = f"{path}: {error.message}"
            error.args = (error.message,)
        raise
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be used: {error.strerror or error}",
            hint="apexgpu config sync --include",
        ) from None
