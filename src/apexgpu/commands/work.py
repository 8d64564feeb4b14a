"""ssh and exec: work inside the containers."""

import shlex
from typing import Annotated, Any

import typer

from apexgpu import manyhosts
from apexgpu.commands import reach
from apexgpu.commands.options import AllHosts, Group, OneHost, session_of
from apexgpu.errors import UsageError
from apexgpu.manageshell import containershell
from apexgpu.models import Host, Outcome, Reply, Target
from apexgpu.session import Session

app = Group()

_PASS_ON = {"allow_interspersed_args": False}


@app.command("ssh", context_settings=_PASS_ON)
def ssh(
    ctx: typer.Context,
    host: OneHost,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- CMD...]", help="A command instead of a shell."),
    ] = None,
) -> None:
    """Open a shell in your container on HOST, or run CMD there; its exit status is ours.

    Examples: apexgpu ssh gpu7 · apexgpu ssh gpu7 -- nvidia-smi
    """
    session = session_of(ctx)
    chosen = reach.one_host(
        session, host, several=f"apexgpu exec '{host}' -- CMD   runs on all of them"
    )
    if "json" in session.flags:
        raise typer.Exit(_told(session, chosen, list(command or [])))
    reach.ready(session, chosen)
    where = [*_straight(session, chosen), *reach.ssh_arguments(session, chosen)]
    # A shell is what the user's config makes of it (RemoteCommand tmux ...); with a command, ssh refuses to have both.
    words = ["-o", "RemoteCommand=none", *where, remote_command(command)] if command else where
    raise typer.Exit(session.runner.attach(["ssh", *words]))


def _straight(session: Session, host: Host) -> list[str]:
    """No shared connection where the user's ControlPath is the same for another machine: ssh would land there."""
    path = _control_path(session, Target(host, "container"))
    if path == "none":
        return []
    another = next(
        (Target(one, "container") for one in session.known_hosts if one != host and one.port), None
    )
    others = [Target(host, "manage"), *([another] if another else [])]
    return (
        ["-o", "ControlPath=none"]
        if path in {_control_path(session, other) for other in others}
        else []
    )


def _control_path(session: Session, target: Target) -> str:
    return session.transport.route(target).option("controlpath", "none")


def _told(session: Session, host: Host, command: list[str]) -> int:
    """What a command said as one JSON document, as `exec` has it; a shell has none."""
    words = remote_command(command) if command else ""
    if not words:
        hint = f"apexgpu ssh {host.name} --json -- CMD"
        raise UsageError("--json needs a command: a shell is no document", hint=hint)
    reach.ready(session, host)
    return _run(session, [host], words, limit=None)


def remote_command(words: list[str]) -> str:
    """The one string that goes to the remote shell: a single word as it is (it may be a script), else quoted."""
    words = words[1:] if words[:1] == ["--"] else words
    return words[0] if len(words) == 1 else shlex.join(words)


@app.command("exec", context_settings=_PASS_ON)
def execute(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="HOST... -- CMD...", show_default=False)
    ] = None,
    everything: AllHosts = False,
    limit: Annotated[
        float | None, typer.Option(help="Seconds the command may take; no limit by default.")
    ] = None,
) -> None:
    """Run CMD in your containers on HOST..., and show what each said.

    Examples: apexgpu exec gpu7 gpu8 -- nvidia-smi -L · apexgpu exec --all -- 'df -h /SSD | tail -1'
    """
    session = session_of(ctx)
    names, command = _split(session, list(words or []), everything)
    hosts = session.some_hosts(names, everything)
    raise typer.Exit(_run(session, hosts, command, limit=limit))


def _run(session: Session, hosts: list[Host], command: str, *, limit: float | None) -> int:
    """Run it on all of them, show what each said; the exit code."""
    with session.screen.working(f"running on {len(hosts)} host{'s' if len(hosts) > 1 else ''}"):
        outcomes = manyhosts.run(
            session,
            hosts,
            lambda host: containershell.execute(session.transport, host, command, total=limit),
        )
    if not session.screen.as_json:
        _show(session, outcomes)
    code = _exit_code(outcomes)
    session.screen.document({"ok": code == 0, "hosts": manyhosts.rows(outcomes, _value)})
    return code


def _split(session: Session, words: list[str], everything: bool) -> tuple[list[str], str]:
    cut = words.index("--") if "--" in words else None
    if cut is None:
        known = {host.name for host in session.known_hosts}
        cut = (
            0
            if everything
            else next(
                (
                    index
                    for index, word in enumerate(words)
                    if index and word not in known and not set("*?[") & set(word)
                ),
                len(words),
            )
        )
        names, command = words[:cut], words[cut:]
    else:
        names, command = words[:cut], words[cut + 1 :]
    if not command:
        raise UsageError("no command was given", hint="apexgpu exec HOST... -- CMD...")
    return names, remote_command(command)


def _show(session: Session, outcomes: list[Outcome[Reply]]) -> None:
    """Every line with its host in front, except for a single host, whose output is passed through."""
    if len(outcomes) == 1 and outcomes[0].value is not None:
        session.screen.raw(outcomes[0].value.out, outcomes[0].value.err)
        return
    widest = max(len(outcome.host.name) for outcome in outcomes)
    for outcome in outcomes:
        name = outcome.host.name.ljust(widest)
        if outcome.error is not None:
            manyhosts.show_error(session, outcome.host, outcome.error)
        elif outcome.value is not None:
            for line in outcome.value.out.splitlines():
                session.screen.result(f"{name}  {_plain(line)}")
            for line in outcome.value.err.splitlines():
                session.screen.note(f"{name}  {line}")
            if outcome.value.code:
                session.screen.note(f"{name}  exit status {outcome.value.code}")


def _plain(line: str) -> str:
    from apexgpu.text import safe

    return safe(line.replace("\t", "    "))


def _exit_code(outcomes: list[Outcome[Reply]]) -> int:
    """One host: its command's own status. Several: 0, 3 for some, 1 (or the common error's) for all."""
    from apexgpu.ssh import fanout

    if len(outcomes) == 1 and outcomes[0].value is not None:
        return outcomes[0].value.code
    failed = [outcome for outcome in outcomes if outcome.value is None or outcome.value.code]
    if not failed:
        return 0
    if len(failed) < len(outcomes):
        return 3
    return fanout.exit_code(outcomes) if all(outcome.error for outcome in outcomes) else 1


def _value(reply: Reply) -> dict[str, Any]:
    return {"exit": reply.code, "stdout": reply.out, "stderr": reply.err}
