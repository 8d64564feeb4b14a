"""The failures of a connection: which one ssh's stderr reports, and the error that each becomes. Pure.

paramiko and OpenSSH report the same failures in different forms. Both clients build their errors here, so that a user
sees the same message, code and hint whichever of them made the connection.
"""

import re
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from apexgpu.errors import (
    AgentRefusedError,
    ApexError,
    CommandKilledError,
    CommandTimeoutError,
    ConnectionClosedError,
    ConnectTimeoutError,
    DeclinedError,
    HostKeyError,
    KeyUnreadableError,
    LoginError,
    NoNetworkError,
    NoRouteError,
    NothingOfferedError,
    NotRegisteredError,
    PortRefusedError,
    ProxyError,
    RefusedError,
    RegisterKeyError,
    RevokedHostKeyError,
    SameCommand,
    SilentAgentError,
    StalledLoginError,
    TooManyKeysError,
    TooMuchOutputError,
    UnknownNameError,
    UnreachableError,
    WrongPassphraseError,
)
from apexgpu.models import PublicKey, Target
from apexgpu.platforms import hints, localnetwork
from apexgpu.platforms.shellwords import quoted
from apexgpu.platforms.system import current
from apexgpu.ssh.route import Route, no_local_user_error
from apexgpu.ssh.sshoptions import connect_timeout
from apexgpu.sshfiles.agentquery import AgentReply, silent_agent_fact
from apexgpu.text import last_line, size


class UnknownHostKeyError(DeclinedError):
    """The host key of a target is in no known_hosts file yet. Only the user can accept it."""

    code = "host_key_unknown"

    def __init__(self, route: Route, key: PublicKey, invalid_certificate: str = "") -> None:
        """`invalid_certificate` is why ssh does not accept the certificate of this key, if it has one."""
        reason = f", and its certificate is not valid: {invalid_certificate}"
        super().__init__(
            f"the host key of {route.target.alias} is not known yet"
            + (reason if invalid_certificate else ""),
            hint=SameCommand(
                "run the command in a terminal to see and confirm it, or add --accept-new",
                "--accept-new",
            ),
        )
        self.route = route
        self.key = key


class HostKeyNotTrustedError(DeclinedError):
    """A program's ssh does not know the host key. It does not show the key, so the user cannot be asked about it."""

    code = "host_key_unknown"


class KeyLockedError(DeclinedError):
    """Nobody entered the passphrase of the key in `file`."""

    code = "key_locked"

    def __init__(self, message: str, *, hint: str, file: Path) -> None:
        super().__init__(message, hint=hint)
        self.file = file


class ChangedHostKeyError(HostKeyError):
    """A target shows another host key than the known one. `key` is None where only ssh saw it."""

    def __init__(self, message: str, *, hint: str, key: PublicKey | None) -> None:
        super().__init__(message, hint=hint)
        self.key = key


class SshFailure(Enum):
    """Why an `ssh` process ended with status 255, its status for failures of its own (ssh(1))."""

    HOST_KEY_REVOKED = "the host key is revoked"
    HOST_KEY_CHANGED = "the host key has changed"
    HOST_KEY_UNKNOWN = "its host key is not known"
    TOO_MANY_KEYS = "too many authentication failures"
    KEY_TOO_OPEN = "others may read the key, so ssh does not use it"
    KEY_REFUSED = "permission denied"
    PORT_REFUSED = "connection refused"
    NO_ROUTE = "no route to host"
    TIMEOUT = "no answer in time"
    UNKNOWN_NAME = "its name cannot be resolved"
    BLOCKED = "this machine does not let ssh connect (a firewall, or a VPN that is down?)"
    NO_NETWORK = "the network is unreachable (VPN?)"
    CLOSED = "it closed the connection"
    NO_LOCAL_USER = "ssh does not know the account that it runs under"
    FORWARDING_FORBIDDEN = "port forwarding is forbidden"

    @property
    def is_permanent(self) -> bool:
        """Whether connecting again gives the same failure until somebody changes something."""
        return self in {
            SshFailure.HOST_KEY_REVOKED,
            SshFailure.HOST_KEY_CHANGED,
            SshFailure.HOST_KEY_UNKNOWN,
            SshFailure.FORWARDING_FORBIDDEN,
        }


