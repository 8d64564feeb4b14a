"""The same problem on several hosts as one error that names them all.

Every command that works on several hosts reports their errors through here: `Reporter.errors` those that are there,
`Reporter.errors_as_they_come` those that arrive one by one.
"""

import re
import shlex
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from apexgpu.errors import ApexError, SameCommand

if TYPE_CHECKING:
    from apexgpu.models import Host, Outcome

WAIT = 1.0
"""Seconds that an error waits for the same one of other hosts."""

_ANY_HOST = "each"


def joined(outcomes: "Sequence[Outcome[Any]]") -> list[tuple[ApexError, str | None]]:
    """The errors among `outcomes`, in their order; equal ones of several hosts as one.

    Beside each error is its host, None where the message names them all.
    """
    groups: dict[tuple[type, str, str], list[tuple[Host, ApexError]]] = {}
    for outcome in outcomes:
        error = outcome.error
        if error is not None:
            fact = without_host(error.message, outcome.host)
            groups.setdefault((type(error), error.code, fact), []).append((outcome.host, error))
    errors: list[tuple[ApexError, str | None]] = []
    for (_, _, fact), group in groups.items():
        host, error = group[0]
        if len(group) == 1:
            errors.append((error, host.name))
            continue
        hosts = [host for host, _ in group]
        names = ", ".join(host.name for host in hosts)
        hint = joined_hint([error.hint for _, error in group], hosts)
        errors.append((error.with_message(f"{names}: {fact}", hint=hint), None))
    return errors


def without_host(message: str, host: "Host") -> str:
    """A message about one host as one about any: `gpu7 (10.0.0.7): no answer` is `no answer`."""
    address = rf"(?: ?\(?{re.escape(host.address)}(?::\d+)?\)?)?"
    name = rf"\b{re.escape(host.name)}(?:-manage)?\b"
    message = re.sub(rf"^{name}{address}: ", "", message)
    return re.sub(rf"{name}{address}", _ANY_HOST, message)


def joined_hint(hints: Sequence[str | None], hosts: "Sequence[Host]") -> str | None:
    """One command for all of them, if it is the same for each and takes several hosts; otherwise the first one's."""
    from apexgpu.completion_table import TABLE  # most commands report no error

    first = hints[0]
    if first is None or isinstance(first, SameCommand):
        return first
    templates = set()
    for hint, host in zip(hints, hosts, strict=True):
        words = (hint or "").split()
        templates.add(tuple("" if word == host.name else word for word in words))
    template = list(templates.pop())
    is_ours = template[:1] == ["apexgpu"] and len(template) > 1
    if templates or not is_ours or template.count("") != 1:
        return first
    if TABLE.get(template[1], ("", (), ()))[0] != "hosts":
        return first
    place = template.index("")
    template[place : place + 1] = [shlex.quote(host.name) for host in hosts]
    return " ".join(template)


class ErrorsAsTheyCome:
    """Errors of hosts that arrive one by one: each is shown within a moment, together with the same one of others."""

    def __init__(self, show: "Callable[[Sequence[Outcome[Any]]], None]") -> None:
        self._show = show
        self._lock = threading.RLock()
        self._waiting: list[Outcome[Any]] = []
        self._timer: threading.Timer | None = None

    def put(self, outcome: "Outcome[Any]") -> None:
        """A host has failed."""
        with self._lock:
            self._waiting.append(outcome)
            if self._timer is None:
                self._timer = threading.Timer(WAIT, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Show what has arrived and is not shown yet."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            waiting, self._waiting = self._waiting, []
            if waiting:
                self._show(waiting)
