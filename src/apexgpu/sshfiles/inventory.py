"""The lab's hosts in the formats of programs that run something on hundreds of hosts. Pure.

ssh reaches every container by its name, with what the ssh config says about it. So these formats only list the names:
the user's keys, jump hosts and host keys apply as they do for `ssh gpu7`.
"""

import csv
import io
import json
import shlex
from collections.abc import Sequence
from enum import StrEnum

from apexgpu.models import Host

GROUP = "apexgpu"
"""The name of the group, or the source of groups, that contains the lab's hosts."""


class InventoryFormat(StrEnum):
    """Who reads the list of hosts."""

    ANSIBLE = "ansible"
    CLUSTERSHELL = "clustershell"
    JSON = "json"
    CSV = "csv"


def render(
    hosts: Sequence[Host], inventory_format: InventoryFormat, *, ssh_arguments: Sequence[str] = ()
) -> str:
    """The list of hosts as text.

    `ssh_arguments` are those with which ssh finds the names, where it does not without any. Only Ansible's inventory
    can contain them.
    """
    if inventory_format is InventoryFormat.ANSIBLE:
        return _ansible(hosts, ssh_arguments)
    if inventory_format is InventoryFormat.CLUSTERSHELL:
        return _clustershell(hosts)
    if inventory_format is InventoryFormat.CSV:
        return _csv(hosts)
    return json.dumps({"hosts": [_fields(host) for host in hosts]}, indent=2) + "\n"


def _ansible(hosts: Sequence[Host], ssh_arguments: Sequence[str]) -> str:
    """An inventory in YAML. The physical hosts are not in it: their manage shell cannot run modules."""
    lines = [f"{GROUP}:", "  hosts:"]
    containers = [host for host in hosts if host.port]
    for host in containers:
        lines.append(f"    {_quoted(host.name)}: {{}}")
    if not containers:
        lines[1] = "  hosts: {}"
    if ssh_arguments:
        lines.append("  vars:")
        lines.append(f"    ansible_ssh_common_args: {_quoted(shlex.join(ssh_arguments))}")
    return "\n".join(lines) + "\n"


def _clustershell(hosts: Sequence[Host]) -> str:
    """A source of groups: the containers are @apexgpu:all, the physical hosts @apexgpu:manage."""
    containers = ",".join(host.name for host in hosts if host.port)
    physical = ",".join(host.manage_name for host in hosts)
    return f"{GROUP}:\n  all: {_quoted(containers)}\n  manage: {_quoted(physical)}\n"


def _quoted(text: str) -> str:
    """A string in YAML: YAML 1.2 reads every string of JSON."""
    return json.dumps(text)


def _csv(hosts: Sequence[Host]) -> str:
    """One line for each host, after a line of titles. A container without a port yet has an empty field."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["host", "address", "user", "port", "manage_host", "manage_port"])
    for host in hosts:
        port = host.port or ""
        writer.writerow(
            [host.name, host.address, host.user, port, host.manage_name, host.manage_port]
        )
    return table.getvalue()


def _fields(host: Host) -> dict[str, str | int | None]:
    return {
        "host": host.name,
        "address": host.address,
        "user": host.user,
        "port": host.port,
        "manage_host": host.manage_name,
        "manage_port": host.manage_port,
    }
