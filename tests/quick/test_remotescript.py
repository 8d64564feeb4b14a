"""What is sent into a container: real shells run it, and what they print is read back."""

import ast
import json
import subprocess
from pathlib import Path

import pytest

from apexgpu.models import Reply
from apexgpu.remote import programs, remotescript

PROGRAMS = sorted(Path(programs.__file__).parent.iterdir())
SH = [path.name for path in PROGRAMS if path.suffix == ".sh"]
PYTHON = [path.name for path in PROGRAMS if path.suffix == ".py"]


def run(command: str, shell: str = "sh") -> str:
    done = subprocess.run([shell, "-c", command], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("name", SH)
def test_every_sh_program_is_plain_sh(name: str) -> None:
    script = Path(programs.__file__).parent / name
    done = subprocess.run(["sh", "-n", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "name", [name for name in PYTHON if name not in {"__init__.py", "compute.py"}]
)
def test_every_python_program_can_be_read_by_python_3_5(name: str) -> None:
    tree = ast.parse(remotescript.python_text(name), feature_version=(3, 5))
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Match)
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, newer)] == []


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_arguments_arrive_whole_whatever_is_in_them(shell: str, tmp_path: Path) -> None:
    odd = tmp_path / """it's $HOME "and" 中文 `ls`;"""
    odd.mkdir()
    text = run(remotescript.sh_command("disks.sh", arguments=[str(odd)]), shell)
    assert f"@disk {odd}\n" in text


def test_the_output_begins_on_a_line_of_its_own() -> None:
    noisy = f"printf Welcome; {remotescript.sh_command('uptime.sh')}"
    assert float(remotescript.output(run(noisy))) >= 0


def test_what_a_program_printed_before_it_started_is_nothing() -> None:
    assert remotescript.output("Welcome to gpu7\n") == ""


def test_several_files_are_one_program() -> None:
    text = run(remotescript.sh_command("uptime.sh", "disks.sh", arguments=["/"]))
    first, rest = remotescript.output(text).split("\n", 1)
    assert float(first) >= 0
    assert "@disk /\n" in rest


def test_sudo_never_asks() -> None:
    assert remotescript.sh_command("uptime.sh", sudo=True).startswith("echo; sudo -n sh -c ")


def test_a_container_without_python_is_an_answer(tmp_path: Path) -> None:
    command = remotescript.python_command("search.py", request={})
    (tmp_path / "sh").symlink_to("/bin/sh")
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
    )
    out = done.stdout
    assert remotescript.json_answers(out) == [{"error": "no_python"}]


def test_answers_are_the_marked_lines() -> None:
    out = 'Welcome\napexgpu {"a": 1}\nnoise {"b": 2}\napexgpu [3]\napexgpu {broken\n'
    assert remotescript.answers(out) == ['{"a": 1}', "[3]", "{broken"]
    assert remotescript.json_answers(out) == [json.loads('{"a": 1}')]


def test_no_answer_quotes_the_last_line_of_stderr() -> None:
    error = remotescript.no_answer_error(Reply(127, "", "x\nsh: not found\n"), "gpu7", hint="true")
    assert "gpu7" in error.message
    assert error.message.endswith("sh: not found")
    assert error.code == "unexpected"
