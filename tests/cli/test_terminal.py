"""status and ssh at a real terminal, and down a pipe, while a host among many says nothing."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from apexgpu_lab.inprocess import running
from tests.cli.newcomer import ended
from tests.cli.product import Product, at_terminal, product_of
from tests.lab.calls import started, state_of
from tests.terminals import REDRAWN

pytestmark = pytest.mark.openssh


@pytest.fixture
def two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """Two hosts; alice is registered on both, with stopped containers."""
    monkeypatch.setenv("TERM", "xterm")
    with running(tmp_path / "lab", hosts=2, registered=True) as lab:
        yield product_of(lab, monkeypatch, capsys)


@pytest.fixture
def eighteen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """18 hosts, of which one refuses and one says nothing."""
    monkeypatch.setenv("TERM", "xterm")
    with running(tmp_path / "lab", hosts=18, registered=True) as lab:
        lab.fault("gpu5", "refuse")
        lab.fault("gpu9", "silent")
        yield product_of(lab, monkeypatch, capsys)


def frame(child: "pexpect.spawn[str]", wanted: str) -> list[str]:
    """The first drawing of the table that has `wanted` in it (a pattern), as its lines."""
    while True:
        child.expect(
            rf"HOST +STATE[^{REDRAWN}]*?gpu19 [^\r\n{REDRAWN}]*?(?:…|yes)"
        )  # to its end: a row may come in pieces
        text = str(child.after)
        if re.search(wanted, text):
            return text.splitlines()


class TestStatusOf18:
    def test_on_a_terminal_16_rows_are_there_while_one_host_is_waited_for(
        self, eighteen: Product
    ) -> None:
        with at_terminal("status", "--timeout", "300") as child:
            while True:
                rows = frame(child, "connection refused")
                if sum(" stopped " in row for row in rows) == 16:
                    break
            assert [row.split()[0] for row in rows] == [
                "HOST",
                *(f"gpu{number}" for number in range(2, 20)),
            ]
            assert [row.split()[0] for row in rows if "…" in row] == ["gpu9"]
            child.sendintr()
            assert ended(child) == 130

    def test_on_a_terminal_the_table_is_printed_once_in_the_end_with_both_errors(
        self, eighteen: Product
    ) -> None:
        with at_terminal("status", "--timeout", "10") as child:
            assert ended(child) == 3
            after = str(child.before).rpartition(REDRAWN)[2]
        lines = [line for line in after.splitlines() if line]
        assert [line.split()[0] for line in lines[:19]] == [
            "HOST",
            *(f"gpu{number}" for number in range(2, 20)),
        ]
        assert [line for line in lines[19:] if line.startswith("error: ")] == [
            line for line in lines[19:] if line.startswith(("error: gpu5 ", "error: gpu9 "))
        ]
        assert len(lines) == 19 + 4  # each error has its hint

    def test_a_terminal_too_low_for_the_table_gets_the_rows_as_they_come(
        self, eighteen: Product
    ) -> None:
        with at_terminal("status", "--timeout", "300", lines=10) as child:
            for _ in range(17):
                child.expect(r"gpu\d+ +(stopped|connection refused) [^\r\n]*\r\n")
            child.sendintr()
            assert ended(child) == 130

    def test_down_a_pipe_the_rows_do_not_wait_for_the_silent_one(self, eighteen: Product) -> None:
        words = [sys.executable, "-m", "apexgpu", "status", "--timeout", "300"]
        with subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        ) as child:
            assert child.stdout
            lines = [child.stdout.readline() for _ in range(18)]
            child.kill()
        assert lines[0].startswith("HOST  ")
        assert sorted(line.split()[0] for line in lines[1:]) == sorted(
            f"gpu{n}" for n in range(2, 20) if n != 9
        )
        assert len({line.index("127.") for line in lines[1:]}) == 1  # in columns

    def test_down_a_pipe_late_rows_follow_in_the_same_columns(self, eighteen: Product) -> None:
        assert eighteen("status", "--timeout", "10") == 3
        lines = eighteen.out.splitlines()
        assert len(lines) == 19
        assert lines[-1].startswith("gpu9   timeout ")
        assert len({line.index("127.") for line in lines[1:]}) == 1
        errors = [line for line in eighteen.err.splitlines() if line.startswith("error: ")]
        assert [line.split()[1] for line in errors] == ["gpu5", "gpu9"]


class TestWatch:
    def test_shows_a_change_and_ends_with_ctrl_c(self, two: Product) -> None:
        with at_terminal("status", "--watch") as child:
            child.expect(r"gpu3 +stopped")
            started(two.lab, "gpu3")
            child.expect(r"gpu3 +running")
            child.sendintr()
            assert ended(child) == 130
            assert "Traceback" not in str(child.before)

    def test_a_silent_host_holds_no_row_back(self, two: Product) -> None:
        two.lab.fault("gpu3", "silent")
        with at_terminal("status", "--watch", "--timeout", "300") as child:
            child.expect(r"gpu2 +stopped[^\r\n]*\r\n[^\r\n]*gpu3 +…")
            child.sendintr()
            assert ended(child) == 130


class TestSsh:
    def test_a_stopped_container_is_started_when_the_user_says_so(self, two: Product) -> None:
        with at_terminal("ssh", "gpu2") as child:
            child.expect(re.escape("The container on gpu2 is stopped. Start it? [y/N]"))
            child.sendline("y")
            child.expect("gpu2 is up")
            child.expect(re.escape("alice@gpu2-alice:~$ "))
            child.sendline("echo $((6 * 7)); tty")
            child.expect("42\r\n/dev/")
            child.sendline("exit 5")
            assert ended(child) == 5
        assert state_of(two.lab) == "RUNNING"

    def test_and_left_alone_when_not(self, two: Product) -> None:
        with at_terminal("ssh", "gpu2") as child:
            child.expect(re.escape("[y/N]"))
            child.sendline("")
            assert ended(child) == 7
        assert state_of(two.lab) == "STOPPED"

    def test_a_running_one_is_not_asked_about(self, two: Product) -> None:
        started(two.lab)
        with at_terminal("ssh", "gpu2", "--", "echo here; exit 3") as child:
            assert ended(child) == 3
            assert "here" in str(child.before)
            assert "[y/N]" not in str(child.before)

    def test_ctrl_c_at_the_question_starts_nothing(self, two: Product) -> None:
        with at_terminal("ssh", "gpu2") as child:
            child.expect(re.escape("[y/N]"))
            child.sendintr()
            assert ended(child) == 130
        assert state_of(two.lab) == "STOPPED"
        assert os.environ["TERM"] == "xterm"


class TestQuestions:
    def test_ctrl_c_at_a_question_has_a_line_of_its_own(self, two: Product) -> None:
        with at_terminal("ssh", "gpu2") as child:
            child.expect_exact("Start it? [y/N]: ")
            child.sendintr()
            child.expect_exact("\r\ninterrupted; nothing was sent\r\n")
            assert ended(child) == 130

    def test_a_chinese_desktop_has_both_languages(
        self, two: Product, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LANG", "zh_CN.UTF-8")
        monkeypatch.delenv("LC_ALL", raising=False)
        monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
        with at_terminal("ssh", "gpu2") as child:
            child.expect_exact("The container on gpu2 is stopped. Start it?\r\n")
            child.expect_exact("gpu2 上的容器已停止。启动它吗？ [y/N]: ")
            child.sendline("否")
            child.expect_exact("说明: 你回答了“否”")
            assert ended(child) == 7
