"""Keys in every form that people have: `ssh HOST true` and `apexgpu status` agree on each."""

import contextlib
import getpass
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests import agents, openssh
from tests.real.agreement import Laptop, certify, keygen, logged_in, publish, run

from apexgpu.ssh.history import FILE_NAME

pytestmark = pytest.mark.openssh

KEYS = Path(__file__).parent.parent / "data" / "keys"
ED25519 = ("-t", "ed25519")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openssh.OpenSSH]:
    directory = tmp_path_factory.mktemp("server")
    authority = keygen(tmp_path_factory.mktemp("authority") / "ca", *ED25519)
    started = openssh.start(directory, extra=f"TrustedUserCAKeys {authority}.pub")
    started.answer("help", "07-up-running")
    (directory / "authority").write_text(str(authority))
    yield started
    started.stop()


@dataclass
class Desk:
    """What a form has to work with: a laptop, and what ends when the test does."""

    laptop: Laptop
    directory: Path
    authority: Path
    ends: contextlib.ExitStack
    allowed: list[Path] = field(default_factory=list)

    def offer(self, path: Path, public: Path | None = None) -> Path:
        """Name the key in the config, and let the server accept it."""
        self.laptop.lines.append(f'IdentityFile "{str(path).replace("%", "%%")}"')
        self.allowed.append(public or Path(f"{path}.pub"))
        return path

    def agent(self, *keys: Path, name: str = "agent") -> str:
        """A real agent with `keys`, which no variable and no line names yet."""
        short = self.ends.enter_context(agents.short_directory())
        return self.ends.enter_context(agents.running(short / name, *keys))


@pytest.fixture
def desk(server: openssh.OpenSSH, tmp_path: Path) -> Iterator[Desk]:
    authority = Path((server.directory / "authority").read_text())
    directory = tmp_path / "laptop"
    with contextlib.ExitStack() as ends:
        yield Desk(Laptop(directory, server), directory, authority, ends)


Form = Callable[[Desk], object]


def file(*words: str, name: str = "id", mode: int | None = None) -> Form:
    """A key of ssh-keygen's that the config names."""

    def make(desk: Desk) -> None:
        path = desk.offer(keygen(desk.directory / name, *words))
        if mode is not None:
            path.chmod(mode)

    return make


def openssl(algorithm: str, *words: str) -> Form:
    """A key of `openssl genpkey`: PKCS#8."""

    def make(desk: Desk) -> None:
        path = desk.directory / "id"
        run("openssl", "genpkey", "-algorithm", algorithm, "-out", str(path), *words)
        path.chmod(0o600)
        # ssh may not be able to read it, but openssl can convert it.
        known = keygen(desk.directory / "other", *ED25519).with_name("other.pub")
        with contextlib.suppress(Exception):
            known = publish(path)
        desk.offer(path, known)

    return make


def changed(change: Callable[[bytes], bytes], *words: str) -> Form:
    """A key file whose bytes were changed; the public half beside it is removed."""

    def make(desk: Desk) -> None:
        path = keygen(desk.directory / "id", *(words or ED25519))
        public = Path(f"{path}.pub").rename(desk.directory / "elsewhere")
        path.write_bytes(change(path.read_bytes()))
        desk.offer(path, public)

    return make


def certificate(*words: str, foreign: bool = False, authorized: bool = True) -> Form:
    """A key with a certificate beside it."""

    def make(desk: Desk) -> None:
        path = desk.offer(keygen(desk.directory / "id", *ED25519))
        authority = desk.authority
        if foreign:
            authority = keygen(desk.directory / "foreign", *ED25519)
        certify(path, authority, *words)
        if not authorized:
            desk.allowed[:] = [keygen(desk.directory / "other", *ED25519).with_name("other.pub")]

    return make


