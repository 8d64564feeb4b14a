"""What every command that goes into one container does first: find the host, see that it answers, word the ssh."""

import typer

from apexgpu.commands import fleet
from apexgpu.errors import RefusedError, UsageError
from apexgpu.hosts import manage
from apexgpu.kit import Kit
from apexgpu.models import Host, Target


def one_host(kit: Kit, name: str, *, several: str = "name one of them") -> Host:
    """The host that `name` stands for; a glob that means more than one is a UsageError with `several` as its hint."""
    hosts = kit.hosts([name])
    if len(hosts) > 1:
        message = f"{name} means {len(hosts)} hosts, and this needs one"
        raise UsageError(message, hint=several)
    return hosts[0]


def ssh_arguments(kit: Kit, host: Host) -> list[str]:
    """What follows the name of the program to reach the container: config file, IAM's address, alias."""
    from apexgpu.ssh.route import config_arguments, target_arguments

    where = Target(host, "container")
    return [*config_arguments(kit.settings.ssh_config), *target_arguments(where), host.name]


def ready(kit: Kit, host: Host, command: str = "true") -> str:
    """Offer to start a stopped container, so that ssh does not end in `Connection refused`.

    What `command` said there; nothing where it had to be started. Raises what stands in the way: DeclinedError,
    RefusedError (stopped, and nobody to ask), UnreachableError …
    """
    outcome = fleet.run(kit, [host], lambda one: _said(kit, one, command))[0]
    if outcome.error is not None:
        raise outcome.error
    if outcome.value is None:
        offer_start(kit, host)
    return outcome.value or ""


def offer_start(kit: Kit, host: Host) -> None:
    """Start the stopped container if the user agrees. DeclinedError, RefusedError (nobody to ask) …"""
    if not kit.yes and not kit.screen.can_ask:
        raise manage.stopped(host)
    kit.confirm(f"The container on {host.name} is stopped. Start it?")
    from apexgpu.commands.hosts import start_all

    started = start_all(kit, [host])[0]
    if started.error is not None:
        if kit.screen.as_json:
            raise started.error
        raise typer.Exit(started.error.exit_code)  # it has been shown


def answers(kit: Kit, host: Host) -> bool:
    """Whether the container takes our login; False when it is stopped; anything else is its error."""
    return _said(kit, host, "true") is not None


def _said(kit: Kit, host: Host, command: str) -> str | None:
    """What `command` said in the container; None when that is stopped."""
    try:
        return manage.inside(kit.transport, host, command).out
    except RefusedError as exc:
        if exc.code != "stopped":
            raise
        return None
