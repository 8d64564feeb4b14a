"""How the results of `apexgpu_lab.lab` look."""

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.platforms import hints
from apexgpu.render.screen import Screen
from apexgpu.text import counted
from apexgpu_lab.lab import (
    EndedLab,
    FaultKinds,
    LabEnvironment,
    LabStatus,
    SetFault,
    Shell,
    StartedLab,
)


def show_start(result: StartedLab, screen: Screen) -> None:
    """Where the lab is, and how to use it."""
    hosts = counted(len(result.description["hosts"]), "host")
    screen.line(f"The lab serves {hosts} and IAM at {result.description['iam_url']}.")
    command = hints.set_lab_variables()
    screen.reporter.note(f"Next: {command}, then apexgpu login. The password: apexgpu lab status")


def show_environment(result: LabEnvironment, screen: Screen) -> None:
    """Lines for a shell to evaluate."""
    for name, value in result.variables.items():
        if value is None:
            screen.verbatim(_UNSET[result.shell].format(name=name))
        else:
            quoted = _QUOTE[result.shell](value)
            screen.verbatim(_SET[result.shell].format(name=name, value=quoted))


def _quote_for_fish(value: str) -> str:
    # Between single quotes, fish reads \\ and \' only.
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _quote_for_powershell(value: str) -> str:
    doubled = value.replace("'", "''")
    return f"'{doubled}'"


_SET = {
    Shell.SH: "export {name}={value}",
    Shell.FISH: "set -gx {name} {value}",
    Shell.POWERSHELL: "$env:{name} = {value}",
}
_UNSET = {
    Shell.SH: "unset {name}",
    Shell.FISH: "set -e {name}",
    Shell.POWERSHELL: "Remove-Item Env:{name} -ErrorAction SilentlyContinue",
}
_QUOTE: Mapping[Shell, Callable[[str], str]] = {
    Shell.SH: shlex.quote,
    Shell.FISH: _quote_for_fish,
    Shell.POWERSHELL: _quote_for_powershell,
}


def show_status(result: LabStatus, screen: Screen) -> None:
    """IAM, the users with their passwords, and the hosts."""
    if not result.description.get("hosts"):
        screen.line("No lab is running. Next: apexgpu lab up")
        return
    screen.line(f"IAM   {result.description['iam_url']}")
    users = result.description["users"]
    longest = max((len(user["name"]) for user in users), default=0)
    for user in users:
        screen.line(f"user  {user['name']:<{longest}}  password {user.get('password', '-')}")
    rows = []
    for host in result.description["hosts"]:
        users = [container["user"] for container in host["containers"]]
        rows.append((host["host"], host["address"], str(host["port"]), ", ".join(users) or "-"))
    screen.table(("HOST", "ADDRESS", "PORT", "CONTAINERS"), rows)


def show_fault_kinds(result: FaultKinds, screen: Screen) -> None:
    """A row for each kind."""
    screen.table(("KIND", "WHAT HAPPENS"), list(result.kinds.items()))


def show_fault(result: SetFault, screen: Screen) -> None:
    """The fault, and since when."""
    state = "is over" if result.cleared else "from now on"
    screen.line(f"{result.host}: {result.kind} {state}.")


def show_end(result: EndedLab, screen: Screen) -> None:
    """Whether there was a lab."""
    screen.line("The lab is gone." if result.changed else "Nothing to do: no lab is running.")
    if result.variables_remain:
        command = hints.set_lab_variables(unset=True)
        screen.reporter.note(f"To use your own settings in this terminal again: {command}")


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    StartedLab: show_start,
    LabEnvironment: show_environment,
    LabStatus: show_status,
    FaultKinds: show_fault_kinds,
    SetFault: show_fault,
    EndedLab: show_end,
}
