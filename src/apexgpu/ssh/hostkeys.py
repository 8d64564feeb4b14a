"""The host keys of a target in known_hosts: accepting new ones and replacing old ones.

This module only carries out what was decided elsewhere: by the user, who was shown the
fingerprints, or by a recover, which has read the new keys from the archive over a connection that
was checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apexgpu.models import PublicKey
from apexgpu.ssh.failures import UnknownHostKeyError
from apexgpu.ssh.route import Route
from apexgpu.sshfiles import knownhostsedit
from apexgpu.sshfiles.knownhosts import KnownHosts, is_hashed, lookup_name


def known_hosts_name(route: Route) -> str:
    """Return the name under which known_hosts files list the key of a route."""
    alias = route.option("hostkeyalias")
    if alias and alias != "none":
        return alias
    return lookup_name(route.address, route.port)


def wants_hashed_names(route: Route) -> bool:
    """Whether the user's ssh config asks for hashed names in known_hosts."""
    return route.option("hashknownhosts", "no") == "yes"


@dataclass(frozen=True, slots=True)
class NewHostKey:
    """A host key that no known_hosts file contains.

    `alias` is the ssh name of the target, `name` its name in known_hosts. `file` is where ssh would
    add the key, None when the ssh config keeps no host keys; `configured_files` is the setting that
    decides this.
    """

    alias: str
    name: str
    key: PublicKey
    file: Path | None
    configured_files: str
    hashed: bool


def new_host_keys(errors: Sequence[UnknownHostKeyError]) -> list[NewHostKey]:
    """Return the keys that connections met, each once."""
    unique = {(error.route.target.alias, error.key.blob): error for error in errors}
    return [
        NewHostKey(
            alias=error.route.target.alias,
            name=known_hosts_name(error.route),
            key=error.key,
            file=error.route.new_host_keys_file,
            configured_files=error.route.option("userknownhostsfile", "none"),
            hashed=wants_hashed_names(error.route),
        )
        for error in unique.values()
    ]


def add(file: Path, keys: Sequence[NewHostKey], state_dir: Path) -> None:
    """Add keys to a known_hosts file, and record them, so that `uninstall` can remove them."""
    knownhostsedit.record_added(state_dir, file, [new.name for new in keys])
    entries = [(new.name, new.key) for new in keys]
    knownhostsedit.add(file, entries, hashed=keys[0].hashed)


@dataclass(frozen=True, slots=True)
class KeyChange:
    """The known keys of a target that were replaced, and the key that is known now."""

    old: tuple[PublicKey, ...]
    new: PublicKey


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """The known host keys of one target.

    `name` is its name in known_hosts, `files` are the files that ssh reads, `backups` is the
    directory for their old bytes. `hashed`: the ssh config asks for hashed names.
    """

    name: str
    files: tuple[Path, ...]
    backups: Path
    hashed: bool = False

    @classmethod
    def of(cls, route: Route, state_dir: Path) -> "KnownKeys":
        """The known keys of a route, looked up as ssh itself does."""
        return cls(
            name=known_hosts_name(route),
            files=tuple(route.known_hosts_files),
            backups=state_dir / "known_hosts",
            hashed=wants_hashed_names(route),
        )

    def read(self) -> list[PublicKey]:
        """Return the keys that are known now."""
        return KnownHosts(self.files).keys(self.name)

    def preferred(self, keys: Sequence[PublicKey]) -> PublicKey:
        """Choose one of `keys`: of a type that is known already, else ed25519, else the first."""
        for kind in [*(key.kind for key in self.read()), "ssh-ed25519"]:
            for key in keys:
                if key.kind == kind:
                    return key
        return keys[0]

    def expect_one_of(self, keys: Sequence[PublicKey]) -> KeyChange | None:
        """Replace the known keys if a server with `keys` would be refused; None if it would not.

        A target that was never contacted stays unknown: the user has to confirm its first key.
        """
        known = self.read()
        if not keys or not known:
            return None
        blobs = {key.blob for key in keys}
        outdated = [key for key in known if key.blob not in blobs]
        if not outdated:
            return None
        return self.replace(self.preferred(keys))

    def add(self, key: PublicKey) -> None:
        """Make `key` known beside the old ones, in every file that knows the target."""
        for file in self._files_that_know_it():
            hashed = self.hashed or is_hashed(file)
            knownhostsedit.add(file, [(self.name, key)], hashed=hashed)

    def replace(self, key: PublicKey) -> KeyChange:
        """Make `key` the only known one, in every file that knows the target."""
        old: list[PublicKey] = []
        for file in self._files_that_know_it():
            old += knownhostsedit.replace(file, self.name, key, self.backups)
        unique = tuple(dict.fromkeys(old))  # two files may have had the same key
        return KeyChange(unique, key)

    def _files_that_know_it(self) -> list[Path]:
        return [file for file in self.files if KnownHosts([file]).keys(self.name)]
