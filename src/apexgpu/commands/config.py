"""config: the hosts in the ssh config. Shows what would change, asks, and lets `configfile` do the writing."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from apexgpu.commands.options import Group, session_of
from apexgpu.errors import UsageError
from apexgpu.models import Host
from apexgpu.process import which
from apexgpu.session import Session
from apexgpu.ssh import route as routes
from apexgpu.sshfiles import configbackups, configblock, configfile

app = Group()
config = Group()
app.add_typer(
    config, name="config", help="The hosts in ~/.ssh/config: sync, status, print, remove, restore."
)


def fetch_hosts(session: Session, client: Any = None) -> tuple[Host, ...]:
    """The hosts as IAM tells them now, kept for the other commands."""
    from apexgpu.iam import hostlist
    from apexgpu.iam.client import IamClient

    client = client or IamClient(session.iam_url, timeout=session.settings.timeout)
    return hostlist.parse(client.config(session.user), user=session.user, networks=session.networks)


def include_file(session: Session) -> Path:
    """Where the block lives when the user's file includes it."""
    return session.settings.config_dir / "ssh_hosts.conf"


def merge_into_config(
    session: Session,
    hosts: tuple[Host, ...],
    *,
    identity: Path | None,
    left_out: tuple[str, ...] | None = None,
    dry_run: bool = False,
    include: bool = False,
) -> tuple[Session, bool]:
    """Show what would change, ask where a question is due, and write.

    Returns the session that knows the hosts, and whether anything changed.

    `left_out` are the hosts to leave out from now on; None: those that were left out before.
    """
    found = replace(
        session.account,
        hosts=hosts,
        left_out=session.account.left_out if left_out is None else left_out,
    )
    plan = configfile.plan(
        session.settings.ssh_config,
        hosts,
        runner=session.runner,
        identity_file=identity_line(session, identity),
        except_names=found.left_out,
        include=include_file(session) if include or include_file(session).exists() else None,
        networks=session.networks,
    )
    if plan.changed:
        _show_plan(session, plan, dry_run=dry_run)
        if dry_run:
            return session, True
        if not configblock.managed_hosts(plan.old) or plan.moved or plan.conflicts:
            session.confirm(f"Write this into {plan.path}?")
        configfile.commit(plan, state_dir=session.state_dir, runner=session.runner)
    if not dry_run:
        session = session.remember(found)
        _show_written(session, plan)
    return session, plan.changed


def _show_plan(session: Session, plan: configfile.ConfigPlan, *, dry_run: bool) -> None:
    if dry_run or not session.yes:
        session.screen.block(plan.diff)
    for host in plan.moved:
        session.screen.warn(f"{host.name} moves from {host.old_address} to {host.new_address}")
    for conflict in plan.conflicts:
        session.screen.warn(
            f"{conflict.name} already means {conflict.current} in your file, and would mean the lab's host",
            hint=f"apexgpu config sync --except {conflict.name}",
        )


def _show_written(session: Session, plan: configfile.ConfigPlan) -> None:
    count = f"{len(plan.hosts)} hosts"
    if session.account.left_out:
        session.screen.note(
            f"Left out: {', '.join(session.account.left_out)} "
            "(to take all hosts again: apexgpu config sync --no-except)"
        )
    if plan.path != session.settings.ssh_config and not _included(session, plan.hosts):
        session.screen.good(f"{plan.path}: {count}")
        session.screen.note(
            f"ssh does not read it yet. Put this line at the very top of {session.settings.ssh_config}:"
        )
        session.screen.result(configfile.include_line(plan.path))
    elif not plan.changed:
        session.screen.good(f"{plan.path} is up to date ({count})")
    elif plan.hosts:
        words = shlex.join(
            ["ssh", *routes.config_arguments(session.settings.ssh_config), plan.hosts[0].name]
        )
        session.screen.good(f"{plan.path}: {count}; `{words}` works from any program")


def _included(session: Session, hosts: Sequence[Host]) -> bool:
    return configfile.leads_to(session.settings.ssh_config, hosts, runner=session.runner)


