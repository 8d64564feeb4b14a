"""Tab in real shells: bash, zsh and fish, in a terminal emulator."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from apexgpu import account, cli, completion, completionnames, remotecompletion, shellcompletion
from apexgpu.session import Session
from apexgpu_lab.inprocess import running
from tests.cli.product import Product, product_of
from tests.tmux import Window, window
from tests.waiting import until

pytestmark = pytest.mark.openssh

SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state directory as some commands left it, and `apexgpu` on PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    program = programs / "apexgpu"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m apexgpu "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    state = Path(os.environ["APEXGPU_STATE_DIR"])
    (state / "tunnels").mkdir(parents=True)
    (state / "tunnels/gpu2-6006.json").write_text("{}")
    (state / "hosts").write_text("gpu2\ngpu3\n")
    (state / "runs.json").write_text(
        '{"version": 1, "runs": [["train-a", "gpu2"], ["test", "gpu3"]]}'
    )
    (state / "mounts.json").write_text('[{"directory": "/home/alice/my files"}]')
    (state / "snapshot-names").write_text("gpu2 alice-gpu2-before\ngpu3 alice-gpu3-after\n")
    return state


@contextmanager
def shell_of(name: str, runtime: Path, tmp_path: Path) -> Iterator[Window]:
    """The shell in a window, with our completion."""
    script = tmp_path / "completion"
    script.write_text(completion.script(name))
    with window(runtime, *SHELLS[name]) as shell:
        if name == "bash" or name == "zsh":
            shell.press("PS1='$ '", "Enter")
        else:
            shell.press("function fish_prompt; echo '$ '; end", "Enter")
        shell.press(f"source {script}; echo rea''dy", "Enter")
        shell.expect("ready")
        shell.press("clear", "Enter")
        until(lambda: "ready" not in shell.text())
        yield shell


LINES = [
    ("apexgpu recover gpu2 --from ", "apexgpu recover gpu2 --from alice-gpu2-before"),
    ("apexgpu runs logs tr", "apexgpu runs logs train-a"),
    ("apexgpu tunnels close gpu2-", "apexgpu tunnels close gpu2-6006"),
    ("apexgpu lab fault iam stu", "apexgpu lab fault iam stuck-pusher"),
    ("apexgpu setup gpu2 tensorf", "apexgpu setup gpu2 tensorflow"),
    ("apexgpu cp gpu3", "apexgpu cp gpu3:"),
    ("apexgpu cp data gpu2:nothing", "apexgpu cp data gpu2:nothing"),  # no connection is open
]


@pytest.mark.parametrize("name", SHELLS)
def test_tab_completes_what_this_laptop_knows(
    name: str, state: Path, runtime: Path, tmp_path: Path
) -> None:
    assert shutil.which(name)
    with shell_of(name, runtime, tmp_path) as shell:
        for line, completed in LINES:
            shell.press("-l", line)
            shell.expect(line.strip())
            shell.press("Tab")
            shell.expect(completed)
            shell.press("C-e")
            shell.press("C-u")
            until(lambda: "apexgpu" not in shell.text())
    assert not (state / "account.json").exists()


@pytest.fixture
def product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: Path
) -> Iterator[Product]:
    """A host with a running container and an open connection to it."""
    with running(tmp_path / "lab", hosts=1, registered=True, pace=0) as lab:
        found = product_of(lab, monkeypatch, capsys)
        settings = Path(lab.environment["APEXGPU_CONFIG_DIR"]) / "config.toml"
        settings.write_text("keep_connections = true\n")
        session = Session(environment=os.environ)
        directory = Path(lab.environment["APEXGPU_STATE_DIR"])
        account.save(directory, account.Account(user="alice", hosts=session.known_hosts))
        assert found("up", "gpu2", "--accept-new") == 0, found.err
        make = "mkdir -p 'runs/best one' runs/lost; touch runs/best.ckpt runs/'a b.csv' .hidden"
        assert found("exec", "gpu2", "--", make) == 0, found.err
        yield found


def _await_connection() -> None:
    sockets = Path(os.environ["XDG_RUNTIME_DIR"]) / "apexgpu"
    until(lambda: sockets.is_dir() and any(path.is_socket() for path in sockets.iterdir()))


def test_paths_in_a_container_are_completed_over_an_open_connection(product: Product) -> None:
    _await_connection()

    def complete(line: str, shell: str = "zsh") -> list[str]:
        words = line.split(" ")
        environment = {
            **os.environ,
            "_APEXGPU_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": "\n".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        product.capsys.readouterr()
        completion.answer(environment)
        return product.capsys.readouterr().out.splitlines()

    # A busy machine may need more than 0.3 s for the first answer.
    until(lambda: complete("apexgpu cp gpu2:runs/be"))
    assert complete("apexgpu cp gpu2:runs/be") == ["gpu2:runs/best one/", "gpu2:runs/best.ckpt"]
    assert complete("apexgpu cp gpu2:runs/be", "bash") == [r"runs/best\ one/", "runs/best.ckpt"]
    assert complete("apexgpu tensorboard gpu2 runs/") == ["runs/best one/", "runs/lost/"]
    assert complete("apexgpu jupyter gpu2 ru") == ["runs/"]
    assert complete("apexgpu code gpu2 runs/n") == []
    assert complete("apexgpu cp gpu2:nowhere/") == []
    assert "gpu2:.hidden" in complete("apexgpu cp gpu2:.h")


def test_installation_follows_zdotdir_and_xdg_config_home_and_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "zsh files"
    directory.mkdir()
    # For zsh alone: it is not in our environment.
    (Path.home() / ".zshenv").write_text(f"ZDOTDIR='{directory}'\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    for shell in ("zsh", "fish"):
        assert cli.main(["--install-completion", shell], Session()) == 0, capsys.readouterr().err
    assert "completion.zsh" in (directory / ".zshrc").read_text()
    assert not (Path.home() / ".zshrc").exists()
    fish = tmp_path / "xdg/fish/completions/apexgpu.fish"
    assert fish.exists()
    shellcompletion.remove(Session().settings.config_dir)
    assert not (directory / ".zshrc").exists()
    assert not fish.exists()


@pytest.mark.parametrize(
    ("words", "index", "found"),
    [
        # As bash splits them.
        (["apexgpu", "cp", "gpu3"], 2, ["gpu3:"]),
        (["apexgpu", "recover", "gpu2", "--from", "=", "al"], 5, ["alice-gpu2-before"]),
        (["apexgpu", "unmount", "/home"], 2, [r"/home/alice/my\ files"]),
        (["apexgpu", "runs", "stop", "train-a", "t"], 4, ["test"]),
        (["apexgpu", "cp", "--method", "s"], 3, ["sftp"]),
    ],
)
def test_bash_gets_escaped_words_and_only_what_follows_its_breaks(
    state: Path,
    words: list[str],
    index: int,
    found: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    environment = {
        **os.environ,
        "_APEXGPU_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(index),
    }
    completion.answer(environment)
    assert capsys.readouterr().out.splitlines() == found


@pytest.mark.parametrize("text", ["", "[", "[1]", '{"runs": 5}', '{"runs": [5, [], [1]]}', "\0"])
def test_damaged_files_offer_nothing(state: Path, text: str) -> None:
    for name in ("runs.json", "mounts.json"):
        (state / name).write_text(text)
    (state / "snapshot-names").write_bytes(b"\xff\xfe")
    for kind in ("runs", "snapshots"):
        assert completionnames.names(kind, str(state), []) == []
    assert completionnames.names("mounts", str(state), []) == ["gpu2", "gpu3"]


def test_without_an_open_connection_no_path_is_offered_and_nothing_is_started(state: Path) -> None:
    before = sorted(state.rglob("*"))
    assert remotecompletion.paths("gpu2", "", os.environ, only_directories=False) == []
    assert sorted(state.rglob("*")) == before
