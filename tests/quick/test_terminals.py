"""The name of the user's terminal, for containers that are older than it."""

import shutil
import subprocess

import pytest

from apexgpu.manageshell import terminals

GHOSTTY = "#\tReconstructed via infocmp from file: /usr/share/terminfo/x/xterm-ghostty\nxterm-ghostty|ghostty|Ghostty,\n\tam, bce,\n"


@pytest.mark.parametrize("terminal", ["", "dumb", "xterm", "xterm-256color", "screen", "linux"])
def test_a_name_that_every_system_has_is_sent_without_a_question(terminal: str) -> None:
    assert terminals.check_command(terminal) == terminals.NO_CHECK
    assert terminals.environment(terminal, "") is None


@pytest.mark.parametrize("terminal", ["xterm-ghostty", "xterm-kitty", "alacritty", "tmux-256color"])
def test_a_name_that_the_container_does_not_have_is_replaced(terminal: str) -> None:
    assert terminals.check_command(terminal) == f"infocmp {terminal}"
    replaced = {"TERM": "xterm-256color"}
    assert terminals.environment(terminal, "") == replaced
    assert terminals.environment(terminal, f"~/.bashrc prints {terminal}\n") == replaced
    assert terminals.environment(terminal, "xterm|xterm terminal emulator,\n") == replaced


def test_a_name_that_the_container_has_is_sent_as_it_is() -> None:
    assert terminals.environment("xterm-ghostty", GHOSTTY) is None
    assert terminals.environment("ghostty", f"Welcome!\n{GHOSTTY}") is None
    assert terminals.environment("Ghost", GHOSTTY) == {"TERM": "xterm-256color"}


def test_a_name_is_one_word_for_a_shell() -> None:
    assert terminals.check_command("x; rm -r ~") == "infocmp 'x; rm -r ~'"


@pytest.mark.skipif(shutil.which("infocmp") is None, reason="no ncurses-bin")
def test_what_infocmp_prints_is_understood() -> None:
    for name, known in (("xterm-256color", True), ("no-such-terminal", False)):
        done = subprocess.run(["infocmp", name], capture_output=True, text=True, check=False)
        assert any(name in line.split("|") for line in done.stdout.splitlines()) is known
