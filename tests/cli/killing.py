"""Asking `tests.cli.mortal` for runs of the program that are killed at a chosen write."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cli.newcomer import LIMIT, ROOT


@dataclass
class Mortals:
    """Runs of the program that die at a chosen write below one of `places`; each reads `stdin`."""

    server: "subprocess.Popen[str]"
    places: Sequence[str]
    stdin: str

    def run(
        self, *words: str, last: int = 0, error: int = 0, connects: bool = False
    ) -> tuple[bool, int | None, list[str], str]:
        """Run once: was it killed, its exit code, its writes, its stderr.

        With `error`, it is not killed: its writes fail with that errno from the `last` one on.
        With `connects`, each connection to a host counts as a write too.
        """
        request = {
            "words": words,
            "stdin": self.stdin,
            "last": last,
            "places": self.places,
            "error": error,
            "connects": connects,
        }
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        said = json.loads(self.server.stdout.readline())
        return said["killed"], said["code"], said["events"], said["err"]


@contextmanager
def mortal_runs(report: Path, places: Sequence[str], *, stdin: str = "") -> Iterator[Mortals]:
    """The server that forks them, while the block runs, in the environment of now."""
    argv = [sys.executable, "-m", "tests.cli.mortal", str(report)]
    with subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        yield Mortals(server, places, stdin)
        assert server.stdin is not None
        server.stdin.close()
        assert server.wait(LIMIT) == 0
