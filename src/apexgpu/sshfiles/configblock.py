"""The block that apexgpu owns in an ssh config: render, merge, remove, read back. Pure.

Everything here works on bytes, because a config may use any encoding and any line ends.

The block is at the very start of the file (after a byte order mark, if there is one): ssh uses
the first value that it reads, so no setting of the user's can override the block. A bare `Host *`
closes the block, so that the user's global lines and Includes apply to every host again, as before.
No other byte changes, and `unmerge` restores the user's bytes exactly.
"""

import re
from collections.abc import Iterator, Sequence

from apexgpu.errors import ConfigError
from apexgpu.models import Host

BEGIN = "# >>> apexgpu >>>"
END = "# <<< apexgpu <<<"
_NOTE = (
    "# apexgpu owns the lines between these two marks and undoes edits here; yours go below them."
)

_BOM = b"\xef\xbb\xbf"
_MANAGE = "-manage"
# Blanks around a marker are accepted: an editor that indents or trims must not orphan a block.
_MARKER = re.compile(
    rb"(?:^|(?<=\A\xef\xbb\xbf))[ \t]*(# >>> apexgpu >>>|# <<< apexgpu <<<)"
    rb"[ \t]*\r?(?:\n|\Z)",
    re.MULTILINE,
)
_HOST_LINE = re.compile(
    rb'^[ \t]*"?host"?(?:[ \t]*=[ \t]*|[ \t]+)([^\n\0]*)', re.MULTILINE | re.IGNORECASE
)
_SECTION = re.compile(r"^[ \t]*\"?(?:host|match)\b", re.MULTILINE | re.IGNORECASE)
# What a HostName, User or Host line may contain without quotes or a second meaning.
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_.:][A-Za-z0-9_.:-]*")
_WORD = re.compile(r"""#.*|"([^"]*)"?|'([^']*)'?|([^\s"'#][^\s"']*)""")
_NEEDS_QUOTES = re.compile(r"""[\s"'#=\\]""")
_DIFF_CONTEXT = 3


def render_block(
    hosts: Sequence[Host], *, identity_file: str | None = None, newline: bytes = b"\n"
) -> bytes:
    """Return the marked block for `hosts`.

    The block is a pure function of the arguments (no date, no version), so that a second merge
    changes nothing. A host without a container port gets only its `-manage` name.

    Raises:
        ConfigError: a value cannot be written so that it reads back unchanged.
    """
    lines = _render_lines(hosts, identity_file)
    if _parse_lines(lines) != (tuple(hosts), identity_file):
        raise ConfigError(
            "these hosts cannot be written to an ssh config as they are", hint="apexgpu doctor"
        )
    return b"".join(line.encode() + newline for line in (BEGIN, _NOTE, *lines, END))


def merge(old: bytes, hosts: Sequence[Host], *, identity_file: str | None = None) -> bytes:
    """Return the ssh config `old` with the block for `hosts` at its start.

    An earlier block is replaced; without hosts it is removed. `identity_file` is the private key
    that the block names for every host. Every other byte of `old` stays as it is.

    Example:
        >>> merge(b"Host mine\\n", [Host("gpu7", "10.77.0.1", "alice", 22001)])

    Raises:
        ConfigError: the markers in `old` are damaged, or a host cannot be written.
    """
    user_bytes = unmerge(old)
    if not hosts:
        return user_bytes
    block = render_block(hosts, identity_file=identity_file, newline=_newline_of(user_bytes))
    # Windows' ssh understands a byte order mark only at the very start of the file.
    start = len(_BOM) if user_bytes.startswith(_BOM) else 0
    return user_bytes[:start] + block + user_bytes[start:]


def unmerge(old: bytes) -> bytes:
    """Return `old` without our block: exactly the user's own bytes."""
    span = _find_block(old)
    if span is None:
        return old
    start, end = span
    return old[:start] + old[end:]


def managed_hosts(old: bytes) -> tuple[Host, ...]:
    """Return the hosts that our block in `old` names, without those that were edited too much."""
    hosts, _identity_file = _parse_lines(_block_lines(old))
    return hosts


