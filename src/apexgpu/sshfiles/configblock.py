"""(bytes, hosts) -> bytes: the one marked block that apexgpu owns in an ssh config. PURE, no files.

The block stands at the very start (after a byte order mark, if there is one): in ssh_config the first value
wins, so nothing of the user's can override it. A bare `Host *` closes it and gives the user's global lines
and Includes their old scope back. Not one other byte changes; `unmerge` gives the user's bytes back exactly.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from apexgpu.errors import ConfigError
from apexgpu.models import Host

BEGIN = "# >>> apexgpu >>>"
END = "# <<< apexgpu <<<"
_NOTE = (
    "# apexgpu owns the lines between these two marks and undoes edits here; yours go below them."
)

_BOM = b"\xef\xbb\xbf"
_MANAGE = "-manage"
# An editor that indents or trims must not orphan a block: blanks around a marker do not count.
_MARKER = re.compile(
    rb"(?:^|(?<=\A\xef\xbb\xbf))[ \t]*(# >>> apexgpu >>>|# <<< apexgpu <<<)"
    rb"[ \t]*\r?(?:\n|\Z)",
    re.MULTILINE,
)
_HOST_LINE = re.compile(
    rb'^[ \t]*"?host"?(?:[ \t]*=[ \t]*|[ \t]+)([^\n\0]*)', re.MULTILINE | re.IGNORECASE
)
_PLAIN = re.compile(r"[A-Za-z0-9_.:][A-Za-z0-9_.:-]*")
_WORD = re.compile(r"""#.*|"([^"]*)"?|'([^']*)'?|([^\s"'#][^\s"']*)""")


def block(
    hosts: Sequence[Host], *, identity_file: str | None = None, newline: bytes = b"\n"
) -> bytes:
    """The marked block for `hosts`, a pure function of its arguments: no date, no version.

    A host without a container port gets its `-manage` name only. ConfigError when a value would not be read
    back as it was given.
    """
    lines = _rendered(hosts, identity_file)
    if _read(lines) != (tuple(hosts), identity_file):
        raise ConfigError(
            "these hosts cannot be written to an ssh config as they are", hint="apexgpu doctor"
        )
    return b"".join(line.encode() + newline for line in (BEGIN, _NOTE, *lines, END))


def merge(old: bytes, hosts: Sequence[Host], *, identity_file: str | None = None) -> bytes:
    """`old` with the block for `hosts` at its start (none for no hosts), and any earlier block gone."""
    mine = unmerge(old)
    if not hosts:
        return mine
    written = block(hosts, identity_file=identity_file, newline=_newline(mine))
    # A byte order mark means something (to Windows' ssh) at the very start only.
    cut = len(_BOM) if mine.startswith(_BOM) else 0
    return mine[:cut] + written + mine[cut:]


def unmerge(old: bytes) -> bytes:
    """`old` without our block: the user's own bytes exactly."""
    span = _span(old)
    return old if span is None else old[: span[0]] + old[span[1] :]


def managed(old: bytes) -> tuple[Host, ...]:
    """The hosts that our block in `old` names; () without one. What was edited beyond sense is left out."""
    return _read(_inside(old))[0]


def identity(old: bytes) -> str | None:
    """The IdentityFile that our block in `old` names, if it names one."""
    return _read(_inside(old))[1]


def edited(old: bytes) -> bool:
    """Whether someone changed the inside of our block, or moved it: the next merge undoes that."""
    hosts, identity_file = _read(_inside(old))
    try:
        return _span(old) is not None and merge(old, hosts, identity_file=identity_file) != old
    except ConfigError:
        return True


def damage(old: bytes) -> None:
    """ConfigError with the line numbers when our markers are damaged, doubled or in disorder."""
    _span(old)


def host_names(old: bytes) -> list[str]:
    """The literal names on the user's own Host lines, outside our block, each once, in order."""
    names: dict[str, None] = {}
    for match in _HOST_LINE.finditer(unmerge(old)):
        for word in _words(match[1].decode("utf-8", "surrogateescape")):
            if word and not re.search(r"[*?!]", word):
                names[word] = None
    return list(names)


def diff(old: bytes, new: bytes, name: str) -> str:
    """The change as a unified diff, control characters escaped; what differs and three lines after it."""
    from difflib import unified_diff

    before, after = old.split(b"\n"), new.split(b"\n")
    same = 0
    while same < min(len(before), len(after)) and before[-1 - same] == after[-1 - same]:
        same += 1
    cut = max(0, same - 3)  # difflib is slow on long files, and the block stands at the start
    was, will = ([_shown(line) for line in lines[: len(lines) - cut]] for lines in (before, after))
    return "\n".join(unified_diff(was, will, name, f"{name} (after)", lineterm=""))


