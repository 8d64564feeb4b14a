"""config: the hosts in the ssh config. Shows what would change, asks, and lets `configfile` do the writing."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from apexgpu.commands.options import Group, kit_of
from apexgpu.dotssh import configfile, sshconfig
from apexgpu.errors import UsageError
from apexgpu.kit import Kit
from apexgpu.models import Host
from apexgpu.process import which
from apexgpu.ssh import route as routes

app = Group()
config = Group()
app.add_typer(
    config, name="config", help="The hosts in ~/.ssh/config: sync, status, print, remove, restore."
)


def fetch_hosts(kit: Kit, client: Any = None) -> tuple[Host, ...]:
    """The hosts as IAM tells them now, kept for the other commands."""
    from apexgpu.iam import iamconfig
    from apexgpu.iam.client import IamClient

    client = client or IamClient(kit.iam_url, timeout=kit.settings.timeout)
    hosts = iamconfig.parse(client.config(kit.user), user=kit.user, networks=kit.networks)
    kit.__dict__["known_hosts"] = hosts
    return hosts


def include_file(kit: Kit) -> Path:
    """Where the block lives when the user's file includes it."""
    return kit.settings.config_dir / "ssh_hosts.conf"


def merge_into_config(
    kit: Kit,
    hosts: tuple[Host, ...],
    *,
    identity: Path | None,
    left_out: tuple[str, ...] | None = None,
    dry_run: bool = False,
    include: bool = False,
) -> bool:
    """Show what would change, ask where a question is due, write; whether anything changed.

    `left_out` are the hosts to leave out from now on; None: those that were left out before.
    """
    found = replace(
        kit.account, hosts=hosts, left_out=kit.account.left_out if left_out is None else left_out
    )
    plan = configfile.plan(
        kit.settings.ssh_config,
        hosts,
        runner=kit.runner,
        identity_file=identity_line(kit, identity),
        except_names=found.left_out,
        include=include_file(kit) if include or include_file(kit).exists() else None,
        networks=kit.networks,
    )
    if plan.changed:
        _show_plan(kit, plan, dry_run=dry_run)
        if dry_run:
            return True
        if not sshconfig.managed(plan.old) or plan.moved or plan.taken:
            kit.confirm(f"Write this into {plan.path}?")
        configfile.commit(plan, state_dir=kit.state_dir, runner=kit.runner)
    if not dry_run:
        kit.remember(found)
        _show_written(kit, plan)
    return plan.changed


def _show_plan(kit: Kit, plan: configfile.Plan, *, dry_run: bool) -> None:
    if dry_run or not kit.yes:
        kit.screen.block(plan.diff)
    for name, old, new in plan.moved:
        kit.screen.warn(f"{name} moves from {old} to {new}")
    for name, meaning in plan.taken:
        kit.screen.warn(
            f"{name} already means {meaning} in your file, and would mean the lab's host",
            hint=f"apexgpu config sync --except {name}",
        )


def _show_written(kit: Kit, plan: configfile.Plan) -> None:
    count = f"{len(plan.hosts)} hosts"
    if kit.account.left_out:
        kit.screen.note(
            f"Left out: {', '.join(kit.account.left_out)} (to take all hosts again: apexgpu config sync --no-except)"
        )
    if plan.path != kit.settings.ssh_config and not _included(kit, plan.hosts):
        kit.screen.good(f"{plan.path}: {count}")
        kit.screen.note(
            f"ssh does not read it yet. Put this line at the very top of {kit.settings.ssh_config}:"
        )
        kit.screen.result(configfile.include_line(plan.path))
    elif not plan.changed:
        kit.screen.good(f"{plan.path} is up to date ({count})")
    elif plan.hosts:
        words = shlex.join(
            ["ssh", *routes.config_arguments(kit.settings.ssh_config), plan.hosts[0].name]
        )
        kit.screen.good(f"{plan.path}: {count}; `{words}` works from any program")


def _included(kit: Kit, hosts: Sequence[Host]) -> bool:
    return configfile.include_effective(kit.settings.ssh_config, hosts, runner=kit.runner)


