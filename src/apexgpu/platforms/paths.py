"""Names of files, as the systems tell them apart."""

import ntpath

from apexgpu.platforms.system import System


def same_name_form(system: System, path: str) -> str:
    """A form of `path` that is equal for two spellings of one file: on Windows, case and `/` make no difference."""
    return ntpath.normcase(path) if system is System.WINDOWS else path