def _shown(line: bytes) -> str:
    return escaped(line.decode("utf-8", "backslashreplace").expandtabs())


def escaped(text: str) -> str:
    """`text` with everything that a terminal would obey escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _words(text: str) -> Iterator[str]:
    for match in _WORD.finditer(text):
        if match[0].startswith("#"):
            return
        yield match[1] or match[2] or match[3] or ""


def _newline(mine: bytes) -> bytes:
    return b"\r\n" if mine.count(b"\r\n") * 2 > mine.count(b"\n") else b"\n"


def _span(old: bytes) -> tuple[int, int] | None:
    marks = list(_MARKER.finditer(old))
    if not marks:
        return None
    if [mark[1].decode() for mark in marks] != [BEGIN, END]:
        lines = [old.count(b"\n", 0, mark.start()) + 1 for mark in marks]
        found = ", ".join(
            f"line {line} {'opens' if mark[1].decode() == BEGIN else 'closes'}"
            for line, mark in zip(lines, marks, strict=True)
        )
        raise ConfigError(
            f"the marks of apexgpu's block are damaged: {found}",
            hint="delete the lines '# >>> apexgpu >>>' to '# <<< apexgpu <<<' by hand, "
            "or go back: apexgpu config restore",
        )
    return marks[0].start(), marks[1].end()


def _inside(old: bytes) -> list[str]:
    span = _span(old)
    if span is None:
        return []
    return old[span[0] : span[1]].decode("utf-8", "surrogateescape").splitlines()


def _names(host: Host) -> Iterable[tuple[str, int]]:
    yield host.manage_name, host.manage_port
    if host.port is not None:
        yield host.name, host.port


def _rendered(hosts: Sequence[Host], identity_file: str | None) -> list[str]:
    from sshconf import empty_ssh_config_file

    for text in (text for host in hosts for text in (host.name, host.address, host.user)):
        if not _PLAIN.fullmatch(text):
            raise ConfigError(f"{text!a} cannot stand in an ssh config", hint="apexgpu doctor")
    config = empty_ssh_config_file()
    config.indent = "    "
    # ssh offers all that an agent holds before a file, and a server hangs up after six offers.
    extra = (
        {}
        if identity_file is None
        else {"IdentityFile": _argument(identity_file), "IdentitiesOnly": "yes"}
    )
    try:
        for host in hosts:
            for name, port in _names(host):
                # Port always, 22 too: a `Port` in the user's `Host *` would leak in.
                config.add(name, HostName=host.address, User=host.user, Port=port, **extra)
    except ValueError as error:
        raise ConfigError(f"two hosts with one name: {error}") from None
    config.add("*")
    return [line for line in config.config().split("\n") if line]


def _read(lines: Sequence[str]) -> tuple[tuple[Host, ...], str | None]:
    from sshconf import SshConfigFile

    found: dict[str, dict[str, str]] = {}
    identity_file: str | None = None
    for line in SshConfigFile(lines).lines_:
        if line.key is None or line.host is None:
            continue
        found.setdefault(line.host, {}).setdefault(line.key.lower(), line.value)
        if line.key == "IdentityFile":
            # sshconf takes a `#` anywhere for a comment: the raw line is the truth.
            identity_file = _unargument(line.line.strip().removeprefix("IdentityFile").strip())
    hosts = [_host(name.removesuffix(_MANAGE), found) for name in found if name.endswith(_MANAGE)]
    return tuple(host for host in hosts if host is not None), identity_file


def _host(name: str, found: dict[str, dict[str, str]]) -> Host | None:
    manage, container = found[name + _MANAGE], found.get(name)
    try:
        return Host(
            name,
            manage["hostname"],
            manage["user"],
            manage_port=int(manage["port"]),
            port=None if container is None else int(container["port"]),
        )
    except (KeyError, ValueError):
        return None


def _argument(path: str) -> str:
    """`path` as ssh reads it back: `%` doubled, quoted where a blank or `#` would end it."""
    if not path or not path.isprintable() or "${" in path:
        raise ConfigError(
            f"{path!a} cannot be named in an ssh config", hint="apexgpu login --key PATH"
        )
    text = path.replace("%", "%%")
    if re.search(r"""[\s"'#=\\]""", text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text


def _unargument(text: str) -> str:
    if text.startswith('"') and text.endswith('"') and len(text) > 1:
        text = re.sub(r'\\([\\"])', r"\1", text[1:-1])
    return text.replace("%%", "%")
