"""What can be done with containers: one function per manage command, over any transport; `starting` has the start."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from apexgpu.errors import (
    ApexError,
    CommandKilledError,
    CommandTimeoutError,
    DroppedError,
    NotRegisteredError,
    PortRefusedError,
    RefusedError,
    RegisterKeyError,
    StoppedError,
    UnansweredError,
    UnreachableError,
    UnsafeArgumentError,
)
from apexgpu.manageshell import replies
from apexgpu.manageshell.hostlock import only_one
from apexgpu.manageshell.replies import Stopped
from apexgpu.manageshell.starting import port_trouble
from apexgpu.models import Container, Host, Reply, Target
from apexgpu.remote import disks, remotescript
from apexgpu.remote.disks import Disk
from apexgpu.ssh.failures import key_refused_error
from apexgpu.ssh.transport import Limits, OnLine, Transport

_BLANK = frozenset(" \t\r\n'\"\\*?[]$`;&|<>")


_ASKING = Limits(total=120)


@dataclass(frozen=True, slots=True)
class HostStatus:
    """What `status` knows of one host. Memory in bytes, uptime in seconds, None where nobody tells.

    `disks` are those that the container sees and shares with everyone; empty where it was not asked.
    """

    registered: bool
    container: Container | None = None
    uptime: float | None = None
    disks: tuple[Disk, ...] = ()


@dataclass(frozen=True, slots=True)
class Use:
    """What goes on in a running container: who is logged in, which processes use a GPU."""

    sessions: tuple[str, ...] = ()
    gpu_processes: tuple[str, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether anybody would notice a stop."""
        return bool(self.sessions or self.gpu_processes)


def ask(
    link: Transport,
    host: Host,
    *words: str,
    limits: Limits | None = None,
    on_line: OnLine | None = None,
    once: bool = False,
) -> Reply:
    """Send one manage command. The shell splits on blanks and globs: only plain words may go there."""
    for word in words:
        if not sendable(word):
            message = f"{word!r} cannot be sent to a manage shell"
            raise UnsafeArgumentError(message)
    return link.run(
        Target(host, "manage"), " ".join(words), limits=limits, on_line=on_line, once=once
    )


def question(link: Transport, host: Host, *words: str, limits: Limits = _ASKING) -> Reply:
    """A manage command that changes nothing, asked again once when the connection drops."""
    try:
        return ask(link, host, *words, limits=limits, once=True)
    except CommandTimeoutError:
        raise
    except DroppedError:
        return ask(link, host, *words, limits=limits, once=True)


def sendable(word: str) -> bool:
    """Whether a word reaches a manage shell as it is: one word, and nothing that a shell reads in it."""
    return bool(word) and not _BLANK & set(word) and all(letter.isprintable() for letter in word)


def status(link: Transport, host: Host, *, inside: bool = False) -> HostStatus:
    """State of the container, without starting it. With `inside`, the container is asked for uptime and disks."""
    try:
        reply = ask(link, host, "help")
    except NotRegisteredError:
        return HostStatus(registered=False)
    container = replies.status(reply, host.name)
    if not (inside and container.running):
        return HostStatus(True, container)
    said = _said_inside(link, host)
    first = said.partition("\n")[0].strip()
    uptime = float(first) if first.replace(".", "", 1).isdigit() else None
    return HostStatus(True, container, uptime, disks.disks(said))


def _said_inside(link: Transport, host: Host) -> str:
    """What the container tells of itself; what came until then where a disk hangs, nothing where it is out of reach."""
    uptime = "ps -o etimes= -p 1 2>/dev/null || cut -d' ' -f1 /proc/uptime"
    command = remotescript.started(f"{uptime}; {disks.COMMAND}")
    try:
        return remotescript.after_start(look(link, host, command, limits=Limits(total=12)).out)
    except DroppedError as exc:
        return remotescript.after_start(exc.seen)
    except ApexError:
        return ""


def register(
    link: Transport, host: Host, *, state_dir: Path, on_line: OnLine, repost: Callable[[], bool]
) -> bool:
    """Make the account and container of `host.user`; False when they were there.

    `repost` posts the own keys to IAM again and says whether it could: the cure for a register account that
    holds someone else's keys, tried once. There is no time limit: a register that is cut leaves a
    half-made account that only an administrator can delete.
    """
    from apexgpu.iam.client import valid_user

    if not valid_user(host.user):
        message = f"{host.user!r} is not a user name that can be registered"
        raise RefusedError(message, hint="apexgpu login USER", code="user_name")
    with only_one(state_dir, host):
        try:
            made = _register(link, host, on_line)
        except RegisterKeyError:
            if not repost():
                raise
            made = _register(link, host, on_line)
        _prove_account(link, host, made)
    return made


