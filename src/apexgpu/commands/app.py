"""The app that typer makes of the table of commands: parsing, `--help`, the options that every command has.

Imported only where typer is needed: `cli.main` answers the plainest words without it.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from apexgpu.commands.invocation import Invocation
from apexgpu.commands.table import COMMANDS, LAB_PANEL, SYNONYMS
from apexgpu.errors import UsageError


def _common_options() -> list[TyperOption]:
    """The options that every command has; they go to the invocation, not to the command."""

    def keep(ctx: Any, param: Any, value: Any) -> None:
        invocation: Invocation | None = ctx.find_root().obj
        if value is None or value is False or invocation is None:
            return
        if param.name == "json":
            invocation.screen.as_json = True
            invocation.flags["json"] = "yes"
        elif param.name == "timeout":
            invocation.flags["timeout"] = str(value)
        elif param.name == "yes":
            invocation.yes = True
        elif param.name == "accept_new":
            invocation.accept_new = True
        elif param.name == "debug":
            invocation.debug = True

    def option(names: list[str], help_: str, **more: Any) -> TyperOption:
        return TyperOption(param_decls=names, help=help_, expose_value=False, callback=keep, **more)

    return [
        option(["--json"], "One JSON document on stdout.", is_flag=True, default=False),
        option(
            ["--yes", "-y"],
            "Answer yes to every y/N question (never host keys or passwords).",
            is_flag=True,
            default=False,
        ),
        option(
            ["--accept-new"],
            "Trust host keys that are seen for the first time.",
            is_flag=True,
            default=False,
        ),
        option(["--timeout"], "Seconds a host may take to connect.", metavar="SECONDS"),
        option(["--debug"], "Show where an error came from.", is_flag=True, default=False),
    ]


class Command(TyperCommand):
    """A command with the common options at its end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(_common_options())

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As usual; where a command for the container follows, options between HOST and that are ours all the same."""
        if not ctx.allow_interspersed_args:
            args = _hoisted(args, self.params)
        return super().parse_args(ctx, args)


def _hoisted(args: list[str], params: list[Any]) -> list[str]:
    """`args` with the options that follow HOST (or several, up to `--`) put in front of it."""
    takes_value: dict[str, bool] = {}  # by the names of the options
    arguments = []
    for param in params:
        if not param.opts[0].startswith("-"):
            arguments.append(param)
            continue
        for name in param.opts:
            takes_value[name] = not param.is_flag
    several = arguments[0].nargs == -1 and "--" in args
    front: list[str] = []
    hosts: list[str] = []
    remaining = list(args)
    while remaining and remaining[0] != "--":
        name, joined, _ = remaining[0].partition("=")
        if name in takes_value:
            # `--name VALUE` is two words, `--name=VALUE` and a flag are one.
            count = 2 if takes_value[name] and not joined else 1
            front += remaining[:count]
            remaining = remaining[count:]
        elif (several or not hosts) and not name.startswith("-"):
            hosts.append(remaining.pop(0))
        else:
            break
    return [*front, *hosts, *remaining]


class Root(TyperGroup):
    """The top of the command line: looks a command up in the table and imports its module only then."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, from its module."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module = import_module(f"apexgpu.commands.{entry.module}")
        group: Any = typer.main.get_group(module.app)
        return group.commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As usual, with the nearest names for one that is not there."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise no_such_command(args[0], _meanings(), "apexgpu")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The panels of `--help`, from the table alone."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in COMMANDS.items():
            panels.setdefault(command.panel, []).append((name, command.line))
        if not _has_lab():
            del panels[LAB_PANEL]
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)


def _has_lab() -> bool:
    """Whether the libraries of the embedded lab are installed: `pip install 'apexgpu[lab]'`."""
    from importlib.util import find_spec

    return find_spec("asyncssh") is not None and find_spec("h11") is not None


def _meanings() -> dict[str, str]:
    """Every command, and other tools' names for them -> the command that is meant."""
    meanings = {name: name for name in COMMANDS}
    for name, words in SYNONYMS.items():
        meanings[name] = " ".join(word for word in words if not word.startswith("-"))
    return {**meanings, "help": "--help", "version": "--version"}


def no_such_command(name: str, meanings: Mapping[str, str], path: str) -> UsageError:
    """The error for a word that is not a command below `path`.

    `meanings` are the names that may have been meant -> the command; its hint is the nearest one.
    """
    from apexgpu.commands.slips import nearest

    near = nearest(name, meanings)
    message = (
        f"there is no command {name}" if path == "apexgpu" else f"{path} has no command {name}"
    )
    if near is None:
        return UsageError(message, hint=f"{path} --help")
    command = meanings[near]
    shown = command if command == near else f"{command} ({near})"
    hint = f"{path} {command}"
    if not command.startswith("-"):
        hint += " --help"
    return UsageError(f"{message}; did you mean {shown}?", hint=hint)


app = typer.Typer(
    cls=Root,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", help="Show the version."),
    install_completion: bool = typer.Option(
        False, "--install-completion", help="Let your shell complete apexgpu's commands and hosts."
    ),
) -> None:
    """From an empty laptop to your container on the lab's GPU servers.

    First day: apexgpu login, apexgpu register HOST (once), apexgpu up HOST, ssh HOST.
    Without a lab: apexgpu demo.
    """
