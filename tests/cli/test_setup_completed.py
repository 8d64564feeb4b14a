"""Every recipe runs to completion in the lab, a second run has nothing to do, and `verify` succeeds afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu_lab.inprocess import running
from tests.cli.product import Product, product_of
from tests.lab.calls import rootfs_of, started
from tests.longruns import LONG

pytestmark = pytest.mark.openssh

EVERY_RECIPE = (
    "cuda cudnn growth hostkeys jupyter pytorch tensorboard tensorflow x11",
    "tensorflow pytorch --python 2",
    "tensorflow==1.5.0 jupyter",
    "tensorflow==1.12.3",
)


@pytest.fixture
def product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """alice's container on gpu2 runs."""
    with running(tmp_path / "lab", hosts=1, registered=True) as lab:
        started(lab)
        yield product_of(lab, monkeypatch, capsys)


@pytest.mark.parametrize("words", EVERY_RECIPE if LONG else ["tensorflow"])
def test_recipes_are_set_up_then_nothing_is_to_do_and_verify_succeeds(
    product: Product, words: str
) -> None:
    if "1.12" in words:
        nas = product.lab.call(lambda lab_state: lab_state.nas)
        _publish_cudnn(nas / "Share/GPU_Server", "7.1.4")
    assert product("setup", "gpu2", *words.split(), "--yes") == 0, product.err
    again = product.hosts("setup", "gpu2", *words.split())["gpu2"]
    assert (again["ok"], again["changed"]) == (True, False)
    assert "nothing to do" in product.err
    (host,) = product.json("verify", "gpu2")["hosts"]
    assert (host["verdict"], [check["verdict"] for check in host["checks"]]) == (
        "works",
        ["ok"] * 8,
    )
    product.lab.fault("gpu2", "gpu-wrong")
    (host,) = product.json("verify", "gpu2")["hosts"]
    assert host["error"]["code"] == "wrong_numbers"
    product.lab.clear("gpu2", "gpu-wrong")
    _remove_growth(rootfs_of(product.lab))
    (host,) = product.json("verify", "gpu2")["hosts"]
    assert host["error"]["code"] == "takes_all"


def test_without_internet_a_recipe_fails_at_its_step_and_continues_there_afterwards(
    product: Product,
) -> None:
    product.lab.fault("gpu2", "no-internet")
    assert product("setup", "gpu2", "tensorboard", "--yes") == 1
    assert "Unable to fetch some archives" in product.err
    product.lab.clear("gpu2", "no-internet")
    assert product("setup", "gpu2", "tensorboard", "--yes") == 0, product.err
    product.lab.fault("gpu2", "no-internet")
    pip = ".virtualenvs/tensorboard/bin/pip install six==1.16"
    assert product("exec", "gpu2", "--", pip) == 1
    assert "Name or service not known" in product.err


def _remove_growth(rootfs: Path) -> None:
    """Remove what the recipe `growth` set up, as if the user had installed TensorFlow without apexgpu."""
    for path in rootfs.glob("home/alice/.virtualenvs/*/lib/*/site-packages/apexgpu_growth.pth"):
        path.unlink()
    environment = rootfs / "etc/environment"
    environment.write_text(environment.read_text().replace("TF_FORCE", "NO_"))
    (rootfs / "etc/profile.d/apexgpu-growth.sh").unlink()


def _publish_cudnn(directory: Path, version: str) -> None:
    """Replace the cuDNN on the NAS by one of another version."""
    from apexgpu_lab import nasfiles

    original = nasfiles.CUDNN
    nasfiles.CUDNN = version
    try:
        nasfiles.lay_out(directory)
    finally:
        nasfiles.CUDNN = original
