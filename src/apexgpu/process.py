"""Local programs: the one owner of subprocess. Argument lists only, a time limit always, a value back."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from apexgpu.errors import ApexError, MissingProgramError, UnreachableError


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended: its arguments, exit status, and output as bytes."""

    argv: tuple[str, ...]
    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """Stdout as text; bytes that are not UTF-8 are kept as replacement characters."""
        return self.out.decode("utf-8", "replace")

    @property
    def last_error_line(self) -> str:
        """The last line of stderr that says something."""
        lines = [line for line in self.err.decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"exit status {self.code}"


class Runner(Protocol):
    """What can run local programs; tests put a strict fake here."""

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 30,
            env: Mapping[str, str] | None = None) -> Completed:
        """Run to the end and return what it said."""
        ...

    def attach(self, argv: Sequence[str]) -> int:
        """Hand the terminal over until the program ends; its exit status."""
        ...

    def spawn(self, argv: Sequence[str]) -> None:
        """Start a program that outlives us, without our terminal, and do not wait for it."""
        ...


class LocalRunner:
    """The real one."""

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 30,
            env: Mapping[str, str] | None = None) -> Completed:
        """Run to the end; MissingProgramError when it is not installed, UnreachableError when too slow."""
        try:
            done = subprocess.run(list(argv), input=stdin, capture_output=True, timeout=timeout, check=False,
                                  env={**os.environ, **env} if env else None)
        except FileNotFoundError:
            raise missing(argv[0]) from None
        except subprocess.TimeoutExpired:
            message = f"{argv[0]} did not end within {timeout:g} s"
            raise UnreachableError(message, code="timeout") from None
        return Completed(tuple(argv), done.returncode, done.stdout, done.stderr)

    def attach(self, argv: Sequence[str]) -> int:
        """Hand the terminal over; Ctrl-C is the program's meanwhile, not ours."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            # The child must not inherit an ignored SIGINT, or Ctrl-C would be lost on it too.
            child = subprocess.Popen(list(argv), **_default_sigint())
            code = child.wait()
        except FileNotFoundError:
            raise missing(argv[0]) from None
        finally:
            signal.signal(signal.SIGINT, before)
        return 128 - code if code < 0 else code

    def spawn(self, argv: Sequence[str]) -> None:
        """Start detached; a program that is missing is no error here, for nothing depends on it."""
        flags = 0x00000008 | 0x00000200 if sys.platform == "win32" else 0  # DETACHED_PROCESS, new group
        try:
            subprocess.Popen(list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, start_new_session=sys.platform != "win32",
                             creationflags=flags)
        except OSError:
            return


def _default_sigint() -> dict[str, object]:
    if sys.platform == "win32":
        return {}
    return {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}


def missing(program: str) -> MissingProgramError:
    """The error for a program that is not there, with this system's way to install it."""
    return MissingProgramError(f"{program} is not installed", hint=install_hint(program, sys.platform))


def install_hint(program: str, platform: str) -> str:
    """The line to paste that installs `program` on `platform` (a `sys.platform` value)."""
    packages = {"ssh": "openssh-client", "ssh-keygen": "openssh-client", "ssh-add": "openssh-client"}
    if platform == "darwin":
        return f"macOS ships it in /usr/bin; look at PATH: command -v {program}"
    if platform == "win32":
        return "Add-WindowsCapability -Online -Name OpenSSH.Client~~~~0.0.1.0"
    return f"sudo apt install {packages.get(program, program)}"


def which(program: str) -> str | None:
    """The program's path, or None."""
    return shutil.which(program)


def require(code: int, completed: Completed, *, what: str) -> None:
    """ApexError with the last line of stderr unless the program ended with `code`."""
    if completed.code != code:
        message = f"{what}: {completed.last_error_line}"
        raise ApexError(message)
