"""The output of a command of the lab's servers; the client may disconnect at any line."""

import asyncio
from abc import ABC, abstractmethod


class ClientGone(Exception):  # noqa: N818 - it ends a command as EPIPE ends a shell; it is no error of ours
    """Raised when the shell writes a line after the client disconnected, as SIGPIPE ends a real shell."""


class Console(ABC):
    """Where a command writes, and how it learns that the client disconnected or pressed Ctrl-C.

    On a terminal, both set `interrupted`: it kills the program that is running, and the shell
    continues with its next line. `pace` scales the waits (0: none).
    """

    def __init__(self, *, pace: float = 0, tty: bool = False, peer: str = "127.0.0.1") -> None:
        self.pace = pace
        self.tty = tty
        self.peer = peer
        self.gone = False
        self.interrupted = asyncio.Event()

    @abstractmethod
    def send(self, text: str, *, error: bool) -> None:
        """Deliver text to the client."""

    def out(self, text: str) -> None:
        """Write a line of the shell itself to stdout. Raises ClientGone if the client disconnected."""
        if self.gone:
            raise ClientGone
        self.send(text, error=False)

    def err(self, text: str) -> None:
        """Write what a program printed on stderr. It is the program that would die of SIGPIPE, not the shell."""
        if text and not self.gone:
            self.send(text, error=True)

    async def wait(self, seconds: float) -> None:
        """Wait as long as the real server takes (`seconds`), scaled by the pace of the lab."""
        await asyncio.sleep(seconds * self.pace)

    def disconnected(self) -> None:
        """Note that the client disconnected."""
        self.gone = True
        if self.tty:
            self.interrupted.set()
