"""Where a lab's files lie under its home; what the client reads and the service writes. Cheap to import."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER = "alice"


@dataclass(frozen=True)
class Layout:
    """The paths of one lab."""

    home: Path

    @property
    def marker(self) -> Path:
        """Says that the directory is a lab's, and may be deleted."""
        return self.home / ".apexgpu-lab"

    @property
    def description(self) -> Path:
        """The running lab's lab.json: how to reach it."""
        return self.home / "lab.json"

    @property
    def lock(self) -> Path:
        """Held by the service as long as it lives."""
        return self.home / "lab.lock"

    @property
    def log(self) -> Path:
        """What the service had to say."""
        return self.home / "lab.log"

    @property
    def ssh_config(self) -> Path:
        """The ssh config for the lab's hosts."""
        return self.home / "ssh" / "config"

    @property
    def identity(self) -> Path:
        """The first user's private key."""
        return self.home / "ssh" / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The lab's host keys."""
        return self.home / "ssh" / "known_hosts"

    @property
    def config(self) -> Path:
        """A config directory for an apexgpu that uses the lab."""
        return self.home / "config"

    @property
    def state(self) -> Path:
        """A state directory for it."""
        return self.home / "state"

    def environment(self, iam_url: str) -> dict[str, str]:
        """The variables that make an apexgpu use the lab, and nothing of the user's."""
        return {
            "APEXGPU_IAM_URL": iam_url,
            "APEXGPU_USER": USER,
            "APEXGPU_SSH_CONFIG": str(self.ssh_config),
            "APEXGPU_CONFIG_DIR": str(self.config),
            "APEXGPU_STATE_DIR": str(self.state),
        }

    def read(self) -> dict[str, Any] | None:
        """lab.json, or None when there is none that can be read."""
        try:
            found = json.loads(self.description.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None
