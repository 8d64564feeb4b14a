"""Which keys ssh offers to the lab's hosts: the key files and the agents that `ssh -G` names.

This is the one answer that login, `keys` and the choice of a new key use. No rule of ssh_config is
reimplemented: ssh resolves Host, Match, Include, defaults and tokens.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from apexgpu.errors import ConfigError, MissingProgramError, UnreachableError
from apexgpu.models import Host
from apexgpu.platforms.system import is_windows
from apexgpu.process import Runner
from apexgpu.sshfiles import configblock, configcheck, configfile, identityfile
from apexgpu.sshfiles.agentquery import DEFAULT_AGENT
from apexgpu.sshfiles.slowconfig import find_slow_lines
from apexgpu.sshfiles.sshhome import home

_MOST_NAMES = 64
"""How many ssh names are resolved; a lab of 32 hosts has that many."""

_SYSTEM_CONFIG = b"\nMatch all\nInclude /etc/ssh/ssh_config\n"
_READING = "debug1: Reading configuration data "


@dataclass(frozen=True, slots=True)
class OfferedKeys:
    """The keys that ssh offers to the lab's hosts, without what apexgpu's own block pins.

    `files` are the values of IdentityFile in ssh's order, whether these files exist or not;
    `files_are_configured` if the user's config names them, not ssh's defaults. `agents` are the
    values of IdentityAgent, each once. `identities_only`: no other keys of the agent are offered.
    """

    files: tuple[Path, ...] = ()
    files_are_configured: bool = False
    agents: tuple[str, ...] = (DEFAULT_AGENT,)
    identities_only: bool = False

    @property
    def configured_agents(self) -> tuple[str, ...]:
        """The agents that the user's config names: those of a vault such as 1Password or Secretive."""
        return tuple(agent for agent in self.agents if agent not in {DEFAULT_AGENT, "none"})


def find_offered_keys(config: Path, hosts: Sequence[Host], runner: Runner) -> OfferedKeys:
    """Ask `ssh -G` which keys it offers to `hosts` with `config` as the user's file.

    Without ssh on this machine, the answer is that of an empty config.

    Raises:
        ConfigError: ssh cannot read the config, or it takes too long for every name.
    """
    user_bytes = configblock.unmerge(configfile.read_config(config))
    # Our block gives each name its address, user and port, so that `Match host` and the tokens
    # have their values. It pins no key here: an earlier choice is not what the user configured.
    candidate = configblock.merge(user_bytes, hosts)
    if config.absolute() == Path(home()) / ".ssh" / "config" and not is_windows():
        # For its default file only, ssh reads the system's config too; with -F it does not.
        candidate += _SYSTEM_CONFIG
    names = list(configcheck.destinations(hosts))[:_MOST_NAMES]
    try:
        with configcheck.as_file(candidate) as file:
            answers = _resolve(file, names, config, runner)
            files = _identity_files(file, answers, runner)
        defaults = _resolve(Path(os.devnull), ["apexgpu-probe"], config, runner)
    except MissingProgramError:
        return OfferedKeys()
    default_files = _identity_files(Path(os.devnull), defaults, runner)
    agents: dict[str, None] = {}
    for options in answers.values():
        agents[_first(options, "identityagent", DEFAULT_AGENT)] = None
    identities_only = all(
        _first(options, "identitiesonly", "no") == "yes" for options in answers.values()
    )
    return OfferedKeys(
        files=files,
        files_are_configured=files != default_files,
        agents=tuple(agents) or (DEFAULT_AGENT,),
        identities_only=bool(answers) and identities_only,
    )


def find_keys_of_others(
    config: Path, hosts: Sequence[Host], offered: OfferedKeys, runner: Runner
) -> dict[Path, str]:
    """Return the key files that the config assigns to other servers, each with the name of one.

    Files that ssh offers to the lab's hosts too are left out.
    """
    user_bytes = configblock.unmerge(configfile.read_config(config))
    managed = configcheck.destinations(hosts)
    with configcheck.as_file(user_bytes) as file:
        try:
            names = _names_with_own_keys(file, runner)
        except (MissingProgramError, UnreachableError):
            return {}
        others = [name for name in names if name not in managed][:_MOST_NAMES]
        assigned: dict[Path, str] = {}
        for name, resolved in configcheck.resolve(file, others, runner).items():
            if resolved.code != 0:
                continue
            for path in _identity_files(file, {name: resolved.all_options()}, runner):
                if path not in offered.files:
                    assigned.setdefault(path, name)
    return assigned


def _names_with_own_keys(file: Path, runner: Runner) -> list[str]:
    """The names in `file`, and in all files that ssh reads with it, whose sections name a key."""
    argv = ["ssh", "-G", "-v", "-F", str(file), "--", "apexgpu-probe"]
    completed = runner.run(argv, timeout=configcheck.TIME_LIMIT)
    names = configblock.names_with_own_keys(file.read_bytes())
    for line in completed.err.decode("utf-8", "surrogateescape").splitlines():
        path = Path(line.removeprefix(_READING).strip())
        if line.startswith(_READING) and path != file:
            with suppress(OSError, ConfigError):
                names += configblock.names_with_own_keys(configfile.read_config(path))
    return list(dict.fromkeys(names))


def _resolve(
    file: Path, names: Sequence[str], config: Path, runner: Runner
) -> dict[str, dict[str, list[str]]]:
    """All options of each name that ssh resolves. ConfigError if it can resolve none."""
    answers = {}
    failed: configcheck.Resolved | None = None
    for name, resolved in configcheck.resolve(file, names, runner).items():
        if resolved.code == 0:
            answers[name] = resolved.all_options()
        else:
            failed = resolved
    if failed is not None and not answers and failed.timed_out:
        lines = find_slow_lines(file, names[0], runner, limit=10)
        raise configcheck.slow_error(names[0], config, lines)
    if failed is not None and not answers:
        raise ConfigError(
            f"ssh cannot read {config}: {configcheck.describe_error(failed, config)}",
            hint=f"ssh -G -F '{config}' {names[0]}",
        )
    return answers


def _identity_files(
    file: Path, answers: Mapping[str, Mapping[str, Sequence[str]]], runner: Runner
) -> tuple[Path, ...]:
    """The identity files of all names in order, each once."""
    paths: dict[Path, None] = {}
    seen: set[str] = set()
    for name, options in answers.items():
        for value in options.get("identityfile", ()):
            # The same value without a token is the same file for every name.
            if value == "none" or (value in seen and not identityfile.has_tokens(value)):
                continue
            seen.add(value)
            path = identityfile.expand(value, options, name)
            if path is None:
                path = identityfile.ask_ssh(value, file, name, runner)
            paths[path] = None
    return tuple(paths)


def _first(options: Mapping[str, Sequence[str]], keyword: str, default: str) -> str:
    return options.get(keyword, [default])[0]
