"""How the result of `apexgpu.doctor` looks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apexgpu.doctor import Diagnosis
from apexgpu.errorgroups import joined_hint, without_host
from apexgpu.manageshell.checks import HostFindings
from apexgpu.models import Finding
from apexgpu.render.screen import Screen
from apexgpu.text import counted

_NOT_CHECKED = (
    "Not checked here: GPU computing (apexgpu verify HOST), windows (apexgpu x11 check HOST)"
)


def show_diagnosis(result: Diagnosis, screen: Screen) -> None:
    """A line for each check, then one that sums up."""
    for finding in result.machine:
        screen.finding(finding)
    for hosts in _with_same_problems(result.hosts):
        first = hosts[0]
        if len(hosts) > 1:
            _show_problems(hosts, screen)
        elif result.named or _problems(first):
            _show_checks(first, screen)
        else:
            _show_summary(first, screen)
    for finding in result.network:
        screen.finding(finding)
    if result.report is not None:
        screen.reporter.note(f"the report for an administrator is in {result.report}")
    count = len(result.problems)
    if not count:
        screen.paragraph(f"All well. {_NOT_CHECKED}")
    else:
        screen.line(f"{counted(count, 'problem')}; run the command after each `hint:`")


def _problems(host: HostFindings) -> list[Finding]:
    return [finding for finding in host.findings if finding.verdict == "problem"]


def _with_same_problems(hosts: Sequence[HostFindings]) -> list[list[HostFindings]]:
    """The hosts in their order, those with the same problems together; one without problems is alone."""
    groups: dict[tuple[object, ...], list[HostFindings]] = {}
    for host in hosts:
        key: list[object] = []
        for finding in _problems(host):
            fact = without_host(finding.fact, host.host)
            key.append((finding.check, finding.code, fact))
        groups.setdefault(tuple(key) or (host.host.name,), []).append(host)
    return list(groups.values())


def _show_problems(hosts: Sequence[HostFindings], screen: Screen) -> None:
    """The problems that several hosts have, each once."""
    names = ", ".join(host.host.name for host in hosts)
    for number, finding in enumerate(_problems(hosts[0])):
        hints = [_problems(host)[number].hint for host in hosts]
        screen.verdict(
            finding.verdict,
            names,
            f"{finding.check}: {without_host(finding.fact, hosts[0].host)}",
            hint=joined_hint(hints, [host.host for host in hosts]),
            code=finding.code,
        )


def _show_checks(host: HostFindings, screen: Screen) -> None:
    """A line for each check of a host."""
    for finding in host.findings:
        fact = f"{finding.check}: {finding.fact}"
        screen.verdict(finding.verdict, host.host.name, fact, hint=finding.hint, code=finding.code)


def _show_summary(host: HostFindings, screen: Screen) -> None:
    """One line for a host without problems."""
    last = host.findings[-1]
    facts = ", ".join(finding.fact for finding in host.findings)
    screen.verdict(last.verdict, host.host.name, facts, hint=last.hint)


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {Diagnosis: show_diagnosis}
