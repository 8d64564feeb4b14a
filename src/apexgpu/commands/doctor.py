"""doctor and uninstall: what is wrong, and how to get rid of everything."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer

from apexgpu import doctor as checks
from apexgpu import uninstall as removal
from apexgpu.commands.options import Group, session_of
from apexgpu.credentials import forget_password, password_problem
from apexgpu.models import Finding, Host
from apexgpu.results import finding_json
from apexgpu.session import Session
from apexgpu.ssh import fanout

app = Group()


@app.command("doctor")
def doctor(
    ctx: typer.Context,
    host: Annotated[
        str | None,
        typer.Argument(
            metavar="[HOST]", help="A host name or glob; all by default.", show_default=False
        ),
    ] = None,
) -> None:
    """Look at everything between this machine and your containers, say what is wrong and what to paste.

    It changes nothing. Exit code 1 when there is a problem. Example: apexgpu doctor gpu7
    """
    session = session_of(ctx)
    here = []
    for finding in checks.check_machine(session, lambda: password_problem(session)):
        here.append(finding)
        _show(session, finding.check, finding)
    hosts = session.hosts([host] if host else []) if checks.hosts_are_known(session, here) else []
    with session.screen.working(f"asking {len(hosts)} hosts"):
        outcomes = fanout.each(
            hosts, lambda one: checks.check_host(session, one, named=host is not None)
        )
    reports = [outcome.value for outcome in outcomes if outcome.value is not None]
    found = [report.findings for report in reports]
    for one, findings in zip(hosts, found, strict=True):
        _show_host(session, one, findings, everything=host is not None)
    for finding in checks.check_network(reports):
        here.append(finding)
        _show(session, finding.check, finding)
    raise typer.Exit(_finish(session, here, hosts, found))


def _show(session: Session, what: str, finding: Finding) -> None:
    session.screen.verdict(finding.verdict, what, finding.fact, hint=finding.hint)


def _show_host(
    session: Session, host: Host, findings: Sequence[Finding], *, everything: bool
) -> None:
    """Every line of a host that was asked for, or has a problem; one line for the others."""
    if everything or any(one.verdict == "problem" for one in findings):
        for finding in findings:
            fact = f"{finding.check}: {finding.fact}"
            session.screen.verdict(finding.verdict, host.name, fact, hint=finding.hint)
        return
    last = findings[-1]
    session.screen.verdict(
        last.verdict, host.name, ", ".join(one.fact for one in findings), hint=last.hint
    )


def _finish(
    session: Session,
    here: Sequence[Finding],
    hosts: Sequence[Host],
    found: Sequence[Sequence[Finding]],
) -> int:
    problems = [one for findings in (here, *found) for one in findings if one.verdict == "problem"]
    rows = []
    for one, findings in zip(hosts, found, strict=True):
        first = next((finding for finding in findings if finding.verdict == "problem"), None)
        error = (
            {"code": first.code or "problem", "message": first.fact, "hint": first.hint}
            if first
            else None
        )
        values = [finding_json(finding) for finding in findings]
        rows.append({"host": one.name, "ok": first is None, "error": error, "checks": values})
    session.screen.document(
        {"ok": not problems, "checks": [finding_json(one) for one in here], "hosts": rows}
    )
    many = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}; the lines after `hint:` are to be pasted"
    session.screen.result(many if problems else f"All well. {_FURTHER}")
    return 1 if problems else 0


_FURTHER = (
    "What only a try can tell: apexgpu verify HOST (the GPU), apexgpu x11 check HOST (windows)"
)


@app.command("uninstall")
def uninstall(ctx: typer.Context) -> None:
    """Take away all that apexgpu wrote on this machine, after showing it. Your keys stay, here and in IAM.

    Run twice, it has nothing to do. Example: apexgpu uninstall
    """
    session = session_of(ctx)
    knows_user = bool(session.settings.user)
    has_password = knows_user and not password_problem(session)
    parts = removal.parts(
        session.settings,
        session.runner,
        password=partial(forget_password, session) if has_password else None,
    )
    cut = removal.interrupted(session.settings)
    for fact in cut:
        session.screen.warn(f"{fact}; after this, nothing here will know of it")
    if parts and not session.yes:
        for part in parts:
            session.screen.note(f"  {part.name:<12} {part.what}")
        session.confirm("Take all of this away?")
    for part in parts:
        part.take()
        session.screen.good(f"gone: {part.what}")
    facts = removal.left(session.settings)
    for fact in facts:
        session.screen.note(f"  left: {fact}")
    session.screen.document(
        {
            "ok": True,
            "changed": bool(parts),
            "removed": [part.name for part in parts],
            "left": facts,
            "interrupted": cut,
        }
    )
    session.screen.result(
        _PROGRAM if parts else f"Nothing to do: apexgpu has left nothing here. {_PROGRAM}"
    )


_PROGRAM = "The program itself goes with: pipx uninstall apexgpu   (or pip uninstall apexgpu)"
