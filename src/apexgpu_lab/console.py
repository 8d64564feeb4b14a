"""What a command of the lab's servers writes to: a client that may vanish at any line."""

import asyncio
from abc import ABC, abstractmethod


class ClientGone(Exception):  # noqa: N818 - it ends a command as EPIPE ends a shell; it is no error of ours
    """Raised at the first line written after the client went, as a shell dies of a broken pipe."""


class Console(ABC):
    """The client's end: lines out, and the news that it is gone or wants to interrupt.

    With a terminal, a vanished client or Ctrl-C sets `interrupted`, which kills the program that is running,
    while the shell goes on to its next line.
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
        """Write a line of the shell's own; ClientGone when there is nobody to read it."""
        if self.gone:
            raise ClientGone
        self.send(text, error=False)

    def err(self, text: str) -> None:
        """Write what a program said on stderr: not the shell's own words, so losing them does not end it."""
        if text and not self.gone:
            self.send(text, error=True)

    async def wait(self, seconds: float) -> None:
        """Let `seconds` of the real server's time pass, at the lab's pace."""
        await asyncio.sleep(seconds * self.pace)

    def disconnected(self) -> None:
        """The client has gone."""
        self.gone = True
        if self.tty:
            self.interrupted.set()
