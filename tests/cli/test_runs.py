"""`run` and `runs` against the embedded lab: the whole life of a run, as a member sees it."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from apexgpu import ownprocesses, runstart
from apexgpu.detached import containerruns
from apexgpu.detached.containerruns import RunRequest
from apexgpu.errors import ConnectionLostError, UsageError
from apexgpu.models import Host
from apexgpu.ownprocesses import OwnProcess
from apexgpu.ssh import controlmaster
from apexgpu.ssh.transport import Transport
from apexgpu_lab.inprocess import Lab, running
from apexgpu_lab.labstate import LabState
from tests.cli.killing import mortal_runs
from tests.cli.newcomer import ROOT
from tests.cli.product import Product, at_terminal, product_of
from tests.longruns import one_in
from tests.waiting import until

IDLE = [{"name": "TITAN V", "total": 12066, "mode": "Default", "own": [], "used": 11, "load": 0}]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with running(tmp_path / "lab", hosts=2, registered=True) as started:
        yield started


@pytest.fixture
def product(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """A member whose containers run. What a test leaves running is ended with the lab."""
    made = product_of(lab, monkeypatch, capsys)
    assert made("up", "--all", "--accept-new") == 0, made.err
    yield made
    for run in made.json("runs")["runs"]:
        if run["state"] == "running":
            made("runs", "stop", f"{run['host']}:{run['name']}")


def only(product: Product, name: str) -> dict[str, Any]:
    (run,) = [run for run in product.json("runs")["runs"] if run["name"] == name]
    assert isinstance(run, dict)
    return run


def set_gpus(lab: Lab, count: int) -> None:
    def change(state: LabState) -> None:
        for host in state.hosts.values():
            state.set_gpus(host, IDLE * count)

    lab.call(change)


def kill_followers() -> None:
    """Kill the programs that send logs, as the end of a connection does."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if b"Sends the log of a run" in (directory / "cmdline").read_bytes():
                os.kill(int(directory.name), signal.SIGKILL)
        except OSError:
            continue


def test_a_run_from_its_start_to_its_end(product: Product) -> None:
    assert product("run", "gpu2", "--name", "one", "--", "sh", "-c", "echo works; exit 3") == 0
    assert product.out == "one\n"
    assert "one runs on gpu2" in product.err
    assert product("runs", "wait", "one") == 3
    run = only(product, "one")
    assert (run["host"], run["state"], run["exit"], run["gpus"]) == ("gpu2", "failed", 3, [])
    assert run["last_line"] == "works"
    assert run["started"] <= run["ended"]
    assert product("runs", "logs", "one") == 0
    assert product.out == "works\n"
    assert "failed 3" in product.err
    assert product("runs", "clean", "--yes") == 0
    assert product.json("runs")["runs"] == []
    assert product("runs", "clean", "--yes") == 0
    assert "there is no run to remove" in product.err


def test_follow_shows_the_output_and_exits_with_the_status(product: Product) -> None:
    code = product(
        "run", "gpu2", "--follow", "--name", "one", "--", "echo first; sleep 1; echo last; exit 4"
    )
    assert code == 4
    assert product.out == "first\nlast\n"


