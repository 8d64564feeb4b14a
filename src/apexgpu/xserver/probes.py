"""Windows of a container on this screen: what a probe is, what ssh is told, and what its words mean. Pure.

A probe says what was found at one link, the fact it rests on, and the line that cures it. The links on this machine
are in `x11local`, those beyond it in `x11there`; their facts come from `x11facts` and `x11session`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from apexgpu.ssh import sshoptions

TIMEOUT = "1w"
"""How long ssh lets new untrusted windows in. Its own 20 minutes end in the middle of a working day; 0 means that
the X server forgets the authorization 60 s after the last window has closed (Xsecurity(7), docs/decisions.md)."""


@dataclass(frozen=True, slots=True)
class SshSaid:
    """What `ssh -v` told about X11. The words are those of OpenSSH's clientloop.c, ssh.c, channels.c and session.c.

    `made_up` says that xauth had no cookie, so that the server has to let this account in without one. `killed` is
    the signal that ended ssh itself; `ended` says that the program there came to its end, `signalled` that a signal
    was it; `opened` counts the windows' connections.
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


@dataclass(frozen=True, slots=True)
class Manner:
    """How ssh is to go: `xauth` is what it has to be told of, `connect` seconds.

    `batch` asks nobody anything and leaves out what the user's config adds; in the `background` nothing is read.
    """

    trusted: bool
    xauth: str = ""
    compress: bool = False
    terminal: bool = False
    background: bool = False
    batch: bool = False
    connect: float = 10


def options(manner: Manner) -> list[str]:
    """The `-o` values that carry windows, whatever a config says (Debian's ssh trusts by default: ssh_config(5) there).

    A connection that is shared with others has their X11 settings, so it is never used.
    """
    found = [
        "ForwardX11=yes",
        f"ForwardX11Trusted={'yes' if manner.trusted else 'no'}",
        f"ForwardX11Timeout={TIMEOUT}",
        *sshoptions.NOT_SHARED,
        "RemoteCommand=none",
        *sshoptions.keep_alive(15, 4),
        sshoptions.connect_timeout(manner.connect),
    ]
    if manner.batch:
        found += [sshoptions.NO_PROMPT, "ClearAllForwardings=yes", "PermitLocalCommand=no"]
    return [*found, f"XAuthLocation={manner.xauth}"] if manner.xauth else found


def argv(where: Sequence[str], command: str, manner: Manner, *, log: str) -> list[str]:
    """The whole command line. ssh's own words go to the file `log`; `where` leads to the container."""
    words = ["ssh", "-v", "-E", log, "-t" if manner.terminal else "-T"]
    words += [*(["-C"] if manner.compress else []), *(["-n"] if manner.background else [])]
    return [*words, *sshoptions.arguments(options(manner)), *where, command]


def read(log: str) -> SshSaid:
    """What the log of `ssh -v` tells."""
    lines = log.replace("\r", "").splitlines()

    def has(pattern: str) -> bool:
        return any(re.search(pattern, line) for line in lines)

    unreached = next(
        (
            found[1]
            for line in lines
            if (found := re.match(r"connect (\S+(?: port \d+)?: .+)", line))
        ),
        "",
    )
    killed = next(
        (int(found[1]) for line in lines if (found := re.match(r"Killed by signal (\d+)\.", line))),
        0,
    )
    keys = [line for line in lines if ": key options:" in line]
    return SshSaid(
        requested=has(r"^debug1: Requesting X11 forwarding"),
        refused=has(r"^X11 forwarding request failed on channel"),
        untrusted_failed=has(r"untrusted X11 forwarding setup failed"),
        no_display=has(r"X11 forwarding requested but DISPLAY not set|^DISPLAY .* invalid"),
        made_up=has(r"No xauth data; using fake authentication data"),
        expired=has(r"Rejected X11 connection after ForwardX11Timeout expired"),
        rejected=has(r"X11 connection (rejected because of|uses different) (wrong )?auth"),
        unreached=unreached,
        opened=sum("client_request_x11: request from" in line for line in lines),
        no_xauth_there=has(r"Remote: No xauth program"),
        denied_by_key=has(r"Remote: .*X11 forwarding disabled")
        or (bool(keys) and "x11-forwarding" not in keys[-1]),
        killed=killed,
        ended=has(r"channel 0 rtype exit-(status|signal)"),
        signalled=has(r"channel 0 rtype exit-signal"),
    )


def blames_x11(said: SshSaid) -> bool:
    """Whether ssh's words say that a link of the chain is broken: the chain tells which."""
    troubles = (
        said.refused,
        said.untrusted_failed,
        said.rejected,
        bool(said.unreached),
        not said.requested,
    )
    return any(troubles)
