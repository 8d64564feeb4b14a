"""Graphical editors of this laptop on the files and programs of a container: VS Code, Cursor and their relatives.

    from apexgpu import editors
    from apexgpu.session import Session

    result = editors.open_directory(Session(), "gpu7", "project")
    print(result.outcomes[0].value.link)

Such an editor connects over ssh by itself (Remote-SSH), and installs a server in the container. What this server needs
is checked before a window opens, because the window itself shows only that something failed.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import MappingProxyType
from urllib.parse import quote

from apexgpu import containers, manyhosts, process
from apexgpu.errors import ApexError, MissingProgramError, RefusedError
from apexgpu.manageshell import containershell
from apexgpu.models import Host
from apexgpu.remote import editorfacts
from apexgpu.remote.editorfacts import EditorFacts, Version, describe_version
from apexgpu.results import HostResults, JsonObject
from apexgpu.session import Session
from apexgpu.ssh.transport import Limits
from apexgpu.text import size

NEEDED_GLIBC: Version = (2, 28)
"""What the server of VS Code needs since FIRST_NEW."""

OLD_GLIBC: Version = (2, 17)
"""What the servers of the versions before FIRST_NEW need."""

FIRST_NEW: Version = (1, 99)
"""The first version of VS Code without a server for systems with an older glibc; the last one with it is 1.98.

https://github.com/microsoft/vscode/issues/245659
"""

LEAST_SPACE = 500 << 20
"""Bytes that a server, its cache and a few extensions take."""

_REMOTE_SSH = "ms-vscode-remote.remote-ssh"


class EditorUnsupportedError(RefusedError):
    """The editor's server does not run in the container."""

    code = "editor_unsupported"


@dataclass(frozen=True, slots=True)
class Editor:
    """An editor of the VS Code family.

    `scheme` is that of its links, `servers` where its servers are installed in the home directory of a container, and
    `url` what they are downloaded from. `has_own_versions`: its version numbers are not those of VS Code.
    """

    name: str
    scheme: str
    servers: str
    url: str
    has_own_versions: bool = False


_VSCODE_URL = "https://update.code.visualstudio.com"
EDITORS: Mapping[str, Editor] = MappingProxyType(
    {
        "code": Editor("VS Code", "vscode", ".vscode-server", _VSCODE_URL),
        "code-insiders": Editor(
            "VS Code Insiders", "vscode-insiders", ".vscode-server-insiders", _VSCODE_URL
        ),
        "cursor": Editor(
            "Cursor", "cursor", ".cursor-server", "https://downloads.cursor.com", True
        ),
        "codium": Editor("VSCodium", "vscodium", ".vscodium-server", "https://github.com"),
        "windsurf": Editor(
            "Windsurf",
            "windsurf",
            ".windsurf-server",
            "https://windsurf-stable.codeiumdata.com",
            True,
        ),
    }
)
"""The editors by the names of their programs."""


@dataclass(frozen=True)
class OpenedDirectory:
    """A directory of a container in an editor. `is_opened` is False where the editor's program was not found."""

    editor: str
    directory: str
    link: str
    is_opened: bool

    def to_json(self) -> JsonObject:
        """Its keys in the host's row."""
        return {
            "editor": self.editor,
            "directory": self.directory,
            "link": self.link,
            "opened": self.is_opened,
        }


class OpenedDirectories(HostResults[OpenedDirectory]):
    """What `open_directory` returns: one row."""


def open_directory(
    session: Session, name: str, directory: str | None = None, *, force: bool = False
) -> OpenedDirectories:
    """Open a directory of the container on the host `name` in the editor of this laptop.

    The editor is the setting `editor`, or VS Code, or Cursor. `directory` is relative to the home directory there;
    without one, it is the home directory. A stopped container is started if the user agrees.

    Raises EditorUnsupportedError (the server would not run there; not with `force`), RefusedError (no such directory,
    no space), MissingProgramError, and the errors of a connection.
    """
    host = containers.one_host(session, name)
    program, path = _choose_program(session)
    editor = EDITORS[_kind(program)]
    containers.ensure_running(session, host)
    facts = _look(session, host, editor, directory or "")
    if facts.directory is None:
        message = f"there is no directory {directory} in the container on {host.name}"
        raise RefusedError(message, hint=f"apexgpu ssh {host.name} -- ls", code="no_directory")
    version = _version(session, path)
    if not force:
        _check_glibc(host, editor, facts, version)
        _check_space(host, editor, facts)
    _report_notes(session, host, editor, facts)
    authority = _authority(host)
    link = f"{editor.scheme}://vscode-remote/{authority}{quote(facts.directory)}"
    if path is not None:
        _start(session, path, editor, authority, facts.directory)
    opened = OpenedDirectory(editor.name, facts.directory, link, path is not None)
    return OpenedDirectories(manyhosts.run(session, [host], lambda _host: opened))


def _choose_program(session: Session) -> tuple[str, str | None]:
    """The program of the editor, and its path; None if it is not on PATH."""
    chosen = session.settings.editor
    if chosen:
        if _kind(chosen) not in EDITORS:
            message = (
                f"the setting editor is {chosen}, which opens no containers; it can be "
                f"{', '.join(EDITORS)}, or the path of one of them"
            )
            raise MissingProgramError(message, hint="apexgpu config set editor code")
        return chosen, process.which(chosen)
    for name in EDITORS:
        path = process.which(name)
        if path is not None:
            return name, path
    return "code", None


