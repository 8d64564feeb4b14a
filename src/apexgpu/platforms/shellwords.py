"""Words for the shells that users paste commands into: sh on Linux and macOS, PowerShell 5.1 and 7 on Windows."""

import re
import shlex

from apexgpu.platforms.system import System, current


def quoted(word: str, system: System | None = None) -> str:
    """`word` as one word for the user's shell, without quotes where it needs none."""
    if (system or current()) is not System.WINDOWS:
        return shlex.quote(word)
    if re.fullmatch(r"[\w.:\\/~+=-]+", word):
        return word
    if not re.search(r"[$`\"]", word):
        return f'"{word}"'  # cmd.exe understands this as well
    # In PowerShell's single quotes nothing is replaced; a quote is doubled.
    doubled = word.replace("'", "''")
    return f"'{doubled}'"


def both(first: str, second: str, system: System | None = None) -> str:
    """Two commands on one line, the second after the first. PowerShell 5.1 does not know `&&`."""
    separator = "; " if (system or current()) is System.WINDOWS else " && "
    return f"{first}{separator}{second}"
