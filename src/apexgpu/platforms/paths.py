"""Names of files, as the systems tell them apart."""

import ntpath

from apexgpu.platforms.system import System


def same_name_form(system: System, path: str) -> str:
    """A form of `path` that is equal for two spellings of one file: on Windows, case and `/` make no difference."""
    return ntpath.normcase(path) if system is System.WINDOWS else path


def is_below(system: System, path: str, directory: str) -> bool:
    """Whether `path` is the directory itself or a part of it, where the case of letters may make no difference.

    >>> is_below(System.WINDOWS, r"c:\\users\\alice\\gpu7\\data", r"C:\\Users\\alice\\gpu7")
    True
    """
    separator = "\\" if system is System.WINDOWS else "/"
    inner = same_name_form(system, path) + separator
    outer = same_name_form(system, directory).rstrip(separator) + separator
    return inner.startswith(outer)
