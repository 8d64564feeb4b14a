"""The front door: the table of commands, and `main`, the one place where an error becomes text and a number.

Nothing heavy is imported before the words ask for it: `apexgpu.commands.app` (which owns typer) unless a plain `status`
is all that was said, and a group of commands only when one of them is used.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from apexgpu.errors import ApexError, UsageError
from apexgpu.session import Session


class Entry(NamedTuple):
    """Where a command lives, the panel of `--help` it stands in, and its line there."""

    module: str
    panel: str
    line: str


COMMANDS: dict[str, Entry] = {
    "login": Entry(
        "account", "First day", "Log in to IAM, send a key, write the ssh config. Start here."
    ),
    "logout": Entry(
        "account", "First day", "Forget the login, and take its hosts out of the ssh config."
    ),
    "whoami": Entry(
        "account", "First day", "Show your account, port, and where each key is known."
    ),
    "keys": Entry("keys", "First day", "List, add or remove the ssh keys that IAM holds for you."),
    "config": Entry(
        "config", "First day", "The hosts in ~/.ssh/config: sync, status, print, remove, restore."
    ),
    "register": Entry("hosts", "Hosts", "Make your container on a host, once."),
    "up": Entry("hosts", "Hosts", "Start your container and wait until it answers."),
    "down": Entry("hosts", "Hosts", "Stop your container."),
    "status": Entry("hosts", "Hosts", "Show every host: registered, running, address, memory."),
    "ssh": Entry("work", "Work there", "Open a shell, or run a command, in your container."),
    "exec": Entry("work", "Work there", "Run a command in your containers on many hosts."),
    "cp": Entry("copy", "Work there", "Copy files and directories to or from your container."),
    "snapshot": Entry("backup", "Backups", "Save your container to the NAS, and test the archive."),
    "snapshots": Entry(
        "snapshots", "Backups", "Every archive that can be seen: list, verify, remove, keep."
    ),
    "recover": Entry(
        "recover", "Backups", "Bring a saved container back, after its archive was tested."
    ),
    "rebuild": Entry(
        "recover", "Backups", "Make your container new from the administrators' template."
    ),
    "tunnel": Entry("tunnel", "Ports", "Keep ports of your container open on this laptop."),
    "tunnels": Entry("tunnel", "Ports", "The tunnels of this laptop: list, close."),
    "tensorboard": Entry(
        "serving", "Ports", "Show a directory of your container in TensorBoard, here."
    ),
    "jupyter": Entry("serving", "Ports", "Show your container in Jupyter, here."),
    "port": Entry("port", "Ports", "Show or make the server's maps of your container's ports."),
    "mount": Entry(
        "mount", "Files", "Show the files of your container in a directory of this laptop."
    ),
    "mounts": Entry(
        "mounts", "Files", "What is mounted here, and whether it answers: list, repair."
    ),
    "unmount": Entry("mounts", "Files", "Take such a directory away again."),
    "x11": Entry("x11", "X11", "Windows of your container on this screen: check, run, install."),
    "gpus": Entry(
        "gpus", "GPUs", "What every GPU does; gpus free: which are free, and what to paste."
    ),
    "setup": Entry(
        "setup", "Software", "CUDA, cuDNN, TensorFlow, Jupyter … in your container; setup list."
    ),
    "verify": Entry(
        "verify", "Software", "Prove that your container computes, from driver to convolution."
    ),
    "doctor": Entry(
        "doctor", "When stuck", "Find out what is wrong between this laptop and your containers."
    ),
    "uninstall": Entry(
        "doctor", "When stuck", "Take away all that apexgpu wrote on this machine; your keys stay."
    ),
    "completion": Entry(
        "shell", "This program", "Print what your shell needs to complete apexgpu's words."
    ),
    "demo": Entry(
        "lab", "No lab at hand", "Play the whole story against a lab inside this program."
    ),
    "lab": Entry("lab", "No lab at hand", "The embedded lab: up, env, status, fault, down."),
}


def main(arguments: Sequence[str], session: Session | None = None) -> int:
    """Run the command line; the exit code. Every error becomes text here and nowhere else."""
    session = session or Session()
    before, dashes, after = _split(arguments)
    # For the errors that come before the options are read, and for `apexgpu --json COMMAND`.
    session.screen.as_json = "--json" in before
    session.debug = "--debug" in before
    if before[:1] == ["--json"]:
        session.flags["json"] = "yes"
    try:
        if "--install-completion" in before[:1]:
            from apexgpu.commands.shell import install

            return install(session, before[1:])
        words = [
            word for word in before if word not in {"--json", "--debug"} or before.index(word) > 0
        ]
        bare = not words and not session.screen.as_json
        code = _run(session, ["--help"] if bare else [*words, *dashes, *after])
    except ApexError as exc:
        return _report(session, exc)
    except KeyboardInterrupt:
        return _interrupted(session)
    except BrokenPipeError:
        # The reader of our output is gone (`| head`); nothing is left to say to it.
        sys.stdout = None
        return 0
    except Exception as exc:
        usage = _usage_error(exc)
        if usage is not None:
            return _report(session, usage)
        if session.debug:
            raise
        return _report(session, _own_error(exc))
    return _interrupted(session) if code == 130 else int(code or 0)  # typer makes a Ctrl-C a status


def _interrupted(session: Session) -> int:
    session.screen.transient("")
    if not session.screen.told:
        error = {"code": "interrupted", "message": "interrupted", "hint": "run the same line again"}
        session.screen.document({"ok": False, "error": error})
    return 130


def _run(session: Session, arguments: list[str]) -> int | None:
    if arguments[:1] == ["status"] and all(_is_plain(word) for word in arguments[1:]):
        # What must feel instant does not wait for typer: half of the start-up of a command.
        from apexgpu.commands import overview

        session.screen.as_json = session.screen.as_json or "--json" in arguments
        return overview.status(session, [word for word in arguments[1:] if word != "--json"])
    from apexgpu.commands.app import app

    code: int | None = app(arguments, prog_name="apexgpu", standalone_mode=False, obj=session)
    return code


def _is_plain(word: str) -> bool:
    return word == "--json" or not word.startswith("-")


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
    said = text().rstrip(".").replace("\n", " ")
    return UsageError(f"{path}: {said[:1].lower()}{said[1:]}", hint=f"{path} --help")


def _own_error(exc: Exception) -> ApexError:
    """A file that cannot be used is the user's affair; all else is ours."""
    if isinstance(exc, OSError) and isinstance(exc.filename, str | os.PathLike) and exc.strerror:
        from pathlib import Path

        path = Path(exc.filename)
        return ApexError(
            f"cannot use {path}: {exc.strerror}", code="file", hint=f"ls -ld {path.parent}"
        )
    if isinstance(exc, FileNotFoundError) and not _is_somewhere():
        return ApexError("the directory that you are in is gone", code="directory_gone", hint="cd")
    if isinstance(exc, OSError) and exc.errno in {errno.ENOSPC, errno.EDQUOT}:
        return ApexError(
            f"what was to be written found no room: {exc.strerror}",
            code="no_space",
            hint="df -h ~ .",
        )
    return ApexError(
        f"apexgpu itself failed: {type(exc).__name__}",
        code="bug",
        hint="run it again with --debug and report what it shows",
    )


def _is_somewhere() -> bool:
    from pathlib import Path

    try:
        return Path.cwd().is_dir()
    except OSError:
        return False


def _report(session: Session, error: ApexError) -> int:
    with contextlib.suppress(OSError):  # a full disk, or a closed pipe, where it should be said
        _tell(session, error)
    return error.exit_code


def _tell(session: Session, error: ApexError) -> None:
    from apexgpu.render import error_value

    session.screen.transient("")
    told = error_value(error)
    # Who reads the rows finds it there too, where it can only be that host's.
    rows = [{"host": host.name, "ok": False, "error": told} for host in session.chosen]
    with contextlib.suppress(OSError):  # stderr may be another place
        session.screen.document(
            {"ok": False, "error": told, **({"hosts": rows} if len(rows) == 1 else {})}
        )
    session.screen.error(error)
    if session.debug:
        import traceback

        for line in traceback.format_tb(error.__traceback__):
            session.screen.block(line)
