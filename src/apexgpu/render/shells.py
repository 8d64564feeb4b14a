"""How the results of `apexgpu.shells` look."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.render.outputs import TAB
from apexgpu.render.screen import Screen, reported_already
from apexgpu.shells import CommandOutputs, SshSession, StreamedOutputs


def show_outputs(result: CommandOutputs, screen: Screen) -> None:
    """The output of one host as it is, that of several with the host in front of every line."""
    first = result.outcomes[0].value
    if len(result.outcomes) == 1 and first is not None:
        screen.raw(first.reply.out, first.reply.err)
        _warn_of_cuts(result, screen)
        return
    name_width = max(len(outcome.host.name) for outcome in result.outcomes)
    for outcome in result.outcomes:
        label = outcome.host.name.ljust(name_width)
        if outcome.value is not None:
            reply = outcome.value.reply
            for line in reply.out.splitlines():
                text = line.replace("\t", TAB)
                screen.line(f"{label}  {text}")
            for line in reply.err.splitlines():
                screen.reporter.note(f"{label}  {line}")
            if reply.code:
                screen.reporter.note(f"{label}  exit status {reply.code}")
    screen.reporter.errors(result.outcomes)
    _warn_of_cuts(result, screen)


def _warn_of_cuts(result: CommandOutputs, screen: Screen) -> None:
    for outcome in result.outcomes:
        if outcome.value is not None and outcome.value.reply.is_cut:
            name = outcome.host.name
            message = f"the output on {name} is too long to be kept; its middle is left out"
            screen.reporter.warn(message, hint="apexgpu exec --help")


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    CommandOutputs: show_outputs,
    SshSession: reported_already,
    StreamedOutputs: reported_already,
}
