"""What may be wrong between this machine and a container: a finding per thing, with the line that cures it.

It looks and changes nothing: no host key is trusted, no container started, no password sent.
"""

import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from apexgpu import __version__
from apexgpu.account import Account
from apexgpu.errors import ApexError, MissingProgramError
from apexgpu.models import Finding, Host, Target
from apexgpu.process import Runner, missing, which
from apexgpu.settings import Settings
from apexgpu.sshfiles import configblock, configfile

if TYPE_CHECKING:
    from apexgpu.ssh.transport import Connections

_OLDEST_SSH = (7, 6)
_MOST_KEYS = 5  # a server hangs up after six offers
_CURES = {
    "ControlPath": "ControlPath ~/.ssh/control-%C",
    "ProxyJump": "ProxyJump none",
    "ProxyCommand": "ProxyCommand none",
    "RemoteCommand": "RemoteCommand none",
    "IdentitiesOnly": "IdentitiesOnly no",
}


class Patient(Protocol):
    """What is looked at; the parts may raise when they are asked for. `apexgpu.session.Session` is one."""

    @property
    def settings(self) -> Settings:
        """The settings; ConfigError for a file that cannot be read."""

    @property
    def account(self) -> Account:
        """What the last login left behind."""

    @property
    def user(self) -> str:
        """The account name; LoginError while there is none."""

    @property
    def iam_url(self) -> str:
        """Where IAM answers; UnreachableError where it does not."""

    @property
    def known_hosts(self) -> tuple[Host, ...]:
        """The lab's hosts, as remembered or from IAM."""

    @property
    def runner(self) -> Runner:
        """Local programs."""

    @property
    def transport(self) -> "Connections":
        """The way to the hosts."""


Look = Callable[[Patient], Iterable[Finding]]


def machine(patient: Patient, password: Callable[[], str]) -> Iterator[Finding]:
    """Everything but the hosts. `password` says why the keyring has none, "" when it has one."""
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    yield Finding("program", "ok", f"apexgpu {__version__} on {system}")
    (settings,) = guarded("settings", _settings, patient)
    yield settings
    if settings.code == "config":
        return  # without settings there is nothing else to look at
    for check, look in (
        ("directories", _directories),
        ("programs", _programs),
        ("mounts", _mounts),
        ("agent", _agent),
    ):
        yield from guarded(check, look, patient)
    if settings.verdict == "problem":
        return
    yield from guarded("key", _key, patient)
    iam = list(guarded("IAM", _iam, patient))
    yield from iam
    if hosts_known(patient, iam):
        looks = (
            ("ssh config", _ssh_config),
            ("ssh settings", _ssh_settings),
            ("known_hosts", _known_hosts),
        )
        for check, look in looks:
            yield from guarded(check, look, patient)
    reason = password()
    yield Finding(
        "password",
        "note" if reason else "ok",
        f"{reason}; commands that need it will ask" if reason else "the keyring has it",
    )


def hosts_known(patient: Patient, found: Iterable[Finding]) -> bool:
    """Whether there are hosts to look at, after these findings: remembered ones, or an IAM that tells them."""
    checks = {one.check for one in found if one.verdict == "problem"}
    return "settings" not in checks and ("IAM" not in checks or bool(patient.account.hosts))


def guarded(check: str, look: Look, patient: Patient) -> Iterator[Finding]:
    """What `look` finds; an error of ours is a finding too, its hint the cure."""
    try:
        yield from look(patient)
    except ApexError as error:
        yield Finding(check, "problem", error.message, error.hint, error.code)


def _settings(patient: Patient) -> Iterator[Finding]:
    named = patient.settings.named
    url = named["iam_url"]
    yield Finding(
        "settings",
        "ok",
        f"user {patient.user} ({named['user'].source}), IAM {url.value} ({url.source})",
    )


def _directories(patient: Patient) -> Iterator[Finding]:
    for path in (patient.settings.config_dir, patient.settings.state_dir):
        there = next(place for place in (path, *path.parents) if place.exists())
        if not os.access(there, os.W_OK):
            yield Finding("directories", "problem", f"{path} cannot be written", f"ls -ld {there}")
        elif sys.platform != "win32" and path.exists() and path.stat().st_mode & 0o077:
            yield Finding(
                "directories",
                "note",
                f"others on this machine can look into {path}",
                f"chmod 700 {path}",
            )
        else:
            yield Finding("directories", "ok", str(path))


