"""How the results of `apexgpu.login` look."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.login import Identity, Login, Logout
from apexgpu.render.keys import show_keys
from apexgpu.render.screen import Screen


def show_login(result: Login, screen: Screen) -> None:
    """Whether anything changed, and the next command."""
    changed = result.changed
    ready = [outcome.host.name for outcome in result.hosts.outcomes if _accepts(outcome.value)]
    if result.registered is not None:
        registered = [outcome for outcome in result.registered.outcomes if outcome.ok]
        changed = changed or any(outcome.value.changed for outcome in registered if outcome.value)
        ready = [*(outcome.host.name for outcome in registered), *ready]
    if changed:
        screen.line("You are logged in.")
    else:
        screen.line("Nothing to change: you are logged in, and your ssh config is up to date.")
    if ready:
        screen.line(f"Next: apexgpu up {ready[0]}")
    else:
        screen.line(f"Next: apexgpu register {result.hosts.outcomes[0].host.name}")
    screen.line("All hosts: apexgpu status")


def _accepts(key: Any) -> bool:
    return key is not None and bool(key.accepted)


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
