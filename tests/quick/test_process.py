"""Local programs: their output, their limits, and what happens when they are not there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.waiting import until

from apexgpu.errors import (
    MissingProgramError,
    ProgramTimeoutError,
    TooMuchOutputError,
    UnreachableError,
)
from apexgpu.process import LocalRunner, Readiness, TimedCommand, run_all, start_timed

RUNNER = LocalRunner()
PYTHON = sys.executable


def test_both_streams_and_the_exit_status() -> None:
    script = "import sys; sys.stdout.write(sys.stdin.read()); sys.stderr.write('a\\n\\nlast \\n'); sys.exit(3)"
    done = RUNNER.run([PYTHON, "-c", script], stdin="é\0".encode())
    assert (done.code, done.out, done.text, done.last_error_line) == (
        3,
        b"\xc3\xa9\0",
        "é\0",
        "last",
    )
    assert RUNNER.run([PYTHON, "-c", "import sys; sys.exit(4)"]).last_error_line == "exit status 4"


def test_a_program_that_never_stops_printing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apexgpu.process._MOST_REPLY", 1 << 20)
    with pytest.raises(TooMuchOutputError, match="yes printed more than"):
        RUNNER.run(["yes"])
    assert len(RUNNER.run(["head", "-c", str(1 << 20), "/dev/zero"]).out) == 1 << 20


def test_a_program_that_does_not_read_its_stdin_or_closes_its_output_is_no_trap() -> None:
    assert RUNNER.run(["true"], stdin=bytes(1 << 20)).code == 0
    began = time.monotonic()
    with pytest.raises(ProgramTimeoutError, match=r"sh did not end within 0\.5 s"):
        RUNNER.run(["sh", "-c", "exec >&- 2>&-; sleep 100"], timeout=0.5)
    assert time.monotonic() - began < 20


def test_arguments_are_never_a_shells() -> None:
    done = RUNNER.run(
        [PYTHON, "-c", "import sys; print(sys.argv[1:])", "$HOME", "a b", "*", "; exit 1"]
    )
    assert done.text.strip() == "['$HOME', 'a b', '*', '; exit 1']"


def test_what_is_not_installed_says_how_to_install_it() -> None:
    for call in (
        lambda: RUNNER.run(["no-such-program-here"]),
        lambda: RUNNER.stream(["no-such-program-here"], on_line=None, total=None, silence=None),
        lambda: RUNNER.attach(["no-such-program-here"]),
    ):
        with pytest.raises(MissingProgramError) as caught:
            call()
        assert caught.value.exit_code == 127
        assert "no-such-program-here" in caught.value.message
        assert caught.value.hint
    RUNNER.spawn(["no-such-program-here"])  # nothing depends on this one


def test_one_that_does_not_end_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(UnreachableError, match=r"did not end within 0\.5 s"):
        RUNNER.run([PYTHON, "-c", "import time; time.sleep(600)"], timeout=0.5)
    assert time.monotonic() - began < 600


@pytest.mark.parametrize(("total", "silence"), [(3.0, None), (None, 3.0)])
def test_what_was_said_before_a_limit_is_kept(total: float | None, silence: float | None) -> None:
    heard: list[str] = []
    script = (
        "import time; print('one', flush=True); print('tw', end='', flush=True); time.sleep(600)"
    )
    done = RUNNER.stream(
        [PYTHON, "-I", "-S", "-c", script], on_line=heard.append, total=total, silence=silence
    )
    assert done.timed_out
    assert done.out == b"one\ntw"
    assert heard == ["one"]
    assert done.code != 0


def test_a_program_that_is_not_ready_in_time_is_ended() -> None:
    script = "import time; print('one', flush=True); time.sleep(600)"
    ready = Readiness(lambda: False, 1.0)
    done = RUNNER.stream(
        [PYTHON, "-I", "-S", "-c", script], on_line=None, total=None, silence=None, ready=ready
    )
    assert done.timed_out


def test_a_program_that_is_ready_has_no_limit_before_its_first_output(tmp_path: Path) -> None:
    started = tmp_path / "started"
    script = (
        f"import pathlib, time; pathlib.Path({str(started)!r}).touch(); time.sleep(0.5); print(1)"
    )
    done = RUNNER.stream(
        [PYTHON, "-I", "-S", "-c", script],
        on_line=None,
        total=None,
        silence=None,
        ready=Readiness(started.exists, 60),
    )
    assert (done.timed_out, done.out) == (False, b"1\n")


def test_lines_come_while_the_program_runs_and_its_stdin_is_closed() -> None:
    heard: list[str] = []
    script = "import sys; print('a\\nb\\xe9'); assert sys.stdin.read() == ''; sys.stdout.write('no newline')"
    done = RUNNER.stream(
        [PYTHON, "-X", "utf8", "-c", script], on_line=heard.append, total=60, silence=60
    )
    assert heard == ["a", "bé", "no newline"]
    assert (done.code, done.timed_out) == (0, False)


def test_an_error_in_who_listens_ends_the_program() -> None:
    pids: list[int] = []

    def heard(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    script = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(KeyboardInterrupt):
        RUNNER.stream([PYTHON, "-c", script], on_line=heard, total=None, silence=None)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_program_with_the_terminal_gives_its_status() -> None:
    assert RUNNER.attach([PYTHON, "-c", "import sys; sys.exit(7)"]) == 7
    assert (
        RUNNER.attach([PYTHON, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"])
        == 128 + 15
    )


@pytest.mark.parametrize(
    ("status", "ours"), [(9, 9), (255, 130)]
)  # 255: ssh without a terminal there
def test_ctrl_c_belongs_to_the_program_that_has_the_terminal(status: int, ours: int) -> None:
    script = (
        "import os, signal, sys\n"
        "from apexgpu.process import LocalRunner\n"
        "child = 'import os, signal, sys\\n"
        f"try:\\n os.killpg(0, signal.SIGINT); signal.pause()\\nexcept KeyboardInterrupt:\\n sys.exit({status})'\n"
        "print(LocalRunner().attach([sys.executable, '-c', child]))\n"
    )
    done = subprocess.run(
        [PYTHON, "-c", script],
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(ours)), done.stderr


def test_programs_run_together_each_to_its_own_limit(tmp_path: Path) -> None:
    child = tmp_path / "child"
    late = tmp_path / "late"
    late.write_text(f"echo began; tail -f /dev/null & echo $! >{child}; wait")
    began = time.monotonic()
    quick, slow, fed = run_all(
        [
            TimedCommand(
                (
                    sys.executable,
                    "-c",
                    "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)",
                ),
                600,
            ),
            TimedCommand(("sh", str(late)), 3),
            TimedCommand(("cat",), 600, b"in", {"X": "1"}),
        ]
    )
    assert time.monotonic() - began < 60
    assert (quick.code, quick.out, quick.err, quick.timed_out) == (3, b"out\n", b"err\n", False)
    assert (slow.out, slow.timed_out) == (b"began\n", True)
    assert fed.out == b"in"
    # What it started is gone, too.
    until(lambda: not Path(f"/proc/{child.read_text()}").exists())


def test_what_goes_on_in_the_background_holds_nothing_up(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"tail -f /dev/null & echo $! > {tmp_path}/pid; echo up")
    began = time.monotonic()
    assert run_all([TimedCommand(("sh", str(script)), 600)])[0].out == b"up\n"
    assert time.monotonic() - began < 60
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_missing_program_among_several_is_an_error_and_the_others_are_ended() -> None:
    began = time.monotonic()
    with pytest.raises(MissingProgramError):
        run_all(
            [TimedCommand(("tail", "-f", "/dev/null"), 600), TimedCommand(("no-such-program",), 1)]
        )
    assert time.monotonic() - began < 60


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="only Linux tells a process's directory"
)
def test_what_outlives_us_keeps_no_directory_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stick, or a mount of ours, can be ejected while a tunnel that was started on it is up."""
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "cwd"
    script = "import os, sys; open(sys.argv[1], 'w').write(os.getcwd() + '\\n')"
    RUNNER.spawn([PYTHON, "-I", "-S", "-c", script, str(report)])
    until(lambda: report.exists() and report.read_text().endswith("\n"))
    assert report.read_text() == "/\n"


def test_the_output_of_a_started_program_is_read_while_it_runs_and_the_program_ended() -> None:
    code = "import time; print('first', flush=True); time.sleep(600)"
    command = TimedCommand((PYTHON, "-c", code), 60)
    with start_timed(command) as program:
        assert program.output_until(lambda text: "first" in text).strip() == "first"
        began = time.monotonic()
    assert time.monotonic() - began < 30
    with start_timed(TimedCommand((PYTHON, "-c", "print('all')"), 60)) as program:
        assert program.output_until(lambda _text: False).strip() == "all"
        assert program.wait().code == 0
