"""Gives an ssh process the passphrase of a key file that the user has typed: by SSH_ASKPASS (see ssh(1)).

paramiko reads the usual key files only. For the others (other ciphers, PKCS#8), ssh itself has to ask, and a command
on many hosts cannot let each ssh ask at the terminal. The passphrase is in no argument, variable or file: it goes
through a named pipe in a directory of the user's, once, to the program that ssh starts.
"""

import contextlib
import os
import shlex
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apexgpu.platforms import namedpipes
from apexgpu.ssh import sshoptions

OPTIONS = (
    "BatchMode=no",
    "NumberOfPasswordPrompts=1",
    "PasswordAuthentication=no",
    "KbdInteractiveAuthentication=no",
)
"""Let ssh ask, once for each key, and for nothing but a passphrase."""


@dataclass(frozen=True, slots=True)
class Passphrase:
    """The passphrase of the key file `file`."""

    file: Path
    text: str

    def __repr__(self) -> str:
        return f"Passphrase({str(self.file)!r})"


def arguments() -> list[str]:
    """The arguments of an ssh that is to ask."""
    return sshoptions.arguments(OPTIONS)


@contextlib.contextmanager
def environment(passphrase: Passphrase) -> Iterator[dict[str, str]]:
    """What to add to the environment of an ssh that runs in the block."""
    with tempfile.TemporaryDirectory(prefix="apexgpu-") as directory:
        pipe = Path(directory) / "pipe"
        namedpipes.create(pipe)
        script = Path(directory) / "askpass"
        # ssh names the file in its question. For another key there is no answer.
        script.write_text(
            f"#!/bin/sh\ncase $1 in\n*{shlex.quote(str(passphrase.file))}*)"
            f" exec cat {shlex.quote(str(pipe))} ;;\nesac\nexit 1\n"
        )
        script.chmod(0o700)
        writer = threading.Thread(target=_write, args=(pipe, passphrase.text), daemon=True)
        writer.start()
        try:
            # DISPLAY: without it, ssh before 8.4 asks at the terminal.
            display = os.environ.get("DISPLAY", ":")
            yield {"SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": display}
        finally:
            # If ssh has not asked, the writer still waits for a reader.
            reader = namedpipes.open_without_waiting(pipe)
            writer.join()
            os.close(reader)


def _write(pipe: Path, text: str) -> None:
    with contextlib.suppress(OSError), pipe.open("w", encoding="utf-8") as stream:
        stream.write(f"{text}\n")
