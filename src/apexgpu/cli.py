"""The entry for the command line: `main`, the one place where an error becomes text and an exit status.

Nothing heavy is imported before it is needed: `apexgpu.commands.app` (typer) unless the command line is a plain
`status` or `ssh`, and the module of a command only when that command is used.
"""

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from apexgpu import __version__, uncaught
from apexgpu.commands.invocation import Invocation
from apexgpu.commands.table import COMMANDS, EVERYDAY, SYNONYMS
from apexgpu.errors import ApexError, BugError, SameCommand, UnreachableError, UsageError
from apexgpu.render.screen import Screen
from apexgpu.reporter import CommandLine
from apexgpu.results import HostResults, Result, error_json
from apexgpu.session import Session

_WITHOUT_LAB = {"lab", "demo", "completion", "explain", "--help", "-h", "--version", "config"}
"""What works in a terminal whose variables point at a lab that is gone."""

LONG_WORK = 60.0
"""Seconds after which the end of a command is worth a notification."""

INTERRUPTED = 130
"""The exit status after Ctrl-C. typer returns it where it has caught the interruption itself."""


def main(
    arguments: Sequence[str], session: Session | None = None, screen: Screen | None = None
) -> int:
    """Run the command line `arguments` and return the exit status. Tests pass a session and a screen of their own."""
    screen = screen or Screen()
    session = replace(session or Session(), reporter=screen.reporter)
    invocation = Invocation(session, screen)
    screen.reporter.is_chinese = lambda: invocation.session.is_chinese
    screen.reporter.notify = lambda text: screen.notify(text, invocation.session)
    began = time.monotonic()
    code = _main(invocation, arguments)
    _notify(invocation, arguments, code, time.monotonic() - began)
    return code


def _main(invocation: Invocation, arguments: Sequence[str]) -> int:
    try:
        code = _answer(invocation, arguments)
    except ApexError as exc:
        return _report(invocation, exc)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has ended (`| head`), so nobody is left to read more.
        sys.stdout = None
        return 0
    except Exception as exc:
        error = _usage_error(exc)
        if error is None and invocation.debug:
            raise
        return _report(invocation, error or uncaught.as_apex_error(exc))
    if code == INTERRUPTED:
        _report_interruption(invocation.screen)
    return code


def _notify(invocation: Invocation, arguments: Sequence[str], code: int, seconds: float) -> None:
    """Tell a user who has walked away that long work has ended. Whoever pressed Ctrl-C knows."""
    if seconds < LONG_WORK or code == INTERRUPTED:
        return
    from apexgpu.render import notification  # most commands are over by then

    words = _without_leading_options(arguments)
    if notification.is_awaited(words):
        # A broken config.toml has been reported already.
        with contextlib.suppress(ApexError):
            text = notification.text_of(words, code, seconds)
            invocation.screen.notify(text, invocation.session)


def _answer(invocation: Invocation, arguments: Sequence[str]) -> int:
    """Run the command and print its result; the exit status. Errors are raised."""
    screen = invocation.screen
    before, separator, after = _split_at_dashes(arguments)
    # For errors that come before the options are parsed, and for `apexgpu --json COMMAND`.
    screen.as_json = "--json" in before
    invocation.debug = "--debug" in before
    if before[:1] == ["--json"]:
        invocation.flags["json"] = "yes"
    words = _our_words(_without_leading_options(before))
    needs_lab = not words or words[0] not in _WITHOUT_LAB
    if needs_lab and "APEXGPU_STATE_DIR" in invocation.base.environment:
        from apexgpu import labvariables

        labvariables.check(invocation.base.environment)
    screen.reporter.command_line = _command_line(before, [*separator, *after])
    outcome = _run(invocation, [*words, *separator, *after])
    if isinstance(outcome, Result):
        screen.show(outcome)
        _ask_about_network(invocation, outcome)
        if invocation.debug:
            _show_bugs(invocation, outcome)
        return outcome.exit_code
    return outcome or 0


def _ask_about_network(invocation: Invocation, result: Result) -> None:
    """Name the VPN if no host could be reached, for then the hosts are not the cause."""
    if not isinstance(result, HostResults) or not result.outcomes:
        return
    for outcome in result.outcomes:
        error = outcome.error
        if not isinstance(error, UnreachableError) or not error.may_be_network:
            return
    _report_network(invocation)


def _report_network(invocation: Invocation) -> None:
    message = "are you on the lab's network or its VPN?"
    with contextlib.suppress(ApexError):  # the settings may be the next problem
        if invocation.session.settings.vpn:
            message = f"{message} ({invocation.session.settings.vpn})"
    invocation.screen.reporter.note(message)


def _name_administrators(invocation: Invocation, error: ApexError) -> None:
    """Who the administrators are, where an error leaves the user to them and the lab has filled that in."""
    if "administrator" not in error.message:
        return
    with contextlib.suppress(ApexError):  # the settings may be the problem
        if invocation.session.settings.administrators:
            names = invocation.session.settings.administrators
            invocation.screen.reporter.note(f"administrators: {names}")


def _command_line(before: Sequence[str], after: Sequence[str]) -> CommandLine:
    """What was typed, with the place for options of ours: behind the command and its subcommand."""
    from apexgpu.completion_table import TABLE  # imports nothing

    words = [*before, *after]
    position = 0
    path = ""
    for index, word in enumerate(before):
        longer = f"{path} {word}".strip()
        if longer in TABLE:
            path = longer
            position = index + 1
    return CommandLine(tuple(words), position)


