"""Your settings in config.toml: show one, change one, edit the file.

    from apexgpu import preferences
    from apexgpu.session import Session

    preferences.change(Session(), "timeout", "20")
    print(preferences.show(Session(), "timeout").value)

A change keeps every other line of the file, comments too. What is written is read again before it
replaces the file, so that a file that worked before works afterwards.
"""

import ipaddress
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from apexgpu import files
from apexgpu import settings as all_settings
from apexgpu.errors import ConfigError, DeclinedError, UsageError
from apexgpu.platforms.system import is_windows
from apexgpu.process import missing, which
from apexgpu.results import JsonObject, Result
from apexgpu.session import Session
from apexgpu.settings import SettingSource, ValueKind

LOCK = "settings.lock"
"""Its name in the state directory: config.toml is changed by one process at a time."""

_LONGEST_TIMEOUT = 3600
_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
_NEW_FILE = "# Settings of apexgpu. What each one means: apexgpu config status\n"


@dataclass(frozen=True)
class ShownSetting(Result):
    """What `show` and `change` return: a setting as it applies now, and its source.

    `path` is the file that was changed, None if nothing had to be.
    """

    name: str
    value: str
    source: SettingSource
    path: Path | None = None

    def to_json(self) -> JsonObject:
        """See Result."""
        return {
            "ok": True,
            "name": self.name,
            "value": self.value or None,
            "source": self.source,
            "changed": self.path is not None,
        }


@dataclass(frozen=True)
class EditedSettings(Result):
    """What `edit` returns: the file, and whether the user has changed it."""

    path: Path
    changed: bool

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "path": str(self.path), "changed": self.changed}


def show(session: Session, name: str) -> ShownSetting:
    """Return a setting with its source. UsageError if there is no setting `name`."""
    named = session.settings.named
    if name not in named:
        raise _no_such_setting(name, tuple(named))
    return ShownSetting(name, named[name].value, named[name].source)


def change(session: Session, name: str, value: str) -> ShownSetting:
    """Write a setting into config.toml; an empty `value` removes it, so that its default applies.

    Raises:
        UsageError: there is no setting `name` that the file can have, or `value` is invalid.
        ConfigError: the file cannot be read or written, or has another form than one line for this
            setting.
    """
    if name not in all_settings.names_in_file():
        raise _no_such_setting(name, all_settings.names_in_file())
    path = all_settings.config_file(session.flags, session.environment)
    line = f"{name} = {_toml(name, value)}\n" if value else ""
    lock = all_settings.state_directory(session.flags, session.environment) / LOCK
    with files.locked(lock, what="the settings"):
        written = _change_file(path, name, line)
    session = Session(environment=session.environment, flags=session.flags)
    shown = show(session, name)
    return ShownSetting(name, shown.value, shown.source, written)


def edit(session: Session) -> EditedSettings:
    """Open config.toml in the user's editor, and check the file afterwards.

    Raises:
        DeclinedError: there is no terminal for the editor.
        ConfigError: the edited file does not work. It stays as the user has left it.
    """
    path = all_settings.config_file(session.flags, session.environment)
    if not session.reporter.can_ask:
        message = "an editor needs a terminal, and there is none"
        raise DeclinedError(message, hint="apexgpu config status", code="no_terminal")
    if not path.exists():
        files.private_directory(path.parent)
        files.replace_atomically(path, _template().encode())
    before = path.read_bytes()
    editor = _editor(session)
    if which(editor[0]) is None:
        raise missing(editor[0])
    session.runner.attach([*editor, str(path)])
    all_settings.load(session.flags, session.environment, session.account.as_settings())
    return EditedSettings(path, path.read_bytes() != before)


def _editor(session: Session) -> list[str]:
    """The command of the user's editor: VISUAL, EDITOR, or the simplest one of the system."""
    for variable in ("VISUAL", "EDITOR"):
        command = session.environment.get(variable, "")
        if command.strip():
            return shlex.split(command, posix=not is_windows())
    if is_windows():
        return ["notepad"]
    for program in ("nano", "vi"):
        if which(program) is not None:
            return [program]
    return ["vi"]


