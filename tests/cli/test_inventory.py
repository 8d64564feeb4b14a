"""`config print --format` with the programs that read it: Ansible and ClusterShell, against the lab's containers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu_lab.inprocess import running
from tests.cli.product import Product, product_of
from tests.lab.calls import rootfs_of, started

pytestmark = pytest.mark.openssh
LIMIT = 120


@pytest.fixture
def product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    with running(tmp_path / "lab", hosts=3, registered=True) as lab:
        for host in ("gpu2", "gpu3", "gpu4"):
            started(lab, host)
        yield product_of(lab, monkeypatch, capsys)


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def test_ansible_runs_a_module_in_every_container(
    product: Product, tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert product("config", "print", "--format", "ansible") == 0
    inventory = tmp_path / "hosts.yaml"
    inventory.write_text(product.out)
    monkeypatch.setenv("ANSIBLE_HOME", str(tmp_path / "ansible"))
    monkeypatch.setenv("ANSIBLE_SSH_CONTROL_PATH_DIR", str(runtime))  # short, for sockets
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    ansible = str(Path(sys.executable).with_name("ansible"))
    # The Python of Ubuntu 16.04 is too old for today's Ansible: a container that its member has upgraded.
    for host in ("gpu2", "gpu3", "gpu4"):
        system = rootfs_of(product.lab, host) / "etc" / "os-release"
        system.write_text('NAME="Ubuntu"\nVERSION_ID="24.04"\n')
    words = [ansible, "-i", str(inventory), "-e", "ansible_python_interpreter=/usr/bin/python3"]
    said = run(*words, "apexgpu", "-m", "ping")
    for host in ("gpu2", "gpu3", "gpu4"):
        assert f"{host} | SUCCESS" in said
    assert said.count('"ping": "pong"') == 3
    said = run(*words, "apexgpu", "-m", "raw", "-a", "hostname")
    for host in ("gpu2", "gpu3", "gpu4"):
        assert f"{host}-alice" in said


def test_clustershell_finds_the_containers_and_the_physical_hosts(
    product: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert product("config", "print", "--format", "clustershell") == 0
    groups = tmp_path / "clustershell" / "groups.d"
    groups.mkdir(parents=True)
    (groups / "apexgpu.yaml").write_text(product.out)
    # As docs/many-hosts.md says: ClusterShell looks into this directory only if a groups.conf is beside it.
    main = "[Main]\ndefault: apexgpu\nautodir: $CFGDIR/groups.d\n"
    (groups.parent / "groups.conf").write_text(main)
    monkeypatch.setenv("CLUSTERSHELL_CFGDIR", str(groups.parent))
    assert run("nodeset", "-f", "@all") == "gpu[2-4]\n"
    ssh_config = os.environ["APEXGPU_SSH_CONFIG"]
    clush = ["clush", "-o", f"-F {ssh_config}", "-w"]
    said = run(*clush, "@all", "hostname")
    assert sorted(said.splitlines()) == [f"gpu{n}: gpu{n}-alice" for n in (2, 3, 4)]
    said = run(*clush, "@manage", "help")
    assert said.count("Have a good day") == 3
