"""Every error can be resolved by pasting its hint: errors are provoked, and their hints pasted up to three times.

A hint is a command that exists and that a shell reads. Pasted, it solves the problem, or shows what is wrong; it never
leads to the same error again, except where time alone helps (then it works once the fault is over), and it destroys
nothing. CI tries the cases of QUICK; `APEXGPU_ALL_HINTS=1` tries the whole table: each command with each fault, and each
with pairs of faults (about twenty minutes).
"""

import hashlib
import io
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from apexgpu import cli
from apexgpu.commands.table import COMMANDS
from apexgpu.render.screen import Screen
from apexgpu.session import Session
from apexgpu_lab.inprocess import Lab, running

pytestmark = [pytest.mark.openssh, pytest.mark.timeout(3000)]

_ALL = "APEXGPU_ALL_HINTS" in os.environ

# Wrong input, which needs no fault.
WRONG = (
    "nosuch",
    "statsu",
    "up",
    "up gpu99",
    "down",
    "down gpu22",
    "exec gpu2 --",
    "exec --all",
    "exec gpu9 -- true",
    "ssh",
    "ssh gpu2 --json",
    "ssh 'gpu*'",
    "cp a",
    "cp a b",
    "cp nowhere gpu2:",
    "cp gpu2:nowhere .",
    "cp gpu77:x .",
    "cp gpu2:x gpu3:y",
    "port gpu2 x",
    "port gpu2 99999",
    "tunnel gpu2 x",
    "tunnel gpu2 99999",
    "tunnel gpu99 80",
    "tunnels close nosuch",
    "tensorboard gpu2 nowhere",
    "tensorboard gpu3 runs",
    "jupyter gpu2 nowhere",
    "mount gpu99",
    "unmount nosuch",
    "unmount",
    "code gpu2 nowhere",
    "code gpu3",
    "gpus --interval 0",
    "gpus gpu99",
    "gpus gpu3",
    "gpus free --memory x",
    "gpus free --count 99",
    "setup gpu2",
    "setup gpu2 nosuch",
    "setup gpu3 growth",
    "setup gpu2 growth",
    "verify gpu2",
    "verify gpu3",
    "verify gpu2 --python /nowhere/python",
    "run gpu2",
    "run gpu2 --memory x -- true",
    "run gpu2 --gpu 99 -- true",
    "run gpu2 --name 'a b' -- true",
    "run gpu2 --workdir /nowhere -- true",
    "run gpu2 --env X -- true",
    "run gpu2 --env-file /nowhere -- true",
    "run gpu3 -- true",
    "runs logs nosuch",
    "runs stop nosuch",
    "runs wait nosuch",
    "runs gpu99",
    "snapshot gpu2 --name 升级前",
    "snapshot gpu2",
    "snapshot gpu3 --name a/b",
    "snapshots verify nosuch",
    "snapshots remove nosuch",
    "recover gpu2",
    "recover gpu2 --from nosuch",
    "recover gpu2 --from /nowhere.tar.gz",
    "rebuild gpu2",
    "rebuild gpu99",
    "register gpu99",
    "register",
    "keys add nowhere.pub",
    "keys remove nosuch",
    "keys add /etc/passwd",
    "login --key nowhere",
    "login 'a b'",
    "config get nosuch",
    "config set nosuch 1",
    "config set timeout x",
    "config restore 99",
    "config restore x",
    "config print --format x",
    "completion show tcsh",
    "--install-completion tcsh",
    "doctor gpu99",
    "x11 check",
    "x11 check gpu2",
    "x11 run gpu2 xeyes",
    "x11 install gpu3",
    "lab fault gpu2 nosuch",
    "lab fault nosuch dead",
    "lab up --hosts 0",
    "down gpu2",
    "status --timeout 0",
    "status --timeout x",
    "status --interval 0",
    "explain nosuch",
)
USUAL = (
    "up gpu2",
    "down gpu2 --yes",
    "status gpu2",
    "ssh gpu2 -- true",
    "exec gpu2 -- true",
    "cp gpu2:.profile .",
    "port gpu2",
    "tunnel gpu2 6006 --background",
    "tensorboard gpu2 . --background",
    "jupyter gpu2 --background",
    "gpus gpu2",
    "setup gpu2 growth --yes",
    "verify gpu2",
    "snapshot gpu2 --yes",
    "snapshots",
    "recover gpu2",
    "run gpu2 -- true",
    "runs",
    "code gpu2",
    "doctor gpu2",
    "register gpu3",
    "whoami",
    "keys list",
    "config sync --yes",
    "login alice --yes",
)
FAULTS = (
    ("gpu2", "refuse"),
    ("gpu2", "dead"),
    ("gpu2", "silent"),
    ("gpu2", "denied"),
    ("gpu2", "garble"),
    ("gpu2", "no-forward"),
    ("gpu2", "host-key-changed"),
    ("gpu2", "no-port-command"),
    ("gpu2", "two-addresses"),
    ("gpu2", "start-fails"),
    ("gpu2", "nas-readonly"),
    ("gpu2", "gpu-mismatch"),
    ("gpu2", "gpu-none"),
    ("gpu2", "gpu-no-driver"),
    ("iam", "down"),
    ("iam", "html"),
    ("iam", "garbled-config"),
    ("iam", "db-locked"),
)
# One of each kind that is over within a second.
QUICK = (
    ("nosuch", ()),
    ("up", ()),
    ("up gpu99", ()),
    ("exec gpu2 --", ()),
    ("ssh gpu2 --json", ()),
    ("cp gpu2:nowhere .", ()),
    ("tensorboard gpu2 nowhere", ()),
    ("gpus --interval 0", ()),
    ("setup gpu2", ()),
    ("setup gpu2 growth", ()),
    ("run gpu2", ()),
    ("run gpu3 -- true", ()),
    ("runs logs nosuch", ()),
    ("snapshot gpu2 --name 升级前", ()),
    ("recover gpu2 --from nosuch", ()),
    ("config set nosuch 1", ()),
    ("down gpu2", ()),
    ("code gpu3", ()),
    ("up gpu2", (("gpu2", "refuse"),)),
    ("exec gpu2 -- true", (("gpu2", "dead"),)),
    ("exec gpu2 -- true", (("gpu2", "host-key-changed"),)),
    ("up gpu2", (("gpu2", "garble"),)),
    ("port gpu2", (("gpu2", "no-port-command"),)),
    ("whoami", (("iam", "down"),)),
    ("config sync --yes", (("iam", "html"), ("gpu2", "dead"))),
)

