"""What `apexgpu doctor` checks at IAM: whether it answers, knows the user and has the key."""

from collections.abc import Iterator, Sequence

from apexgpu.iam import hostlist
from apexgpu.iam.client import IamClient
from apexgpu.iam.publickeys import fingerprint, parse_all
from apexgpu.iam.urls import is_loopback
from apexgpu.models import Finding, Host
from apexgpu.text import counted

_CHECK = "IAM"


def check_iam(
    client: IamClient,
    user: str,
    *,
    registered: str,
    known_hosts: Sequence[Host],
    networks: Sequence[hostlist.Network],
) -> Iterator[Finding]:
    """Check what IAM has about `user`.

    Args:
        registered: the fingerprint of the key that the last login sent, "" before the first one.
        known_hosts: the hosts as this machine remembers them.
        networks: where the lab's addresses may be.

    Raises:
        ApexError: IAM does not answer, or not as IAM does.
    """
    port = client.port(user)
    if port is None:
        yield Finding.problem(
            _CHECK, f"{client.url} answers, but does not know {user}", f"apexgpu login {user}"
        )
        return
    encryption = ""
    if not client.url.startswith("https://") and not is_loopback(client.url):
        encryption = " without TLS (its responses are checked, but could be forged)"
    yield Finding.ok(_CHECK, f"{client.url} answers{encryption}; {user} has port {port}")
    yield _check_key(client.keys_text(user) or "", registered)
    hosts = hostlist.parse(client.config(user), user=user, networks=networks)
    if hosts != tuple(known_hosts):
        yield Finding.note(
            _CHECK, "it lists other hosts than this machine remembers", "apexgpu config sync"
        )


def _check_key(authorized_keys: str, registered: str) -> Finding:
    fingerprints = [fingerprint(key) for key in parse_all(authorized_keys)]
    if registered and registered not in fingerprints:
        return Finding.problem(
            _CHECK,
            f"it does not have your key {registered} any more: somebody replaced it",
            "apexgpu login",
        )
    fact = f"it has {counted(len(fingerprints), 'key')} of yours"
    if registered:
        fact += ", including this one"
    return Finding.ok(_CHECK, fact)
