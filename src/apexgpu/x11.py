"""Windows of your containers on this screen: check every link between them, run programs, install what is needed.

from apexgpu import x11
from apexgpu.session import Session

check = x11.check(Session(), "gpu7")
if check.broken is not None:
    print(check.broken.fact, check.broken.hint)
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from apexgpu import containers, manyhosts, shells
from apexgpu.errors import ApexError, MissingProgramError, RefusedError, UsageError
from apexgpu.manageshell import replies
from apexgpu.models import Finding, Host, Outcome
from apexgpu.platforms.system import current
from apexgpu.process import in_background, stdout_is_terminal
from apexgpu.results import HostResults, JsonObject, Result, error_json, finding_json
from apexgpu.session import Session
from apexgpu.xserver import containerchecks, displayfacts, installation, localchecks, sshsessions
from apexgpu.xserver.displayfacts import LocalDisplay
from apexgpu.xserver.sshforwarding import ForwardingOptions
from apexgpu.xserver.sshsessions import EndedProgram

# check


@dataclass(frozen=True)
class WindowCheck(Result):
    """What `check` found: on this machine, and on the way to a window of the container on `host`, if one was named.

    `host_error` is why the container could not be checked, where it could not.
    """

    host: Host | None
    local: Sequence[Finding]
    remote: Sequence[Finding]
    host_error: ApexError | None = None

    @property
    def broken(self) -> Finding | None:
        """The first broken link; None if none is."""
        return _first_broken([*self.local, *self.remote])

    @property
    def unknown(self) -> list[str]:
        """The names of the checks that could not be made. OpenGL is left out, because few programs need it."""
        names = []
        for finding in (*self.local, *self.remote):
            if finding.verdict == "unknown" and finding.check != "OpenGL":
                names.append(finding.check)
        return names

    @property
    def error(self) -> ApexError | None:
        """The error that stands for the broken link."""
        return self.host_error or _error_of(self.broken)

    @property
    def exit_code(self) -> int:
        """See Result."""
        return self.error.exit_code if self.error is not None else 0

    def to_json(self) -> JsonObject:
        """`checks` are those of this machine, `hosts` has a row if a host was named."""
        document: JsonObject = {"ok": self.broken is None}
        if self.error is not None:
            document["error"] = error_json(self.error)
        document["checks"] = [finding_json(finding) for finding in self.local]
        document["hosts"] = []
        if self.host is not None:
            row = {
                "host": self.host.name,
                "ok": self.broken is None,
                "error": error_json(self.error),
                "checks": [finding_json(finding) for finding in self.remote],
            }
            document["hosts"].append(row)
        return document


def check(session: Session, name: str | None = None, *, trusted: bool = False) -> WindowCheck:
    """Check every link from this screen to a window of the container on the host `name`; without it, those here.

    A small window is shown for a moment. Nothing is changed, and a stopped container is not started. `trusted` checks
    as for programs that are trusted with the whole screen. Broken links are in the result; UsageError is raised for a
    name that matches several hosts.
    """
    host = containers.one_host(session, name) if name is not None else None
    again = f"apexgpu x11 check {host.name}" if host is not None else "apexgpu x11 check"
    with session.reporter.working("looking for an X server"):
        display = _local_display(session, host)
    try:
        local = localchecks.check_display(current(), display.facts, trusted=trusted, again=again)
        if host is None:
            return WindowCheck(None, local, ())
        if _first_broken(local) is not None or display.connection is None:
            return WindowCheck(host, local, [Finding.skipped("container")])
        with session.reporter.working(f"showing a window from {host.name}"):
            remote, error = _check_container(session, host, display, trusted=trusted)
        return WindowCheck(host, local, remote, error)
    finally:
        display.close()


def _local_display(session: Session, host: Host | None) -> LocalDisplay:
    ssh_arguments = shells.ssh_arguments(session, host) if host is not None else []
    return displayfacts.collect(session.runner, session.environment, ssh_arguments)


def _check_container(
    session: Session, host: Host, display: LocalDisplay, *, trusted: bool
) -> tuple[list[Finding], ApexError | None]:
    """The checks beyond this machine, and the error that prevented them, if one did."""

    def work(host: Host) -> list[Finding]:
        if not containers.is_running(session, host):
            raise replies.container_stopped(host.name)
        return _show_test_window(session, host, display, trusted=trusted)

    (outcome,) = manyhosts.run(session, [host], work)
    if outcome.error is not None:
        error = outcome.error
        finding = Finding.broken("container", error.message, error.hint, code=error.code)
        return [finding], error
    login = Finding.ok("container", "it accepts your key")
    return [login, *(outcome.value or [])], None


def _show_test_window(
    session: Session, host: Host, display: LocalDisplay, *, trusted: bool
) -> list[Finding]:
    if display.connection is None:
        return []
    options = ForwardingOptions(
        trusted=trusted,
        xauth=display.xauth_for_ssh,
        batch=True,
        connect=session.settings.timeout,
    )
    ssh_arguments = shells.ssh_arguments(session, host)
    test = sshsessions.show_test_window(
        session.runner, host, ssh_arguments, display.connection, options
    )
    return containerchecks.check_forwarding(test, host.name, trusted=trusted)


def _first_broken(findings: Sequence[Finding]) -> Finding | None:
    for finding in findings:
        if finding.verdict == "broken":
            return finding
    return None


def _error_of(finding: Finding | None) -> ApexError | None:
    """The error that a broken link is for a command that needs the link."""
    if finding is None:
        return None
    code = finding.code or "x11"
    if code in localchecks.NOT_INSTALLED:
        return MissingProgramError(finding.fact, hint=finding.hint, code=code)
    return RefusedError(finding.fact, hint=finding.hint, code=code)


# run


@dataclass(frozen=True)
class WindowProgram(Result):
    """What `run` returns: how the program ended, and why no window came, where that is known.

    The program's output is in `ended` if it was captured.
    """

    host: Host
    ended: EndedProgram
    explanation: Finding | None = None

    @property
    def exit_code(self) -> int:
        """The program's own exit status."""
        return self.ended.code

    def to_json(self) -> JsonObject:
        """A row with `exit`, `stdout`, `stderr`, and in `windows` how many connections the windows made."""
        error = _error_of(self.explanation) if self.ended.code else None
        row = {
            "host": self.host.name,
            "ok": self.ok,
            "error": error_json(error),
            "exit": self.ended.code,
            "stdout": self.ended.out,
            "stderr": self.ended.err,
            "windows": self.ended.log.opened,
        }
        return {"ok": self.ok, "hosts": [row]}


