"""Shell completion without typer: answers from a table that a test compares with the command line itself.

Touches no network, no keyring and no prompt: host names come from a file that login leaves behind.
The shells ask by environment variables: `_APEXGPU_COMPLETE=complete_SHELL`, and the line so far either as
`COMP_WORDS` with `COMP_CWORD` or, up to the cursor, as `_TYPER_COMPLETE_ARGS`.
"""

import os
import sys
from collections.abc import Mapping

from apexgpu.completion_table import AFTER_HOST, TABLE

SHELLS = ("bash", "zsh", "fish", "powershell")

_SCRIPTS = {
    "bash": """\
_apexgpu_completion() {
    local IFS=$'\\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _APEXGPU_COMPLETE=complete_bash apexgpu))
    if [ ${#COMPREPLY[@]} -eq 0 ]; then
        COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
    fi
}
complete -F _apexgpu_completion apexgpu
""",
    "zsh": """\
#compdef apexgpu
_apexgpu_completion() {
    local -a found
    found=("${(@f)$(_TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _APEXGPU_COMPLETE=complete_zsh apexgpu)}")
    if [ -n "${found[1]}" ]; then compadd -- "${found[@]}"; else _files; fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _apexgpu_completion apexgpu
""",
    "fish": """\
function __apexgpu_completion
    set --local line (commandline -cp)
    set --local found (env _APEXGPU_COMPLETE=complete_fish _TYPER_COMPLETE_ARGS="$line" apexgpu)
    if test (count $found) -gt 0
        string join -- \\n $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete --command apexgpu --no-files --arguments '(__apexgpu_completion)'
""",
    "powershell": """\
Register-ArgumentCompleter -Native -CommandName apexgpu -ScriptBlock {
    param($word, $line, $cursor)
    $env:_APEXGPU_COMPLETE = 'complete_powershell'
    $env:_TYPER_COMPLETE_ARGS = "$line".PadRight($cursor).Substring(0, $cursor)
    apexgpu | ForEach-Object { [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_) }
    Remove-Item Env:_APEXGPU_COMPLETE, Env:_TYPER_COMPLETE_ARGS
}
""",
}


def script(shell: str) -> str:
    """The text that makes `shell` ask us."""
    return _SCRIPTS[shell]


def answer(environment: Mapping[str, str]) -> int:
    """Print the completions for the line in `environment`, one a line."""
    before, word = _line(environment)
    found = complete(before, word, environment)
    sys.stdout.write("".join(f"{item}\n" for item in found))
    return 0


def _line(environment: Mapping[str, str]) -> tuple[list[str], str]:
    """The words before the cursor (without `apexgpu`), and the one being typed."""
    if "COMP_WORDS" in environment:
        words = environment["COMP_WORDS"].split("\n" if "\n" in environment["COMP_WORDS"] else None)
        at = int(environment.get("COMP_CWORD", str(len(words) - 1)))
        return words[1:at], words[at] if at < len(words) else ""
    line = environment.get("_TYPER_COMPLETE_ARGS", "")
    words = line.split()
    if not line or line[-1].isspace():
        words.append("")
    return words[1:-1], words[-1]


def complete(before: list[str], word: str, environment: Mapping[str, str]) -> list[str]:
    """What may follow `before` and starts with `word`."""
    path = ""
    for item in before:
        longer = f"{path} {item}".strip()
        if longer in TABLE:
            path = longer
    if "--" in before:
        return []
    kind, names, options = TABLE[path]
    if word.startswith("-"):
        return [option for option in options if option.startswith(word)]
    if kind in {"host", "hosts"}:
        known = _hosts(environment)
        given = kind == "host" and not set(known).isdisjoint(
            before
        )  # and this is what comes after it
        names = AFTER_HOST.get(path, ()) if given else (*names, *known)
        return [name for name in names if name.startswith(word) and name not in before]
    return [name for name in names if name.startswith(word)]


def _hosts(environment: Mapping[str, str]) -> list[str]:
    directory = environment.get("APEXGPU_STATE_DIR") or _default_state()
    try:
        with open(os.path.join(directory, "hosts"), encoding="utf-8") as stream:  # noqa: PTH118, PTH123 - pathlib is slow
            return stream.read().split()
    except OSError:
        return []


def _default_state() -> str:
    """As platformdirs says, without its import on the systems where it is one line."""
    if sys.platform in {"win32", "darwin"}:
        import platformdirs

        return platformdirs.user_state_dir("apexgpu", appauthor=False)
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111
    return os.path.join(base, "apexgpu")  # noqa: PTH118
