"""The names that completion offers: of snapshots, runs, tunnels, mounts, and faults of the lab.

They come from files of the state directory that the last commands left, so they may be old. A file that cannot be read
offers nothing. Nothing heavy is imported: a Tab must be fast.
"""

import json
import os
from collections.abc import Sequence

SNAPSHOT_FILE = "snapshot-names"
"""One line for each snapshot that was listed last: its host, a blank, its name."""


def names(kind: str, directory: str, before: Sequence[str]) -> list[str]:
    """The names of a kind: snapshots, runs, tunnels, mounts, or faults.

    `directory` is the state directory, `before` are the words of the line so far.
    """
    hosts = _lines(directory, "hosts")
    if kind == "snapshots":
        return _snapshots(directory, set(hosts).intersection(before))
    if kind == "runs":
        return _runs(directory)
    if kind == "tunnels":
        return [*_tunnels(directory), *hosts]
    if kind == "mounts":
        return [*hosts, *_mounts(directory)]
    return _faults(before, hosts)


def _lines(directory: str, name: str) -> list[str]:
    try:
        # Not pathlib: its import would take longer than everything else here.
        with open(os.path.join(directory, name), encoding="utf-8") as stream:  # noqa: PTH118, PTH123
            return stream.read().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _json(directory: str, name: str) -> object:
    try:
        return json.loads("\n".join(_lines(directory, name)))
    except (ValueError, RecursionError):
        return None


def _snapshots(directory: str, hosts: set[str]) -> list[str]:
    """All snapshots, or those of the hosts that the line names."""
    found = []
    for line in _lines(directory, SNAPSHOT_FILE):
        host, _, name = line.partition(" ")
        if name and (not hosts or host in hosts):
            found.append(name)
    return found


def _runs(directory: str) -> list[str]:
    document = _json(directory, "runs.json")
    entries = document.get("runs") if isinstance(document, dict) else None
    found: list[str] = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, list) and entry and isinstance(entry[0], str):
            # The newest first.
            found.insert(0, entry[0])
    return found


def _tunnels(directory: str) -> list[str]:
    try:
        files = sorted(os.listdir(os.path.join(directory, "tunnels")))  # noqa: PTH118, PTH208
    except OSError:
        return []
    return [name.removesuffix(".json") for name in files if name.endswith(".json")]


def _mounts(directory: str) -> list[str]:
    document = _json(directory, "mounts.json")
    found = []
    for row in document if isinstance(document, list) else []:
        if isinstance(row, dict) and isinstance(row.get("directory"), str):
            found.append(row["directory"])
    return found


def _faults(before: Sequence[str], hosts: Sequence[str]) -> list[str]:
    """A host or `iam`, and then the kinds of faults there."""
    from apexgpu.completion_table import HOST_FAULTS, IAM_FAULTS

    if "iam" in before:
        return [*IAM_FAULTS]
    if set(hosts).intersection(before):
        return [*HOST_FAULTS]
    return [*hosts, "iam"]
