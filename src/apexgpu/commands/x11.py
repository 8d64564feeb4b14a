"""x11: where the chain to a window on this screen is broken, and programs of a container on it."""

import shlex
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from apexgpu import manyhosts
from apexgpu.commands import reach
from apexgpu.commands.options import Group, OneHost, session_of
from apexgpu.errors import ApexError, MissingProgramError, RefusedError, UsageError
from apexgpu.manageshell import replies
from apexgpu.models import Finding, Host
from apexgpu.process import in_background
from apexgpu.results import error_json, finding_json
from apexgpu.session import Session
from apexgpu.shells import command_line
from apexgpu.xserver import probes, x11facts, x11install, x11local, x11remote, x11session
from apexgpu.xserver.x11facts import Here

app = Group()
windows = Group()
app.add_typer(
    windows, name="x11", help="Windows of your container on this screen: check, run, install."
)

Trusted = Annotated[
    bool, typer.Option("--trusted", "-Y", help="Trust what runs there with this whole screen.")
]


@windows.command("check")
def check(
    ctx: typer.Context,
    host: Annotated[
        str | None,
        typer.Argument(
            metavar="[HOST]",
            help="A host name; without one, this machine only.",
            show_default=False,
        ),
    ] = None,
    trusted: Trusted = False,
) -> None:
    """Find the broken link from a window there to this screen.

    Every link to your container on HOST is looked at; without HOST, those of this machine. A small window is shown
    for a moment. Nothing is changed. Example: apexgpu x11 check gpu7
    """
    session = session_of(ctx)
    chosen = reach.one_host(session, host) if host is not None else None
    again = f"apexgpu x11 check{f' {chosen.name}' if chosen else ''}"
    with session.screen.working("looking for an X server"):
        here = _here(session, chosen)
    try:
        local = x11local.probes(sys.platform, here.facts, trusted=trusted, again=again)
        for probe in local:
            _show(session, probe, "here")
        there, trouble = (
            _there(session, chosen, here, local, trusted=trusted) if chosen else ([], None)
        )
    finally:
        here.close()
    for probe in there:
        _show(session, probe, chosen.name if chosen else "")
    raise typer.Exit(_finish(session, chosen, local, there, trouble))


def _here(session: Session, host: Host | None) -> Here:
    where = reach.ssh_arguments(session, host) if host is not None else []
    return x11facts.collect(session.runner, session.environment, where)


def _there(
    session: Session, host: Host, here: Here, local: Sequence[Finding], *, trusted: bool
) -> tuple[list[Finding], ApexError | None]:
    """The links beyond this machine; the error that kept us from looking, where one did."""
    if _broken(local) or here.link is None:
        return [Finding("container", "skipped", "it needs what is broken above")], None

    def work(one: Host) -> list[Finding]:
        if not reach.answers(session, one):
            raise replies.container_stopped(one.name)
        return _session(session, one, here, trusted=trusted)

    with session.screen.working(f"showing a window from {host.name}"):
        outcome = manyhosts.run(session, [host], work)[0]
    error = outcome.error
    if error is not None:
        return [Finding("container", "broken", error.message, error.hint, error.code)], error
    return [
        Finding("container", "ok", "it answers, and takes the key"),
        *(outcome.value or []),
    ], None


def _session(session: Session, host: Host, here: Here, *, trusted: bool) -> list[Finding]:
    if here.link is None:
        return []
    where = reach.ssh_arguments(session, host)
    manner = probes.Manner(
        trusted=trusted, xauth=_told(here), batch=True, connect=session.settings.timeout
    )
    held = x11session.hold(session.runner, host, where, here.link, manner)
    return x11remote.chain(held, host.name, trusted=trusted)


def _told(here: Here) -> str:
    """The xauth that ssh has to be told of."""
    return here.facts.xauth if here.facts.xauth_option else ""


def _broken(probes: Sequence[Finding]) -> Finding | None:
    return next((one for one in probes if one.verdict == "broken"), None)


def _show(session: Session, probe: Finding, where: str) -> None:
    session.screen.verdict(
        probe.verdict,
        probe.check,
        f"{where}: {probe.fact}" if where else probe.fact,
        hint=probe.hint,
    )


def _finish(
    session: Session,
    host: Host | None,
    local: Sequence[Finding],
    there: Sequence[Finding],
    trouble: ApexError | None,
) -> int:
    first = _broken([*local, *there])
    error = trouble or _error(first)
    rows = []
    if host is not None:
        rows = [
            {
                "host": host.name,
                "ok": first is None,
                "error": error_json(error),
                "checks": [finding_json(one) for one in there],
            }
        ]
    session.screen.document(
        {
            "ok": first is None,
            **({"error": error_json(error)} if error else {}),
            "checks": [finding_json(one) for one in local],
            "hosts": rows,
        }
    )
    if first is None or error is None:
        unknown = [
            one.check
            for one in [*local, *there]
            if one.verdict == "unknown" and one.check != "OpenGL"
        ]
        well = "All well." if host else "All well here. The whole chain: apexgpu x11 check HOST"
        session.screen.result(
            f"Nothing is broken that could be looked at; not: {', '.join(unknown)}"
            if unknown
            else well
        )
        return 0
    session.screen.error(ApexError(f"broken: {first.check}: {first.fact}", hint=first.hint))
    return error.exit_code