def test_another_laptop_sees_the_same(
    product: Product, lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert product("run", "gpu3", "--name", "one", "--", "echo hello; sleep 1000") == 0
    other = tmp_path / "other"
    shutil.copytree(
        lab.environment["APEXGPU_STATE_DIR"], other, ignore=shutil.ignore_patterns("lab")
    )
    (other / "runs.json").unlink()
    monkeypatch.setenv("APEXGPU_STATE_DIR", str(other))
    until(lambda: only(product, "one")["last_line"] == "hello")
    assert product("runs", "logs", "one") == 0
    assert product.out == "hello\n"
    assert product("runs", "stop", "one") == 0
    assert only(product, "one")["state"] == "killed"


def test_a_container_that_is_stopped_loses_its_runs_and_names_them_before(product: Product) -> None:
    assert product("run", "gpu2", "--name", "one", "--", "sleep 1000") == 0
    assert product("down", "gpu2") == 7
    assert "a run that would end: one" in product.err
    assert only(product, "one")["state"] == "running"
    assert product("down", "gpu2", "--yes") == 0
    assert product.json("runs")["runs"] == []
    until(lambda: product("up", "gpu2") == 0)
    assert only(product, "one")["state"] in {"lost", "killed"}


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["gpu2", "--", "no-such-program"], 6, "no_command"),
        (["gpu2", "--", "no-such-program", "--option"], 6, "no_command"),
        (["gpu2", "--workdir", "no/such", "--", "true"], 6, "no_directory"),
        (["gpu2", "--name", "../x", "--", "true"], 2, "usage"),
        (["gpu2", "--gpu", "first", "--", "true"], 2, "usage"),
        (["gpu2", "--gpu", "99", "--", "true"], 6, "no_gpu"),
        (["any", "--gpu", "1", "--", "true"], 2, "usage"),
        (["gpu2", "--memory", "lots", "--gpu", "any", "--", "true"], 2, "usage"),
        (["gpu2", "--env", "no-name", "--", "true"], 2, "usage"),
        (["gpu2", "--env-file", "no-such-file", "--", "true"], 2, "usage"),
        (["gpu2", "--sync", "no-such-directory", "--", "true"], 6, "no_source"),
        (["gpu9", "--", "true"], 2, "unknown_host"),
        (["gpu2"], 2, "usage"),
    ],
)
def test_what_cannot_be_started_is_an_error_and_leaves_nothing(
    product: Product, words: list[str], code: int, error: str
) -> None:
    # `--json` belongs before the command, as every option of ours.
    assert product("run", "--json", *words) == code
    assert json.loads(product.out)["error"]["code"] == error
    assert product.json("runs")["runs"] == []


def test_runs_that_do_not_exist(product: Product) -> None:
    for words in (["logs"], ["wait"], ["stop"]):
        assert product("runs", *words, "none") == 6
        assert "there is no run called none" in product.err


def test_any_takes_the_best_gpu_and_no_gpu_is_taken_twice(product: Product, lab: Lab) -> None:
    set_gpus(lab, 2)
    taken = set()
    for number in range(4):
        assert product("run", "any", "--name", f"run-{number}", "--", "sleep 1000") == 0, (
            product.err
        )
        run = only(product, f"run-{number}")
        taken.add((run["host"], *run["gpus"]))
    assert taken == {("gpu2", 0), ("gpu2", 1), ("gpu3", 0), ("gpu3", 1)}
    assert product("run", "any", "--", "true") == 6
    assert "GPU 0 of gpu2 has most" in product.err
    assert "taken by a run (alice run-" in product.err
    locks = [gpu["locked_by"] for row in product.json("gpus")["hosts"] for gpu in row["gpus"]]
    assert sorted(locks) == [f"alice run-{number}" for number in range(4)]
    assert product("gpus", "free") == 6
    assert product("runs", "stop", "run-0") == 0
    freed = only(product, "run-0")
    assert product("run", "any", "--name", "next", "--", "sleep 1000") == 0
    assert (only(product, "next")["host"], only(product, "next")["gpus"]) == (
        freed["host"],
        freed["gpus"],
    )


def test_the_gpu_is_in_the_environment_of_the_command(product: Product, lab: Lab) -> None:
    set_gpus(lab, 3)
    line = "echo $CUDA_DEVICE_ORDER $CUDA_VISIBLE_DEVICES"
    assert product("run", "gpu2", "--gpu", "1", "--follow", "--", line) == 0
    assert product.out == "PCI_BUS_ID 1\n"


