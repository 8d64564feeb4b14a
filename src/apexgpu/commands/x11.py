"""The commands `x11 check`, `x11 run` and `x11 install`."""

from typing import Annotated

import typer

from apexgpu import x11
from apexgpu.commands.options import Group, OneHost, session_of
from apexgpu.errors import UsageError
from apexgpu.results import Result

app = Group()
group = Group()
app.add_typer(
    group, name="x11", help="Windows of your container on this screen: check, run, install."
)

Trusted = Annotated[
    bool, typer.Option("--trusted", "-Y", help="Trust the program with this whole screen.")
]


@group.command("check")
def check(
    ctx: typer.Context,
    host: Annotated[
        str | None,
        typer.Argument(
            metavar="[HOST]",
            help="A host name; without one, this machine only.",
            show_default=False,
        ),
    ] = None,
    trusted: Trusted = False,
) -> Result:
    """Find out why windows of your container do not show up on this screen.

    Everything between this screen and your container on HOST is checked; without HOST, only this
    machine. A small window is shown for a moment. Nothing is changed. Example: apexgpu x11 check
    gpu7
    """
    return x11.check(session_of(ctx), host, trusted=trusted)


@group.command("run", context_settings={"allow_interspersed_args": False})
def run(
    ctx: typer.Context,
    host: OneHost,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="CMD...", help="The program to run.", show_default=False),
    ] = None,
    trusted: Trusted = False,
    compress: Annotated[
        bool, typer.Option("--compress", "-C", help="Compress the data, for slow connections.")
    ] = False,
) -> Result:
    """Run CMD in your container, and show its windows on this screen.

    The exit status is that of CMD. By default CMD is untrusted: it cannot read other windows, nor
    what you type in them. Some programs (OpenGL, copy and paste) need --trusted. Then CMD, and
    whoever is root on HOST, can read this whole screen and everything that you type. Example:
    apexgpu x11 run gpu7 xeyes
    """
    session = session_of(ctx)
    words, own = _split_own_options(command or [])
    return x11.run(
        session,
        host,
        words,
        trusted=trusted or "trusted" in own,
        compress=compress or "compress" in own,
        captured="json" in session.flags,
    )


def _split_own_options(words: list[str]) -> tuple[list[str], set[str]]:
    """The command, and the names of apexgpu's options that stand between HOST and it: no program begins with a dash."""
    names = {"--trusted": "trusted", "-Y": "trusted", "--compress": "compress", "-C": "compress"}
    own: set[str] = set()
    for index, word in enumerate(words):
        if word == "--":
            return words[index + 1 :], own
        if not word.startswith("-"):
            return words[index:], own
        if word not in names:
            raise UsageError(f"there is no option {word}", hint="apexgpu x11 run --help")
        own.add(names[word])
    return [], own


@group.command("install")
def install(
    ctx: typer.Context,
    host: OneHost,
    full: Annotated[
        bool, typer.Option("--full", help="Also install all of xorg: half a gigabyte.")
    ] = False,
) -> Result:
    """Install the programs that windows need in your container.

    These are the packages xauth and x11-apps (xeyes, xclock). A second run has nothing to do. After
    Ctrl-C, apt continues in the container. Example: apexgpu x11 install gpu7
    """
    return x11.install(session_of(ctx), host, full=full)
