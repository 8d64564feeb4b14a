"""Checks the files that a setup installs from: published, used before, new, or changed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from apexgpu import readers
from apexgpu.errors import RefusedError, UnexpectedError
from apexgpu.files import replace_atomically
from apexgpu.recipes.planner import SetupPlan
from apexgpu.recipes.setupscript import SourceFile


class Trust(StrEnum):
    """What is known of an installer, by its checksum."""

    PUBLISHED = "published"
    """The recipe contains this checksum: it is the file that its maker published."""

    REMEMBERED = "remembered"
    """A setup has worked with the same file."""

    NEW = "new"
    """No setup has worked with a file of this path."""

    CHANGED = "changed"
    """A setup has worked with another file of this path."""


@dataclass(frozen=True, slots=True)
class CheckedInstaller:
    """A file, and what is known of it."""

    file: SourceFile
    trust: Trust


class InstallerChecksums:
    """The checksums of files that a setup has worked with, by path: all hosts have the same NAS."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "installers.json"

    def read(self) -> dict[str, str]:
        """Return path -> SHA-256.

        If the file is damaged, it is empty, so that every installer is new again.
        """
        try:
            checksums = readers.json_object(self._path.read_bytes(), self._path.name)
            return {path: checksums.text(path) for path in checksums.names}
        except (OSError, UnexpectedError):
            return {}

    def remember(self, files: Sequence[SourceFile]) -> None:
        """Add the files of a setup that has worked."""
        if not files:
            return
        checksums = self.read()
        for file in files:
            checksums[file.path] = file.sha256
        replace_atomically(self._path, json.dumps(checksums, indent=1, sort_keys=True).encode())


def check_installers(
    plan: SetupPlan, files: Sequence[SourceFile], remembered: Mapping[str, str]
) -> tuple[CheckedInstaller, ...]:
    """Return what is known of each file. RefusedError for a file that does not exist."""
    published = {source.name: source.sha256 for _, source in plan.sources}
    checked = []
    for file in files:
        if not file.sha256:
            message = f"there is no {file.path} in the container on {plan.host}; is the NAS mounted there?"
            directory = file.path.rpartition("/")[0]
            hint = f"apexgpu ssh {plan.host} -- ls -l {directory}"
            raise RefusedError(message, hint=hint, code="no_installer")
        if file.sha256 in published.get(file.name, ()):
            trust = Trust.PUBLISHED
        else:
            trust = _compare(file, remembered.get(file.path))
        checked.append(CheckedInstaller(file, trust))
    return tuple(checked)


def _compare(file: SourceFile, remembered: str | None) -> Trust:
    if remembered is None:
        return Trust.NEW
    return Trust.REMEMBERED if remembered == file.sha256 else Trust.CHANGED


def refuse_changed(plan: SetupPlan, installers: Sequence[CheckedInstaller]) -> None:
    """RefusedError if a file is not the one that a setup has worked with before."""
    for installer in installers:
        if installer.trust is Trust.CHANGED:
            message = (
                f"{installer.file.path} has changed since a setup worked with it; ask the administrators whether"
                " they replaced it before you accept it"
            )
            raise RefusedError(message, hint=f"{plan.command} --accept-files", code="file_changed")
