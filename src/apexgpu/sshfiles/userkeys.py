"""The user's keys, wherever they are: the one to log in with, and a list of all with their places."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from apexgpu.iam.publickeys import fingerprint, parse_all
from apexgpu.models import PublicKey
from apexgpu.process import Runner
from apexgpu.results import JsonObject
from apexgpu.sshfiles.agent import list_agent_keys
from apexgpu.sshfiles.keys import KeyPair, discover


@dataclass(frozen=True)
class KnownKey:
    """A public key, and the places that have it: "iam", "laptop" (a file), "agent", "login".

    "login" is the key of the last login. `path` is the private file on this laptop.
    """

    fingerprint: str
    kind: str
    comment: str
    places: tuple[str, ...] = ()
    path: Path | None = None

    def found_in(self, source: str, path: Path | None = None) -> "KnownKey":
        """Return this key with one more place; each place is listed once."""
        places = self.places
        if source not in places:
            places = (*places, source)
        return replace(self, places=places, path=self.path or path)

    def to_json(self) -> JsonObject:
        """One row of `keys list`."""
        return {
            "fingerprint": self.fingerprint,
            "type": self.kind,
            "comment": self.comment,
            "known": list(self.places),
            "path": str(self.path) if self.path else None,
        }


def choose_pair(directory: Path, stored: str, runner: Runner) -> KeyPair | None:
    """Return the key pair to log in with: one that IAM has in `stored`, or the best one.

    `directory` is that of the ssh config, `stored` authorized_keys text. None if there is no pair.
    """
    default_directory = Path.home() / ".ssh"
    # An ssh config elsewhere has its own keys, and the agent's are not among them.
    pairs = discover(directory, [])
    if directory == default_directory or not pairs:
        pairs = discover(default_directory, list_agent_keys(runner))
    stored_blobs = {key.blob for key in parse_all(stored)}
    for pair in pairs:
        if pair.public.blob in stored_blobs:
            return pair
    return pairs[0] if pairs else None


def list_known_keys(
    directory: Path, stored: str, runner: Runner, *, login_fingerprint: str
) -> tuple[KnownKey, ...]:
    """Return every key that IAM (`stored`), the files in `directory` or the agent have.

    `login_fingerprint` is that of the last login's key, "" if there was none.
    """
    known: dict[str, KnownKey] = {}
    for key, source, path in _find_keys(directory, stored, runner):
        mark = fingerprint(key)
        entry = known.get(mark) or KnownKey(mark, key.kind, key.comment)
        known[mark] = entry.found_in(source, path)
    if login_fingerprint in known:
        known[login_fingerprint] = known[login_fingerprint].found_in("login")
    return tuple(known.values())


def _find_keys(
    directory: Path, stored: str, runner: Runner
) -> Iterator[tuple[PublicKey, str, Path | None]]:
    """Yield each key with a place that has it, and its private file."""
    for key in parse_all(stored):
        yield key, "iam", None
    agent_keys = list_agent_keys(runner)
    for pair in discover(directory, agent_keys):
        yield pair.public, "laptop" if pair.path else "agent", pair.path
    for key in agent_keys:
        yield key, "agent", None
