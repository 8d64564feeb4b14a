"""The commands `ssh`, `exec` and `cp`."""

from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from apexgpu import shells
from apexgpu.commands.options import AllHosts, Group, OneHost, live_outputs, session_of
from apexgpu.errors import UsageError
from apexgpu.results import Result
from apexgpu.session import Session

app = Group()

# Options after HOST belong to the command that runs there.
_PASS_ON = {"allow_interspersed_args": False}


@app.command("ssh", context_settings=_PASS_ON)
def ssh(
    ctx: typer.Context,
    host: OneHost,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- CMD...]", help="The command to run instead of a shell."),
    ] = None,
) -> Result:
    """Open a shell in your container on HOST, or run CMD in it. The exit status is that of CMD.

    Examples: apexgpu ssh gpu7 · apexgpu ssh gpu7 -- nvidia-smi
    """
    session = session_of(ctx)
    return shells.ssh(session, host, command or [], captured="json" in session.flags)


@app.command("exec", context_settings=_PASS_ON)
def execute(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="HOST... -- CMD...", show_default=False)
    ] = None,
    everything: AllHosts = False,
    limit: Annotated[
        float | None, typer.Option(help="Seconds the command may take; no limit by default.")
    ] = None,
) -> Result:
    """Run CMD in your containers on HOST..., and show the output while it arrives.

    The output of one host is passed on as it is. That of several has the host's name in front of
    every line. Ctrl-C ends the command in the containers too.

    Examples: apexgpu exec gpu7 gpu8 -- nvidia-smi -L · apexgpu exec --all -- 'df -h /SSD | tail -1'
    """
    session = session_of(ctx)
    hosts, command = _split(session, words or [], everything)
    return shells.run(
        session,
        hosts,
        command,
        everything=everything,
        limit=limit,
        receive=live_outputs(ctx),
    )


def _split(session: Session, words: Sequence[str], everything: bool) -> tuple[list[str], str]:
    """The hosts and the command line. The `--` between them may be left out."""
    if "--" in words:
        end = words.index("--")
        names, command = words[:end], words[end + 1 :]
    else:
        end = 0 if everything else _count_hosts(session, words)
        names, command = words[:end], words[end:]
    if not command:
        raise UsageError("no command was given", hint="apexgpu exec --help")
    return list(names), shells.command_line(command)


def _count_hosts(session: Session, words: Sequence[str]) -> int:
    """How many of the first words are hosts. The first is one in any case: a typing error must be reported as such."""
    known = {host.name for host in session.known_hosts}
    for index, word in enumerate(words):
        is_glob = bool(set("*?[") & set(word))
        if index > 0 and word not in known and not is_glob:
            return index
    return len(words)


@app.command("code")
def code(
    ctx: typer.Context,
    host: OneHost,
    directory: Annotated[
        str | None,
        typer.Argument(
            metavar="[DIR]",
            help="A directory in the container; by default your home.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Open the window even if its server does not work in the container."
        ),
    ] = False,
) -> Result:
    """Open DIR of your container on HOST in VS Code, Cursor, or what the setting `editor` names.

    What the editor's server needs there is checked before the window opens: glibc, space, internet access.

    Examples: apexgpu code gpu7 · apexgpu code gpu7 project
    """
    from apexgpu import editors

    return editors.open_directory(session_of(ctx), host, directory, force=force)


@app.command("cp")
def cp(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(metavar="SRC... DST", help="One side is HOST:PATH.", show_default=False),
    ],
    method: Annotated[
        Literal["auto", "rsync", "sftp"],
        typer.Option(
            "--method",
            help="How to send the files. By default SFTP, or rsync where it sends less.",
        ),
    ] = "auto",
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="PATTERN",
            help="Leave out what matches PATTERN, written as in .gitignore. Can be repeated.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "-n", help="List what would be sent, and send nothing."),
    ] = False,
    recursive: Annotated[
        bool,
        typer.Option(
            "-r",
            "-R",
            "-a",
            "-p",
            "--recursive",
            help="Accepted for compatibility: directories are always copied, times and modes always kept.",
            show_default=False,
        ),
    ] = True,
) -> Result:
    """Copy files and directories between this laptop and your container on HOST. Run it again to resume.

    Examples: apexgpu cp data gpu7:/SSD/alice/ · apexgpu cp gpu7:runs/best.ckpt . · apexgpu cp
    'gpu7:runs/*.csv' plots/
    """
    # Imported here: it needs asyncio, and `ssh` and `exec` have to start quickly.
    from apexgpu import copying

    chosen = None if method == "auto" else copying.Method(method)
    return copying.copy(
        session_of(ctx), words, method=chosen, exclude=exclude or [], dry_run=dry_run
    )
