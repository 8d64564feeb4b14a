"""Programs that run beside each other, each within its limit: for what may hang where no signal reaches it."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from apexgpu.process import Completed, missing


@dataclass(frozen=True, slots=True)
class Job:
    """A program to run beside others: `limit` is in seconds, `env` is added to ours."""

    argv: tuple[str, ...]
    limit: float
    stdin: bytes = b""
    env: Mapping[str, str] | None = None


def together(jobs: Sequence[Job]) -> list[Completed]:
    """Run programs at once, each for its limit at most; one that is late is killed, its children too.

    For what may hang where no signal reaches it (a dead file system): nobody waits for the end of what was killed.
    Output goes to files, so a child that goes on in the background holds nothing up, and each has a session of its
    own, so that a Ctrl-C is ours alone.
    """
    started: list[_Running] = []
    with contextlib.ExitStack() as stack:
        try:
            started.extend(_Running(job, stack) for job in jobs)
            return [one.end() for one in started]
        except BaseException:
            for one in started:
                one.kill()
            raise


class _Running:
    """A job under way."""

    def __init__(self, job: Job, files: contextlib.ExitStack) -> None:
        import subprocess
        import tempfile

        self._job = job
        into = tempfile.TemporaryFile
        self._files: list[IO[bytes]] = [
            files.enter_context(into()) for _ in range(3)
        ]  # stdin, stdout, stderr
        self._files[0].write(job.stdin)
        self._files[0].seek(0)
        self._deadline = time.monotonic() + job.limit
        try:
            self._child = subprocess.Popen(
                job.argv,
                stdin=self._files[0],
                stdout=self._files[1],
                stderr=self._files[2],
                env={**os.environ, **(job.env or {})},
                start_new_session=sys.platform != "win32",
            )
        except FileNotFoundError:
            raise missing(job.argv[0]) from None

    def end(self) -> Completed:
        import subprocess

        late = False
        try:
            self._child.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            late = True
            self.kill()
        for stream in self._files:
            stream.seek(0)
        out, err = (stream.read() for stream in self._files[1:])
        return Completed(self._job.argv, self._child.returncode, out, err, late)

    def kill(self) -> None:
        import subprocess

        if self._child.poll() is not None:
            return
        if sys.platform == "win32":
            self._child.kill()
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)
        try:
            self._child.wait(0.3)
        except subprocess.TimeoutExpired:
            self._child.returncode = -signal.SIGTERM  # it hangs in the kernel: left behind
