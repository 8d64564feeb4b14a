"""How the results of `apexgpu.login` look."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.login import Identity, Login, Logout
from apexgpu.render.keys import show_keys
from apexgpu.render.screen import Screen


def show_login(result: Login, screen: Screen) -> None:
    """Whether anything changed, and the next command."""
    changed = result.changed
    ready = []
    for outcome in result.hosts.outcomes:
        if outcome.value is not None and outcome.value.accepted:
            ready.append(outcome.host.name)
    if result.registered is not None:
        for registered in reversed(result.registered.outcomes):
            if registered.value is not None:
                changed = changed or registered.value.changed
                # A host that the user has just chosen is the most likely next one.
                ready.insert(0, registered.host.name)
    if changed:
        screen.line("You are logged in.")
    else:
        screen.line("Nothing to change: you are logged in, and your ssh config is up to date.")
    if ready:
        screen.line(f"Next: apexgpu up {ready[0]}")
    else:
        screen.line(f"Next: apexgpu register {result.hosts.outcomes[0].host.name}")
    screen.line("All hosts: apexgpu status")


def show_logout(result: Logout, screen: Screen) -> None:
    """Whether there was a login."""
    screen.line("Logged out." if result.changed else "Nothing to do: there was no login.")


def show_identity(result: Identity, screen: Screen) -> None:
    """The account, a line each, and its keys."""
    name = f" ({result.name})" if result.name else ""
    screen.line(f"user  {result.user}{name}")
    screen.line(f"port  {result.port} on every host")
    screen.line(f"IAM   {result.iam_url}")
    show_keys(result.keys, screen)


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    Login: show_login,
    Logout: show_logout,
    Identity: show_identity,
}
