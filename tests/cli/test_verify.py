"""`verify` against the lab: what is shown and told for one host and for several, and its exit codes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu_lab.inprocess import Lab, running
from tests.cli.product import Product, product_of
from tests.cli.test_gpus_free import TITAN
from tests.lab.calls import rootfs_of, started
from tests.quick.test_compute import tensorflow

# A Python that knows its packages by a variable: it is what was called that has to be called again.
PYTHON = '#!/bin/sh\nPYTHONPATH=$HOME/packages exec python3 "$@"\n'


@pytest.fixture
def product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """gpu2 and gpu3 run, with TensorFlow in gpu2; gpu4 is stopped."""
    with running(tmp_path / "lab", hosts=3, registered=True) as lab:
        for name in ("gpu2", "gpu3"):
            started(lab, name)
            cards(lab, name, 11)
        home = rootfs_of(lab) / "home/alice"
        program = home / ".virtualenvs/tensorflow/bin/python"
        program.parent.mkdir(parents=True)
        program.write_text(PYTHON)
        program.chmod(0o755)
        tensorflow(home / "packages")
        yield product_of(lab, monkeypatch, capsys)


def cards(lab: Lab, host: str, *used: int) -> None:
    """GPUs with so many MiB in use."""
    lab.call(
        lambda lab_state: lab_state.set_gpus(
            lab_state.host(host), [TITAN | {"used": one} for one in used]
        )
    )


SHOWN = """\
ok      driver         390.48
note    CUDA           there is none in /usr/local
        hint:          apexgpu setup gpu2 cuda
note    cuDNN          no cudnn.h found
        hint:          apexgpu setup gpu2 cudnn
ok      TensorFlow     2.10.0 (/home/alice/packages/tensorflow)
ok      GPU            TITAN V, compute capability 7.0, pci bus id 0000:02:00.0, 11.8 GiB memory, 11.8 GiB free
ok      convolution    all 72 numbers are right in 0.0 s
ok      memory         took 0 B, and more only as needed
ok      as a command   the same through `ssh gpu2 COMMAND`
TensorFlow works on gpu2.
"""


def test_shows_a_line_a_link(product: Product) -> None:
    assert product("verify", "gpu2") == 0
    assert [line.rstrip() for line in product.out.splitlines()] == SHOWN.splitlines()
    assert product.err == ""


def test_calls_the_python_by_the_name_that_was_found(product: Product) -> None:
    (host,) = product.json("verify", "gpu2")["hosts"]
    assert host["python"]["path"] == "/home/alice/.virtualenvs/tensorflow/bin/python"
    assert (host["verdict"], host["error"], len(host["checks"])) == ("works", None, 8)


def test_several_hosts_have_a_row_each_and_3_means_that_some_hold(product: Product) -> None:
    assert product("verify", "gpu*") == 3
    assert product.out.splitlines().count("TensorFlow works on gpu2.") == 1
    assert (
        "error: TensorFlow does not work on gpu3: TensorFlow is not installed in any Python"
        in product.err
    )
    assert "error: the container on gpu4 is stopped\n hint: apexgpu up gpu4\n" in product.err
    rows = {one["host"]: one for one in product.json("verify", "gpu*")["hosts"]}
    assert {name: one["error"] and one["error"]["code"] for name, one in rows.items()} == {
        "gpu2": None,
        "gpu3": "no_tensorflow",
        "gpu4": "stopped",
    }
    assert "checks" not in rows["gpu4"]


def test_gpus_that_others_use_are_busy_and_that_is_6(product: Product) -> None:
    cards(product.lab, "gpu2", 11900, 11800)
    assert product("verify", "gpu2") == 6
    shown = "the GPU with most free memory (number 1) has 266.0 MiB: others use them all"
    assert f"busy    GPU            {shown}\n" in product.out
    assert product.err.startswith("error: gpu2 is busy: ")


@pytest.mark.parametrize(
    ("fault", "code", "link", "error"),
    [
        ("gpu-mismatch", 1, "problem driver ", "driver_mismatch"),
        ("gpu-none", 1, "problem driver ", "no_gpus"),
        ("gpu-no-driver", 1, "problem driver ", "no_nvidia_smi"),
    ],
)
def test_what_nvidia_smi_tells_is_the_first_link(
    product: Product, fault: str, code: int, link: str, error: str
) -> None:
    product.lab.fault("gpu2", fault)
    assert product("verify", "gpu2") == code
    assert product.out.startswith(link)
    assert product.json("verify", "gpu2")["hosts"][0]["error"]["code"] == error


def test_a_stopped_container_and_a_host_that_is_none(product: Product) -> None:
    assert product("verify", "gpu4") == 6
    assert product.err == "error: the container on gpu4 is stopped\n hint: apexgpu up gpu4\n"
    assert product("verify", "gpu9") == 2
