"""The user's keys, wherever they are: the one to log in with, and a list of all with their places."""

import base64
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from apexgpu.iam.publickeys import fingerprint, parse_all, parse_key
from apexgpu.models import PublicKey
from apexgpu.process import Runner
from apexgpu.results import JsonObject
from apexgpu.sshfiles.agentquery import AgentReply, AgentState, agent_socket, ask_agent
from apexgpu.sshfiles.keyfiles import read_public_files, read_public_half
from apexgpu.sshfiles.keys import KeyPair, discover, pairs_from_files, preference, why_unusable
from apexgpu.sshfiles.offeredkeys import OfferedKeys


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


@dataclass(frozen=True, slots=True)
class FoundKeys:
    """The user's usable keys, best first: those that ssh offers to the lab's hosts, and all others.

    `silent_agents` did not answer, so their keys are not known. `assigned` are keys that the ssh
    config has for other servers, each with the name of one; they are in neither list.
    """

    offered: tuple[KeyPair, ...]
    others: tuple[KeyPair, ...]
    silent_agents: tuple[str, ...] = ()
    assigned: tuple[tuple[KeyPair, str], ...] = ()

    def best(self, stored: str) -> KeyPair | None:
        """Return the key pair to log in with, None if there is none.

        Keys that ssh offers come first, and of these a key that IAM has in `stored`
        (authorized_keys text).
        """
        stored_blobs = {key.blob for key in parse_all(stored)}
        for pairs in (self.offered, self.others):
            for pair in pairs:
                if pair.public.blob in stored_blobs:
                    return pair
            if pairs:
                return pairs[0]
        return None

    def without_keys_of_others(
        self, files: Mapping[Path, str], *, configured: Sequence[Path], stored: str
    ) -> "FoundKeys":
        """Return the same, with the keys that the config assigns to other servers in `assigned`.

        `files` are their files, each with a server's name; `configured` are the files that the
        config names for the lab. A key that IAM has in `stored` is one for the lab too.
        """
        allowed = {key.blob for key in parse_all(stored)}
        allowed |= _public_blobs(configured).keys()
        servers = _public_blobs(files)
        offered: list[KeyPair] = []
        others: list[KeyPair] = []
        assigned: list[tuple[KeyPair, str]] = []
        for pairs, kept in ((self.offered, offered), (self.others, others)):
            for pair in pairs:
                file = servers.get(pair.public.blob)
                if file is None or pair.public.blob in allowed:
                    kept.append(pair)
                else:
                    assigned.append((pair, files[file]))
        return replace(self, offered=tuple(offered), others=tuple(others), assigned=tuple(assigned))


def find_keys(offered: OfferedKeys, directory: Path, runner: Runner) -> FoundKeys:
    """Find the keys that a login can use, in what ssh offers and in `directory`.

    `directory` is that of the ssh config. The keys of ~/.ssh count too if it has none.
    """
    agent_keys, silent = ask_agents(offered)
    found = _offered_pairs(offered.files, agent_keys, runner)
    in_agent = []
    if not offered.identities_only:
        in_agent = _pairs_in_agent(agent_keys)
    default_directory = Path.home() / ".ssh"
    others = discover(directory, [], runner)
    if offered.files_are_configured:
        # The user's own lines come first, in their order.
        found += in_agent
    else:
        # ssh's default files and the agent are equal. The keys beside an ssh config elsewhere
        # come before both: that config is for them.
        found = sorted(found + in_agent, key=preference)
        if directory != default_directory:
            found = [*others, *found]
    if directory != default_directory:
        others += discover(default_directory, [], runner)
    unique = _unique(found, files=others)
    blobs = {pair.public.blob for pair in unique}
    rest = [pair for pair in _unique(others) if pair.public.blob not in blobs]
    return FoundKeys(_with_comments(unique, default_directory), tuple(rest), silent)


def ask_agents(
    offered: OfferedKeys, ask: Callable[[str], AgentReply] = ask_agent
) -> tuple[tuple[PublicKey, ...], tuple[str, ...]]:
    """Return the keys of the agents that ssh asks, and the agents that do not answer in time.

    The agents are named by their values of IdentityAgent. `ask` asks the one at a socket.
    """
    keys: list[PublicKey] = []
    silent = []
    for agent in offered.agents:
        reply = ask(agent_socket(agent, os.environ))
        if reply.state in {AgentState.SILENT, AgentState.BROKEN}:
            silent.append(agent)
        for held in reply.keys:
            blob = base64.b64encode(held.blob).decode("ascii")
            key = parse_key(f"{held.kind} {blob} {held.comment}")
            if key is not None:
                keys.append(key)
    return tuple(keys), tuple(silent)


