"""The settings, each with where it came from: flag > environment > file > what login left > default."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apexgpu.errors import ConfigError

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

DEFAULT_IAM_URL = "http://iam.apexlab.org"
DEFAULT_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Setting:
    """One value and its source: `flag`, `environment`, `file`, `login` or `default`."""

    value: str
    source: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. `named` keeps the sources for `apexgpu config status`."""

    named: Mapping[str, Setting]

    @property
    def iam_url(self) -> str:
        """Where IAM answers; a bare host name means https first, then http."""
        return self.named["iam_url"].value

    @property
    def user(self) -> str | None:
        """The domain account, None until it is known."""
        return self.named["user"].value or None

    @property
    def ssh_config(self) -> Path:
        """The ssh client configuration that the hosts are merged into."""
        return Path(self.named["ssh_config"].value).expanduser()

    @property
    def config_dir(self) -> Path:
        """The directory of `config.toml`."""
        return Path(self.named["config_dir"].value)

    @property
    def state_dir(self) -> Path:
        """The directory of everything apexgpu remembers."""
        return Path(self.named["state_dir"].value)

    @property
    def timeout(self) -> float:
        """Seconds a host may take to connect."""
        return float(self.named["timeout"].value)

    @property
    def networks(self) -> "Sequence[IPv4Network | IPv6Network] | None":
        """The networks that the lab's addresses may be in; None for private ones and loopback."""
        import ipaddress

        text = self.named["networks"].value
        try:
            return (
                tuple(ipaddress.ip_network(one.strip()) for one in text.split(","))
                if text
                else None
            )
        except ValueError as exc:
            message = f"networks in config.toml: {exc}"
            raise ConfigError(message, hint='networks = ["10.0.0.0/8"]') from None

    @property
    def keep_connections(self) -> bool:
        """Whether connections stay open for some minutes so that the next command is quick."""
        return self.named["keep_connections"].value == "true"

    @property
    def monitor_url(self) -> str | None:
        """The lab's own page about its GPUs, None where there is none."""
        return self.named["monitor_url"].value or None


_VARIABLES = {
    "iam_url": "APEXGPU_IAM_URL",
    "user": "APEXGPU_USER",
    "ssh_config": "APEXGPU_SSH_CONFIG",
    "config_dir": "APEXGPU_CONFIG_DIR",
    "state_dir": "APEXGPU_STATE_DIR",
    "timeout": "APEXGPU_TIMEOUT",
}


def load(
    flags: Mapping[str, str], environment: Mapping[str, str], remembered: Mapping[str, str]
) -> Settings:
    """Settle every setting.

    `remembered` is what a login left behind. ConfigError when `config.toml` cannot be read, or a value
    makes no sense.
    """
    named: dict[str, Setting] = {}
    for directory in ("config_dir", "state_dir"):
        named[directory] = _first(directory, flags, environment, {}, {}) or _default_directory(
            directory
        )
    file = _read_file(Path(named["config_dir"].value) / "config.toml")
    defaults = {
        "iam_url": DEFAULT_IAM_URL,
        "user": "",
        "ssh_config": "~/.ssh/config",
        "timeout": f"{DEFAULT_TIMEOUT:g}",
        "networks": "",
        "keep_connections": "true" if os.name == "posix" else "false",
        "monitor_url": "",
    }
    for name, default in defaults.items():
        named[name] = _first(name, flags, environment, file, remembered) or Setting(
            default, "default"
        )
    _check_timeout(named["timeout"])
    return Settings(named)


def state_directory(flags: Mapping[str, str], environment: Mapping[str, str]) -> Path:
    """The state directory alone, without reading any file."""
    found = _first("state_dir", flags, environment, {}, {}) or _default_directory("state_dir")
    return Path(found.value)


def _first(
    name: str,
    flags: Mapping[str, str],
    environment: Mapping[str, str],
    file: Mapping[str, str],
    remembered: Mapping[str, str],
) -> Setting | None:
    variable = _VARIABLES.get(name, "")
    for source, values, key in (
        ("flag", flags, name),
        ("environment", environment, variable),
        ("file", file, name),
        ("login", remembered, name),
    ):
        if values.get(key):
            return Setting(values[key], source)
    return None


def _default_directory(name: str) -> Setting:
    import platformdirs

    find = platformdirs.user_config_path if name == "config_dir" else platformdirs.user_state_path
    return Setting(str(find("apexgpu", appauthor=False)), "default")


def _read_file(path: Path) -> dict[str, str]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as exc:
        message = f"{path} cannot be read: {exc.strerror}"
        raise ConfigError(message, hint=f"ls -l {path}") from None
    import tomllib

    try:
        table = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        message = f"{path} is not valid TOML: {exc}"
        raise ConfigError(
            message, hint=f"correct the line, or start afresh: mv {path} {path}.bad"
        ) from None
    return {
        key: _text(value)
        for key, value in table.items()
        if isinstance(value, str | int | float | bool | list)
    }


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(one) for one in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_timeout(setting: Setting) -> None:
    try:
        good = 0 < float(setting.value) <= 3600
    except ValueError:
        good = False
    if not good:
        message = f"timeout {setting.value!r} (from {setting.source}) is not a number of seconds up to 3600"
        raise ConfigError(message, hint="--timeout 10")