def managed_identity(old: bytes) -> str | None:
    """Return the IdentityFile that our block in `old` names, or None."""
    _hosts, identity_file = _parse_lines(_block_lines(old))
    return identity_file


def is_edited(old: bytes) -> bool:
    """Return whether somebody changed or moved our block; the next merge undoes that."""
    if _find_block(old) is None:
        return False
    hosts, identity_file = _parse_lines(_block_lines(old))
    try:
        return merge(old, hosts, identity_file=identity_file) != old
    except ConfigError:
        return True


def check_markers(old: bytes) -> None:
    """Raise ConfigError with the line numbers if our markers are damaged or out of order."""
    _find_block(old)


def user_host_names(old: bytes) -> list[str]:
    """Return the literal names on the Host lines outside our block, each once, in file order."""
    names: dict[str, None] = {}
    for match in _HOST_LINE.finditer(unmerge(old)):
        for word in _split_words(match[1].decode("utf-8", "surrogateescape")):
            is_pattern = re.search(r"[*?!]", word)
            if word and not is_pattern:
                names[word] = None
    return list(names)


def names_with_own_keys(old: bytes) -> list[str]:
    """Return a name for each Host or Match section outside our block that contains an IdentityFile.

    A pattern becomes a name that it matches. What the section means for that name, ssh has to say.
    """
    text = unmerge(old).decode("utf-8", "surrogateescape")
    starts = [match.start() for match in _SECTION.finditer(text)]
    names: dict[str, None] = {}
    for number, start in enumerate(starts):
        end = starts[number + 1] if number + 1 < len(starts) else len(text)
        section = text[start:end]
        if "identityfile" not in section.lower():
            continue
        words = re.split(r"[\s,=\"]+", section.partition("\n")[0].strip(' \t"'))
        for word in words[1:]:  # the first is the keyword
            name = re.sub(r"[*?]", "x", word)
            if not word.startswith("!") and word.strip("*?") and _PLAIN_VALUE.fullmatch(name):
                names[name] = None
    return list(names)


def diff(old: bytes, new: bytes, name: str) -> str:
    """Return the change of the file `name` as a unified diff, with control characters escaped."""
    from difflib import unified_diff

    old_lines = old.split(b"\n")
    new_lines = new.split(b"\n")
    # difflib is slow on long files, and our block is at the start: cut off the equal end.
    equal = 0
    for old_line, new_line in zip(reversed(old_lines), reversed(new_lines), strict=False):
        if old_line != new_line:
            break
        equal += 1
    cut = max(0, equal - _DIFF_CONTEXT)
    shown_old = [_printable(line) for line in old_lines[: len(old_lines) - cut]]
    shown_new = [_printable(line) for line in new_lines[: len(new_lines) - cut]]
    lines = unified_diff(shown_old, shown_new, name, f"{name} (after)", lineterm="")
    return "\n".join(lines)


def escape(text: str) -> str:
    """Return `text` with every character escaped that a terminal would act on."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _printable(line: bytes) -> str:
    return escape(line.decode("utf-8", "backslashreplace").expandtabs())


def _split_words(text: str) -> Iterator[str]:
    """Split the arguments of a config line as ssh does: quotes group, `#` starts a comment."""
    for match in _WORD.finditer(text):
        if match[0].startswith("#"):
            return
        yield match[1] or match[2] or match[3] or ""


def _newline_of(data: bytes) -> bytes:
    """The line end that most lines of `data` have."""
    windows_lines = data.count(b"\r\n")
    return b"\r\n" if windows_lines * 2 > data.count(b"\n") else b"\n"


def _find_block(old: bytes) -> tuple[int, int] | None:
    """The offsets of our block's start and end, or None; ConfigError for damaged markers."""
    markers = list(_MARKER.finditer(old))
    if not markers:
        return None
    if [marker[1].decode() for marker in markers] != [BEGIN, END]:
        places = []
        for marker in markers:
            line = old.count(b"\n", 0, marker.start()) + 1
            kind = "opens" if marker[1].decode() == BEGIN else "closes"
            places.append(f"line {line} {kind}")
        raise ConfigError(
            f"the marks of apexgpu's block are damaged: {', '.join(places)} "
            f"(delete the lines '{BEGIN}' to '{END}' by hand, or restore a copy)",
            hint="apexgpu config restore",
        )
    return markers[0].start(), markers[1].end()