def _programs(patient: Patient) -> Iterator[Finding]:
    for name in ("ssh", "ssh-keygen", "ssh-add"):
        path = which(name)
        if path is None:
            error = missing(name)
            yield Finding("programs", "problem", error.message, error.hint, error.code)
        elif name == "ssh":
            yield _ssh_version(
                patient.runner.run(["ssh", "-V"], timeout=5).err.decode("utf-8", "replace"), path
            )
    yield _mount_program(patient)


def _mount_program(patient: Patient) -> Finding:
    from apexgpu.sshfs import mountprograms

    try:
        program = mountprograms.find(patient.runner)
    except MissingProgramError as error:
        return Finding(
            "programs", "note", f"{error.message}: files can be copied, not mounted", error.hint
        )
    bad = mountprograms.known_bad(program)
    return Finding("programs", "note" if bad else "ok", bad or f"{program} ({program.path})")


def _mounts(patient: Patient) -> Iterator[Finding]:
    from apexgpu.sshfs import mounts

    for one in mounts.looked_at(mounts.found(patient.settings.state_dir, patient.account.hosts)):
        if one.state == mounts.STALE:
            yield Finding(
                "mounts",
                "problem",
                f"{one.directory} ({one.host}) is stale: {one.reason}",
                "apexgpu mounts repair",
                "stale",
            )
        else:
            yield Finding("mounts", "ok", f"{one.directory} shows {one.host}:{one.remote}")


def _ssh_version(said: str, path: str) -> Finding:
    text = said.split(",")[0].strip()
    found = re.search(r"OpenSSH_\D*(\d+)\.(\d+)", text)
    if found and (int(found[1]), int(found[2])) < _OLDEST_SSH:
        return Finding(
            "programs",
            "note",
            f"{text} ({path}) is old: it knows no StrictHostKeyChecking accept-new",
            missing("ssh").hint,
        )
    return Finding("programs", "ok", f"{text} ({path})")


def _agent(patient: Patient) -> Iterator[Finding]:
    from apexgpu.sshfiles.agent import list_agent_keys

    held = list_agent_keys(patient.runner)
    if len(held) > _MOST_KEYS:
        yield Finding(
            "agent",
            "note",
            f"the agent holds {len(held)} keys, and a server hangs up after six offers",
            "ssh-add -d KEY   (take out what you do not use: ssh-add -l)",
        )
    else:
        yield Finding(
            "agent", "ok", f"it holds {_count(held)}" if held else "none, or it holds no key"
        )


def _key(patient: Patient) -> Iterator[Finding]:
    from apexgpu.iam.publickeys import fingerprint
    from apexgpu.sshfiles import agent, keys

    account = patient.account
    held = agent.list_agent_keys(patient.runner)
    if not account.fingerprint:
        yield Finding(
            "key",
            "note",
            "no login from this machine yet: ssh's own keys are used",
            "apexgpu login",
        )
    elif account.identity_file:
        pair = keys.load(Path(account.identity_file), held)
        mark = fingerprint(pair.public)
        if mark != account.fingerprint:
            yield Finding(
                "key",
                "problem",
                f"{pair.path} is {mark} now, and {account.fingerprint} was sent to IAM",
                "apexgpu login",
            )
        elif pair.encrypted and pair.source != "agent":
            yield Finding(
                "key",
                "note",
                f"{pair.path} asks for its passphrase each time",
                f"ssh-add {pair.path}",
            )
        else:
            yield Finding("key", "ok", f"{pair.path} ({mark})")
    elif account.fingerprint in {fingerprint(key) for key in held}:
        yield Finding("key", "ok", f"the agent holds {account.fingerprint}")
    else:
        yield Finding(
            "key",
            "problem",
            f"the agent does not hold {account.fingerprint} any more",
            "apexgpu login",
        )


def _iam(patient: Patient) -> Iterator[Finding]:
    from apexgpu.iam import hostlist
    from apexgpu.iam.client import IamClient
    from apexgpu.iam.urls import is_loopback

    url, account, user = patient.iam_url, patient.account, patient.user
    client = IamClient(url, timeout=patient.settings.timeout)
    port = client.port(user)
    tls = (
        ""
        if url.startswith("https://") or is_loopback(url)
        else ", without TLS: its answers are only checked"
    )
    if port is None:
        yield Finding(
            "IAM", "problem", f"{url} answers, and does not know {user}", f"apexgpu login {user}"
        )
        return
    yield Finding("IAM", "ok", f"{url} answers{tls}; {user} has port {port}")
    yield from _key_in_iam(client.keys_text(user) or "", account.fingerprint)
    networks = patient.settings.networks or hostlist.NETWORKS
    if hostlist.parse(client.config(user), user=user, networks=networks) != patient.known_hosts:
        yield Finding(
            "IAM", "note", "it tells other hosts than this machine remembers", "apexgpu config sync"
        )


