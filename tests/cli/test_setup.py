"""setup against the embedded lab, whose NAS has stand-ins of NVIDIA's files: plans, refusals, runs, and runs again."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from apexgpu.models import Reply, Target
from apexgpu.ssh.transport import Connections
from apexgpu_lab.containers import Container
from apexgpu_lab.inprocess import running
from tests.cli.newcomer import LIMIT
from tests.cli.product import Product, product_of
from tests.terminals import spawn

pytestmark = pytest.mark.openssh

TOOL = """
summary = "a tool of the lab's own"
use = "cat ~/tool"
[[steps]]
name = "one"
title = "the first part"
done = "test -e ~/one"
do = "touch ~/one"
[[steps]]
name = "two"
title = "the second part"
done = "test -e ~/tool"
do = '''
echo working on it
{}
touch ~/tool
'''
"""


@pytest.fixture
def product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """Two hosts; alice's container on gpu2 runs, that on gpu3 is stopped."""
    with running(tmp_path / "lab", hosts=2, registered=True) as lab:
        found = product_of(lab, monkeypatch, capsys)
        assert found("up", "gpu2", "--accept-new") == 0, found.err
        yield found


def container(product: Product, name: str = "gpu2") -> Container:
    found = product.lab.call(lambda lab_state: lab_state.host(name).accounts["alice"].container)
    assert found is not None
    return found


def tool(product: Product, line: str = "") -> None:
    """A recipe of the user's own, `tool`."""
    room = Path(product.lab.environment["APEXGPU_CONFIG_DIR"]) / "recipes"
    room.mkdir(exist_ok=True)
    (room / "tool.toml").write_text(TOOL.format(line))


def states(row: dict[str, Any]) -> list[str]:
    return [step["state"] for step in row["steps"]]


class TestList:
    def test_every_recipe_has_a_name_and_a_line(self, product: Product) -> None:
        names = [one["name"] for one in product.json("setup", "list")["recipes"]]
        assert (
            " ".join(names)
            == "cuda cudnn growth hostkeys jupyter pytorch tensorboard tensorflow x11"
        )
        assert product("setup", "list") == 0
        assert product.out.splitlines()[0].split() == ["RECIPE", "NEEDS", "WHAT"]
        assert len(product.out.splitlines()) == 10

    def test_the_users_own_are_listed_too(self, product: Product) -> None:
        tool(product)
        own = {one["name"]: one["own"] for one in product.json("setup", "list")["recipes"]}
        assert (own["tool"], own["cuda"]) == (True, False)

    def test_one_that_is_wrong_is_named_by_file_and_key(self, product: Product) -> None:
        tool(product)
        path = Path(product.lab.environment["APEXGPU_CONFIG_DIR"]) / "recipes" / "tool.toml"
        path.write_text(path.read_text().replace("do =", "run =", 1))
        for words in (("setup", "list"), ("setup", "gpu2", "cuda")):
            assert product(*words) == 2
            assert f"{path}: steps[1].run is not known" in product.err


