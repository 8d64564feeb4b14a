"""The output of a program, kept up to a limit, and its lines as they arrive. Pure.

A program that never stops printing must not fill the memory of this machine.
"""

from collections.abc import Callable

LONGEST_LINE = 1 << 20
"""Bytes. A longer line is passed on in pieces of this length."""


class BoundedOutput:
    """Stdout and stderr of a program: at most `limit` bytes of each, None for no limit.

    Of a longer stream, the beginning and the end are kept, with a line between them that says how much was left out;
    `is_full` tells that to callers that stop reading then.
    """

    def __init__(self, limit: int | None) -> None:
        self._out = _Stream(limit)
        self._err = _Stream(limit)

    @property
    def is_full(self) -> bool:
        """Whether one of the streams is longer than the limit."""
        return self._out.left_out > 0 or self._err.left_out > 0

    @property
    def out(self) -> bytes:
        """Stdout."""
        return self._out.content()

    @property
    def err(self) -> bytes:
        """Stderr."""
        return self._err.content()

    @property
    def out_text(self) -> str:
        """Stdout as text; bytes that are not UTF-8 become replacement characters."""
        return self.out.decode("utf-8", "replace")

    @property
    def err_text(self) -> str:
        """Stderr as text."""
        return self.err.decode("utf-8", "replace")

    def add_out(self, data: bytes) -> None:
        """Add what has arrived on stdout."""
        self._out.add(data)

    def add_err(self, data: bytes) -> None:
        """Add what has arrived on stderr."""
        self._err.add(data)


class _Stream:
    """One stream: its first and its last bytes."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._first = bytearray()
        self._last = bytearray()
        self._length = 0

    @property
    def left_out(self) -> int:
        """How many bytes are not kept."""
        if self._limit is None:
            return 0
        return max(0, self._length - self._limit)

    def add(self, data: bytes) -> None:
        self._length += len(data)
        if self._limit is None:
            self._first += data
            return
        half = self._limit // 2
        room = half - len(self._first)
        if room > 0:
            self._first += data[:room]
            data = data[room:]
        self._last += data
        # Cut at twice the size that is kept, so that each byte is moved once on average.
        kept = self._limit - half
        if len(self._last) > 2 * kept:
            del self._last[:-kept]

    def content(self) -> bytes:
        if self._limit is None or not self.left_out:
            return bytes(self._first + self._last)
        kept = self._limit - self._limit // 2
        mark = f"\n[{self.left_out} bytes are left out]\n".encode()
        return bytes(self._first + mark + self._last[-kept:])


class OutputTaker:
    """Takes what a command prints, as bytes, while it runs. Silent: the base of the others.

    A method that raises ends the command's connection; the caller sees the exception.
    """

    def starting(self) -> None:
        """The command is about to be sent. Raise to prevent that."""

    def take_out(self, data: bytes) -> None:
        """Take what has arrived on stdout."""

    def take_err(self, data: bytes) -> None:
        """Take what has arrived on stderr."""

    def end(self) -> None:
        """Both streams have ended."""


OnLine = Callable[[str], None]
"""Receives each line of a command's stdout as it arrives."""

OnOutput = OnLine | OutputTaker
"""Receives a command's output as it arrives: the lines of stdout as text, or both streams as bytes."""


def taker_of(on_output: OnOutput | None) -> OutputTaker:
    """The taker that passes output on to `on_output`."""
    if on_output is None:
        return OutputTaker()
    if isinstance(on_output, OutputTaker):
        return on_output
    return _LineTaker(on_output)


class _LineTaker(OutputTaker):
    """Passes on the lines of stdout."""

    def __init__(self, on_line: OnLine) -> None:
        self._lines = LineSplitter(on_line)

    def take_out(self, data: bytes) -> None:
        self._lines.feed(data)

    def end(self) -> None:
        self._lines.end()


class LineSplitter:
    """Takes bytes as they arrive, and calls `on_line` with each whole line as text."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self._on_line = on_line
        self._rest = bytearray()

    def feed(self, data: bytes) -> None:
        """Take more bytes."""
        if self._on_line is None:
            return
        *endings, rest = data.split(b"\n")
        for ending in endings:
            self._rest += ending
            self._pass_on()
        self._rest += rest
        while len(self._rest) > LONGEST_LINE:
            self._on_line(self._rest[:LONGEST_LINE].decode("utf-8", "replace"))
            del self._rest[:LONGEST_LINE]

    def end(self) -> None:
        """Pass on a last line without a newline."""
        if self._rest:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._on_line is not None:
            self._on_line(self._rest.decode("utf-8", "replace"))
        self._rest.clear()