def test_variables_reach_the_command_and_no_list_of_processes(
    product: Product, tmp_path: Path
) -> None:
    file = tmp_path / "variables"
    file.write_text("# a comment\n\nTOKEN=from file\nOTHER=a 'b' $c\n")
    words = ["--env", "TOKEN=from option", "--env-file", str(file), "--follow"]
    assert product("run", "gpu2", *words, "--", 'echo "$TOKEN|$OTHER"') == 0
    assert product.out == "from option|a 'b' $c\n"


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        (b"A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        (b"\xef\xbb\xbfA=1", {"A": "1"}),
        (b"A=\n\n  # comment\n  B= 'x' #y \n", {"A": "", "B": " 'x' #y "}),
        ("A=one\u2028two\x0b\x1c\x85three\n".encode(), {"A": "one\u2028two\x0b\x1c\x85three"}),
        (b"A=x=y\nA=z\n", {"A": "z"}),
        (b"", {}),
    ],
)
def test_a_file_of_variables_is_read_as_it_is(
    tmp_path: Path, text: bytes, variables: dict[str, str]
) -> None:
    file = tmp_path / "variables"
    file.write_bytes(text)
    assert runstart.parse_variables((), str(file)) == variables


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"A=1\nexport S3CRET=s3cret\n", "line 2 of .*: expected NAME=VALUE"),
        (b"s3cret\n", "line 1 of .*: expected NAME=VALUE"),
        (b"1A=s3cret\n", "line 1 of .*: expected NAME=VALUE"),
        (b"A=s3cret\0\n", "line 1 of .*: a variable cannot contain a NUL"),
        (b"A=\xff\xfe", "it is not UTF-8 text"),
        (b"A=" + b"x" * (1 << 20), "too long"),
    ],
)
def test_what_is_no_file_of_variables_is_named_without_its_values(
    tmp_path: Path, text: bytes, reason: str
) -> None:
    file = tmp_path / "variables"
    file.write_bytes(text)
    with pytest.raises(UsageError, match=reason) as caught:
        runstart.parse_variables((), str(file))
    assert "s3cret" not in caught.value.message
    with pytest.raises(UsageError, match="cannot read"):
        runstart.parse_variables((), str(tmp_path))


def test_sync_copies_what_git_does_not_ignore(product: Product, tmp_path: Path, lab: Lab) -> None:
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    (project / "train.py").write_text("print('trained')\n")
    (project / "data" / "large.bin").write_text("x")
    (project / "data" / "[1]*.txt").write_text("x")
    (project / "data" / "1.txt").write_text("kept")
    (project / ".gitignore").write_text("*.bin\n\\[1\\]\\*.txt\n")
    for round_ in range(2):
        code = product(
            "run",
            "gpu2",
            "--sync",
            str(project),
            "--follow",
            "--name",
            f"run-{round_}",
            "--",
            f"{sys.executable} train.py && find . -type f | sort",
        )
        assert code == 0, product.err
        assert product.out == "trained\n./.gitignore\n./data/1.txt\n./train.py\n"
    assert "data/large.bin" in product.err


def home_of(lab: Lab) -> Path:
    def home(state: LabState) -> Path:
        container = state.host("gpu2").accounts["alice"].container
        assert container is not None
        return container.home

    return lab.call(home)


def test_what_a_long_log_does_not_have_any_more_is_stated(product: Product, lab: Lab) -> None:
    """Its oldest part is deleted, as a command that prints 128 MiB more lets it be."""
    command = "head -c 17000000 /dev/zero; sleep 0.5; head -c 5000000 /dev/zero; echo; echo end"
    assert product("run", "gpu2", "--name", "one", "--", command) == 0
    assert product("runs", "wait", "one") == 0
    oldest, *others = sorted((home_of(lab) / ".cache/apexgpu/runs/one").glob("log.*"))
    assert others
    missing = oldest.stat().st_size
    assert missing >= 16 << 20
    oldest.unlink()
    assert product("runs", "logs", "one") == 0
    assert f"{missing} bytes of the output are missing here" in product.err
    assert product.out == "\0" * (22_000_000 - missing) + "\nend\n"
    assert product("runs", "logs", "one", "--tail", "1") == 0
    assert product.out == "end\n"
    assert "missing" not in product.err


def test_commands_that_stop_the_container_name_its_runs_before_they_ask(product: Product) -> None:
    assert product("snapshot", "gpu2", "--yes") == 0, product.err
    assert product("run", "gpu2", "--name", "one", "--", "sleep 1000") == 0
    for words in (
        ["snapshot", "gpu2"],
        ["recover", "gpu2"],
        ["rebuild", "gpu2"],
        ["restart", "gpu2"],
    ):
        assert product(*words) == 7, product.err
        assert "gpu2: a run that would end: one" in product.err, words
        assert only(product, "one")["state"] == "running"


