"""How the results of `apexgpu.x11` look."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.errors import ApexError, RefusedError
from apexgpu.render.screen import Screen
from apexgpu.x11 import Installations, WindowCheck, WindowProgram


def show_check(result: WindowCheck, screen: Screen) -> None:
    """A line for each check, then what follows from them."""
    for finding in result.local:
        fact = f"here: {finding.fact}"
        screen.verdict(finding.verdict, finding.check, fact, hint=finding.hint, code=finding.code)
    for finding in result.remote:
        where = f"{result.host.name}: " if result.host is not None else ""
        screen.verdict(
            finding.verdict,
            finding.check,
            f"{where}{finding.fact}",
            hint=finding.hint,
            code=finding.code,
        )
    broken = result.broken
    if broken is not None:
        message = f"broken: {broken.check}: {broken.fact}"
        screen.reporter.error(ApexError(message, hint=broken.hint, code=broken.code))
    elif result.unknown:
        screen.line(f"Nothing is broken, but not checked: {', '.join(result.unknown)}")
    elif result.host is not None:
        screen.line("All well.")
    else:
        screen.line("All well here. The whole chain: apexgpu x11 check HOST")


def show_program(result: WindowProgram, screen: Screen) -> None:
    """Why no window came. The program's own output has been shown already."""
    explanation = result.explanation
    if explanation is None:
        return
    if explanation.verdict == "broken":
        error = RefusedError(explanation.fact, hint=explanation.hint, code=explanation.code)
        screen.reporter.error(error)
    else:
        screen.reporter.warn(explanation.fact, hint=explanation.hint)


def show_installation(result: Installations, screen: Screen) -> None:
    """What was installed."""
    for outcome in result.outcomes:
        if outcome.value is not None:
            names = ", ".join(outcome.value.packages)
            if outcome.value.changed:
                screen.reporter.success(f"{names}: installed on {outcome.host.name}")
            else:
                screen.reporter.success(f"{names}: already on {outcome.host.name}, nothing to do")
    screen.reporter.errors(result.outcomes)


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    WindowCheck: show_check,
    WindowProgram: show_program,
    Installations: show_installation,
}
