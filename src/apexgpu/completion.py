"""Shell completion: the script for each shell, and the completions for a line.

The answers come from `completion_table`, which is generated from the command line itself, because
a Tab must be fast: no typer, no network, no keyring, no prompt. Host names come from a file that
login writes, names of snapshots, runs, tunnels and mounts from what the last commands left
(`completionnames`). Only directories in a container are asked for there, over a connection that is
open already, for at most 0.3 seconds (`remotecompletion`).

The scripts call apexgpu with the environment variable `_APEXGPU_COMPLETE=complete_SHELL`, and with
the line either as `COMP_WORDS` and `COMP_CWORD`, or up to the cursor as `_TYPER_COMPLETE_ARGS`.
"""

import os
import sys
from collections.abc import Mapping

from apexgpu import completion_table
from apexgpu.platforms.system import System, current

SHELLS = ("bash", "zsh", "fish", "powershell")

_BASH_BREAKS = (":", "=")
_BASH_SPECIAL = frozenset(" \t'\"\\$`&|;<>()*?[]{}!#~")

# The commands whose arguments are names that this laptop remembers: `completionnames.names`.
_NAMED = {
    "runs logs": "runs",
    "runs wait": "runs",
    "runs stop": "runs",
    "tunnels close": "tunnels",
    "unmount": "mounts",
    "snapshots verify": "snapshots",
    "snapshots remove": "snapshots",
    "lab fault": "faults",
}
# The commands that take a directory of the container after their host.
_WITH_DIRECTORY = frozenset({"tensorboard", "jupyter", "code"})

