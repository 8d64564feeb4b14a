"""What `apexgpu doctor` checks in the user's ssh files: the agent, the key, the ssh config."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from apexgpu.errors import MissingProgramError, UnreachableError
from apexgpu.iam.publickeys import fingerprint
from apexgpu.models import Finding, Host, PublicKey
from apexgpu.process import Runner
from apexgpu.sshfiles import configblock, configfile, keys
from apexgpu.sshfiles.agent import TIME_LIMIT, query_agent
from apexgpu.sshfiles.configcheck import SettingWarning
from apexgpu.text import counted

_MAX_AGENT_KEYS = 5  # a server disconnects after six refused keys


def check_agent(runner: Runner) -> Iterator[Finding]:
    """Check that the agent answers, and has not so many keys that the right one is never offered."""
    try:
        count = len(query_agent(runner))
    except MissingProgramError:
        return  # check_programs reports it
    except UnreachableError:
        yield Finding.note(
            "agent",
            f"ssh-agent does not answer within {TIME_LIMIT:g} s; ssh waits for it every time",
            "ssh-add -l",
        )
        return
    if count > _MAX_AGENT_KEYS:
        yield Finding.note(
            "agent",
            f"the agent has {count} keys, and a server disconnects after six refused ones; "
            "remove those that you do not use with ssh-add -d",
            "ssh-add -l",
        )
    elif count:
        yield Finding.ok("agent", f"it has {counted(count, 'key')}")
    else:
        yield Finding.ok("agent", "no ssh-agent, or it has no keys")


def check_key(
    identity_file: str, registered: str, agent_keys: Sequence[PublicKey], runner: Runner
) -> Iterator[Finding]:
    """Check that the key of the last login can still be used.

    Args:
        identity_file: its private file, "" if only the agent had it.
        registered: its fingerprint, "" before the first login.

    Raises:
        ConfigError: the file cannot be used.
    """
    if not registered:
        yield Finding.note(
            "key", "no login from this machine yet: ssh's own keys are used", "apexgpu login"
        )
        return
    if not identity_file:
        if registered in {fingerprint(key) for key in agent_keys}:
            yield Finding.ok("key", f"the agent has {registered}")
        else:
            yield Finding.problem(
                "key", f"the agent does not have {registered} any more", "apexgpu login"
            )
        return
    pair = keys.load(Path(identity_file), agent_keys, runner)
    present = fingerprint(pair.public)
    if present != registered:
        yield Finding.problem(
            "key",
            f"{pair.path} is {present} now, but {registered} was sent to IAM",
            "apexgpu login",
        )
    elif pair.encrypted and pair.source != "agent":
        yield Finding.note(
            "key", f"{pair.path} needs its passphrase every time", f"ssh-add {pair.path}"
        )
    else:
        yield Finding.ok("key", f"{pair.path} ({present})")


def check_ssh_config(path: Path, hosts: Sequence[Host], runner: Runner) -> Iterator[Finding]:
    """Check that the ssh config leads every name of the lab to its host.

    Raises:
        ConfigError: the file cannot be read, or our markers in it are damaged.
    """
    check = "ssh config"
    if not path.exists():
        yield Finding.problem(check, f"there is no {path}", "apexgpu config sync")
        return
    others_can_write = sys.platform != "win32" and path.stat().st_mode & 0o022
    if others_can_write:
        yield Finding.problem(
            check, f"other users can write {path}, so ssh refuses it", f"chmod go-w {path}"
        )
        return
    old = configfile.read_config(path)
    configblock.check_markers(old)
    if not configfile.leads_to(path, hosts, runner=runner):
        yield Finding.problem(
            check, f"{path} does not lead to all of the lab's hosts", "apexgpu config sync"
        )
    elif configblock.is_edited(old):
        yield Finding.note(
            check, f"the block in {path} was edited or moved by hand", "apexgpu config sync"
        )
    else:
        yield Finding.ok(
            check, f"{path}: every name leads to its host ({counted(len(hosts), 'host')})"
        )


def check_ssh_settings(path: Path, hosts: Sequence[Host], runner: Runner) -> Iterator[Finding]:
    """Check which of the user's own settings apply to the lab's hosts and cause surprises."""
    by_keyword: dict[str, list[SettingWarning]] = {}
    for warning in configfile.find_warnings(path, hosts, runner=runner):
        by_keyword.setdefault(warning.keyword, []).append(warning)
    for warnings in by_keyword.values():
        yield _setting_finding(path, hosts[0], warnings)


def _setting_finding(path: Path, host: Host, warnings: Sequence[SettingWarning]) -> Finding:
    """One finding for all warnings about one setting."""
    first = warnings[0]
    fact = first.text
    if len(warnings) > 1:
        fact += f" (and {len(warnings) - 1} more like it)"
    fact += f". For the lab's hosts, write into {path}: {first.replacement}"
    hint = f"ssh -G {host.manage_name}"
    if first.harmful:
        return Finding.problem("ssh settings", fact, hint)
    return Finding.note("ssh settings", fact, hint)