def identity_line(kit: Kit, identity: Path | None) -> str | None:
    """The private key to name in the block: only one that ssh would not offer by itself, and that is there."""
    if identity is None or not identity.is_file() or which("ssh") is None:
        return None
    probe = Host("apexgpu-probe", "192.0.2.1", "nobody", 22)
    from apexgpu.models import Target

    found = routes.resolve(
        Target(probe, "container"), config=kit.settings.ssh_config, runner=kit.runner
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
    kit = _kit(ctx, ssh_config)
    with kit.screen.working("asking IAM for the hosts"):
        hosts = fetch_hosts(kit)
    left_out = _left_out(kit, except_ or [], () if no_except else kit.account.left_out)
    changed = merge_into_config(
        kit, hosts, identity=_identity(kit), left_out=left_out, dry_run=dry_run, include=include
    )
    kit.screen.document(
        {
            "ok": True,
            "changed": changed and not dry_run,
            "would_change": changed,
            "path": str(kit.settings.ssh_config),
            "hosts": [_host_value(host) for host in hosts if host.name not in left_out],
            "left_out": list(left_out),
        }
    )
    if not changed:
        kit.screen.result("Nothing to do.")


def _left_out(kit: Kit, patterns: Sequence[str], before: tuple[str, ...]) -> tuple[str, ...]:
    """The hosts left out `before`, and those that `patterns` (ssh names of either kind, or globs) stand for."""
    more = kit.hosts([pattern.removesuffix("-manage") for pattern in patterns]) if patterns else []
    return tuple(dict.fromkeys([*before, *(host.name for host in more)]))


def _identity(kit: Kit) -> Path | None:
    """The private key of the last login."""
    return Path(kit.account.identity_file) if kit.account.identity_file else None


def _kit(ctx: typer.Context, ssh_config: Path | None) -> Kit:
    kit = kit_of(ctx)
    if ssh_config is not None:
        kit.flags["ssh_config"] = str(ssh_config)
        kit.__dict__.pop("settings", None)
    return kit


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
    kit = _kit(ctx, ssh_config)
    path = kit.settings.ssh_config
    old = configfile.read(path)
    managed = sshconfig.managed(old) or sshconfig.managed(configfile.read(include_file(kit)))
    own = sshconfig.host_names(old)
    kit.screen.table(
        ("SETTING", "VALUE", "FROM"),
        [
            (name, setting.value or "-", setting.source)
            for name, setting in sorted(kit.settings.named.items())
        ],
    )
    kit.screen.result("")
    if managed:
        names = ", ".join(host.name for host in managed)
        kit.screen.result(
            f"{path}: {len(managed)} hosts of the lab ({names}), {len(own)} names of your own"
        )
    else:
        kit.screen.result(
            f"{path}: no hosts of the lab yet, {len(own)} names of your own. Next: apexgpu login"
        )
    warnings = configfile.warnings(path, managed, kit.runner) if managed else []
    if kit.account.left_out:
        kit.screen.result(
            f"left out: {', '.join(kit.account.left_out)} (all again: apexgpu config sync --no-except)"
        )
    if sshconfig.edited(old):
        warnings.append(
            "the block was edited or moved by hand; the next `apexgpu config sync` puts it right"
        )
    for text in warnings:
        kit.screen.warn(text)
    kit.screen.document(
        {
            "ok": True,
            "settings": {
                name: {"value": setting.value or None, "source": setting.source}
                for name, setting in kit.settings.named.items()
            },
            "path": str(path),
            "managed": [_host_value(host) for host in managed],
            "own": own,
            "left_out": list(kit.account.left_out),
            "warnings": warnings,
            "backups": _backup_values(configfile.backups(kit.state_dir, path)),
        }
    )


def _backup_values(copies: Sequence[configfile.Backup]) -> list[dict[str, Any]]:
    return [
        {"n": copy.n, "path": str(copy.path), "taken": copy.taken.isoformat(), "bytes": copy.bytes}
        for copy in copies
    ]


@config.command("print")
def print_(ctx: typer.Context) -> None:
    """Print the block for the ssh config; change nothing. Example: apexgpu config print."""
    kit = kit_of(ctx)
    hosts = tuple(host for host in fetch_hosts(kit) if host.name not in kit.account.left_out)
    text = sshconfig.block(hosts, identity_file=identity_line(kit, _identity(kit))).decode()
    kit.screen.result(text.rstrip("\n"))
    kit.screen.document({"ok": True, "text": text, "hosts": [_host_value(host) for host in hosts]})


@config.command("remove")
def remove(ctx: typer.Context, ssh_config: SshConfig = None) -> None:
    """Take our part out of the ssh config; every other byte stays. Example: apexgpu config remove."""
    kit = _kit(ctx, ssh_config)
    path = kit.settings.ssh_config
    changed = remove_ours(kit)
    kit.screen.document({"ok": True, "changed": changed, "path": str(path)})
    kit.screen.result(
        f"{path}: our part is gone." if changed else f"Nothing to do: nothing in {path} is ours."
    )


def remove_ours(kit: Kit) -> bool:
    """Cut our block out of the ssh config, and take the file to include away; whether anything was there."""
    path, include = kit.settings.ssh_config, include_file(kit)
    changed = configfile.remove(path, state_dir=kit.state_dir, runner=kit.runner)
    if not include.exists():
        return changed
    configfile.remove(include, state_dir=kit.state_dir, runner=kit.runner)
    kit.screen.note(
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
    kit = _kit(ctx, ssh_config)
    path = kit.settings.ssh_config
    copies = configfile.backups(kit.state_dir, path)
    if number is None:
        _show_copies(kit, copies)
        return
    chosen = next((copy for copy in copies if copy.n == number), None)
    if chosen is None:
        raise UsageError(
            f"there is no copy {number} of {path}", hint="apexgpu config restore   (lists them)"
        )
    old, new = configfile.read(path), chosen.path.read_bytes()
    if new != old:
        if not kit.yes:
            kit.screen.block(sshconfig.diff(old, new, str(path)))
        kit.confirm(f"Put copy {number} in the place of {path}?")
    changed = configfile.restore(path, number, state_dir=kit.state_dir, runner=kit.runner)
    kit.screen.document({"ok": True, "changed": changed, "path": str(path)})
    kit.screen.result(
        f"{path} is copy {number} again. To take this back: apexgpu config restore 0"
        if changed
        else "Nothing to do: it is the same."
    )


def _show_copies(kit: Kit, copies: Sequence[configfile.Backup]) -> None:
    kit.screen.document({"ok": True, "backups": _backup_values(copies)})
    if not copies:
        kit.screen.result("No copies yet: apexgpu has not changed the ssh config.")
        return
    kit.screen.table(
        ("N", "TAKEN", "BYTES"),
        [(str(copy.n), copy.taken.isoformat(" ", "seconds"), str(copy.bytes)) for copy in copies],
    )
