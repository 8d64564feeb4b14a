"""The lab's hosts in the user's ssh config: merge them, show the state, remove, restore.

`merge` is the pure heart of it: bytes and hosts in, bytes out. Everything else here plans a change,
shows it, asks, and lets `sshfiles.configfile` write it safely.

Example:
    >>> from apexgpu import sshconfig
    >>> from apexgpu.session import Session
    >>> result = sshconfig.sync(Session(yes=True))
    >>> [host.name for host in result.hosts]

What only some of these functions need is imported there: commands have to start quickly.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from apexgpu import questions
from apexgpu.errors import UsageError
from apexgpu.models import Host
from apexgpu.results import JsonObject, Result
from apexgpu.session import Session
from apexgpu.settings import Setting
from apexgpu.sshfiles import configbackups, configblock
from apexgpu.sshfiles.configbackups import Backup
from apexgpu.sshfiles.configblock import merge
from apexgpu.text import counted

if TYPE_CHECKING:
    from apexgpu.iam.client import IamClient
    from apexgpu.sshfiles.configfile import ConfigPlan

__all__ = [
    "BackupList",
    "BlockFormat",
    "ConfigBlock",
    "ConfigStatus",
    "Removal",
    "Restoration",
    "Sync",
    "fetch_hosts",
    "list_backups",
    "merge",
    "merge_hosts",
    "pasted_line",
    "print_block",
    "remove",
    "remove_block",
    "restore",
    "status",
    "sync",
]


BlockFormat = Literal["ssh", "ansible", "clustershell", "json", "csv"]
"""What `print_block` prints: the block for the ssh config, or the list of hosts for another program."""


@dataclass(frozen=True)
class Sync(Result):
    """What `sync` did, or would do with `dry_run`.

    `hosts` are those in the config now, `left_out` the names of those that the user does not want
    there. `line_to_paste` is the Include line that the user has to add, None if ssh reads the
    hosts already.
    """

    path: Path
    hosts: tuple[Host, ...]
    left_out: tuple[str, ...]
    would_change: bool
    dry_run: bool
    line_to_paste: str | None = None

    def to_json(self) -> JsonObject:
        """See Result."""
        return {
            "ok": True,
            "changed": self.would_change and not self.dry_run,
            "would_change": self.would_change,
            "path": str(self.path),
            "hosts": [_host_json(host) for host in self.hosts],
            "left_out": list(self.left_out),
        }


@dataclass(frozen=True)
class ConfigStatus(Result):
    """The settings, and the state of the ssh config at `path`.

    `managed` are the hosts that our block names, `own` the names on the user's own Host lines.
    """

    settings: dict[str, Setting]
    path: Path
    managed: tuple[Host, ...]
    own: tuple[str, ...]
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]
    backups: tuple[Backup, ...]

    def to_json(self) -> JsonObject:
        """See Result."""
        settings = {}
        for name, setting in self.settings.items():
            settings[name] = {"value": setting.value or None, "source": setting.source}
        return {
            "ok": True,
            "settings": settings,
            "path": str(self.path),
            "managed": [_host_json(host) for host in self.managed],
            "own": list(self.own),
            "left_out": list(self.left_out),
            "warnings": list(self.warnings),
            "backups": [_backup_json(backup) for backup in self.backups],
        }


@dataclass(frozen=True)
class ConfigBlock(Result):
    """The text of the block for `hosts`, or their list in another format."""

    text: str
    hosts: tuple[Host, ...]

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "text": self.text, "hosts": [_host_json(host) for host in self.hosts]}


@dataclass(frozen=True)
class Removal(Result):
    """Whether `remove` changed anything in the ssh config at `path`."""

    path: Path
    changed: bool

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "changed": self.changed, "path": str(self.path)}


@dataclass(frozen=True)
class Restoration(Result):
    """Whether restoring backup `number` changed the ssh config at `path`."""

    path: Path
    number: int
    changed: bool

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "changed": self.changed, "path": str(self.path)}


@dataclass(frozen=True)
class BackupList(Result):
    """The earlier states of the ssh config that can be restored."""

    backups: tuple[Backup, ...]

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "backups": [_backup_json(backup) for backup in self.backups]}


def sync(
    session: Session,
    *,
    dry_run: bool = False,
    include: bool = False,
    except_hosts: Sequence[str] = (),
    forget_exceptions: bool = False,
) -> Sync:
    """Fetch the hosts from IAM and merge them into the ssh config.

    The user is asked before the first change, before a host's address changes, and before a name
    gets another meaning. With nothing to change, nothing is written.

    Args:
        dry_run: show the difference, and write nothing.
        include: write the block to a file of its own, which the ssh config has to include.
        except_hosts: names or globs of hosts to leave out, now and in later syncs.
        forget_exceptions: no longer leave out the hosts of earlier syncs.

    Raises:
        LoginError: the account is not known yet.
        UnreachableError: IAM does not answer.
        ConfigError: IAM's response or the ssh config cannot be used, or ssh would not read the
            merged file as intended. Nothing is written.
        DeclinedError: the user did not agree.
    """
    with session.reporter.working("asking IAM for the hosts"):
        hosts = fetch_hosts(session)
    session = session.with_hosts(hosts)
    left_out = () if forget_exceptions else session.account.left_out
    if except_hosts:
        patterns = [pattern.removesuffix("-manage") for pattern in except_hosts]
        names = [host.name for host in session.hosts(patterns)]
        left_out = tuple(dict.fromkeys([*left_out, *names]))
    merged = _merge(
        session,
        hosts,
        left_out=left_out,
        dry_run=dry_run,
        include=include,
    )
    return Sync(
        path=session.settings.ssh_config,
        hosts=tuple(host for host in hosts if host.name not in left_out),
        left_out=left_out,
        would_change=merged.plan.changed,
        dry_run=dry_run,
        line_to_paste=merged.line_to_paste,
    )


def status(session: Session) -> ConfigStatus:
    """Return the settings with their sources, and the state of the ssh config.

    Raises:
        ConfigError: a file cannot be read, or our markers in it are damaged.
    """
    from apexgpu.sshfiles import configfile

    path = session.settings.ssh_config
    old = configfile.read_config(path)
    managed = configblock.managed_hosts(old)
    if not managed:
        managed = configblock.managed_hosts(configfile.read_config(_include_file(session)))
    warnings = []
    if managed:
        for warning in configfile.find_warnings(path, managed, runner=session.runner):
            warnings.append(warning.text)
    if configblock.is_edited(old):
        warnings.append(
            "the block was edited or moved by hand; the next `apexgpu config sync` undoes that"
        )
    return ConfigStatus(
        settings=dict(session.settings.named),
        path=path,
        managed=managed,
        own=tuple(configblock.user_host_names(old)),
        left_out=session.account.left_out,
        warnings=tuple(warnings),
        backups=tuple(configbackups.list_backups(session.state_dir, path)),
    )


def print_block(session: Session, block_format: BlockFormat = "ssh") -> ConfigBlock:
    """Fetch the hosts from IAM and return the block that `sync` would write. Changes nothing.

    The other formats list the hosts for programs that run something on hundreds of them.

    Raises:
        LoginError, UnreachableError, ConfigError: see `sync`.
    """
    left_out = session.account.left_out
    hosts = tuple(host for host in fetch_hosts(session) if host.name not in left_out)
    if block_format == "ssh":
        identity_file = key_to_pin(session)
        block = configblock.render_block(hosts, identity_file=identity_file)
        return ConfigBlock(block.decode(), hosts)
    from apexgpu.ssh import route as routes
    from apexgpu.sshfiles import inventory

    ssh_arguments = routes.config_arguments(session.settings.ssh_config)
    inventory_format = inventory.InventoryFormat(block_format)
    return ConfigBlock(
        inventory.render(hosts, inventory_format, ssh_arguments=ssh_arguments), hosts
    )


def remove(session: Session) -> Removal:
    """Remove our block from the ssh config; every other byte stays.

    Raises:
        ConfigError: our markers are damaged, or the file cannot be written.
    """
    return Removal(session.settings.ssh_config, remove_block(session))


def list_backups(session: Session) -> BackupList:
    """Return the earlier states of the ssh config that `restore` can bring back."""
    backups = configbackups.list_backups(session.state_dir, session.settings.ssh_config)
    return BackupList(tuple(backups))


def restore(session: Session, number: int) -> Restoration:
    """Restore the ssh config from backup `number`; the user sees the difference and is asked.

    Number 1 is the newest backup, 0 what the last restore replaced.

    Raises:
        UsageError: there is no such backup.
        ConfigError: ssh cannot read the backup, or the file cannot be written.
        DeclinedError: the user did not agree.
    """
    from apexgpu.sshfiles import configfile

    path = session.settings.ssh_config
    by_number = {}
    for backup in configbackups.list_backups(session.state_dir, path):
        by_number[backup.number] = backup
    if number not in by_number:
        raise UsageError(f"there is no copy {number} of {path}", hint="apexgpu config restore")
    old = configfile.read_config(path)
    new = by_number[number].path.read_bytes()
    if new != old:
        if not session.yes:
            session.reporter.diff(configblock.diff(old, new, str(path)))
        session.confirm(questions.RESTORE_CONFIG.fill(number=number, path=path))
    changed = configfile.restore(path, number, state_dir=session.state_dir, runner=session.runner)
    return Restoration(path, number, changed)


# What `login` and `logout` share with the commands above


def fetch_hosts(session: Session, client: "IamClient | None" = None) -> tuple[Host, ...]:
    """Return the hosts that IAM lists now. They are checked strictly, as they may be forged."""
    from apexgpu.iam import hostlist
    from apexgpu.iam.client import IamClient

    if client is None:
        client = IamClient(session.iam_url, timeout=session.settings.timeout)
    text = client.config(session.user)
    return hostlist.parse(text, user=session.user, networks=session.networks)


def merge_hosts(session: Session, hosts: tuple[Host, ...]) -> tuple[Session, bool]:
    """Merge `hosts` into the ssh config, and remember them; see `sync` for questions and errors.

    The block names the key of the last login. Returns the session that knows the hosts, and whether
    the config changed.
    """
    merged = _merge(session, hosts, left_out=session.account.left_out)
    if merged.line_to_paste is not None:
        session.reporter.note(merged.line_to_paste)
    return merged.session, merged.plan.changed


def remove_block(session: Session) -> bool:
    """Remove our block, and our file that the ssh config may include; return whether one was there."""
    from apexgpu.sshfiles import configfile

    path = session.settings.ssh_config
    include = _include_file(session)
    changed = configfile.remove_block(path, state_dir=session.state_dir, runner=session.runner)
    if not include.exists():
        return changed
    configfile.remove_block(include, state_dir=session.state_dir, runner=session.runner)
    line = configfile.include_line(include)
    session.reporter.note(f"The line `{line}` in {path} is not needed any more.")
    return True


def pasted_line(session: Session) -> str | None:
    """Return the Include line that the user pasted into the ssh config, None if it is not there."""
    from apexgpu.sshfiles import configfile

    path = session.settings.ssh_config
    line = configfile.include_line(_include_file(session))
    # A FIFO in its place must not be opened: that would wait forever.
    if path.is_file() and line.encode() in path.read_bytes():
        return line
    return None


@dataclass(frozen=True)
class _Merged:
    """The session that knows the hosts, the plan that was carried out, the line to paste if any."""

    session: Session
    plan: "ConfigPlan"
    line_to_paste: str | None = None


def _merge(
    session: Session,
    hosts: tuple[Host, ...],
    *,
    left_out: tuple[str, ...],
    dry_run: bool = False,
    include: bool = False,
) -> _Merged:
    """Show what merging `hosts` would change, ask if needed, write, and remember the hosts."""
    from apexgpu.sshfiles import configfile

    include_file = _include_file(session)
    uses_include = include or include_file.exists()
    plan = configfile.plan(
        session.settings.ssh_config,
        hosts,
        runner=session.runner,
        identity_file=key_to_pin(session),
        except_names=left_out,
        include=include_file if uses_include else None,
        networks=session.networks,
    )
    if plan.changed:
        _report_plan(session, plan, with_diff=dry_run or not session.yes)
    if dry_run:
        return _Merged(session, plan)
    if plan.changed:
        is_first = not configblock.managed_hosts(plan.old)
        if is_first or plan.moved or plan.conflicts:
            session.confirm(questions.WRITE_CONFIG.fill(path=plan.path))
        configfile.commit(plan, state_dir=session.state_dir, runner=session.runner)
    session = session.remember(replace(session.account, hosts=hosts, left_out=left_out))
    return _Merged(session, plan, _report_written(session, plan))


def _report_plan(session: Session, plan: "ConfigPlan", *, with_diff: bool) -> None:

    reporter = session.reporter
    if with_diff:
        reporter.diff(plan.diff)
    for host in plan.moved:
        reporter.warn(f"{host.name} moves from {host.old_address} to {host.new_address}")
    for line in plan.slow_lines:
        reporter.note(f"ssh waits for this line every time: {line.describe()}")
    for conflict in plan.conflicts:
        reporter.warn(
            f"{conflict.name} already means {conflict.current} in your file; "
            "after this it means the lab's host",
            hint=f"apexgpu config sync --except {conflict.name}",
        )


def _report_written(session: Session, plan: "ConfigPlan") -> str | None:
    """Report the state after a merge; return the Include line if the user still has to paste it."""
    from apexgpu.ssh import route as routes
    from apexgpu.sshfiles import configfile

    reporter = session.reporter
    config = session.settings.ssh_config
    count = counted(len(plan.hosts), "host")
    if session.account.left_out:
        names = ", ".join(session.account.left_out)
        reporter.note(f"Left out: {names} (to include all hosts: apexgpu config sync --no-except)")
    if plan.path != config:
        is_included = configfile.leads_to(config, plan.hosts, runner=session.runner)
        if not is_included:
            reporter.success(f"{plan.path}: {count}")
            reporter.note(f"ssh does not read it yet. Put this line at the very top of {config}:")
            return configfile.include_line(plan.path)
    if not plan.changed:
        reporter.success(f"{plan.path} is up to date ({count})")
    elif plan.hosts:
        command = shlex.join(["ssh", *routes.config_arguments(config), plan.hosts[0].name])
        reporter.success(f"{plan.path}: {count}; `{command}` works from any program")
    return None


def _include_file(session: Session) -> Path:
    """The file for the block if the ssh config itself must not be written."""
    return session.settings.config_dir / "ssh_hosts.conf"


def key_to_pin(session: Session) -> str | None:
    """The file of the last login's key for the block to name, None if there is no such key or file.

    It is always named, also if ssh would offer that key anyway: a server disconnects after six
    refused keys, and the agent's come first.
    """
    from apexgpu.iam.publickeys import parse_line
    from apexgpu.sshfiles import pinnedkeys

    account = session.account
    if account.identity_file:
        # ssh reports a file that does not exist every time it is used.
        try:
            exists = Path(account.identity_file).is_file()
        except OSError:  # its directory cannot be searched
            exists = False
        return account.identity_file if exists else None
    key = parse_line(account.public_key)
    if key is None:
        return None
    return str(pinnedkeys.write_public_half(session.state_dir, key))


def _host_json(host: Host) -> JsonObject:
    return {
        "host": host.name,
        "ok": True,
        "error": None,
        "address": host.address,
        "user": host.user,
        "port": host.port,
        "manage_port": host.manage_port,
    }


def _backup_json(backup: Backup) -> JsonObject:
    return {
        "n": backup.number,
        "path": str(backup.path),
        "taken": backup.taken.isoformat(),
        "bytes": backup.bytes,
    }
