"""What an `ssh` process reports about its connection: its log (`-E FILE`, `LogLevel=DEBUG1`), parsed. Pure.

The log distinguishes what the messages for users do not: which keys were offered, whether the server accepted one,
whether the login succeeded before the connection was lost. Lines of ssh's debugging begin with `debug1: `.
"""

import re
from dataclasses import dataclass

_DEBUG = "debug1: "
_OFFERED = re.compile(r"debug1: Offering public key: .*?(SHA256:\S+)")
_ACCEPTED = re.compile(r"debug1: Server accepts key: (.*?)(?: \S+)? (SHA256:\S+)")
_TRIED = re.compile(r"debug1: Trying private key: (.*)")
_NOT_LOADED = re.compile(r'Load key "(.+)": (.*)')
_HOST_KEY = re.compile(r"debug1: Server host key: (\S+) (SHA256:\S+)")
_GREETING = re.compile(r"debug1: kex_exchange_identification: banner line \d+: (.*)")
_STILL_POSSIBLE = "debug1: Authentications that can continue: "


@dataclass(frozen=True, slots=True)
class KeyFailure:
    """A key file that ssh could not use, and ssh's reason."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class SshLog:
    """The parsed log. `messages` is what ssh would show without debugging.

    `host_key` is the fingerprint of the key that the server showed. `offered` are the fingerprints of the keys that the
    server saw; a private key file without a public half is there by its path. `accepted` is the file or the name of a
    key that the server would accept, `accepted_fingerprint` its fingerprint. `tried` is the file without a public half
    that came last: ssh does not ask first whether the server would accept it. `greeting` is what the server sent
    instead of its version.
    """

    messages: str
    connected: bool
    has_version: bool
    authenticated: bool
    host_key: str
    offered: tuple[str, ...]
    accepted: str
    accepted_fingerprint: str
    tried: str
    not_loaded: tuple[KeyFailure, ...]
    greeting: str


def parse(text: str) -> SshLog:
    """Parse a log. Lines that are not known are messages."""
    messages = []
    offered = []
    accepted = accepted_fingerprint = tried = host_key = greeting = ""
    not_loaded = []
    previous_tried = False
    for line in text.splitlines():
        if not line.startswith(_DEBUG):
            messages.append(line)
            failure = _NOT_LOADED.match(line)
            if failure:
                not_loaded.append(KeyFailure(failure[1], failure[2]))
            continue
        # A private key without a public half is not offered first: the server sees its signature.
        offer = _OFFERED.match(line)
        if offer:
            offered.append(offer[1])
            tried = ""
        elif previous_tried and line.startswith(_STILL_POSSIBLE):
            offered.append(tried)
        trial = _TRIED.match(line)
        previous_tried = trial is not None
        if trial:
            tried = trial[1]
        match = _ACCEPTED.match(line)
        if match:
            accepted, accepted_fingerprint = match[1], match[2]
        match = _HOST_KEY.match(line)
        if match:
            host_key = match[2]
        match = _GREETING.match(line)
        if match and not greeting:
            greeting = match[1]
    return SshLog(
        messages="".join(f"{line}\n" for line in messages),
        connected="debug1: Connection established." in text,
        has_version="debug1: Remote protocol version " in text,
        authenticated=is_authenticated(text),
        host_key=host_key,
        offered=tuple(offered),
        accepted=accepted,
        accepted_fingerprint=accepted_fingerprint,
        tried=tried,
        not_loaded=tuple(not_loaded),
        greeting=greeting,
    )


def is_authenticated(text: str) -> bool:
    """Whether the login succeeded, so that the command may have started."""
    return re.search(r"^Authenticated to ", text, re.MULTILINE) is not None
