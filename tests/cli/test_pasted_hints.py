"""Every error can be resolved by pasting its hint: errors are provoked, and their hints pasted up to three times.

The table of errors is tests/data/hintcases.txt: a code, the command that provokes it, and what is wrong meanwhile. A hint
is typed into a real bash, as it is printed. It is a command of a program that exists, with nothing to fill in. It solves
what a member can solve: then the command that failed works. Where only time or an administrator helps, the command works
once the fault is over, whatever was pasted until then. No hint leads to the same error again unless that is so, and
none loses a file of the container, of the laptop or of the NAS, a key in IAM, or what runs in the container.

CI tries the rows with an asterisk; `APEXGPU_ALL_HINTS=1` tries the whole table (CONTRIBUTING.md).
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from apexgpu.completion_table import TABLE as COMPLETION
from apexgpu.explanations import catalogue
from apexgpu_lab.faults import KINDS
from tests.cli.hintbench import CURABLE, FAULTS, SCENES, Bench, Shown, bench_in

pytestmark = [pytest.mark.openssh, pytest.mark.timeout(600)]

ALL = "APEXGPU_ALL_HINTS" in os.environ
PASTES = 3
TABLE = Path(__file__).parent.parent / "data" / "hintcases.txt"

PROGRAMS = set(
    [
        "cat",
        "cd",
        "chmod",
        "code",
        "curl",
        "df",
        "du",
        "echo",
        "eval",
        "export",
        "fusermount3",
        "getent",
        "git",
        "grep",
        "id",
        "install",
        "kill",
        "ls",
        "mkdir",
        "mv",
        "pgrep",
        "printf",
        "sed",
        "sleep",
        "ssh",
        "ssh-add",
        "ssh-keygen",
        "sudo",
        "time",
        "unset",
        "xhost",
    ]
)
"""The programs and words of the shell that a hint may begin with, beside apexgpu."""
PLACEHOLDER = re.compile(
    r"\b(?:HOST|NAME|PATH|DIR|CMD|COMMAND|PORT|USER|FILE|RECIPE|ID|VALUE|SRC|DST|[A-Z]+_KEY)\b(?!=)|<[a-z]|\.\.\.|…"
)
CHANGES_CONTAINER = {"down", "restart", "snapshot", "recover", "rebuild"}
"""Commands after which the container may have been stopped, because the member asked for that."""
RESTARTS_HOST = {"gpu2:reboot", "gpu2:stopped"}
NEVER_WELL = {"x11", "verify", "doctor"}
"""Commands that report a problem in the lab even when nothing is wrong: it has neither a screen nor TensorFlow."""


@dataclass(frozen=True)
class Case:
    """A row of the table. `stdin` is what a script pipes into the command."""

    code: str
    command: str
    stdin: str
    faults: tuple[str, ...]
    in_ci: bool

    @property
    def is_curable(self) -> bool:
        """Whether a member can repair all that is wrong."""
        return set(self.faults) <= CURABLE | SCENES

    @property
    def has_faults(self) -> bool:
        """Whether something is wrong that can end; otherwise the command itself is."""
        return bool(self.faults) and SCENES.isdisjoint(self.faults)

    @property
    def name(self) -> str:
        """The first word of the command."""
        return self.command.split()[0]

    def __str__(self) -> str:
        return " ".join([self.command, *self.faults])


def read_table(text: str) -> list[Case]:
    """The rows: `[* ]CODE: COMMAND [< STDIN] [@ FAULT...]`."""
    cases = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        code, _, rest = line.removeprefix("* ").partition(": ")
        rest, _, faults = rest.partition(" @ ")
        command, _, stdin = rest.partition(" < ")
        typed = f"{stdin}\n" if stdin else ""
        cases.append(Case(code, command, typed, tuple(faults.split()), line.startswith("* ")))
    return cases


CASES = read_table(TABLE.read_text())


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench_in(tmp_path_factory.mktemp("hints")) as bench:
        yield bench


@pytest.fixture(autouse=True)
def isolated() -> None:
    """In the place of the usual one: the bench has a HOME of its own, for all cases."""


def check_command(hint: str) -> None:
    """A hint is a command that a shell reads, of a program that exists, without anything to fill in."""
    read = subprocess.run(["bash", "-n", "-c", hint], capture_output=True, check=False)
    assert read.returncode == 0, hint
    # In the place of variables are their names.
    words = shlex.split(hint, comments=False)
    first = words[0].partition("=")[0] if "=" in words[0] else Path(words[0]).name
    assert first in {"apexgpu", *PROGRAMS}, hint
    assert not PLACEHOLDER.search(re.sub(r"\$\{?[A-Z_]+\}?", "", hint)), hint
    for part in re.split(r"&&|;|\|", hint):
        if part.split()[:1] == ["apexgpu"]:
            check_our_command(shlex.split(part)[1:], hint)


def check_our_command(words: list[str], hint: str) -> None:
    """The command is there, and each of its options."""
    ours = words[: words.index("--")] if "--" in words else words
    path = ""
    for word in ours:
        longer = f"{path} {word}".strip()
        if longer not in COMPLETION:
            break
        path = longer
    assert path or not ours or ours[0].startswith("-"), hint
    options = [word.partition("=")[0] for word in ours if word.startswith("--")]
    assert set(options) <= set(COMPLETION[path][2]), hint


def check_output(shown: Shown, line: str) -> None:
    """No bug, no error that leaves its reader alone, and each hint is a command."""
    said = f"{line}\n{shown.out}{shown.err}"
    assert "apexgpu itself failed" not in shown.err, said
    assert "Traceback" not in shown.err, said
    assert shown.without_hint == [], said
    for _, hint in shown.hints:
        check_command(hint)


def check_paste(shown: Shown, line: str) -> None:
    """What was pasted is a command for the shell, too."""
    for trouble in (
        "command not found",
        "syntax error",
        "Could not resolve hostname",
        "not a valid",
    ):
        assert trouble not in shown.err, f"{line}\n{shown.err}"
    check_output(shown, line)


def paste_hints(bench: Bench, line: str, shown: Shown, *, may_repeat: bool) -> Shown:
    """Paste the hint of what was shown, and so on; return what was shown last."""
    seen: list[tuple[str, str]] = []
    for _ in range(PASTES):
        error = shown.error
        if error is None:
            break
        if error in seen:
            assert may_repeat, f"the same error again: {error}\n{line}"
            break
        seen.append(error)
        line = error[1]
        shown = bench.paste(line)
        check_paste(shown, line)
    return shown


def check_case(bench: Bench, case: Case) -> None:
    """Provoke the error of a row, paste the hints, and compare."""
    whole = bench.treasures(case.name)
    for fault in case.faults:
        bench.set(fault)
    # What a fault itself spoils is nobody's treasure.
    before = {
        digest: name for digest, name in bench.treasures(case.name).items() if digest in whole
    }
    started = bench.started
    line = f"apexgpu {case.command}"
    shown = bench.provoke(line, case.stdin)
    check_output(shown, line)
    said = f"{shown.codes}\n{shown.out}{shown.err}"
    assert case.code in shown.codes, said
    assert shown.hints, said
    first = shown.error
    shown = paste_hints(bench, line, shown, may_repeat=not case.is_curable)
    if case.has_faults:
        if not case.is_curable:
            bench.end_faults()
        shown = bench.paste(line, case.stdin)
        met = [first]
        while case.is_curable and shown.error is not None and len(met) < PASTES:
            # One cure shows the next problem.
            assert shown.error not in met, f"the same error again: {shown.error}"
            met.append(shown.error)
            paste_hints(bench, line, shown, may_repeat=False)
            shown = bench.paste(line, case.stdin)
        said = f"{line}\n{shown.out}{shown.err}"
        assert first is None or shown.error != first, said
        assert shown.status == 0 or case.name in NEVER_WELL, said
    elif first is not None and not case.faults:
        assert shown.error is None, f"not solved: {line}\n{shown.out}{shown.err}"
    lost = before.keys() - bench.treasures(case.name).keys()
    assert {before[digest] for digest in lost} == set()
    if case.name not in CHANGES_CONTAINER and RESTARTS_HOST.isdisjoint(case.faults):
        assert bench.started == started, "the container was stopped"


@pytest.mark.parametrize("case", [case for case in CASES if case.in_ci or ALL], ids=str)
def test_a_pasted_hint_helps_and_destroys_nothing(bench: Bench, case: Case) -> None:
    try:
        check_case(bench, case)
    finally:
        bench.reset()


# The table itself

ELSEWHERE = TABLE.with_name("hintcodes.txt")
"""The codes that no row provokes, each behind the test that has it, or the reason why there is none."""


def test_the_table_has_enough_rows_and_each_can_fail() -> None:
    assert len({(case.command, case.faults) for case in CASES}) == len(CASES)
    assert len(CASES) >= 120
    assert len([case for case in CASES if len(case.faults) > 1]) >= 60
    assert len([case for case in CASES if case.in_ci and len(case.faults) > 1]) >= 5
    for case in CASES:
        assert case.code in catalogue(), case
        for fault in case.faults:
            assert fault in FAULTS or fault.partition(":")[2] in KINDS, case


def test_every_code_is_provoked_or_has_its_reason() -> None:
    provoked = {case.code for case in CASES}
    excused: set[str] = set()
    for line in ELSEWHERE.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        where, _, codes = line.partition(": ")
        for code in codes.split():
            assert code not in excused, code
            excused.add(code)
            if where.startswith("tests/"):
                text = (TABLE.parent.parent.parent / where).read_text()
                found = re.search(rf"[\"']{code}[\"']", text)
                assert found, f"{where} does not have {code}"
    assert provoked & excused == set()
    assert catalogue().keys() == provoked | excused
