"""What the documents promise is what the program has, in both languages."""

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from apexgpu import cli, completion, completion_table, settings
from apexgpu.commands.table import COMMANDS
from apexgpu.completion_table import TABLE
from apexgpu.errors import ApexError
from apexgpu.session import Session

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "README.zh-CN.md",
    "SECURITY.md": "SECURITY.zh-CN.md",
    **{f"docs/{page.name}": f"docs/zh/{page.name}" for page in (ROOT / "docs").glob("[!_]*.md")},
}
COMMAND = re.compile(r"^(?:\$ )?apexgpu ([^#|\n]*)", re.MULTILINE)


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / name))


def test_the_completion_table_is_what_the_command_line_has() -> None:
    assert script("make-completion")["text"]() == Path(completion_table.__file__).read_text(), (
        "run: make completion"
    )


@pytest.mark.parametrize("name", ["reference.md", "zh/reference.md"])
def test_the_reference_is_what_the_command_line_has(name: str) -> None:
    assert script("make-reference")["text"](name) == (ROOT / "docs" / name).read_text(), (
        "run: make reference"
    )


def test_the_manual_page_is_what_the_command_line_has() -> None:
    reference = script("make-reference")
    page = (ROOT / reference["MANUAL"]).read_text()
    assert reference["manual"]() == page, "run: make reference"
    # man reads a line that begins with a dot as a request: nothing of a text may look like one.
    requests = {line.split()[0] for line in page.splitlines() if line.startswith((".", "'"))}
    assert requests <= {
        "'\\\"",
        '.\\"',
        ".TH",
        ".SH",
        ".SS",
        ".PP",
        ".TP",
        ".B",
        ".I",
        ".BR",
        ".RI",
    }
    assert page.isascii()


def test_the_manual_page_is_installed_where_man_finds_it() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        wheel = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]
    manual = script("make-reference")["MANUAL"]
    assert wheel["shared-data"] == {manual: "share/man/man1/apexgpu.1"}


@pytest.mark.parametrize("page", sorted([*PAGES, *PAGES.values()]))
def test_every_command_in_a_page_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"`(apexgpu [^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in COMMAND.findall("\n".join([*blocks, *inline])):
        words = [word for word in line.split() if not word.startswith("-")]
        if not words or words[0] not in {*COMMANDS, "…"}:
            assert line.startswith("-") or not words, f"{page}: apexgpu {line}"


@pytest.mark.parametrize("page", sorted([*PAGES, *PAGES.values()]))
def test_every_link_to_another_page_leads_there(page: str) -> None:
    links = re.findall(r"\]\((?!\w+:|#)([^)#]+)", (ROOT / page).read_text())
    assert links, "not even the other language"
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).is_file()] == []


@pytest.mark.parametrize("page", sorted(PAGES))
def test_both_languages_show_the_same_commands(page: str) -> None:
    def blocks(text: str) -> list[str]:
        # Comments and prose inside a block may be translated; what is typed may not.
        return [
            re.sub(r"\s*#.*", "", line).strip()
            for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
            for line in block.splitlines()
            if line.startswith(("apexgpu", "$ ", "make", "eval"))
        ]

    assert blocks((ROOT / page).read_text()) == blocks((ROOT / PAGES[page]).read_text())


def test_every_file_that_contributing_names_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|sh|toml|md|svg|json))`", text))
    # Files that one makes oneself, or that stand for any file of their kind.
    named -= {"render/<module>.py", "config.toml"}
    existing = [
        str(path.relative_to(ROOT))
        for directory in ("src", "tests", "docs", "bench")
        for path in (ROOT / directory).rglob("*.*")
    ] + [path.name for path in ROOT.glob("*.*")]
    missing = {
        name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in existing)
    }
    assert missing == set()


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs/reference.md").read_text()
    in_file = [definition.variable for definition in settings._DEFINITIONS.values()]
    for variable in (*settings._DIRECTORY_VARIABLES.values(), *filter(None, in_file)):
        assert f"`{variable}`" in page
    for name in settings.load({}, {}, {}).named:
        assert f"`{name}`" in page or f"APEXGPU_{name.upper()}" in page


def test_every_exit_code_is_documented() -> None:
    codes = {0, 3, 130}
    waiting = [ApexError]
    while waiting:
        one = waiting.pop()
        codes.add(one.exit_code)
        waiting += one.__subclasses__()
    for page in ("docs/reference.md", "docs/zh/reference.md"):
        assert codes <= {
            int(code)
            for code in re.findall(r"^\| (\d+) \|", (ROOT / page).read_text(), re.MULTILINE)
        }


@pytest.mark.parametrize("path", sorted(path for path in TABLE if path))
def test_every_command_has_help_with_an_example_or_words_below_it(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*path.split(), "--help"], Session()) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: apexgpu {path}")
    assert "\x1b" not in text


def test_the_help_shows_each_command_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["--help"], Session()) == 0
    lines = [re.sub(r"  +", " ", line.strip()) for line in capsys.readouterr().out.splitlines()]
    assert [
        line for name, entry in COMMANDS.items() if (line := f"{name} {entry.line}") not in lines
    ] == []
    for group in {path.split()[0] for path in TABLE if " " in path}:
        capsys.readouterr()
        assert cli.main([group, "--help"], Session()) == 0
        listed = capsys.readouterr().out.partition("Commands:")[2].partition("\n\n")[0]
        assert "..." not in listed, group


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("apexgpu sta", ["status"]),
        ("apexgpu up ", ["gpu2", "gpu3", "gpu12"]),
        ("apexgpu up gpu2 gpu", ["gpu3", "gpu12"]),
        ("apexgpu config re", ["remove", "restore"]),
        ("apexgpu config sync --dr", ["--dry-run"]),
        ("apexgpu completion show z", ["zsh"]),
        ("apexgpu gpus ", ["list", "free", "gpu2", "gpu3", "gpu12"]),
        ("apexgpu gpus --wa", ["--watch"]),
        ("apexgpu exec gpu2 -- gp", []),
        ("apexgpu keys add ", []),
        ("apexgpu setup gp", ["gpu2", "gpu3", "gpu12"]),
        ("apexgpu setup gpu2 cu", ["cuda", "cudnn"]),
        ("apexgpu setup gpu2 --plan cuda cu", ["cudnn"]),
        ("apexgpu mount gpu2 ", []),
    ],
)
def test_completion_answers_from_the_table_and_the_remembered_hosts(
    tmp_path: Path, line: str, found: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hosts").write_text("gpu2\ngpu3\ngpu12\n")
    asked = {"APEXGPU_STATE_DIR": str(tmp_path), "_TYPER_COMPLETE_ARGS": line}
    completion.answer(asked)
    assert capsys.readouterr().out.split() == found
    words = line.split(" ")
    completion.answer(
        {"APEXGPU_STATE_DIR": str(tmp_path), "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    )
    assert capsys.readouterr().out.split() == found