_PROGRAMS = {
    "ls",
    "df",
    "ssh",
    "ssh-add",
    "ssh-keygen",
    "cat",
    "mv",
    "rm",
    "chmod",
    "echo",
    "sleep",
    "sudo",
    "tail",
    "curl",
}
_PLACEHOLDER = re.compile(r"\b(?:HOST|NAME|PATH|DIR|CMD|PORT|USER|FILE|RECIPE|ID|VALUE)\b|\.\.\.|…")


@dataclass
class Bench:
    """A laptop in front of a lab of two hosts; the container on gpu2 runs."""

    lab: Lab
    home: Path
    stubs: Path
    errors: set[tuple[str, ...]] = field(default_factory=set)

    def run(self, line: str) -> tuple[int, str]:
        """Run a command line as a shell would; its exit status, and what it wrote on stderr."""
        words = shlex.split(line)
        if words[:2] == ["apexgpu", "tunnel"] and not {"--background", "--help"} & set(words):
            # It would run until Ctrl-C.
            words.append("--background")
        # So would this: one look is enough.
        words = [word for word in words if word != "--watch"]
        if words[0] == "apexgpu" and not re.search(r"[|;&>~$]", line):
            out, err = io.StringIO(), io.StringIO()
            screen = Screen(out=out, err=err, stdin=io.StringIO())
            code = cli.main(words[1:], Session(environment=os.environ), screen)
            return code, err.getvalue()
        done = subprocess.run(
            ["sh", "-c", line],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stderr

    def settle(self) -> None:
        """End all faults, and start the container again."""
        for where, kind in FAULTS:
            self.lab.clear(where, kind)
        self.run("apexgpu up gpu2")

    def treasures(self) -> dict[str, str]:
        """The files that nobody may lose: those of the container, the archives, the keys, the ssh config."""
        found = {}
        layout = self.lab.layout.home
        for root in (layout / "hosts/gpu2/alice/rootfs/home/alice/work", layout / "nas", self.home):
            for path in sorted(root.rglob("*")):
                is_ours = "apexgpu" in path.parts or path.name.startswith("known_hosts")
                if path.is_file() and not path.is_symlink() and not is_ours:
                    found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    tmp = tmp_path_factory.mktemp("hints")
    home, stubs, runtime = tmp / "home", tmp / "stubs", tmp / "run"
    for directory in (home, stubs, runtime):
        directory.mkdir(mode=0o700)
    for name in ("sudo", "xhost"):
        (stubs / name).write_text("#!/bin/sh\nexit 0\n")
        (stubs / name).chmod(0o755)
    program = stubs / "apexgpu"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m apexgpu "$@"\n')
    program.chmod(0o755)
    saved = dict(os.environ)
    os.environ |= {
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(runtime),
        "APEXGPU_TIMEOUT": "2",
        "PATH": f"{stubs}:{os.environ['PATH']}",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
    }
    for name in ("SSH_AUTH_SOCK", "DISPLAY", "WAYLAND_DISPLAY"):
        os.environ.pop(name, None)
    try:
        with running(tmp / "lab", hosts=2, registered=True, pace=0) as lab:
            os.environ |= lab.environment
            settings = Path(lab.environment["APEXGPU_CONFIG_DIR"]) / "config.toml"
            settings.write_text("keep_connections = false\n")
            bench = Bench(lab, home, stubs)
            assert bench.run("apexgpu up gpu2")[0] == 0
            assert bench.run("apexgpu exec gpu2 -- 'mkdir work; echo 1 > work/a'")[0] == 0
            yield bench
    finally:
        os.environ.clear()
        os.environ |= saved


@pytest.fixture(autouse=True)
def isolated() -> None:
    """In the place of the usual one: the bench has a HOME of its own, for all cases."""


def error_of(err: str) -> tuple[str, str] | None:
    """The last error with a hint; the message and the hint."""
    found = None
    lines = err.splitlines()
    for line, after in itertools.pairwise([*lines, ""]):
        if line.startswith("error: ") and after.startswith(" hint: "):
            found = (line.removeprefix("error: "), after.removeprefix(" hint: "))
    return found


def check_command(hint: str) -> None:
    """A hint is a command that a shell reads, of a program that exists, without anything to fill in."""
    read = subprocess.run(["sh", "-n", "-c", hint], capture_output=True, check=False)
    assert read.returncode == 0, hint
    words = shlex.split(hint)
    assert words[0] in {"apexgpu", *_PROGRAMS}, hint
    if words[0] == "apexgpu" and len(words) > 1 and not words[1].startswith("-"):
        assert words[1] in COMMANDS, hint
    assert not _PLACEHOLDER.search(hint), hint


def paste(bench: Bench, command: str, faults: tuple[tuple[str, str], ...]) -> None:
    """Provoke the errors of `command`, and paste their hints."""
    before = bench.treasures()
    for where, kind in faults:
        bench.lab.fault(where, kind)
    try:
        line = f"apexgpu {command}"
        seen: list[tuple[str, str]] = []
        for _ in range(4):
            code, err = bench.run(line)
            assert "apexgpu itself failed" not in err, f"{line}\n{err}"
            error = error_of(err)
            if code == 0 or error is None:
                break
            bench.errors.add(error)
            check_command(error[1])
            if error in seen:
                # Only time helps: then the hint works when the fault is over.
                bench.settle()
                code, err = bench.run(error[1])
                assert error_of(err) != error, f"{line}\n{err}"
                break
            seen.append(error)
            line = error[1]
    finally:
        bench.settle()
    after = bench.treasures()
    lost = {path for path, digest in before.items() if after.get(path) != digest}
    assert lost == set()


@pytest.mark.parametrize(
    ("command", "faults"), QUICK, ids=[f"{command}:{faults}" for command, faults in QUICK]
)
def test_a_pasted_hint_helps_and_destroys_nothing(
    bench: Bench, command: str, faults: tuple[tuple[str, str], ...]
) -> None:
    paste(bench, command, faults)


# Twenty minutes: not a skipped test, which CI counts as a failure.
if _ALL:

    def test_the_whole_table_of_errors(bench: Bench) -> None:
        """At least 120 different errors, and 60 pairs of faults."""
        cases: list[tuple[str, tuple[tuple[str, str], ...]]] = [(command, ()) for command in WRONG]
        cases += [(command, (fault,)) for fault in FAULTS for command in USUAL]
        pairs = list(itertools.combinations(FAULTS, 2))
        for number, pair in enumerate(pairs):
            cases.append((USUAL[number % len(USUAL)], pair))
        assert len(pairs) >= 60
        failures = []
        for command, faults in cases:
            try:
                paste(bench, command, faults)
            except AssertionError as exc:
                failures.append(f"{command} with {faults}: {exc}")
        assert failures == []
        assert len(bench.errors) >= 120
