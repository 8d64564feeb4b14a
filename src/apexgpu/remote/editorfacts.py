"""What decides whether the server of a graphical editor runs in a container (`programs/editor_check.sh`)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from apexgpu import readers
from apexgpu.errors import UnexpectedError
from apexgpu.remote import remotescript

Version = tuple[int, ...]

_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})(?:\.([0-9]{1,6}))?")


@dataclass(frozen=True, slots=True)
class EditorFacts:
    """A container as an editor's server finds it. None stands for what could not be found out.

    `directory` is the full path of the directory to open; None if there is no such directory. `free` are bytes on the
    disk of the home directory. `has_own_glibc`: VS Code is told to use another glibc than the system's. `has_server`: a
    server is installed already. `has_internet`: whether one could be downloaded.
    """

    system: str
    glibc: Version | None
    has_own_glibc: bool
    home: str
    directory: str | None
    free: int | None
    has_server: bool
    has_internet: bool | None


def command(directory: str, servers: str, url: str) -> str:
    """The command line that prints the facts; see editor_check.sh for its arguments."""
    return remotescript.sh_command("editor_check.sh", arguments=[directory, servers, url])


def parse(out: str) -> EditorFacts:
    """The facts in the output of `command`. UnexpectedError if the program did not run."""
    facts: dict[str, str] = {}
    for answer in remotescript.answers(out):
        name, _, value = answer.partition(" ")
        facts[name] = value
    if not facts.get("home"):
        message = f"it sent an unknown answer: {out.strip()[:200]!r}"
        raise UnexpectedError(message)
    free = readers.decimal(facts.get("free", ""))
    internet = facts.get("internet")
    return EditorFacts(
        system=facts.get("system", ""),
        glibc=parse_version(facts.get("glibc", "")),
        has_own_glibc="own_glibc" in facts,
        home=facts["home"],
        directory=facts.get("directory"),
        free=None if free is None else int(free) * 1024,
        has_server="server" in facts,
        has_internet=None if internet is None else internet == "yes",
    )


def parse_version(text: str) -> Version | None:
    """The version at the start of a text: `1.98.2` is (1, 98, 2)."""
    match = _VERSION.match(text.strip())
    if match is None:
        return None
    return tuple(int(number) for number in match.groups() if number is not None)


def describe_version(version: Sequence[int]) -> str:
    """A version as text."""
    return ".".join(str(number) for number in version)
