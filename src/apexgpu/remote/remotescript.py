"""Sends the programs of `apexgpu.remote.programs` into a container as text, and finds their answers in the output."""

import json
import re
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from apexgpu.errors import ApexError
from apexgpu.models import Reply
from apexgpu.text import last_line

MARK = "apexgpu "
"""What an answer's line begins with; a Python's goes on with a JSON object."""

_START = "apexgpu-starts"
_OWN_IMPORT = re.compile(r"^from apexgpu\.[^\n(]*(?:\([^)]*\))?\n", re.MULTILINE)
_FIND_PYTHON = (
    'for p in python3 "$HOME"/*conda3/bin/python3 "$HOME"/miniforge3/bin/python3 /opt/*conda*/bin/python3 '
    '"$HOME"/.pyenv/shims/python3; do command -v "$p" >/dev/null 2>&1 && exec "$p" -c "$1" "$2"; done; '
    'echo \'apexgpu {"error": "no_python"}\''
)


def apart(line: str) -> str:
    """A command line whose output begins on a line of its own: what ~/.bashrc prints may lack its last line's end."""
    return f"echo; {line}"


def script(text: str) -> str:
    """A command line that has sh run `text`, whatever the account's login shell is (fish, zsh); see `apart`."""
    return apart(shlex.join(["sh", "-c", text]))


def started(text: str) -> str:
    """As `script`, and it says where its output begins: `after_start` leaves out what ~/.bashrc prints before it."""
    return script(f"echo {_START}; {text}")


def after_start(out: str) -> str:
    """What the text of `started` itself said."""
    return out.partition(f"{_START}\n")[2]


@cache
def text(name: str) -> str:
    """The text of one file of `apexgpu.remote.programs`."""
    return (Path(__file__).with_name("programs") / name).read_text(encoding="utf-8")


@cache
def program(*names: str) -> str:
    """The Python of files of `apexgpu.remote.programs`, in the order in which they need each other."""
    return "\n\n".join(_OWN_IMPORT.sub("", text(name)) for name in names)


def command(code: str, asked: Mapping[str, object]) -> str:
    """The command line for the container's shell, whichever that is; `asked` is the program's argument, as JSON.

    Where no Python is found, the answer is `{"error": "no_python"}`.
    """
    return apart(
        shlex.join(
            ["env", "LC_ALL=C.UTF-8", "sh", "-c", _FIND_PYTHON, "apexgpu", code, json.dumps(asked)]
        )
    )


def answers(out: str) -> list[str]:
    """What the marked lines say, in their order."""
    return [line.removeprefix(MARK) for line in out.splitlines() if line.startswith(MARK)]


def no_answer(reply: Reply, host: str, *, hint: str) -> ApexError:
    """The error for an answer that is none: in its place, the last words of whatever ran there."""
    said = last_line(reply.err, f"exit status {reply.code}")
    message = f"the container on {host} answered something apexgpu does not know: {said[:300]}"
    return ApexError(message, hint=hint, code="unexpected")
