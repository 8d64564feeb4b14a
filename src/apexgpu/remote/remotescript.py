"""The one way to run a program of `apexgpu.remote.programs` in a container, and to read what it prints.

Nothing is installed in a container. A program travels as text inside the command that ssh is given, for example
`sh -c 'TEXT OF facts.sh' apexgpu ARGUMENT`:

    command = sh_command("facts.sh", arguments=["/NAS/installers"])
    reply = transport.run(target, command)
    for line in answers(reply.out):
        ...

ssh hands the command to the account's login shell (bash, zsh, fish …), which first reads a file like ~/.bashrc. That
file may print text too, so a program marks its own output in one of two ways:

- It begins each line with `apexgpu `. `answers` returns these lines; a Python program prints JSON objects in them, for
  `json_answers`.
- It prints the line `apexgpu-starts` before output that other programs format (df, who). `output` returns the rest.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from apexgpu import readers
from apexgpu.errors import ApexError, RefusedError, UnexpectedError
from apexgpu.models import Reply
from apexgpu.text import last_line

MARK = "apexgpu "
"""The start of each line with an answer."""

_STARTS = "apexgpu-starts\n"
# `from apexgpu.remote.programs.x import y`, also over several lines: the files are joined before they are sent.
_IMPORT_OF_A_PROGRAM = re.compile(r"^from apexgpu\.[^\n(]*(?:\([^)]*\))?\n", re.MULTILINE)


@cache
def text(name: str) -> str:
    """The text of one file of `apexgpu.remote.programs`."""
    return (Path(__file__).with_name("programs") / name).read_text(encoding="utf-8")


@cache
def python_text(*names: str) -> str:
    """The text of several Python files as one program; each file may use those before it."""
    return "\n\n".join(_IMPORT_OF_A_PROGRAM.sub("", text(name)) for name in names)


def sh_command(*names: str, arguments: Sequence[str] = (), sudo: bool = False) -> str:
    """The command line that runs sh programs with `arguments` as $1, $2 …

    Several files are run as one program, so that a later one can use the functions of an earlier one. With `sudo` the
    program runs as root, and fails at once if sudo would ask for a password.
    """
    program = "\n".join(text(name) for name in names)
    words = ["sh", "-c", program, "apexgpu", *arguments]
    if sudo:
        words = ["sudo", "-n", *words]
    return apart(shlex.join(words))


def one_line_command(*names: str, arguments: Sequence[str] = ()) -> str:
    """As `sh_command`, for csh too, which ends a quoted text at the end of the line and expands `!` in it."""
    program = "\n".join(text(name) for name in names)
    written = []
    for character in program:
        # As octal numbers for printf, which has a meaning for % as well.
        written.append(f"\\{ord(character):03o}" if character in "\n\\'!%" else character)
    return apart(shlex.join(["sh", "-c", 'eval "$(printf "$0")"', "".join(written), *arguments]))


def python_command(*names: str, request: Mapping[str, object]) -> str:
    """The command line that runs Python programs with `request` as JSON in sys.argv[1].

    If the container has no Python, the answer is `{"error": "no_python"}`.
    """
    return sh_command("find_python.sh", arguments=[python_text(*names), json.dumps(request)])


def apart(line: str) -> str:
    """`line` with its output on a line of its own, because ~/.bashrc may print text without a final newline."""
    return f"echo; {line}"


def answers(out: str) -> list[str]:
    """The lines of `out` that begin with the mark, in order and without the mark."""
    return [line.removeprefix(MARK) for line in out.splitlines() if line.startswith(MARK)]


def json_answers(out: str) -> list[dict[str, Any]]:
    """The answers in `out` that are JSON objects, in order."""
    objects = []
    for answer in answers(out):
        try:
            value = readers.json_value(answer, "an answer")
        except UnexpectedError:
            continue
        if isinstance(value, dict):
            objects.append(value)
    return objects


def output(out: str) -> str:
    """What a program printed after its line `apexgpu-starts`; empty if it did not get that far."""
    return out.partition(_STARTS)[2]


def no_answer_error(reply: Reply, host: str, *, hint: str) -> ApexError:
    """The error for a program that printed no answer; it quotes the last line of stderr."""
    last = last_line(reply.err, f"exit status {reply.code}")
    if last.startswith("Unmatched '"):
        return csh_error(host)
    message = f"the container on {host} sent an unknown answer: {last[:300]}"
    return UnexpectedError(message, hint=hint)


def csh_error(host: str) -> RefusedError:
    """The error for an account whose login shell is csh: it cannot read the programs, which have several lines."""
    message = (
        f"the login shell in the container on {host} is csh, which cannot run apexgpu's programs; bash, zsh, fish and"
        " sh can"
    )
    hint = f"apexgpu exec {host} -- 'sudo chsh -s /bin/bash $USER'"
    return RefusedError(message, hint=hint, code="login_shell")
