"""The settings and their sources: flag, environment, config.toml, last login, default."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from apexgpu.errors import ConfigError, SameCommand
from apexgpu.platforms import hints, owner
from apexgpu.platforms.system import is_windows

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

DEFAULT_IAM_URL = "http://iam.apexlab.org"
DEFAULT_TIMEOUT = 10.0
_LONGEST_TIMEOUT = 3600


class SettingSource(StrEnum):
    """Where the value of a setting comes from."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    LOGIN = "login"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Setting:
    """One value, as text, and its source."""

    value: str
    source: SettingSource


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. `named` has them as text with their sources, for `apexgpu config status`."""

    named: Mapping[str, Setting]

    @property
    def iam_url(self) -> str:
        """The URL of IAM; for a bare host name, https is tried before http."""
        return self.named["iam_url"].value

    @property
    def user(self) -> str | None:
        """The domain account, or None before the first login."""
        return self.named["user"].value or None

    @property
    def ssh_config(self) -> Path:
        """The ssh config that the hosts are merged into."""
        return Path(self.named["ssh_config"].value).expanduser().absolute()

    @property
    def config_dir(self) -> Path:
        """The directory of `config.toml`."""
        return Path(self.named["config_dir"].value)

    @property
    def state_dir(self) -> Path:
        """The directory for everything that apexgpu keeps between two runs."""
        # Absolute, because processes in the background run in another directory.
        return Path(self.named["state_dir"].value).absolute()

    @property
    def timeout(self) -> float:
        """How many seconds a host may take to connect."""
        return float(self.named["timeout"].value)

    @property
    def networks(self) -> "Sequence[IPv4Network | IPv6Network] | None":
        """The networks of the lab's addresses; None means private networks and loopback.

        Raises:
            ConfigError: a network cannot be parsed.
        """
        import ipaddress

        text = self.named["networks"].value
        if not text:
            return None
        try:
            return tuple(ipaddress.ip_network(network.strip()) for network in text.split(","))
        except ValueError as exc:
            message = f'networks in config.toml: {exc} (write for example ["10.0.0.0/8"])'
            raise ConfigError(message, hint="apexgpu config status") from None

    @property
    def language(self) -> str:
        """The language beside English: zh, en (none), or auto for that of the environment."""
        return self.named["language"].value

    @property
    def vpn(self) -> str:
        """How to reach the lab's network from elsewhere, in one line, as the lab has filled it in; maybe empty."""
        return self.named["vpn"].value

    @property
    def administrators(self) -> str:
        """Whom to ask for help: names, addresses, a page; as the lab has filled it in; maybe empty."""
        return self.named["administrators"].value

    @property
    def editor(self) -> str | None:
        """The program that `apexgpu code` starts, None for the first one that is installed."""
        return self.named["editor"].value or None

    @property
    def notify(self) -> bool:
        """Whether the end of work of over a minute makes a desktop notification and a bell."""
        return self.named["notify"].value == "true"

    @property
    def keep_connections(self) -> bool:
        """Whether connections stay open for a few minutes, so that the next command is fast."""
        return self.named["keep_connections"].value == "true"


class ValueKind(StrEnum):
    """The form of a setting's value in config.toml."""

    TEXT = "text"
    SECONDS = "a number of seconds"
    SWITCH = "true or false"
    LIST = "a list, separated by commas"


class _Definition(NamedTuple):
    """A setting that can be in config.toml: its environment variable ("" for none), default, form and meaning.

    `choices` are the only values that it may have, if it has any.
    """

    variable: str
    default: str
    meaning: str
    kind: ValueKind = ValueKind.TEXT
    choices: tuple[str, ...] = ()


