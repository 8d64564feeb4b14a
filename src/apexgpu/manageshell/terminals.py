"""The name of the user's terminal, for a container whose system is older than the terminal. Pure.

ssh sends TERM to the server. If the terminfo database there does not have the name, programs print "unknown terminal
type". New terminals (kitty, Ghostty, Alacritty) understand what xterm-256color stands for.
"""

import re
import shlex

SUBSTITUTE = "xterm-256color"
"""The name that every system has, and that comes closest to a modern terminal."""

NO_CHECK = ""
"""Instead of a command: the terminal is known everywhere."""

# What the ncurses-base of Ubuntu 16.04 has. Nobody needs to ask for these.
_KNOWN_EVERYWHERE = frozenset(
    {
        "ansi",
        "cygwin",
        "dumb",
        "linux",
        "rxvt",
        "rxvt-unicode",
        "screen",
        "screen-256color",
        "vt100",
        "vt102",
        "vt220",
        "vt52",
        "xterm",
        "xterm-256color",
        "xterm-color",
    }
)


def check_command(terminal: str) -> str:
    """A command for the container that shows whether it knows the terminal; NO_CHECK if that is certain."""
    if not terminal or terminal in _KNOWN_EVERYWHERE:
        return NO_CHECK
    return f"infocmp {shlex.quote(terminal)}"


def environment(terminal: str, output: str) -> dict[str, str] | None:
    """The variables to change for ssh; None if it can send the name as it is.

    `output` is that of `check_command`: the description of the terminal, which begins with a line of all its names.
    """
    if not terminal or terminal in _KNOWN_EVERYWHERE:
        return None
    for line in output.splitlines():
        names = re.split(r"[|,]", line)
        is_description = len(names) > 1 and not line[0].isspace()
        if is_description and terminal in names:
            return None
    return {"TERM": SUBSTITUTE}
