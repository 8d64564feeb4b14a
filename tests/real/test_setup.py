"""setup: the shipped recipes run for real, in a root file system of their own with apt, pip, sudo, sshd and a loader.

Only NVIDIA's installers and TensorFlow are stand-ins, which behave as those do; pip resolves the file of constraints
against TensorFlow's true metadata.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.real import nvidia, rootfs
from tests.real.conftest import Laptop, Said
from tests.real.rootfs import Root
from tests.real.test_verify import verdicts
from tests.waiting import until

pytestmark = [pytest.mark.openssh, pytest.mark.timeout(400)]
WHEEL = "tensorflow_gpu-1.10.1-cp27-cp27mu-manylinux1_x86_64.whl"
RECORD = Path(__file__).parent.parent / "data" / "wheels.json"
CUDA = "usr/local/cuda-9.0"

# A gcc that NVIDIA's installer finds too new.
_GCC = "#!/bin/sh\necho 10\n"

# A sudo that cuts the power: after its first call, then after two more, three more … `calls` holds that number and
# what is left of it. The command has been done by then, and nobody is told.
_SUDO = """\
#!/bin/sh
/usr/bin/sudo "$@"
code=$?
read -r number left </var/lib/standin/calls
if [ $left -gt 1 ]; then
  echo $number $((left - 1)) >/var/lib/standin/calls
  exit $code
