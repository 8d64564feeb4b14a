"""What is suggested for a word that is no command: typical slips, in every group, and words that mean nothing."""

import pytest

from apexgpu import cli
from apexgpu.commands.slips import nearest, similarity
from apexgpu.session import Session

SLIPS = {
    # Two letters in the wrong order
    "statsu": "status",
    "stauts": "status",
    "strat": "up (start)",
    "sotp": "down (stop)",
    "restrat": "restart",
    "lgoin": "login",
    "regsiter": "register",
    "donw": "down",
    "pu": "up",
    "pc": "cp",
    "exce": "exec",
    "umnount": "unmount",
    "recovre": "recover",
    "gpsu": "gpus",
    "setpu": "setup",
    "doctro": "doctor",
    "whomai": "whoami",
    "sl": "status (ls)",
    "restroe": "recover (restore)",
    "bakcup": "snapshot (backup)",
    "verison": "--version (version)",
    # A letter is missing, wrong, or too many
    "logn": "login",
    "tunel": "tunnel",
    "tunels": "tunnels",
    "mout": "mount",
    "snapsot": "snapshot",
    "shh": "ssh",
    "sssh": "ssh",
    "gpu": "gpus",
    "downn": "down",
    "jupiter": "jupyter",
    "tensorbord": "tensorboard",
    "confg": "config",
    "varify": "verify",
    "hepl": "--help (help)",
    # Abbreviations
    "stat": "status",
    "snap": "snapshot",
    "reg": "register",
    "doc": "doctor",
    "STAUTS": "status",
    "config sotre": "restore",
    "config synk": "sync",
    "config remvoe": "remove",
    "config prnit": "print",
    "config stauts": "status",
    "keys lsit": "list",
    "keys ad": "add",
    "keys delte": "remove (delete)",
    "snapshots verfy": "verify",
    "snapshots kepe": "keep",
    "snapshots prnue": "keep (prune)",
    "tunnels clsoe": "close",
    "mounts repiar": "repair",
    "runs lgos": "logs",
    "runs stpo": "stop",
    "runs kil": "stop (kill)",
    "gpus fre": "free",
    "x11 chekc": "check",
    "x11 instal": "install",
    "lab fualt": "fault",
    "lab dwon": "down",
    "lab strat": "up (start)",
    "lab evn": "env",
}
NOTHING_NEAR = ("foo", "exit", "kill", "quota", "fg", "config foo", "lab quota")


@pytest.mark.parametrize("words", SLIPS)
def test_a_slip_names_the_command_that_was_meant(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words.split(), Session()) == 2
    assert f"did you mean {SLIPS[words]}?\n" in capsys.readouterr().err


@pytest.mark.parametrize("words", NOTHING_NEAR)
def test_a_word_that_is_near_nothing_gets_no_suggestion(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words.split(), Session()) == 2
    shown = capsys.readouterr().err
    assert "no command" in shown
    assert "did you mean" not in shown


def test_a_swap_is_a_smaller_slip_than_a_wrong_letter() -> None:
    assert similarity("stpo", "stop") > similarity("stap", "stop") > similarity("stabb", "stop")


def test_the_first_of_several_names_that_are_equally_near_is_taken() -> None:
    assert nearest("xun", ["run", "sun"]) == "run"
    assert nearest("xun", []) is None
