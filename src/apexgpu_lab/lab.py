"""The lab and the demo as commands: start a lab, see it, make a host misbehave, end it, and play a first day in it.

`home` is the lab's directory in each function.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from apexgpu.errors import UsageError
from apexgpu.platforms.system import is_windows
from apexgpu.results import JsonObject, Result
from apexgpu_lab import client
from apexgpu_lab.faults import KINDS
from apexgpu_lab.layout import Layout


@dataclass(frozen=True)
class StartedLab(Result):
    """What `up` returns: the lab's description, as `lab status --json` prints it."""

    description: JsonObject

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, **_without_schema(self.description)}


@dataclass(frozen=True)
class LabStatus(Result):
    """What `status` returns. Without a running lab, `hosts` and `users` in the description are empty."""

    description: JsonObject

    def to_json(self) -> JsonObject:
        """See Result."""
        return _without_schema(self.description)


class Shell(StrEnum):
    """A language for the lines of `lab env`."""

    SH = "sh"
    FISH = "fish"
    POWERSHELL = "powershell"


@dataclass(frozen=True)
class LabEnvironment(Result):
    """What `environment` returns: the variables that point apexgpu and ssh at the lab.

    A value of None removes the variable. `shell` is the language of the lines.
    """

    variables: Mapping[str, str | None]
    shell: Shell = Shell.SH

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "environment": dict(self.variables)}


@dataclass(frozen=True)
class FaultKinds(Result):
    """What `list_faults` returns: what happens with each kind of fault."""

    kinds: Mapping[str, str]

    def to_json(self) -> JsonObject:
        """See Result."""
        faults = [{"name": name, "what": what} for name, what in self.kinds.items()]
        return {"ok": True, "faults": faults}


@dataclass(frozen=True)
class SetFault(Result):
    """What `fault` returns: the fault, and whether it was ended (`cleared`) or begun."""

    host: str
    kind: str
    cleared: bool

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "host": self.host, "kind": self.kind, "cleared": self.cleared}


@dataclass(frozen=True)
class EndedLab(Result):
    """What `down` returns: whether there was a lab, and whether this terminal still has its variables."""

    changed: bool
    variables_remain: bool = False

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "changed": self.changed}


def up(home: Path, *, hosts: int, registered: bool) -> StartedLab:
    """Start a lab of `hosts` hosts, or find it running. With `registered`, its first user has containers on all.

    Raises RefusedError if another lab is running there, ApexError with the lab's last line if it does not start.
    """
    return StartedLab(client.up(home, hosts=hosts, registered=registered))


def environment(home: Path, shell: str = "") -> LabEnvironment:
    """Return the variables, for a shell (by default that of the system). RefusedError if no lab is running."""
    return LabEnvironment(client.environment(home), _shell(shell))


def unset_environment(shell: str = "") -> LabEnvironment:
    """Return the same variables without values. No lab need be running."""
    variables = Layout(Path()).environment("")
    return LabEnvironment(dict.fromkeys(variables), _shell(shell))


def _shell(name: str) -> Shell:
    if not name:
        return Shell.POWERSHELL if is_windows() else Shell.SH
    name = {"bash": "sh", "zsh": "sh", "pwsh": "powershell"}.get(name, name)
    try:
        return Shell(name)
    except ValueError:
        raise UsageError(
            f"{name} is not sh, fish or powershell", hint="apexgpu lab env --shell sh"
        ) from None


def status(home: Path) -> LabStatus:
    """Return the lab's hosts, users and directories."""
    return LabStatus(client.status(home))


def list_faults() -> FaultKinds:
    """Return the kinds of faults."""
    return FaultKinds(KINDS)


def fault(
    home: Path, host: str, kind: str, *, times: int | None = None, clear: bool = False
) -> SetFault:
    """Begin a fault of a host (or "iam"), for so many `times` or until it is cleared; `clear` ends it.

    Raises UnknownHostError or UsageError for a host or a kind that does not exist, RefusedError if no lab is running.
    """
    if clear:
        client.clear(home, host, kind)
    else:
        client.fault(home, host, kind, times)
    return SetFault(host, kind, cleared=clear)


def down(home: Path, *, variables_remain: bool = False) -> EndedLab:
    """End the lab: every process that it started, and its directories.

    `variables_remain` is whether the caller's terminal has the variables of the lab.
    """
    was_there = home.exists()
    client.down(home)
    return EndedLab(was_there, variables_remain)


def _without_schema(description: JsonObject) -> JsonObject:
    """The description without the key that the envelope adds."""
    return {key: value for key, value in description.items() if key != "schema"}
