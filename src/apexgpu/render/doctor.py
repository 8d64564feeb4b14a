"""How the result of `apexgpu.doctor` looks."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.doctor import Diagnosis
from apexgpu.manageshell.checks import HostFindings
from apexgpu.render.screen import Screen
from apexgpu.text import counted

_NOT_CHECKED = (
    "Not checked here: GPU computing (apexgpu verify HOST), windows (apexgpu x11 check HOST)"
)


def show_diagnosis(result: Diagnosis, screen: Screen) -> None:
    """A line for each check, then one that sums up."""
    for finding in result.machine:
        screen.finding(finding)
    for host in result.hosts:
        has_problem = any(finding.verdict == "problem" for finding in host.findings)
        if result.named or has_problem:
            _show_checks(host, screen)
        else:
            _show_summary(host, screen)
    for finding in result.network:
        screen.finding(finding)
    if result.report is not None:
        screen.reporter.note(f"the report for an administrator is in {result.report}")
    count = len(result.problems)
    if not count:
        screen.paragraph(f"All well. {_NOT_CHECKED}")
    else:
        screen.line(f"{counted(count, 'problem')}; run the command after each `hint:`")


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
