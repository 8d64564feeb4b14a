"""Shell completion: the script for each shell, and the completions for a line.

The answers come from `completion_table`, which is generated from the command line itself, because
a Tab must be fast: no typer, no network, no keyring, no prompt. Host names come from a file that
login writes.

The scripts call apexgpu with the environment variable `_APEXGPU_COMPLETE=complete_SHELL`, and with
the line either as `COMP_WORDS` and `COMP_CWORD`, or up to the cursor as `_TYPER_COMPLETE_ARGS`.
"""

import os
import sys
from collections.abc import Mapping

from apexgpu.completion_table import AFTER_HOST, TABLE
from apexgpu.platforms.system import System, current

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
    """Return the completion script of `shell`, one of SHELLS."""
    return _SCRIPTS[shell]


def answer(environment: Mapping[str, str]) -> int:
    """Print the completions for the line in `environment`, one a line; return the exit code."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        # Git Bash on Windows would take the \r of a line end for a part of the word.
        reconfigure(newline="\n")
    before, word = _parse_line(environment)
    for completion in complete(before, word, environment):
        sys.stdout.write(f"{completion}\n")
    return 0


def complete(before: list[str], word: str, environment: Mapping[str, str]) -> list[str]:
    """Return what can replace `word`, the word at the cursor, after the words `before`."""
    if "--" in before:
        return []  # a command for the container follows
    path = _command_path(before)
    kind, names, options = TABLE[path]
    if word.startswith("-"):
        return [option for option in options if option.startswith(word)]
    if kind not in {"host", "hosts"}:
        return [name for name in names if name.startswith(word)]
    hosts = _read_hosts(environment)
    candidates = (*names, *hosts)
    takes_one_host = kind == "host"
    if takes_one_host and not set(hosts).isdisjoint(before):
        candidates = AFTER_HOST.get(path, ())
    return [name for name in candidates if name.startswith(word) and name not in before]


def _parse_line(environment: Mapping[str, str]) -> tuple[list[str], str]:
    """The words before the cursor (without `apexgpu`), and the word at the cursor."""
    if "COMP_WORDS" in environment:
        line = environment["COMP_WORDS"]
        # Our script for bash joins the words with newlines, so that a word may contain blanks.
        separator = "\n" if "\n" in line else None
        words = line.split(separator)
        index = len(words) - 1
        if "COMP_CWORD" in environment:
            index = int(environment["COMP_CWORD"])
        current = ""
        if index < len(words):
            current = words[index]
        return words[1:index], current
    line = environment.get("_TYPER_COMPLETE_ARGS", "")
    words = line.split()
    if not line or line[-1].isspace():
        words.append("")
    return words[1:-1], words[-1]


def _command_path(words: list[str]) -> str:
    """The longest command in `words` that the table knows, or "" for apexgpu itself."""
    path = ""
    for word in words:
        longer = f"{path} {word}".strip()
        if longer in TABLE:
            path = longer
    return path


def _read_hosts(environment: Mapping[str, str]) -> list[str]:
    directory = environment.get("APEXGPU_STATE_DIR") or _default_state_directory()
    try:
        # Not pathlib: its import would take longer than everything else here.
        with open(os.path.join(directory, "hosts"), encoding="utf-8") as stream:  # noqa: PTH118, PTH123
            return stream.read().split()
    except OSError:
        return []


def _default_state_directory() -> str:
    """The directory that platformdirs returns, without its import where that is simple."""
    if current() is not System.LINUX:
        import platformdirs

        return platformdirs.user_state_dir("apexgpu", appauthor=False)
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111
    return os.path.join(base, "apexgpu")  # noqa: PTH118
