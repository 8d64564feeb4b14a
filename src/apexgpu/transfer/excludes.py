"""What `--exclude` leaves out. Patterns are written as in .gitignore (gitignore(5), PATTERN FORMAT). Pure.

- A pattern without a slash matches a name at any depth: `*.pyc`, `__pycache__`.
- One with a slash matches from the top of each directory that is copied: `/data`, `runs/*.tmp`.
- A slash at its end: directories only. `**` matches any number of directories.
- `!` in front takes back what an earlier pattern has left out; the last pattern that matches counts.
- What is below a directory that is left out is left out too.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from apexgpu.errors import UsageError


@dataclass(frozen=True, slots=True)
class _Pattern:
    """One pattern: what its path has to match, and whether it takes back, or means directories only."""

    expression: re.Pattern[bytes]
    is_exception: bool
    directories_only: bool


@dataclass(frozen=True, slots=True)
class Excludes:
    """The patterns of one copy, in the order in which they were given."""

    patterns: tuple[_Pattern, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def leaves_out(self, path: bytes, *, is_directory: bool) -> bool:
        """Whether a path is left out. Whoever asks has asked for the directories above it before."""
        for pattern in reversed(self.patterns):
            if pattern.directories_only and not is_directory:
                continue
            if pattern.expression.fullmatch(path):
                return not pattern.is_exception
        return False


def parse(patterns: Sequence[str]) -> Excludes:
    """Read the values of `--exclude`. Raises UsageError for one that matches nothing."""
    return Excludes(tuple(_parse_pattern(pattern) for pattern in patterns))


def _parse_pattern(text: str) -> _Pattern:
    pattern = text.encode("utf-8", "surrogateescape")
    is_exception = pattern.startswith(b"!")
    if is_exception:
        pattern = pattern[1:]
    directories_only = pattern.endswith(b"/")
    pattern = pattern.rstrip(b"/")
    if not pattern:
        raise UsageError(f"--exclude {text!r} names nothing", hint="apexgpu cp --help")
    is_tied_to_the_top = b"/" in pattern
    expression = _expression(pattern.lstrip(b"/"))
    if not is_tied_to_the_top:
        expression = rb"(?:.*/)?" + expression
    return _Pattern(re.compile(expression, re.DOTALL), is_exception, directories_only)


_PARTS = re.compile(
    rb"(?P<any_above>^\*\*/|(?<=/)\*\*/)|(?P<all_below>(?<=/)\*\*$)|(?P<stars>\*+)|(?P<one>\?)|(?P<set>\[[!^]?\]?[^\]/]*\])|(?P<escaped>\\.)|(?P<letter>.)",
    re.DOTALL,
)


def _expression(pattern: bytes) -> bytes:
    """The regular expression of a pattern."""
    expression = b""
    for match in _PARTS.finditer(pattern):
        piece = match.group()
        if match["any_above"]:
            expression += rb"(?:.*/)?"
        elif match["all_below"]:
            expression += rb".+"
        elif match["stars"]:
            expression += rb"[^/]*"
        elif match["one"]:
            expression += rb"[^/]"
        elif match["set"]:
            expression += _set_expression(piece)
        elif match["escaped"]:
            expression += re.escape(piece[1:])
        else:
            expression += re.escape(piece)
    return expression


def _set_expression(piece: bytes) -> bytes:
    """The regular expression of `[a-z]` or `[!a-z]`; a range the wrong way round is letters."""
    content = piece[1:-1]
    negation = b""
    if content[:1] in {b"!", b"^"}:
        negation = b"^"
        content = content[1:]
    content = re.sub(rb"([\\\[\]^&~|])", rb"\\\1", content)
    expression = rb"(?!/)[" + negation + content + rb"]"
    try:
        re.compile(expression)
    except re.error:
        return re.escape(piece)
    return expression
