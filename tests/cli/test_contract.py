"""What every command promises, where several of them share the code that keeps it."""

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from apexgpu import account, cli
from apexgpu.errors import DeclinedError
from apexgpu.files import locked
from apexgpu.models import Host
from apexgpu.questions import Question
from apexgpu.render.screen import Screen
from apexgpu.reporter import Reporter
from apexgpu.session import Session
from apexgpu_lab.inprocess import running
from tests.cli.product import Product, product_of

Failing = Callable[..., int]


@pytest.fixture
def product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """Two hosts; alice is registered, and gpu2 is up."""
    with running(tmp_path / "lab", hosts=2, registered=True, pace=0) as lab:
        found = product_of(lab, monkeypatch, capsys)
        assert found("up", "gpu2") == 0, found.err
        yield found


def test_a_shell_is_no_document(product: Product) -> None:
    assert product.json("ssh", "gpu2", "--timeout", "20")["error"]["code"] == "usage"
    assert "--json needs a command" in product.err


@pytest.mark.parametrize(
    "words",
    [
        ("cp", "gpu3:a", "."),
        ("tunnel", "gpu3", "6006", "--background"),
        ("tensorboard", "gpu3", "runs"),
        ("jupyter", "gpu3"),
        ("mount", "gpu3"),
        ("setup", "gpu3", "cuda"),
        ("verify", "gpu3"),
        ("port", "gpu3", "6006"),
        ("exec", "gpu3", "true"),
        ("x11", "install", "gpu3"),
    ],
)
def test_what_stands_in_one_hosts_way_is_in_its_row_and_at_the_top(
    product: Product, words: tuple[str, ...]
) -> None:
    document = product.json(*words)
    assert document["ok"] is False
    assert document["error"]["code"] == "stopped"
    assert [(row["host"], row["ok"], row["error"]) for row in document["hosts"]] == [
        ("gpu3", False, document["error"])
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("ssh", "gpu2", "--json", "--", "echo out; echo err >&2; exit 4"),
        ("ssh", "gpu2", "--timeout=20", "--json", "echo out; echo err >&2; exit 4"),
        ("--json", "ssh", "gpu2", "echo out; echo err >&2; exit 4"),
        ("exec", "gpu2", "--json", "--timeout", "20", "--", "echo out; echo err >&2; exit 4"),
    ],
)
def test_what_a_command_said_is_one_document(product: Product, words: tuple[str, ...]) -> None:
    assert product(*words) == 4
    row = json.loads(product.out)["hosts"][0]
    assert (row["host"], row["exit"], row["stdout"], row["stderr"]) == ("gpu2", 4, "out\n", "err\n")


def test_a_commands_own_options_stay_its_own(product: Product) -> None:
    assert product("exec", "gpu2", "--", "echo", "--json", "--", "--yes") == 0
    assert product.out == "--json -- --yes\n"


def test_a_tunnel_of_a_host_that_is_not_there_has_its_nearest_names(product: Product) -> None:
    for name in ("gpu22", "gpu22-6006"):
        assert product("tunnels", "close", name) == 2
        assert "there is no host gpu22" in product.err
        assert "did you mean gpu2" in product.err
    assert (
        product("tunnels", "close", "gpu2-6006") == 0
    )  # closed by now, or never there: nothing to do


