"""How the results of `apexgpu.copying` look."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.copying import CopyResult, CopySummary, PlannedCopy
from apexgpu.render.screen import Screen
from apexgpu.text import counted, size

_TARGETS_NAMED = 3
"""More targets than these are counted instead of named."""


def show_copy(result: CopyResult, screen: Screen) -> None:
    """One line on stderr: the result of a copy is the files."""
    summary = result.summary
    if summary.left_out:
        screen.reporter.warn(
            f"skipped {counted(summary.left_out, 'special file')} (sockets, pipes, devices)"
        )
    if result.planned is not None:
        _show_plan(result, result.planned, screen)
        return
    content = f"{counted(summary.files, 'file')}, {size(summary.size)}"
    if len(summary.targets) > _TARGETS_NAMED:
        # Most of them are files themselves, and one number of files is enough.
        content = size(summary.size)
    if summary.changed:
        screen.reporter.success(f"{_targets(summary)}: {content}; {_speed(summary)}")
    else:
        screen.reporter.success(f"{_targets(summary)}: up to date ({content})")


def _show_plan(result: CopyResult, planned: tuple[PlannedCopy, ...], screen: Screen) -> None:
    """The list of a dry run on stdout, its sum on stderr."""
    for copy in planned:
        slash = "/" if copy.is_directory else ""
        screen.line(f"{copy.target}{slash}")
    summary = result.summary
    if not planned:
        screen.reporter.success(f"{_targets(summary)}: up to date; nothing would be sent")
        return
    files = sum(not copy.is_directory for copy in planned)
    screen.reporter.note(
        f"would send {counted(files, 'file')}, {size(summary.sent)}; nothing was sent"
    )


def _targets(summary: CopySummary) -> str:
    """The targets by name, or how many files there are, and where."""
    if len(summary.targets) <= _TARGETS_NAMED:
        return ", ".join(dict.fromkeys(summary.targets))
    files = counted(summary.files, "file")
    directories = {target.rpartition("/")[0] for target in summary.targets}
    if len(directories) > 1:
        return files
    return f"{files} in {directories.pop() or '/'}"


def _speed(summary: CopySummary) -> str:
    text = f"{size(summary.sent)} sent in {summary.seconds:.1f} s"
    if summary.seconds >= 1 and summary.sent:
        rate = int(summary.sent / summary.seconds)
        text += f" at {size(rate)}/s"
    return f"{text} ({summary.method})"


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {CopyResult: show_copy}