def identity_line(session: Session, identity: Path | None) -> str | None:
    """The private key to name in the block: only one that ssh would not offer by itself, and that is there."""
    if identity is None or not identity.is_file() or which("ssh") is None:
        return None
    probe = Host("apexgpu-probe", "192.0.2.1", "nobody", 22)
    from apexgpu.models import Target

    found = routes.resolve(
        Target(probe, "container"), config=session.settings.ssh_config, runner=session.runner
    )
    return None if identity in found.identity_files else str(identity)


SshConfig = Annotated[
    Path | None, typer.Option("--ssh-config", help="Another file than ~/.ssh/config.")
]


@config.command("sync")
def sync(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the difference, write nothing.")
    ] = False,
    include: Annotated[
        bool, typer.Option("--include", help="Write an own file; you paste one Include line.")
    ] = False,
    except_: Annotated[
        list[str] | None,
        typer.Option(
            "--except", metavar="HOST", help="Leave HOST out, now and in later syncs; repeatable."
        ),
    ] = None,
    no_except: Annotated[
        bool, typer.Option("--no-except", help="Leave no host out any more.")
    ] = False,
    ssh_config: SshConfig = None,
) -> None:
    """Fetch the hosts from IAM and merge them into your ssh config. Example: apexgpu config sync."""
    session = _session(ctx, ssh_config)
    with session.screen.working("asking IAM for the hosts"):
        hosts = fetch_hosts(session)
        session = session.with_hosts(hosts)
    left_out = _left_out(session, except_ or [], () if no_except else session.account.left_out)
    session, changed = merge_into_config(
        session,
        hosts,
        identity=_identity(session),
        left_out=left_out,
        dry_run=dry_run,
        include=include,
    )
    session.screen.document(
        {
            "ok": True,
            "changed": changed and not dry_run,
            "would_change": changed,
            "path": str(session.settings.ssh_config),
            "hosts": [_host_value(host) for host in hosts if host.name not in left_out],
            "left_out": list(left_out),
        }
    )
    if not changed:
        session.screen.result("Nothing to do.")


def _left_out(
    session: Session, patterns: Sequence[str], before: tuple[str, ...]
) -> tuple[str, ...]:
    """The hosts left out `before`, and those that `patterns` (ssh names of either kind, or globs) stand for."""
    more = (
        session.hosts([pattern.removesuffix("-manage") for pattern in patterns]) if patterns else []
    )
    return tuple(dict.fromkeys([*before, *(host.name for host in more)]))


def _identity(session: Session) -> Path | None:
    """The private key of the last login."""
    return Path(session.account.identity_file) if session.account.identity_file else None


def _session(ctx: typer.Context, ssh_config: Path | None) -> Session:
    session = session_of(ctx)
    if ssh_config is not None:
        session = session.with_flags(ssh_config=str(ssh_config))
    return session


def _host_value(host: Host) -> dict[str, Any]:
    return {
        "host": host.name,
        "ok": True,
        "error": None,
        "address": host.address,
        "user": host.user,
        "port": host.port,
        "manage_port": host.manage_port,
    }


@config.command("status")
def status(ctx: typer.Context, ssh_config: SshConfig = None) -> None:
    """Show the settings, and what of the ssh config is ours. Each has its source; what may get in the way is named."""
    session = _session(ctx, ssh_config)
    path = session.settings.ssh_config
    old = configfile.read_config(path)
    managed = configblock.managed_hosts(old) or configblock.managed_hosts(
        configfile.read_config(include_file(session))
    )
    own = configblock.user_host_names(old)
    session.screen.table(
        ("SETTING", "VALUE", "FROM"),
        [
            (name, setting.value or "-", setting.source)
            for name, setting in sorted(session.settings.named.items())
        ],
    )
    session.screen.result("")
    if managed:
        names = ", ".join(host.name for host in managed)
        session.screen.result(
            f"{path}: {len(managed)} hosts of the lab ({names}), {len(own)} names of your own"
        )
    else:
        session.screen.result(
            f"{path}: no hosts of the lab yet, {len(own)} names of your own. Next: apexgpu login"
        )
    warnings = []
    if managed:
        found = configfile.find_warnings(path, managed, runner=session.runner)
        warnings = [warning.text for warning in found]
    if session.account.left_out:
        session.screen.result(
            f"left out: {', '.join(session.account.left_out)} (all again: apexgpu config sync --no-except)"
        )
    if configblock.is_edited(old):
        warnings.append(
            "the block was edited or moved by hand; the next `apexgpu config sync` puts it right"
        )
    for text in warnings:
        session.screen.warn(text)
    session.screen.document(
        {
            "ok": True,
            "settings": {
                name: {"value": setting.value or None, "source": setting.source}
                for name, setting in session.settings.named.items()
            },
            "path": str(path),
            "managed": [_host_value(host) for host in managed],
            "own": own,
            "left_out": list(session.account.left_out),
            "warnings": warnings,
            "backups": _backup_values(configbackups.list_backups(session.state_dir, path)),
        }
    )


