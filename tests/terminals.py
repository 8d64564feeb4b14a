"""A real terminal with a program in it, read as text."""

import re
from typing import Any

import pexpect

REDRAWN = "\f"
"""Stands in what is read where the program has gone back, to draw over what was there."""

_GOES_BACK = re.compile(r"\x1b\[(?:\d*A|\d*K|\d*J|H)")
_ANY = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_UNFINISHED = re.compile(r"\x1b(?:\[[0-9;?]*)?\Z")


def plain(text: str) -> str:
    """What was written on a terminal, without colours, and with `REDRAWN` for a way back."""
    text = _ANY.sub("", _GOES_BACK.sub(REDRAWN, text))
    return re.sub(rf"{REDRAWN}+", REDRAWN, text)


class Terminal(pexpect.spawn):  # type: ignore[type-arg]  # of str
    """As pexpect's, without colours and cursor movements in what is read."""

    _rest = ""

    def read_nonblocking(self, size: int = 1, timeout: float | None = -1) -> str:
        text = self._rest + str(super().read_nonblocking(size, timeout))
        unfinished = _UNFINISHED.search(text)
        self._rest = unfinished.group() if unfinished else ""
        text = text.removesuffix(self._rest) if self._rest else text
        return plain(text)


def spawn(program: str, arguments: list[str], **options: Any) -> "pexpect.spawn[str]":
    """Start a program; `options` are pexpect's."""
    options.setdefault("encoding", "utf-8")
    return Terminal(program, arguments, **options)