class TestRun:
    def test_cuda_is_planned_set_up_proved_and_then_nothing_is_to_do(
        self, product: Product
    ) -> None:
        row = product.hosts("setup", "gpu2", "cuda", "--yes")["gpu2"]
        assert (row["ok"], row["changed"], states(row)) == (True, True, ["did"] * 4)
        assert (row["facts"]["driver"], row["versions"]) == ("390.48", {"cuda": "9.0"})
        root = container(product).rootfs
        assert (root / "usr/local/cuda-9.0/version.txt").read_text() == "CUDA Version 9.0.176\n"
        assert (root / "etc/profile.d/cuda-9-0.sh").exists()
        assert not (root / "usr/local/.apexgpu-cuda-9.0").exists()
        before = (root / "etc/environment").stat().st_mtime_ns
        again = product.hosts("setup", "gpu2", "cuda")["gpu2"]
        assert (again["ok"], again["changed"], states(again)) == (True, False, ["done"] * 4)
        assert "nothing to do, cuda is set up" in product.err
        assert (root / "etc/environment").stat().st_mtime_ns == before

    def test_what_logins_are_given_reaches_a_command_without_a_terminal(
        self, product: Product
    ) -> None:
        assert product("setup", "gpu2", "cuda", "growth", "--yes") == 0
        asked = (
            "echo $PATH; echo $TF_FORCE_GPU_ALLOW_GROWTH; /usr/local/cuda-9.0/bin/nvcc --version"
        )
        assert product("exec", "gpu2", "--", asked) == 0
        path, grows, *version = product.out.splitlines()
        assert "/usr/local/cuda-9.0/bin" in path.split(":")
        assert grows == "true"
        assert version[-1] == "Cuda compilation tools, release 9.0, V9.0.176"

    def test_everything_for_tensorflow_but_itself(self, product: Product) -> None:
        assert product("setup", "gpu2", "cudnn", "growth", "x11", "--yes") == 0
        library = container(product).rootfs / "usr/local/cuda-9.0/lib64/libcudnn.so"
        assert library.resolve().name == "libcudnn.so.7.0.5"
        assert (
            product.json("setup", "gpu2", "cudnn", "growth", "x11")["hosts"][0]["changed"] is False
        )
        assert product.json("setup", "gpu2", "cudnn")["hosts"][0]["facts"]["cudnn"] == "7.0.5"

    def test_host_keys_are_the_containers_own_afterwards_and_known_here(
        self, product: Product
    ) -> None:
        key = container(product).rootfs / "etc/ssh/ssh_host_ed25519_key.pub"
        before = key.read_text()
        assert product("setup", "gpu2", "hostkeys", "--yes") == 0
        assert key.read_text() != before
        assert "the host key of gpu2 in known_hosts: was SHA256:" in product.err
        assert product("exec", "gpu2", "--", "true") == 0
        after = key.read_text()
        assert product("setup", "gpu2", "hostkeys") == 0
        assert (key.read_text(), "nothing to do" in product.err) == (after, True)

    def test_one_whose_new_keys_come_from_a_rebuild_needs_none(self, product: Product) -> None:
        assert product("rebuild", "gpu2", "--yes", "--no-snapshot") == 0, product.err
        assert product("setup", "gpu2", "hostkeys") == 0
        assert "nothing to do" in product.err

    def test_a_plan_alone_changes_nothing(self, product: Product) -> None:
        for option in ("--plan", "--dry-run"):
            row = product.hosts("setup", "gpu2", "cuda", option)["gpu2"]
            assert (row["ok"], row["dry_run"], row["changed"], states(row)) == (
                True,
                True,
                False,
                ["to_do"] * 4,
            )
        assert product("setup", "gpu2", "cuda", "--plan") == 0
        assert "to do  the CUDA 9.0 toolkit in /usr/local/cuda-9.0" in product.out
        assert not (container(product).rootfs / "usr/local/cuda-9.0").exists()
        assert not (container(product).home / ".cache").exists()

    def test_without_a_terminal_the_option_is_named(self, product: Product) -> None:
        row = product.hosts("setup", "gpu2", "cuda")["gpu2"]
        hint = "apexgpu setup --yes gpu2 cuda --json"
        assert (row["error"]["code"], row["error"]["hint"]) == ("no_terminal", hint)
        assert product("setup", "gpu2", "cuda") == 7

    def test_a_recipe_of_the_users_own_says_how_it_is_used(self, product: Product) -> None:
        tool(product)
        assert product("setup", "gpu2", "tool", "--yes") == 0
        assert "  tool, in the container: cat ~/tool" in product.err

    def test_its_kept_connections_are_ended_for_they_have_the_variables_of_before(
        self, product: Product, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ended: list[str] = []
        monkeypatch.setattr(
            "apexgpu.ssh.transport.Connections.close", lambda _, target: ended.append(target.alias)
        )
        tool(product)
        assert product("setup", "gpu2", "tool", "--yes") == 0
        assert ended == ["gpu2-manage", "gpu2"]


class TestRefusals:
    def test_a_driver_that_is_too_old_before_anything_is_changed(self, product: Product) -> None:
        (container(product).notes / "driver").write_text("381.09")
        row = product.hosts("setup", "gpu2", "cuda", "--yes")["gpu2"]
        assert row["error"]["code"] == "driver_too_old"
        assert (
            "gpu2 has driver 381.09, and CUDA 9.0 needs 384.81 or newer" in row["error"]["message"]
        )
        assert product("setup", "gpu2", "tensorflow", "--yes") == 6
        assert not (container(product).rootfs / "var/lib/dpkg/status").exists()
        assert not (container(product).home / ".cache").exists()

    def test_it_takes_one_look_and_no_other_command(
        self, product: Product, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (container(product).notes / "driver").write_text("381.09")
        sent: list[str] = []
        run = Connections.run

        def counted(self: Connections, target: Target, command: str, **more: Any) -> Reply:
            sent.append(target.alias)
            return run(self, target, command, **more)

        monkeypatch.setattr(Connections, "run", counted)
        assert product("setup", "gpu2", "tensorflow", "--yes") == 6
        assert sent == ["gpu2"]

    @pytest.mark.parametrize(
        ("fault", "said"), [("gpu-none", "No devices were found"), ("gpu-mismatch", "mismatch")]
    )
    def test_a_host_without_a_gpu_that_works(self, product: Product, fault: str, said: str) -> None:
        product.lab.fault("gpu2", fault)
        assert product("setup", "gpu2", "cuda", "--yes") == 6
        assert said in product.err
        assert product("setup", "gpu2", "x11", "--yes") == 0

    def test_a_python_without_wheels(self, product: Product) -> None:
        release = container(product).rootfs / "etc/os-release"
        release.write_text('ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian 12"\n')
        assert product("setup", "gpu2", "tensorflow", "--yes") == 6
        assert "gpu2 has no Python 3.5 or 3.6" in product.err

    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (
                ("tensorflow==1.12.3",),
                6,
                "1.12.3 works with cuDNN 7.1 or a newer 7.x, and gpu2 has 7.0.5",
            ),
            (("tensorflow==1.13.1",), 6, "needs CUDA 10.0 or newer"),
            (("cuda==10.0",), 6, "needs driver 410.48"),
            (("cudnn==7.6.5",), 6, "no cuDNN 7.6.5"),
            (("tensorflwo",), 2, "did you mean tensorflow"),
            (("cuda==x",), 2, "is not a version"),
            ((), 2, "no recipe was named"),
        ],
    )
    def test_what_cannot_be_says_why_and_what_can(
        self, product: Product, words: tuple[str, ...], code: int, said: str
    ) -> None:
        assert product("setup", "gpu2", *words, "--yes") == code
        assert said in product.err
        assert " hint: " in product.err

    def test_an_unknown_host_and_several(self, product: Product) -> None:
        assert product("setup", "gpu9", "cuda") == 2
        assert product("setup", "gpu*", "cuda") == 2

    def test_an_installer_that_is_not_there(self, product: Product) -> None:
        (
            product.lab.call(lambda lab_state: lab_state.nas)
            / "Share/GPU_Server/cuda_9.0.176_384.81_linux.run"
        ).unlink()
        row = product.hosts("setup", "gpu2", "cuda", "--yes")["gpu2"]
        assert (row["error"]["code"], row["changed"]) == ("no_installer", False)

    def test_one_that_was_replaced_since_it_worked(self, product: Product) -> None:
        assert product("setup", "gpu2", "cuda", "--yes") == 0
        assert "has another checksum than the published file" in product.err
        assert product("up", "gpu3", "--accept-new") == 0
        file = (
            product.lab.call(lambda lab_state: lab_state.nas)
            / "Share/GPU_Server/cuda_9.0.176_384.81_linux.run"
        )
        file.write_text(file.read_text() + "# changed\n")
        row = product.hosts("setup", "gpu3", "cuda", "--yes")["gpu3"]
        assert (row["error"]["code"], row["changed"]) == ("file_changed", False)
        assert product("setup", "gpu3", "cuda", "--yes", "--accept-files") == 0
        assert product("setup", "gpu3", "cuda") == 0


