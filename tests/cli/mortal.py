"""Runs of the program that are killed at a chosen moment. A server of its own, for it forks.

`python -m tests.cli.mortal` reads a JSON line `{"words", "stdin", "last", "places", "error", "connects"}` from stdin, forks a
child that runs the command line and kills itself at its `last`-th write (0: never), and answers a JSON line
`{"killed", "code", "events", "err"}`. A fork of this one thread costs a hundredth of an interpreter's start.

A write is what changes a file below one of the `places`, just before it happens, or a connection to IAM:
each request has its own, so that before and after every POST there is a death too. With `connects`, every
connection counts.
In a `cp`, so is each packet that changes something in the container, the start of rsync, and each of its lines.

With an `error` (an errno) the child lives, and from that moment each of its writes to a file fails with it, as on
a disk that is full or read-only. Deleting still works.
"""

import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_CHANGES = frozenset(
    {
        "os.rename",
        "os.remove",
        "os.link",
        "os.symlink",
        "os.mkdir",
        "os.rmdir",
        "os.chmod",
        "os.truncate",
        "os.utime",
    }
)
_HARMLESS = frozenset({"socket.connect", "os.remove", "os.rmdir"})


class Piped(io.StringIO):
    """A stdin that is no terminal."""


class Fate:
    """Counts the writes, and kills this process at the chosen one."""

    def __init__(
        self, last: int, places: Sequence[str], error: int = 0, *, connects: bool = False
    ) -> None:
        self.events: list[str] = []
        self._last = last
        self._error = error
        self._places = tuple(places)
        self._connects = connects
        self._iam = urlsplit(os.environ["APEXGPU_IAM_URL"]).port

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        """The audit hook."""
        if not self._is_write(event, args):
            return
        self.count(f"{event} {args[1][:2] if event == 'socket.connect' else args[0]}")
        if self._error and 0 < self._last <= len(self.events) and event not in _HARMLESS:
            raise OSError(self._error, os.strerror(self._error), args[0])

    def count(self, event: str) -> None:
        """Something is about to be written."""
        self.events.append(event)
        if not self._error and len(self.events) == self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_write(self, event: str, args: tuple[Any, ...]) -> bool:
        if event == "socket.connect":
            return isinstance(args[1], tuple) and (self._connects or args[1][1] == self._iam)
        if event == "subprocess.Popen":
            return Path(os.fsdecode(args[0])).name == "rsync" and "--version" not in args[1]
        if event == "open":
            flags = args[2] if isinstance(args[2], int) else 0
            return self._ours(args[0]) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        return event in _CHANGES and self._ours(args[0])

    def _ours(self, path: object) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(
            self._places
        )


def _preload() -> None:
    """Import what a run imports, so that a child need not."""
    import filelock
    import httpx
    import keyring
    import platformdirs
    import sshconf
    from cryptography.hazmat.primitives.asymmetric import ed25519

    from apexgpu.commands import account, config, hosts
    from apexgpu.iam import client as iam
    from apexgpu.iam import hostlist
    from apexgpu.manageshell import manage
    from apexgpu.ssh import paramikoclient
    from apexgpu.ssh.identities import load_paramiko
    from apexgpu.sshfiles import configcheck, configfile, knownhosts

    load_paramiko()
    assert all(
        (
            filelock,
            httpx,
            keyring,
            platformdirs,
            sshconf,
            ed25519,
            configfile,
            iam,
            hostlist,
            knownhosts,
            manage,
            paramikoclient,
            configcheck,
            account,
            config,
            hosts,
        )
    )


def _count_transfers(fate: Fate) -> None:
    """Count what `cp` has others write: the server, by SFTP, and rsync."""
    from apexgpu.transfer import rsync
    from apexgpu.transfer.sftp import SftpClient
    from apexgpu.transfer.sftppackets import PacketType

    reading = {
        PacketType.CLOSE,
        PacketType.READ,
        PacketType.LSTAT,
        PacketType.FSTAT,
        PacketType.STAT,
        PacketType.OPENDIR,
        PacketType.READDIR,
        PacketType.REALPATH,
        PacketType.READLINK,
    }
    send = SftpClient._send
    parse_progress = rsync.parse_progress

    def counted_send(self: SftpClient, kind: PacketType, *args: Any, **options: Any) -> Any:
        if kind not in reading:
            fate.count(f"sftp {kind.name}")
        return send(self, kind, *args, **options)

    def counted_parse(piece: bytes) -> int | None:
        fate.count("rsync: a line")
        return parse_progress(piece)

    SftpClient._send = counted_send  # type: ignore[method-assign]
    rsync.parse_progress = counted_parse


def _live(request: dict[str, Any], report: Path) -> None:
    """The child: run the command line, and tell how it went."""
    from apexgpu import cli
    from apexgpu.render.screen import Screen
    from apexgpu.session import Session

    err = io.StringIO()
    screen = Screen(out=io.StringIO(), err=err, stdin=Piped(request["stdin"]))
    session = Session(pause=lambda _: None)
    fate = Fate(request["last"], request["places"], request["error"], connects=request["connects"])
    sys.addaudithook(fate.hear)
    if request["words"][0] == "cp":
        _count_transfers(fate)
    code = cli.main(request["words"], session, screen)
    report.write_text(json.dumps({"code": code, "events": fate.events, "err": err.getvalue()}))


def serve() -> None:
    """Answer requests until stdin ends."""
    _preload()
    report = Path(sys.argv[1])
    for line in sys.stdin:
        report.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            try:
                _live(json.loads(line), report)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        told = (
            json.loads(report.read_text())
            if report.exists()
            else {"code": None, "events": [], "err": ""}
        )
        sys.stdout.write(json.dumps({"killed": os.WIFSIGNALED(status), **told}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
