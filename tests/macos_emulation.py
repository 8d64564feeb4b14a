"""A pytest plugin with the tests that say nothing in `scripts/as-macos`, which emulates a Mac on Linux."""

from pathlib import Path

import pytest

from tests import emulation


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Do not import the files of which no test is left."""
    return True if emulation.is_left_out(collection_path, NOT_EMULATED) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need what is not emulated."""
    emulation.leave_out(config, items, NOT_EMULATED)


_CONTAINER = "runs a program of containers on this machine, which needs /proc as containers have it"
_TEXT = "expects the words for Linux, which test_platforms.py and test_macos.py compare with those for macOS"
_PORTS = "expects one port on all hosts, or addresses of loopback other than 127.0.0.1"
_START = "sees by /proc of the container when it was started"
NOT_EMULATED: dict[str, str] = {
    "test_mount.py": "mounts with Linux' sshfs, which does not know the options of macFUSE",
    "test_lab_variables.py::test_the_end_of_a_lab_unmounts": "mounts with Linux' sshfs",
    "test_round_trips.py": _PORTS,
    "test_config.py::TestSync::test_merges_the_hosts_in_front": _PORTS,
    "test_config.py::TestSync::test_an_address_that_changes": _PORTS,
    "test_config.py::TestSync::test_a_name_that_means_something_else": _PORTS,
    "test_config.py::TestInclude::test_the_line_is_printed": _PORTS,
    "test_backup_disturbed.py": _START,
    "test_backup.py::TestDroppedTar::test_with_nobody_to_see_it": _START,
    "test_backup_trouble.py::TestLonely::test_a_container_that_runs_under_tar": _START,
    "test_runs.py": _CONTAINER,
    "test_tunnel.py::test_a_tunnel_in_the_lab_never_connects": _CONTAINER,
    "test_tunnel.py::test_the_containers_own_port_is_refused": _CONTAINER,
    "test_runs_many.py": _CONTAINER,
    "test_login.py::TestWhichKey::test_one_of_the_agent": "has a socket whose path is too long there",
    "test_login.py::TestWhichKey::test_one_whose_passphrase": _TEXT,
    "test_containerruns.py": _CONTAINER,
    "test_ports.py::test_only_a_container_on_this_machine": _CONTAINER,
    "test_serving.py::test_ports_and_the_session_of_a_process": _CONTAINER,
    "test_serving.py::test_a_port_that_is_lost_before": _CONTAINER,
    "test_serving.py::test_an_older_notebook_is_stopped_by_its_port": _CONTAINER,
    "test_serving.py::test_a_note_whose_number_belongs_to_another": _CONTAINER,
    "test_setuprun.py::TestInterrupt": _CONTAINER,
    "test_snapshots.py::TestScripts::test_the_ages_of_an_archive": _CONTAINER,
    "test_passwords.py::test_a_keyring_that_hangs": _TEXT,
    "test_sshlog.py::TestAnAccountWithoutAName": _TEXT,
}
"""Parts of test IDs, and why these tests are left out."""
