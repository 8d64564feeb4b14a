"""The front door: the app, and `main`, the one place where an error becomes text and a number.

Command groups are imported only when one of their commands is used; the table below is all that `--help`
needs to know of them.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from apexgpu.errors import ApexError, UsageError
from apexgpu.kit import Kit


class Entry(NamedTuple):
    """Where a command lives, the panel of `--help` it stands in, and its line there."""

    module: str
    panel: str
    line: str


COMMANDS: dict[str, Entry] = {
    "login": Entry("account", "First day", "Log in to IAM, send a key, write the ssh config. Start here."),
    "logout": Entry("account", "First day", "Forget the login on this laptop, and what it put into the ssh config."),
    "whoami": Entry("account", "First day", "Show your account, port, and where each key is known."),
    "keys": Entry("keys", "First day", "List, add or remove the ssh keys that IAM holds for you."),
    "config": Entry("config", "First day", "The hosts in ~/.ssh/config: sync, status, print, remove, restore."),
    "register": Entry("hosts", "Hosts", "Make your container on a host, once."),
    "up": Entry("hosts", "Hosts", "Start your container and wait until it answers."),
    "down": Entry("hosts", "Hosts", "Stop your container."),
    "status": Entry("hosts", "Hosts", "Show every host: registered, running, address, memory."),
    "ssh": Entry("work", "Work there", "Open a shell, or run a command, in your container."),
    "exec": Entry("work", "Work there", "Run a command in your containers on many hosts."),
    "completion": Entry("shell", "This program", "Print what your shell needs to complete apexgpu's words."),
    "demo": Entry("lab", "No lab at hand", "Play the whole story against a lab inside this program."),
    "lab": Entry("lab", "No lab at hand", "The embedded lab: up, env, status, fault, down."),
}


def _common_options() -> list[TyperOption]:
    """The options that every command has; they go to the kit, not to the command."""

    def keep(ctx: Any, param: Any, value: Any) -> None:
        kit: Kit = ctx.find_root().obj
        if value is None or value is False or kit is None:
            return
        if param.name == "json":
            kit.screen.as_json = True
        elif param.name == "timeout":
            kit.flags["timeout"] = str(value)
        else:
            setattr(kit, param.name, True)

    def option(names: list[str], help_: str, **more: Any) -> TyperOption:
        return TyperOption(param_decls=names, help=help_, expose_value=False, callback=keep, **more)

    return [
        option(["--json"], "One JSON document on stdout.", is_flag=True, default=False),
        option(["--yes", "-y"], "Answer yes to every y/N question (never host keys or passwords).",
               is_flag=True, default=False),
        option(["--accept-new"], "Trust host keys that are seen for the first time.", is_flag=True, default=False),
        option(["--timeout"], "Seconds a host may take to connect.", metavar="SECONDS"),
        option(["--debug"], "Show where an error came from.", is_flag=True, default=False),
    ]  # fmt: skip


class Command(TyperCommand):
    """A command with the common options at its end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(_common_options())


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
            raise _no_such_command(args[0])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The panels of `--help`, from the table alone."""
        for panel in dict.fromkeys(entry.panel for entry in COMMANDS.values()):
            rows = [(name, entry.line) for name, entry in COMMANDS.items() if entry.panel == panel]
            with formatter.section(panel):
                formatter.write_dl(rows)


def _no_such_command(name: str) -> UsageError:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=3, cutoff=0.5)
    hint = f"did you mean: apexgpu {near[0]}?" if near else "apexgpu --help"
    return UsageError(f"there is no command {name}", hint=hint)


app = typer.Typer(cls=Root, add_completion=False, rich_markup_mode=None, no_args_is_help=True,
                  context_settings={"help_option_names": ["--help", "-h"]})  # fmt: skip


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", help="Show the version."),
    install_completion: bool = typer.Option(
        False, "--install-completion", help="Let your shell complete apexgpu's commands and hosts."
    ),
) -> None:
    """From an empty laptop to your container on the lab's GPU servers.

    First day: apexgpu login, then apexgpu up HOST, then ssh HOST. No lab at hand: apexgpu demo.
    """


def main(arguments: Sequence[str], kit: Kit | None = None) -> int:
    """Run the command line; the exit code. Every error becomes text here and nowhere else."""
    kit = kit or Kit()
    before, dashes, after = _split(arguments)
    # For the errors that come before the options are read, and for `apexgpu --json COMMAND`.
    kit.screen.as_json = "--json" in before
    kit.debug = "--debug" in before
    try:
        if "--install-completion" in before[:1]:
            from apexgpu.commands.shell import install

            return install(kit, before[1:])
        words = [word for word in before if word not in {"--json", "--debug"} or before.index(word) > 0]
        code = app([*words, *dashes, *after], prog_name="apexgpu", standalone_mode=False, obj=kit)
    except ApexError as exc:
        return _report(kit, exc)
    except KeyboardInterrupt:
        kit.screen.transient("")
        return 130
    except BrokenPipeError:
        # The reader of our output is gone (`| head`); nothing is left to say to it.
        sys.stdout = None
        return 0
    except Exception as exc:
        usage = _usage_error(exc)
        if usage is not None:
            return _report(kit, usage)
        if kit.debug:
            raise
        return _report(kit, ApexError(f"apexgpu itself failed: {type(exc).__name__}", code="bug",
                                      hint="run it again with --debug and report what it shows"))  # fmt: skip
    return int(code or 0)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    words = list(arguments)
    cut = words.index("--") if "--" in words else len(words)
    return words[:cut], words[cut : cut + 1], words[cut + 1 :]


def _usage_error(exc: Exception) -> UsageError | None:
    """Typer's own errors, which carry their text; typer keeps the classes to itself, so by what they have."""
    text = getattr(exc, "format_message", None)
    if text is None:
        return None
    context = getattr(exc, "ctx", None)
    path = context.command_path if context is not None else "apexgpu"
    if not text():
        # No arguments where some are needed: the help has been asked for, in effect.
        return UsageError("nothing to do", hint=f"{path} --help")
    return UsageError(text().rstrip(".").replace("\n", " "), hint=f"{path} --help")


def _report(kit: Kit, error: ApexError) -> int:
    from apexgpu.render import error_value

    kit.screen.transient("")
    kit.screen.document({"ok": False, "error": error_value(error)})
    kit.screen.error(error)
    if kit.debug:
        import traceback

        for line in traceback.format_tb(error.__traceback__):
            kit.screen.block(line)
    return error.exit_code
