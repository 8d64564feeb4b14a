"""What may be wrong with one host: the way there, its manage shell, your key, your container. Changes nothing."""

from collections.abc import Iterator, Sequence

from apexgpu.doctor import Patient, guarded
from apexgpu.errors import ApexError
from apexgpu.models import Finding, Host, Target


def host(patient: Patient, one: Host, *, named: bool) -> list[Finding]:
    """One host from here: the way, its manage shell, your key, your container. Raises nothing of ours.

    Not to be registered is a problem of a host that was `named`, and to be expected of the others.
    """
    found = list(guarded("route", lambda patient: [_route(patient, one)], patient))
    if found[-1].verdict == "problem":
        return found
    return [*found, *_manage(patient, one, named=named)]


def network(found: Sequence[Sequence[Finding]]) -> Iterator[Finding]:
    """What all hosts together tell: when none answers, it is not the hosts."""
    silent = [
        any(one.code in {"timeout", "no_network", "no_route"} for one in findings)
        for findings in found
    ]
    if len(silent) > 1 and all(silent):
        yield Finding(
            "network",
            "problem",
            "no host answers: this machine is not on the lab's network",
            "connect the VPN, then: apexgpu doctor",
        )


def _route(patient: Patient, one: Host) -> Finding:
    route = patient.transport.route(Target(one, "manage"))
    through = next(
        (
            f" through {route.one(name)}"
            for name in ("proxyjump", "proxycommand")
            if route.one(name, "none") != "none"
        ),
        "",
    )
    return Finding("route", "ok", f"{route.address} port {route.port}{through}")


def _manage(patient: Patient, one: Host, *, named: bool) -> Iterator[Finding]:
    from apexgpu.manageshell import manage

    link = patient.transport
    try:
        container = manage.container_state(link, one)
    except ApexError as error:
        yield _manage_trouble(one, error, named=named)
        return
    yield Finding("manage port", "ok", "the manage shell answers")
    yield Finding("key", "ok", "the key is accepted")
    if not container.running:
        yield Finding("container", "ok", "the container is stopped")
    elif not container.addresses:
        yield Finding(
            "container",
            "problem",
            "the container runs without an address",
            f"apexgpu down {one.name} && apexgpu up {one.name}   (if it stays: tell the administrators)",
            "no_address",
        )
    else:
        yield Finding("container", "ok", "the container is running")
        yield from guarded(
            "container port", lambda patient: [_container_port(patient, one)], patient
        )


def _manage_trouble(one: Host, error: ApexError, *, named: bool) -> Finding:
    if error.code == "not_registered":
        return Finding(
            "key",
            "problem" if named else "note",
            "not registered, or the key has not reached it yet",
            error.hint,
            error.code,
        )
    if error.code == "host_key_unknown":
        return Finding(
            "host key",
            "note",
            "not confirmed yet, so nothing was asked",
            f"apexgpu status {one.name}",
            error.code,
        )
    if error.code == "host_key_changed":
        return Finding("host key", "problem", error.message, error.hint, error.code)
    hint = (
        error.hint
        if not (error.hint or "").startswith("apexgpu doctor")
        else f"ssh -v {one.manage_name} help   (other hosts answer? then tell the administrators)"
    )
    return Finding("manage port", "problem", error.message, hint, error.code)


def _container_port(patient: Patient, one: Host) -> Finding:
    from apexgpu.errors import UnreachableError
    from apexgpu.manageshell.starting import explain_port_error

    try:
        patient.transport.run(Target(one, "container"), "true", once=True)
    except UnreachableError as error:
        raise explain_port_error(one, error) from None
    except ApexError as error:
        if error.code != "host_key_unknown":
            raise
        return Finding(
            "container port",
            "note",
            "its host key is not confirmed yet, so nothing was asked",
            f"apexgpu up {one.name}",
            error.code,
        )
    return Finding("container port", "ok", f"its port {one.port} takes the key")
