"""Runs rsync for a copy: which versions can be used, the command line, its output.

The argv and the parsers are pure.

Source: rsync(1) of 3.1 to 3.4. rsync fills a staging directory on either side, in which nothing has
its final name. No file name appears in a command line, because rsync's two shells and its wildcards
would each change it.
"""

import asyncio
import os
import re
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apexgpu import readers
from apexgpu.boundedoutput import BoundedOutput
from apexgpu.errors import ApexError, ConnectionLostError, MissingProgramError, RefusedError
from apexgpu.platforms.system import is_windows
from apexgpu.process import start_async, which
from apexgpu.transfer.copyconnection import CopyConnection, kill
from apexgpu.transfer.filesystem import FileSystem, NoSpaceError
from apexgpu.transfer.progress import CopyProgress

_OLDEST_USABLE = (3, 1)
# EXIT VALUES in rsync(1).
# 24: a file of the source disappeared meanwhile, as when a training run replaces its checkpoints.
_SUCCESS = {0, 24}
_CONNECTION_LOST = {10, 12, 20, 30, 35, 255}
_TRUSTED_MODES = "ug-s,o-w,a-t"  # fileinfo.TRUSTED_MODE in rsync's language
_VERSION_COMMAND = "rsync --version"
_PROGRESS = re.compile(rb"^\s{0,32}([0-9][0-9,.]{0,30})\s{1,32}([0-9]{1,3})%\s")
_BYTES_SENT = re.compile(r"^Literal data: ([0-9,.]{1,30})", re.MULTILINE)
_LONGEST_PIECE = 1 << 16  # bytes
_KEPT_OUTPUT = 65536  # bytes


@dataclass(frozen=True, slots=True)
class RsyncJob:
    """What one rsync has to do.

    One of the two directories is a staging directory, which is to be filled.

    `names` are the paths in the source that are to be sent: files, links, and directories without
    what is in them. With `compare`, the directory above the staging directory holds what the target
    has already: rsync sends the differences from that.
    """

    upload: bool
    local_directory: bytes
    remote_directory: bytes
    names: tuple[bytes, ...]
    compare: bool = False


def is_usable(version: str) -> bool:
    """Whether the output of `rsync --version` is that of 3.1 or newer.

    macOS has 2.6.9 and, since 15.4, openrsync (`openrsync: protocol version 29`). Neither has
    --info=progress2, and openrsync does not promise what a partial file contains.
    """
    match = re.match(r"rsync +version v?(\d+)\.(\d+)", version)
    if match is None:
        return False
    return (int(match[1]), int(match[2])) >= _OLDEST_USABLE


def argv(job: RsyncJob, *, ssh: Sequence[str], alias: str, names: Path) -> list[str]:
    """The command line, to be run in `job.local_directory`.

    `ssh` is ssh with its options; `names` is a file with the names of `job`, divided by NUL bytes.
    """
    remote_directory = shlex.quote(os.fsdecode(job.remote_directory))
    arguments = [
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
        "-e",
        " ".join(_quote_for_rsh(word) for word in ssh),
        f"--rsync-path=cd {remote_directory} && exec rsync",
        "--from0",
        f"--files-from={names}",
        # One that has disappeared since, as when a training run replaces its checkpoints.
        "--ignore-missing-args",
    ]
    if not job.upload:
        arguments.append(f"--chmod={_TRUSTED_MODES}")
    if job.compare:
        arguments.append("--compare-dest=..")
    local, remote = "./", f"{alias}:./"
    arguments += [local, remote] if job.upload else [remote, local]
    return arguments


def _quote_for_rsh(word: str) -> str:
    """Quote a word of `-e`.

    rsync splits at spaces, expects quotes to be doubled inside quotes, and reads a backslash as a
    letter.
    """
    if re.fullmatch(r"[^\s'\"]+", word):
        return word
    return "'" + word.replace("'", "''") + "'"


def parse_progress(piece: bytes) -> int | None:
    """The bytes done so far, from a piece of the output of `--info=progress2`.

    None for other output.
    """
    match = _PROGRESS.match(piece)
    return _parse_number(match[1].decode()) if match else None


def parse_bytes_sent(text: str) -> int:
    """The bytes that had to be sent, from the statistics; 0 if they are not there."""
    match = _BYTES_SENT.search(text)
    return _parse_number(match[1]) if match else 0