def _show_bugs(invocation: Invocation, result: Result) -> None:
    """Show where the exceptions came from that ended the work on single hosts."""
    for error in result.errors:
        if isinstance(error, BugError):
            _show_traceback(invocation, error)


def _split_at_dashes(arguments: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The words before `--`, the `--` itself if there is one, and the words after it."""
    words = list(arguments)
    cut = words.index("--") if "--" in words else len(words)
    return words[:cut], words[cut : cut + 1], words[cut + 1 :]


def _without_leading_options(words: Sequence[str]) -> list[str]:
    """`words` without a `--json` or `--debug` in front of the command, which are dealt with already."""
    remaining = list(words)
    while remaining and remaining[0] in {"--json", "--debug"}:
        remaining = remaining[1:]
    return remaining


def _our_words(words: list[str]) -> list[str]:
    """`words` with our name for a command that other tools call differently: `start gpu7` is `up gpu7`."""
    if not words or words[0] in COMMANDS:
        return words
    if words[0] == "version":
        return ["--version"]
    if words[0] == "help":
        return [*_our_words(words[1:]), "--help"]
    return [*SYNONYMS.get(words[0], words[:1]), *words[1:]]


def _run(invocation: Invocation, words: list[str]) -> Result | int | None:
    """Parse the words and run the command: its result, or an exit status."""
    if not words:
        from apexgpu import overview

        everyday = [(name, COMMANDS[name].line) for name in EVERYDAY]
        return overview.take(invocation.session, everyday=everyday)
    if words == ["--version"]:
        invocation.screen.line(f"apexgpu {__version__}")
        return 0
    if words[:1] == ["--install-completion"]:
        from apexgpu import shellcompletion

        shell = words[1] if len(words) > 1 else None
        return shellcompletion.install(invocation.session, shell)
    if words[:1] == ["status"] and all(_is_plain(word) for word in words[1:]):
        # `status` has to feel instant, and importing typer is half of a command's start-up.
        from apexgpu import containers

        screen = invocation.screen
        screen.as_json = screen.as_json or "--json" in words
        hosts = [word for word in words[1:] if word != "--json"]
        return containers.status(invocation.session, hosts)
    if _is_plain_ssh(words) and not invocation.screen.as_json:
        # So does `ssh`, which is measured against plain ssh.
        from apexgpu import shells

        return shells.ssh(invocation.session, words[1], words[3:])
    from apexgpu.commands.app import app

    outcome: Result | int | None = app(
        words, prog_name="apexgpu", standalone_mode=False, obj=invocation
    )
    return outcome


def _is_plain(word: str) -> bool:
    return word == "--json" or not word.startswith("-")


def _is_plain_ssh(words: Sequence[str]) -> bool:
    """Whether the words are `ssh HOST` or `ssh HOST -- CMD...`."""
    if words[:1] != ["ssh"] or len(words) == 1 or words[1].startswith("-"):
        return False
    return len(words) == 2 or words[2] == "--"


def _report_interruption(screen: Screen) -> None:
    # A command that was interrupted may have printed its document already.
    if not screen.printed_document:
        error = {
            "code": "interrupted",
            "message": "interrupted",
            "hint": SameCommand("run the same command again"),
        }
        screen.document({"ok": False, "error": error})


def _usage_error(exc: Exception) -> UsageError | None:
    """One of typer's own errors as ours. typer keeps its classes to itself, so they are known by their attributes."""
    format_message = getattr(exc, "format_message", None)
    if format_message is None:
        return None
    context = getattr(exc, "ctx", None)
    path = context.command_path if context is not None else "apexgpu"
    message = format_message().rstrip(".").replace("\n", " ")
    # Our messages begin in lower case.
    message = message[:1].lower() + message[1:]
    return UsageError(f"{path}: {message}", hint=f"{path} --help")


def _report(invocation: Invocation, error: ApexError) -> int:
    """Print an error as text, and as a document where JSON is wanted."""
    screen = invocation.screen
    if isinstance(error, UnreachableError) and "APEXGPU_STATE_DIR" in invocation.base.environment:
        from apexgpu import labvariables

        error = labvariables.why_unreachable(invocation.base.environment) or error
    # A full disk or a closed pipe under one stream must not keep the error from the other.
    with contextlib.suppress(OSError):
        screen.document(_error_document(invocation, error))
    with contextlib.suppress(OSError):
        screen.reporter.error(error)
        if isinstance(error, UnreachableError) and error.may_be_network:
            _report_network(invocation)
        _name_administrators(invocation, error)
        if invocation.debug:
            _show_traceback(invocation, error)
    return error.exit_code


def _show_traceback(invocation: Invocation, error: ApexError) -> None:
    import traceback

    lines = traceback.format_tb(error.__traceback__)
    if isinstance(error, BugError) and error.__cause__ is not None:
        lines += traceback.format_exception(error.__cause__)
    invocation.screen.reporter.diff("".join(lines))


def _error_document(invocation: Invocation, error: ApexError) -> dict[str, object]:
    document: dict[str, object] = {"ok": False, "error": error_json(error)}
    chosen = invocation.base.chosen
    if len(chosen) == 1:
        # A script that reads rows finds the error there too, where it can only be that host's.
        row = {"host": chosen[0].name, "ok": False, "error": error_json(error)}
        document["hosts"] = [row]
    return document