def certificate_file(desk: Desk) -> None:
    path = desk.offer(keygen(desk.directory / "id", *ED25519))
    made = certify(path, desk.authority, "-n", getpass.getuser())
    elsewhere = made.rename(desk.directory / "certificate")
    desk.laptop.lines.append(f"CertificateFile {elsewhere}")
    desk.allowed[:] = [keygen(desk.directory / "other", *ED25519).with_name("other.pub")]


def certificate_in_agent(desk: Desk) -> None:
    path = keygen(desk.directory / "id", *ED25519)
    certify(path, desk.authority, "-n", getpass.getuser())
    desk.laptop.environment["SSH_AUTH_SOCK"] = desk.agent(path)
    desk.allowed.append(keygen(desk.directory / "other", *ED25519).with_name("other.pub"))


def in_agent(*words: str, passphrase: str = "") -> Form:
    def make(desk: Desk) -> None:
        path = keygen(desk.directory / "id", *words)
        desk.laptop.environment["SSH_AUTH_SOCK"] = desk.agent(path)
        desk.allowed.append(Path(f"{path}.pub"))
        path.unlink()
        if passphrase:
            keygen(path, *words, passphrase=passphrase)

    return make


def public_half(identities_only: bool) -> Form:
    """The config names the public half; the private half is in the agent, with other keys before it."""

    def make(desk: Desk) -> None:
        others = [keygen(desk.directory / f"other{number}", *ED25519) for number in range(3)]
        path = keygen(desk.directory / "id", *ED25519)
        desk.laptop.environment["SSH_AUTH_SOCK"] = desk.agent(*others, path)
        path.unlink()
        desk.offer(Path(f"{path}.pub"), Path(f"{path}.pub"))
        if identities_only:
            desk.laptop.lines.append("IdentitiesOnly yes")

    return make


def identity_agent(value: Callable[[str], str], variable: str = "") -> Form:
    """IdentityAgent names the agent; SSH_AUTH_SOCK is not set, or names another."""

    def make(desk: Desk) -> None:
        path = keygen(desk.directory / "id", *ED25519)
        socket = desk.agent(path, name="a b")
        desk.laptop.lines.append(f"IdentityAgent {value(socket)}")
        if variable:
            desk.laptop.environment[variable] = socket
        desk.allowed.append(Path(f"{path}.pub"))

    return make


def with_good_key(form: Form) -> Form:
    """Something odd first, then a key that works."""

    def make(desk: Desk) -> None:
        form(desk)
        desk.allowed.clear()
        desk.offer(keygen(desk.directory / "good", *ED25519))

    return make


def path_of(make: Callable[[Path], object]) -> Form:
    """Something in the place of a key file. The server accepts another key."""

    def form(desk: Desk) -> None:
        path = desk.directory / "odd"
        make(path)
        desk.offer(path, keygen(desk.directory / "other", *ED25519).with_name("other.pub"))

    return form


def stub(desk: Desk) -> None:
    """The files of a hardware key; no hardware."""
    for suffix in ("", ".pub"):
        shutil.copy(KEYS / f"id_ed25519_sk{suffix}", desk.directory / f"sk{suffix}")
    (desk.directory / "sk").chmod(0o600)
    desk.offer(desk.directory / "sk")


def stored(name: str, *, authorized: bool = False) -> Form:
    """A key of tests/data/keys: forms that not every ssh-keygen makes, or makes in time."""

    def make(desk: Desk) -> None:
        path = desk.directory / name
        shutil.copy(KEYS / name, path)
        path.chmod(0o600)
        if authorized:
            desk.offer(path, publish(path))
            return
        desk.offer(path, keygen(desk.directory / "other", *ED25519).with_name("other.pub"))

    return make


def line(text: str) -> Form:
    """A key that works, and a line in the config."""

    def make(desk: Desk) -> None:
        desk.offer(keygen(desk.directory / "id", *ED25519))
        desk.laptop.lines.append(text.format(directory=desk.directory))

    return make


def link(desk: Desk) -> None:
    keygen(desk.directory / "real", *ED25519)
    (desk.directory / "link").symlink_to("real")
    desk.offer(desk.directory / "link", desk.directory / "real.pub")