# OpenSSH cannot share connections on Windows.
_KEEP_CONNECTIONS = "false" if is_windows() else "true"
_DEFINITIONS = {
    "iam_url": _Definition("APEXGPU_IAM_URL", DEFAULT_IAM_URL, "the address of IAM"),
    "user": _Definition("APEXGPU_USER", "", "your domain account"),
    "ssh_config": _Definition(
        "APEXGPU_SSH_CONFIG", "~/.ssh/config", "the ssh config with the lab's hosts"
    ),
    "timeout": _Definition(
        "APEXGPU_TIMEOUT",
        f"{DEFAULT_TIMEOUT:g}",
        "seconds a host may take to connect",
        ValueKind.SECONDS,
    ),
    "networks": _Definition("", "", "the networks of the lab's hosts", ValueKind.LIST),
    "keep_connections": _Definition(
        "", _KEEP_CONNECTIONS, "keep connections open for the next command", ValueKind.SWITCH
    ),
    "editor": _Definition("", "", "the editor of `apexgpu code`: code, cursor … or its path"),
    "notify": _Definition("", "true", "notify when long work has ended", ValueKind.SWITCH),
    "language": _Definition(
        "",
        "auto",
        "zh adds a Chinese line to errors and questions; auto asks LC_ALL, LC_MESSAGES and LANG",
        choices=("auto", "zh", "en"),
    ),
    "vpn": _Definition("", "", "how to reach the lab's network from elsewhere"),
    "administrators": _Definition("", "", "whom to ask for help"),
}
# These two cannot be in config.toml, because they say where it is, and where the login is kept.
_DIRECTORY_VARIABLES = {
    "config_dir": "APEXGPU_CONFIG_DIR",
    "state_dir": "APEXGPU_STATE_DIR",
}


def load(
    flags: Mapping[str, str], environment: Mapping[str, str], login: Mapping[str, str]
) -> Settings:
    """Return all settings.

    Args:
        flags: the values given on the command line, by setting.
        environment: the environment variables.
        login: the values that the last login left, by setting.

    Raises:
        ConfigError: `config.toml` cannot be read, or a value is invalid.
    """
    named: dict[str, Setting] = {}
    for name in _DIRECTORY_VARIABLES:
        named[name] = _directory(name, flags, environment)
    _check_state_dir(Path(named["state_dir"].value))
    file = _read_file(Path(named["config_dir"].value) / "config.toml")
    for name, definition in _DEFINITIONS.items():
        candidates = (
            (flags.get(name), SettingSource.FLAG),
            (environment.get(definition.variable), SettingSource.ENVIRONMENT),
            (file.get(name), SettingSource.FILE),
            (login.get(name), SettingSource.LOGIN),
        )
        # An empty value counts as not set, as with `APEXGPU_USER= apexgpu status`.
        named[name] = Setting(definition.default, SettingSource.DEFAULT)
        for value, source in candidates:
            if value:
                named[name] = Setting(value, source)
                break
    _check_timeout(named["timeout"])
    is_home_used = named["ssh_config"].value.startswith("~") or SettingSource.DEFAULT in (
        named["config_dir"].source,
        named["state_dir"].source,
    )
    if is_home_used:
        _check_home()
    return Settings(named)


def names_in_file() -> tuple[str, ...]:
    """Return the names of the settings that config.toml can have."""
    return tuple(_DEFINITIONS)


def definition(name: str) -> _Definition:
    """Return the form and the meaning of a setting in config.toml. KeyError if there is none of this name."""
    return _DEFINITIONS[name]


def config_file(flags: Mapping[str, str], environment: Mapping[str, str]) -> Path:
    """Return the path of config.toml, without reading it."""
    return Path(_directory("config_dir", flags, environment).value) / "config.toml"


def read_file(path: Path) -> dict[str, str]:
    """Return the values in a config.toml, as text; {} if there is no file. ConfigError if it cannot be read."""
    return _read_file(path)


def is_chinese(language: str, environment: Mapping[str, str]) -> bool:
    """Whether people get Chinese lines: `language` is the setting, and "auto" leaves it to the environment."""
    if language != "auto":
        return language == "zh"
    for variable in ("LC_ALL", "LC_MESSAGES", "LANG"):
        value = environment.get(variable, "")
        if value:
            return value.lower().startswith("zh")
    return False


def state_directory(flags: Mapping[str, str], environment: Mapping[str, str]) -> Path:
    """Return the state directory alone, without reading any file."""
    return Path(_directory("state_dir", flags, environment).value)


