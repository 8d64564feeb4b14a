"""What the container is asked, run for real with stand-in programs, and how its answer is read."""

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from apexgpu.errors import ApexError
from apexgpu.models import Reply
from apexgpu.recipes import facts
from apexgpu.recipes.compatibility import PythonVersion
from apexgpu.recipes.facts import Facts, FreeSpace, GpuModel

SAID = """Welcome to Ubuntu
apexgpu machine x86_64
apexgpu home /home/alice
apexgpu os_ID ubuntu
apexgpu os_VERSION_ID 16.04
apexgpu os_PRETTY_NAME Ubuntu 16.04.7 LTS
apexgpu gpu 390.48, TITAN V, 12066
apexgpu gpu 390.48, GeForce GTX TITAN X, [Not Supported]
apexgpu cuda 9.0.176
apexgpu cudnn 7.0.5
apexgpu cudnn_library 7.0.5
apexgpu cudnn_archive 7.0.5 /newNAS/Share/a b.tgz
apexgpu cudnn_archive  /newNAS/Share/broken.tgz
apexgpu python 2.7.12 1 /usr/bin/python2.7
apexgpu python 3.5.2 1 /usr/bin/python3
apexgpu python 3.5.2 1 /usr/bin/python3.5
apexgpu free /usr/local 77715 64769
apexgpu free /home/my alice 10 77
apexgpu sudo yes
apexgpu end
"""


def test_an_answer_is_read_whole() -> None:
    assert facts.read_facts(Reply(0, SAID), "gpu7") == Facts(
        machine="x86_64",
        home="/home/alice",
        system="Ubuntu 16.04.7 LTS",
        distribution=("ubuntu", "16.04"),
        driver="390.48",
        gpus=(GpuModel("TITAN V", 12066), GpuModel("GeForce GTX TITAN X", 0)),
        cuda="9.0.176",
        cudnn="7.0.5",
        cudnn_library="7.0.5",
        cudnn_archives={"7.0.5": "/newNAS/Share/a b.tgz"},
        pythons=(PythonVersion("2.7.12"), PythonVersion("3.5.2")),
        free={
            "/usr/local": FreeSpace(77715, "64769"),
            "/home/my alice": FreeSpace(10, "77"),
        },
    )


def test_an_empty_container_has_nothing() -> None:
    bare = facts.read_facts(
        Reply(0, "apexgpu sudo no\napexgpu gpu_trouble there is no nvidia-smi\napexgpu end\n"),
        "gpu7",
    )
    assert (bare.driver, bare.gpus, bare.cuda, bare.cudnn) == (None, (), None, None)
    assert (bare.pythons, bare.sudo) == ((), False)
    assert bare.software("gpu7").gpu_trouble == "there is no nvidia-smi"


def test_what_runs_there_is_told() -> None:
    assert (
        facts.read_facts(
            Reply(0, "apexgpu busy abc cuda tensorflow\napexgpu end\n"), "gpu7"
        ).running_setup
        == "abc cuda tensorflow"
    )


def test_an_answer_that_was_cut_is_none() -> None:
    with pytest.raises(
        ApexError, match="cannot find out what the container on gpu7 has: sh: fork: no memory"
    ):
        facts.read_facts(
            Reply(2, SAID.replace("apexgpu end\n", ""), "sh: fork: no memory\n"), "gpu7"
        )


NEEDED = "awk cat cut df env flock gzip head readlink sed sh stat tail tar timeout tr true uname"


