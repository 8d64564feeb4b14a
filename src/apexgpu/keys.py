"""The ssh keys that IAM stores for you: list, add, remove. IAM pushes them to all hosts.

    from apexgpu import keys
    from apexgpu.session import Session

    for key in keys.list_keys(Session()).keys:
        print(key.fingerprint, key.places)

A key is also listed if only this laptop or its ssh-agent has it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from apexgpu import credentials, questions
from apexgpu.credentials import NO_OPTIONS, PasswordOptions
from apexgpu.errors import ConfigError, DeclinedError, UsageError
from apexgpu.iam import publickeys
from apexgpu.iam.client import IamClient
from apexgpu.iam.publickeys import fingerprint, parse_all
from apexgpu.models import Host, PublicKey
from apexgpu.results import JsonObject, Result
from apexgpu.session import Session
from apexgpu.sshfiles.keys import read_public
from apexgpu.sshfiles.offeredkeys import OfferedKeys, find_offered_keys
from apexgpu.sshfiles.userkeys import KnownKey, list_known_keys


@dataclass(frozen=True)
class KeyList(Result):
    """What `list_keys` returns."""

    keys: tuple[KnownKey, ...]

    def to_json(self) -> JsonObject:
        """A row for each key."""
        return {"ok": True, "keys": [key.to_json() for key in self.keys]}


@dataclass(frozen=True)
class KeyAdded(Result):
    """What `add` returns; `changed` is False if IAM had the key."""

    fingerprint: str
    changed: bool

    def to_json(self) -> JsonObject:
        """`changed` and the key's fingerprint."""
        return {"ok": True, "changed": self.changed, "fingerprint": self.fingerprint}


@dataclass(frozen=True)
class KeyRemoved(Result):
    """What `remove` returns. `fingerprint` is None if IAM has no key that starts with `wanted`."""

    wanted: str
    fingerprint: str | None = None
    changed: bool = False

    def to_json(self) -> JsonObject:
        """`changed`, and the fingerprint of a key that was there."""
        document: JsonObject = {"ok": True, "changed": self.changed}
        if self.fingerprint is not None:
            document["fingerprint"] = self.fingerprint
        return document


def list_keys(session: Session) -> KeyList:
    """Return every key that IAM, this laptop or the agent has."""
    with session.reporter.working("asking IAM"):
        return KeyList(known_keys(session, credentials.read_client(session)))


def add(
    session: Session,
    path: Path,
    *,
    password: PasswordOptions = NO_OPTIONS,
) -> KeyAdded:
    """Add the public key in the file `path` to those that IAM stores.

    Of a private key file, only the public part is used.

    Raises ConfigError (no usable key in the file), LoginError (refused password), RefusedError or
    UnreachableError (IAM), DeclinedError (no consent to plain http, or nobody to ask).
    """
    public = read_public(path, session.runner)
    changed = _change_keys(
        session,
        lambda stored: publickeys.add_key(stored, public),
        password,
    )
    return KeyAdded(fingerprint(public), changed)


def remove(
    session: Session,
    start: str,
    *,
    password: PasswordOptions = NO_OPTIONS,
) -> KeyRemoved:
    """Remove the key whose fingerprint begins with `start` (`SHA256:` is optional) from IAM.

    The hosts remove it with the next push. The user is asked before; for the last key, and for the
    one that this laptop logs in with, the user has to type the account's name. Raises UsageError if several
    keys match, otherwise the errors of `add`.
    """
    stored = credentials.read_client(session).keys_text(session.user) or ""
    digits = start.removeprefix("SHA256:")
    matches: dict[str, PublicKey] = {}
    for key in parse_all(stored):
        if fingerprint(key).removeprefix("SHA256:").startswith(digits):
            matches[fingerprint(key)] = key
    if not matches:
        return KeyRemoved(start)
    if len(matches) > 1 or not digits:
        message = f"{start} is the start of {len(matches)} fingerprints"
        raise UsageError(message, hint="apexgpu keys list")
    [(whole, key)] = matches.items()
    _confirm_removal(session, key, stored)
    changed = _change_keys(
        session,
        lambda text: publickeys.remove_key(text, whole),
        password,
    )
    return KeyRemoved(start, whole, changed)


def _confirm_removal(session: Session, key: PublicKey, stored: str) -> None:
    """Ask before `key` is removed from those that IAM has `stored`. Raises DeclinedError."""
    mark = fingerprint(key)
    name = f"{mark} ({key.comment or key.kind})"
    is_only = all(fingerprint(other) == mark for other in parse_all(stored))
    is_own = mark == session.account.fingerprint
    try:
        if is_only:
            session.confirm_name(session.user, questions.REMOVE_ONLY_KEY.fill(key=name))
        elif is_own:
            session.confirm_name(session.user, questions.REMOVE_OWN_KEY.fill(key=name))
        else:
            session.confirm(questions.REMOVE_KEY.fill(key=name))
    except DeclinedError as error:
        message = error.message
        if session.reporter.can_ask:
            message = f"{message}; IAM still has {name}"
        hint = f"apexgpu keys remove {mark} --yes"
        raise error.with_message(message, hint=hint) from None


def _change_keys(session: Session, change: Callable[[str], str], options: PasswordOptions) -> bool:
    session, client = credentials.password_client(session, options)
    passwords = credentials.password_source(session, options)
    publisher = credentials.key_publisher(session, client, change, passwords)
    changed = credentials.publish(publisher, passwords)
    if changed:
        session.reporter.note_done("IAM has the new list of your keys")
        publisher.confirm(lambda: credentials.follow_own_push(session, client))
    return changed


def known_keys(session: Session, client: IamClient) -> tuple[KnownKey, ...]:
    """Return every key that IAM, this laptop or the agent has; `client` is the way to IAM."""
    try:
        offered = offered_keys(session, session.hosts_known_so_far)
    except ConfigError as error:
        session.reporter.warn(error.message, hint=error.hint)
        offered = OfferedKeys()
    return list_known_keys(
        offered,
        directory(session),
        client.keys_text(session.user) or "",
        session.runner,
        login_fingerprint=session.account.fingerprint,
    )


def offered_keys(session: Session, hosts: Sequence[Host]) -> OfferedKeys:
    """Return which key files and agents ssh uses for `hosts`. Raises ConfigError if ssh cannot tell."""
    return find_offered_keys(session.settings.ssh_config, hosts, session.runner)


def directory(session: Session) -> Path:
    """Return the directory of the user's keys: that of the ssh config."""
    return session.settings.ssh_config.absolute().parent