def _error(probe: Finding | None) -> ApexError | None:
    """The error that a broken link is to a command that needs it."""
    if probe is None:
        return None
    kind = MissingProgramError if probe.code in x11local.NOT_INSTALLED else RefusedError
    return kind(probe.fact, hint=probe.hint, code=probe.code or "x11")


@windows.command("run", context_settings={"allow_interspersed_args": False})
def run(
    ctx: typer.Context,
    host: OneHost,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="CMD...", help="The program.", show_default=False)
    ] = None,
    trusted: Trusted = False,
    compress: Annotated[
        bool, typer.Option("--compress", "-C", help="Compress: for slow lines.")
    ] = False,
) -> None:
    """Run CMD in your container, its windows on this screen.

    Its exit status is ours. By default it is untrusted: it cannot read what other windows show, nor their keys.
    Some programs (OpenGL, copy and paste) need --trusted, with which it, and whoever is root on HOST, can read this
    whole screen and every key. Example: apexgpu x11 run gpu7 xeyes
    """
    session = session_of(ctx)
    words, trusted, compress = _own_options(list(command or []), trusted, compress)
    if not words:
        raise UsageError("no program was given", hint=f"apexgpu x11 run {host} xeyes")
    chosen = reach.one_host(session, host)
    again = f"apexgpu x11 run {chosen.name} {shlex.join(words)}"
    here = _here(session, chosen)
    try:
        local = x11local.probes(sys.platform, here.facts, trusted=trusted, again=again)
        if broken := _error(_broken(local)):
            raise broken
        reach.ready(session, chosen)
        code = _run(
            session,
            chosen,
            here,
            command_line(words),
            trusted=trusted,
            compress=compress,
            again=again,
        )
    finally:
        here.close()
    raise typer.Exit(code)


def _own_options(words: list[str], trusted: bool, compress: bool) -> tuple[list[str], bool, bool]:
    """Options after HOST are ours as long as they are ours: no program begins with a dash."""
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word == "--":
            break
        if word not in {"--trusted", "-Y", "--compress", "-C"}:
            raise UsageError(f"there is no option {word}", hint="apexgpu x11 run --help")
        trusted, compress = (
            trusted or word in {"--trusted", "-Y"},
            compress or word in {"--compress", "-C"},
        )
    return words, trusted, compress


def _run(
    session: Session,
    host: Host,
    here: Here,
    command: str,
    *,
    trusted: bool,
    compress: bool,
    again: str,
) -> int:
    background = in_background()
    terminal = (
        session.screen.can_ask
        and sys.stdout.isatty()
        and not session.screen.as_json
        and not background
    )
    manner = probes.Manner(
        trusted=trusted,
        xauth=_told(here),
        compress=compress,
        background=background,
        terminal=terminal,
        connect=session.settings.timeout,
    )
    where = reach.ssh_arguments(session, host)
    ended = x11session.show(
        session.runner, host, where, command, manner, captured=session.screen.as_json
    )
    found = (
        None
        if ended.said.killed
        else _explain(session, host, here, ended, trusted=trusted, again=again)
    )
    code = ended.code
    row = {
        "host": host.name,
        "ok": code == 0,
        "error": error_json(_error(found)) if code else None,
        "exit": code,
        "stdout": ended.out,
        "stderr": ended.err,
        "windows": ended.said.opened,
    }
    session.screen.document({"ok": code == 0, "hosts": [row]})
    return code


def _explain(
    session: Session, host: Host, here: Here, ended: x11session.Ended, *, trusted: bool, again: str
) -> Finding | None:
    """Say why no window came: the chain is run where ssh says that a link is broken."""
    found = x11remote.aftermath(ended.said, host.name, ended.code, trusted=trusted, again=again)
    if probes.blames_x11(ended.said):
        with session.screen.working("looking where the chain is broken"):
            outcome = manyhosts.run(
                session, [host], lambda one: _session(session, one, here, trusted=trusted)
            )[0]
        found = _broken(outcome.value or []) or found
    if found is None:
        return None
    if found.verdict == "broken":
        session.screen.error(RefusedError(found.fact, hint=found.hint))
    else:
        session.screen.warn(found.fact, hint=found.hint)
    return found


@windows.command("install")
def install(
    ctx: typer.Context,
    host: OneHost,
    full: Annotated[bool, typer.Option("--full", help="All of xorg too: half a gigabyte.")] = False,
) -> None:
    """Install in your container what windows need.

    These are xauth and x11-apps (xeyes, xclock), through apt. Run twice, it has nothing to do. Ctrl-C ends the
    watching; apt goes on there. Example: apexgpu x11 install gpu7
    """
    session = session_of(ctx)
    chosen = reach.one_host(session, host)
    reach.ready(session, chosen)
    with session.screen.working(f"installing on {chosen.name}") as progress:
        outcome = manyhosts.run(
            session,
            [chosen],
            lambda one: x11install.install(
                session.transport, one, full=full, on_line=progress.update
            ),
        )[0]
    if outcome.error is not None:
        manyhosts.show_error(session, chosen, outcome.error)
    elif outcome.value is not None:
        names = ", ".join(outcome.value.packages)
        what = "on {} already: nothing to do" if not outcome.value.changed else "installed on {}"
        session.screen.good(f"{names}: {what.format(chosen.name)}")
    raise typer.Exit(
        manyhosts.finish(
            session,
            [outcome],
            lambda value: {"packages": list(value.packages), "changed": value.changed},
        )
    )
