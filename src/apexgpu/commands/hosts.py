"""register, up, down, status: the containers on the hosts."""

import time
from typing import Annotated, Any

import typer

from apexgpu import containers, manyhosts
from apexgpu.archives.journal import Journal
from apexgpu.commands import port
from apexgpu.commands.options import AllHosts, Group, HostsArgument, session_of
from apexgpu.errors import RefusedError
from apexgpu.manageshell import containershell, manage, portmaps, starting
from apexgpu.manageshell.replies import StartReply, StopReply, clean
from apexgpu.manageshell.starting import StartedContainer
from apexgpu.models import Host, Outcome
from apexgpu.results import Result
from apexgpu.session import Session
from apexgpu.ssh.route import config_arguments

app = Group()


@app.command("register")
def register(
    ctx: typer.Context, hosts: HostsArgument = None, everything: AllHosts = False
) -> Result:
    """Make your container on HOST, once. It takes minutes; do not interrupt it.

    Example: apexgpu register gpu7
    """
    session = session_of(ctx)
    return containers.register_on(session, session.some_hosts(hosts or [], everything))


@app.command("up")
def up(
    ctx: typer.Context,
    hosts: HostsArgument = None,
    everything: AllHosts = False,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait for the start and for its port.")
    ] = 120,
) -> None:
    """Start your container on HOST and wait until it answers SSH.

    Example: apexgpu up gpu7
    """
    session = session_of(ctx)
    chosen = session.some_hosts(hosts or [], everything)
    raise typer.Exit(
        manyhosts.finish(
            session, start_all(session, chosen, wait=wait, spoil=session.yes), _up_value
        )
    )


def _not_under_tar(session: Session, host: Host) -> None:
    """A container must not be started under a tar that may still be saving it, or be unpacking it."""
    entry = Journal(session.state_dir).find(host.name)
    if entry is not None and entry.stage in {"tar", "unpack"}:
        what = "spoil the archive" if entry.stage == "tar" else "be one of half a container"
        message = f"{entry.words()}: a start now would {what}"
        hint = f"apexgpu {entry.what} {host.name}   (finishes it; or: apexgpu up {host.name} --yes)"
        raise RefusedError(message, hint=hint, code="under_way")


def start_all(
    session: Session, hosts: list[Host], *, wait: float = 120, spoil: bool = False
) -> list[Outcome[StartedContainer]]:
    """Start on all of `hosts`, and show each as it answers.

    `spoil` allows a start under a tar that may be running: only `up --yes` says that, not a yes to anything else.
    """
    started: dict[str, StartReply] = {}
    with session.screen.working(f"starting on {_names(hosts)}") as progress:

        def heard(host: Host, line: str) -> None:
            text = clean(line).lstrip("= ")
            progress.update(f"{host.name}: {text}")
            if _worth_keeping(text):
                session.screen.note(f"  {host.name}: {text}")

        def done(outcome: Outcome[StartedContainer]) -> None:
            _show_up(session, outcome)

        def work(host: Host) -> StartedContainer:
            if not spoil:
                _not_under_tar(session, host)
            return starting.up(
                session.transport,
                host,
                state_dir=session.state_dir,
                wait=wait,
                pause=time.sleep,
                on_line=lambda line: heard(host, line),
                started=started,
            )

        outcomes = manyhosts.run(session, hosts, work, on_done=done)
    port.offer_again(
        session,
        [one.host for one in outcomes if one.value is not None and not one.value.was_running],
    )
    return outcomes


def _worth_keeping(text: str) -> bool:
    return text.startswith(
        (
            "Starting your",
            "The container is up",
            "NVIDIA",
            "Installing",
            "Failed",
            "Successfully",
            "Done! Trying",
            "You might",
        )
    )


def _show_up(session: Session, outcome: Outcome[StartedContainer]) -> None:
    name = outcome.host.name
    if outcome.error is not None or outcome.value is None:
        if outcome.error is not None:
            manyhosts.show_error(session, outcome.host, outcome.error)
        return
    driver = outcome.value.driver
    if driver is not None and not driver.installed:
        session.screen.warn(
            f"{name}: the container's NVIDIA driver ({driver.container or 'none'}) is not the host's ({driver.host}); "
            "CUDA programs will fail there",
            hint="tell the administrators that the installer for this driver is missing",
        )
    state = "was up already" if outcome.value.was_running else "is up"
    plain = not config_arguments(session.settings.ssh_config)  # a config that ssh reads by itself
    session.screen.good(f"{name} {state}. Next: {'ssh' if plain else 'apexgpu ssh'} {name}")