def other_public_half(desk: Desk) -> None:
    path = desk.offer(keygen(desk.directory / "id", *ED25519), desk.directory / "right.pub")
    Path(f"{path}.pub").rename(desk.directory / "right.pub")
    keygen(desk.directory / "other", *ED25519)
    (desk.directory / "other.pub").rename(f"{path}.pub")


def broken_public_half(desk: Desk) -> None:
    path = desk.offer(keygen(desk.directory / "id", *ED25519), desk.directory / "right.pub")
    shutil.copy(f"{path}.pub", desk.directory / "right.pub")
    Path(f"{path}.pub").write_text("nothing\n")


# A form, and whether ssh logs in with it; None where that depends on its version.
FORMS: dict[str, tuple[Form, bool | None]] = {
    "ed25519": (file(*ED25519), True),
    "rsa 1024": (file("-t", "rsa", "-b", "1024"), True),
    "rsa 3072": (file("-t", "rsa"), True),
    "rsa 16384": (stored("rsa16384", authorized=True), True),
    "rsa 4096": (file("-t", "rsa", "-b", "4096"), True),
    "ecdsa 256": (file("-t", "ecdsa", "-b", "256"), True),
    "ecdsa 384": (file("-t", "ecdsa", "-b", "384"), True),
    "ecdsa 521": (file("-t", "ecdsa", "-b", "521"), True),
    "rsa PEM": (file("-t", "rsa", "-m", "PEM"), True),
    "rsa PKCS8": (file("-t", "rsa", "-m", "PKCS8"), True),
    "rsa RFC4716": (file("-t", "rsa", "-m", "RFC4716"), True),
    "ecdsa PEM": (file("-t", "ecdsa", "-m", "PEM"), True),
    "ecdsa 521 PKCS8": (file("-t", "ecdsa", "-b", "521", "-m", "PKCS8"), True),
    "openssl rsa": (openssl("rsa", "-pkeyopt", "rsa_keygen_bits:2048"), True),
    "openssl ec": (openssl("EC", "-pkeyopt", "ec_paramgen_curve:P-256"), None),
    "openssl ed25519": (openssl("ed25519"), None),
    "comment with blanks": (file(*ED25519, "-C", "王芳's  key # 1"), True),
    "empty comment": (file(*ED25519, "-C", ""), True),
    "long comment": (file(*ED25519, "-C", "x" * 900), True),
    "name with blank and percent": (file(*ED25519, name="my 100% 键"), True),
    "read only": (file(*ED25519, mode=0o400), True),
    "world readable": (file(*ED25519, mode=0o644), False),
    "group readable": (file(*ED25519, mode=0o640), False),
    "executable": (file(*ED25519, mode=0o700), True),
    "world readable PEM": (file("-t", "rsa", "-m", "PEM", mode=0o604), False),
    "symlink": (link, True),
    "no public half": (changed(lambda data: data), True),
    "no public half, PEM": (changed(lambda data: data, "-t", "rsa", "-m", "PEM"), True),
    "broken public half": (broken_public_half, True),
    "public half of another key": (other_public_half, False),
    "Windows line ends": (changed(lambda data: data.replace(b"\n", b"\r\n")), None),
    "no final newline": (changed(lambda data: data.rstrip(b"\n")), None),
    "text before": (changed(lambda data: b"my key\n" + data), None),
    "text after": (changed(lambda data: data + b"my key\n"), None),
    "truncated": (changed(lambda data: data[: len(data) // 2]), False),
    "one byte changed": (changed(lambda data: data.replace(b"AAAA", b"AAAB", 1)), False),
    "NUL at the end": (changed(lambda data: data + b"\0"), None),
    "truncated PEM": (changed(lambda data: data[:400], "-t", "rsa", "-m", "PEM"), False),
    "empty": (path_of(lambda path: path.touch(mode=0o600)), False),
    "directory": (path_of(Path.mkdir), False),
    "absent": (path_of(lambda _path: None), False),
    "symlink loop": (path_of(lambda path: path.symlink_to(path)), False),
    "huge": (path_of(lambda path: path.write_bytes(b"x" * (3 << 20))), False),
    "device": (path_of(lambda path: path.symlink_to("/dev/null")), False),
    "garbage": (path_of(lambda path: path.write_bytes(bytes(range(256)))), False),
    "OpenSSH header alone": (
        path_of(lambda path: path.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")),
        False,
    ),
    "hardware key without hardware": (stub, False),
    "chacha20, nobody to ask": (stored("ed25519-chacha20"), False),
    "aes256-gcm, nobody to ask": (stored("ed25519-aes256-gcm"), False),
    "hardware key, then a good one": (with_good_key(stub), True),
    "chacha20, then a good one": (with_good_key(stored("ed25519-chacha20")), True),
    "directory, then a good one": (with_good_key(path_of(Path.mkdir)), True),
    "garbage, then a good one": (
        with_good_key(path_of(lambda path: path.write_bytes(b"\xff" * 99))),
        True,
    ),
    "certificate of another organisation": (
        certificate("-n", "somebody", "-V", "-2w:-1w", foreign=True),
        True,
    ),
    "expired certificate": (certificate("-n", "root", "-V", "-2w:-1w"), True),
    "valid certificate, key not authorized": (
        certificate("-n", getpass.getuser(), authorized=False),
        True,
    ),
    "certificate for another account, key not authorized": (
        certificate("-n", "nobody-at-all", authorized=False),
        False,
    ),
    "CertificateFile": (certificate_file, True),
    "certificate in the agent": (certificate_in_agent, True),
    "agent": (in_agent(*ED25519), True),
    "agent, rsa": (in_agent("-t", "rsa"), True),
    "agent, ecdsa 384": (in_agent("-t", "ecdsa", "-b", "384"), True),
    "public half, key in the agent": (public_half(identities_only=False), True),
    "public half, key in the agent, IdentitiesOnly": (public_half(identities_only=True), True),
    "IdentityAgent in quotes": (identity_agent('"{}"'.format), True),
    "IdentityAgent with a token": (identity_agent(lambda path: f'"%d/../{path}"'), True),
    "IdentityAgent $VARIABLE": (identity_agent(lambda _: "$MY_AGENT", "MY_AGENT"), True),
    "IdentityAgent ${VARIABLE}": (identity_agent(lambda _: "${MY_AGENT}", "MY_AGENT"), True),
    "IdentityAgent SSH_AUTH_SOCK": (
        identity_agent(lambda _: "SSH_AUTH_SOCK", "SSH_AUTH_SOCK"),
        True,
    ),
    "IdentityAgent none": (identity_agent(lambda _: "none", "SSH_AUTH_SOCK"), False),
    "IdentityAgent that is not there": (line("IdentityAgent /nothing/here"), True),
    "PKCS11Provider that is not there": (line("PKCS11Provider {directory}/none.so"), True),
    "SecurityKeyProvider that is not there": (
        line("SecurityKeyProvider {directory}/none.so"),
        True,
    ),
    "PubkeyAcceptedAlgorithms without it": (line("PubkeyAcceptedAlgorithms rsa-sha2-512"), False),
    "PubkeyAuthentication no": (line("PubkeyAuthentication no"), False),
    "PreferredAuthentications password": (line("PreferredAuthentications password"), False),
    "IdentitiesOnly": (line("IdentitiesOnly yes"), True),
    "KexAlgorithms of its own": (line("KexAlgorithms ecdh-sha2-nistp384"), True),
}


@pytest.mark.parametrize("name", FORMS)
def test_ssh_and_apexgpu_agree_on_a_key(
    name: str,
    desk: Desk,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    form, expected = FORMS[name]
    form(desk)
    desk.laptop.authorize(*desk.allowed)
    by_ssh = desk.laptop.ssh_logs_in()
    assert expected in {None, by_ssh}
    row = desk.laptop.status(capsys, monkeypatch)
    assert logged_in(row) is by_ssh, row
    assert "itself failed" not in desk.laptop.err
    history = Path(os.environ["APEXGPU_STATE_DIR"]) / FILE_NAME
    if history.exists() and json.loads(history.read_text())["openssh"]:
        # The next run has what this one has learnt.
        assert logged_in(desk.laptop.status(capsys, monkeypatch)) is by_ssh


@pytest.mark.parametrize("name", ["ed25519-chacha20", "ed25519-aes256-gcm"])
def test_a_key_that_is_accepted_and_locked_is_not_refused(
    name: str,
    desk: Desk,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored(name)(desk)
    path = desk.directory / name
    public = desk.directory / "public"
    public.write_bytes(run("ssh-keygen", "-y", "-P", "secret12", "-f", str(path)))
    desk.laptop.authorize(public)
    error = desk.laptop.status(capsys, monkeypatch)["error"]
    assert error is not None
    assert (error["code"], error["hint"]) == ("key_locked", f"ssh-add {path}")


def test_a_silent_agent_is_named_and_a_key_file_still_works(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = desk.ends.enter_context(agents.short_directory())
    socket = desk.ends.enter_context(agents.hanging(short / "agent"))
    desk.laptop.environment["SSH_AUTH_SOCK"] = socket
    desk.offer(keygen(desk.directory / "id", *ED25519))
    desk.laptop.authorize(*desk.allowed)
    assert logged_in(desk.laptop.status(capsys, monkeypatch))
    assert desk.laptop.err.count(socket) == 1
    assert "does not answer" in desk.laptop.err


@pytest.mark.parametrize("line_", ["", "IdentitiesOnly yes", "ProxyJump none"])
def test_a_silent_agent_is_not_a_refusal(
    desk: Desk,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line_: str,
) -> None:
    short = desk.ends.enter_context(agents.short_directory())
    socket = desk.ends.enter_context(agents.hanging(short / "agent"))
    desk.laptop.environment["SSH_AUTH_SOCK"] = socket
    desk.laptop.lines += [f"IdentityFile {desk.directory}/absent", line_]
    row = desk.laptop.status(capsys, monkeypatch)
    assert row["error"]["code"] == "agent_silent"
    assert socket in row["error"]["message"]


def test_a_pipe_in_the_place_of_a_key_is_skipped_and_never_opened(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(desk.directory / "pipe")
    desk.laptop.lines.append(f"IdentityFile {desk.directory}/pipe")
    row = desk.laptop.status(capsys, monkeypatch)
    assert row["error"]["code"] == "key_unreadable"
    assert f"{desk.directory}/pipe" in row["error"]["message"]
    desk.offer(keygen(desk.directory / "id", *ED25519))
    desk.laptop.authorize(*desk.allowed)
    assert logged_in(desk.laptop.status(capsys, monkeypatch))


REASONS: dict[str, tuple[str, str]] = {
    "world readable": ("key_unreadable", "chmod 600"),
    "absent": ("no_key", "apexgpu login"),
    "empty": ("key_unreadable", "ssh-keygen -y"),
    "symlink loop": ("no_key", "apexgpu login"),
    "truncated": ("key_unreadable", "ssh-keygen -y"),
    "IdentityAgent none": ("no_key", "apexgpu login"),
    "PubkeyAuthentication no": ("no_key", "apexgpu login"),
    "hardware key without hardware": ("key_unreadable", "ssh-keygen -y"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_was_not_offered_is_not_refused(
    name: str,
    desk: Desk,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    form, _ = FORMS[name]
    form(desk)
    desk.laptop.authorize(*desk.allowed)
    error = desk.laptop.status(capsys, monkeypatch)["error"]
    code, hint = REASONS[name]
    assert error is not None
    assert (error["code"], error["hint"][: len(hint)]) == (code, hint)
