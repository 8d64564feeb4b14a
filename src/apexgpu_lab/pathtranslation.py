"""PathTranslator of a container and where they lie on this machine: there is no chroot, so names are translated."""

import os
import re
from pathlib import Path, PurePosixPath

from apexgpu_lab.containers import Container

# What a command may name of the container's own tree; everything else (/usr, /bin, /dev …) is this machine's.
_OWN = (
    r"home|root|etc|tmp|var|usr/local/cuda[\w.-]*|opt|usr/bin/python[\d.]*|usr/bin/virtualenv|usr/local/lib"
    r"|usr/local/\.apexgpu[\w.-]*"
)
_MOUNTED = "NAS|newNAS|SSD"
_NAMED = re.compile(rf"(?<![\w.\-/~}}])/(?:({_MOUNTED})|({_OWN}))(?![\w.-])")
_BINARY = re.compile(r"\brsync --server\b")  # what it says is no text
# Shells that take their commands from stdin: those are translated too.
READS_COMMANDS = re.compile(
    r"\s*(?:exec\s+|sudo\s+(?:-\w+\s+)*)?(?:/bin/)?(?:ba)?sh(?:\s+-[elsux]+)*(?:\s+--?)?\s*"
)


class PathTranslator:
    """Translates the paths of one container.

    `translate_input` is for what a client sends, `output_translator` for what it gets.
    """

    def __init__(self, container: Container, mounts: dict[str, Path]) -> None:
        self.rootfs = container.rootfs
        self.home = container.home
        self.mounts = mounts

    def translate_input(self, text: str) -> str:
        """A command with the container's absolute paths replaced by this machine's."""
        return _NAMED.sub(self._named, text)

    def real(self, path: PurePosixPath) -> Path:
        """Where an absolute path of the container lies; `..` is resolved by name, as a chroot would not let it out."""
        parts: list[str] = []
        for part in path.parts[1:]:
            if part == "..":
                del parts[-1:]
            else:
                parts.append(part)
        if parts and parts[0] in self.mounts:
            return self.mounts[parts[0]].joinpath(*parts[1:])
        return self.rootfs.joinpath(*parts)

    def output_translator(self, command: str | None = None) -> "OutputTranslator":
        """A translator for one stream of output; what `command` says in no text is left as it is."""
        if command is not None and _BINARY.search(command):
            return OutputTranslator({})
        names = {bytes(real): f"/{name}".encode() for name, real in self.mounts.items()}
        names[bytes(self.rootfs)] = b""
        for name, shown in list(names.items()):
            names.setdefault(os.fsencode(os.path.realpath(name)), shown)
        return OutputTranslator(names)

    def _named(self, match: re.Match[str]) -> str:
        if match[1]:
            return str(self.mounts[match[1]])
        return f"{self.rootfs}/{match[2]}"


class OutputTranslator:
    """Replaces real names by the container's in a stream, wherever the chunks happen to break."""

    def __init__(self, names: dict[bytes, bytes]) -> None:
        self._names = names
        longest_first = sorted(names, key=len, reverse=True)
        self._pattern = re.compile(
            b"(" + b"|".join(re.escape(name) for name in longest_first) + b")(/?)"
        )
        self._longest = max(map(len, names), default=0)
        self._held = b""

    @property
    def has_pending(self) -> bool:
        """Whether the end of the last chunk may be the beginning of a name."""
        return bool(self._held)

    def feed(self, data: bytes) -> bytes:
        """Translate a chunk; an end that may be half a name is kept for the next."""
        if not self._names:
            return data
        data = self._held + data
        kept = self._tail(data)
        while name := next(
            (one for one in self._names if data.endswith(one, 0, len(data) - kept)), None
        ):
            kept += len(name)  # a whole name: what follows it decides how it is shown
        self._held = data[len(data) - kept :]
        return self._pattern.sub(self._shown, data[: len(data) - kept])

    def flush(self) -> bytes:
        """What was kept."""
        held, self._held = self._held, b""
        return held and self._pattern.sub(self._shown, held)

    def _tail(self, data: bytes) -> int:
        start = max(0, len(data) - self._longest)
        position = data.find(b"/", start)
        while position >= 0:
            rest = data[position:]
            if any(name.startswith(rest) for name in self._names):
                return len(rest)
            position = data.find(b"/", position + 1)
        return 0

    def _shown(self, match: re.Match[bytes]) -> bytes:
        return self._names[match[1]] + match[2] or b"/"