# What OpenSSH writes to stderr for each failure. The first pattern that matches decides: ssh often adds a general line
# ("Host key verification failed", "Connection closed") behind the specific one.
_MESSAGES = (
    (r"REVOKED HOST KEY DETECTED|[Hh]ost key .*revoked by file", SshFailure.HOST_KEY_REVOKED),
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED", SshFailure.HOST_KEY_CHANGED),
    (r"No \S+ host key is known for|authenticity of host", SshFailure.HOST_KEY_UNKNOWN),
    (r"Host key verification failed", SshFailure.HOST_KEY_CHANGED),
    (r"No user exists for uid|You don't exist, go away", SshFailure.NO_LOCAL_USER),
    (r"Too many authentication failures", SshFailure.TOO_MANY_KEYS),
    (r"UNPROTECTED PRIVATE KEY FILE|: bad permissions\b", SshFailure.KEY_TOO_OPEN),
    (r"Permission denied \(", SshFailure.KEY_REFUSED),
    (r"Connection refused", SshFailure.PORT_REFUSED),
    (r"No route to host", SshFailure.NO_ROUTE),
    (r"timed out|Timeout, server", SshFailure.TIMEOUT),
    (r"Could not resolve|Name or service not known", SshFailure.UNKNOWN_NAME),
    (r"Network is unreachable", SshFailure.NO_NETWORK),
    (
        r"connect to host \S+ port \d+: (?:Operation not permitted|Permission denied|Unknown error|"
        r"Connection aborted)",
        SshFailure.BLOCKED,
    ),
    (r"Connection aborted", SshFailure.CLOSED),
    (
        r"Connection closed|Connection reset|kex_exchange_identification|Broken pipe|banner exchange|"
        r"client_loop|lost connection|disconnect",
        SshFailure.CLOSED,
    ),
    (r"administratively prohibited", SshFailure.FORWARDING_FORBIDDEN),
)
_ERRORS: dict[SshFailure, type[UnreachableError]] = {
    SshFailure.PORT_REFUSED: PortRefusedError,
    SshFailure.NO_ROUTE: NoRouteError,
    SshFailure.TIMEOUT: ConnectTimeoutError,
    SshFailure.UNKNOWN_NAME: UnknownNameError,
    SshFailure.NO_NETWORK: NoNetworkError,
    SshFailure.BLOCKED: NoNetworkError,
    SshFailure.CLOSED: ConnectionClosedError,
}


def classify(stderr: str) -> SshFailure | None:
    """The failure that ssh reports in `stderr`, or None if none of its lines is known to be ssh's."""
    for pattern, failure in _MESSAGES:
        if re.search(pattern, stderr):
            return failure
    return None


def was_logged_in(stderr: str) -> bool:
    """Whether ssh lost the connection after it had logged in. If so, the command may have started."""
    lost = r"^(?:Connection to \S+ closed|client_loop|Read from remote host|Timeout, server|Write failed)"
    return re.search(lost, stderr, re.MULTILINE) is not None


def failure_error(target: Target, failure: SshFailure, stderr: str) -> ApexError:
    """The error for a failure that ssh reported while it connected to `target`."""
    if failure is SshFailure.KEY_REFUSED:
        return key_refused_error(target)
    if failure is SshFailure.KEY_TOO_OPEN:
        found = re.search(r"Permissions .*for '(.+)' are too open|Load key \"(.+)\": bad", stderr)
        # Windows' ssh doubles the backslashes.
        file = (found[1] or found[2]).replace("\\\\", "\\") if found else "of your ssh config"
        return key_unreadable_error(target, Path(file), failure.value, too_open=True)
    if failure is SshFailure.TOO_MANY_KEYS:
        message = (
            f"ssh-agent offered too many other keys first, and {target.alias} disconnected; "
            "remove the keys that you do not use with ssh-add -d"
        )
        return TooManyKeysError(message, hint="ssh-add -l")
    if failure is SshFailure.HOST_KEY_CHANGED:
        shown = _shown_fingerprint(stderr)
        return host_key_changed_error(target, shown=shown, known=["another one"], files=[])
    if failure is SshFailure.HOST_KEY_REVOKED:
        return revoked_host_key_error(target, shown=_shown_fingerprint(stderr), place=None)
    if failure is SshFailure.NO_LOCAL_USER:
        return no_local_user_error(stderr)
    if failure is SshFailure.FORWARDING_FORBIDDEN:
        name = target.host.name
        message = f"the container on {name} forbids ssh to forward ports"
        hint = f"apexgpu ssh {name} -- grep -iE 'forwarding|permitopen' /etc/ssh/sshd_config"
        return RefusedError(message, hint=hint, code="forwarding_forbidden")
    if failure is SshFailure.HOST_KEY_UNKNOWN:
        return unreachable_error(target, failure.value, code="unknown")
    return unreachable_error(target, failure.value, _ERRORS[failure])


