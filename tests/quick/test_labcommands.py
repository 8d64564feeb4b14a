"""Commands that fit how apexgpu was installed, and the people whom a lab has named for help."""

import io
import shutil
import sys
from pathlib import Path

import pytest

from apexgpu import cli
from apexgpu.commands.invocation import Invocation
from apexgpu.errors import MissingProgramError, NoNetworkError, RefusedError
from apexgpu.render.screen import Screen
from apexgpu.session import Session
from apexgpu_lab import client, demo


@pytest.mark.parametrize(
    ("prefix", "receipt", "command"),
    [
        ("pipx/venvs/apexgpu", False, "pipx install --force '.[lab]'"),
        ("uv/tools/apexgpu", True, "uv tool install --reinstall '.[lab]'"),
        ("project/.venv", False, f"{sys.executable} -m pip install '.[lab]'"),
    ],
)
def test_the_extra_is_added_as_apexgpu_was_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str, receipt: bool, command: str
) -> None:
    directory = tmp_path / prefix
    directory.mkdir(parents=True)
    if receipt:
        (directory / "uv-receipt.toml").touch()
    monkeypatch.setattr("sys.prefix", str(directory))
    assert client.install_command() == command


def test_the_demo_ends_with_a_command_that_works_where_the_user_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = Path(sys.executable).with_name("apexgpu")
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.chdir(program.parent.parent)
    assert demo._command() == f"{program.parent.name}/apexgpu"
    monkeypatch.chdir("/")
    assert Path("/", demo._command()) == program
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert demo._command() == "apexgpu"


def test_on_windows_the_lab_names_wsl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    starts = (
        lambda: client.up(tmp_path, hosts=1, registered=False),
        lambda: demo.play(print_line=lambda _line: None),
    )
    for start in starts:
        with pytest.raises(MissingProgramError, match="run it in WSL") as caught:
            start()
        assert caught.value.hint == "wsl --install -d Ubuntu"


def report(error: RefusedError | NoNetworkError, config: Path) -> str:
    err = io.StringIO()
    screen = Screen(out=io.StringIO(), err=err)
    environment = {"APEXGPU_CONFIG_DIR": str(config), "APEXGPU_STATE_DIR": str(config / "state")}
    session = Session(environment=environment, reporter=screen.reporter)
    cli._report(Invocation(session, screen), error)
    return err.getvalue()


def test_the_people_and_the_vpn_that_a_lab_has_named_are_shown(tmp_path: Path) -> None:
    refused = RefusedError("only an administrator can delete it")
    network = NoNetworkError("gpu7: the network is unreachable")
    assert report(refused, tmp_path) == "error: only an administrator can delete it\n"
    question = "are you on the lab's network or its VPN?"
    assert report(network, tmp_path).endswith(f"{question}\n")
    (tmp_path / "config.toml").write_text('administrators = "ops@lab"\nvpn = "vpn.lab first"\n')
    assert report(refused, tmp_path).endswith("administrators: ops@lab\n")
    assert report(network, tmp_path).endswith(f"{question} (vpn.lab first)\n")
