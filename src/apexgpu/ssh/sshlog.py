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
_HOST_KEY = re.compile(
    r"^debug1: Server host (?:key|certificate): \S+ (SHA256:[^\s,]+)", re.MULTILINE
)
_AUTHORITY = re.compile(r"^debug1: Server host certificate: .* CA \S+ (SHA256:\S+)", re.MULTILINE)
_INVALID_CERTIFICATE = re.compile(r"^Certificate invalid: (.*)", re.MULTILINE)
_GREETING = re.compile(r"^debug1: kex_exchange_identification: banner line \d+: (.*)", re.MULTILINE)
_SESSION = re.compile(
    r"^debug1: (?:Sending (?:environment|command)|\S+: master session id: )", re.MULTILINE
)
# Not those before the server's version: a proxy command or a jump host may be asking the user for something.
_LAST_WORDS_BEFORE_A_REPLY = (
    "Authenticating to ",
    "SSH2_MSG_KEXINIT sent",
    "expecting SSH2_MSG_",
    "SSH2_MSG_NEWKEYS sent",
    "Will attempt key: ",  # the last of these; the agent has been asked by then
    "SSH2_MSG_SERVICE_ACCEPT received",
    "Offering public key: ",
)
_STILL_POSSIBLE = "debug1: Authentications that can continue: "


@dataclass(frozen=True, slots=True)
class KeyFailure:
    """A key file that ssh could not use, and ssh's reason."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class SshLog:
    """The parsed log. `messages` is what ssh would show without debugging.

    `authenticated`: the login succeeded. `has_session`: after it, the server opened the session for the command.

    `host_key` is the fingerprint of the key that the server showed, `authority` that of the key that signed its
    certificate, and `invalid_certificate` why ssh does not accept that.

    `offered` are the fingerprints of the keys that the server saw; a private key file without a public half is there by
    its path. `accepted` is the file or the name of a key that the server would accept, `accepted_fingerprint` its
    fingerprint. `tried` is the file without a public half that came last: ssh does not ask first whether the server
    would accept it. `greeting` is what the server sent instead of its version.
    """

    messages: str
    connected: bool
    has_version: bool
    exchanged_keys: bool
    authenticated: bool
    has_session: bool
    host_key: str
    authority: str
    invalid_certificate: str
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
    accepted = accepted_fingerprint = tried = ""
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
    return SshLog(
        messages="".join(f"{line}\n" for line in messages),
        connected="debug1: Connection established." in text,
        has_version="debug1: Remote protocol version " in text,
        exchanged_keys="debug1: SSH2_MSG_NEWKEYS received" in text,
        authenticated=is_authenticated(text),
        has_session=has_session(text),
        host_key=_first(_HOST_KEY, text),
        authority=_first(_AUTHORITY, text),
        invalid_certificate=_first(_INVALID_CERTIFICATE, text),
        offered=tuple(offered),
        accepted=accepted,
        accepted_fingerprint=accepted_fingerprint,
        tried=tried,
        not_loaded=tuple(not_loaded),
        greeting=_first(_GREETING, text),
    )


def _first(pattern: re.Pattern[str], text: str) -> str:
    """The group of the first match, "" if there is none."""
    match = pattern.search(text)
    return match[1] if match else ""


def is_authenticated(text: str) -> bool:
    """Whether the login succeeded."""
    return re.search(r"^Authenticated to ", text, re.MULTILINE) is not None


def has_session(text: str) -> bool:
    """Whether the server opened the session, so that the command may have started.

    Only an ssh with a command, or with `sshoptions.SESSION_IS_LOGGED`, tells.
    """
    return _SESSION.search(text) is not None


def is_servers_turn(line: str) -> bool:
    """Whether ssh waits for the server after it has written this line, and for nothing else.

    After the other lines before a login it may also be waiting for its user, who types a passphrase or touches a key.
    """
    return line.startswith(_DEBUG) and line[len(_DEBUG) :].startswith(_LAST_WORDS_BEFORE_A_REPLY)