def _up_value(value: StartedContainer) -> dict[str, Any]:
    driver = value.driver
    return {
        **containers.container_json(value.container),
        "changed": not value.was_running,
        "driver": None
        if driver is None
        else {"host": driver.host, "container": driver.container, "installed": driver.installed},
    }


@app.command("down")
def down(ctx: typer.Context, hosts: HostsArgument = None, everything: AllHosts = False) -> None:
    """Stop your container on HOST. Its files stay; what runs in it ends.

    Example: apexgpu down gpu7
    """
    session = session_of(ctx)
    chosen = session.some_hosts(hosts or [], everything)
    with session.screen.working(f"looking at {_names(chosen)}"):
        states = manyhosts.run(session, chosen, lambda host: _running_use(session, host))
    confirm_stop(session, states)
    with session.screen.working(f"stopping on {_names(chosen)}") as progress:

        def done(outcome: Outcome[StopReply]) -> None:
            _show_down(session, outcome)

        def work(host: Host) -> StopReply:
            stopped = manage.down(
                session.transport,
                host,
                state_dir=session.state_dir,
                on_line=lambda line: progress.update(f"{host.name}: {clean(line)}"),
            )
            portmaps.remember(session.state_dir, host, stopped.ports)
            return stopped

        found = (
            manyhosts.run(session, [state.host for state in states if state.ok], work, on_done=done)
            if any(state.ok for state in states)
            else []
        )
        stopped = {outcome.host: outcome for outcome in found}
        for state in states:
            if state.error is not None:
                manyhosts.show_error(session, state.host, state.error)
    outcomes = [stopped.get(state.host, Outcome(state.host, None, state.error)) for state in states]
    code = manyhosts.finish(
        session,
        outcomes,
        lambda value: {
            "state": "STOPPED",
            "changed": value.was_running,
            "unmapped": list(value.unmapped),
        },
    )
    raise typer.Exit(code)


def _running_use(session: Session, host: Host) -> containershell.Activity | None:
    """What goes on in a running container; None where it is stopped."""
    found = manage.status(session.transport, host)
    if not found.registered:
        from apexgpu.models import Target
        from apexgpu.ssh.failures import key_refused_error

        raise key_refused_error(Target(host, "manage"))
    if found.container is None or not found.container.running:
        return None
    return containershell.activity(session.transport, host)


def confirm_stop(session: Session, states: list[Outcome[containershell.Activity | None]]) -> None:
    """Show who and what is at work in the containers that run, and ask whether they may be stopped."""
    running = [state for state in states if state.value is not None]
    if not running:
        return
    for state in running:
        show_use(session, state.host, state.value)
    busy = [state.host.name for state in running if state.value and state.value.busy]
    in_use = f" ({', '.join(busy)} in use)" if busy else ""
    session.confirm(
        f"Stop the running container on {_names([state.host for state in running])}{in_use}?"
    )


def show_use(session: Session, host: Host, use: containershell.Activity | None) -> None:
    """Who and what would be ended by a stop, for somebody who is about to be asked."""
    if use is None or session.yes:
        return
    for what, lines in (("logged in", use.sessions), ("on a GPU", use.gpu_processes)):
        for line in lines:
            session.screen.note(f"  {host.name}: {what}: {line}")


def _show_down(session: Session, outcome: Outcome[StopReply]) -> None:
    name = outcome.host.name
    if outcome.error is not None:
        manyhosts.show_error(session, outcome.host, outcome.error)
    elif outcome.value is not None and outcome.value.was_running:
        maps = [line for line in outcome.value.unmapped if not line.endswith("container:22")]
        gone = f" Port maps that went with it: {', '.join(maps)}." if maps else ""
        session.screen.good(f"{name} is down.{gone} Next: apexgpu up {name}")
    else:
        session.screen.good(f"{name} was down already")


@app.command("status")
def status(
    ctx: typer.Context,
    hosts: HostsArgument = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Keep showing it, refreshed every 5 s.")
    ] = False,
) -> Result:
    """Show every host: registered, running, address, memory, and what is wrong.

    Name hosts to also learn their uptime and what is free on their disks. Example: apexgpu status gpu7
    """
    return containers.status(session_of(ctx), hosts or [], watch=watch)


def _names(hosts: list[Host]) -> str:
    names = [host.name for host in hosts]
    return ", ".join(names) if len(names) <= 4 else f"{len(names)} hosts"