def _shown_fingerprint(stderr: str) -> str:
    fingerprint = re.search(r"SHA256:\S+", stderr)
    return fingerprint[0].rstrip(".") if fingerprint else "another key"


def key_refused_error(target: Target) -> ApexError:
    """The error for a login that the server refused with every key that was offered."""
    name = target.host.name
    if target.role == "manage":
        message = f"{target.user} is not registered on {name}, or the key has not reached it yet"
        return NotRegisteredError(message, hint=f"apexgpu register {name}")
    if target.role == "register":
        message = (
            f"the register account on {name} rejected your key: another user's login replaced it"
        )
        return RegisterKeyError(message, hint=f"apexgpu register {name}")
    message = f"the container on {name} rejected your key; a login sends it to every host again"
    return LoginError(message, hint="apexgpu login", code="key_refused")


def key_locked_error(target: Target, file: Path) -> KeyLockedError:
    """The error for a login without the key in `file`, whose passphrase nobody entered."""
    message = f"no login to {target.alias} without the passphrase of {file}, which was not entered"
    return KeyLockedError(message, hint=hints.add_key(file), file=file)


def wrong_passphrase_error(target: Target, file: Path) -> WrongPassphraseError:
    """The error for a login without the key in `file`, because the passphrase that was entered is not its own."""
    message = f"no login to {target.alias}: the passphrase that was entered does not open {file}"
    return WrongPassphraseError(message, hint=hints.add_key(file))


_MOST_OF_A_KEY = 64 * 1024  # bytes: the largest keys have a quarter of that


def key_unreadable_error(
    target: Target, file: Path, reason: str, *, too_open: bool
) -> KeyUnreadableError:
    """The error for a login without the key in `file`, which ssh cannot use."""
    message = f"no login to {target.alias}: ssh cannot use the key {file}: {reason}"
    name = quoted(str(file))
    hint = f"ssh-keygen -y -f {name}"
    if too_open:
        hint = hints.make_private(file)
    elif _has_other_line_ends(file):
        message = f"{message}; it has Windows line endings or no final newline"
        hint = hints.remove_carriage_returns(file)
    return KeyUnreadableError(message, hint=hint)


def _has_other_line_ends(file: Path) -> bool:
    """Whether ssh cannot read a key file because of its line ends alone."""
    from apexgpu.sshfiles.privatekeys import has_line_ends_for_ssh  # few logins fail

    try:
        if not file.is_file():
            return False  # to open a named pipe would wait forever
        with file.open("rb") as stream:
            data = stream.read(_MOST_OF_A_KEY)
    except OSError:
        return False
    is_whole = data.startswith(b"-----BEGIN ") and b"-----END " in data
    return is_whole and not has_line_ends_for_ssh(data)


def nothing_offered_error(target: Target) -> NothingOfferedError:
    """The error for a login that failed because ssh had no key to offer."""
    message = (
        f"no key was offered to {target.alias}: ssh found none in its key files or in ssh-agent; "
        f"to see where it looks: ssh -v {target.alias}"
    )
    return NothingOfferedError(message, hint="apexgpu login")


def silent_agent_error(target: Target, agent: AgentReply) -> SilentAgentError:
    """The error for a login that needs an agent that does not answer."""
    message = f"no login to {target.alias}: {silent_agent_fact(agent)}, and no key file is accepted"
    return SilentAgentError(message, hint="ssh-add -l")


def agent_refused_error(target: Target, reason: str) -> AgentRefusedError:
    """The error for a key that the server would accept, and with which the agent does not sign."""
    message = (
        f"{target.alias} would accept a key of your ssh-agent, but the agent did not sign with it"
    )
    return AgentRefusedError(f"{message}: {reason}", hint="ssh-add -l")


def proxy_error(target: Target, proxy: str, output: str) -> ProxyError:
    """The error for a connection whose jump host or proxy command failed; `output` is what it printed."""
    reason = last_line(output, "it closed the connection")
    message = f"{target.alias} is reached through {proxy}, which failed: {reason}"
    return ProxyError(message, hint=f"ssh -v -o {connect_timeout(10)} {target.alias}")


