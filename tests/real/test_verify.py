"""verify, with a real sshd, shells, loader and Python 2.7 in a root file system of its own; stand-ins for the rest."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.real import nvidia, rootfs
from tests.real.conftest import Laptop
from tests.real.rootfs import Root
from tests.waiting import until

import apexgpu

pytestmark = [pytest.mark.openssh, pytest.mark.timeout(240)]
HOOK = Path(apexgpu.__file__).parent / "recipes/builtin/files/apexgpu_growth.py"
CHECKS = ["driver", "cuda", "cudnn", "tensorflow", "gpu", "convolution", "memory", "command"]


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory, share: Path) -> Iterator[Root]:
    """A container in which everything is as it should be."""
    root = rootfs.start(tmp_path_factory.mktemp("container"), share)
    try:
        installed(root)
        yield root
    finally:
        root.stop()


@pytest.fixture
def whole(container: Root) -> Iterator[Root]:
    """The same, whatever the test before has made of its GPUs."""
    container.state()
    yield container
    container.state()


def installed(
    root: Root, version: str = "1.10.1", *, paths: bool = True, growth: bool = True
) -> None:
    """CUDA, cuDNN and TensorFlow there; `paths` for every program, else in ~/.bashrc as the guide says."""
    nas = f"/{rootfs.SHARE}"
    root.ssh(
        f"sudo sh {nas}/{nvidia.INSTALLER} --silent --toolkit && tar xf {nas}/{nvidia.ARCHIVE} -C /tmp && "
        "sudo cp -r /tmp/cuda/* /usr/local/cuda-9.0/"
    )
    if paths:
        root.ssh(
            "echo /usr/local/cuda-9.0/lib64 | sudo tee /etc/ld.so.conf.d/cuda-9-0.conf && sudo ldconfig && "
            "sudo sed -i 's|\"$|:/usr/local/cuda-9.0/bin\"|' /etc/environment"
        )
    else:
        root.ssh(
            "echo 'export PATH=$PATH:/usr/local/cuda/bin' >> ~/.bashrc; "
            "echo 'export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:/usr/local/cuda/lib64' >> ~/.bashrc"
        )
    nvidia.tensorflow(root.path / rootfs.PYTHON2, version)
    if growth:  # by the hook that setup puts there
        for name, text in (
            ("apexgpu_growth.py", HOOK.read_text()),
            ("apexgpu_growth.pth", "import apexgpu_growth\n"),
        ):
            (root.path / rootfs.PYTHON2 / name).write_text(text)


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {one["check"]: one["verdict"] for one in found["checks"]}


def fact(found: dict[str, Any], check: str) -> str:
    return next(str(one["fact"]) for one in found["checks"] if one["check"] == check)


def test_a_container_that_computes_is_proved_to_in_the_order_of_the_chain(
    whole: Root, laptop: Laptop
) -> None:
    said = laptop.run(whole, "verify", "gpu7", "--json")
    assert said.code == 0, said.out
    found = said.host
    assert [one["check"] for one in found["checks"]] == CHECKS
    assert set(verdicts(found).values()) == {"ok"}
    assert (found["ok"], found["error"], found["verdict"], found["tensorflow"]) == (
        True,
        None,
        "works",
        "1.10.1",
    )
    assert found["python"] == {"path": "/usr/bin/python2", "version": "2.7.18"}
    assert found["gpu"] == {
        "index": 0,
        "name": "GeForce GTX TITAN X",
        "compute_capability": "5.2",
        "pci_bus_id": "0000:02:00.0",
        "memory_total": 12237 * 1024**2,
        "memory_free": 12226 * 1024**2,
    }
    assert fact(found, "cudnn").startswith("7.0.5 ")
    assert fact(found, "memory").startswith("took 300.0 MiB")


def test_what_the_guide_s_log_shows_is_shown(whole: Root, laptop: Laptop) -> None:
    said = laptop.run(whole, "verify", "gpu7")
    assert said.code == 0
    shown = "GeForce GTX TITAN X, compute capability 5.2, pci bus id 0000:02:00.0, 12.0 GiB memory, 11.9 GiB free"
    assert f"ok      GPU            {shown}\n" in said.out
    assert said.out.endswith("TensorFlow works on gpu7.\n")


BROKEN: list[tuple[dict[str, Any], int, str, str]] = [
    ({"driver": "381.09"}, 1, "driver", "driver_too_old"),
    (
        {"smi": {"says": "Failed to initialize NVML: Driver/library version mismatch", "code": 18}},
        1,
        "driver",
        "driver_mismatch",
    ),
    ({"smi": {"says": "No devices were found", "code": 6}}, 1, "driver", "no_gpus"),
    ({"tensorflow": "no_gpu"}, 1, "driver", "driver_down"),
    ({"tensorflow": "wrong"}, 1, "convolution", "wrong_numbers"),
    ({"tensorflow": "abort"}, 1, "gpu", "crashed"),
    ({"tensorflow": "full"}, 6, "gpu", "busy"),
    ({"tensorflow": "full_later"}, 6, "convolution", "busy"),
    ({"cards": [{**nvidia.TITAN, "used": 12000}]}, 6, "gpu", "busy"),
    ({"cards": [{**nvidia.TITAN, "mode": "Prohibited"}]}, 1, "gpu", "no_gpu"),
]


@pytest.mark.parametrize(("state", "code", "check", "name"), BROKEN)
def test_the_link_that_does_not_hold_is_named_and_busy_is_not_broken(
    whole: Root, laptop: Laptop, state: dict[str, Any], code: int, check: str, name: str
) -> None:
    whole.state(**state)
    said = laptop.run(whole, "verify", "gpu7", "--json")
    found = said.host
    assert (said.code, found["error"]["code"]) == (code, name), said.out
    assert found["verdict"] == ("busy" if code == 6 else "broken")
    assert verdicts(found)[check] == ("busy" if code == 6 else "problem")
    later = CHECKS[CHECKS.index(check) + 1 :]
    assert {verdicts(found)[one] for one in later} <= {"skipped", "ok", "note"}
    assert verdicts(found)["command"] == "skipped"
    assert found["error"]["hint"]


def test_the_gpu_with_most_free_memory_is_taken(whole: Root, laptop: Laptop) -> None:
    whole.state(
        cards=[
            {**nvidia.TITAN, "used": 9000},
            {**nvidia.TITAN, "used": 500},
            {**nvidia.TITAN, "used": 8000},
        ]
    )
    said = laptop.run(whole, "verify", "gpu7", "--json")
    assert (said.code, said.host["gpu"]["index"], said.host["gpu"]["pci_bus_id"]) == (
        0,
        1,
        "0000:03:00.0",
    )


def test_what_is_not_done_in_time_is_ended_there_and_told(whole: Root, laptop: Laptop) -> None:
    whole.state(tensorflow="hang")
    said = laptop.run(whole, "verify", "gpu7", "--wait", "2", "--json")
    assert (said.code, said.host["error"]["code"], said.host["verdict"]) == (5, "slow", "slow")
    assert "--wait" in said.host["error"]["hint"]
    assert whole.processes('"do": "compute"') == []


def test_ctrl_c_leaves_nothing_on_the_gpu(whole: Root, laptop: Laptop) -> None:
    whole.state(tensorflow="hang")
    child = subprocess.Popen(
        [sys.executable, "-m", "apexgpu", "verify", "gpu7", "--json"],
        env=laptop.environment(whole),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until(lambda: whole.processes('"do": "compute"') != [])
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == 130
    until(lambda: whole.processes('"do": "compute"') == [])


def test_a_cudnn_that_tensorflow_is_not_built_for_fails_at_the_first_convolution(
    own: Root, laptop: Laptop
) -> None:
    installed(own, "1.12.3")
    said = laptop.run(own, "verify", "gpu7", "--json")
    found = said.host
    assert (said.code, found["error"]["code"]) == (1, "cudnn_mismatch")
    assert verdicts(found) == {
        "driver": "ok",
        "cuda": "ok",
        "cudnn": "problem",
        "tensorflow": "ok",
        "gpu": "ok",
        "convolution": "skipped",
        "memory": "skipped",
        "command": "skipped",
    }
    assert "cuDNN 7.0.5 is loaded" in found["error"]["message"]
    assert "7.1.4" in found["error"]["message"]


def test_a_card_that_is_taken_whole_is_told_and_the_rest_is_tried_all_the_same(
    own: Root, laptop: Laptop
) -> None:
    installed(own, growth=False)
    said = laptop.run(own, "verify", "gpu7", "--json")
    assert (said.code, said.host["error"]["code"]) == (1, "takes_all")
    assert said.host["error"]["hint"] == "apexgpu setup gpu7 growth"
    assert verdicts(said.host)["convolution"] == verdicts(said.host)["command"] == "ok"


def test_lines_in_bashrc_do_not_reach_a_command(own: Root, laptop: Laptop) -> None:
    installed(own, paths=False)
    bashrc = own.path / "home/alice/.bashrc"
    bashrc.write_text(bashrc.read_text() + "\necho 'Welcome back!'\nread -r answer\n")
    said = laptop.run(own, "verify", "gpu7", "--json")
    assert (said.code, said.host["error"]["code"]) == (1, "command"), said.out
    assert verdicts(said.host) == {**dict.fromkeys(CHECKS, "ok"), "command": "problem"}
    assert "libcublas.so.9.0" in fact(said.host, "command")
    assert said.host["error"]["hint"] == "apexgpu setup gpu7 cuda"


def test_a_login_that_hands_over_to_another_program_is_gone_around(
    own: Root, laptop: Laptop
) -> None:
    installed(own)
    bashrc = own.path / "home/alice/.bashrc"
    bashrc.write_text(f"{bashrc.read_text()}exec cat\n")
    said = laptop.run(own, "verify", "gpu7", "--json")
    assert said.code == 0, said.out
    assert verdicts(said.host) == {**dict.fromkeys(CHECKS, "ok"), "command": "note"}


def test_a_container_with_nothing_in_it_is_told_what_to_set_up(own: Root, laptop: Laptop) -> None:
    said = laptop.run(own, "verify", "gpu7", "--json")
    assert (said.code, said.host["error"]["code"]) == (1, "no_tensorflow")
    assert said.host["error"]["hint"] == "apexgpu setup gpu7 tensorflow"
    assert verdicts(said.host) == {
        **dict.fromkeys(CHECKS, "skipped"),
        "driver": "ok",
        "cuda": "note",
        "cudnn": "note",
        "tensorflow": "problem",
    }


def test_the_environment_that_setup_made_comes_first_and_any_other_can_be_named(
    own: Root, laptop: Laptop
) -> None:
    installed(own)
    for name in (".virtualenvs/tensorflow-py2", "my env"):
        own.ssh(f"virtualenv -q -p python2.7 --no-download '{name}'")
    home = own.path / "home/alice"
    nvidia.tensorflow(home / ".virtualenvs/tensorflow-py2/lib/python2.7/site-packages", "1.8.0")
    found = laptop.run(own, "verify", "gpu7", "--json").host
    assert (found["tensorflow"], found["python"]["path"]) == (
        "1.8.0",
        "/home/alice/.virtualenvs/tensorflow-py2/bin/python",
    )
    nvidia.tensorflow(home / "my env/lib/python2.7/site-packages", "1.7.1")
    for named in ("my env", "~/my env/bin/python", f"{Path.home()}/my env"):
        found = laptop.run(own, "verify", "gpu7", "--python", named, "--json").host
        assert (found["tensorflow"], found["python"]["path"]) == (
            "1.7.1",
            "/home/alice/my env/bin/python",
        )
    nvidia.tensorflow(own.path / "usr/local/lib/python3.9/dist-packages", "1.9.0")
    found = laptop.run(own, "verify", "gpu7", "--python", "/usr/bin/python3", "--json").host
    assert (found["tensorflow"], found["python"]["version"], verdicts(found)["convolution"]) == (
        "1.9.0",
        "3.9.2",
        "ok",
    )
    said = laptop.run(own, "verify", "gpu7", "--python", "/nowhere", "--json")
    assert (said.code, fact(said.host, "tensorflow")) == (1, "there is no Python /nowhere")
