"""What commands return: frozen values with a JSON form and an exit code, and the one envelope around all of them.

A user-level module defines its results beside the functions that return them; this module has what they share.
`apexgpu.render` draws a result for a person.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from apexgpu.errors import ApexError
from apexgpu.models import Finding, Outcome

SCHEMA = 1
"""The version of the JSON documents. It changes when a key goes or changes its meaning."""

JsonObject = dict[str, Any]
"""A JSON object on its way out. Data between modules has a type of its own."""


class Result:
    """What a command returns. Subclasses are frozen dataclasses.

    `exit_code` is the command's exit status (see docs/reference.md, Exit codes).
    """

    @property
    def exit_code(self) -> int:
        """0, unless a subclass knows better."""
        return 0

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is done."""
        return self.exit_code == 0

    @property
    def errors(self) -> Sequence[ApexError]:
        """The errors of single hosts, where a command works on several."""
        return ()

    def to_json(self) -> JsonObject:
        """The keys of the command's JSON document, without `schema`; `ok` comes first."""
        raise NotImplementedError


class HasJson(Protocol):
    """A value with a JSON form."""

    def to_json(self) -> JsonObject:
        """The value as a JSON object."""
        ...


T = TypeVar("T", bound=HasJson)


@dataclass(frozen=True)
class HostResults(Result, Generic[T]):
    """A value or an error for each of several hosts. Each command that works on hosts has a subclass of it."""

    outcomes: Sequence[Outcome[T]]

    missing: ClassVar[JsonObject] = {}
    """Keys that a row has although its host gave no value."""

    @property
    def exit_code(self) -> int:
        """See `exit_code_of`."""
        return exit_code_of(self.outcomes)

    @property
    def errors(self) -> Sequence[ApexError]:
        """See Result."""
        return [outcome.error for outcome in self.outcomes if outcome.error is not None]

    def to_json(self) -> JsonObject:
        """`ok`, and a row for each host."""
        return {"ok": self.ok, "hosts": [self.row(outcome) for outcome in self.outcomes]}

    def row(self, outcome: Outcome[T]) -> JsonObject:
        """One host's row."""
        row: JsonObject = {
            "host": outcome.host.name,
            "ok": outcome.ok,
            "error": error_json(outcome.error),
        }
        row |= self.missing
        if outcome.value is not None:
            row |= outcome.value.to_json()
        return row


def exit_code_of(outcomes: Sequence[Outcome[Any]]) -> int:
    """The exit status for several hosts.

    0 if all succeeded, 3 if some did. If all failed, the failures' own code where they agree on one, else 1.
    """
    return common_exit_code([outcome.error for outcome in outcomes])


def common_exit_code(results: Sequence[ApexError | None]) -> int:
    """The exit status for several results, None for those that succeeded. See `exit_code_of`."""
    errors = [error for error in results if error is not None]
    if not errors:
        return 0
    if len(errors) < len(results):
        return 3
    codes = {error.exit_code for error in errors}
    return codes.pop() if len(codes) == 1 else 1


def error_json(error: ApexError | None) -> JsonObject | None:
    """An error in a JSON document; None where there is none."""
    if error is None:
        return None
    return {"code": error.code, "message": error.message, "hint": error.hint}


def finding_json(finding: Finding) -> JsonObject:
    """The result of one check (doctor, verify, x11 check) in a JSON document."""
    return {
        "check": finding.check,
        "verdict": finding.verdict,
        "fact": finding.fact,
        "hint": finding.hint,
        "code": finding.code,
    }


def envelope(document: JsonObject) -> JsonObject:
    """The whole JSON document: the schema's version first, and the error of the only host at the top too."""
    rows = document.get("hosts") or []
    alone: JsonObject = {}
    if len(rows) == 1 and rows[0].get("error"):
        alone = {"error": rows[0]["error"]}
    return {"schema": SCHEMA, **alone, **document}