def _key_in_iam(text: str, mark: str) -> Iterator[Finding]:
    from apexgpu.iam.publickeys import fingerprint, parse_all

    stored = [fingerprint(key) for key in parse_all(text)]
    if mark and mark not in stored:
        yield Finding(
            "IAM",
            "problem",
            f"it does not hold your key {mark}: someone, or you, replaced it",
            "apexgpu login",
        )
    else:
        yield Finding(
            "IAM", "ok", f"it holds {_count(stored)} of yours{', this one too' if mark else ''}"
        )


def _count(keys: Sequence[object]) -> str:
    return f"{len(keys)} key{'' if len(keys) == 1 else 's'}"


def _ssh_config(patient: Patient) -> Iterator[Finding]:
    path, hosts = patient.settings.ssh_config, patient.known_hosts
    if not path.exists():
        yield Finding("ssh config", "problem", f"there is no {path}", "apexgpu config sync")
        return
    if sys.platform != "win32" and path.stat().st_mode & 0o022:
        yield Finding(
            "ssh config",
            "problem",
            f"others may write {path}, so ssh refuses it",
            f"chmod go-w {path}",
        )
        return
    old = configfile.read_config(path)
    configblock.check_markers(old)
    if not configfile.leads_to(path, hosts, runner=patient.runner):
        yield Finding(
            "ssh config",
            "problem",
            f"{path} does not lead to all of the lab's hosts",
            "apexgpu config sync",
        )
    elif configblock.is_edited(old):
        yield Finding(
            "ssh config",
            "note",
            f"the block in {path} was edited or moved by hand",
            "apexgpu config sync",
        )
    else:
        yield Finding(
            "ssh config", "ok", f"{path}: every name leads to its host ({len(hosts)} hosts)"
        )


def _ssh_settings(patient: Patient) -> Iterator[Finding]:
    path = patient.settings.ssh_config
    found: dict[str, list[str]] = {}
    for warning in configfile.find_warnings(path, patient.known_hosts, runner=patient.runner):
        found.setdefault(warning.keyword, []).append(warning.text)
    for keyword, texts in found.items():
        text = texts[0] + (f" (and {len(texts) - 1} more like it)" if len(texts) > 1 else "")
        harmful = keyword in {"ControlPath", "RemoteCommand"}
        cure = (
            _CURES[keyword]
            if keyword == "ControlPath"
            else f"{_CURES[keyword]}   (for the lab's names)"
        )
        yield Finding("ssh settings", "problem" if harmful else "note", text, f"in {path}: {cure}")


def _known_hosts(patient: Patient) -> Iterator[Finding]:
    from apexgpu.ssh.route import keeping_cure
    from apexgpu.sshfiles.knownhosts import KnownHosts, lookup_name

    hosts = patient.known_hosts
    route = patient.transport.route(Target(hosts[0], "manage"))
    if route.one("stricthostkeychecking") in {"no", "off", "false"}:
        yield Finding(
            "known_hosts",
            "note",
            "plain ssh takes any machine for the lab's: StrictHostKeyChecking is off",
            f"in {patient.settings.ssh_config}: StrictHostKeyChecking ask",
        )
    if (file := route.new_keys_file) is None:
        fact = f"ssh keeps no host keys: UserKnownHostsFile is {route.one('userknownhostsfile', 'none')}"
        yield Finding("known_hosts", "problem", fact, keeping_cure(patient.settings.ssh_config))
        return
    known = KnownHosts(route.known_hosts_files)
    count = sum(bool(known.keys(lookup_name(one.address, one.manage_port))) for one in hosts)
    fact = f"{file}: {count} of {len(hosts)} hosts have their key confirmed"
    if count == len(hosts):
        yield Finding("known_hosts", "ok", fact)
    else:
        yield Finding(
            "known_hosts", "note", fact, "apexgpu status   (in a terminal: it shows the new keys)"
        )