def _register(link: Transport, host: Host, on_line: OnLine) -> bool:
    limits = Limits(total=None, silence=None)
    reply = link.run(Target(host, "register"), host.user, limits=limits, on_line=on_line, once=True)
    return replies.register(reply, host.name)


def _prove_account(link: Transport, host: Host, made: bool) -> None:
    """`already exist` is what a half-made or a system account says too: only a manage shell is proof."""
    try:
        reply = link.run(Target(host, "manage"), "help", once=True)
    except NotRegisteredError:
        reply = Reply(255, "")
    if not replies.is_manage_shell(reply):
        did = "said Done" if made else f"says that {host.user} exists"
        message = f"{host.name} {did}, but the account is half-made: it has no manage shell"
        raise RefusedError(
            message,
            code="half_made",
            hint=f"ask the administrators to delete the user {host.user} on {host.name}; "
            f"then: apexgpu register {host.name}",
        )


def down(link: Transport, host: Host, *, state_dir: Path, on_line: OnLine) -> Stopped:
    """Stop the container; a stopped one stays so."""
    with only_one(state_dir, host):
        return halt(link, host, on_line=on_line)


def halt(link: Transport, host: Host, *, on_line: OnLine) -> Stopped:
    """As `down`, for who holds the host's lock already."""
    limits = Limits(total=180, silence=None)
    reply = ask(link, host, "stop", limits=limits, on_line=on_line, once=True)
    return replies.stop(reply, host.name)


def use(link: Transport, host: Host) -> Use:
    """Who and what is at work in a running container, as far as the container can tell."""
    processes = "nvidia-smi --query-compute-apps=pid,process_name --format=csv,noheader"
    command = remotescript.started(f"who 2>/dev/null; echo ---; {processes} 2>/dev/null; true")
    try:
        reply = look(link, host, command)
    except ApexError:
        return Use()
    people, _, running = remotescript.after_start(reply.out).partition("---\n")
    busy = [line.strip() for line in running.splitlines() if line.strip()[:1].isdigit()]
    return Use(tuple(line.strip() for line in people.splitlines() if line.strip()), tuple(busy))


def inside(
    link: Transport,
    host: Host,
    command: str,
    *,
    limits: Limits | None = None,
    on_line: OnLine | None = None,
    once: bool = False,
) -> Reply:
    """Run a command that changes nothing in a container that may be stopped: a port that refuses is explained by
    asking the host.
    """
    try:
        if (
            once or on_line is not None
        ):  # neither goes over an open connection, which alone can turn out to be dead
            return link.run(
                Target(host, "container"), command, limits=limits, on_line=on_line, once=once
            )
        return look(link, host, command, limits=limits)
    except UnreachableError as exc:
        raise _explained(link, host, exc) from None


def look(link: Transport, host: Host, command: str, *, limits: Limits | None = None) -> Reply:
    """Run a command that changes nothing in a running container: sent again where an open connection turns out to be
    dead, as it is after a laptop has slept.
    """
    target = Target(host, "container")
    try:
        return link.run(target, command, limits=limits)
    except UnansweredError:
        pass
    return link.run(target, command, limits=limits)


def _explained(link: Transport, host: Host, exc: UnreachableError) -> ApexError:
    if isinstance(exc, PortRefusedError):
        return _refused(link, host, exc)
    return exc


def _refused(link: Transport, host: Host, exc: UnreachableError) -> ApexError:
    found = status(link, host)
    if not found.registered:
        return key_refused_error(Target(host, "manage"))
    if found.container is not None and found.container.running:
        return port_trouble(host, exc)
    return stopped(host)


def stopped(host: Host) -> RefusedError:
    """The error for what needs a running container."""
    return StoppedError(f"the container on {host.name} is stopped", hint=f"apexgpu up {host.name}")


def execute(link: Transport, host: Host, command: str, *, total: float | None) -> Reply:
    """Run a command of the user's in the container, never twice. Whatever it exits with is a value, not an error."""
    try:
        return link.run(
            Target(host, "container"), command, limits=Limits(total=total, silence=None)
        )
    except CommandKilledError as exc:
        return Reply(255, exc.seen, f"{exc.err}{exc.message}\n")  # as ssh exits then
    except UnreachableError as exc:
        raise _explained(link, host, exc) from None
