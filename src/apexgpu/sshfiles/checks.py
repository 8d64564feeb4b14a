"""What `apexgpu doctor` checks in the user's ssh files: the agent, the key, the ssh config."""

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path

from apexgpu.iam.publickeys import fingerprint
from apexgpu.models import Finding, Host, PublicKey
from apexgpu.platforms import hints, owner
from apexgpu.platforms.system import is_windows
from apexgpu.process import Runner
from apexgpu.sshfiles import configblock, configfile, keys, permissions
from apexgpu.sshfiles.agentquery import (
    AgentKey,
    AgentReply,
    AgentState,
    default_socket,
    silent_agent_fact,
)
from apexgpu.sshfiles.configcheck import SettingWarning
from apexgpu.text import counted

_MAX_AGENT_KEYS = 5  # a server disconnects after six refused keys


def check_agent(reply: AgentReply, *, registered: str, needed: bool, config: Path) -> Finding:
    """Check the ssh-agent that gave `reply`: that it answers, and has the key of the last login.

    Args:
        reply: what the agent answered that ssh asks for the lab's hosts.
        registered: the fingerprint of the key of the last login, "" before the first login.
        needed: that key is in no file, so only an agent can have it.
        config: the ssh config, which may name the agent.
    """
    if reply.state is AgentState.SILENT:
        fact = f"{silent_agent_fact(reply)}; ssh waits for it forever"
        return Finding.problem("agent", fact, _leave_out(reply, config))
    if reply.state is AgentState.BROKEN:
        fact = f"the ssh-agent at {reply.socket} does not understand the agent protocol"
        return Finding.problem("agent", fact, _leave_out(reply, config))
    if reply.state is AgentState.ABSENT:
        return _no_agent(reply, registered, needed, config)
    if reply.state is AgentState.EMPTY:
        fact = f"the ssh-agent at {reply.socket} has no keys"
        if needed:
            return Finding.problem("agent", f"{fact}; it needs {registered}", hints.add_key(None))
        return Finding.ok("agent", fact)
    return _agent_with_keys(reply, registered, needed)


def _no_agent(reply: AgentReply, registered: str, needed: bool, config: Path) -> Finding:
    fact = "no ssh-agent is running"
    if reply.socket:
        fact = f"no ssh-agent is running at {reply.socket}"
    if needed:
        fact = f"{fact}, and only an agent has {registered}"
        return Finding.problem("agent", fact, hints.start_agent())
    if is_windows():
        fact = f"{fact}: the service ssh-agent of Windows is off (the command below needs an administrator)"
        return Finding.note("agent", fact, hints.start_agent())
    if reply.socket:
        return Finding.note("agent", fact, _leave_out(reply, config))
    return Finding.ok("agent", fact)


def _agent_with_keys(reply: AgentReply, registered: str, needed: bool) -> Finding:
    count = len(reply.keys)
    has_it = registered in {_fingerprint(key) for key in reply.keys}
    if needed and not has_it:
        keys_of_it = counted(count, "other key")
        fact = f"the ssh-agent at {reply.socket} does not have {registered}, but {keys_of_it}"
        return Finding.problem("agent", fact, "ssh-add -l")
    if count > _MAX_AGENT_KEYS:
        fact = (
            f"the agent has {count} keys, and a server disconnects after six refused ones; "
            "remove those that you do not use with ssh-add -d"
        )
        return Finding.note("agent", fact, "ssh-add -l")
    fact = f"it has {counted(count, 'key')}"
    if registered and not has_it:
        fact += ", but not the key of the last login, which is in a file"
    return Finding.ok("agent", fact)


def _leave_out(reply: AgentReply, config: Path) -> str:
    """A command that leaves out an agent that cannot be used, or shows which line names it."""
    if reply.socket == default_socket():
        return hints.unset_variable("SSH_AUTH_SOCK")
    return hints.find_text("identityagent", config)


def _fingerprint(key: AgentKey) -> str:
    return fingerprint(PublicKey(key.kind, base64.b64encode(key.blob).decode("ascii")))


def check_key(
    identity_file: str,
    registered: str,
    agent_keys: Sequence[PublicKey],
    runner: Runner,
    *,
    agents_answer: bool = True,
) -> Iterator[Finding]:
    """Check that the key of the last login can still be used.

    Args:
        identity_file: its private file, "" if only the agent had it.
        registered: its fingerprint, "" before the first login.
        agents_answer: `agent_keys` are the keys of every agent, because all have answered.

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
        elif not agents_answer:
            yield Finding.problem(
                "key", f"only an agent has {registered}, and it does not answer", "ssh-add -l"
            )
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
            "key", f"{pair.path} needs its passphrase every time", hints.add_key(pair.path)
        )
    else:
        yield Finding.ok("key", f"{pair.path} ({present})")


def check_ssh_config(path: Path, hosts: Sequence[Host], runner: Runner) -> Iterator[Finding]:
    """Check that the ssh config leads every name of the lab to its host.

    Raises:
        ConfigError: ssh or we cannot read the file, or our markers in it are damaged.
    """
    check = "ssh config"
    if not path.exists():
        yield Finding.problem(check, f"there is no {path}", "apexgpu config sync")
        return
    others_can_write = owner.others_may_write(path.stat())
    if others_can_write:
        yield Finding.problem(
            check, f"other users can write {path}, so ssh refuses it", hints.forbid_writing(path)
        )
        return
    old = configfile.read_config(path)
    configblock.check_markers(old)
    permissions.check_config(path, hosts[0].manage_name, runner)
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
