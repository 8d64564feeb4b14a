"""`apexgpu` alone: how things are, and the one next command; names that other tools use."""

import json

import pytest

from apexgpu import cli
from apexgpu.commands.table import COMMANDS, EVERYDAY, GROUP_SYNONYMS, SYNONYMS
from apexgpu.completion_table import TABLE
from apexgpu.session import Session
from tests.cli.newcomer import Newcomer


def next_of(laptop: Newcomer) -> str:
    return str(laptop.run("--json").json["next"])


def test_each_step_of_the_first_day_leads_to_the_next(new: Newcomer) -> None:
    assert next_of(new) == "apexgpu login"
    assert new.log_in().code == 0
    assert next_of(new) == "apexgpu register gpu2"
    assert new.run("register", "gpu2", "--yes").code == 0
    assert next_of(new) == "apexgpu up gpu2"
    assert new.run("up", "gpu2", "--accept-new").code == 0
    document = new.run("--json").json
    assert (document["running"], document["not_registered"]) == (["gpu2"], ["gpu3"])
    assert document["next"] == "apexgpu ssh gpu2", "plain ssh does not read this ssh config"
    shown = new.run().out
    assert "Logged in as alice." in shown
    assert "Next: apexgpu ssh gpu2" in shown
    for name in EVERYDAY:
        assert f"  {name:<10}{COMMANDS[name].line}" in shown
    assert len(EVERYDAY) == 10


def test_a_host_that_is_new_in_iam_leads_to_a_sync(member: Newcomer) -> None:
    def forget(path: str) -> None:
        account = json.loads((member.state / path).read_text())
        account["hosts"] = [host for host in account["hosts"] if host["name"] != "gpu3"]
        (member.state / path).write_text(json.dumps(account))

    forget("account.json")
    document = member.run("--json").json
    assert (document["new_hosts"], document["next"]) == (["gpu3"], "apexgpu config sync")


def test_away_from_the_lab_the_vpn_is_named(
    member: Newcomer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert member.run("config", "set", "vpn", "connect to vpn.apexlab.org first").code == 0
    account = json.loads((member.state / "account.json").read_text())
    account["iam_url"] = "http://127.0.0.1:9"
    for host in account["hosts"]:
        host["manage_port"] = 9
    (member.state / "account.json").write_text(json.dumps(account))
    member.config.write_text("Host *\n Port 9\n HostName 127.0.0.1\n")
    said = member.run()
    assert "are you on the lab's network or its VPN? (connect to vpn.apexlab.org first)" in said.out
    assert "Next: apexgpu doctor" in said.out


def test_a_host_that_refuses_is_not_one_that_does_not_answer(member: Newcomer) -> None:
    (member.ssh / "known_hosts").unlink()
    document = member.run("--json").json
    assert (document["unreachable"], document["failing"]) == ([], ["gpu2", "gpu3"])
    assert document["next"] == "apexgpu doctor"
    assert "  problem         gpu2 gpu3" in member.run().out


@pytest.mark.parametrize("word", sorted(SYNONYMS))
def test_a_name_from_another_tool_is_our_command(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert word not in COMMANDS
    path = " ".join(name for name in SYNONYMS[word] if not name.startswith("-"))
    assert path in TABLE
    assert cli.main([word, "--help"], Session()) == 0
    assert capsys.readouterr().out.startswith(f"Usage: apexgpu {path}")


def test_each_synonym_in_a_group_is_a_command_of_some_group() -> None:
    names = {path.partition(" ")[2] for path in TABLE}
    assert set(GROUP_SYNONYMS.values()) <= names


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ("snapshots", "verfy", "x"),
            "apexgpu snapshots has no command verfy; did you mean verify?",
        ),
        (("keys", "lsit"), "apexgpu keys has no command lsit; did you mean list?"),
        (("config", "synk"), "did you mean sync?"),
        (("tunnels", "clsoe"), "did you mean close?"),
        (("STATUS",), "did you mean status?"),
        (("statsu",), "did you mean status?"),
    ],
)
def test_a_slip_has_its_nearest_name_in_groups_too(
    new: Newcomer, words: tuple[str, ...], named: str
) -> None:
    said = new.run(*words)
    assert said.code == 2
    assert named in said.err


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("config",), "SETTING"),
        (("x11",), "Usage: apexgpu x11"),
        (("lab",), "No lab is running"),
        (("completion",), "Usage: apexgpu completion"),
        (("setup",), "tensorflow"),
        (("help",), "Usage: apexgpu"),
        (("help", "start"), "Usage: apexgpu up"),
        (("version",), "apexgpu "),
    ],
)
def test_a_group_alone_shows_its_list_or_its_help(
    words: tuple[str, ...], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words, Session()) == 0
    assert shown in capsys.readouterr().out


def test_keys_alone_are_listed(member: Newcomer) -> None:
    assert member.run("keys").out == member.run("keys", "list").out
    assert member.run("keys", "--json").json["keys"]


def test_restart_stops_and_starts(member: Newcomer) -> None:
    assert member.run("register", "gpu2", "--yes").code == 0
    assert member.run("up", "gpu2", "--accept-new").code == 0
    assert member.run("restart", "gpu2").code == 7, (
        "a running container is stopped after a question"
    )
    (row,) = member.run("restart", "gpu2", "--yes", "--json").json["hosts"]
    assert (row["state"], row["changed"]) == ("running", True)


def test_states_have_one_spelling(member: Newcomer) -> None:
    assert member.run("register", "gpu2", "--yes").code == 0
    rows = {row["host"]: row["state"] for row in member.run("status", "--json").json["hosts"]}
    assert rows == {"gpu2": "stopped", "gpu3": "not_registered"}
    assert member.run("up", "gpu2", "--accept-new").code == 0
    (row,) = member.run("status", "gpu2", "--json").json["hosts"]
    assert row["state"] == "running"
    (row,) = member.run("down", "gpu2", "--yes", "--json").json["hosts"]
    assert row["state"] == "stopped"
