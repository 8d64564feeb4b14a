"""Gives a container host keys of its own: those of a template or an archive are known to others."""

from apexgpu.errors import ApexError
from apexgpu.iam.publickeys import parse_key
from apexgpu.manageshell import starting
from apexgpu.manageshell.starting import Pause
from apexgpu.models import Host, PublicKey, Target
from apexgpu.remote import remotescript
from apexgpu.ssh.hostkeys import KeyChange, KnownKeys
from apexgpu.ssh.transport import Limits, OnLine, Transport
from apexgpu.text import last_line


def renew(
    transport: Transport, host: Host, known: KnownKeys, *, wait: float, pause: Pause, say: OnLine
) -> KeyChange:
    """Make new host keys in the container, log in with them, and make them the only known ones.

    While sshd restarts, both the old and the new key are known, so that no interruption locks the
    user out.
    """
    say("making new host keys in the container")
    new = known.preferred(_make_keys(transport, host))
    known.add(new)
    transport.run(
        Target(host, "container"),
        remotescript.sh_command("host_keys_use.sh", sudo=True),
        limits=Limits(total=60),
        once=True,
    )
    starting.wait_for_ssh(transport, host, wait, pause)
    change = known.replace(new)
    # The login that proves the new key: it is the only known one now.
    starting.wait_for_ssh(transport, host, wait, pause)
    return change


def _make_keys(transport: Transport, host: Host) -> list[PublicKey]:
    """Make keys in the container, without using them yet; return their public halves."""
    command = remotescript.sh_command("host_keys_make.sh", sudo=True)
    limits = Limits(total=120)
    reply = transport.run(Target(host, "container"), command, limits=limits, once=True)
    keys = []
    for line in reply.out.splitlines():
        key = parse_key(line)
        if key is not None:
            keys.append(key)
    if reply.code or not keys or "end" not in reply.out.split():
        output = last_line(reply.out + reply.err, "nothing")
        message = (
            f"the container on {host.name} could not make new host keys; its output: {output[:200]}"
        )
        hint = f"apexgpu ssh {host.name} -- sudo ssh-keygen -A"
        raise ApexError(message, hint=hint, code="host_keys")
    return keys