class TestScript:
    """The script itself, in an empty home, with a few of the machine's programs and stand-ins of the test's own."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        (tmp_path / "bin").mkdir()
        (tmp_path / "installers").mkdir()
        for name in NEEDED.split():
            found = shutil.which(name)
            assert found is not None
            (tmp_path / "bin" / name).symlink_to(found)
        self.program(tmp_path, "sudo", 'shift; exec "$@"')
        return tmp_path

    def program(self, place: Path, name: str, text: str) -> None:
        path = place / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def asked(self, place: Path) -> Facts:
        environment = {"PATH": str(place / "bin"), "HOME": str(place)}
        done = subprocess.run(
            ["sh", "-c", facts.facts_command(str(place / "installers"))],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return facts.read_facts(Reply(0, done.stdout, done.stderr), "gpu7")

    def test_cards_and_driver(self, place: Path) -> None:
        self.program(
            place,
            "nvidia-smi",
            "printf '384.111, Tesla P100, 16276\\n384.111, Tesla P100, 16276\\n'",
        )
        found = self.asked(place)
        assert (found.driver, found.gpus) == ("384.111", (GpuModel("Tesla P100", 16276),) * 2)
        assert found.home == str(place)
        assert found.free["/"].mebibytes > 0

    def test_an_old_nvidia_smi_that_does_not_know_every_field(self, place: Path) -> None:
        self.program(
            place, "nvidia-smi", 'case "$*" in *name*) exit 2 ;; esac; printf "381.09\\n381.09\\n"'
        )
        found = self.asked(place)
        assert (found.driver, found.gpus) == ("381.09", (GpuModel("GPU", 0),) * 2)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (
                "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
                "version mismatch",
            ),
            ("echo 'No devices were found'; exit 6", "No devices were found"),
            ("exit 124", "does not answer within 20 s"),
        ],
    )
    def test_an_nvidia_smi_that_cannot(self, place: Path, text: str, said: str) -> None:
        self.program(place, "nvidia-smi", text)
        found = self.asked(place)
        assert (found.driver, said in found.gpu_trouble) == (None, True)

    def test_no_nvidia_smi(self, place: Path) -> None:
        assert self.asked(place).gpu_trouble == "there is no nvidia-smi"

    def test_pythons_of_every_kind_and_one_that_is_broken(self, place: Path) -> None:
        self.program(place, "python2.7", "echo '2.7.12 0'")
        self.program(place, "python3.5", "echo '3.5.2 1'")
        self.program(place, "python3.6", "exit 127")
        assert self.asked(place).pythons == (
            PythonVersion("2.7.12", wide=False),
            PythonVersion("3.5.2"),
        )

    def test_archives_are_read_by_their_header_not_their_name(self, place: Path) -> None:
        for name, version in (
            ("cudnn-9.0-linux-x64-v7.tgz", "7.1.4"),
            ("cudnn-9.0-linux-x64-v7.9.tgz", "7.0.5"),
        ):
            header = place / "cudnn.h"
            major, minor, patch = version.split(".")
            header.write_text(
                f"/* x */\n#define CUDNN_MAJOR {major}\n#define CUDNN_MINOR {minor}\n"
                f"#define CUDNN_PATCHLEVEL {patch}\n#define CUDNN_VERSION (CUDNN_MAJOR * 1000)\n"
            )
            with tarfile.open(place / "installers" / name, "w:gz") as tar:
                tar.add(header, "cuda/include/cudnn.h")
        (place / "installers" / "cudnn-9.0-linux-x64-v7.4.tgz").write_bytes(b"no archive")
        (place / "installers" / "cudnn-10.0-linux-x64-v7.tgz").write_bytes(b"of another CUDA")
        archives = self.asked(place).cudnn_archives
        assert {version: Path(path).name for version, path in archives.items()} == {
            "7.1.4": "cudnn-9.0-linux-x64-v7.tgz",
            "7.0.5": "cudnn-9.0-linux-x64-v7.9.tgz",
        }

    def test_a_sudo_that_asks(self, place: Path) -> None:
        self.program(place, "sudo", "exit 1")
        assert self.asked(place).sudo is False

    def test_a_run_that_holds_the_lock_is_told_and_nothing_is_left_behind(
        self, place: Path
    ) -> None:
        assert self.asked(place).running_setup is None
        assert not (place / ".cache").exists()
        notes = place / ".cache" / "apexgpu" / "setup"
        notes.mkdir(parents=True)
        (notes / "id").write_text("abc cuda\n")
        (notes / "lock").touch()
        assert self.asked(place).running_setup is None
        holder = subprocess.Popen(
            ["flock", notes / "lock", "sh", "-c", "echo held; read x"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            assert self.asked(place).running_setup == "abc cuda"
            holder.communicate(b"\n")
