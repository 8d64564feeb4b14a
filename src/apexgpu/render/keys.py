"""How the results of `apexgpu.keys` look."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apexgpu.keys import KeyAdded, KeyList, KeyRemoved
from apexgpu.render.screen import Screen
from apexgpu.sshfiles.userkeys import KnownKey
from apexgpu.tables import Column

_COLUMNS = (
    Column("FINGERPRINT"),
    Column("TYPE", least=11, keep=0),
    Column("KNOWN TO", least=8),
    Column("COMMENT", least=7, keep=1),
)


def show_key_list(result: KeyList, screen: Screen) -> None:
    """The keys as a table."""
    show_keys(result.keys, screen)


def show_keys(keys: Sequence[KnownKey], screen: Screen) -> None:
    """A table of keys; `whoami` shows it too."""
    if not keys:
        screen.line("no keys, neither on this laptop nor in IAM")
        return
    rows = [(key.fingerprint, key.kind, ", ".join(key.places), key.comment or "-") for key in keys]
    screen.table(_COLUMNS, rows)


def show_key_added(result: KeyAdded, screen: Screen) -> None:
    """What IAM has now."""
    if result.changed:
        screen.line(f"IAM now has {result.fingerprint}.")
    else:
        screen.line(f"Nothing to do: IAM had {result.fingerprint} already.")


def show_key_removed(result: KeyRemoved, screen: Screen) -> None:
    """What IAM has no longer."""
    if result.fingerprint is None:
        screen.line(f"Nothing to do: IAM has no key {result.wanted}.")
    else:
        screen.line(f"IAM no longer has {result.fingerprint}.")


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    KeyList: show_key_list,
    KeyAdded: show_key_added,
    KeyRemoved: show_key_removed,
}