def _template() -> str:
    """A new config.toml: every setting with its meaning and its default, as comments."""
    lines = [_NEW_FILE]
    for name in all_settings.names_in_file():
        definition = all_settings.definition(name)
        default = definition.default
        example = _toml(name, default) if default else '""'
        lines.append(f"\n# {definition.meaning}\n# {name} = {example}\n")
    return "".join(lines)


def _toml(name: str, value: str) -> str:
    """A value as TOML. UsageError if the setting cannot have it."""
    definition = all_settings.definition(name)
    if definition.kind is ValueKind.SECONDS:
        return _number(name, value)
    if definition.kind is ValueKind.SWITCH:
        word = value.strip().lower()
        if word not in _TRUE | _FALSE:
            raise UsageError(
                f"{name} is true or false, not {value!r}", hint=f"apexgpu config set {name} true"
            )
        return "true" if word in _TRUE else "false"
    if definition.kind is ValueKind.LIST:
        parts = [part.strip() for part in value.strip("[]").split(",")]
        parts = [part.strip("\"'") for part in parts if part]
        for part in parts:
            _check_network(name, part)
        return json.dumps(parts, ensure_ascii=False)
    if definition.choices and value not in definition.choices:
        choices = ", ".join(definition.choices)
        raise UsageError(
            f"{name} is one of {choices}, not {value!r}",
            hint=f"apexgpu config set {name} {definition.choices[0]}",
        )
    # A JSON string is a TOML string too, but for DEL, which TOML does not allow as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _number(name: str, value: str) -> str:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number <= _LONGEST_TIMEOUT:
        raise UsageError(
            f"{name} is a number of seconds up to {_LONGEST_TIMEOUT}, not {value!r}",
            hint=f"apexgpu config set {name} 20",
        )
    return f"{number:g}"


def _check_network(name: str, text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError as exc:
        raise UsageError(
            f"{name}: {exc}", hint=f"apexgpu config set {name} 10.0.0.0/8,192.168.0.0/16"
        ) from None


def _change_file(path: Path, name: str, line: str) -> Path | None:
    """Put the line of a setting into the file; its path if that changed anything."""
    before = all_settings.read_file(path)  # raises for a file that does not work as it is
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    new = _with_line(old, name, line)
    if new == old:
        return None
    _write(path, new, name, before)
    return path


def _with_line(text: str, name: str, line: str) -> str:
    """The file with this line for the setting; without one for an empty `line`.

    A new line goes before the first table, because what follows `[table]` belongs to it.
    """
    pattern = re.compile(rf"^[ \t]*{re.escape(name)}[ \t]*=.*(?:\n|\Z)", re.MULTILINE)
    table = re.search(r"^[ \t]*\[", text, re.MULTILINE)
    end = table.start() if table else len(text)
    top, rest = text[:end], text[end:]
    if pattern.search(top):
        return pattern.sub(lambda _match: line, top, count=1) + rest
    if not line:
        return text
    if not top.strip():
        return f"{_NEW_FILE}{line}{top}{rest}"
    # After the last line of the top; the blank lines before a table stay there.
    content = top.rstrip("\n")
    blank_lines = top[len(content) + 1 :]
    return f"{content}\n{line}{blank_lines}{rest}"


def _write(path: Path, text: str, name: str, before: dict[str, str]) -> None:
    """Replace config.toml, once it has been read as what was meant: no other setting has changed."""
    files.private_directory(path.parent)
    refusal = ConfigError(
        f"{name} is not on one line of its own in {path}, so it cannot be changed by itself",
        hint="apexgpu config edit",
    )
    with files.written_beside(path, text.encode(), mode=0o600) as candidate:
        try:
            after = all_settings.read_file(candidate)
        except ConfigError:
            raise refusal from None
        others = {key: value for key, value in after.items() if key != name}
        if others != {key: value for key, value in before.items() if key != name}:
            raise refusal
    files.replace_atomically(path, text.encode())


def _no_such_setting(name: str, names: tuple[str, ...]) -> UsageError:
    import difflib

    near = difflib.get_close_matches(name.replace("-", "_"), names, n=3, cutoff=0.5)
    message = f"there is no setting {name}"
    if near:
        return UsageError(
            f"{message}; did you mean {near[0]}?", hint=f"apexgpu config get {near[0]}"
        )
    return UsageError(message, hint="apexgpu config status")