def _parse_number(text: str) -> int:
    """A number with or without commas: that depends on rsync's version."""
    return readers.number(re.sub("[,.]", "", text)) or 0


def failure(
    code: int, stderr: str, *, host: str, target: FileSystem, directory: bytes
) -> ApexError:
    """The error for an exit status of rsync and what it printed.

    `directory` of `target` was being filled.
    """
    reason = _reason(code, stderr)
    if "No space left on device" in stderr or "Disk quota exceeded" in stderr:
        what = "the disk" if "No space left on device" in stderr else "your quota"
        message = f"{what} is full on {target.where}: the copy could not be written"
        return NoSpaceError(message, hint=target.no_space_hint(directory))
    if code in _CONNECTION_LOST:
        return ConnectionLostError(f"the connection to {host} was lost ({reason})")
    if "Permission denied" in stderr:
        return RefusedError(
            f"permission denied: {reason}", hint="apexgpu explain permission", code="permission"
        )
    return ApexError(f"rsync: {reason}")


def _reason(code: int, stderr: str) -> str:
    """The first line that explains the failure.

    The last ones only say where in rsync it happened.
    """
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for line in lines:
        if not line.startswith("rsync error"):
            return line
    return lines[-1] if lines else f"exit {code}"


def not_installed(platform: str) -> MissingProgramError:
    """The error for a laptop without a usable rsync (`platform` is a `System`)."""
    if platform == "win32":
        message = "rsync is not used on Windows: leave out --method, and SFTP does the same"
        return MissingProgramError(message, hint="apexgpu cp --help")
    hint = "brew install rsync" if platform == "darwin" else "sudo apt install rsync"
    return MissingProgramError("there is no rsync 3.1 or newer on this laptop", hint=hint)


async def is_installed_locally() -> bool:
    """Whether this laptop has a usable rsync."""
    # The ports to Windows read C:\ as a host and need an ssh of their own.
    if is_windows() or which("rsync") is None:
        return False
    process = await start_async(_VERSION_COMMAND.split())
    try:
        out, _ = await asyncio.wait_for(process.communicate(), 10)
    except TimeoutError:
        return False
    finally:
        await kill(process)
    return is_usable(out.decode("utf-8", "replace"))


async def is_installed_remotely(connection: CopyConnection) -> bool:
    """Whether the container has a usable rsync."""
    completed = await connection.run(_VERSION_COMMAND, limit=30)
    return is_usable(completed.text)


async def run(
    job: RsyncJob, connection: CopyConnection, target: FileSystem, progress: CopyProgress
) -> int:
    """Fill the staging directory of `job`, which is on `target`; the bytes that had to be sent.

    `progress.done` also counts what did not have to be sent.
    """
    with tempfile.TemporaryDirectory(prefix="apexgpu-") as directory:
        names = Path(directory) / "names"
        names.write_bytes(b"".join(b"./" + name + b"\0" for name in job.names))
        process = await start_async(
            argv(job, ssh=connection.ssh_argv(), alias=connection.alias, names=names),
            own_group=not connection.ask,
            cwd=job.local_directory,
            env={"LC_ALL": "C"},  # failure() reads English
        )
        try:
            out, err = await asyncio.gather(
                _read_output(process.stdout, progress), _read_output(process.stderr, None)
            )
            code = await process.wait()
        finally:
            await kill(process)
    if code not in _SUCCESS:
        stage = job.remote_directory if job.upload else job.local_directory
        raise failure(code, err, host=connection.host, target=target, directory=stage)
    return parse_bytes_sent(out)


async def _read_output(stream: asyncio.StreamReader | None, progress: CopyProgress | None) -> str:
    """The end of a stream as text; the progress lines of stdout go to `progress` instead."""
    assert stream is not None  # noqa: S101 - start_async() made it a pipe
    kept = BoundedOutput(_KEPT_OUTPUT)
    incomplete = b""
    while data := await stream.read(65536):
        # rsync ends a progress line with a carriage return, all others with a newline.
        *pieces, incomplete = re.split(rb"[\r\n]", incomplete + data)
        if len(incomplete) > _LONGEST_PIECE:
            pieces.append(incomplete)
            incomplete = b""
        for piece in pieces:
            done = parse_progress(piece) if progress else None
            if progress is not None and done is not None:
                progress.done = done
            elif piece:
                kept.add_out(piece + b"\n")
    kept.add_out(incomplete)
    return kept.out_text