class TestTrouble:
    def test_a_stopped_container_is_offered_to_be_started(self, product: Product) -> None:
        assert product("setup", "gpu3", "cuda") == 6
        assert "apexgpu up gpu3" in product.err
        row = product.hosts("setup", "gpu3", "x11", "--yes", "--accept-new")["gpu3"]
        assert (row["ok"], row["changed"]) == (True, True)

    def test_a_dead_host_is_unreachable(self, product: Product) -> None:
        product.lab.fault("gpu2", "dead")
        assert product("setup", "gpu2", "cuda", "--yes", "--timeout", "3") == 5

    def test_a_silent_one_costs_its_time_limit_and_no_more(self, product: Product) -> None:
        product.lab.fault("gpu2", "silent")
        began = time.monotonic()
        assert product("setup", "gpu2", "cuda", "--yes", "--timeout", "8") == 5
        assert time.monotonic() - began < 16

    def test_a_step_that_fails_shows_its_last_words_and_what_to_type(
        self, product: Product
    ) -> None:
        tool(product, r"printf 'E: no space \033[31mleft\033[0m on device\n'; test -e ~/cure")
        row = product.hosts("setup", "gpu2", "tool", "--yes")["gpu2"]
        assert (row["ok"], row["changed"], states(row)) == (False, True, ["did", "failed"])
        assert row["error"] == {
            "code": "step_failed",
            "message": "gpu2: the second part: failed; last output: E: no space left on device",
            "hint": "apexgpu setup gpu2 tool",
        }
        assert "  working on it\n" in product.err
        assert product("setup", "gpu2", "tool", "--yes") == 1
        (container(product).home / "cure").touch()
        again = product.hosts("setup", "gpu2", "tool", "--yes")["gpu2"]
        assert (again["ok"], states(again)) == (True, ["done", "did"])

    def test_an_installer_that_says_0_and_leaves_nothing_is_found_out(
        self, product: Product
    ) -> None:
        file = (
            product.lab.call(lambda lab_state: lab_state.nas)
            / "Share/GPU_Server/cuda_9.0.176_384.81_linux.run"
        )
        good = file.read_text()
        file.write_text(
            "#!/bin/sh\necho 'Toolkit:  Installation Failed. Using unsupported Compiler.'\nexit 0\n"
        )
        assert product("setup", "gpu2", "cuda", "--yes") == 1
        assert "there is no nvcc" in product.err
        file.write_text(good)
        assert product("setup", "gpu2", "cuda", "--yes") == 0, product.err

    def test_what_was_there_and_is_not_whole_is_kept_aside(self, product: Product) -> None:
        room = container(product).rootfs / "usr/local/cuda-9.0"
        room.mkdir(parents=True)
        (room / "mine").touch()
        assert product("setup", "gpu2", "cuda", "--yes") == 0, product.err
        assert (room.parent / "cuda-9.0.before-apexgpu/mine").exists()

    def test_a_lost_connection_is_made_again(self, product: Product) -> None:
        release = container(product).home / "go"
        tool(product, "touch ~/begun; while ! test -e ~/go; do sleep 0.05; done")
        codes: list[int] = []

        def setup() -> None:
            codes.append(product("setup", "gpu2", "tool", "--yes"))

        thread = threading.Thread(target=setup)
        thread.start()
        while not (container(product).home / "begun").exists():
            threading.Event().wait(0.02)
        product.lab.fault("gpu2", "dead")
        product.lab.clear("gpu2", "dead")
        release.touch()
        thread.join(LIMIT)
        assert codes == [0], product.err
        assert "the work continues in the container, reconnecting" in product.err