def _kind(program: str) -> str:
    """The key in EDITORS of a program or its path: `C:\\\\…\\\\Code.cmd` is code."""
    name = PurePath(program.replace("\\", "/")).name.lower()
    for ending in (".cmd", ".exe", ".bat"):
        name = name.removesuffix(ending)
    return name


def _look(session: Session, host: Host, editor: Editor, directory: str) -> EditorFacts:
    command = editorfacts.command(directory, editor.servers, editor.url)

    def look(host: Host) -> EditorFacts:
        reply = containershell.query(session.transport, host, command, limits=Limits(total=30))
        return editorfacts.parse(reply.out)

    with session.reporter.working(f"checking what {editor.name} needs on {host.name}"):
        (outcome,) = manyhosts.run(session, [host], look)
    if outcome.error is not None:
        raise outcome.error
    assert outcome.value is not None  # noqa: S101 - an outcome has one of them
    return outcome.value


def _version(session: Session, path: str | None) -> Version | None:
    """The version of the editor on this laptop; None if it is not known."""
    if path is None:
        return None
    try:
        completed = session.runner.run([path, "--version"], timeout=20)
    except ApexError:
        return None
    return editorfacts.parse_version(completed.text)


def _check_glibc(host: Host, editor: Editor, facts: EditorFacts, version: Version | None) -> None:
    if facts.has_own_glibc or facts.glibc is None or facts.glibc >= NEEDED_GLIBC:
        return
    is_old = version is not None and version < FIRST_NEW and not editor.has_own_versions
    if is_old and facts.glibc >= OLD_GLIBC:
        return
    has = f"glibc {describe_version(facts.glibc)}"
    if facts.system:
        has += f" ({facts.system})"
    needs = describe_version(NEEDED_GLIBC)
    message = (
        f"{editor.name} does not run in the container on {host.name}: it has {has}, and the servers of VS "
        f"Code {describe_version(FIRST_NEW)} and newer, and of editors made from it, need {needs}; VS Code "
        "1.98 is the last version that works there (--force opens the window anyway; the command below mounts "
        "the files instead, for any editor)"
    )
    raise EditorUnsupportedError(message, hint=f"apexgpu mount {host.name}")


def _check_space(host: Host, editor: Editor, facts: EditorFacts) -> None:
    if facts.has_server or facts.free is None or facts.free >= LEAST_SPACE:
        return
    message = (
        f"{size(facts.free)} are free for {facts.home} on {host.name}, and the server of {editor.name} "
        f"takes about {size(LEAST_SPACE)}"
    )
    hint = f"apexgpu ssh {host.name} -- du -xhd 1 {facts.home}"
    raise RefusedError(message, hint=hint, code="no_space")


def _report_notes(session: Session, host: Host, editor: Editor, facts: EditorFacts) -> None:
    """Report what the window will need time or a setting for."""
    if facts.has_internet is False:
        session.reporter.note(
            f"the container on {host.name} has no internet access to {editor.url}: {editor.name} downloads its "
            'server on this laptop and copies it ("remote.SSH.localServerDownload": "always")'
        )
    config = session.settings.ssh_config
    if config.absolute() != Path("~/.ssh/config").expanduser():
        session.reporter.note(
            f"{editor.name} reads ~/.ssh/config, and the lab's hosts are in {config}: set "
            f'"remote.SSH.configFile": "{config}" in its settings'
        )


def _authority(host: Host) -> str:
    """The host in a link. The editor makes plain names lower-case, so others are written as JSON in hex."""
    name = host.name
    if name != name.lower():
        name = json.dumps({"hostName": host.name}, separators=(",", ":")).encode().hex()
    return f"ssh-remote+{name}"


def _start(session: Session, path: str, editor: Editor, authority: str, directory: str) -> None:
    """Open the window. The program ends at once."""
    if editor.scheme.startswith("vscode"):
        _check_extension(session, path, editor)
    uri = f"vscode-remote://{authority}{quote(directory)}"
    completed = session.runner.run(
        [path, "--folder-uri", uri], timeout=60, env=process.own_language()
    )
    if completed.code != 0:
        message = f"{path} failed: {completed.last_error_line}"
        raise ApexError(message, hint=f"{shlex.quote(path)} --version", code="editor_failed")


def _check_extension(session: Session, path: str, editor: Editor) -> None:
    """VS Code without its extension Remote-SSH would open an empty window. VSCodium has another one."""
    if editor.scheme not in {"vscode", "vscode-insiders"}:
        return
    completed = session.runner.run([path, "--list-extensions"], timeout=30)
    installed: Sequence[str] = completed.text.lower().split()
    if completed.code == 0 and _REMOTE_SSH not in installed:
        message = f"{editor.name} has no extension Remote-SSH on this laptop"
        hint = f"{shlex.quote(path)} --install-extension {_REMOTE_SSH}"
        raise ApexError(message, hint=hint, code="no_extension")
