"""The files that are installed from: known by their checksum, else remembered when they have worked, else new."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from apexgpu.errors import RefusedError
from apexgpu.files import replace_atomically
from apexgpu.recipes.planner import Plan
from apexgpu.recipes.setupscript import SourceFile

Trust = Literal["known", "remembered", "new", "changed"]


@dataclass(frozen=True, slots=True)
class Judged:
    """A file and what is known of it."""

    file: SourceFile
    trust: Trust


class Memory:
    """Checksums of files that a setup has worked with, by their path: the NAS is the same for all hosts."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "installers.json"

    def read(self) -> dict[str, str]:
        """Path -> SHA-256. A file that cannot be read is as good as none: then all is new again."""
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return (
            {str(path): str(one) for path, one in found.items()} if isinstance(found, dict) else {}
        )

    def keep(self, files: Sequence[SourceFile]) -> None:
        """Remember what has worked."""
        if not files:
            return
        now = self.read() | {file.path: file.sha256 for file in files}
        replace_atomically(self._path, json.dumps(now, indent=1, sort_keys=True).encode())


def judge(plan: Plan, files: Sequence[SourceFile], memory: Mapping[str, str]) -> tuple[Judged, ...]:
    """What is known of each file; RefusedError for one that is not there."""
    known = {source.name: source.sha256 for _, source in plan.sources}
    found = []
    for file in files:
        if not file.sha256:
            message = f"there is no {file.path} in the container on {plan.where}"
            room = file.path.rpartition("/")[0]
            hint = f"apexgpu ssh {plan.where} -- ls -l {room}   (is the NAS there? else ask the administrators)"
            raise RefusedError(message, hint=hint, code="no_installer")
        before = memory.get(file.path)
        if file.sha256 in known.get(file.name, ()):
            found.append(Judged(file, "known"))
        elif before is None:
            found.append(Judged(file, "new"))
        else:
            found.append(Judged(file, "remembered" if before == file.sha256 else "changed"))
    return tuple(found)


def refuse_changed(plan: Plan, judged: Sequence[Judged]) -> None:
    """RefusedError for a file that is another than the one that has worked before."""
    for one in judged:
        if one.trust == "changed":
            message = f"{one.file.path} is another file than the one that was installed from before"
            hint = f"ask the administrators whether they replaced it; then: {plan.again} --accept-files"
            raise RefusedError(message, hint=hint, code="file_changed")
