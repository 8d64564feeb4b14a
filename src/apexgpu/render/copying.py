"""How the results of `apexgpu.copying` look."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.copying import CopyResult, CopySummary
from apexgpu.render.screen import Screen
from apexgpu.text import size

_TARGETS_NAMED = 3
"""More targets than these are counted instead of named."""


def show_copy(result: CopyResult, screen: Screen) -> None:
    """One line on stderr: the result of a copy is the files."""
    summary = result.summary
    if summary.left_out:
        files = "file" if summary.left_out == 1 else "files"
        screen.reporter.warn(
            f"skipped {summary.left_out} special {files} (sockets, pipes, devices)"
        )
    files = "file" if summary.files == 1 else "files"
    content = f"{summary.files} {files}, {size(summary.size)}"
    if summary.changed:
        screen.reporter.success(f"{_targets(summary)}: {content}; {_speed(summary)}")
    else:
        screen.reporter.success(f"{_targets(summary)}: up to date ({content})")


def _targets(summary: CopySummary) -> str:
    if len(summary.targets) > _TARGETS_NAMED:
        return f"{len(summary.targets)} places"
    return ", ".join(dict.fromkeys(summary.targets))


def _speed(summary: CopySummary) -> str:
    text = f"{size(summary.sent)} sent in {summary.seconds:.1f} s"
    if summary.seconds >= 1 and summary.sent:
        rate = int(summary.sent / summary.seconds)
        text += f" at {size(rate)}/s"
    return f"{text} ({summary.method})"


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {CopyResult: show_copy}
