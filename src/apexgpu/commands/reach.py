"""What every command that goes into one container does first: find the host, see that it answers, word the ssh."""

import typer

from apexgpu import manyhosts
from apexgpu.errors import RefusedError, UsageError
from apexgpu.manageshell import containershell, replies
from apexgpu.models import Host, Target
from apexgpu.session import Session


def one_host(session: Session, name: str, *, several: str = "name one of them") -> Host:
    """The host that `name` stands for; a glob that means more than one is a UsageError with `several` as its hint."""
    hosts = session.hosts([name])
    if len(hosts) > 1:
        message = f"{name} means {len(hosts)} hosts, and this needs one"
        raise UsageError(message, hint=several)
    return hosts[0]


def ssh_arguments(session: Session, host: Host) -> list[str]:
    """What follows the name of the program to reach the container: config file, IAM's address, alias."""
    from apexgpu.ssh.route import config_arguments, target_arguments

    where = Target(host, "container")
    return [*config_arguments(session.settings.ssh_config), *target_arguments(where), host.name]


def ready(session: Session, host: Host, command: str = "true") -> str:
    """Offer to start a stopped container, so that ssh does not end in `Connection refused`.

    What `command` said there; nothing where it had to be started. Raises what stands in the way: DeclinedError,
    RefusedError (stopped, and nobody to ask), UnreachableError …
    """
    outcome = manyhosts.run(session, [host], lambda one: _said(session, one, command))[0]
    if outcome.error is not None:
        raise outcome.error
    if outcome.value is None:
        offer_start(session, host)
    return outcome.value or ""


def offer_start(session: Session, host: Host) -> None:
    """Start the stopped container if the user agrees. DeclinedError, RefusedError (nobody to ask) …"""
    if not session.yes and not session.screen.can_ask:
        raise replies.container_stopped(host.name)
    session.confirm(f"The container on {host.name} is stopped. Start it?")
    from apexgpu.commands.hosts import start_all

    started = start_all(session, [host])[0]
    if started.error is not None:
        if session.screen.as_json:
            raise started.error
        raise typer.Exit(started.error.exit_code)  # it has been shown


def answers(session: Session, host: Host) -> bool:
    """Whether the container takes our login; False when it is stopped; anything else is its error."""
    return _said(session, host, "true") is not None


def _said(session: Session, host: Host, command: str) -> str | None:
    """What `command` said in the container; None when that is stopped."""
    try:
        return containershell.query(session.transport, host, command).out
    except RefusedError as exc:
        if exc.code != "stopped":
            raise
        return None
