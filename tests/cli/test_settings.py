"""config get, set and edit: one line of config.toml changes, and everything else in the file stays."""

import os
import stat
from pathlib import Path

import pytest

from tests.cli.newcomer import Newcomer, ended

MINE = '# mine\ntimeout = 7 # seconds\n\n[future]\ntimeout = "of another table"\n'


@pytest.fixture
def file(new: Newcomer) -> Path:
    """A config.toml with a comment, and a table that no version knows yet."""
    path = Path(os.environ["APEXGPU_CONFIG_DIR"]) / "config.toml"
    path.write_text(MINE)
    return path


def test_a_setting_is_printed_with_its_source(new: Newcomer, file: Path) -> None:
    assert new.run("config", "get", "timeout").out == "7\n"
    document = new.run("config", "get", "timeout", "--json").json
    assert (document["value"], document["source"]) == ("7", "file")
    assert new.run("config", "get", "user", "--json").json["value"] is None


def test_a_change_touches_its_own_line_only(new: Newcomer, file: Path) -> None:
    assert new.run("config", "set", "timeout", "20").code == 0
    assert file.read_text() == MINE.replace("timeout = 7 # seconds", "timeout = 20")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert new.run("config", "set", "networks", "10.0.0.0/8, 192.168.0.0/16").code == 0
    lines = 'timeout = 20\nnetworks = ["10.0.0.0/8", "192.168.0.0/16"]\n\n[future]'
    assert lines in file.read_text()
    assert new.run("config", "get", "networks").out == "10.0.0.0/8, 192.168.0.0/16\n"


def test_an_empty_value_brings_the_default_back(new: Newcomer, file: Path) -> None:
    assert new.run("config", "set", "timeout", "").code == 0
    assert new.run("config", "get", "timeout").out == "10\n"
    before = file.read_bytes()
    assert new.run("config", "set", "timeout", "", "--json").json["changed"] is False
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("timeout", "soon"), "a number of seconds up to 3600"),
        (("timeout", "0"), "a number of seconds up to 3600"),
        (("keep_connections", "maybe"), "true or false"),
        (("networks", "10.0.0.1/8"), "has host bits set"),
        (("time-out", "5"), "did you mean timeout?"),
        (("state_dir", "/tmp"), "there is no setting state_dir"),
    ],
)
def test_what_cannot_be_a_setting_is_refused_and_nothing_written(
    new: Newcomer, file: Path, words: tuple[str, str], named: str
) -> None:
    said = new.run("config", "set", *words)
    assert said.code == 2
    assert named in said.err
    assert file.read_text() == MINE


def test_a_value_over_several_lines_is_left_to_the_editor(new: Newcomer, file: Path) -> None:
    text = 'networks = [\n  "10.0.0.0/8",\n]\n'
    file.write_text(text)
    said = new.run("config", "set", "networks", "10.0.0.0/8,192.168.0.0/16")
    assert said.code == 2
    assert "hint: apexgpu config edit" in said.err
    assert file.read_text() == text


def test_a_variable_that_hides_the_file_is_named(
    new: Newcomer, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APEXGPU_TIMEOUT", "5")
    said = new.run("config", "set", "timeout", "20")
    assert said.out == "5\n"
    assert "the environment sets timeout too" in said.err


def test_the_editor_gets_every_setting_with_its_meaning_and_the_file_is_checked(
    new: Newcomer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(os.environ["APEXGPU_CONFIG_DIR"]) / "config.toml"
    path.unlink()
    editor = tmp_path / "my editor"
    editor.write_text('#!/bin/sh\necho "timeout = never" >> "$2"\n')
    editor.chmod(0o700)
    monkeypatch.setenv("VISUAL", f"'{editor}' --wait")
    with new.at_terminal("config", "edit") as child:
        child.expect("is not valid TOML")
        assert ended(child) == 2
    text = path.read_text()
    assert "# seconds a host may take to connect\n# timeout = 10\n" in text
    path.write_text(text.replace("timeout = never", "timeout = 30"))
    assert new.run("config", "get", "timeout").out == "30\n"
    assert new.run("config", "edit").code == 7, "there is no terminal"