def revoked_host_key_error(
    target: Target, *, shown: str, place: tuple[Path, int] | None
) -> RevokedHostKeyError:
    """The error for a host key that is marked as revoked, in a file and on a line of it if they are known."""
    where = "in a file that your ssh config names"
    hint = f"ssh -G {target.alias}"
    if place is not None:
        file, line = place
        where = f"in {file}, line {line}"
        hint = hints.show_line(file, line)
    message = (
        f"the host key of {target.alias}, {shown}, is revoked {where}; nothing was sent. "
        "Ask the administrators for the new key"
    )
    return RevokedHostKeyError(message, hint=hint)


def command_timeout_error(target: Target, seen: str) -> CommandTimeoutError:
    """The error for a command that did not finish in time; `seen` is its output until then."""
    last = last_line(seen, "nothing")[-80:]
    message = f"{target.alias} accepted the login, but did not finish in time; last output: {last}"
    hint = f"apexgpu status {target.host.name}"
    if target.role != "container":
        # A manage shell asks IAM for the user's port before it prints anything. doctor checks both.
        hint = f"apexgpu doctor {target.host.name}"
    return CommandTimeoutError(message, hint=hint, seen=seen)


def command_killed_error(target: Target, out: str, err: str) -> CommandKilledError:
    """The error for a command in a container that a signal ended: a stop, or the kernel's OOM killer."""
    message = f"the command on {target.alias} was ended by a signal (out of memory?)"
    return CommandKilledError(message, hint=f"apexgpu status {target.host.name}", seen=out, err=err)


def host_key_changed_error(
    target: Target,
    *,
    shown: str,
    known: Sequence[str],
    files: Sequence[Path],
    name: str | None = None,
    key: PublicKey | None = None,
) -> ChangedHostKeyError:
    """The error for a host key that is not the known one; fingerprints in OpenSSH's SHA256 form.

    `name` is what the known_hosts `files` call the host, by default its alias.
    """
    known_hosts_file = ", ".join(str(file) for file in files[:1])
    known_fingerprints = " or ".join(known)
    message = (
        f"the host key of {target.alias} has changed: it shows {shown}, "
        f"known is {known_fingerprints} ({known_hosts_file}); nothing was sent; ask the administrators "
        "whether this change is theirs before you trust it"
    )
    hint = hints.show_known_host_key(name or target.alias, files[0] if files else None)
    return ChangedHostKeyError(message, hint=hint, key=key)


def too_much_output_error(target: Target, limit: int) -> TooMuchOutputError:
    """The error for a command that printed more than `limit` bytes, and was ended."""
    message = f"{target.alias} sent more than {size(limit)}, and the rest was not read"
    return TooMuchOutputError(message, hint=f"apexgpu doctor {target.host.name}")


def stalled_login_error(
    target: Target, *, logged_in: bool = False, detail: str = ""
) -> UnreachableError:
    """The error for a server that exchanged keys and then fell silent. Too slow is not refused."""
    reason = "the login did not finish in time"
    if logged_in:
        reason = "it accepted the login but opened no session in time"
    return unreachable_error(target, reason + detail, StalledLoginError)


def unreachable_error(
    target: Target,
    reason: str,
    kind: type[UnreachableError] = UnreachableError,
    *,
    code: str | None = None,
) -> UnreachableError:
    """An error of class `kind` for a target that cannot be reached, with the hint that fits it."""
    host = target.host
    if kind is NoRouteError and (explanation := localnetwork.explanation(current())):
        # From there, nobody can tell a stale forward from a permission that is missing: doctor asks the host too.
        message = f"{target.alias} ({host.address}): {reason}; {explanation}"
        return kind(message, hint=f"apexgpu doctor {host.name}", code=code)
    if target.role != "container":
        message = f"{host.name} ({host.address}): {reason}"
        return kind(message, hint=f"apexgpu doctor {host.name}", code=code)
    message = f"the container on {host.name} ({host.address} port {target.port}): {reason}"
    hint = f"apexgpu status {host.name}"
    if kind is PortRefusedError:
        message += " (it is stopped, or its port is not forwarded)"
        hint = f"apexgpu up {host.name}"
    elif kind is NoRouteError:
        # The host forwards the port to an address that the container had before it was last started.
        message += "; ask the administrators to clear the stale forward of your port"
        hint = f"apexgpu doctor {host.name}"
    return kind(message, hint=hint, code=code)
