"""The lists of hosts for other programs, whole texts."""

import pytest

from apexgpu.models import Host
from apexgpu.sshfiles.inventory import InventoryFormat, render

HOSTS = (
    Host("gpu2", "10.1.0.2", "alice", 22001),
    Host("gpu-b", "10.1.0.3", "alice", None, 2222),
)

CSV = """\
host,address,user,port,manage_host,manage_port
gpu2,10.1.0.2,alice,22001,gpu2-manage,22
gpu-b,10.1.0.3,alice,,gpu-b-manage,2222
"""
ANSIBLE = """\
apexgpu:
  hosts:
    "gpu2": {}
"""
CLUSTERSHELL = """\
apexgpu:
  all: "gpu2"
  manage: "gpu2-manage,gpu-b-manage"
"""


@pytest.mark.parametrize(
    ("inventory_format", "text"),
    [
        (InventoryFormat.CSV, CSV),
        (InventoryFormat.ANSIBLE, ANSIBLE),
        (InventoryFormat.CLUSTERSHELL, CLUSTERSHELL),
    ],
)
def test_each_format_lists_what_its_program_can_use(
    inventory_format: InventoryFormat, text: str
) -> None:
    assert render(HOSTS, inventory_format) == text


def test_ansible_is_told_of_a_config_that_ssh_does_not_read_by_itself() -> None:
    text = render(HOSTS, InventoryFormat.ANSIBLE, ssh_arguments=["-F", "/a b/config"])
    assert text == f"{ANSIBLE}  vars:\n    ansible_ssh_common_args: \"-F '/a b/config'\"\n"


def test_a_lab_without_containers_is_an_empty_inventory() -> None:
    assert render(HOSTS[1:], InventoryFormat.ANSIBLE) == "apexgpu:\n  hosts: {}\n"
