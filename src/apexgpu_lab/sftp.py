"""SFTP and SCP in a container: the user's home to begin with, and nothing outside the container's tree."""

import contextlib
import os
from pathlib import PurePosixPath

import asyncssh

from apexgpu_lab.pathtranslation import PathTranslator


class ContainerSftp(asyncssh.SFTPServer):
    """asyncssh's server over translated paths."""

    def __init__(self, chan: asyncssh.SSHServerChannel[bytes], paths: PathTranslator) -> None:
        super().__init__(chan)
        self._paths = paths
        self._home = PurePosixPath("/") / paths.home.relative_to(paths.rootfs).as_posix()
        self._output_translator = paths.output_translator

    def map_path(self, path: bytes) -> bytes:
        """The real path of what the client names, from its home when it is relative."""
        return os.fsencode(self._paths.real(self._home / os.fsdecode(path)))

    def reverse_map_path(self, path: bytes) -> bytes:
        """The container's name of a real path."""
        shown = self._output_translator()
        return shown.feed(path) + shown.flush() or b"/"

    def exit(self) -> None:
        """Say that all is well, as sftp-server does: scp takes a silent end for a failure."""
        if self.channel.get_subsystem() == "sftp":
            with contextlib.suppress(OSError):
                self.channel.exit(0)
