"""The programs that start, list, follow and stop runs, run by this machine's own sh in a temporary HOME."""

import base64
import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.longruns import LONG
from tests.waiting import until

from apexgpu.detached import containerruns
from apexgpu.detached.containerruns import (
    GpuCandidate,
    GpuTakenError,
    LogEnd,
    Run,
    RunRequest,
    RunState,
)
from apexgpu.errors import ApexError, RefusedError
from apexgpu.models import Host, Reply, Target
from apexgpu.remote import remotescript
from apexgpu.ssh.transport import Limits, OnLine

HOST = Host("gpu7", "10.0.0.7", "alice", 22001)
GPUS = (GpuCandidate(0, "GPU-aa", "0"), GpuCandidate(1, "GPU-bb", "1"))


@dataclass
class Shell:
    """A transport whose container is this machine with another HOME. `edit` changes a command before it is run."""

    home: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    edit: Callable[[str], str] = lambda command: command

    def run(
        self,
        target: Target,
        command: str,
        *,
        limits: Limits | None = None,
        on_line: OnLine | None = None,
        once: bool = False,
    ) -> Reply:
        """See transport.Transport."""
        environment = {**os.environ, "HOME": str(self.home), "SHELL": "/bin/sh", **self.variables}
        done = subprocess.run(
            ["sh", "-c", self.edit(command)],
            env=environment,
            capture_output=True,
            timeout=100,
            check=False,
        )
        out = done.stdout.decode("utf-8", "replace")
        for line in out.splitlines():
            if on_line is not None:
                on_line(line)
        return Reply(done.returncode, out, done.stderr.decode("utf-8", "replace"))


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A container without runs; those that a test leaves are ended."""
    made = Shell(tmp_path)
    yield made
    for run in containerruns.list_runs(made, HOST):
        containerruns.stop(made, HOST, run, grace=0)


def begin(
    shell: Shell,
    name: str,
    command: str,
    *,
    gpus: tuple[GpuCandidate, ...] = (),
    directory: str = "~",
) -> GpuCandidate | None:
    request = RunRequest(name, f"id-{name}", command, "", directory, gpus, f"alice {name}")
    return containerruns.start(shell, HOST, request)


def find(shell: Shell, name: str) -> Run:
    (run,) = containerruns.list_runs(shell, HOST, [name])
    return run


def ended(shell: Shell, name: str) -> Run:
    until(lambda: not find(shell, name).is_running)
    return find(shell, name)


def log(shell: Shell, name: str, *, offset: int = 0, follow: bool = True) -> bytes:
    data = bytearray()
    positions: list[int] = []

    def keep(start: int, piece: bytes) -> None:
        assert positions[-1:] in ([], [start])  # without a gap
        data.extend(piece)
        positions.append(start + len(piece))

    containerruns.read_log(shell, HOST, name, offset=offset, follow=follow, on_data=keep)
    return bytes(data)


def leader(shell: Shell, name: str) -> int:
    identity = shell.home / ".cache/apexgpu/runs" / name / "identity"
    return int(identity.read_text().split()[0])


@pytest.mark.parametrize(
    ("command", "state", "status"),
    [
        ("true", RunState.DONE, 0),
        ("exit 3", RunState.FAILED, 3),
        ("kill -9 $$", RunState.KILLED, 137),
        ("kill -TERM $$", RunState.KILLED, 143),
    ],
)
def test_the_exit_status_decides_the_state(
    shell: Shell, command: str, state: RunState, status: int
) -> None:
    begin(shell, "one", f"echo begins; {command}")
    run = ended(shell, "one")
    assert (run.state, run.exit, run.last_line) == (state, status, "begins")
    assert run.ended is not None
    assert run.began is not None
    assert run.ended >= run.began


def test_nothing_is_left_of_a_run_that_has_ended(shell: Shell) -> None:
    begin(shell, "one", "echo text", gpus=GPUS[:1])
    ended(shell, "one")
    session = leader(shell, "one")

    def members() -> list[str]:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if stat.read_text().rpartition(")")[2].split()[3] == str(session):
                    found.append(stat.parent.name)
        return found

    until(lambda: members() == [])
    begin(shell, "two", "true", gpus=GPUS[:1])


def test_a_run_is_listed_with_what_its_processes_use(shell: Shell) -> None:
    begin(shell, "busy", "while :; do :; done")
    run = find(shell, "busy")
    assert run.state is RunState.RUNNING
    assert run.exit is None
    assert run.cpu is not None
    assert run.memory is not None
    assert run.memory > 0
    assert run.command == "while :; do :; done"


@pytest.mark.parametrize("command", ["no-such-program --x", "/", "./missing.py"])
def test_a_command_that_cannot_be_executed_is_an_error_and_leaves_nothing(
    shell: Shell, command: str
) -> None:
    request = RunRequest("bad", "id-bad", command, command.split()[0], "~")
    with pytest.raises(RefusedError) as caught:
        containerruns.start(shell, HOST, request)
    assert caught.value.code == "no_command"
    assert containerruns.list_runs(shell, HOST) == ()


def test_a_name_can_be_taken_once(shell: Shell) -> None:
    begin(shell, "one", "echo first")
    with pytest.raises(RefusedError) as caught:
        begin(shell, "one", "echo second")
    assert caught.value.code == "run_exists"
    assert log(shell, "one") == b"first\n"


def test_a_missing_directory_is_an_error_and_leaves_nothing(shell: Shell) -> None:
    with pytest.raises(RefusedError) as caught:
        begin(shell, "one", "true", directory="no/such")
    assert caught.value.code == "no_directory"
    assert containerruns.list_runs(shell, HOST) == ()


def test_the_command_starts_in_its_directory(shell: Shell) -> None:
    (shell.home / "my work").mkdir()
    begin(shell, "one", "pwd", directory="my work")
    assert log(shell, "one").decode() == f"{shell.home}/my work\n"


def test_variables_of_the_gpu_come_after_the_start_up_files(shell: Shell) -> None:
    (shell.home / ".profile").write_text("export CUDA_VISIBLE_DEVICES=7 FROM_PROFILE=yes\n")
    chosen = begin(shell, "one", "echo $CUDA_VISIBLE_DEVICES $FROM_PROFILE", gpus=GPUS)
    assert chosen == GPUS[0]
    assert log(shell, "one") == b"0 yes\n"


def test_no_two_runs_get_one_gpu_and_a_killed_one_gives_it_back(shell: Shell) -> None:
    assert begin(shell, "a", "sleep 1000", gpus=GPUS) == GPUS[0]
    assert begin(shell, "b", "sleep 1000", gpus=GPUS) == GPUS[1]
    with pytest.raises(GpuTakenError) as caught:
        begin(shell, "c", "sleep 1000", gpus=GPUS)
    assert "alice b" in caught.value.message
    os.killpg(leader(shell, "a"), signal.SIGKILL)
    assert begin(shell, "d", "sleep 1000", gpus=GPUS) == GPUS[0]
    assert find(shell, "a").state is RunState.KILLED


def test_the_gpu_stays_locked_while_a_process_of_the_run_lives(shell: Shell) -> None:
    begin(shell, "a", "sleep 1000", gpus=GPUS[:1])
    os.kill(leader(shell, "a"), signal.SIGKILL)  # its supervisor alone
    assert find(shell, "a").state is RunState.RUNNING
    with pytest.raises(GpuTakenError):
        begin(shell, "b", "true", gpus=GPUS[:1])
    assert containerruns.stop(shell, HOST, find(shell, "a"), grace=5)
    assert find(shell, "a").state is RunState.KILLED
    begin(shell, "c", "true", gpus=GPUS[:1])


def test_starts_at_the_same_time_never_share_a_gpu(shell: Shell) -> None:
    gpus = tuple(GpuCandidate(number, f"GPU-{number}", str(number)) for number in range(3))
    # The command notes its GPU while it runs, and fails if another run has noted the same one.
    command = (
        "mkdir taken-$CUDA_VISIBLE_DEVICES || exit 9; sleep 0.2; rmdir taken-$CUDA_VISIBLE_DEVICES"
    )

    def attempt(number: int) -> bool:
        try:
            begin(shell, f"run-{number}", command, gpus=gpus)
        except GpuTakenError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        started = sum(pool.map(attempt, range(24)))
    assert started >= len(gpus)
    until(lambda: not any(run.is_running for run in containerruns.list_runs(shell, HOST)))
    ends = [run.state for run in containerruns.list_runs(shell, HOST)]
    assert ends == [RunState.DONE] * started


def test_members_that_start_at_the_same_time_never_share_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "SSD").mkdir()
    members = [member(tmp_path, name) for name in ("alice", "bob")]
    # As above; both members note their GPUs in the same place.
    taken = f"{tmp_path}/taken-$CUDA_VISIBLE_DEVICES"
    command = f"mkdir {taken} || exit 9; sleep 0.2; rmdir {taken}"

    def attempt(number: int) -> bool:
        try:
            begin(members[number % 2], f"run-{number}", command, gpus=GPUS)
        except GpuTakenError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        started = sum(pool.map(attempt, range(16)))
    assert started >= len(GPUS)

    def runs() -> list[Run]:
        return [run for shell in members for run in containerruns.list_runs(shell, HOST)]

    until(lambda: not any(run.is_running for run in runs()))
    assert [run.state for run in runs()] == [RunState.DONE] * started


def test_a_killed_run_gives_its_gpu_back_within_a_second(tmp_path: Path) -> None:
    (tmp_path / "SSD").mkdir()
    alice = member(tmp_path, "alice")
    begin(alice, "train", "sleep 1000 & sleep 1000", gpus=GPUS[:1])
    with (tmp_path / "SSD/.apexgpu-gpus/GPU-aa").open("rb") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.killpg(leader(alice, "train"), signal.SIGKILL)
        killed = time.monotonic()
        fcntl.flock(lock, fcntl.LOCK_EX)  # waits for the kernel, and for nobody else
        assert time.monotonic() - killed < 1


def member(directory: Path, name: str) -> Shell:
    """A member whose container has a home of its own, and the disk that all containers of the host share."""
    (directory / name).mkdir()
    shared = str(directory / "SSD")
    return Shell(directory / name, edit=lambda command: command.replace("/SSD", shared))


def test_a_lock_works_between_members_and_is_shown_to_them(tmp_path: Path) -> None:
    shared = tmp_path / "SSD"
    shared.mkdir()
    alice, bob = member(tmp_path, "alice"), member(tmp_path, "bob")
    assert gpu_locks(bob) == []
    assert begin(alice, "train", "sleep 1000", gpus=GPUS[:1]) == GPUS[0]
    assert gpu_locks(bob) == ["@lock GPU-aa alice train"]
    with pytest.raises(GpuTakenError) as caught:
        begin(bob, "mine", "true", gpus=GPUS[:1])
    assert "alice train" in caught.value.message
    assert (shared / ".apexgpu-gpus").stat().st_mode & 0o7777 == 0o1777
    os.killpg(leader(alice, "train"), signal.SIGKILL)
    until(lambda: gpu_locks(bob) == [])
    begin(bob, "mine", "true", gpus=GPUS[:1])


def gpu_locks(shell: Shell) -> list[str]:
    command = remotescript.sh_command("gpu_locks.sh").replace(
        "# Functions that keep", "trap gpu_locks EXIT # Functions that keep"
    )
    return shell.run(Target(HOST, "container"), command).out.split("\n")[1:-1]


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_somebody_else_put_in_the_place_of_a_lock_is_not_opened(
    tmp_path: Path, kind: str
) -> None:
    locks = tmp_path / "SSD/.apexgpu-gpus"
    locks.mkdir(parents=True)
    own_file = tmp_path / "precious"
    own_file.write_text("precious")
    if kind == "link":
        (locks / "GPU-aa").symlink_to(own_file)
    elif kind == "fifo":
        os.mkfifo(locks / "GPU-aa")
    else:
        (locks / "GPU-aa").mkdir()
    shell = Shell(tmp_path, edit=lambda command: command.replace("/SSD", str(tmp_path / "SSD")))
    with pytest.raises(GpuTakenError):
        begin(shell, "one", "true", gpus=GPUS[:1])
    assert own_file.read_text() == "precious"
    assert gpu_locks(shell) == []


def test_stop_ends_a_whole_session_and_nothing_else(shell: Shell) -> None:
    begin(shell, "other", "sleep 1000")
    begin(shell, "one", "sleep 1000 & sh -c 'sleep 1000; true' & wait")
    assert containerruns.stop(shell, HOST, find(shell, "one"), grace=5)
    run = find(shell, "one")
    assert (run.state, run.exit) == (RunState.KILLED, 143)
    assert find(shell, "other").is_running
    assert not containerruns.stop(shell, HOST, run, grace=5)


def test_a_run_that_ignores_term_is_killed(shell: Shell) -> None:
    begin(shell, "one", "trap '' TERM; echo ready; while :; do sleep 1000; done")
    until(lambda: find(shell, "one").last_line == "ready")
    assert containerruns.stop(shell, HOST, find(shell, "one"), grace=1)
    assert find(shell, "one").state is RunState.KILLED


def test_a_process_number_that_another_process_has_now_is_not_the_run(shell: Shell) -> None:
    begin(shell, "one", "sleep 1000")
    run = find(shell, "one")
    os.killpg(leader(shell, "one"), signal.SIGKILL)
    until(lambda: not find(shell, "one").is_running)
    stranger = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        identity = shell.home / ".cache/apexgpu/runs/one/identity"
        _, start, container = identity.read_text().split()
        identity.write_text(f"{stranger.pid} {start} {container}\n")
        assert find(shell, "one").state is RunState.KILLED
        assert not containerruns.stop(shell, HOST, run, grace=0)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_run_of_a_container_that_was_restarted_is_lost(shell: Shell) -> None:
    begin(shell, "one", "sleep 1000")
    os.killpg(leader(shell, "one"), signal.SIGKILL)
    until(lambda: not find(shell, "one").is_running)
    identity = shell.home / ".cache/apexgpu/runs/one/identity"
    session, start, container = identity.read_text().split()
    identity.write_text(f"{session} {start} {int(container) + 60}\n")
    assert find(shell, "one").state is RunState.LOST


def test_output_of_any_kind_arrives_unchanged(shell: Shell) -> None:
    payload = bytes(range(256)) * 40 + b"no newline at the end"
    (shell.home / "payload").write_bytes(payload)
    begin(shell, "one", "cat payload; printf '\\r 10%%\\r 20%%'; cat payload >&2")
    expected = payload + b"\r 10%\r 20%" + payload
    assert log(shell, "one") == expected
    assert log(shell, "one", offset=len(payload)) == expected[len(payload) :]
    assert ended(shell, "one").log_bytes == len(expected)


def test_a_log_is_kept_within_limits_and_can_be_followed_all_the_same(shell: Shell) -> None:
    small = Shell(
        shell.home,
        edit=lambda command: command.replace("largest_part=16777216", "largest_part=70000"),
    )
    begin(small, "one", "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); echo $i-abcdefghij; done")
    run = ended(small, "one")
    assert run.state is RunState.DONE
    parts = sorted((shell.home / ".cache/apexgpu/runs/one").glob("log.*"))
    assert 2 < len(parts) <= 9
    assert sum(part.stat().st_size for part in parts) < run.log_bytes
    kept = log(small, "one")
    assert kept.endswith(b"60000-abcdefghij\n")
    assert kept == b"".join(part.read_bytes() for part in parts)
    assert log(small, "one", offset=run.log_bytes - 17) == b"60000-abcdefghij\n"


def test_a_log_without_newlines_is_kept_within_limits(shell: Shell) -> None:
    """In the longer run, 5 GiB and the real limits."""
    small, total, largest_part = shell, 5 << 30, 16 << 20
    if not LONG:
        total, largest_part = 64 << 20, 1 << 20
        small = Shell(
            shell.home,
            edit=lambda command: command.replace("largest_part=16777216", "largest_part=1048576"),
        )
    begin(small, "one", f"head -c {total} /dev/zero | tr '\\0' '\\245'; printf end")
    until(lambda: not find(small, "one").is_running, limit=600)
    run = find(small, "one")
    assert (run.state, run.log_bytes) == (RunState.DONE, total + 3)
    until(
        lambda: find(small, "one").last_line.endswith("end")
    )  # the last part may just be put away
    assert len(run.last_line) < 10_000
    parts = sorted((shell.home / ".cache/apexgpu/runs/one").glob("log.*"))
    # A part is looked at when 4 MiB more have been written to it.
    assert sum(part.stat().st_size for part in parts) <= 9 * (largest_part + (4 << 20))
    assert log(small, "one", offset=run.log_bytes - 5) == b"\245\245end"


@pytest.fixture
def full_disk(shell: Shell) -> Iterator[Path]:
    """The runs of `shell` are on a disk of 400 KiB; its directory."""
    runs = shell.home / ".cache/apexgpu/runs"
    runs.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "apexgpu-test", runs], check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield runs
    for run in containerruns.list_runs(shell, HOST):
        containerruns.stop(shell, HOST, run, grace=0)
    subprocess.run(["umount", "-l", runs], check=True)


def test_on_a_disk_that_becomes_full_the_command_goes_on_and_its_end_is_known(
    shell: Shell, full_disk: Path
) -> None:
    begin(shell, "one", "head -c 2000000 /dev/zero; echo done >$HOME/proof; exit 3")
    run = ended(shell, "one")
    assert (run.state, run.exit) == (RunState.FAILED, 3)
    assert (shell.home / "proof").read_text() == "done\n"
    assert 0 < run.log_bytes < 400 * 1024


def test_on_a_full_disk_nothing_is_started_and_nothing_is_left(
    shell: Shell, full_disk: Path
) -> None:
    with contextlib.suppress(OSError):
        (full_disk / "filler").write_bytes(bytes(500 * 1024))
    with pytest.raises(RefusedError) as caught:
        begin(shell, "one", "true")
    assert caught.value.code == "no_space"
    assert [path.name for path in full_disk.iterdir()] == ["filler"]


def test_the_last_lines_of_a_log(shell: Shell) -> None:
    begin(shell, "one", "for i in 1 2 3 4 5; do echo $i; done")
    ended(shell, "one")
    assert log(shell, "one", offset=-2) == b"4\n5\n"
    assert log(shell, "one", offset=-9) == b"1\n2\n3\n4\n5\n"


def test_a_log_of_a_run_that_goes_on_ends_without_follow(shell: Shell) -> None:
    begin(shell, "one", "echo first; sleep 1000")
    until(lambda: find(shell, "one").log_bytes > 0)
    pieces: list[bytes] = []
    part = containerruns.read_log(
        shell, HOST, "one", offset=0, follow=False, on_data=lambda _, piece: pieces.append(piece)
    )
    assert (b"".join(pieces), part.end, part.offset) == (b"first\n", LogEnd.COMPLETE, 6)


def test_the_log_of_a_missing_run_is_gone(shell: Shell) -> None:
    part = containerruns.read_log(
        shell, HOST, "none", offset=0, follow=True, on_data=lambda *_: None
    )
    assert part.end is LogEnd.GONE


def test_a_run_that_goes_on_is_not_removed(shell: Shell) -> None:
    begin(shell, "done", "true")
    begin(shell, "alive", "sleep 1000")
    ended(shell, "done")
    runs = containerruns.list_runs(shell, HOST)
    assert containerruns.remove(shell, HOST, runs) == ("done",)
    assert [run.name for run in containerruns.list_runs(shell, HOST)] == ["alive"]


def test_a_start_that_was_cut_off_is_lost_after_a_while_and_can_be_removed(shell: Shell) -> None:
    directory = shell.home / ".cache/apexgpu/runs/one"
    directory.mkdir(parents=True)
    assert find(shell, "one").state is RunState.RUNNING  # it may still be under way
    os.utime(directory, (time.time() - 100, time.time() - 100))
    run = find(shell, "one")
    assert run.state is RunState.LOST
    assert containerruns.remove(shell, HOST, [run]) == ("one",)
    assert containerruns.list_runs(shell, HOST) == ()


def test_another_run_that_has_the_name_now_is_neither_removed_nor_followed(shell: Shell) -> None:
    begin(shell, "one", "true")
    old = ended(shell, "one")
    assert containerruns.remove(shell, HOST, [old]) == ("one",)
    containerruns.start(shell, HOST, RunRequest("one", "another-id", "echo new", "", "~"))
    ended(shell, "one")
    assert containerruns.remove(shell, HOST, [old]) == ()
    part = containerruns.read_log(
        shell, HOST, "one", offset=0, follow=True, on_data=lambda *_: None, run_id=old.id
    )
    assert part.end is LogEnd.GONE
    assert log(shell, "one") == b"new\n"


def test_a_command_of_any_length_is_started_and_listed_in_short(shell: Shell) -> None:
    begin(shell, "one", f"true {'x' * 50_000}; echo ok")
    run = ended(shell, "one")
    assert run.last_line == "ok"
    assert run.command == f"true {'x' * (containerruns.LONGEST_SHOWN - 5)}…"


def test_a_hundred_runs_are_listed_at_once(shell: Shell) -> None:
    begin(shell, "one", "echo text")
    ended(shell, "one")
    directory = shell.home / ".cache/apexgpu/runs"
    for number in range(100):
        subprocess.run(["cp", "-r", directory / "one", directory / f"copy-{number}"], check=True)
    runs = containerruns.list_runs(shell, HOST)
    assert len(runs) == 101
    assert {run.state for run in runs} == {RunState.DONE}


def answer(*lines: str) -> Reply:
    return Reply(0, "".join(f"apexgpu {line}\n" for line in lines), "")


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


INFO = f"id=x command={encoded('train')} dir={encoded('~')} began=1000 gpu=2 uuid=GPU-cc"


@pytest.mark.parametrize(
    "line",
    [
        "run one|1 2|yes||",
        "run ../one|1 2 3|yes|||0||",
        "run one|" + "9" * 5000 + " 1 1|yes|" + "9" * 5000 + " 1||" + "9" * 5000 + "|%%|" + INFO,
        "run one|² 2 3|yes|² ²||²|²|id=² began=²",
        "clock ² ² ² ²",
        "process 1 2",
        "gpu x y",
        "process 1 2 3 4 5 6 7 8",
        "",
    ],
)
def test_a_garbled_line_costs_one_value_only(line: str) -> None:
    good = f"run good|5 6 7|yes|0 2000||9|{encoded('last')}|{INFO}"
    runs = containerruns.parse_list(answer("clock 3000 7 100 4096", line, good, "end"), HOST)
    assert next(run for run in runs if run.name == "good") == Run(
        "good",
        "x",
        RunState.DONE,
        "train",
        "~",
        1000,
        2000,
        0,
        2,
        "GPU-cc",
        log_bytes=9,
        last_line="last",
    )


def test_an_answer_that_was_cut_off_is_an_error() -> None:
    with pytest.raises(ApexError) as caught:
        containerruns.parse_list(answer("clock 3000 7 100 4096"), HOST)
    assert caught.value.code == "unexpected"


def test_secret_variables_are_never_in_a_command_line(tmp_path: Path) -> None:
    class Recorder:
        """Runs the command in sh instead of in ssh."""

        argv: tuple[str, ...] = ()

        def run(self, argv: list[str], *, stdin: bytes, timeout: float) -> object:
            from apexgpu.process import Completed

            self.argv = tuple(argv)
            done = subprocess.run(
                ["sh", "-c", argv[-1]],
                input=stdin,
                env={**os.environ, "HOME": str(tmp_path)},
                check=False,
            )
            return Completed(self.argv, done.returncode, b"", b"")

    recorder = Recorder()
    name = containerruns.send_variables(
        recorder,  # type: ignore[arg-type]  # the other methods are not called
        Target(HOST, "container"),
        ["gpu7"],
        {"TOKEN": "s3cret 'x' $y"},
        connect=5,
        ask=False,
    )
    assert "s3cret" not in shlex.join(recorder.argv)
    file = tmp_path / ".cache/apexgpu/runs" / name
    assert file.stat().st_mode & 0o777 == 0o600
    shell = Shell(tmp_path)
    request = RunRequest("one", "id-one", 'echo "$TOKEN"', "", "~", variables=name)
    containerruns.start(shell, HOST, request)
    assert log(shell, "one") == b"s3cret 'x' $y\n"
    assert ended(shell, "one").state is RunState.DONE
    for path in (tmp_path / ".cache/apexgpu/runs").rglob("*"):
        assert path.name.startswith("log.") or path.is_dir() or b"s3cret" not in path.read_bytes()


def test_the_programs_are_plain_sh() -> None:
    for name in (
        "run_processes.sh",
        "gpu_locks.sh",
        "run_start.sh",
        "run_supervise.sh",
        "runs_list.sh",
        "run_log.sh",
        "run_stop.sh",
        "runs_remove.sh",
    ):
        done = subprocess.run(
            ["sh", "-n"], input=remotescript.text(name).encode(), capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b""), name
