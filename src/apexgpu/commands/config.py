"""config: the hosts in the ssh config. Shows what would change, asks, and lets `configfile` do the writing."""

from pathlib import Path
from typing import Annotated, Any

import typer

from apexgpu import configfile, sshconfig
from apexgpu import route as routes
from apexgpu.account import with_hosts
from apexgpu.commands.options import Group, kit_of
from apexgpu.errors import UsageError
from apexgpu.kit import Kit
from apexgpu.models import Host
from apexgpu.process import which

app = Group()
config = Group()
app.add_typer(config, name="config", help="The hosts in ~/.ssh/config: sync, status, print, remove, restore.")


def fetch_hosts(kit: Kit, client: Any = None) -> tuple[Host, ...]:
    """The hosts as IAM tells them now, kept for the other commands."""
    from apexgpu import iamconfig
    from apexgpu.iam import IamClient

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
    except_names: list[str] | None = None,
    dry_run: bool = False,
    include: bool = False,
) -> bool:
    """Show what would change, ask where a question is due, write; whether anything changed."""
    path = kit.settings.ssh_config
    plan = configfile.plan(
        path,
        hosts,
        runner=kit.runner,
        identity_file=identity_line(kit, identity),
        except_names=except_names or [],
        include=include_file(kit) if include or include_file(kit).exists() else None,
    )
    if not plan.changed:
        kit.remember(with_hosts(kit.account, hosts))
        if not dry_run:
            kit.screen.good(f"{plan.path} is up to date ({len(hosts)} hosts)")
        return False
    first = not sshconfig.managed(plan.old)
    if dry_run or not kit.yes:
        kit.screen.block(plan.diff)
    for name, old, new in plan.moved:
        kit.screen.warn(f"{name} moves from {old} to {new}")
    for name, meaning in plan.taken:
        kit.screen.warn(
            f"{name} already means {meaning} in your file, and would mean the lab's host",
            hint=f"apexgpu config sync --except {name}",
        )
    if dry_run:
        return True
    if first or plan.moved or plan.taken:
        kit.confirm(f"Write this into {plan.path}?")
    configfile.commit(plan, state_dir=kit.state_dir, runner=kit.runner)
    kit.remember(with_hosts(kit.account, hosts))
    kit.screen.good(
        f"{plan.path}: {len(hosts)} hosts; `ssh {hosts[0].name if hosts else 'HOST'}` works from any program"
    )
    if include:
        kit.screen.note(f"Put this line at the very top of {path}:")
        kit.screen.result(configfile.include_line(include_file(kit)))
    return True


def identity_line(kit: Kit, identity: Path | None) -> str | None:
    """The private key to name in the block: only one that ssh would not offer by itself, and that is there."""
    if identity is None or not identity.is_file() or which("ssh") is None:
        return None
    probe = Host("apexgpu-probe", "192.0.2.1", "nobody", 22)
    from apexgpu.models import Target

    found = routes.resolve(Target(probe, "container"), config=kit.settings.ssh_config, runner=kit.runner)
    return None if identity in found.identity_files else str(identity)


@config.command("sync")
def sync(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the difference, write nothing.")] = False,
    include: Annotated[bool, typer.Option("--include", help="Write an own file; you paste one Include line.")] = False,
    except_: Annotated[
        list[str] | None, typer.Option("--except", metavar="HOST", help="Leave HOST out; repeatable.")
    ] = None,
    ssh_config: Annotated[Path | None, typer.Option("--ssh-config", help="Another file than ~/.ssh/config.")] = None,
) -> None:
    """Fetch the hosts from IAM and merge them into your ssh config. Example: apexgpu config sync."""
    kit = _kit(ctx, ssh_config)
    with kit.screen.working("asking IAM for the hosts"):
        hosts = fetch_hosts(kit)
    identity = Path(kit.account.identity_file) if kit.account.identity_file else None
    changed = merge_into_config(kit, hosts, identity=identity, except_names=except_, dry_run=dry_run, include=include)
    kit.screen.document(
        {
            "ok": True,
            "changed": changed and not dry_run,
            "would_change": changed,
            "path": str(kit.settings.ssh_config),
            "hosts": [_host_value(host) for host in hosts],
        }
    )
    if not changed:
        kit.screen.result("Nothing to do.")


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


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


