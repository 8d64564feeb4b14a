"""What `apexgpu doctor` checks on one host: route, manage shell, key, container."""

from dataclasses import dataclass

from apexgpu.errors import (
    ApexError,
    CommandTimeoutError,
    ConnectTimeoutError,
    HostKeyError,
    NoNetworkError,
    NoRouteError,
    NotRegisteredError,
    UnreachableError,
)
from apexgpu.manageshell import manage
from apexgpu.manageshell.starting import explain_port_error
from apexgpu.models import Finding, Host, Target
from apexgpu.ssh import sshoptions
from apexgpu.ssh.checks import describe_route
from apexgpu.ssh.failures import UnknownHostKeyError
from apexgpu.ssh.transport import Connections

_NO_ANSWER = (ConnectTimeoutError, CommandTimeoutError, NoNetworkError, NoRouteError)


@dataclass(frozen=True, slots=True)
class HostFindings:
    """What was found on one host; `silent` if nothing answered (maybe because of the network).

    `no_route` if that is because this machine, or a router, reports that there is no way to it.
    """

    host: Host
    findings: tuple[Finding, ...]
    silent: bool = False
    no_route: bool = False


def check_host(connections: Connections, host: Host, *, named: bool) -> HostFindings:
    """Check one host. No ApexError is raised: each becomes a finding.

    The user may not be registered on every host. On a host that was `named` on the command line
    that is a problem, on the others only a note.
    """
    try:
        route = connections.route(Target(host, "manage"))
    except ApexError as error:
        return HostFindings(host, (Finding.from_error("route", error),))
    route_finding = Finding.ok("route", describe_route(route))
    try:
        container = manage.container_state(connections, host, new_connection=True)
    except ApexError as error:
        trouble = _manage_trouble(host, error, named=named)
        return HostFindings(
            host,
            (route_finding, trouble),
            silent=isinstance(error, _NO_ANSWER),
            no_route=isinstance(error, NoRouteError),
        )
    findings = [
        route_finding,
        Finding.ok("manage port", "the manage shell answers"),
        Finding.ok("key", "the key is accepted"),
    ]
    if not container.running:
        findings.append(Finding.ok("container", "the container is stopped"))
    elif not container.addresses:
        findings.append(
            Finding.problem(
                "container",
                "the container runs without an address; "
                "if a restart does not help, tell the administrators",
                f"apexgpu restart {host.name}",
                code="no_address",
            )
        )
    else:
        findings.append(Finding.ok("container", "the container is running"))
        findings.append(_check_container_port(connections, host))
    return HostFindings(host, tuple(findings))


def _manage_trouble(host: Host, error: ApexError, *, named: bool) -> Finding:
    if isinstance(error, NotRegisteredError):
        fact = "not registered, or the key has not reached it yet"
        if named:
            return Finding.problem("key", fact, error.hint, code=error.code)
        return Finding.note("key", fact, error.hint, code=error.code)
    if isinstance(error, UnknownHostKeyError):
        return Finding.note(
            "host key",
            "not confirmed yet, so nothing else was checked",
            f"apexgpu status {host.name}",
            code=error.code,
        )
    if isinstance(error, HostKeyError):
        return Finding.from_error("host key", error)
    if (error.hint or "").startswith("apexgpu doctor"):
        # The hint would lead back here; ssh itself shows more.
        fact = f"{error.message}; if other hosts answer, tell the administrators"
        hint = f"ssh -v -o {sshoptions.connect_timeout(10)} {host.manage_name} help"
        return Finding.problem("manage port", fact, hint, code=error.code)
    return Finding.from_error("manage port", error)


def _check_container_port(connections: Connections, host: Host) -> Finding:
    check = "container port"
    try:
        connections.run(Target(host, "container"), "true", once=True)
    except UnknownHostKeyError as error:
        return Finding.note(
            check,
            "its host key is not confirmed yet, so nothing else was checked",
            f"apexgpu up {host.name}",
            code=error.code,
        )
    except UnreachableError as error:
        return Finding.from_error(check, explain_port_error(host, error))
    except ApexError as error:
        return Finding.from_error(check, error)
    return Finding.ok(check, f"its port {host.port} accepts the key")