fi
echo $((number + 1)) $((number + 1)) >/var/lib/standin/calls
kill -KILL -1
"""


def set_up(laptop: Laptop, root: Root, *words: str) -> Said:
    return laptop.run(root, "setup", "gpu7", *words, "--yes", "--json")


def states(said: Said) -> list[str]:
    return [str(one["state"]) for one in said.host["steps"]]


def program(root: Root, name: str, text: str) -> None:
    """A program in the container."""
    path = root.path / name
    path.write_text(text)
    path.chmod(0o755)


def changes(
    before: dict[str, tuple[object, ...]], after: dict[str, tuple[object, ...]]
) -> set[str]:
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def shape(tree: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """A tree without times, and without what an index of apt's or dpkg's looks like at the moment."""
    passing = ("var/lib/apt", "var/lib/dpkg", "var/cache", "usr/local/sbin/sudo")
    return {path: (*at[:3], at[4]) for path, at in tree.items() if not path.startswith(passing)}


def test_tensorflow_and_all_that_it_needs_is_set_up_once_and_computes(
    own: Root, laptop: Laptop
) -> None:
    program(own, "usr/bin/gcc", _GCC)
    wheels = json.loads(RECORD.read_text())["wheels"]
    nvidia.wheel(own.path / "opt/wheels", "1.10.1", "cp27-cp27mu", wheels[WHEEL]["requires_dist"])
    said = set_up(laptop, own, "tensorflow", "--python", "2")
    assert said.code == 0, said.err
    assert said.host["versions"] == {
        "cuda": "9.0",
        "cudnn": "7.0.5",
        "tensorflow": "1.10.1",
        "python": "2.7",
    } | {name: version for name, version in said.host["versions"].items() if name == "growth"}
    assert "did" in states(said)

    # What came by pip is what the file of constraints says, and pip itself finds it whole.
    frozen = (
        own.ssh("~/.virtualenvs/tensorflow-py2/bin/pip freeze --all 2>/dev/null")
        .stdout.lower()
        .split()
    )
    assert {"pip==20.3.4", "setuptools==39.1.0", "numpy==1.14.5", "tensorflow-gpu==1.10.1"} <= set(
        frozen
    )
    own.ssh("~/.virtualenvs/tensorflow-py2/bin/pip check")

    # Nothing is changed the second time.
    before = own.tree()
    again = set_up(laptop, own, "tensorflow", "--python", "2")
    assert (again.code, again.host["changed"], set(states(again))) == (0, False, {"done"})
    assert changes(before, own.tree()) == set()

    # A command without a terminal has PATH and libraries, and so has a login.
    for login in (False, True):
        assert own.ssh("command -v nvcc", login=login).stdout == "/usr/local/cuda-9.0/bin/nvcc\n"
    assert "libcudart.so.9.0" in own.ssh("/sbin/ldconfig -p").stdout

    # It computes, and memory grows; what a program asks for is respected.
    proof = laptop.run(own, "verify", "gpu7", "--json")
    assert (proof.code, set(verdicts(proof.host).values())) == (0, {"ok"}), proof.out
    assert proof.host["python"]["path"] == "/home/alice/.virtualenvs/tensorflow-py2/bin/python"
    assert grows(own, "tf.Session()")
    assert grows(own, "tf.InteractiveSession(config=tf.ConfigProto())")
    assert grows(own, "tf.Session(config=tf.ConfigProto(allow_soft_placement=True))")
    assert not grows(
        own, "tf.Session(config=tf.ConfigProto(gpu_options=tf.GPUOptions(allow_growth=False)))"
    )
    assert not grows(
        own,
        "tf.Session('', None, tf.ConfigProto(gpu_options="
        "tf.GPUOptions(per_process_gpu_memory_fraction=0.5)))",
    )
    assert not grows(own, "tf.Session()", "TF_FORCE_GPU_ALLOW_GROWTH=false ")


def grows(root: Root, session: str, before: str = "") -> bool:
    """Whether a session takes memory as needed."""
    code = (
        "import tensorflow as tf; from tensorflow.python.client.session import CONTEXT; "
        f"one = {session}; print(CONTEXT['growth'])"
    )
    said = root.ssh(f'{before}~/.virtualenvs/tensorflow-py2/bin/python -c "{code}"').stdout
    return {"True\n": True, "False\n": False}[said]


@pytest.fixture
def whole(share: Path, tmp_path: Path, laptop: Laptop) -> Iterator[dict[str, tuple[object, ...]]]:
    """The tree of a container in which cuDNN was set up in one go."""
    room = tmp_path / "whole"
    room.mkdir()
    root = rootfs.start(room, share)
    try:
        assert set_up(laptop, root, "cudnn").code == 0
        yield shape(root.tree())
    finally:
        root.stop()


def test_the_power_is_cut_after_every_command_and_it_goes_on_to_the_same_end(
    own: Root, laptop: Laptop, whole: dict[str, tuple[object, ...]]
) -> None:
    program(own, "usr/local/sbin/sudo", _SUDO)
    calls = own.path / "var/lib/standin/calls"
    calls.write_text("1 1")
    calls.chmod(0o666)
    for _ in range(20):
        said = set_up(laptop, own, "cudnn")
        if said.code == 0:
            break
        assert said.host["error"]["hint"], said.out
    cuts = int(calls.read_text().split()[0]) - 1
    assert (said.code, cuts >= 5) == (0, True), cuts
    (own.path / "usr/local/sbin/sudo").unlink()
    assert set(states(set_up(laptop, own, "cudnn"))) == {"done"}
    assert changes(whole, shape(own.tree())) == set()


def begun(own: Root, laptop: Laptop) -> "subprocess.Popen[bytes]":
    """A setup of CUDA in a process of its own, whose installer stands half-way before a gate."""
    os.mkfifo(own.path / "var/lib/standin/gate")
    child = subprocess.Popen(
        [sys.executable, "-m", "apexgpu", "setup", "gpu7", "cuda", "--yes"],
        env=laptop.environment(own),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    until(lambda: own.processes("/var/lib/standin/gate") != [])
    assert (own.path / CUDA / "bin/nvcc").exists()
    assert not (own.path / CUDA / "lib64").exists()
    return child


def test_a_laptop_that_goes_away_leaves_the_work_going_on_and_the_next_one_follows_it(
    own: Root, laptop: Laptop
) -> None:
    child = begun(own, laptop)
    child.kill()
    child.wait(60)
    with (own.path / "var/lib/standin/gate").open("w"):
        (own.path / "var/lib/standin/gate").unlink()
    said = set_up(laptop, own, "cuda")
    assert said.code == 0, said.err
    assert len([*(own.path / "tmp").glob("cuda_install_*.log")]) == 1
    assert own.ssh("command -v nvcc").stdout


def test_an_installer_that_was_killed_half_way_is_run_again(own: Root, laptop: Laptop) -> None:
    child = begun(own, laptop)
    (own.path / "var/lib/standin/gate").unlink()
    for pid in (
        pid
        for words in ("apexgpu", "install-linux", "cuda_9.0", "gate")
        for pid in own.processes(words)
    ):
        if pid != own.pid and Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
    assert child.wait(60) == 0  # it reconnects and resumes by itself
    said = set_up(laptop, own, "cuda")
    assert said.code == 0, said.err
    assert (own.path / CUDA / "lib64/libcudart.so.9.0").exists()
    assert set(states(said)) == {"done"}
    assert not [path for path in (own.path / "usr/local").iterdir() if "apexgpu" in path.name]


def old_driver(root: Root) -> None:
    root.state(driver="381.09")


def no_driver(root: Root) -> None:
    root.state(
        smi={"says": "Failed to initialize NVML: Driver/library version mismatch", "code": 18}
    )


def no_sudo(root: Root) -> None:
    (root.path / "etc/sudoers.d/alice").unlink()


def no_installer(root: Root) -> None:
    (root.path / rootfs.SHARE / nvidia.INSTALLER).unlink()


def no_archive(root: Root) -> None:
    (root.path / rootfs.SHARE / nvidia.ARCHIVE).unlink()


def as_it_is(root: Root) -> None:
    assert root.pid


REFUSALS: list[tuple[Callable[[Root], None], tuple[str, ...], str]] = [
    (old_driver, ("cuda",), "driver_too_old"),
    (old_driver, ("tensorflow",), "driver_too_old"),
    (no_driver, ("cudnn",), "no_driver"),
    (no_sudo, ("cuda",), "no_sudo"),
    (no_installer, ("cuda",), "no_installer"),
    (no_archive, ("tensorflow",), "no_cudnn"),
    (as_it_is, ("tensorflow==1.12.3", "--python", "2"), "cudnn"),
    (as_it_is, ("tensorflow==1.13.1",), "no_version"),
    (as_it_is, ("cuda==8.0",), "no_version"),
    (as_it_is, ("cudnn==7.6",), "no_cudnn"),
]


@pytest.mark.parametrize(("prepare", "words", "code"), REFUSALS)
def test_what_cannot_be_is_refused_before_anything_is_changed(
    own: Root, laptop: Laptop, prepare: Callable[[Root], None], words: tuple[str, ...], code: str
) -> None:
    prepare(own)
    before = own.tree()
    said = set_up(laptop, own, *words)
    assert (said.code, said.host["error"]["code"]) == (6, code), said.out
    assert said.host["error"]["hint"]
    assert changes(before, own.tree()) == set()


@pytest.mark.parametrize(
    ("room", "words"), [({"tmp": "size=100m"}, "/tmp"), ({"local": "200m"}, "/usr/local")]
)
def test_too_little_room_is_refused_before_anything_is_changed(
    tmp_path: Path, share: Path, laptop: Laptop, room: dict[str, Any], words: str
) -> None:
    root = rootfs.start(tmp_path, share, **room)
    try:
        before = root.tree()
        said = set_up(laptop, root, "cuda")
        assert (said.code, said.host["error"]["code"]) == (6, "disk")
        assert words in said.host["error"]["message"]
        assert changes(before, root.tree()) == set()
    finally:
        root.stop()


def test_an_installer_that_is_damaged_says_so_itself_and_changes_nothing_of_cuda(
    own: Root, laptop: Laptop
) -> None:
    installer = own.path / rootfs.SHARE / nvidia.INSTALLER
    good = installer.read_bytes()
    installer.write_bytes(good[:-100] + bytes(100))
    said = set_up(laptop, own, "cuda")
    assert said.code == 1
    assert "MD5" in said.out + said.err
    assert not (own.path / CUDA).exists()
    installer.write_bytes(good)
    assert set_up(laptop, own, "cuda").code == 0


def test_a_tmp_that_runs_no_programs_is_told_and_nothing_is_left(
    tmp_path: Path, share: Path, laptop: Laptop
) -> None:
    root = rootfs.start(tmp_path, share, tmp="size=4g,noexec")
    try:
        said = set_up(laptop, root, "cuda")
        assert (
            said.code == 0
            or "noexec" in said.out + said.err
            or "Permission denied" in said.out + said.err
        )
        assert (said.code == 0) is (root.path / CUDA / "lib64/libcudart.so.9.0").exists()
    finally:
        root.stop()
