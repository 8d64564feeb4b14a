"""What `apexgpu doctor` checks about connections: ssh programs, known_hosts, routes."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from apexgpu.models import Finding, Host
from apexgpu.platforms.programs import is_foreign_ssh
from apexgpu.platforms.system import current
from apexgpu.process import Runner, missing, which
from apexgpu.ssh.route import Route, keep_host_keys_advice
from apexgpu.sshfiles.knownhosts import KnownHosts, lookup_name
from apexgpu.text import counted

_OLDEST_SSH = (7, 6)  # the first with StrictHostKeyChecking=accept-new
_PROGRAMS = ("ssh", "ssh-keygen", "ssh-add")


def check_programs(runner: Runner) -> Iterator[Finding]:
    """Check that OpenSSH's programs are installed, and that ssh is not too old."""
    for name in _PROGRAMS:
        path = which(name)
        if path is None:
            yield Finding.from_error("programs", missing(name))
        elif name == "ssh":
            version = runner.run(["ssh", "-V"], timeout=5).err.decode("utf-8", "replace")
            yield check_version(version, path)


def check_version(version: str, path: str) -> Finding:
    """Check what `ssh -V` printed; `path` is where the program is."""
    text = version.split(",")[0].strip()  # "OpenSSH_9.2p1 Debian-2, OpenSSL 3.0.11 …"
    match = re.search(r"OpenSSH_\D*(\d+)\.(\d+)", text)
    if match and (int(match[1]), int(match[2])) < _OLDEST_SSH:
        return Finding.note(
            "programs",
            f"{text} ({path}) is old: it does not have StrictHostKeyChecking accept-new",
            missing("ssh").hint,
        )
    if is_foreign_ssh(path, current()):
        return Finding.note(
            "programs",
            f"{text} ({path}) came with Git or Cygwin: it asks another ssh-agent than Windows' own",
            missing("ssh").hint,
        )
    return Finding.ok("programs", f"{text} ({path})")


def check_known_hosts(route: Route, hosts: Sequence[Host], config: Path) -> Iterator[Finding]:
    """Check that ssh keeps host keys, and how many of the lab's it has.

    `route` is that of any host of the lab, `config` the user's ssh config.
    """
    check = "known_hosts"
    if route.option("stricthostkeychecking") in {"no", "off", "false"}:
        yield Finding.note(
            check,
            "StrictHostKeyChecking is off: plain ssh connects to any machine that claims to be the "
            f"lab's. Write into {config}: StrictHostKeyChecking ask",
            f"ssh -G {route.target.alias}",
        )
    file = route.new_host_keys_file
    if file is None:
        setting = route.option("userknownhostsfile", "none")
        yield Finding.problem(
            check,
            f"ssh keeps no host keys: UserKnownHostsFile is {setting}; "
            f"{keep_host_keys_advice(config)}",
            f"ssh -G {route.target.alias}",
        )
        return
    known = KnownHosts(route.known_hosts_files)
    confirmed = 0
    for host in hosts:
        if known.keys(lookup_name(host.address, host.manage_port)):
            confirmed += 1
    fact = f"{file}: {confirmed} of {counted(len(hosts), 'host')} confirmed"
    if confirmed == len(hosts):
        yield Finding.ok(check, fact)
    else:
        yield Finding.note(
            check, f"{fact}; status in a terminal shows the others", "apexgpu status"
        )


def describe_route(route: Route) -> str:
    """Return a host's address and port, and the jump host or proxy command to it."""
    text = f"{route.address} port {route.port}"
    for option in ("proxyjump", "proxycommand"):
        proxy = route.option(option, "none")
        if proxy != "none":
            return f"{text} through {proxy}"
    return text
