"""What a known_hosts file means for a login: ssh and apexgpu give the same verdict, each against a real sshd."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import openssh
from tests.real.agreement import Laptop, certify, keygen, logged_in, run

pytestmark = pytest.mark.openssh


@dataclass(frozen=True)
class Names:
    """What a known_hosts file is made of: the server's name with its port, its keys, an authority, another key."""

    name: str
    address: str
    port: int
    key: str
    rsa: str
    authority: str
    other: str
    directory: Path

    def hashed(self, text: str) -> str:
        """The same lines with hashed names, as `ssh-keygen -H` writes them."""
        file = self.directory / "to-hash"
        file.write_text(text)
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
        return file.read_text()


def public(path: Path) -> str:
    kind, blob = path.with_name(f"{path.name}.pub").read_text().split()[:2]
    return f"{kind} {blob}"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an RSA host key and its certificate, the authority that signed it, and another key."""
    directory = tmp_path_factory.mktemp("keys")
    keygen(directory / "rsa", "-t", "rsa")
    keygen(directory / "authority", "-t", "ed25519")
    keygen(directory / "other", "-t", "ed25519")
    sign = ("ssh-keygen", "-q", "-s", str(directory / "authority"), "-I", "x", "-h", "-n")
    run(*sign, "127.0.0.1,lab-machine", str(directory / "rsa.pub"))
    return directory


@pytest.fixture(scope="module")
def plain_server(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[openssh.OpenSSH]:
    """A server with an ed25519 key and an RSA key."""
    started = openssh.start(tmp_path_factory.mktemp("server"), extra=f"HostKey {keys}/rsa")
    started.answer("help", "07-up-running")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def signed_server(
    tmp_path_factory: pytest.TempPathFactory, keys: Path
) -> Iterator[openssh.OpenSSH]:
    """A server that also shows a certificate. ssh prefers it to keys, also where it knows no authority."""
    extra = f"HostKey {keys}/rsa\nHostCertificate {keys}/rsa-cert.pub"
    started = openssh.start(tmp_path_factory.mktemp("signed"), extra=extra)
    started.answer("help", "07-up-running")
    yield started
    started.stop()


@pytest.fixture
def server(
    request: pytest.FixtureRequest, plain_server: openssh.OpenSSH, signed_server: openssh.OpenSSH
) -> openssh.OpenSSH:
    """The server for a row of the tables below."""
    return signed_server if "authority" in request.node.name else plain_server


@pytest.fixture
def names(server: openssh.OpenSSH, keys: Path, tmp_path: Path) -> Names:
    return names_of(server, keys, tmp_path, key=public(server.directory / "host_key"))


def names_of(server: openssh.OpenSSH, keys: Path, directory: Path, *, key: str) -> Names:
    host = server.host
    return Names(
        f"[{host.address}]:{host.manage_port}",
        host.address,
        host.manage_port,
        key,
        public(keys / "rsa"),
        public(keys / "authority"),
        public(keys / "other"),
        directory,
    )


Text = Callable[[Names], str | bytes]
PLAIN: Text = lambda n: f"{n.name} {n.key}\n"  # noqa: E731 - the most common row

# What the file contains, and whether ssh logs in. There is no row where apexgpu is stricter: OpenSSH has the final say.
FILES: dict[str, tuple[Text, bool]] = {
    "plain": (PLAIN, True),
    "absent": (lambda _: "", False),
    "another key": (lambda n: f"{n.name} {n.other}\n", False),
    "another name": (lambda n: f"[127.0.0.2]:{n.port} {n.key}\n", False),
    "another port": (lambda n: f"[127.0.0.1]:1 {n.key}\n", False),
    "the name without the port": (lambda n: f"127.0.0.1 {n.key}\n", True),
    "another key without the port": (lambda n: f"127.0.0.1 {n.other}\n", False),
    "both with and without the port, different keys": (
        lambda n: f"{n.name} {n.key}\n127.0.0.1 {n.other}\n",
        True,
    ),
    "port 22 written out": (lambda n: f"[127.0.0.1]:22 {n.key}\n", False),
    "several names": (lambda n: f"gpu2,{n.name},10.0.0.1 {n.key}\n", True),
    "comment behind": (lambda n: f"{n.name} {n.key} root@gpu2 # x\n", True),
    "tabs": (lambda n: f"{n.name}\t{n.key}\n", True),
    "indented": (lambda n: f" \t {n.name} {n.key}\n", True),
    "CRLF": (lambda n: f"# mine\r\n{n.name} {n.key}\r\n", True),
    "CRLF with a comment": (lambda n: f"{n.name} {n.key} x\r\n", True),
    "CR alone between lines": (lambda n: f"# mine\r{n.name} {n.key}\n", False),
    "no last newline": (lambda n: f"{n.name} {n.key}", True),
    "byte order mark": (lambda n: f"\ufeff{n.name} {n.key}\n", False),
    "byte order mark and a line before": (lambda n: f"\ufeff# x\n{n.name} {n.key}\n", True),
    "UTF-16": (lambda n: f"{n.name} {n.key}\n".encode("utf-16"), False),
    "Latin-1 comment": (lambda n: f"# \xe9\n{n.name} {n.key} \xfc\n".encode("latin-1"), True),
    "star": (lambda n: f"* {n.key}\n", True),
    "glob": (lambda n: f"[127.0.0.*]:{n.port} {n.key}\n", True),
    "question mark": (lambda n: f"[127.0.0.?]:{n.port} {n.key}\n", True),
    "glob for the port": (lambda n: f"[127.0.0.1]:* {n.key}\n", True),
    "glob without the port": (lambda n: f"127.0.0.* {n.key}\n", True),
    "brackets are no set": (lambda n: f"[127.0.0.[1]]:{n.port} {n.key}\n", False),
    "negated; the star is the name without the port": (lambda n: f"*,!{n.name} {n.key}\n", True),
    "negated first": (lambda n: f"!{n.name},[* {n.key}\n", False),
    "negated, and a line of its own": (
        lambda n: f"*,!{n.name} {n.other}\n{n.name} {n.key}\n",
        True,
    ),
    "only a negation": (lambda n: f"!gpu9 {n.key}\n", False),
    "negated glob": (lambda n: f"[127.*,![127.0.0.*]:* {n.key}\n", False),
    "capitals": (lambda n: f"GPU2,{n.name.upper()} {n.key}\n", True),
    "hashed": (lambda n: n.hashed(f"{n.name} {n.key}\n"), True),
    "hashed, another key": (lambda n: n.hashed(f"{n.name} {n.other}\n"), False),
    "hashed without the port": (lambda n: n.hashed(f"127.0.0.1 {n.key}\n"), True),
    "hashed, damaged": (lambda n: n.hashed(f"{n.name} {n.key}\n").replace("|1|", "|2|"), False),
    "hashed, cut": (lambda n: "|1|abc " + n.key + "\n", False),
    "hashed and plain": (
        lambda n: n.hashed(f"{n.name} {n.other}\n") + f"{n.name} {n.key}\n",
        True,
    ),
    "old key, then the right one": (lambda n: f"{n.name} {n.other}\n{n.name} {n.key}\n", True),
    "right key, then an old one": (lambda n: f"{n.name} {n.key}\n{n.name} {n.other}\n", True),
    "of two types": (lambda n: f"{n.name} {n.rsa}\n{n.name} {n.key}\n", True),
    "only RSA": (lambda n: f"{n.name} {n.rsa}\n", True),
    "RSA known, ed25519 wrong": (lambda n: f"{n.name} {n.rsa}\n{n.name} {n.other}\n", False),
    "revoked": (lambda n: f"@revoked {n.name} {n.key}\n", False),
    "revoked and known": (lambda n: f"{n.name} {n.key}\n@revoked {n.name} {n.key}\n", False),
    "revoked for all": (lambda n: f"@revoked * {n.key}\n{n.name} {n.key}\n", False),
    "revoked, hashed": (
        lambda n: n.hashed(f"{n.name} {n.key}\n") + "@revoked " + n.hashed(f"{n.name} {n.key}\n"),
        False,
    ),
    "revoked, with a NUL behind": (
        lambda n: f"{n.name} {n.key}\n@revoked * {n.key}\0x\n",
        False,
    ),
    "revoked, damaged": (lambda n: f"{n.name} {n.key}\n@revoked * {n.key[:-9]}!\n", True),
    "another key revoked": (lambda n: f"@revoked * {n.other}\n{n.name} {n.key}\n", True),
    "revoked for another host": (lambda n: f"@revoked gpu9 {n.key}\n{n.name} {n.key}\n", True),
    "authority": (lambda n: f"@cert-authority {n.name} {n.authority}\n", True),
    "authority for all": (lambda n: f"@cert-authority * {n.authority}\n", True),
    "authority without the port": (lambda n: f"@cert-authority 127.0.0.1 {n.authority}\n", True),
    "authority for another host": (lambda n: f"@cert-authority gpu9 {n.authority}\n", False),
    "another authority": (lambda n: f"@cert-authority * {n.other}\n", False),
    "the authority as a host key": (lambda n: f"{n.name} {n.authority}\n", False),
    "authority revoked": (
        lambda n: f"@cert-authority * {n.authority}\n@revoked * {n.authority}\n",
        False,
    ),
    "the host key as an authority": (lambda n: f"@cert-authority * {n.key}\n", False),
    "unknown marker": (lambda n: f"@trusted {n.name} {n.key}\n", False),
    "marker alone": (lambda n: f"@revoked\n{n.name} {n.key}\n", True),
    "marker without a blank": (lambda n: f"@revoked{n.name} {n.key}\n{n.name} {n.key}\n", True),
    "two markers": (lambda n: f"@revoked @revoked {n.name} {n.key}\n{n.name} {n.key}\n", True),
    "comment line": (lambda n: f"#{n.name} {n.key}\n", False),
    "empty lines": (lambda n: f"\n\n  \n{n.name} {n.key}\n\n", True),
    "name alone": (lambda n: f"{n.name}\n{n.name} {n.key}\n", True),
    "broken key": (lambda n: f"{n.name} ssh-ed25519 !!!!\n", False),
    "broken key, then the right one": (
        lambda n: f"{n.name} ssh-ed25519 !!!!\n{n.name} {n.key}\n",
        True,
    ),
    "another type before the blob": (
        lambda n: f"{n.name} ssh-rsa {n.key.split()[1]}\n",
        False,
    ),
    "unknown type": (lambda n: f"{n.name} ssh-new AAAA\n{n.name} {n.key}\n", True),
    "cut in the blob": (lambda n: f"{n.name} {n.key[:-8]}\n", False),
    "NUL line": (lambda n: f"\0\n{n.name} {n.key}\n", True),
    "NUL before": (lambda n: f"\0{n.name} {n.key}\n", False),
    "NUL behind the name": (lambda n: f"{n.name}\0 {n.key}\n", True),
    "NUL behind the key": (lambda n: f"{n.name} {n.key}\0\n", True),
    "NUL in the comment": (lambda n: f"{n.name} {n.key} x\0y\n", True),
    "huge": (
        lambda n: f"gpu9 {n.other}\n" * 50_000 + f"{n.name} {n.key}\n",
        True,
    ),
    "one long line": (lambda n: "x," * 100_000 + f"{n.name} {n.key}\n", True),
    "one long name": (lambda n: "x" * 3_000 + f",{n.name} {n.key}\n", False),
    "the sign of Kelvin": (lambda n: f"\u212a,{n.name} {n.key}\n", True),
}


@pytest.mark.parametrize("what", FILES)
def test_ssh_and_apexgpu_give_the_same_verdict(
    what: str,
    server: openssh.OpenSSH,
    names: Names,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make, expected = FILES[what]
    laptop = new_laptop(server, tmp_path)
    text = make(names)
    data = text if isinstance(text, bytes) else text.encode()
    (laptop.directory / "known_hosts").write_bytes(data)
    by_ssh = laptop.ssh_logs_in()
    assert by_ssh is expected
    row = laptop.status(capsys, monkeypatch)
    assert logged_in(row) is by_ssh, row
    if not by_ssh:
        assert row["error"]["code"].startswith("host_key_"), row
    # Nothing that ssh did not write itself.
    assert (laptop.directory / "known_hosts").read_bytes() == data


# Lines of the config, with two files: the first is empty unless the row says otherwise.
LINES: dict[str, tuple[str, Text, Text, bool]] = {
    "two files, the first knows it": ("", PLAIN, lambda _: "", True),
    "two files, the second knows it": ("", lambda _: "", PLAIN, True),
    "two files, the second revokes it": (
        "",
        PLAIN,
        lambda n: f"@revoked * {n.key}\n",
        False,
    ),
    "two files, the first has an old key": (
        "",
        lambda n: f"{n.name} {n.other}\n",
        PLAIN,
        True,
    ),
    "alias": ("HostKeyAlias lab-machine", lambda n: f"lab-machine {n.key}\n", lambda _: "", True),
    "alias, the address known": ("HostKeyAlias lab-machine", PLAIN, lambda _: "", False),
    "alias of an authority": (
        "HostKeyAlias lab-machine",
        lambda n: f"@cert-authority lab-* {n.authority}\n",
        lambda _: "",
        True,
    ),
    "alias in capitals": (
        "HostKeyAlias LAB-machine",
        lambda n: f"lab-machine {n.key}\n",
        lambda _: "",
        True,
    ),
    "algorithms without the known one": (
        "HostKeyAlgorithms rsa-sha2-512",
        PLAIN,
        lambda _: "",
        False,
    ),
    "algorithms in an order of their own": (
        "HostKeyAlgorithms rsa-sha2-512,ssh-ed25519",
        PLAIN,
        lambda _: "",
        False,
    ),
    "algorithms without one": ("HostKeyAlgorithms -ssh-ed25519", PLAIN, lambda _: "", False),
    "algorithms with one more": ("HostKeyAlgorithms +ssh-rsa", PLAIN, lambda _: "", True),
    "revoked in RevokedHostKeys": (
        "RevokedHostKeys {directory}/revoked",
        PLAIN,
        lambda _: "",
        False,
    ),
    "RevokedHostKeys that is not there": (
        "RevokedHostKeys {directory}/nothing",
        PLAIN,
        lambda _: "",
        False,
    ),
    "KnownHostsCommand": (
        "KnownHostsCommand /bin/cat {directory}/printed",
        lambda _: "",
        lambda _: "",
        True,
    ),
    "CheckHostIP": ("CheckHostIP yes", PLAIN, lambda _: "", True),
    "hashed names": ("HashKnownHosts yes", PLAIN, lambda _: "", True),
}


@pytest.mark.parametrize("what", LINES)
def test_ssh_and_apexgpu_give_the_same_verdict_with_options(
    what: str,
    server: openssh.OpenSSH,
    names: Names,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line, first, second, expected = LINES[what]
    laptop = new_laptop(server, tmp_path)
    for name, make in {"known_hosts": first, "second": second}.items():
        text = make(names)
        assert isinstance(text, str)
        (laptop.directory / name).write_text(text)
    (laptop.directory / "revoked").write_text(f"{names.key}\n")
    (laptop.directory / "printed").write_text(f"{names.name} {names.key}\n")
    laptop.more_known_hosts = [laptop.directory / "second"]
    laptop.lines.append(line.format(directory=laptop.directory))
    by_ssh = laptop.ssh_logs_in()
    assert by_ssh is expected
    row = laptop.status(capsys, monkeypatch)
    assert logged_in(row) is by_ssh, row


# How the authority signed the server's only key, what known_hosts has besides the authority, and whether ssh logs in.
CERTIFICATES: dict[str, tuple[tuple[str, ...], Text, bool | None]] = {
    "valid": (("-n", "127.0.0.1"), lambda _: "", True),
    "valid for one of several names": (("-n", "gpu9,127.0.0.1,lab"), lambda _: "", True),
    "expired": (("-n", "127.0.0.1", "-V", "-2w:-1w"), lambda _: "", False),
    "not valid yet": (("-n", "127.0.0.1", "-V", "+1w:+2w"), lambda _: "", False),
    "for another name": (("-n", "gpu9"), lambda _: "", False),
    "for no name": ((), lambda _: "", None),
    "for a glob": (("-n", "127.0.*"), lambda _: "", None),
    "for a network": (("-n", "127.0.0.0/8"), lambda _: "", False),
    "expired, the key known": (("-n", "127.0.0.1", "-V", "-2w:-1w"), PLAIN, None),
    "for another name, the key known": (("-n", "gpu9"), PLAIN, None),
    "valid, the key revoked": (
        ("-n", "127.0.0.1"),
        lambda n: f"@revoked * {n.key}\n",
        False,
    ),
    "valid, the authority revoked": (
        ("-n", "127.0.0.1"),
        lambda n: f"@revoked * {n.authority}\n",
        False,
    ),
    "valid, the authority revoked, the key known": (
        ("-n", "127.0.0.1"),
        lambda n: f"{PLAIN(n)!s}@revoked * {n.authority}\n",
        None,
    ),
    "valid, another key known": (
        ("-n", "127.0.0.1"),
        lambda n: f"{n.name} {n.other}\n",
        True,
    ),
}


@pytest.mark.parametrize("what", CERTIFICATES)
def test_ssh_and_apexgpu_give_the_same_verdict_on_a_certificate_of_the_host(
    what: str,
    keys: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, more, expected = CERTIFICATES[what]
    signed = keygen(tmp_path / "signed", "-t", "ecdsa")
    certify(signed, keys / "authority", "-h", *words)
    extra = f"HostKey {signed}\nHostCertificate {signed}-cert.pub"
    server = openssh.start(tmp_path / "server", extra=extra)
    server.answer("help", "07-up-running")
    try:
        names = names_of(server, keys, tmp_path, key=public(signed))
        laptop = new_laptop(server, tmp_path)
        authority = f"@cert-authority * {names.authority}\n"
        (laptop.directory / "known_hosts").write_text(f"{authority}{more(names)!s}")
        by_ssh = laptop.ssh_logs_in()
        row = laptop.status(capsys, monkeypatch)
    finally:
        server.stop()
    assert expected in {None, by_ssh}
    assert logged_in(row) is by_ssh, row
    if by_ssh:
        return
    message = row["error"]["message"]
    if "revoked" in what:
        assert row["error"]["code"] == "host_key_revoked"
        assert f"revoked in {laptop.directory}/known_hosts, line " in message
    else:
        assert row["error"]["code"] == "host_key_unknown"
        assert "its certificate is not valid: " in message


def new_laptop(server: openssh.OpenSSH, directory: Path) -> Laptop:
    laptop = Laptop(directory / "laptop", server)
    laptop.lines.append(f"IdentityFile {server.directory}/id_ed25519")
    return laptop


def error_of(
    laptop: Laptop,
    known_hosts: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    (laptop.directory / "known_hosts").write_text(known_hosts)
    error = laptop.status(capsys, monkeypatch)["error"]
    assert isinstance(error, dict)
    return error


def test_a_revoked_key_is_named_with_its_file_and_line(
    server: openssh.OpenSSH,
    names: Names,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    laptop = new_laptop(server, tmp_path)
    text = f"# mine\n{names.name} {names.key}\n@revoked * {names.key}\n"
    error = error_of(laptop, text, capsys, monkeypatch)
    assert error["code"] == "host_key_revoked"
    assert f"revoked in {laptop.directory}/known_hosts, line 3;" in error["message"]
    assert error["message"].count("SHA256:") == 1


def test_a_changed_key_is_named_with_both_fingerprints(
    server: openssh.OpenSSH,
    names: Names,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    laptop = new_laptop(server, tmp_path)
    error = error_of(laptop, f"{names.name} {names.other}\n", capsys, monkeypatch)
    assert error["code"] == "host_key_changed"
    shown, known = run_fingerprints(tmp_path, names.key, names.other)
    assert f"it shows {shown}, known is {known} " in error["message"]


def test_an_unknown_key_is_a_question_for_the_user(
    server: openssh.OpenSSH,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = error_of(new_laptop(server, tmp_path), "", capsys, monkeypatch)
    assert error["code"] == "host_key_unknown"


def run_fingerprints(directory: Path, *keys: str) -> list[str]:
    """The fingerprints of public keys, as ssh-keygen prints them."""
    found = []
    for key in keys:
        file = directory / "to-print"
        file.write_text(f"{key}\n")
        found.append(run("ssh-keygen", "-lf", str(file)).decode().split()[1])
    return found
