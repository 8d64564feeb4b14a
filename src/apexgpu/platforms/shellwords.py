"""Words for the shells that users paste commands into: sh on Linux and macOS, PowerShell 5.1 and 7 on Windows."""

import re
import shlex

from apexgpu.platforms.system import System


def quoted(system: System, word: str) -> str:
    """`word` as one word for the user's shell, without quotes where it needs none."""
    if system is not System.WINDOWS:
        return shlex.quote(word)
    if re.fullmatch(r"[A-Za-z0-9_.:\\/~+=-]+", word):
        return word
    # In PowerShell's single quotes nothing is replaced; a quote is doubled.
    doubled = word.replace("'", "''")
    return f"'{doubled}'"
