"""The path that an IdentityFile stands for: the one place that replaces its tokens (TOKENS in ssh_config(5)).

`ssh -G` prints IdentityFile as it is written in the config.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from apexgpu.process import Runner
from apexgpu.sshfiles.sshhome import home

_TOKEN = re.compile(r"(%.?)")
_TIME_LIMIT = 30  # seconds for `ssh -G`; it is local, but a `Match exec` may run any program


def has_tokens(value: str) -> bool:
    """Whether the value may be another file for another host."""
    return "%" in value or "${" in value


def expand(value: str, options: Mapping[str, Sequence[str]], name: str) -> Path | None:
    """Return the path for the host `name`, whose other `options` ssh has resolved; None if only ssh knows it."""
    if "${" in value or (value.startswith("~") and not value.startswith("~/")):
        return None
    known = {"%%": "%", "%d": home(), "%n": name}
    for token, option in (("%h", "hostname"), ("%p", "port"), ("%r", "user")):
        if option in options:
            known[token] = options[option][0]
    parts = _TOKEN.split(value)
    for number, part in enumerate(parts):
        if part.startswith("%"):
            if part not in known:
                return None
            parts[number] = known[part]
    path = "".join(parts)
    if path.startswith("~/"):
        return Path(home() + path[1:])
    return Path(path)


def ask_ssh(value: str, config: Path, name: str, runner: Runner) -> Path:
    """As `expand`, for every value.

    `ssh -G` prints IdentityAgent with its tokens replaced, and it has the same tokens. So ssh replaces those of an
    IdentityFile as if it were an IdentityAgent.
    """
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    option = f'IdentityAgent="{quoted}"'
    argv = ["ssh", "-G", "-F", str(config), "-o", option, "--", name]
    completed = runner.run(argv, timeout=_TIME_LIMIT)
    for line in completed.text.splitlines():
        keyword, _, expanded = line.partition(" ")
        if keyword == "identityagent":
            return Path(expanded)
    return Path(value)
