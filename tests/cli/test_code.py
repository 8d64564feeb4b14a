"""`code`: what is checked before the window opens, and with which arguments it is opened. Stubs record them."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu import editors
from apexgpu.models import Host
from apexgpu.remote import editorfacts
from apexgpu_lab.inprocess import running
from tests.cli.newcomer import ended
from tests.cli.product import Product, at_terminal, product_of
from tests.lab.calls import state_of

pytestmark = pytest.mark.openssh

STUB = """#!/bin/sh
case $1 in
  --version) echo {version}; echo 0123abcd; echo x64 ;;
  --list-extensions) printf '%s\\n' ms-python.python {extension} ;;
  *) printf '%s\\n' "$@" >>{calls} ;;
esac
"""


class Desk:
    """A laptop with stubs of editors."""

    def __init__(self, product: Product, directory: Path) -> None:
        self.product = product
        self._directory = directory
        self._calls = directory / "calls"

    def install(
        self,
        name: str = "code",
        *,
        version: str = "1.105.1",
        extension: str = "ms-vscode-remote.remote-ssh",
    ) -> Path:
        path = self._directory / name
        path.write_text(STUB.format(version=version, extension=extension, calls=self._calls))
        path.chmod(0o755)
        return path

    @property
    def calls(self) -> list[str]:
        """The arguments with which a window was opened."""
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    def in_container(self, name: str, text: str) -> None:
        """Put a program in front of the containers' own."""
        path = self.product.lab.layout.home / "bin" / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)


