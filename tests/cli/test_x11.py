"""x11 against the embedded lab, on a real X server: what is broken, and that the line that is told cures it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apexgpu_lab.inprocess import running
from tests.cli.product import Product, product_of
from tests.real.screen import Screen, screen

pytestmark = pytest.mark.openssh


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    """This laptop's screen."""
    with screen(tmp_path) as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.fixture
def product(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shown: Screen,
) -> Iterator[Product]:
    """Two hosts; alice's container on gpu2 runs."""
    with running(tmp_path / "lab", hosts=2, registered=True) as lab:
        found = product_of(lab, monkeypatch, capsys)
        assert found("up", "gpu2") == 0, found.err
        yield found


def probes(product: Product, *words: str) -> dict[str, Any]:
    document = product.json("x11", "check", *words)
    return {probe["check"]: probe for row in document["hosts"] for probe in row["checks"]}


def pasted(line: str) -> int:
    """What a shell makes of a hint, with `apexgpu` on its PATH."""
    return subprocess.run(
        ["bash", "-c", line], env=dict(os.environ), check=False, timeout=60
    ).returncode


def test_a_window_of_the_labs_container_is_seen(product: Product) -> None:
    found = probes(product, "gpu2")
    assert {probe["verdict"] for probe in found.values()} == {"ok"}, product.out
    assert product("x11", "run", "gpu2", "xwininfo -root > /dev/null; exit 3") == 3


def test_an_sshd_that_refuses_is_cured_by_the_line_that_is_told(
    product: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = product.lab.call(
        lambda lab_state: lab_state.host("gpu2").accounts["alice"].container
    )
    assert container is not None
    config = container.rootfs / "etc" / "ssh" / "sshd_config"
    config.write_text(config.read_text().replace("X11Forwarding yes", "X11Forwarding no"))
    assert product("ssh", "gpu2", "--", "sudo service ssh restart") == 0
    sshd = probes(product, "gpu2")["sshd"]
    assert (sshd["verdict"], sshd["code"]) == ("broken", "sshd_refuses")
    assert product("x11", "run", "gpu2", "true") == 0
    assert "refuses X11 (X11Forwarding is not yes)" in product.err
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "apexgpu"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m apexgpu "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    assert pasted(sshd["hint"]) == 0
    assert {probe["verdict"] for probe in probes(product, "gpu2").values()} == {"ok"}


def test_a_stopped_container_is_a_link_too_and_is_not_started(product: Product) -> None:
    found = probes(product, "gpu3")
    assert list(found) == ["container"]
    assert (found["container"]["code"], found["container"]["hint"]) == (
        "stopped",
        "apexgpu up gpu3",
    )
    assert product("x11", "check", "gpu3") == 6
    assert product("x11", "run", "gpu3", "xeyes") == 6
    assert "the container on gpu3 is stopped" in product.err
    assert product.hosts("status")["gpu3"]["state"] == "stopped"


def test_a_host_that_is_silent_costs_its_time_limit_and_its_own_code(product: Product) -> None:
    product.lab.fault("gpu2", "silent")
    assert product("x11", "check", "gpu2", "--timeout", "1") == 5
    product.lab.clear("gpu2", "silent")


def test_a_host_that_is_not_there_and_a_glob_are_matters_of_usage(product: Product) -> None:
    assert product("x11", "check", "gpu99") == 2
    assert product("x11", "run", "gpu*", "xeyes") == 2
    assert "matches 2 hosts" in product.err


def test_without_a_screen_the_host_is_not_asked(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY")
    product.lab.fault("gpu2", "silent")  # it would take its time
    assert product("x11", "check", "gpu2") == 6
    assert "skipped container" in product.out
    product.lab.clear("gpu2", "silent")


def test_what_is_there_already_is_not_installed_again(product: Product) -> None:
    rows = product.hosts("x11", "install", "gpu2")
    assert rows["gpu2"]["packages"] == ["xauth", "x11-apps"]
    assert product.hosts("x11", "install", "gpu2")["gpu2"]["changed"] is False