def _block_lines(old: bytes) -> list[str]:
    span = _find_block(old)
    if span is None:
        return []
    start, end = span
    return old[start:end].decode("utf-8", "surrogateescape").splitlines()


def _render_lines(hosts: Sequence[Host], identity_file: str | None) -> list[str]:
    """The lines between the markers, without line ends."""
    from sshconf import empty_ssh_config_file

    for host in hosts:
        for value in (host.name, host.address, host.user):
            if not _PLAIN_VALUE.fullmatch(value):
                raise ConfigError(
                    f"{value!a} contains characters that an ssh config cannot hold",
                    hint="apexgpu doctor",
                )
    options = {}
    if identity_file is not None:
        # IdentitiesOnly, because ssh offers all keys of the agent first, and a server disconnects
        # after six refused keys: this one might never be offered.
        options = {"IdentityFile": _quote(identity_file), "IdentitiesOnly": "yes"}
    config = empty_ssh_config_file()
    config.indent = "    "
    try:
        for host in hosts:
            for name, port in _names_and_ports(host):
                # Port is written even if it is 22, or a `Port` in the user's `Host *` would apply.
                config.add(name, HostName=host.address, User=host.user, Port=port, **options)
    except ValueError as error:
        raise ConfigError(f"two hosts have the same name: {error}") from None
    config.add("*")
    return [line for line in config.config().split("\n") if line]


def _names_and_ports(host: Host) -> Iterator[tuple[str, int]]:
    yield host.manage_name, host.manage_port
    if host.port is not None:
        yield host.name, host.port


def _parse_lines(lines: Sequence[str]) -> tuple[tuple[Host, ...], str | None]:
    """Read a block back: the hosts and the IdentityFile that `_render_lines` was given."""
    from sshconf import SshConfigFile

    options: dict[str, dict[str, str]] = {}
    identity_file: str | None = None
    for line in SshConfigFile(lines).lines_:
        if line.key is None or line.host is None:
            continue
        options.setdefault(line.host, {}).setdefault(line.key.lower(), line.value)
        if line.key == "IdentityFile":
            # sshconf takes any `#` for the start of a comment, so read the path from the raw line.
            argument = line.line.strip().removeprefix("IdentityFile").strip()
            identity_file = _unquote(argument)
    hosts = []
    for ssh_name in options:
        if ssh_name.endswith(_MANAGE):
            host = _parse_host(ssh_name.removesuffix(_MANAGE), options)
            if host is not None:
                hosts.append(host)
    return tuple(hosts), identity_file


def _parse_host(name: str, options: dict[str, dict[str, str]]) -> Host | None:
    manage = options[name + _MANAGE]
    container = options.get(name)
    try:
        port = None if container is None else int(container["port"])
        return Host(
            name,
            manage["hostname"],
            manage["user"],
            manage_port=int(manage["port"]),
            port=port,
        )
    except (KeyError, ValueError):
        return None


def _quote(path: str) -> str:
    """Write `path` so that ssh reads it back unchanged: `%` doubled, quoted if needed."""
    if not path or not path.isprintable() or "${" in path:
        raise ConfigError(f"{path!a} cannot be named in an ssh config", hint="apexgpu login --help")
    text = path.replace("%", "%%")
    if _NEEDS_QUOTES.search(text):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return text


def _unquote(text: str) -> str:
    if text.startswith('"') and text.endswith('"') and len(text) > 1:
        text = re.sub(r'\\([\\"])', r"\1", text[1:-1])
    return text.replace("%%", "%")