def run(
    session: Session,
    name: str,
    command: Sequence[str],
    *,
    trusted: bool = False,
    compress: bool = False,
    captured: bool = False,
) -> WindowProgram:
    """Run a program in the container on the host `name`, with its windows on this screen, until it ends.

    By default the program is untrusted: it cannot see what other windows show, nor read their keys. A stopped
    container is started if the user agrees. `captured` returns the program's output instead of showing it.

    Raises RefusedError or MissingProgramError if there is no usable X server here, and what `containers.ensure_running`
    raises.
    """
    if not command:
        raise UsageError("no program was given", hint=f"apexgpu x11 run {name} xeyes")
    host = containers.one_host(session, name)
    again = f"apexgpu x11 run {host.name} {shlex.join(command)}"
    display = _local_display(session, host)
    try:
        local = localchecks.check_display(current(), display.facts, trusted=trusted, again=again)
        error = _error_of(_first_broken(local))
        if error is not None:
            raise error
        containers.ensure_running(session, host)
        ended = sshsessions.run_program(
            session.runner,
            host,
            shells.ssh_arguments(session, host),
            shells.command_line(command),
            _options(session, display, trusted=trusted, compress=compress, captured=captured),
            captured=captured,
        )
        explanation = None
        if not ended.log.killed:
            explanation = _explain(session, host, display, ended, trusted=trusted, again=again)
    finally:
        display.close()
    return WindowProgram(host, ended, explanation)


def _options(
    session: Session, display: LocalDisplay, *, trusted: bool, compress: bool, captured: bool
) -> ForwardingOptions:
    background = in_background()
    has_terminal = session.reporter.can_ask and stdout_is_terminal()
    return ForwardingOptions(
        trusted=trusted,
        xauth=display.xauth_for_ssh,
        compress=compress,
        background=background,
        terminal=has_terminal and not captured and not background,
        connect=session.settings.timeout,
    )


def _explain(
    session: Session,
    host: Host,
    display: LocalDisplay,
    ended: EndedProgram,
    *,
    trusted: bool,
    again: str,
) -> Finding | None:
    """Find out why no window came. All links are checked if ssh reports that one of them is broken."""
    explanation = containerchecks.explain_end(
        ended.log, host.name, ended.code, trusted=trusted, again=again
    )
    if not ended.log.reports_broken_link:
        return explanation
    with session.reporter.working("looking for the broken link"):
        (outcome,) = manyhosts.run(
            session,
            [host],
            lambda host: _show_test_window(session, host, display, trusted=trusted),
        )
    return _first_broken(outcome.value or []) or explanation


# install


@dataclass(frozen=True)
class InstalledPackages:
    """The packages that are installed now; `changed` if any of them was not before."""

    packages: tuple[str, ...]
    changed: bool

    def to_json(self) -> JsonObject:
        """Its keys in a row of `x11 install`."""
        return {"packages": list(self.packages), "changed": self.changed}


class Installations(HostResults[InstalledPackages]):
    """What `install` returns."""


def install(session: Session, name: str, *, full: bool = False) -> Installations:
    """Install in the container on the host `name` what windows need: xauth and x11-apps, with `full` all of xorg.

    A stopped container is started if the user agrees. After Ctrl-C, apt continues in the container.
    """
    host = containers.one_host(session, name)
    containers.ensure_running(session, host)
    with session.reporter.working(f"installing on {host.name}") as progress:

        def work(host: Host) -> InstalledPackages:
            completed = installation.install(
                session.transport, host, full=full, on_line=progress.update
            )
            return InstalledPackages(completed.packages, completed.changed)

        outcomes: list[Outcome[InstalledPackages]] = manyhosts.run(session, [host], work)
    return Installations(outcomes)
