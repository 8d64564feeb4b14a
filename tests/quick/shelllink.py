"""A transport whose container is a home directory of the test's: commands run in this machine's real shell."""

import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from apexgpu.errors import ConnectionLostError
from apexgpu.models import Reply, Target
from apexgpu.ssh.transport import Limits, OnLine

LIMIT = 60


@dataclass
class ShellLink:
    """`before` may raise in place of a command; `drop` says at which line of output the connection is lost, once."""

    home: Path
    before: Callable[[str], None] = lambda _: None
    drop: Callable[[str], bool] = lambda _: False
    interrupt: Callable[[str], bool] = lambda _: False
    commands: list[str] = field(default_factory=list)
    once: list[bool] = field(default_factory=list)
    limits: list[Limits | None] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    def run(
        self,
        target: Target,
        command: str,
        *,
        limits: Limits | None = None,
        on_line: OnLine | None = None,
        once: bool = False,
    ) -> Reply:
        """See transport.Transport."""
        assert target.role == "container"
        self.commands.append(command)
        self.once.append(once)
        self.limits.append(limits)
        self.before(command)
        environment = {
            "HOME": str(self.home),
            "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
            **self.variables,
        }
        # The directory of its own is what a login has; the session of its own is what a lost connection cannot end.
        child = subprocess.Popen(
            ["sh", "-c", command],
            env=environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        timer = threading.Timer(LIMIT, child.kill)
        timer.start()
        assert child.stdout is not None
        try:
            heard = []
            for line in child.stdout:
                heard.append(line)
                self.lines.append(line.rstrip("\n"))
                if self.drop(line):
                    self.drop = lambda _: False
                    message = "the connection to gpu7 was lost"
                    raise ConnectionLostError(message)
                if self.interrupt(line):
                    self.interrupt = lambda _: False
                    raise KeyboardInterrupt
                if on_line is not None:
                    on_line(line.rstrip("\n"))
            return Reply(child.wait(), "".join(heard))
        finally:
            timer.cancel()
            child.kill()
            child.stdout.close()
            child.wait()