def test_tunnels_are_closed_without_a_login_or_a_network(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APEXGPU_USER")
    product.lab.fault("iam", "down")
    assert product("tunnels", "close", "--all") == 0, product.err
    assert product("tunnels", "close", "gpu2") == 4


def test_a_logout_closes_the_tunnels(product: Product) -> None:
    assert product("tunnel", "gpu2", "6006", "--background") == 0, product.err
    assert product.json("logout", "--keep-config")["changed"]
    assert "closed gpu2-" in product.err
    assert product.json("tunnels")["tunnels"] == []
    assert not product.json("logout", "--keep-config")["changed"]


def test_the_help_of_a_list_shows_its_options_and_whole_sentences(product: Product) -> None:
    for group, option in (
        ("gpus", "--watch"),
        ("snapshots", "[HOST]"),
        ("tunnels", "--json"),
        ("mounts", "--json"),
    ):
        assert product(group, "--help") == 0
        assert option in product.out
    for group in (
        "gpus",
        "snapshots",
        "tunnels",
        "mounts",
        "keys",
        "config",
        "x11",
        "lab",
        "completion",
    ):
        assert product(group, "--help") == 0
        assert "..." not in product.out.replace("HOST...", "").replace("[ARGS]...", "")


def test_without_a_screen_there_is_an_error_and_not_only_a_table(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    found = product.json("x11", "check")
    assert found["error"]["code"] == "no_display"
    assert found["error"]["hint"]
    assert product("x11", "check", "gpu2") == 6
    assert "error: broken: DISPLAY" in product.err
    assert " hint: " in product.err


def test_a_lock_file_is_the_users_alone(tmp_path: Path) -> None:
    with locked(tmp_path / "a.lock", what="a"):
        assert stat.S_IMODE((tmp_path / "a.lock").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "words", [("status", "--json"), ("status", "--timeout", "9", "--json"), ("whoami", "--json")]
)
def test_ctrl_c_ends_with_a_document_too(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With typer between and without it."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("apexgpu.settings.load", interrupted)
    assert cli.main(words, Session(environment={})) == 130
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "interrupted"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize(
    "words", [("--version",), ("status", "--json"), ("status",), ("config", "print"), ("--help",)]
)
def test_a_full_disk_under_the_output_is_an_error_without_a_trace(
    product: Product, words: tuple[str, ...]
) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "apexgpu", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr.count("hint: ")) == (
            1,
            0 if words == ("--version",) else 1,
        )
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        quiet = subprocess.run(
            [sys.executable, "-m", "apexgpu", "nosuch"], stdout=full, stderr=full, check=False
        )
    assert quiet.returncode == 2


@pytest.mark.parametrize(
    "words", [("cp", "a", "gpu2:a"), ("cp", "gpu2:.bashrc", "."), ("login", "--key", "a")]
)
def test_a_directory_that_is_gone_is_named(
    product: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert product(*words) == 1
    assert "error: the directory that you are in is gone\n hint: cd\n" in product.err


@pytest.fixture(
    params=[("status", "--json"), ("whoami", "--json")], ids=["without typer", "with typer"]
)
def failing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Runs a command whose settings cannot be read for the reason given."""

    def run(why: BaseException, *more: str) -> int:
        def fail(*_: object) -> None:
            raise why

        monkeypatch.setattr("apexgpu.settings.load", fail)
        return cli.main([*request.param, *more], Session(environment={}))

    return run


def test_a_fault_of_ours_is_one_error_without_a_traceback_or_a_value(
    failing: Failing, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(KeyError("hunter2")) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "bug"
    assert "error: apexgpu itself failed: KeyError" in err
    assert "Traceback" not in err
    assert "hunter2" not in out + err
    with pytest.raises(KeyError):
        failing(KeyError("hunter2"), "--debug")


def test_a_file_that_cannot_be_used_is_named(
    failing: Failing, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(PermissionError(errno.EACCES, "Permission denied", "/etc/x")) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == {
        "code": "file",
        "message": "cannot use /etc/x: Permission denied",
        "hint": "ls -ld /etc",
    }
    assert "error: cannot use /etc/x: Permission denied" in err


def test_a_reader_that_has_gone_is_told_nothing(
    failing: Failing, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # to have it back
    assert failing(BrokenPipeError()) == 0
    assert capsys.readouterr() == ("", "")


def test_wrong_use_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["down", "--no-such", "--json"], Session(environment={})) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "usage"
    assert " hint: apexgpu down --help" in err


def test_what_is_in_the_way_of_several_hosts_is_no_ones_row(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/etc/x")

    monkeypatch.setattr("apexgpu.ssh.fanout.each", fail)
    document = product.json("register", "gpu2", "gpu3")
    assert document["error"]["code"] == "file"
    assert "hosts" not in document


class Answering(Reporter):
    """Somebody who answers, or nobody."""

    def __init__(self, answer: str | None) -> None:
        self.answer = answer

    @property
    def can_ask(self) -> bool:
        return self.answer is not None

    def confirm(self, question: Question) -> bool:
        return self.answer == "y"

    def ask(self, question: Question, *, suffix: str = "") -> str:
        return self.answer or ""


STOP = Question("Stop it?", "停止吗？")
LOST = Question("It is lost", "它会丢失")


def answering(answer: str | None) -> Session:
    return Session(environment={}, reporter=Answering(answer))


@pytest.mark.parametrize(
    ("answer", "code"), [(None, "no_terminal"), ("n", "declined"), ("", "declined")]
)
def test_nobody_but_yes_goes_on(answer: str | None, code: str) -> None:
    session = answering(answer)
    with pytest.raises(DeclinedError) as caught:
        session.confirm_name("gpu7", LOST)
    assert (caught.value.code, caught.value.exit_code) == (code, 7)
    with pytest.raises(DeclinedError) as caught:
        session.confirm(STOP, option="--really")
    assert (caught.value.code, caught.value.exit_code) == (code, 7)
    assert "--really" in (caught.value.hint or "")
    agreed = replace(session, yes=True)
    agreed.confirm(STOP)
    agreed.confirm_name("gpu7", LOST)


def test_only_the_very_name_goes_on() -> None:
    for typed in ("gpu", "GPU7", "gpu77", "y"):
        with pytest.raises(DeclinedError, match="nothing was changed"):
            answering(typed).confirm_name("gpu7", LOST)
    answering("gpu7").confirm_name("gpu7", LOST)
    answering(" ｇｐｕ７ ").confirm_name("gpu7", LOST)
    answering("y").confirm(STOP)


def test_a_no_names_what_was_done_before_and_what_was_not() -> None:
    session = answering("n")
    with pytest.raises(DeclinedError) as caught:
        session.confirm(STOP)
    assert caught.value.message == "nothing was changed"
    session.reporter.note_done("gpu2 is up")
    session.reporter.note_done("IAM has your key")
    with pytest.raises(DeclinedError) as caught:
        session.confirm(STOP)
    assert caught.value.message == "not done: stop it; done before: gpu2 is up; IAM has your key"


def test_hosts_are_in_iams_order_and_each_once(product: Product) -> None:
    assert list(product.hosts("status", "gpu3", "gpu*", "gpu2")) == ["gpu2", "gpu3"]


def test_ctrl_c_after_the_document_makes_no_second_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()

    def status(_session: Session, _: object) -> int:
        screen.document({"ok": True})
        raise KeyboardInterrupt

    monkeypatch.setattr("apexgpu.containers.status", status)
    assert cli.main(["status", "--json"], Session(environment={}), screen) == 130
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_what_is_remembered_of_one_user_is_not_anothers(product: Product) -> None:
    state = Path(product.lab.environment["APEXGPU_STATE_DIR"])
    account.save(
        state, account.Account(user="alice", hosts=(Host("old", "127.0.0.1", "alice", 22001),))
    )
    assert [host.name for host in Session().known_hosts] == ["old"]
    found = Session(environment={**os.environ, "APEXGPU_USER": "bob"}).known_hosts
    assert {(host.name, host.user) for host in found} == {("gpu2", "bob"), ("gpu3", "bob")}


def test_an_address_outside_the_networks_of_the_settings_is_not_connected_to(
    product: Product,
) -> None:
    config = Path(product.lab.environment["APEXGPU_CONFIG_DIR"]) / "config.toml"
    for networks, code in (("127.0.0.0/8", 0), ("10.0.0.0/8", 2)):
        config.write_text(f'keep_connections = false\nnetworks = ["{networks}"]\n')
        assert product("status") == code, product.err
    assert "is outside the lab's networks" in product.err