def _directory(name: str, flags: Mapping[str, str], environment: Mapping[str, str]) -> Setting:
    if flags.get(name):
        return Setting(flags[name], SettingSource.FLAG)
    variable = _DIRECTORY_VARIABLES[name]
    if environment.get(variable):
        return Setting(environment[variable], SettingSource.ENVIRONMENT)
    import platformdirs  # only here: a run with both variables set need not load it

    home_directory()  # without one, platformdirs would name a directory called "~"
    if name == "config_dir":
        path = platformdirs.user_config_path("apexgpu", appauthor=False)
    else:
        path = platformdirs.user_state_path("apexgpu", appauthor=False)
    return Setting(str(path), SettingSource.DEFAULT)


def home_directory() -> Path:
    """Return the user's home directory. Raises ConfigError if there is none."""
    given = os.environ.get("HOME")
    if not is_windows() and given is not None and not Path(given).is_absolute():
        raise ConfigError(
            f"HOME is {given!r}, which is not the full path of a directory",
            hint=hints.set_home(),
        )
    try:
        return Path.home()
    except RuntimeError:
        raise ConfigError(
            f"there is no home directory: HOME is not set, and {_my_name()} has no entry in the"
            " password database",
            hint=hints.set_home_to_this_directory(),
        ) from None


def _check_home() -> None:
    """Refuse another user's home (sudo may keep HOME): its files would end up with a wrong owner.

    Also refuse a user without an entry in the password database: ssh does not run for one.
    """
    home = home_directory()
    if not owner.is_in_database():
        raise ConfigError(
            f"{_my_name()} has no entry in the password database, and ssh does not run without one",
            hint=hints.show_account(),
        )
    try:
        uid = home.stat().st_uid
    except OSError:
        return  # the first write will name it
    if not _is_ours(uid):
        raise ConfigError(
            f"HOME is {home}, which belongs to {owner.name_of(uid)}, but this runs as {_my_name()}:"
            f" {owner.name_of(uid)} could not use the files that it makes there",
            hint=SameCommand("run the same command without sudo"),
        )


def _check_state_dir(path: Path) -> None:
    """Refuse a state directory of another user, who could put files there for us to trust."""
    try:
        uid = path.stat().st_uid
    except OSError:
        return  # there is none yet
    if _is_ours(uid):
        return
    hint = hints.look_at(path)
    if owner.effective_user_id() == 0:
        hint = SameCommand("run the same command without sudo")
    raise ConfigError(
        f"{path} belongs to {owner.name_of(uid)}, but this runs as {_my_name()}: APEXGPU_STATE_DIR must"
        " name a directory of your own",
        hint=hint,
    )


def _is_ours(uid: int) -> bool:
    """Whether a file of this user is for us to use. Windows' files have no such numbers."""
    effective = owner.effective_user_id()
    return effective is None or uid in (effective, 0)


def _my_name() -> str:
    return owner.name_of(owner.effective_user_id())


def _read_file(path: Path) -> dict[str, str]:
    """The values in config.toml, as text; {} if there is no file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as exc:
        message = f"{path} cannot be read: {exc.strerror}"
        raise ConfigError(message, hint=hints.look_at(path)) from None
    import tomllib  # most members have no config.toml

    try:
        # Windows' editors may begin a file with a byte order mark.
        table = tomllib.loads(data.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        cause = str(exc)
        if b"\\" in data and ("hex" in cause or "escape" in cause or "\\" in cause):
            cause += "; write a Windows path in single quotes"
        message = f"{path} is not valid TOML: {cause} (correct the line, or move the file away)"
        raise ConfigError(message, hint=hints.move(path, f"{path}.bad")) from None
    values = {}
    for name, value in table.items():
        if isinstance(value, str | int | float | bool | list):
            values[name] = _as_text(value)
    return values


def _as_text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _check_timeout(setting: Setting) -> None:
    try:
        is_valid = 0 < float(setting.value) <= _LONGEST_TIMEOUT
    except ValueError:
        is_valid = False
    if not is_valid:
        message = (
            f"timeout {setting.value!r} (from {setting.source}) is not a number of seconds "
            f"up to {_LONGEST_TIMEOUT}"
        )
        raise ConfigError(message, hint="apexgpu status --timeout 10")