def _backup_values(copies: Sequence[configbackups.Backup]) -> list[dict[str, Any]]:
    return [
        {
            "n": copy.number,
            "path": str(copy.path),
            "taken": copy.taken.isoformat(),
            "bytes": copy.bytes,
        }
        for copy in copies
    ]


@config.command("print")
def print_(ctx: typer.Context) -> None:
    """Print the block for the ssh config; change nothing. Example: apexgpu config print."""
    session = session_of(ctx)
    hosts = tuple(
        host for host in fetch_hosts(session) if host.name not in session.account.left_out
    )
    text = configblock.render_block(
        hosts, identity_file=identity_line(session, _identity(session))
    ).decode()
    session.screen.result(text.rstrip("\n"))
    session.screen.document(
        {"ok": True, "text": text, "hosts": [_host_value(host) for host in hosts]}
    )


@config.command("remove")
def remove(ctx: typer.Context, ssh_config: SshConfig = None) -> None:
    """Take our part out of the ssh config; every other byte stays. Example: apexgpu config remove."""
    session = _session(ctx, ssh_config)
    path = session.settings.ssh_config
    changed = remove_ours(session)
    session.screen.document({"ok": True, "changed": changed, "path": str(path)})
    session.screen.result(
        f"{path}: our part is gone." if changed else f"Nothing to do: nothing in {path} is ours."
    )


def remove_ours(session: Session) -> bool:
    """Cut our block out of the ssh config, and take the file to include away; whether anything was there."""
    path, include = session.settings.ssh_config, include_file(session)
    changed = configfile.remove_block(path, state_dir=session.state_dir, runner=session.runner)
    if not include.exists():
        return changed
    configfile.remove_block(include, state_dir=session.state_dir, runner=session.runner)
    session.screen.note(
        f"The line `{configfile.include_line(include)}` in {path} is of no use any more."
    )
    return True


@config.command("restore")
def restore(
    ctx: typer.Context,
    number: Annotated[
        int | None,
        typer.Argument(
            metavar="[N]",
            help="Which copy; 1 is the newest, 0 what the last restore took away.",
            show_default=False,
        ),
    ] = None,
    ssh_config: SshConfig = None,
) -> None:
    """Put an earlier ssh config back.

    Without N, it lists the copies that were kept.

    Example: apexgpu config restore 1
    """
    session = _session(ctx, ssh_config)
    path = session.settings.ssh_config
    copies = configbackups.list_backups(session.state_dir, path)
    if number is None:
        _show_copies(session, copies)
        return
    chosen = next((copy for copy in copies if copy.number == number), None)
    if chosen is None:
        raise UsageError(
            f"there is no copy {number} of {path}", hint="apexgpu config restore   (lists them)"
        )
    old, new = configfile.read_config(path), chosen.path.read_bytes()
    if new != old:
        if not session.yes:
            session.screen.block(configblock.diff(old, new, str(path)))
        session.confirm(f"Put copy {number} in the place of {path}?")
    changed = configfile.restore(path, number, state_dir=session.state_dir, runner=session.runner)
    session.screen.document({"ok": True, "changed": changed, "path": str(path)})
    session.screen.result(
        f"{path} is copy {number} again. To take this back: apexgpu config restore 0"
        if changed
        else "Nothing to do: it is the same."
    )


def _show_copies(session: Session, copies: Sequence[configbackups.Backup]) -> None:
    session.screen.document({"ok": True, "backups": _backup_values(copies)})
    if not copies:
        session.screen.result("No copies yet: apexgpu has not changed the ssh config.")
        return
    session.screen.table(
        ("N", "TAKEN", "BYTES"),
        [
            (str(copy.number), copy.taken.isoformat(" ", "seconds"), str(copy.bytes))
            for copy in copies
        ],
    )
