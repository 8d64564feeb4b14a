"""Faults of the lab: which kinds there are, and which are set where, for how many occasions."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from apexgpu.errors import UsageError
from apexgpu_lab.socketowners import identifies_clients

IAM = "iam"

HOST_KINDS = MappingProxyType(
    {
        "refuse": "the manage port refuses connections (with --times: resets that many)",
        "dead": "every port of the host is closed and its open connections are cut",
        "silent": "connections are accepted, but nothing is ever sent",
        "slow": "connections are answered seconds late",
        "denied": "every public key is refused",
        "drop": "the connection is cut in the middle of the next command",
        "reboot": "the host restarts in the middle of the next command: what ran is dead, containers are stopped",
        "garble": "the manage shell prints something unknown",
        "hang": "logins succeed, and the manage shell waits for IAM for ever",
        "iam-down": "the manage shell cannot reach IAM",
        "no-address": "containers get no address: a start polls for ever",
        "no-forward": "ports of running containers are no longer forwarded, nor does a start forward them",
        "start-fails": "containers do not start",
        "driver-mismatch": "a start finds another NVIDIA driver and no installer for it",
        "driver-install": "a start finds another NVIDIA driver and installs the host's",
        "expired-token": "every token is dead when it is printed",
        "nas-full": "the NAS has no room: a snapshot is cut short, with words on stderr only",
        "nas-readonly": "the NAS is mounted read-only",
        "damaged-archive": "snapshots are truncated without an error message",
        "user-not-made": "a recover cannot make the user in the container, but prints Done",
        "two-addresses": "running containers have a second address, which breaks the port commands",
        "no-port-command": "an older manage shell without the port command",
        "register-overwritten": "another user's push has replaced the keys of register (once; a push restores them)",
        "half-made": "accounts are half-made: an ordinary login shell and no container (clear: they are deleted)",
        "host-key-changed": "the host shows another host key",
        "gpu-mismatch": "nvidia-smi finds a driver of another version than its library's",
        "gpu-lost": "nvidia-smi finds a GPU that is lost",
        "gpu-none": "nvidia-smi finds no GPU",
        "gpu-no-driver": "there is no nvidia-smi in the containers",
        "gpu-hang": "nvidia-smi never answers",
        "gpu-wrong": "TensorFlow computes wrong numbers on the GPUs",
        "no-internet": "apt and pip in the containers cannot reach their servers",
        "apt-locked": "another apt is at work in the containers",
    }
)

IAM_KINDS = MappingProxyType(
    {
        "down": "connections are refused",
        "hang": "connections are accepted and requests never answered",
        "slow": "requests are answered seconds late",
        "stuck-pusher": "pushes of keys never end (also set by a dead host; clear: an administrator restarts it)",
        "html": "an HTML page instead of the ssh config",
        "garbled-config": "an ssh config with lines that nobody should believe",
        "db-locked": "storing keys fails with status 500",
        "empty-password": "an empty password is accepted, as by a directory that allows unauthenticated binds",
    }
)


# Every kind by its name; what it does to IAM, where it does something there, comes last.
KINDS = MappingProxyType(
    {
        kind: "; ".join(
            part
            for part in (
                HOST_KINDS.get(kind),
                f"{IAM}: {IAM_KINDS[kind]}" if kind in IAM_KINDS else None,
            )
            if part
        )
        for kind in (*HOST_KINDS, *(kind for kind in IAM_KINDS if kind not in HOST_KINDS))
    }
)

ONCE = frozenset({"register-overwritten"})  # events: with "until cleared" nothing could undo them


class ActiveFaults:
    """The faults that are set now.

    `changed(where, kind)` is called when a fault is set or ends. `where` is a host or "iam".
    """

    def __init__(self, changed: Callable[[str, str], None]) -> None:
        self._left: dict[tuple[str, str], int | None] = {}
        self._changed = changed

    def set(self, where: str, kind: str, times: int | None = None) -> None:
        """Set a fault, for `times` occasions or until it is cleared. Raises UsageError."""
        check(where, kind)
        if kind == "empty-password" and not identifies_clients():
            # The password is what keeps other users of this machine out.
            raise UsageError(
                "empty-password is not possible on this system: any user could log in to the lab",
                hint="apexgpu lab fault --list",
            )
        if times is not None and times < 1:
            raise UsageError(
                f"a fault cannot happen {times} times", hint="leave --times out: until cleared"
            )
        self._left[where, kind] = 1 if times is None and kind in ONCE else times
        self._changed(where, kind)

    def clear(self, where: str, kind: str) -> None:
        """Clear a fault; one that is not set is ignored."""
        check(where, kind)
        if (where, kind) in self._left:
            del self._left[where, kind]
            self._changed(where, kind)

    def is_active(self, where: str, kind: str) -> bool:
        """Tell whether a fault is set, without using up an occasion."""
        return (where, kind) in self._left

    def is_counted(self, where: str, kind: str) -> bool:
        """Tell whether a fault is set for a limited number of occasions."""
        return self._left.get((where, kind)) is not None

    def trigger(self, where: str, kind: str) -> bool:
        """Tell whether a fault happens now; if so, use up one of its occasions."""
        if (where, kind) not in self._left:
            return False
        left = self._left[where, kind]
        if left is not None:
            if left > 1:
                self._left[where, kind] = left - 1
            else:
                self.clear(where, kind)
        return True

    def to_json(self) -> list[dict[str, Any]]:
        """Return the faults as `{"host", "kind", "times"}`; `times` is None if set until cleared."""
        return [
            {"host": where, "kind": kind, "times": left}
            for (where, kind), left in self._left.items()
        ]


def check(where: str, kind: str) -> None:
    """Raise UsageError unless `kind` can be set at `where`."""
    if kind not in (IAM_KINDS if where == IAM else HOST_KINDS):
        place = "iam" if where == IAM else "a host"
        raise UsageError(f"{kind!r} is not a fault of {place}", hint="apexgpu lab fault --list")
