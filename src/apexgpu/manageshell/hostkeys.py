"""A container's host keys: what known_hosts must say after its files were replaced, and new keys of its own.

The archive holds the keys that the container will show, and it was read over a connection that was checked. So
known_hosts is changed before the first connection, and checking is never off.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apexgpu.errors import ApexError
from apexgpu.iam.publickeys import parse_key
from apexgpu.manageshell import starting
from apexgpu.manageshell.starting import Pause
from apexgpu.models import Host, PublicKey, Target
from apexgpu.remote import remotescript
from apexgpu.ssh.route import Route
from apexgpu.ssh.transport import Limits, OnLine, Transport
from apexgpu.sshfiles import knownhostsedit
from apexgpu.sshfiles.knownhosts import KnownHosts, is_hashed
from apexgpu.text import last_line

# The old keys stay in use until the new ones are known here: a cut in between locks nobody out.
_MAKE = (
    "d=/etc/ssh/new-host-keys; rm -rf $d && mkdir -m 700 $d && for kind in ed25519 ecdsa rsa; do "
    'ssh-keygen -q -N "" -t $kind -f $d/ssh_host_${kind}_key || exit 1; done; cat $d/*.pub && echo end'
)
_USE = (
    "cd /etc/ssh && rm -f ssh_host_dsa_key ssh_host_dsa_key.pub && mv -f new-host-keys/* . && rmdir new-host-keys && "
    "sha256sum ssh_host_*_key.pub >.apexgpu-host-keys"  # which are its own: a recipe looks
)
_RESTART = "sudo -n systemctl restart ssh 2>/dev/null || sudo -n service ssh restart"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the user's known_hosts files keep a container's key, and where their old bytes go."""

    name: str
    files: tuple[Path, ...]
    backups: Path
    hashed: bool = False

    @property
    def known(self) -> list[PublicKey]:
        """The keys that are known now."""
        return KnownHosts(self.files).keys(self.name)


@dataclass(frozen=True, slots=True)
class Change:
    """An entry of known_hosts that was replaced."""

    old: tuple[PublicKey, ...]
    new: PublicKey


def place(route: Route, state_dir: Path) -> Place:
    """The place for a route, as ssh itself would look it up."""
    from apexgpu.ssh.paramiko_link import known_name

    hashed = route.one("hashknownhosts", "no") == "yes"
    return Place(
        known_name(route), tuple(route.known_hosts_files), state_dir / "known_hosts", hashed
    )


def expect(where: Place, keys: Sequence[PublicKey]) -> Change | None:
    """Make one of `keys` the known one where what is known would refuse them; None when nothing had to change.

    A container that was never contacted stays unknown: the first key is the user's to confirm.
    """
    known = where.known
    blobs = {key.blob for key in keys}
    if not keys or not known or all(key.blob in blobs for key in known):
        return None
    return adopt(where, _preferred(keys, known))


def adopt(where: Place, key: PublicKey) -> Change:
    """Make `key` the only known one, in every file that knows the container."""
    old: list[PublicKey] = []
    for file in where.files:
        if KnownHosts([file]).keys(where.name):
            old += knownhostsedit.replace(file, where.name, key, where.backups)
    return Change(tuple(dict.fromkeys(old)), key)


def renew(
    link: Transport, host: Host, where: Place, *, wait: float, pause: Pause, say: OnLine
) -> Change:
    """Give the container host keys of its own, and prove them by a login.

    While sshd restarts, both the old and the new key are known, so that no moment locks the user out.
    """
    target = Target(host, "container")
    say("making new host keys in the container")
    reply = link.run(
        target, remotescript.apart(f"sudo -n sh -c '{_MAKE}'"), limits=Limits(total=120), once=True
    )
    keys = [key for line in reply.out.splitlines() if (key := parse_key(line)) is not None]
    if reply.code or not keys or "end" not in reply.out.split():
        said = last_line(reply.out + reply.err, "nothing")
        message = (
            f"the container on {host.name} could not make new host keys; it said: {said[:200]}"
        )
        raise ApexError(
            message, hint=f"apexgpu ssh {host.name} -- sudo ssh-keygen -A", code="host_keys"
        )
    new = _preferred(keys, where.known)
    for file in where.files:
        if KnownHosts([file]).keys(where.name):
            knownhostsedit.add(file, [(where.name, new)], hashed=where.hashed or is_hashed(file))
    link.run(
        target,
        remotescript.script(f"sudo -n sh -c '{_USE}' && {{ {_RESTART}; }}"),
        limits=Limits(total=60),
        once=True,
    )
    starting.wait_for_ssh(link, host, wait, pause)
    change = adopt(where, new)
    starting.wait_for_ssh(link, host, wait, pause)
    return change


def _preferred(keys: Sequence[PublicKey], known: Sequence[PublicKey]) -> PublicKey:
    """The key of a type that is known already, else ed25519, else the first."""
    kinds = [*(key.kind for key in known), "ssh-ed25519"]
    return next((key for kind in kinds for key in keys if key.kind == kind), keys[0])
