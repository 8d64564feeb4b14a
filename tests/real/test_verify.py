"""verify, with a real sshd, shells, loader and Python 2.7 in a root file system of its own; stand-ins for the rest."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.real import nvidia, rootfs

from apexgpu import account, cli
from apexgpu.kit import Kit

pytestmark = [pytest.mark.openssh, pytest.mark.timeout(300)]
MIB = 1024**2


@pytest.fixture(scope="session")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the NAS has: the installer and a cuDNN 7.0.5."""
    room = tmp_path_factory.mktemp("share")
    nvidia.installer(room)
    nvidia.archive(room)
    return room


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory, share: Path) -> Iterator[rootfs.Root]:
    """A container in which everything was installed as the guide says, and the libraries as setup does."""
    root = rootfs.start(tmp_path_factory.mktemp("container"), share)
    try:
        installed(root)
        yield root
    finally:
        root.stop()


@pytest.fixture
def own(tmp_path: Path, share: Path) -> Iterator[rootfs.Root]:
    """A container of one test's own, with nothing in it."""
    root = rootfs.start(tmp_path, share)
    try:
        yield root
    finally:
        root.stop()


def installed(root: rootfs.Root, version: str = "1.10.1", *, paths: bool = True) -> None:
    """CUDA, cuDNN and TensorFlow there; `paths` for every program, else in ~/.bashrc as the guide says."""
    nas = f"/{rootfs.SHARE}"
    root.ssh(f"sudo sh {nas}/{nvidia.INSTALLER} --silent --toolkit && tar xf {nas}/{nvidia.ARCHIVE} -C /tmp && "
             "sudo cp -r /tmp/cuda/* /usr/local/cuda-9.0/")  # fmt: skip
    if paths:
        root.ssh("echo /usr/local/cuda-9.0/lib64 | sudo tee /etc/ld.so.conf.d/cuda-9-0.conf && sudo ldconfig && "
                 "sudo sed -i 's|\"$|:/usr/local/cuda-9.0/bin\"|' /etc/environment")  # fmt: skip
    else:
        root.ssh("echo 'export PATH=$PATH:/usr/local/cuda/bin' >> ~/.bashrc; "
                 "echo 'export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:/usr/local/cuda/lib64' >> ~/.bashrc")  # fmt: skip
    nvidia.tensorflow(root.path / rootfs.PYTHON2, version)
    growing(root)


def growing(root: rootfs.Root) -> None:
    """Sessions that grow by default: what setup's growth comes to."""
    session = root.path / rootfs.PYTHON2 / "tensorflow/python/client/session.py"
    session.write_text(session.read_text().replace("def begin(config=None):", "GROWS = True\n\n\ndef begin(config=None):"))


@dataclass
class Laptop:
    """The command line in this process, before one host."""

    capsys: pytest.CaptureFixture[str]

    def verify(self, root: rootfs.Root, *words: str) -> tuple[int, dict[str, Any]]:
        state, config = Path(os.environ["APEXGPU_STATE_DIR"]), Path(os.environ["APEXGPU_CONFIG_DIR"])
        account.save(state, account.Account(user=root.host.user, hosts=(root.host,)))
        config.mkdir(exist_ok=True)
        (config / "config.toml").write_text("keep_connections = false\n")
        self.capsys.readouterr()
        kit = Kit(environment={**os.environ, "APEXGPU_SSH_CONFIG": str(root.config)})
        code = cli.main(["verify", "gpu7", *words, "--json"], kit)
        document: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return code, document["hosts"][0]


@pytest.fixture
def laptop(capsys: pytest.CaptureFixture[str]) -> Laptop:
    return Laptop(capsys)


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {one["check"]: one["verdict"] for one in found["checks"]}


def test_a_container_that_computes_is_proved_to(container: rootfs.Root, laptop: Laptop) -> None:
    code, found = laptop.verify(container)
    print(json.dumps(found, indent=1))
    assert code == 0, found
