"""What a login leaves in the state directory: who, where, which key, which hosts. No secrets."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from apexgpu import readers
from apexgpu.errors import UnexpectedError
from apexgpu.files import replace_atomically
from apexgpu.models import Host

_FILE = "account.json"
_HOST_NAMES = "hosts"


@dataclass(frozen=True, slots=True)
class Account:
    """The remembered login. Before the first login, every field is empty.

    `fingerprint` and `identity_file` are the key that login registered; `identity_file` is empty if
    only an agent holds it. `public_key` is the line of its public half. `allow_http` are the URLs
    to which the password may be sent without TLS. `left_out` are the hosts that
    `config sync --except` left out of the ssh config. `registered` are the hosts that have let the user
    log in; `without_key` those of them where the key did not arrive although IAM pushed it twice.
    """

    user: str = ""
    iam_url: str = ""
    fingerprint: str = ""
    identity_file: str = ""
    hosts: tuple[Host, ...] = ()
    allow_http: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    public_key: str = ""
    registered: tuple[str, ...] = ()
    without_key: tuple[str, ...] = ()

    def with_registered(self, names: Collection[str]) -> "Account":
        """The account, also registered on the hosts of these names."""
        everywhere = {*self.registered, *names}
        ordered = [host.name for host in self.hosts if host.name in everywhere]
        return replace(self, registered=tuple(ordered))

    def as_settings(self) -> dict[str, str]:
        """Return the fields that serve as settings, by the setting's name."""
        return {"user": self.user, "iam_url": self.iam_url}


def load(state_dir: Path) -> Account:
    """Return the account of `state_dir`.

    A missing or damaged file counts as "no login": the next login writes it again.
    """
    try:
        document = readers.json_object((state_dir / _FILE).read_bytes(), _FILE)
        return Account(
            user=document.text("user"),
            iam_url=document.text("iam_url"),
            fingerprint=document.text("fingerprint"),
            identity_file=document.text("identity_file"),
            hosts=tuple(_host(host) for host in document.objects("hosts")),
            # Older versions did not write these.
            allow_http=document.texts("allow_http", ()),
            left_out=document.texts("left_out", ()),
            public_key=document.text("public_key", ""),
            registered=document.texts("registered", ()),
            without_key=document.texts("without_key", ()),
        )
    except (OSError, UnexpectedError):
        return Account()


def _host(fields: readers.Fields) -> Host:
    return Host(
        name=fields.text("name"),
        address=fields.text("address"),
        user=fields.text("user"),
        port=fields.port("port") if "port" in fields else None,
        manage_port=fields.port("manage_port") if "manage_port" in fields else 22,
    )


def save(state_dir: Path, account: Account) -> None:
    """Write the account, and beside it a file with one host name a line for the completion."""
    file = state_dir / _FILE
    if file.exists() and load(state_dir) == account:
        return
    fields = asdict(account)
    document = json.dumps(fields, indent=1, ensure_ascii=False, sort_keys=True)
    replace_atomically(file, document.encode() + b"\n")
    names = "".join(f"{host.name}\n" for host in account.hosts)
    replace_atomically(state_dir / _HOST_NAMES, names.encode())


def forget(state_dir: Path) -> bool:
    """Delete what `save` wrote; return whether there was an account."""
    existed = (state_dir / _FILE).exists()
    for name in (_FILE, _HOST_NAMES):
        (state_dir / name).unlink(missing_ok=True)
    return existed
