"""How the result of `apexgpu.overview` looks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apexgpu.overview import Overview
from apexgpu.render.screen import Screen

_TITLE_WIDTH = 16


def show_overview(result: Overview, screen: Screen) -> None:
    """The state, the next command, then the commands of every day."""
    if result.user is None:
        screen.line("Not logged in on this laptop.")
    else:
        screen.line(f"Logged in as {result.user}.")
    _show_hosts(screen, "running", result.running)
    _show_hosts(screen, "stopped", result.stopped)
    _show_hosts(screen, "not registered", result.not_registered)
    _show_hosts(screen, "no answer", result.silent)
    _show_hosts(screen, "problem", result.failing)
    _show_hosts(screen, "new in IAM", result.new)
    for fact in result.interrupted:
        screen.labelled(f"  {'interrupted':<{_TITLE_WIDTH}}", fact)
    if result.iam_answers is False:
        vpn = f" ({result.vpn})" if result.vpn else ""
        screen.labelled("  ", f"IAM does not answer: are you on the lab's network or its VPN?{vpn}")
    screen.line(f"Next: {result.next_command}")
    screen.line("")
    screen.line("Every day:")
    for name, line in result.everyday:
        screen.labelled(f"  {name:<10}", line)
    screen.line("All commands: apexgpu --help")


def _show_hosts(screen: Screen, title: str, names: Sequence[str]) -> None:
    if names:
        screen.labelled(f"  {title:<{_TITLE_WIDTH}}", " ".join(names))


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {Overview: show_overview}
