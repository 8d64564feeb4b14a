"""Messages, help texts and English pages are in plain English: the list below keeps common stumbling blocks out.

Each row is a pattern, what to write instead, and the reason. The patterns were collected from readers whose first
language is not English. If one rejects a sentence that is good English, make the pattern more precise.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.test_hints import strings

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md")]
)

# A pattern (or several with one |), what to write, why.
WORDS = [
    # Word order and forms that are not English.
    (r"(?<![Tt]here )\bis no (?!longer\b|more than\b)", "is not a …", "English negates the verb"),
    (r"(?<![Tt]here )\bare no (?!longer\b|more than\b)", "are not …", "English negates the verb"),
    (r"\bis none (?:that|of)\b", "is not one that …", "English negates the verb"),
    (r"\b(?:has|have) not(?= to\b|[.,;:)|]|$)", "does not have", "modern English needs do"),
    (r"\bmay not be\b", "permission denied; cannot be", "means: perhaps not, or: must not"),
    (r", for (?:it|they|others|the \w+|[A-Z]\w+ \S+) (?:is|are|has|have|does|stands)\b", "because", "'for' is a preposition first"),
    (r"\bnot one other\b|\bat one stroke\b", "no other; atomically", "the usual words"),
    # Programs are not persons.
    (r"(?<!\bpage )(?<!\bmessage )(?<!\bbody )\b(?:says|said)\b", "prints, reports, shows", "programs do not speak"),
    (r"\btold\b", "printed, shown, given; distinguished", "programs do not speak"),
    (r"\b(?:its|last|their|own|\w+'s) words\b|\bwords of\b|\bwithout a word\b", "output, message", "programs do not speak"),
    (r"\b(?:wants|wishes)\b", "needs, requires", "programs have no wishes"),
    (r"\blooked at\b", "checked, read", "say what is done with it"),
    # The term of the field instead of a basic verb.
    (r"\b(?:goes|going|go|went) on\b|\bon where it stopped\b", "continue, resume", "the term that people search for"),
    (r"\b(?:goes|go) (?:with|together)\b", "is compatible with, matches", "the term that people search for"),
    (r"\btakes? (?:your|this|the|no|a) (?:key|token|connection|cuDNN)\b", "accepts, needs", "the usual verb"),
    (r"\b(?:tak(?:e|es|en|ing)|took)\b[^.|;:\n]{0,30}\baway\b", "remove", "the usual verb"),
    (r"\b(?:take|try) another host\b", "use another host", "the usual verb"),
    (r"\bholds? (?!for\b|(?:a|the|its|that|their) (?:lock|port)\b|locks?\b)", "contains, has, keeps", "the usual verb; locks are held"),
    (r"\bstands? (?!for\b)", "is", "the usual verb"),
    (r"\b(?:lies|lie) (?:in|on|under|beside|before|below)\b", "is", "the usual verb"),
    (r"\bbears?\b", "support, accept", "the usual verb"),
    (r"\b(?:travel|travels|travelled)\b", "be sent", "passwords do not travel"),
    (r"\bfirst contact\b", "first connection", "the term of the field"),
    (r"\bmemory as needed\b", "GPU memory growth", "the term that people search for"),
    # Metaphors.
    (r"\b(?:cur(?:e|es|ed)|mend(?:s|ed)?|heal(?:s|ed)?)\b", "fix, repair, restore", "programs are not ill"),
    (r"\b(?:corpses?|ornament|living (?:line|ones?)|the living|swallow\w*)\b", "name the thing", "a metaphor"),
    (r"\bdoors?\b(?! ignored)|\bthe house\b", "module; link", "a metaphor"),
    (r"\b(?:judges?|honest)\b", "decides, is checked by", "a metaphor"),
    # Words that point somewhere instead of naming the place.
    (r"\bthat one\b|\bthe same (?:line|again)\b", "name it; the same command", "makes the reader look back"),
    (r"\bthere (?:and|or) here\b|\bhere and there\b|\bthere and back\b", "in the container and on the laptop", "name the place"),
    (r"(?:work|program|container|user|server|window|run|runs|goes|file|path|name|port|something|version) there\b(?! (?:is|are|was|were)\b)|\b(?:a|the|your) (?:program|user|client) there\b", "in the container; on the host", "name the place"),
    (r"\b(?:directory|known_hosts|port|server|DISPLAY|laptop's|files|screen|up|xauth|xwininfo) here\b", "on this laptop", "name the place"),
    # Layout.
    (r"\b1 (?:hosts|keys|files|GPUs|seconds|containers)\b", "text.counted()", "the plural of one"),
    (r"^(?:apexgpu|sudo|ssh|ls|df|kill|chmod)\b.* {3}\(", "put the remark into the message", "a hint is pasted as it is"),
]  # fmt: skip
_PATTERNS = [(re.compile(pattern), instead, why) for pattern, instead, why in WORDS]

# A number before a plural: `text.counted` has the right form for one.
_NUMBERED = re.compile(r"\bX (?:hosts|keys|files|GPUs|containers|tunnels|mounts|snapshots|ports)\b")
# The number is never 1 in these.
_ALWAYS_SEVERAL = {
    "X matches X hosts, and this needs one",
    "X free GPUs",
    "X is the name of X snapshots: X",
    "X hosts",  # apexgpu_lab.client: the lab may not use `text`
    "X hosts, more than X",
    "a lab has 1 to X hosts, not X",
    "X keys, but exactly one is needed",
    "the agent has X keys, and a server disconnects after six refused ones; "
    "remove those that you do not use with ssh-add -d",
}


def user_strings(tree: ast.Module, *, commands: bool) -> Iterator[tuple[int, str]]:
    """The string constants of a module, and for command functions their docstrings: the help.

    A string that is a statement of its own documents the name above it, and is not shown to anybody.
    """
    notes = {
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
    for line, text in strings(tree):
        if text not in notes:
            yield line, text
    if commands:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield node.lineno, ast.get_docstring(node) or ""


@cache
def texts() -> tuple[tuple[str, str], ...]:
    """Where each text for users is, and the text."""
    return tuple(_read_texts())


def _read_texts() -> Iterator[tuple[str, str]]:
    for path in sorted(SOURCE.rglob("*.py")):
        commands = path.parent.name == "commands"
        for line, text in user_strings(ast.parse(path.read_text()), commands=commands):
            yield f"{path.relative_to(ROOT)}:{line}", text
    for path in sorted(SOURCE.rglob("*.toml")):
        recipe = tomllib.loads(path.read_text())
        yield f"{path.relative_to(ROOT)}: summary", recipe["summary"]
        for step in recipe["steps"]:
            yield f"{path.relative_to(ROOT)}: {step['name']}", step["title"]
            for message in re.findall(
                r'\bsay "([^"]*)"', step.get("do", "") + step.get("verify", "")
            ):
                yield f"{path.relative_to(ROOT)}: {step['name']}", message
    for page in PAGES:
        # A paragraph is one text: an expression may be divided by a line break.
        line = 1
        for paragraph in page.read_text().split("\n\n"):
            yield f"{page.relative_to(ROOT)}:{line}", re.sub(r"\s*\n\s*", " ", paragraph)
            line += paragraph.count("\n") + 2


def stumbling_blocks(text: str) -> Iterator[str]:
    """Each place of a text that the list rejects, with the advice. A single word is an identifier."""
    if " " not in text:
        return
    for pattern, instead, why in _PATTERNS:
        for match in pattern.finditer(text):
            yield f"“{match[0]}”: write {instead} ({why})"


def test_what_users_read_is_in_plain_english() -> None:
    found = [f"{where}: {advice}" for where, text in texts() for advice in stumbling_blocks(text)]
    assert found == []


def test_a_number_that_may_be_one_has_a_noun_that_fits() -> None:
    assert [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted(SOURCE.rglob("*.py"))
        for line, text in user_strings(ast.parse(path.read_text()), commands=False)
        if _NUMBERED.search(text) and text not in _ALWAYS_SEVERAL
    ] == []


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("gpu7 is no directory", "is not a …"),
        ("the file may not be read", "permission denied; cannot be"),
        ("the work goes on there", "continue, resume"),
        ("it is told where xauth is", "printed, shown, given; distinguished"),
        ("the container takes your key", "accepts, needs"),
        ("a push cures it", "fix, repair, restore"),
        ("run the same line", "name it; the same command"),
        ("a program there is untrusted", "in the container; on the host"),
        ("apexgpu gpus free   (then again)", "put the remark into the message"),
        ("a cuDNN that does not go with it", "is compatible with, matches"),
    ],
)
def test_a_stumbling_block_is_found(text: str, instead: str) -> None:
    assert any(instead in advice for advice in stumbling_blocks(text))


@pytest.mark.parametrize(
    "text",
    [
        "there is no host gpu7",
        "it is no longer mapped",
        "a process that hangs may not react",
        "tar: x: door ignored",
        "it holds a lock",
        "the container there is running",
    ],
)
def test_good_english_passes(text: str) -> None:
    assert list(stumbling_blocks(text)) == []


_MESSAGE_TABLE = re.compile(
    r"^\| (?:check shows|message) \|.*\n\|[-|]+\n((?:\|.*\n)+)", re.MULTILINE
)


@pytest.mark.parametrize("page", ["how-to.md", "x11-linux.md", "x11-macos.md", "x11-windows.md"])
def test_messages_in_a_table_are_those_that_are_printed(page: str) -> None:
    printed = "\n".join(text for where, text in texts() if where.startswith("src/"))
    (table,) = _MESSAGE_TABLE.findall((ROOT / "docs" / page).read_text())
    quoted = [quote for row in table.splitlines() for quote in re.findall(r"^\| `([^`]*)`", row)]
    assert len(quoted) > 5
    for quote in quoted:
        if "Can't open display" in quote:  # a message of the program in the container
            continue
        # What is filled in, such as a host's name, is an X in a string of the source.
        pattern = re.escape(quote).replace("…", ".*")
        pattern = re.sub(r"gpu7|:0\b|:1\b", "X", pattern)
        assert re.search(pattern, printed), quote
