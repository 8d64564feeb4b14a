"""How far a copy is, for whoever shows it."""

from dataclasses import dataclass


@dataclass(slots=True)
class CopyProgress:
    """Written by the copy, read by the progress bar. Numbers are bytes.

    `total` is None until it is known. `resumed` bytes of `done` were not sent now, because an
    earlier run had sent them. `partial` is where an unfinished copy is kept: (side, path).
    """

    name: str = ""
    total: int | None = None
    done: int = 0
    resumed: int = 0
    partial: tuple[str, str] | None = None

    def begin(self, name: str, total: int | None) -> None:
        """Start with the next source."""
        self.name = name
        self.total = total
        self.done = 0
        self.resumed = 0
