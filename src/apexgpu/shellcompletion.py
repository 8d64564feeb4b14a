"""Completion in the user's shell: show the script, install it, remove it.

An installation is a file of ours, and for bash and zsh one line in the shell's own start-up file
that reads it. What the scripts ask for on a Tab is answered by `completion`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apexgpu.completion import SHELLS, script
from apexgpu.errors import ApexError, UsageError
from apexgpu.files import replace_atomically
from apexgpu.platforms.system import is_macos
from apexgpu.results import JsonObject, Result
from apexgpu.session import Session

_MARK = b"  # apexgpu"
_READ_BY = "# read by "


@dataclass(frozen=True)
class CompletionScript(Result):
    """The completion script of `shell`."""

    shell: str
    script: str

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "shell": self.shell, "script": self.script}


@dataclass(frozen=True)
class CompletionInstallation(Result):
    """The script of `shell`, installed at `path`; `changed` if a start-up file was changed."""

    shell: str
    path: Path
    changed: bool

    def to_json(self) -> JsonObject:
        """See Result."""
        return {
            "ok": True,
            "shell": self.shell,
            "path": str(self.path),
            "changed": self.changed,
        }


def show(shell: str) -> CompletionScript:
    """Return the completion script of `shell`: bash, zsh, fish or powershell.

    Raises:
        UsageError: there is none for this shell.
    """
    shell = _check_shell(shell)
    return CompletionScript(shell, script(shell))


def install(session: Session, shell: str | None = None) -> CompletionInstallation:
    """Install completion for `shell`; without a name, for the shell that runs this program.

    Raises:
        UsageError: there is no completion for this shell, or the shell cannot be found out.
    """
    if shell is None:
        shell = _detect_shell()
    shell = _check_shell(shell)
    file = _script_file(shell, session.settings.config_dir)
    replace_atomically(file, script(shell).encode(), mode=0o644)
    startup = _startup_file(shell)
    zsh_directory = _zsh_directory(session) if shell == "zsh" else ""
    if zsh_directory:
        startup = Path(zsh_directory) / ".zshrc"
        # For the removal: the program that removes it may not know ZDOTDIR.
        text = script(shell) + f"{_READ_BY}{startup}\n"
        replace_atomically(file, text.encode("utf-8", "surrogateescape"), mode=0o644)
    changed = startup is not None and _add_line(startup, file)
    return CompletionInstallation(shell, file, changed)


def installed_files(config_dir: Path) -> list[Path]:
    """Return the files that `remove` would delete or change."""
    return [path for path, _rest in _installed(config_dir)]


def remove(config_dir: Path) -> None:
    """Remove our files, and our lines from start-up files; one without other lines is deleted."""
    for path, without_ours in list(_installed(config_dir)):
        if without_ours:
            mode = path.stat().st_mode & 0o777
            replace_atomically(path, without_ours, mode=mode)
        else:
            path.unlink()


def _check_shell(shell: str) -> str:
    if shell == "pwsh":
        shell = "powershell"
    if shell in {"cmd", "cmd.exe"}:
        raise UsageError(
            "cmd.exe has no completion of this kind; PowerShell has",
            hint="apexgpu --install-completion powershell",
        )
    if shell not in SHELLS:
        raise UsageError(
            f"there is no completion for {shell}, only for {', '.join(SHELLS)}",
            hint="apexgpu completion show bash",
        )
    return shell


def _detect_shell() -> str:
    import shellingham

    try:
        name, _path = shellingham.detect_shell()
    except shellingham.ShellDetectionFailure:
        raise UsageError(
            "cannot find out which shell this is", hint="apexgpu --install-completion bash"
        ) from None
    return str(name)


def _installed(config_dir: Path) -> Iterator[tuple[Path, bytes]]:
    """Each file that contains something of ours, with the bytes that are not ours."""
    for shell in SHELLS:
        file = _script_file(shell, config_dir)
        if file.exists():
            yield file, b""
        older = config_dir / f"completion.{shell}"
        if shell == "powershell" and older.exists():
            yield older, b""
        startup_files = {_startup_file(shell), _named_startup_file(file)}
        for startup in startup_files:
            if startup is None or not startup.exists():
                continue
            old = startup.read_bytes()
            lines = old.splitlines(keepends=True)
            without_ours = b"".join(line for line in lines if not _is_our_line(line))
            if without_ours != old:
                yield startup, without_ours


def _named_startup_file(file: Path) -> Path | None:
    """The start-up file that reads our script, where the script names it."""
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    _, mark, name = text.rstrip("\n").rpartition(_READ_BY)
    return Path(name) if mark else None


def _is_our_line(line: bytes) -> bool:
    return line.rstrip().endswith(_MARK) and line.startswith(b"[ -r ") and b"completion." in line


def _script_file(shell: str, config_dir: Path) -> Path:
    if shell == "fish":
        # fish reads this directory by itself.
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        return Path(base) / "fish/completions/apexgpu.fish"
    if shell == "powershell":
        return config_dir / "completion.ps1"  # PowerShell opens any other name with another program
    return config_dir / f"completion.{shell}"


def _startup_file(shell: str) -> Path | None:
    """The start-up file that has to read our script. For PowerShell, the user pastes a line."""
    if shell == "bash":
        return _bash_startup_file()
    if shell == "zsh":
        return Path(os.environ.get("ZDOTDIR") or Path.home()) / ".zshrc"
    return None


def _zsh_directory(session: Session) -> str:
    """ZDOTDIR, where zsh has its start-up files. ~/.zshenv may set it for zsh alone; "" if nothing does."""
    if os.environ.get("ZDOTDIR"):
        return os.environ["ZDOTDIR"]
    command = ["zsh", "-c", "print -rn -- $ZDOTDIR"]
    try:
        return session.runner.run(command, timeout=5).text
    except ApexError:
        return ""


def _bash_startup_file() -> Path:
    """The file that bash reads in a new terminal. On macOS that is a login shell, which does not read ~/.bashrc."""
    if not is_macos():
        return Path.home() / ".bashrc"
    for name in (".bash_profile", ".bash_login", ".profile"):
        path = Path.home() / name
        if path.exists():
            return path
    return Path.home() / ".bash_profile"


def _add_line(startup: Path, file: Path) -> bool:
    """Add the line that reads `file`, unless it is there. Return whether it was added."""
    line = f'[ -r "{file}" ] && . "{file}"'.encode() + _MARK + b"\n"
    old = b""
    mode = 0o644
    if startup.exists():
        old = startup.read_bytes()
        mode = startup.stat().st_mode & 0o777
    if line in old:
        return False
    if old and not old.endswith(b"\n"):
        old += b"\n"
    replace_atomically(startup, old + line, mode=mode)
    return True