_SCRIPTS = {
    "bash": """\
_apexgpu_completion() {
    local IFS=$'\\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD \\
        _APEXGPU_COMPLETE=complete_bash apexgpu 2>/dev/null))
    case ${COMPREPLY[0]} in */ | *:) compopt -o nospace 2>/dev/null ;; esac
    if [ ${#COMPREPLY[@]} -eq 0 ]; then
        COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
    fi
}
complete -F _apexgpu_completion apexgpu
""",
    "zsh": """\
#compdef apexgpu
_apexgpu_completion() {
    local -a found begun
    found=("${(@f)$(_TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _APEXGPU_COMPLETE=complete_zsh apexgpu 2>/dev/null)}")
    begun=("${(@M)found:#*[/:]}")
    found=("${(@)found:#*[/:]}")
    if [ -z "${begun[1]}${found[1]}" ]; then _files; return; fi
    [ -z "${begun[1]}" ] || compadd -S '' -- "${begun[@]}"
    [ -z "${found[1]}" ] || compadd -- "${found[@]}"
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _apexgpu_completion apexgpu
""",
    "fish": """\
function __apexgpu_completion
    set --local line (commandline -cp)
    set --local found (env _APEXGPU_COMPLETE=complete_fish _TYPER_COMPLETE_ARGS="$line" apexgpu 2>/dev/null)
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
    completions = complete(before, word, environment)
    if environment.get("_APEXGPU_COMPLETE") == "complete_bash":
        completions = _for_bash(completions, word)
    for completion in completions:
        sys.stdout.write(f"{completion}\n")
    return 0


def _for_bash(completions: list[str], word: str) -> list[str]:
    """Completions as bash wants them: special characters escaped, and only what follows a colon or `=`.

    bash takes these two for the end of a word, and replaces only what follows (COMP_WORDBREAKS).
    """
    escaped = []
    for completion in completions:
        start = 0
        for separator in _BASH_BREAKS:
            start = max(start, word.rfind(separator) + 1)
        text = ""
        for letter in completion[start:]:
            text += f"\\{letter}" if letter in _BASH_SPECIAL else letter
        escaped.append(text)
    return escaped


def complete(before: list[str], word: str, environment: Mapping[str, str]) -> list[str]:
    """Return what can replace `word`, the word at the cursor, after the words `before`."""
    if "--" in before:
        return []  # a command for the container follows
    # Options first: they can be anywhere in the line.
    if word.startswith("--") and "=" in word:
        option, _, value = word.partition("=")
        return [f"{option}={name}" for name in _option_values(option, before, value, environment)]
    path = _command_path(before)
    if word.startswith("-"):
        _, _, options = completion_table.TABLE[path]
        return [option for option in options if option.startswith(word)]
    if before and before[-1] in completion_table.OPTION_VALUES:
        return _option_values(before[-1], before, word, environment)
    return _arguments(path, before, word, environment)


def _arguments(
    path: str, before: list[str], word: str, environment: Mapping[str, str]
) -> list[str]:
    """What an argument of the command `path` can be: a name, a path, or a host."""
    if path in _NAMED:
        from apexgpu import completionnames

        words = completionnames.names(_NAMED[path], state_directory(environment), before)
        return [name for name in words if name.startswith(word) and name not in before]
    if path == "cp":
        return _copy_sides(word, environment)
    hosts_before = set(_read_hosts(environment)).intersection(before)
    if path in _WITH_DIRECTORY and hosts_before:
        from apexgpu import remotecompletion

        return remotecompletion.paths(hosts_before.pop(), word, environment, only_directories=True)
    kind, names, _ = completion_table.TABLE[path]
    if kind not in {"host", "hosts"}:
        return [name for name in names if name.startswith(word)]
    hosts = _read_hosts(environment)
    candidates = (*names, *hosts)
    takes_one_host = kind == "host"
    if takes_one_host and not set(hosts).isdisjoint(before):
        candidates = completion_table.AFTER_HOST.get(path, ())
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
        words, index = _rejoined(words, index)
        current = ""
        if index < len(words):
            current = words[index]
        return words[1:index], current
    line = environment.get("_TYPER_COMPLETE_ARGS", "")
    words = _split(line)
    if not line or line[-1].isspace():
        words.append("")
    return words[1:-1], words[-1]


def _rejoined(words: list[str], index: int) -> tuple[list[str], int]:
    """The words without bash's breaks: `gpu7`, `:`, `runs` is one word, and so is `--from`, `=`, `x`.

    `index` is that of the word at the cursor.
    """
    joined: list[str] = []
    new_index = index
    for number, word in enumerate(words):
        previous = joined[-1] if joined else ""
        follows_break = previous.endswith(":") or (
            previous.startswith("--") and previous.endswith("=")
        )
        is_break = word == ":" or (word == "=" and previous.startswith("--"))
        if number > 1 and (is_break or follows_break):
            joined[-1] += word
        else:
            joined.append(word)
        if number == index:
            new_index = len(joined) - 1
    return joined, new_index


def _split(line: str) -> list[str]:
    """The words of a line of zsh or fish; a backslash keeps a blank in its word."""
    if "\\" not in line:
        return line.split()
    words = [""]
    escaped = False
    for letter in line:
        if escaped or not (letter == "\\" or letter.isspace()):
            words[-1] += letter
            escaped = False
        elif letter == "\\":
            escaped = True
        elif words[-1]:
            words.append("")
    return words if words[-1] else words[:-1]


def _option_values(
    option: str, before: list[str], value: str, environment: Mapping[str, str]
) -> list[str]:
    """What may follow an option."""
    values = list(completion_table.OPTION_VALUES.get(option, ()))
    if option == "--from":
        from apexgpu import completionnames

        values = completionnames.names("snapshots", state_directory(environment), before)
    return [name for name in values if name.startswith(value)]


def _copy_sides(word: str, environment: Mapping[str, str]) -> list[str]:
    """A path in a container, a host with a colon, or a file of this laptop."""
    host, colon, path = word.partition(":")
    if colon:
        from apexgpu import remotecompletion

        if host not in _read_hosts(environment):
            return []
        found = remotecompletion.paths(host, path, environment, only_directories=False)
        return [f"{host}:{name}" for name in found]
    sides = [f"{name}:" for name in _read_hosts(environment) if name.startswith(word)]
    return sides + _local_files(word) if sides else []


def _local_files(word: str) -> list[str]:
    directory, slash, start = word.rpartition("/")
    found = []
    try:
        for entry in os.scandir(directory + slash or "."):
            is_hidden = entry.name.startswith(".") and not start.startswith(".")
            if entry.name.startswith(start) and not is_hidden:
                ending = "/" if entry.is_dir() else ""
                found.append(f"{directory}{slash}{entry.name}{ending}")
    except OSError:
        return []
    return sorted(found)


def _command_path(words: list[str]) -> str:
    """The longest command in `words` that the table knows, or "" for apexgpu itself."""
    path = ""
    for word in words:
        longer = f"{path} {word}".strip()
        if longer in completion_table.TABLE:
            path = longer
    return path


def _read_hosts(environment: Mapping[str, str]) -> list[str]:
    directory = state_directory(environment)
    try:
        # Not pathlib: its import would take longer than everything else here.
        with open(os.path.join(directory, "hosts"), encoding="utf-8") as stream:  # noqa: PTH118, PTH123
            return stream.read().split()
    except OSError:
        return []


def state_directory(environment: Mapping[str, str]) -> str:
    """The directory with the files that the last commands left."""
    return environment.get("APEXGPU_STATE_DIR") or _default_state_directory()


def _default_state_directory() -> str:
    """The directory that platformdirs returns, without its import where that is simple."""
    if current() is not System.LINUX:
        import platformdirs

        return platformdirs.user_state_dir("apexgpu", appauthor=False)
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111
    return os.path.join(base, "apexgpu")  # noqa: PTH118
