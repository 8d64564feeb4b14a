"""The parameters that several commands share, and the app that each group of commands starts from."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from apexgpu.commands.app import Command, no_such_command
from apexgpu.commands.invocation import Invocation
from apexgpu.commands.slips import nearest
from apexgpu.commands.table import GROUP_SYNONYMS
from apexgpu.errors import UsageError
from apexgpu.results import Result
from apexgpu.session import Session

if TYPE_CHECKING:
    from apexgpu.shells import MakeReceiver

F = TypeVar("F", bound=Callable[..., Any])

HostsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[HOST...]", help="Host names, or globs such as 'gpu1?'.", show_default=False
    ),
]
OneHost = Annotated[str, typer.Argument(metavar="HOST", help="A host name.", show_default=False)]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Refresh until you press q or Ctrl-C.")]
Interval = Annotated[
    float | None,
    typer.Option(
        "--interval",
        metavar="SECONDS",
        help="With --watch: seconds between two refreshes, 5 by default.",
        show_default=False,
    ),
]
_WATCH_INTERVAL = 5.0
_SURELY_MEANT = 0.75  # similarity to a command above which a word is not taken for a host
_LEAST_INTERVAL, _LONGEST_INTERVAL = 0.5, 86400
AllHosts = Annotated[bool, typer.Option("--all", help="Every host.")]


class Sentences(TyperGroup):
    """A group whose help has a whole sentence for each command, and which is shown when none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As usual; no command at all asks for the help, which is not an error."""
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As usual, with the nearest names for a command that is not there."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ours = GROUP_SYNONYMS.get(args[0])
            if ours is not None and ours in self.commands:
                return super().resolve_command(ctx, [ours, *args[1:]])
            raise no_such_command(args[0], self.meanings(), ctx.command_path)
        return super().resolve_command(ctx, args)

    def meanings(self) -> dict[str, str]:
        """The commands of the group, and other tools' names for them -> the command that is meant."""
        meanings = {name: name for name in self.commands}
        for name, ours in GROUP_SYNONYMS.items():
            if ours in self.commands:
                meanings.setdefault(name, ours)
        return meanings

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """As usual, but nothing is cut with three dots."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, one.get_short_help_str(limit=1000)) for name, one in self.commands.items()]
            )


class DefaultCommand(Sentences):
    """A group that means one of its commands when none is named: `keys` is `keys list`, `config` is `config status`."""

    default = "list"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As usual, with the default command in front where none is named."""
        if not {"--help", "-h"} & set(args[:1]) and self.means_default(args):
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def means_default(self, args: list[str]) -> bool:
        """Whether the words after the group's name belong to the default command."""
        return not args or args[0].startswith("-")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The commands of the group, and in full what it does when none is named."""
        super().format_help(ctx, formatter)
        command = self.commands[self.default]
        with formatter.section(f"Without a command, as {ctx.command_path} {self.default}"):
            formatter.write_text(command.help or "")
        command.format_options(
            command.make_context(self.default, [], parent=ctx, resilient_parsing=True), formatter
        )


class StatusByDefault(DefaultCommand):
    """A group that means its `status` when no command of it is named."""

    default = "status"


class ListByDefault(DefaultCommand):
    """A group that means its `list` for all other words: `snapshots gpu7` is `snapshots list gpu7`."""

    def means_default(self, args: list[str]) -> bool:
        """Whether the first word is not meant as a command of the group."""
        if not args:
            return True
        word = args[0]
        if word in self.commands or GROUP_SYNONYMS.get(word) in self.commands:
            return False
        # `snapshots verfy NAME` is a slip, `snapshots gpu7` a host: host names have digits.
        is_slip = word.isalpha() and nearest(word, self.meanings(), cutoff=_SURELY_MEANT)
        return not is_slip


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


def watch_interval(watch: bool, interval: float | None) -> float | None:
    """Return the seconds between two refreshes, None for one look. --interval means --watch, too."""
    if interval is None:
        return _WATCH_INTERVAL if watch else None
    if not _LEAST_INTERVAL <= interval <= _LONGEST_INTERVAL:
        message = (
            f"--interval {interval:g} is not a number of seconds from {_LEAST_INTERVAL:g} to"
            f" {_LONGEST_INTERVAL}"
        )
        raise UsageError(message, hint="apexgpu status --help")
    return interval


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


def live_outputs(ctx: typer.Context) -> "MakeReceiver | None":
    """Return what makes a receiver that shows the output of commands; None when JSON is wanted."""
    invocation: Invocation = ctx.find_root().obj
    if invocation.screen.as_json:
        return None
    return invocation.screen.live_outputs


def output_line(ctx: typer.Context) -> Callable[[str], None]:
    """Return a function that prints a line of a result while the command still runs."""
    invocation: Invocation = ctx.find_root().obj
    return invocation.screen.line
