"""doctor: find out what is wrong between this machine and the containers.

It changes nothing: no host key is trusted, no container started, no password sent. The checks
themselves are in the `checks` module of each technology.

Example:
    >>> from apexgpu import doctor
    >>> from apexgpu.session import Session
    >>> diagnosis = doctor.diagnose(Session(), "gpu7")
    >>> [problem.fact for problem in diagnosis.problems]
"""

import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from apexgpu import __version__, files
from apexgpu.errors import ApexError, ConfigError
from apexgpu.manageshell.checks import HostFindings
from apexgpu.models import Finding, Host, Target
from apexgpu.platforms import hints, localnetwork, owner, version
from apexgpu.platforms.system import current
from apexgpu.results import JsonObject, Result, finding_json
from apexgpu.session import Session
from apexgpu.ssh import fanout
from apexgpu.text import counted, safe

Check = Callable[[Session], Iterable[Finding]]


@dataclass(frozen=True)
class Diagnosis(Result):
    """What `diagnose` found: on this machine, on each host, and about the network between them.

    `named` if the user asked about certain hosts. The exit code is 1 if there is a problem.
    """

    machine: tuple[Finding, ...]
    hosts: tuple[HostFindings, ...]
    network: tuple[Finding, ...]
    named: bool
    report: Path | None = None

    @property
    def problems(self) -> list[Finding]:
        """Everything that is broken."""
        findings = [*self.machine, *self.network]
        for host in self.hosts:
            findings += host.findings
        return [finding for finding in findings if finding.verdict == "problem"]

    @property
    def exit_code(self) -> int:
        """See Result."""
        return 1 if self.problems else 0

    def to_json(self) -> JsonObject:
        """See Result."""
        checks = [finding_json(finding) for finding in (*self.machine, *self.network)]
        return {
            "ok": self.ok,
            "checks": checks,
            "hosts": [_host_json(host) for host in self.hosts],
            "report": str(self.report) if self.report else None,
        }


def diagnose(
    session: Session, pattern: str | None = None, *, report: Path | None = None
) -> Diagnosis:
    """Check this machine, then the hosts that `pattern` (a name or glob) names, or all.

    Failures are findings, not errors. With `report`, the result is also written into this file.

    Raises:
        UnknownHostError: `pattern` names no host.
        ConfigError: the report cannot be written.
    """
    diagnosis = _diagnose(session, pattern)
    if report is None:
        return diagnosis
    path = report.expanduser().absolute()
    try:
        files.replace_atomically(path, _report_text(session, diagnosis).encode())
    except OSError as exc:
        message = f"{path} cannot be written: {exc.strerror or exc}"
        raise ConfigError(message, hint="apexgpu doctor --report report.txt") from None
    return replace(diagnosis, report=path)


def _diagnose(session: Session, pattern: str | None) -> Diagnosis:
    with session.reporter.working("checking this machine"):
        machine = list(check_machine(session))
    hosts = []
    if hosts_are_known(session, machine):
        hosts = session.hosts([pattern] if pattern else [])
    is_named = pattern is not None
    with session.reporter.working(f"asking {counted(len(hosts), 'host')}"):
        outcomes = fanout.each(hosts, lambda host: check_host(session, host, named=is_named))
    reports = [outcome.value for outcome in outcomes if outcome.value is not None]
    return Diagnosis(
        machine=tuple(machine),
        hosts=tuple(reports),
        network=tuple(check_network(reports)),
        named=is_named,
    )