class TestTerminal:
    """The real program in a terminal of its own."""

    def spawn(self, product: Product, *words: str) -> "pexpect.spawn[str]":
        return spawn(
            sys.executable,
            ["-m", "apexgpu", *words],
            env={**os.environ, "TERM": "xterm"},
            encoding="utf-8",
            timeout=LIMIT,
            dimensions=(40, 160),
        )

    def test_the_plan_is_shown_and_asked_about(self, product: Product) -> None:
        tool(product)
        child = self.spawn(product, "setup", "gpu2", "tool")
        child.expect("to do  the second part")
        child.expect(r"Set this up on gpu2\? \[y/N\]")
        child.sendline("n")
        child.expect("nothing was changed")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 7
        assert not (container(product).home / "one").exists()

    def test_the_hosts_last_line_is_shown_while_it_works_and_ctrl_c_leaves_nothing_half_done(
        self, product: Product
    ) -> None:
        tool(product, "while ! test -e ~/go; do sleep 0.05; done")
        child = self.spawn(product, "setup", "gpu2", "tool", "--yes")
        child.expect("✓ .*the first part")
        child.expect("setting up on gpu2 … .*working on it")
        child.sendintr()
        child.expect("interrupted at: the second part")
        child.expect("apexgpu setup gpu2 tool")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 130
        follower = self.spawn(product, "setup", "gpu2", "tool", "--yes")
        follower.expect("a setup is running on gpu2 already")
        (container(product).home / "go").touch()
        follower.expect("nothing to do")
        follower.expect(pexpect.EOF)
        follower.close()
        assert follower.exitstatus == 0
        assert (container(product).home / "tool").exists()

    def test_two_at_once_do_it_once(self, product: Product) -> None:
        tool(product, "echo once >>~/log; while ! test -e ~/go; do sleep 0.05; done")
        first = self.spawn(product, "setup", "gpu2", "tool", "--yes")
        first.expect("working on it")
        second = self.spawn(product, "setup", "gpu2", "tool", "--yes")
        second.expect("a setup is running on gpu2 already")
        (container(product).home / "go").touch()
        for child in (first, second):
            child.expect(pexpect.EOF)
            child.close()
            assert child.exitstatus == 0
        assert (container(product).home / "log").read_text() == "once\n"


def test_json_is_one_document_on_every_way_out(product: Product) -> None:
    for words in (("cuda", "--plan"), ("cuda==10.0",), ("nothing",), ("cuda",)):
        product("setup", "gpu2", *words, "--json")
        document = json.loads(product.out)
        assert document["schema"] == 1
        assert ("error" in document) or document["hosts"][0]["host"] == "gpu2"
