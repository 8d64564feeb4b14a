"""Where shells look for completion: a file of ours, and one line in the shell's own start file; and their removal."""

from collections.abc import Iterator
from pathlib import Path

from apexgpu.completion import SHELLS, script
from apexgpu.files import replace_atomically

_MARK = b"  # apexgpu"


def install(shell: str, config_dir: Path) -> tuple[Path, bool]:
    """Put the completion of `shell` in its place: our file, and whether a start file was changed."""
    file = _file(shell, config_dir)
    replace_atomically(file, script(shell).encode(), mode=0o644)
    start = _start(shell)
    return file, start is not None and _source(start, file)


def installed(config_dir: Path) -> list[Path]:
    """The files that `remove` would delete or change."""
    return [path for path, _ in _traces(config_dir)]


def remove(config_dir: Path) -> None:
    """Take our lines out of the start files, and our files away; a start file that holds nothing else goes too."""
    for path, left in list(_traces(config_dir)):
        if left:
            replace_atomically(path, left, mode=path.stat().st_mode & 0o777)
        else:
            path.unlink()


def _traces(config_dir: Path) -> Iterator[tuple[Path, bytes]]:
    """Each file with something of ours in it, and what is to be left of it."""
    for shell in SHELLS:
        file, start = _file(shell, config_dir), _start(shell)
        if file.exists():
            yield file, b""
        old = start.read_bytes() if start is not None and start.exists() else b""
        kept = b"".join(line for line in old.splitlines(keepends=True) if not _ours(line))
        if start is not None and kept != old:
            yield start, kept


def _ours(line: bytes) -> bool:
    return line.rstrip().endswith(_MARK) and line.startswith(b"[ -r ") and b"completion." in line


def _file(shell: str, config_dir: Path) -> Path:
    if shell == "fish":
        return Path.home() / ".config/fish/completions/apexgpu.fish"
    return config_dir / f"completion.{shell}"


def _start(shell: str) -> Path | None:
    """The start file that has to name our file: fish finds it, and PowerShell's user pastes the line."""
    name = {"bash": ".bashrc", "zsh": ".zshrc"}.get(shell)
    return Path.home() / name if name else None


def _source(start: Path, file: Path) -> bool:
    line = f'[ -r "{file}" ] && . "{file}"'.encode() + _MARK + b"\n"
    old = start.read_bytes() if start.exists() else b""
    if line in old:
        return False
    glue = b"" if not old or old.endswith(b"\n") else b"\n"
    mode = start.stat().st_mode & 0o777 if start.exists() else 0o644
    replace_atomically(start, old + glue + line, mode=mode)
    return True