def list_known_keys(
    offered: OfferedKeys, directory: Path, stored: str, runner: Runner, *, login_fingerprint: str
) -> tuple[KnownKey, ...]:
    """Return every key that IAM (`stored`), the files on this laptop or an agent have.

    The files are those that ssh offers, and those in `directory`. `login_fingerprint` is that of
    the last login's key, "" if there was none.
    """
    known: dict[str, KnownKey] = {}
    for key, source, path in _find_keys(offered, directory, stored, runner):
        mark = fingerprint(key)
        entry = known.get(mark) or KnownKey(mark, key.kind, key.comment)
        known[mark] = entry.found_in(source, path)
    if login_fingerprint in known:
        known[login_fingerprint] = known[login_fingerprint].found_in("login")
    return tuple(known.values())


def _find_keys(
    offered: OfferedKeys, directory: Path, stored: str, runner: Runner
) -> Iterator[tuple[PublicKey, str, Path | None]]:
    """Yield each key with a place that has it, and its private file."""
    for key in parse_all(stored):
        yield key, "iam", None
    agent_keys, _silent = ask_agents(offered)
    files = _offered_pairs(offered.files, agent_keys, runner)
    for pair in [*discover(directory, agent_keys, runner), *files]:
        yield pair.public, "laptop" if pair.path else "agent", pair.path
    for key in agent_keys:
        yield key, "agent", None


def _offered_pairs(
    files: Sequence[Path], agent_keys: Sequence[PublicKey], runner: Runner
) -> list[KeyPair]:
    """The pairs that ssh makes of IdentityFile values: private files, or the agent's keys by their public files."""
    from_files = {pair.path: pair for pair in pairs_from_files(files, runner)}
    in_agent = {key.blob: key for key in agent_keys}
    pairs = []
    for path in files:
        pair = from_files.get(path)
        if pair is None:
            public = read_public_half(path)
            if public is None or public.blob not in in_agent or why_unusable(public):
                continue
            pair = KeyPair(None, public, "agent", encrypted=False)
        elif pair.public.blob in in_agent:
            pair = replace(pair, source="agent")
        pairs.append(pair)
    return pairs


def _public_blobs(files: Iterable[Path]) -> dict[str, Path]:
    """The public keys of IdentityFile values, as far as they can be read, each with its file."""
    blobs = {}
    for path in files:
        public = read_public_half(path)
        if public is not None:
            blobs[public.blob] = path
    return blobs


def _pairs_in_agent(agent_keys: Sequence[PublicKey]) -> list[KeyPair]:
    pairs = []
    for key in agent_keys:
        if why_unusable(key) is None:
            pairs.append(KeyPair(None, key, "agent", encrypted=False))
    return sorted(pairs, key=preference)


def _unique(pairs: Sequence[KeyPair], *, files: Sequence[KeyPair] = ()) -> list[KeyPair]:
    """The pairs without repetitions of a key. A key in a file and in the agent is one pair.

    `files` are pairs that may have the private file of a key that only the agent seems to have.
    """
    unique: dict[str, KeyPair] = {}
    for pair in pairs:
        earlier = unique.setdefault(pair.public.blob, pair)
        if "agent" in {pair.source, earlier.source}:
            with_file = earlier if earlier.path is not None else pair
            unique[pair.public.blob] = replace(with_file, source="agent")
    for pair in files:
        known = unique.get(pair.public.blob)
        if known is not None and known.path is None:
            unique[pair.public.blob] = replace(pair, source="agent")
    return list(unique.values())


def _with_comments(pairs: Sequence[KeyPair], directory: Path) -> tuple[KeyPair, ...]:
    """The pairs with the comments of the .pub files in `directory`, where only the agent has the key."""
    comments = {key.blob: key.comment for key in read_public_files(directory)}
    named = []
    for pair in pairs:
        if pair.path is None and pair.public.blob in comments:
            public = replace(pair.public, comment=comments[pair.public.blob])
            pair = replace(pair, public=public)
        named.append(pair)
    return tuple(named)