@pytest.fixture
def desk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Desk]:
    """gpu2 is up, gpu3 is stopped; the containers have a new glibc, space, and no internet access."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    monkeypatch.setenv("PATH", f"{stubs}:{os.environ['PATH']}")
    with running(tmp_path / "lab", hosts=2, registered=True, pace=0) as lab:
        product = product_of(lab, monkeypatch, capsys)
        assert product("up", "gpu2") == 0, product.err
        desk = Desk(product, stubs)
        desk.in_container("getconf", "echo glibc 2.31")
        desk.in_container("curl", "exit 6")
        yield desk


def test_the_home_directory_opens_over_remote_ssh(desk: Desk) -> None:
    desk.install()
    assert desk.product("code", "gpu2") == 0, desk.product.err
    assert desk.calls == ["--folder-uri", "vscode-remote://ssh-remote+gpu2/home/alice"]
    assert "✓ VS Code opens /home/alice on gpu2\n" in desk.product.err
    assert "no internet access" in desk.product.err
    assert '"remote.SSH.configFile"' in desk.product.err  # the lab's hosts are not in ~/.ssh/config


def test_a_directory_is_relative_to_the_home_directory_and_its_blanks_are_quoted(
    desk: Desk,
) -> None:
    desk.install("cursor", version="2.0.1")
    assert desk.product("exec", "gpu2", "--", "mkdir 'my 项目'") == 0
    assert desk.product("code", "gpu2", "my 项目") == 0, desk.product.err
    uri = "vscode-remote://ssh-remote+gpu2/home/alice/my%20%E9%A1%B9%E7%9B%AE"
    assert desk.calls == ["--folder-uri", uri]
    assert "✓ Cursor opens /home/alice/my 项目 on gpu2\n" in desk.product.err


def test_a_directory_that_does_not_exist_opens_nothing(desk: Desk) -> None:
    desk.install()
    assert desk.product("code", "gpu2", "nowhere") == 6
    assert "error: there is no directory nowhere in the container on gpu2\n" in desk.product.err
    assert desk.calls == []


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_stopped_container_is_started_if_the_user_agrees(desk: Desk, answer: str) -> None:
    desk.install()
    with at_terminal("code", "gpu3") as child:
        child.expect(re.escape("The container on gpu3 is stopped. Start it? [y/N]"))
        child.sendline(answer)
        assert ended(child) == (0 if answer == "y" else 7)
    assert state_of(desk.product.lab, "gpu3") == ("RUNNING" if answer == "y" else "STOPPED")
    assert bool(desk.calls) is (answer == "y")


@pytest.mark.parametrize(
    ("program", "version", "glibc", "code"),
    [
        ("code", "1.99.0", "2.27", 6),
        ("code", "1.98.2", "2.27", 0),
        ("code", "1.98.2", "2.23", 0),
        ("code", "1.98.2", "2.12", 6),
        ("code", "1.99.0", "2.28", 0),
        ("code", "what", "2.27", 6),
        ("cursor", "0.42.1", "2.27", 6),  # its numbers are its own
    ],
)
def test_the_glibc_decides_which_versions_open_a_window(
    desk: Desk, program: str, version: str, glibc: str, code: int
) -> None:
    desk.install(program, version=version)
    desk.in_container("getconf", f"echo glibc {glibc}")
    assert desk.product("code", "gpu2") == code, desk.product.err
    assert bool(desk.calls) is (code == 0)
    if code:
        assert f"it has glibc {glibc} (" in desk.product.err
        assert "VS Code 1.98 is the last version that works there" in desk.product.err
        assert " hint: apexgpu mount gpu2\n" in desk.product.err
        assert desk.product("code", "gpu2", "--force") == 0
        assert desk.calls


def test_a_full_disk_is_named_before_the_window_opens(desk: Desk) -> None:
    desk.install()
    desk.in_container("df", "printf 'a\\n/dev/sda1 100 60 40000 99% /home\\n'")
    assert desk.product("code", "gpu2") == 6
    assert "error: 39.1 MiB are free for /home/alice on gpu2" in desk.product.err
    assert desk.calls == []
    # A server that is there already needs no more space, and no internet access.
    assert desk.product("exec", "gpu2", "--", "mkdir -p .vscode-server/bin/abc") == 0
    assert desk.product("code", "gpu2") == 0
    assert "internet" not in desk.product.err


def test_without_a_program_on_path_the_link_is_the_result(desk: Desk) -> None:
    assert desk.product("code", "gpu2") == 0
    assert desk.product.out == "vscode://vscode-remote/ssh-remote+gpu2/home/alice\n"
    assert "VS Code is not on PATH; open this link with it:\n" in desk.product.err
    (row,) = desk.product.json("code", "gpu2")["hosts"]
    assert row == {
        "host": "gpu2",
        "ok": True,
        "error": None,
        "editor": "VS Code",
        "directory": "/home/alice",
        "link": "vscode://vscode-remote/ssh-remote+gpu2/home/alice",
        "opened": False,
    }


def test_the_setting_decides_among_several_editors(desk: Desk) -> None:
    desk.install()
    path = desk.install("cursor")
    assert desk.product("config", "set", "editor", str(path)) == 0, desk.product.err
    assert desk.product.json("code", "gpu2")["hosts"][0]["editor"] == "Cursor"
    assert desk.product("config", "set", "editor", "notepad") == 0
    assert desk.product("code", "gpu2") == 127
    assert "hint: apexgpu config set editor code\n" in desk.product.err


def test_without_the_extension_the_command_that_installs_it_is_the_hint(desk: Desk) -> None:
    path = desk.install(extension="")
    assert desk.product("code", "gpu2") == 1
    hint = f" hint: {path} --install-extension ms-vscode-remote.remote-ssh\n"
    assert hint in desk.product.err
    assert desk.calls == []


def test_a_name_with_capitals_is_written_as_json() -> None:
    authority = editors._authority(Host("GPU7", "10.0.0.7", "alice", 22001))
    encoded = authority.removeprefix("ssh-remote+")
    assert json.loads(bytes.fromhex(encoded)) == {"hostName": "GPU7"}


def test_programs_of_windows_are_recognised() -> None:
    assert editors._kind(r"C:\Users\a\AppData\Local\Programs\cursor\Cursor.CMD") == "cursor"


def test_unknown_facts_do_not_keep_the_window_closed() -> None:
    facts = editorfacts.parse("welcome\napexgpu home /home/alice\napexgpu glibc musl\n")
    assert facts.glibc is None
    assert facts.free is None
    assert facts.has_internet is None
    editors._check_glibc(
        Host("gpu7", "10.0.0.7", "alice", 22001), editors.EDITORS["code"], facts, None
    )
