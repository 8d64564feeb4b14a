"""Programs whose output is read print English, on this laptop and on the servers, whatever the user's language is."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from apexgpu.process import LocalRunner, TimedCommand, run_all
from apexgpu.remote import remotescript
from apexgpu.text import local_time

SHOW = [
    sys.executable,
    "-c",
    "import os; print(os.environ.get('LC_ALL'), os.environ.get('LANGUAGE'))",
]


@pytest.fixture(autouse=True)
def chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with a Chinese desktop."""
    for name in ("LC_ALL", "LANG"):
        monkeypatch.setenv(name, "zh_CN.UTF-8")
    monkeypatch.setenv("LANGUAGE", "zh_CN:zh")


def test_a_program_whose_output_is_read_has_the_locale_c() -> None:
    runner = LocalRunner()
    assert runner.run(SHOW).text.split() == ["C", "None"]
    assert runner.run(SHOW, env={"OTHER": "1"}).text.split() == ["C", "None"]
    lines: list[str] = []
    runner.stream(SHOW, on_line=lines.append, total=30, silence=None)
    assert lines[0].split() == ["C", "None"]
    (completed,) = run_all([TimedCommand(tuple(SHOW), limit=30)])
    assert completed.text.split() == ["C", "None"]


def test_a_program_that_has_the_terminal_keeps_the_users_language() -> None:
    code = "import os, sys; sys.exit(os.environ['LC_ALL'] != 'zh_CN.UTF-8')"
    assert LocalRunner().attach([sys.executable, "-c", code]) == 0


def test_programs_in_the_container_read_english_unless_they_read_no_other_program() -> None:
    # These start the user's programs or shells, or print what they have made themselves.
    others = {
        "authorized_keys_add.sh", "authorized_keys_print.sh", "command_stop.sh", "compute.sh", "gpu_locks.sh", "host_keys_make.sh",
        "host_keys_use.sh", "login_shell.sh", "look.sh", "run.sh", "run_processes.sh", "run_start.sh", "run_stop.sh",
        "runs_remove.sh",
    }  # fmt: skip
    directory = Path(remotescript.__file__).with_name("programs")
    without = {path.name for path in directory.glob("*.sh") if "LC_ALL=C" not in path.read_text()}
    assert without == others


@pytest.mark.parametrize(
    ("zone", "shown"),
    [
        ("Asia/Shanghai", "2026-11-29 05:36 +08:00"),
        ("UTC", "2026-11-28 21:36 +00:00"),
        ("America/St_Johns", "2026-11-28 18:06 -03:30"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no time.tzset")
def test_a_time_is_local_and_has_its_zone(zone: str, shown: str) -> None:
    seconds = datetime(2026, 11, 28, 21, 36, tzinfo=UTC).timestamp()
    code = f"from apexgpu.text import local_time; print(local_time({seconds}))"
    done = LocalRunner().run([sys.executable, "-c", code], env={"TZ": zone})
    assert done.text.strip() == shown
    assert local_time(seconds)[:4] == "2026"
