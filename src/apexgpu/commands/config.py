"""The commands `config sync`, `status`, `print`, `remove`, `restore`, `get`, `set` and `edit`."""

from pathlib import Path
from typing import Annotated

import typer

from apexgpu import preferences, sshconfig
from apexgpu.commands.options import Group, StatusByDefault, session_of
from apexgpu.results import Result
from apexgpu.session import Session

app = Group()
group = Group(cls=StatusByDefault)
app.add_typer(
    group,
    name="config",
    help="The hosts in ~/.ssh/config (sync, status, print, remove, restore) and the settings (get, set, edit).",
)

SshConfig = Annotated[
    Path | None,
    typer.Option("--ssh-config", help="The ssh config to use instead of ~/.ssh/config."),
]


def _session(ctx: typer.Context, ssh_config: Path | None) -> Session:
    session = session_of(ctx)
    if ssh_config is None:
        return session
    return session.with_flags(ssh_config=str(ssh_config))


@group.command("sync")
def sync(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the difference and write nothing.")
    ] = False,
    include: Annotated[
        bool,
        typer.Option(
            "--include",
            help="Write a separate file, and print the Include line for your ssh config.",
        ),
    ] = False,
    except_: Annotated[
        list[str] | None,
        typer.Option(
            "--except",
            metavar="HOST",
            help="Leave HOST out, now and in later syncs. Can be repeated.",
        ),
    ] = None,
    no_except: Annotated[
        bool, typer.Option("--no-except", help="Include all hosts again.")
    ] = False,
    ssh_config: SshConfig = None,
) -> Result:
    """Fetch the hosts from IAM and merge them into your ssh config.

    Example: apexgpu config sync
    """
    return sshconfig.sync(
        _session(ctx, ssh_config),
        dry_run=dry_run,
        include=include,
        except_hosts=except_ or (),
        forget_exceptions=no_except,
    )


@group.command("status")
def status(ctx: typer.Context, ssh_config: SshConfig = None) -> Result:
    """Show the settings, the lab's hosts in the ssh config, and possible problems."""
    return sshconfig.status(_session(ctx, ssh_config))


@group.command("print")
def print_(
    ctx: typer.Context,
    chosen: Annotated[
        sshconfig.BlockFormat,
        typer.Option(
            "--format",
            help="ssh: the block for the ssh config. The others list the hosts for other programs.",
        ),
    ] = "ssh",
) -> Result:
    """Print the block for the ssh config, or the hosts in another format; change nothing.

    Examples: apexgpu config print · apexgpu config print --format ansible > hosts.yaml
    """
    return sshconfig.print_block(session_of(ctx), chosen)


@group.command("remove")
def remove(ctx: typer.Context, ssh_config: SshConfig = None) -> Result:
    """Remove apexgpu's block from the ssh config; the rest of the file stays as it is.

    Example: apexgpu config remove
    """
    return sshconfig.remove(_session(ctx, ssh_config))


@group.command("restore")
def restore(
    ctx: typer.Context,
    number: Annotated[
        int | None,
        typer.Argument(
            metavar="[N]",
            help="The number of the copy: 1 is the newest; 0 is what the last restore replaced.",
            show_default=False,
        ),
    ] = None,
    ssh_config: SshConfig = None,
) -> Result:
    """Restore an earlier ssh config.

    Without N, list the copies.

    Example: apexgpu config restore 1
    """
    session = _session(ctx, ssh_config)
    if number is None:
        return sshconfig.list_backups(session)
    return sshconfig.restore(session, number)


SettingName = Annotated[
    str, typer.Argument(metavar="KEY", help="The name of a setting.", show_default=False)
]


@group.command("get")
def get(ctx: typer.Context, key: SettingName) -> Result:
    """Print the value of a setting, wherever it comes from. Example: apexgpu config get timeout."""
    return preferences.show(session_of(ctx), key)


@group.command("set")
def set_(
    ctx: typer.Context,
    key: SettingName,
    value: Annotated[
        str,
        typer.Argument(metavar="VALUE", help="Its value; '' for the default.", show_default=False),
    ],
) -> Result:
    """Write a setting into config.toml. Every other line of the file stays.

    Examples: apexgpu config set timeout 20 · apexgpu config set networks 10.0.0.0/8
    """
    return preferences.change(session_of(ctx), key, value)


@group.command("edit")
def edit(ctx: typer.Context) -> Result:
    """Open config.toml in your editor ($VISUAL or $EDITOR), and check the file afterwards.

    Example: apexgpu config edit
    """
    return preferences.edit(session_of(ctx))