def check_machine(session: Session) -> Iterator[Finding]:
    """Check everything but the hosts, in the order of the way to them."""
    system = f"{version.describe_system()}, Python {platform.python_version()}"
    terminal = version.describe_terminal(current(), os.environ)
    if terminal:
        system = f"{system}, {terminal}"
    yield Finding.ok("program", f"apexgpu {__version__} on {system}")
    if version.is_store_python(sys.base_prefix, current()):
        fact = (
            "this Python is from the Microsoft Store: other programs, such as ssh and editors, do not see what it"
            " writes below AppData; install Python from python.org, then install this program with it"
        )
        yield Finding.note("program", fact, "winget install Python.Python.3.13")
    try:
        yield from _check_settings(session)
    except ConfigError as error:
        yield Finding.from_error("settings", error)
        return  # nothing else can be checked without settings
    except ApexError as error:
        yield Finding.from_error("settings", error)
        has_account = False
    else:
        has_account = True
    yield from _guarded("directories", _check_directories, session)
    yield from _guarded("programs", _check_programs, session)
    yield from _guarded("mounts", _check_mounts, session)
    yield from _guarded("agent", _check_agent, session)
    if not has_account:
        return
    yield from _guarded("key", _check_key, session)
    iam = list(_guarded("IAM", _check_iam, session))
    yield from iam
    if hosts_are_known(session, iam):
        yield from _guarded("ssh config", _check_ssh_config, session)
        yield from _guarded("ssh settings", _check_ssh_settings, session)
        yield from _guarded("known_hosts", _check_known_hosts, session)
    yield from _guarded("password", _check_password, session)


def hosts_are_known(session: Session, findings: Iterable[Finding]) -> bool:
    """Return whether there are hosts to check: remembered ones, or from an IAM that answers."""
    failed = {finding.check for finding in findings if finding.verdict == "problem"}
    if "settings" in failed:
        return False
    return "IAM" not in failed or bool(session.account.hosts)


def check_host(session: Session, host: Host, *, named: bool) -> HostFindings:
    """Check one host. Not to be registered is a problem only if the host was `named`."""
    from apexgpu.manageshell import checks

    return checks.check_host(session.transport, host, named=named)


def check_network(hosts: Sequence[HostFindings]) -> Iterator[Finding]:
    """Report the network if no host answers, because then the hosts are not the cause."""
    open_settings = localnetwork.open_settings_command(current())
    if hosts and open_settings and all(host.no_route for host in hosts):
        yield Finding.problem(
            "network",
            f"there is no way to any host: {localnetwork.explanation(current())}, or the VPN is not"
            " connected. Allow it for the terminal that you use; Terminal.app needs no permission",
            open_settings,
            code="local_network",
        )
        return
    if len(hosts) > 1 and all(host.silent for host in hosts):
        yield Finding.problem(
            "network",
            "no host answers: this machine is not on the lab's network; connect the VPN",
            "apexgpu doctor",
        )


def _guarded(check: str, run: Check, session: Session) -> Iterator[Finding]:
    """The findings of `run`; an ApexError becomes a finding too."""
    try:
        yield from run(session)
    except ApexError as error:
        yield Finding.from_error(check, error)


def _check_settings(session: Session) -> Iterator[Finding]:
    named = session.settings.named
    user_source = named["user"].source
    url = named["iam_url"]
    fact = f"user {session.user} ({user_source}), IAM {url.value} ({url.source})"
    yield Finding.ok("settings", fact)


def _check_directories(session: Session) -> Iterator[Finding]:
    check = "directories"
    for path in (session.settings.config_dir, session.settings.state_dir):
        existing = path
        while not existing.exists():
            existing = existing.parent
        if not os.access(existing, os.W_OK):
            yield Finding.problem(check, f"{path} cannot be written", hints.look_at(existing))
        elif path.exists() and owner.others_may_read(path.stat()):
            yield Finding.note(
                check,
                f"other users of this machine have access to {path}",
                hints.make_private(path, directory=True),
            )
        else:
            yield Finding.ok(check, str(path))


def _check_programs(session: Session) -> Iterator[Finding]:
    from apexgpu.ssh.checks import check_programs
    from apexgpu.sshfs.checks import check_mount_program

    yield from check_programs(session.runner)
    yield check_mount_program(session.runner)


def _check_mounts(session: Session) -> Iterator[Finding]:
    from apexgpu.sshfs.checks import check_mounts

    return check_mounts(session.settings.state_dir, session.account.hosts)


def _check_agent(session: Session) -> Iterator[Finding]:
    from apexgpu import keys
    from apexgpu.sshfiles.agentquery import agent_socket
    from apexgpu.sshfiles.checks import check_agent

    account = session.account
    sockets = []
    for agent in keys.offered_keys(session, account.hosts).agents:
        if agent != "none":
            sockets.append(agent_socket(agent, session.environment))
    # Two names may lead to one agent.
    for socket in dict.fromkeys(sockets):
        yield check_agent(
            session.agents.ask(socket),
            registered=account.fingerprint,
            needed=bool(account.fingerprint) and not account.identity_file,
            config=session.settings.ssh_config,
        )


