"""What a login left behind in the state directory: who, where, which key, which hosts. No secret in it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from apexgpu.files import replace_atomically
from apexgpu.models import Host

_FILE = "account.json"
_NAMES = "hosts"


@dataclass(frozen=True, slots=True)
class Account:
    """The remembered login; every field may be empty before the first one.

    `allow_http` are the URLs to which a password may go without TLS, `left_out` the hosts that `config sync`
    was told to leave out of the ssh config.
    """

    user: str = ""
    iam_url: str = ""
    fingerprint: str = ""
    identity_file: str = ""
    hosts: tuple[Host, ...] = ()
    allow_http: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def remembered(self) -> dict[str, str]:
        """The part that serves as settings."""
        return {"user": self.user, "iam_url": self.iam_url}


def load(state_dir: Path) -> Account:
    """Read it; an absent, damaged or foreign file counts as no login, for `login` writes it anew."""
    try:
        document = json.loads((state_dir / _FILE).read_bytes())
        hosts = tuple(Host(**host) for host in document.pop("hosts"))
        allow_http, left_out = (
            tuple(document.pop(name, ())) for name in ("allow_http", "left_out")
        )
        return Account(hosts=hosts, allow_http=allow_http, left_out=left_out, **document)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Account()


def save(state_dir: Path, account: Account) -> None:
    """Write it, and beside it the host names one a line: what completion can read without parsing."""
    if load(state_dir) == account and (state_dir / _FILE).exists():
        return
    text = json.dumps(asdict(account), indent=1, ensure_ascii=False, sort_keys=True)
    replace_atomically(state_dir / _FILE, text.encode() + b"\n")
    names = "".join(f"{host.name}\n" for host in account.hosts)
    replace_atomically(state_dir / _NAMES, names.encode())


def forget(state_dir: Path) -> bool:
    """Take it away; whether there was one."""
    there = (state_dir / _FILE).exists()
    for name in (_FILE, _NAMES):
        (state_dir / name).unlink(missing_ok=True)
    return there
