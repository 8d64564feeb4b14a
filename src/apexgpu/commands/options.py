"""The parameters that several commands share, and the app that each group of commands starts from."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from apexgpu.commands.app import Command
from apexgpu.commands.invocation import Invocation
from apexgpu.results import Result
from apexgpu.session import Session

F = TypeVar("F", bound=Callable[..., Any])

HostsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[HOST...]", help="Host names, or globs such as 'gpu1?'.", show_default=False
    ),
]
OneHost = Annotated[str, typer.Argument(metavar="HOST", help="A host name.", show_default=False)]
AllHosts = Annotated[bool, typer.Option("--all", help="Every host.")]


class Sentences(TyperGroup):
    """A group whose help has a whole sentence for each command."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """As usual, but nothing is cut with three dots."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, one.get_short_help_str(limit=1000)) for name, one in self.commands.items()]
            )


class ListByDefault(Sentences):
    """A group that means its `list` when no command of it is named: `snapshots gpu7` is `snapshots list gpu7`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As usual, with `list` in front where no command stands."""
        if not {"--help", "-h"} & set(args[:1]) and (not args or args[0] not in self.commands):
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The commands of the group, and in full what it does when none is named."""
        super().format_help(ctx, formatter)
        listing = self.commands["list"]
        with formatter.section(f"Without a command, as {ctx.command_path} list"):
            formatter.write_text(listing.help or "")
        listing.format_options(
            listing.make_context("list", [], parent=ctx, resilient_parsing=True), formatter
        )


class Group(typer.Typer):
    """A Typer whose commands have the common options, and whose help is plain text."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("cls", Sentences)
        super().__init__(
            add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, **kwargs
        )

        # A callback keeps a group with one command a group.
        @self.callback()
        def group() -> None:
            pass

    def command(self, name: str | None = None, **kwargs: Any) -> Callable[[F], F]:
        """As typer's, with the common options."""
        return super().command(name, cls=Command, **kwargs)


def session_of(ctx: typer.Context) -> Session:
    """The session of this run. Its options have been read by the time a command asks for it."""
    invocation: Invocation = ctx.find_root().obj
    return invocation.session


def show_now(ctx: typer.Context) -> Callable[[Result], None]:
    """Return a function that prints a result while the command still runs: a tunnel's address."""
    invocation: Invocation = ctx.find_root().obj
    return invocation.screen.show


def output_bytes(ctx: typer.Context) -> Callable[[bytes], None] | None:
    """Return a function that passes on what a user's program printed; None when JSON is wanted."""
    invocation: Invocation = ctx.find_root().obj
    return None if invocation.screen.as_json else invocation.screen.raw_bytes


def output_line(ctx: typer.Context) -> Callable[[str], None]:
    """Return a function that prints a line of a result while the command still runs."""
    invocation: Invocation = ctx.find_root().obj
    return invocation.screen.line
