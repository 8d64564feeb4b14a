"""A desktop notification when long work has ended: through the terminal where it can, else through a program.

A terminal knows whether its window is in front, and most show a notification only if it is not. The bell goes to every
terminal: it marks a window, or a tab, that nobody looks at.
"""

import os
from collections.abc import Mapping, Sequence
from typing import IO

from apexgpu.errors import ApexError
from apexgpu.platforms.system import current
from apexgpu.process import Runner
from apexgpu.text import duration, safe

COMMANDS = frozenset({"snapshot", "setup", "recover", "rebuild", "cp", "runs wait", "run"})
"""The commands that somebody may walk away from."""

_TITLE = "apexgpu"
_BELL = "\a"
# OSC 9 is iTerm2's, OSC 777 rxvt's; the terminals by TERM_PROGRAM, and by the start of TERM.
_OSC_9 = {"iTerm.app", "WezTerm", "ghostty"}
_OSC_777 = ("xterm-kitty", "foot", "rxvt", "xterm-ghostty")
_MACOS = (
    "on run argv",
    "display notification (item 2 of argv) with title (item 1 of argv)",
    "end run",
)
_POWERSHELL = """
$kind = [Windows.UI.Notifications.ToastNotificationManager, Windows.UI.Notifications, ContentType = WindowsRuntime]
$toast = $kind::GetTemplateContent('ToastText02')
$texts = $toast.GetElementsByTagName('text')
$null = $texts.Item(0).AppendChild($toast.CreateTextNode($env:APEXGPU_TITLE))
$null = $texts.Item(1).AppendChild($toast.CreateTextNode($env:APEXGPU_TEXT))
$null = [Windows.UI.Notifications.ToastNotification, Windows.UI.Notifications, ContentType = WindowsRuntime]
$id = '{1AC14E77-02E7-4E5D-B744-2EB1AE5198B7}\\WindowsPowerShell\\v1.0\\powershell.exe'
$kind::CreateToastNotifier($id).Show([Windows.UI.Notifications.ToastNotification]::new($toast))
"""
_LIMIT = 5.0  # seconds that a program may take


def is_awaited(words: Sequence[str]) -> bool:
    """Whether somebody may have walked away from the command line `words`, and waits for its end."""
    if list(words[:2]) == ["runs", "logs"]:
        return not {"--follow", "-f"}.isdisjoint(words)
    return not COMMANDS.isdisjoint({" ".join(words[:1]), " ".join(words[:2])})


def text_of(words: Sequence[str], code: int, seconds: float) -> str:
    """What ended: the command with its first arguments, how, and after how long."""
    command = " ".join(words[:3])
    how = "done" if code == 0 else f"ended with exit status {code}"
    return safe(f"{command}: {how} after {duration(seconds)}")


def notify(
    text: str,
    terminal: IO[str],
    runner: Runner,
    environment: Mapping[str, str] = os.environ,
    platform: str | None = None,
) -> None:
    """Show `text`. Nothing here may fail the command that has just ended."""
    sequence = escape_sequence(text, environment)
    terminal.write((sequence or "") + _BELL)
    terminal.flush()
    if sequence is not None:
        return
    argv = program(text, environment, platform or current())
    if argv is None:
        return
    try:
        added = {"APEXGPU_TITLE": _TITLE, "APEXGPU_TEXT": text}
        runner.run(argv, timeout=_LIMIT, env=added)
    except (ApexError, OSError):
        return


def escape_sequence(text: str, environment: Mapping[str, str]) -> str | None:
    """What makes the terminal show a notification; None if it is not known to have any."""
    if environment.get("TERM_PROGRAM") in _OSC_9:
        sequence = f"\x1b]9;{_TITLE}: {text}\x07"
    elif environment.get("TERM", "").startswith(_OSC_777):
        body = text.replace(";", ",")  # a semicolon separates the parts
        sequence = f"\x1b]777;notify;{_TITLE};{body}\x07"
    else:
        return None
    if environment.get("TMUX"):
        # tmux passes on what is wrapped like this, if `allow-passthrough` is on.
        doubled = sequence.replace("\x1b", "\x1b\x1b")
        sequence = f"\x1bPtmux;{doubled}\x1b\\"
    return sequence


def program(text: str, environment: Mapping[str, str], platform: str) -> list[str] | None:
    """The program that shows a notification on this desktop; None where there is no desktop."""
    if environment.get("SSH_CONNECTION"):
        return None  # the desktop is that of another machine
    if platform == "darwin":
        lines = [word for line in _MACOS for word in ("-e", line)]
        return ["osascript", *lines, _TITLE, text]
    if platform == "win32":
        return ["powershell.exe", "-NoProfile", "-NonInteractive", "-Command", _POWERSHELL]
    if environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"):
        return ["notify-send", "--app-name", _TITLE, "--", _TITLE, text]
    return None
