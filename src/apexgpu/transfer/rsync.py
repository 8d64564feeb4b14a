"""rsync as the carrier of a copy: what it must be, its command line, what it says. The argv and parsers are pure.

Sources: rsync(1) of 3.1 to 3.4. It fills a directory in which nothing has its final name, on either side; names stand
in no command line, for rsync's two shells and its globs would each read them their own way.
"""

import asyncio
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apexgpu.errors import (
    ApexError,
    ConnectionLostError,
    MissingProgramError,
    RefusedError,
)
from apexgpu.process import child, which
from apexgpu.transfer.fileinfo import STAGE_PREFIX, STAGE_SUFFIX
from apexgpu.transfer.sftpcopy import Watch
from apexgpu.transfer.sides import NO_SPACE
from apexgpu.transfer.sshpipe import Connection, end

_LEAST = (3, 1)
_VANISHED = (
    24  # a file of the source went away meanwhile: a training run turns its checkpoints over
)
_PROGRESS = re.compile(rb"^\s*(\d[\d,.]*)\s+(\d+)%\s")
_SENT = re.compile(r"^Literal data: ([\d,.]+)", re.MULTILINE)
VERSION = "rsync --version"


@dataclass(frozen=True, slots=True)
class Errand:
    """What one rsync has to do: `here` and `there` are directories, the one that is to be filled a stage.

    `name` is the one file of the source to take, None for all of it. With `compare`, the directory above the stage
    holds what is there already: rsync leaves out what is the same, and builds on what is not. What an earlier run left
    in the stage and the source has no more is deleted there.
    """

    upload: bool
    here: bytes
    there: bytes
    name: bytes | None = None
    compare: bool = False


def usable(version: str) -> bool:
    """Whether the first line of `rsync --version` is that of one we can use.

    macOS has 2.6.9, then openrsync (since 15.4), which says `openrsync: protocol version 29`: no --info=progress2, and
    no promise of what a partial file is.
    """
    found = re.match(r"rsync +version v?(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= _LEAST


def argv(errand: Errand, *, shell: Sequence[str], alias: str, names: Path | None) -> list[str]:
    """The command line, to be run in `errand.here`. `shell` is ssh and its options; `names` a NUL-divided list."""
    stage = os.fsdecode(STAGE_PREFIX + b"*" + STAGE_SUFFIX)
    words = [
        "rsync",
        "--links",
        "--perms",
        "--times",
        "--inplace",
        "--no-inc-recursive",
        "--stats",
        "--no-human-readable",
        "--info=progress2",
        "--no-motd",
        f"--exclude={stage}",
        "-e",
        " ".join(map(_quoted, shell)),
        f"--rsync-path=cd {shlex.quote(os.fsdecode(errand.there))} && exec rsync",
    ]
    words += (
        ["--from0", f"--files-from={names}"] if names is not None else ["--recursive", "--delete"]
    )
    words += ["--compare-dest=.."] if errand.compare else []
    ends = ["./", f"{alias}:./"]
    return [*words, *(ends if errand.upload else reversed(ends))]


def _quoted(word: str) -> str:
    """A word of `-e`: split at spaces, quotes are doubled inside quotes, a backslash is a letter (rsync(1), --rsh)."""
    return word if re.fullmatch(r"[^\s'\"]+", word) else "'" + word.replace("'", "''") + "'"


def progress(piece: bytes) -> int | None:
    """Bytes of what had to be looked at so far, in a piece of `--info=progress2`; None where it is something else."""
    found = _PROGRESS.match(piece)
    return _number(found[1].decode()) if found else None


def sent(text: str) -> int:
    """The bytes that had to travel, in the statistics. Numbers have commas or not: that depends on the version."""
    found = _SENT.search(text)
    return _number(found[1]) if found else 0


def _number(text: str) -> int:
    return int(re.sub(r"\D", "", text) or 0)


def failed(code: int, err: str, *, host: str, writer: str) -> ApexError:
    """Our error for an exit status of rsync's (EXIT VALUES in rsync(1)) and what it printed; `writer` receives."""
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    meant = next(
        (line for line in lines if not line.startswith("rsync error")),
        lines[-1] if lines else f"exit {code}",
    )
    for words, what in (
        ("No space left on device", "the disk"),
        ("Disk quota exceeded", "your quota"),
    ):
        if words in err:
            hint = "make room there, then run the same line again"
            return ApexError(
                f"{what} is full on {writer}: the copy could not be written",
                hint=hint,
                code=NO_SPACE,
            )
    if code in {10, 12, 20, 30, 35, 255}:
        return ConnectionLostError(
            f"the connection to {host} was lost ({meant})", hint="run the same line again"
        )
    if "Permission denied" in err:
        return RefusedError(f"permission denied: {meant}", code="permission")
    return ApexError(f"rsync: {meant}")


def absent(platform: str) -> MissingProgramError:
    """The error for a laptop without one that can be used, with the way to get it (a `sys.platform` value)."""
    if platform == "win32":
        return MissingProgramError(
            "rsync is not used on Windows", hint="leave --method out: SFTP does all of it"
        )
    hint = "brew install rsync" if platform == "darwin" else "sudo apt install rsync"
    return MissingProgramError("there is no rsync 3.1 or newer on this laptop", hint=hint)


async def is_here() -> bool:
    """Whether this laptop has one that can be used."""
    # Those for Windows read C:\ as a host, and want an ssh of their own.
    if sys.platform == "win32" or which("rsync") is None:
        return False
    running = await child(VERSION.split())
    try:
        out, _ = await asyncio.wait_for(running.communicate(), 10)
    except TimeoutError:
        return False
    finally:
        await end(running)
    return usable(out.decode("utf-8", "replace"))


async def is_there(connection: Connection) -> bool:
    """Whether the container has one that can be used."""
    return usable((await connection.command(VERSION, limit=30)).text)


async def run(errand: Errand, connection: Connection, watch: Watch) -> int:
    """Fill the stage; the bytes that had to travel. `watch` is told those done so far, the others included."""
    with tempfile.TemporaryDirectory(prefix="apexgpu-") as directory:
        names = None
        if errand.name is not None:
            names = Path(directory) / "names"
            names.write_bytes(b"./" + errand.name + b"\0")
        words = argv(errand, shell=connection.words(), alias=connection.alias, names=names)
        running = await child(
            words, own_group=not connection.ask, cwd=errand.here, env={"LC_ALL": "C"}
        )
        try:
            out, err = await asyncio.gather(
                _read(running.stdout, watch), _read(running.stderr, None)
            )
            code = await running.wait()
        finally:
            await end(running)
    if code not in {0, _VANISHED}:
        writer = connection.host if errand.upload else "this laptop"
        raise failed(code, err, host=connection.host, writer=writer)
    return sent(out)


async def _read(stream: asyncio.StreamReader | None, watch: Watch | None) -> str:
    """All that comes, its end kept; of stdout, the numbers on the way."""
    assert stream is not None  # noqa: S101 - child() made it a pipe
    kept, rest = "", b""
    while data := await stream.read(65536):
        *pieces, rest = re.split(rb"[\r\n]", rest + data)
        for piece in pieces:
            seen = progress(piece) if watch else None
            if seen is not None and watch:
                watch.done = seen
            elif piece:
                kept = (kept + piece.decode("utf-8", "replace") + "\n")[-65536:]
    return kept + rest.decode("utf-8", "replace")