def _check_key(session: Session) -> Iterator[Finding]:
    from apexgpu import keys
    from apexgpu.sshfiles.checks import check_key
    from apexgpu.sshfiles.userkeys import ask_agents

    account = session.account
    offered = keys.offered_keys(session, account.hosts)
    agent_keys, silent = ask_agents(offered, session.agents.ask)
    return check_key(
        account.identity_file,
        account.fingerprint,
        agent_keys,
        session.runner,
        agents_answer=not silent,
    )


def _check_iam(session: Session) -> Iterator[Finding]:
    from apexgpu.iam.checks import check_iam
    from apexgpu.iam.client import IamClient

    return check_iam(
        IamClient(session.iam_url, timeout=session.settings.timeout),
        session.user,
        registered=session.account.fingerprint,
        known_hosts=session.known_hosts,
        networks=session.networks,
    )


def _check_ssh_config(session: Session) -> Iterator[Finding]:
    from apexgpu.sshfiles.checks import check_ssh_config

    return check_ssh_config(session.settings.ssh_config, session.known_hosts, session.runner)


def _check_ssh_settings(session: Session) -> Iterator[Finding]:
    from apexgpu.sshfiles.checks import check_ssh_settings

    return check_ssh_settings(session.settings.ssh_config, session.known_hosts, session.runner)


def _check_password(session: Session) -> Iterator[Finding]:
    from apexgpu import credentials

    problem = credentials.password_problem(session)
    if problem:
        yield Finding.note("password", f"{problem}; commands that need it will ask")
    else:
        yield Finding.ok("password", "the keyring has it")


def _check_known_hosts(session: Session) -> Iterator[Finding]:
    from apexgpu.ssh.checks import check_known_hosts

    hosts = session.known_hosts
    route = session.transport.route(Target(hosts[0], "manage"))
    return check_known_hosts(route, hosts, session.settings.ssh_config)


def _host_json(host: HostFindings) -> JsonObject:
    error: JsonObject | None = None
    for finding in host.findings:
        if finding.verdict == "problem":
            error = {
                "code": finding.code or "problem",
                "message": finding.fact,
                "hint": finding.hint,
            }
            break
    return {
        "host": host.host.name,
        "ok": error is None,
        "error": error,
        "checks": [finding_json(finding) for finding in host.findings],
    }


# The report for an administrator


def _report_text(session: Session, diagnosis: Diagnosis) -> str:
    """Everything that was checked, with the settings, as text. No passwords, tokens or keys are in any of it."""
    from datetime import datetime

    lines = [
        "apexgpu doctor report",
        f"written   {datetime.now().astimezone().isoformat(timespec='seconds')}",
        f"apexgpu   {__version__}",
        f"system    {platform.platform()}, Python {platform.python_version()}",
    ]
    lines += ["", "Settings", *_setting_lines(session)]
    lines += ["", "This machine"]
    lines += [_finding_line(finding) for finding in (*diagnosis.machine, *diagnosis.network)]
    for host in diagnosis.hosts:
        lines += ["", f"{host.host.name}  {host.host.address}  port {host.host.port or '-'}"]
        lines += [_finding_line(finding) for finding in host.findings]
    problems = diagnosis.problems
    lines += ["", counted(len(problems), "problem")]
    return "".join(f"{_without_credentials(safe(line))}\n" for line in lines)


def _setting_lines(session: Session) -> list[str]:
    try:
        named = session.settings.named
    except ConfigError as error:
        return [f"  cannot be read: {error.message}"]
    return [
        f"  {name:<17} {setting.value or '-'}  ({setting.source})"
        for name, setting in named.items()
    ]


def _finding_line(finding: Finding) -> str:
    hint = f"  [{finding.hint}]" if finding.hint else ""
    return f"  {finding.verdict:<8} {finding.check:<13} {finding.fact}{hint}"


def _without_credentials(line: str) -> str:
    """The line without a name and a password in a URL: `http://alice:secret@iam` comes from settings and proxies."""
    return re.sub(r"(?<=://)[^/\s@]+@", "***@", line)
