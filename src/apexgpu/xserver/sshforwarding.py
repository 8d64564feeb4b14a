"""X11 forwarding by ssh: the command line, and what the log of `ssh -v` reports about it. Pure.

The log's texts are those of OpenSSH's clientloop.c, ssh.c, channels.c and session.c.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from apexgpu.ssh import sshoptions

TIMEOUT = "1w"
"""How long ssh admits new windows of untrusted programs. Its default of 20 minutes ends in the middle of a working day;
with 0 the X server forgets the authorization 60 s after the last window closed (Xsecurity(7), docs/decisions.md)."""


@dataclass(frozen=True, slots=True)
class SshLog:
    """What `ssh -v` reported about X11.

    made_up: xauth had no cookie, so the X server must admit this account without one.
    unreached: why ssh could not connect to the X server on the laptop; "" if it could.
    opened: how many connections the program's windows made.
    killed: the signal that ended ssh itself; 0 if none did.
    ended: the program in the container ended; `signalled` if a signal ended it.
    """

    requested: bool = False
    refused: bool = False
    untrusted_failed: bool = False
    no_display: bool = False
    made_up: bool = False
    expired: bool = False
    rejected: bool = False
    unreached: str = ""
    opened: int = 0
    no_xauth_there: bool = False
    denied_by_key: bool = False
    killed: int = 0
    ended: bool = False
    signalled: bool = False

    @property
    def reports_broken_link(self) -> bool:
        """Whether something between the program and the X server failed; the checks find out what."""
        return (
            not self.requested
            or self.refused
            or self.untrusted_failed
            or self.rejected
            or bool(self.unreached)
        )


@dataclass(frozen=True, slots=True)
class ForwardingOptions:
    """How ssh is to forward X11.

    xauth: the path of xauth, where ssh would not find it itself; "" otherwise.
    terminal: the program gets a terminal. background: ssh reads no input.
    batch: ssh asks no questions, and no other forwarding or local command of the user's config is used.
    connect: seconds the container may take to connect.
    """

    trusted: bool
    xauth: str = ""
    compress: bool = False
    terminal: bool = False
    background: bool = False
    batch: bool = False
    connect: float = 10


def ssh_options(options: ForwardingOptions) -> list[str]:
    """The values for ssh's `-o`. All are set, because configs differ: Debian's ssh trusts programs by default.

    A shared connection is never used, because it has the X11 settings of the command that opened it.
    """
    settings = [
        "ForwardX11=yes",
        f"ForwardX11Trusted={'yes' if options.trusted else 'no'}",
        f"ForwardX11Timeout={TIMEOUT}",
        *sshoptions.NOT_SHARED,
        "RemoteCommand=none",
        *sshoptions.keep_alive(15, 4),
        sshoptions.connect_timeout(options.connect),
    ]
    if options.batch:
        settings += [sshoptions.NO_PROMPT, "ClearAllForwardings=yes", "PermitLocalCommand=no"]
    if options.xauth:
        settings.append(f"XAuthLocation={options.xauth}")
    return settings


def ssh_command(
    ssh_arguments: Sequence[str], command: str, options: ForwardingOptions, *, log: str
) -> list[str]:
    """The argument list that runs `command` with its windows on the laptop.

    `ssh_arguments` lead to the container. ssh's own messages go to the file `log`, so that they
    cannot be mistaken for the program's.
    """
    arguments = ["ssh", "-v", "-E", log, "-t" if options.terminal else "-T"]
    if options.compress:
        arguments.append("-C")
    if options.background:
        arguments.append("-n")
    return [*arguments, *sshoptions.arguments(ssh_options(options)), *ssh_arguments, command]


def parse_log(log: str) -> SshLog:
    """Read the log of `ssh -v`."""
    lines = log.replace("\r", "").splitlines()

    def has(pattern: str) -> bool:
        return any(re.search(pattern, line) for line in lines)

    key_options = [line for line in lines if ": key options:" in line]
    key_forbids = bool(key_options) and "x11-forwarding" not in key_options[-1]
    return SshLog(
        requested=has(r"^debug1: Requesting X11 forwarding"),
        refused=has(r"^X11 forwarding request failed on channel"),
        untrusted_failed=has(r"untrusted X11 forwarding setup failed"),
        no_display=has(r"X11 forwarding requested but DISPLAY not set|^DISPLAY .* invalid"),
        made_up=has(r"No xauth data; using fake authentication data"),
        expired=has(r"Rejected X11 connection after ForwardX11Timeout expired"),
        rejected=has(r"X11 connection (rejected because of|uses different) (wrong )?auth"),
        unreached=_first_group(r"connect (\S+(?: port \d+)?: .+)", lines),
        opened=sum("client_request_x11: request from" in line for line in lines),
        no_xauth_there=has(r"Remote: No xauth program"),
        denied_by_key=has(r"Remote: .*X11 forwarding disabled") or key_forbids,
        killed=int(_first_group(r"Killed by signal (\d+)\.", lines) or 0),
        ended=has(r"channel 0 rtype exit-(status|signal)"),
        signalled=has(r"channel 0 rtype exit-signal"),
    )


def _first_group(pattern: str, lines: Sequence[str]) -> str:
    """The group of `pattern` in the first line that begins with it; "" if none does."""
    for line in lines:
        match = re.match(pattern, line)
        if match is not None:
            return match[1]
    return ""