@config.command("status")
def status(ctx: typer.Context, ssh_config: Annotated[Path | None, typer.Option("--ssh-config")] = None) -> None:
    """Show the settings with their sources, what of the ssh config is ours, and what may get in its way."""
    kit = _kit(ctx, ssh_config)
    path = kit.settings.ssh_config
    old = _read(path)
    managed = sshconfig.managed(old) or sshconfig.managed(_read(include_file(kit)))
    own = sshconfig.host_names(old)
    kit.screen.table(
        ("SETTING", "VALUE", "FROM"),
        [(name, setting.value or "-", setting.source) for name, setting in sorted(kit.settings.named.items())],
    )
    kit.screen.result("")
    if managed:
        names = ", ".join(host.name for host in managed)
        kit.screen.result(f"{path}: {len(managed)} hosts of the lab ({names}), {len(own)} names of your own")
    else:
        kit.screen.result(f"{path}: no hosts of the lab yet, {len(own)} names of your own. Next: apexgpu login")
    warnings = configfile.warnings(path, managed, kit.runner) if managed else []
    if sshconfig.edited(old):
        warnings.append("the block was edited or moved by hand; the next `apexgpu config sync` puts it right")
    for text in warnings:
        kit.screen.warn(text)
    copies = configfile.backups(kit.state_dir)
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
            "warnings": warnings,
            "backups": [
                {"n": copy.n, "path": str(copy.path), "taken": copy.taken.isoformat(), "bytes": copy.bytes}
                for copy in copies
            ],
        }
    )


@config.command("print")
def print_(ctx: typer.Context) -> None:
    """Print the block that belongs into the ssh config, and change nothing. Example: apexgpu config print."""
    kit = kit_of(ctx)
    hosts = fetch_hosts(kit)
    identity = Path(kit.account.identity_file) if kit.account.identity_file else None
    text = sshconfig.block(hosts, identity_file=identity_line(kit, identity)).decode()
    kit.screen.result(text.rstrip("\n"))
    kit.screen.document({"ok": True, "text": text, "hosts": [_host_value(host) for host in hosts]})


@config.command("remove")
def remove(ctx: typer.Context, ssh_config: Annotated[Path | None, typer.Option("--ssh-config")] = None) -> None:
    """Take our part out of the ssh config; every other byte stays. Example: apexgpu config remove."""
    kit = _kit(ctx, ssh_config)
    path = kit.settings.ssh_config
    changed = configfile.remove(path, state_dir=kit.state_dir, runner=kit.runner)
    include = include_file(kit)
    changed = (include.exists() and configfile.remove(include, state_dir=kit.state_dir, runner=kit.runner)) or changed
    kit.screen.document({"ok": True, "changed": changed, "path": str(path)})
    kit.screen.result(f"{path}: our part is gone." if changed else f"Nothing to do: nothing in {path} is ours.")


@config.command("restore")
def restore(
    ctx: typer.Context,
    number: Annotated[
        int | None, typer.Argument(metavar="[N]", help="Which copy; 1 is the newest.", show_default=False)
    ] = None,
    ssh_config: Annotated[Path | None, typer.Option("--ssh-config")] = None,
) -> None:
    """Put an earlier ssh config back; without N, list the copies that were kept.

    Example: apexgpu config restore 1
    """
    kit = _kit(ctx, ssh_config)
    copies = configfile.backups(kit.state_dir)
    if number is None:
        kit.screen.document(
            {
                "ok": True,
                "backups": [
                    {"n": copy.n, "path": str(copy.path), "taken": copy.taken.isoformat(), "bytes": copy.bytes}
                    for copy in copies
                ],
            }
        )
        if not copies:
            kit.screen.result("No copies yet: apexgpu has not changed the ssh config.")
            return
        kit.screen.table(
            ("N", "TAKEN", "BYTES"),
            [(str(copy.n), copy.taken.isoformat(" ", "seconds"), str(copy.bytes)) for copy in copies],
        )
        return
    if number not in {copy.n for copy in copies}:
        raise UsageError(f"there is no copy {number}", hint="apexgpu config restore   (lists them)")
    path = kit.settings.ssh_config
    kit.confirm(f"Put copy {number} in the place of {path}?")
    changed = configfile.restore(path, number, state_dir=kit.state_dir, runner=kit.runner)
    kit.screen.document({"ok": True, "changed": changed, "path": str(path)})
    kit.screen.result(f"{path} is copy {number} again." if changed else "Nothing to do: it is the same.")
