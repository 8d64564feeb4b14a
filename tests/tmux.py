"""A window of a real terminal emulator, tmux, with a shell in it."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import LIMIT, until


@dataclass
class Window:
    """A window of tmux with a shell, in which apexgpu is started."""

    server: list[str]

    def tmux(self, *words: str) -> str:
        """Run a command of tmux; its output."""
        done = subprocess.run(
            [*self.server, *words], check=True, capture_output=True, text=True, timeout=LIMIT
        )
        return done.stdout

    def lines(self) -> list[str]:
        """What the window shows."""
        return self.tmux("capture-pane", "-p", "-t", "t").splitlines()

    def text(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines())

    def expect(self, wanted: str) -> None:
        """Wait until the window shows `wanted`."""
        with contextlib.suppress(AssertionError):
            until(lambda: wanted in self.text(), LIMIT)
        assert wanted in self.text(), self.text()

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        self.tmux("send-keys", "-t", "t", *keys)

    def resize(self, width: int, height: int) -> None:
        """Give the window another size."""
        self.tmux("resize-window", "-t", "t", "-x", str(width), "-y", str(height))

    @property
    def is_alternate(self) -> bool:
        """Whether the alternate screen is shown."""
        return self.tmux("display", "-p", "-t", "t", "#{alternate_on}").strip() == "1"


@contextlib.contextmanager
def window(directory: Path, *shell: str, width: int = 100, height: int = 24) -> Iterator[Window]:
    """A window with a shell in it (sh by default), and the environment of this test."""
    server = ["tmux", "-f", "/dev/null", "-S", str(directory / "t")]
    environment = {**os.environ, "TERM": "xterm", "PS1": "$ "}
    size = ["-x", str(width), "-y", str(height)]
    subprocess.run(
        [*server, "new-session", "-d", "-s", "t", *size, *(shell or ("sh",))],
        env=environment,
        check=True,
        timeout=LIMIT,
    )
    try:
        yield Window(server)
    finally:
        subprocess.run([*server, "kill-server"], check=False, timeout=LIMIT)