def first_commands(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return text.partition("```sh\n")[2].partition("```")[0].splitlines()


def test_the_day_of_training_on_the_page_is_true(
    product: Product, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands, with the name and the host that the run has here."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.py").write_text(
        "import sys, time\nprint('epochs', sys.argv[2], flush=True)\ntime.sleep(1)\n"
        "open('best.ckpt', 'w').write('weights')\n"
    )
    monkeypatch.chdir(project)
    set_gpus(lab, 2)
    commands = first_commands(ROOT / "docs/runs.md")
    assert commands == first_commands(ROOT / "docs/zh/runs.md")
    name = host = ""
    for command in commands:
        words = shlex.split(command.replace(" python ", f" {sys.executable} "))
        program, *words = [
            word.replace("train-x7k2", name).replace("gpu5:", f"{host}:") for word in words
        ]
        assert program == "apexgpu"
        assert product(*words) == 0, f"{command}: {product.err}"
        if words[0] == "run":
            name = product.out.strip()
            assert re.fullmatch("train-[a-z0-9]{4}", name)
            host = only(product, name)["host"]
        if words[:2] == ["runs", "logs"]:
            assert product.out == "epochs 90\n"
    assert (project / "best.ckpt").read_text() == "weights"
    assert only(product, name)["state"] == "done"


def test_output_into_a_pipe_that_closes_is_no_error(product: Product) -> None:
    assert product("run", "gpu2", "--name", "one", "--", "seq 200000") == 0
    assert product("runs", "wait", "one") == 0
    line = f"{sys.executable} -m apexgpu runs logs one | head -n 1"
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.stdout == "1\n"
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr


def test_follow_survives_a_lost_connection_without_gap_or_repetition(
    product: Product, lab: Lab
) -> None:
    command = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; sleep 0.02; done"
    assert product("run", "gpu2", "--name", "one", "--", command) == 0
    expected = "".join(f"line {number}\n" for number in range(1, 301))
    over = threading.Event()

    def kill() -> None:
        while not over.wait(1.5):
            kill_followers()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        assert product("runs", "logs", "one", "--follow") == 0, product.err
    finally:
        over.set()
        thread.join()
    assert "connecting again" in product.err
    assert product.out == expected


def test_an_interrupted_follow_leaves_the_run_alone(product: Product, lab: Lab) -> None:
    assert product("run", "gpu2", "--name", "one", "--", "echo begun; sleep 1000") == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "apexgpu", "runs", "logs", "one", "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "one keeps running on gpu2" in err
    assert only(product, "one")["state"] == "running"


def test_the_end_of_a_run_that_is_watched_rings_the_bell(product: Product, lab: Lab) -> None:
    command = "while [ ! -e go ]; do sleep 0.1; done"
    assert product("run", "gpu2", "--name", "one", "--", command) == 0
    with at_terminal("runs", "gpu2", "--watch", "--interval", "0.5") as terminal:
        terminal.expect("running")
        (home_of(lab) / "go").touch()
        terminal.expect("\a")
        terminal.expect("done")
        terminal.send("q")
        terminal.expect(pexpect.EOF)
    assert only(product, "one")["state"] == "done"


def test_an_interrupted_start_is_reported_as_a_run_that_may_exist(
    product: Product, lab: Lab
) -> None:
    # The start-up files of the login shell keep the start busy until we have pressed Ctrl-C.
    directory = home_of(lab)
    (directory / ".profile").write_text("touch started; sleep 5\n")
    (directory / ".bash_profile").write_text("touch started; sleep 5\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "apexgpu", "run", "gpu2", "--name", "one", "--", "sleep 1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    until((directory / "started").exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "one may have started on gpu2" in err
    assert " hint: apexgpu runs gpu2" in err
    until(lambda: only(product, "one")["state"] == "running")


def test_a_start_without_an_answer_is_looked_for(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = containerruns.start

    def lose(transport: Transport, host: Host, request: RunRequest) -> None:
        if request.command != "never":
            begin(transport, host, request)
        raise ConnectionLostError(f"the connection to {host.name} was lost")

    monkeypatch.setattr(containerruns, "start", lose)
    assert product("run", "gpu2", "--name", "one", "--", "sleep 1000") == 0, product.err
    assert only(product, "one")["state"] == "running"
    assert product("run", "gpu2", "--name", "two", "--", "never") == 5
    assert "two may have started on gpu2" in product.err
    assert " hint: apexgpu runs gpu2" in product.err


def test_killed_at_each_write_of_a_run_it_either_runs_or_does_not(
    product: Product, lab: Lab, tmp_path: Path
) -> None:
    places = (
        lab.environment["APEXGPU_STATE_DIR"],
        lab.environment["APEXGPU_CONFIG_DIR"],
        os.environ["HOME"],
    )
    words = ("run", "gpu2", "--env", "A=b", "--name")
    with mortal_runs(tmp_path / "report", places) as mortals:
        _, code, events, err = mortals.run(*words, "whole", "--", "sleep 1000", connects=True)
        assert code == 0, err
        assert events
        for last in one_in(8, range(1, len(events) + 1)):
            name = f"run-{last}"
            killed, *_ = mortals.run(*words, name, "--", "sleep 1000", last=last, connects=True)
            assert killed
            runs = {run["name"]: run["state"] for run in product.json("runs")["runs"]}
            assert runs.get(name, "running") == "running"
            # The same again: either it is there, or it starts now.
            code = product(*words, name, "--", "sleep 1000")
            assert code == (6 if name in runs else 0), product.err
            assert only(product, name)["state"] == "running"
            assert product("runs", "stop", name) == 0
            assert only(product, name)["state"] == "killed"


@pytest.mark.parametrize("words", [("runs", "stop", "one"), ("runs", "clean", "--yes")])
def test_killed_at_each_write_of_a_stop_or_a_clean_it_can_be_done_again(
    product: Product, lab: Lab, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Connections count as writes: what the container is told begins with one."""
    state_directory = lab.environment["APEXGPU_STATE_DIR"]
    places = (state_directory, lab.environment["APEXGPU_CONFIG_DIR"], os.environ["HOME"])
    is_stop = "stop" in words
    before = "running" if is_stop else "done"

    def begin() -> None:
        command = "sleep 1000" if is_stop else "true"
        product("run", "gpu2", "--name", "one", "--", command)
        until(lambda: only(product, "one")["state"] == before)
        # Without its note, this laptop has to look for the run, and writes down where it is.
        (Path(state_directory) / "runs.json").unlink()

    with mortal_runs(tmp_path / "report", places) as mortals:
        begin()
        _, code, events, err = mortals.run(*words, connects=True)
        assert code == 0, err
        assert len(events) >= 2
        product("runs", "clean", "--yes")
        for last in one_in(8, range(1, len(events) + 1)):
            begin()
            killed, *_ = mortals.run(*words, last=last, connects=True)
            assert killed
            left = {run["name"]: run["state"] for run in product.json("runs")["runs"]}
            assert left.get("one", before) in {before, "killed"}
            assert product(*words) == 0, product.err
            if is_stop:
                assert only(product, "one")["state"] == "killed"
                product("runs", "clean", "--yes")
            assert product.json("runs")["runs"] == []


@pytest.mark.openssh
def test_a_silent_host_is_an_error_although_a_connection_to_it_is_open(
    product: Product, lab: Lab
) -> None:
    """The open connection may still reach the host, but the container is not stopped."""
    settings = Path(lab.environment["APEXGPU_CONFIG_DIR"]) / "config.toml"
    settings.write_text("keep_connections = true\n")

    def masters() -> list[OwnProcess]:
        found = [one.process for one in controlmaster.list_open() if not one.starts_others]
        return [process for process in found if process.argv[-1].startswith("gpu2")]

    def are_open() -> bool:
        product("status")
        product("runs")
        return len(masters()) == len(("gpu2", "gpu2-manage"))

    until(are_open)
    to_container = [process for process in masters() if process.argv[-1] == "gpu2"]
    assert ownprocesses.end(to_container, grace=5) == []
    lab.fault("gpu2", "silent")
    assert product("runs", "--timeout", "2") == 3
    assert "gpu2" in product.err
    assert "does not answer" in product.err
    assert "stopped" not in product.out + product.err
