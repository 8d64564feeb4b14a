"""Keys as text and as files: what sshd would read, what a user has, what is offered, what is never lost."""

import base64
import os
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from apexgpu.errors import ConfigError, MissingProgramError, UnreachableError, UsageError
from apexgpu.iam.publickeys import add_key, fingerprint, parse_all, parse_line, remove_key
from apexgpu.models import PublicKey
from apexgpu.process import Completed, LocalRunner, Watch
from apexgpu.sshfiles.agent import add_to_agent, list_agent_keys
from apexgpu.sshfiles.keys import (
    KeyPair,
    discover,
    generate,
    load,
    read_public,
)


def blob(*parts: bytes) -> str:
    """A base64 blob of length-prefixed strings."""
    return base64.b64encode(
        b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    ).decode()


ED = blob(b"ssh-ed25519", bytes(32))
ED2 = blob(b"ssh-ed25519", b"\1" * 32)
FUTURE = blob(b"ssh-mldsa@example.org", b"whatever")
KEY = PublicKey("ssh-ed25519", ED, "alice@laptop")

LINES: dict[str, tuple[str, PublicKey | None]] = {
    "plain": (f"ssh-ed25519 {ED} alice@laptop", KEY),
    "no comment": (f"ssh-ed25519 {ED}", PublicKey("ssh-ed25519", ED)),
    "tabs and blanks": (
        f"  \tssh-ed25519\t {ED}  two words \r\n",
        PublicKey("ssh-ed25519", ED, "two words"),
    ),
    "option": (f"no-pty ssh-ed25519 {ED}", PublicKey("ssh-ed25519", ED, "", "no-pty")),
    "options with quotes": (
        f'from="10.0.0.*,!10.0.0.1",command="echo \\"a b\\" # c",no-pty ssh-ed25519 {ED} x',
        PublicKey(
            "ssh-ed25519", ED, "x", 'from="10.0.0.*,!10.0.0.1",command="echo \\"a b\\" # c",no-pty'
        ),
    ),
    "option that holds a key": (
        f'environment="K=ssh-rsa AAAA" ssh-ed25519 {ED}',
        PublicKey("ssh-ed25519", ED, "", 'environment="K=ssh-rsa AAAA"'),
    ),
    "a type of the future": (
        f"ssh-mldsa@example.org {FUTURE} new",
        PublicKey("ssh-mldsa@example.org", FUTURE, "new"),
    ),
    "comment not UTF-8": (f"ssh-ed25519 {ED} caf\udce9", PublicKey("ssh-ed25519", ED, "caf\ufffd")),
    "comment with an escape": (
        f"ssh-ed25519 {ED} a\x1b[31mb",
        PublicKey("ssh-ed25519", ED, "a [31mb"),
    ),
    "blank": ("   ", None),
    "comment": (f"# ssh-ed25519 {ED}", None),
    "garbage": ("hello world", None),
    "quote never closed": (f'command="x ssh-ed25519 {ED}', None),
    "type only": ("ssh-ed25519", None),
    "type and blob differ": (f"ssh-rsa {ED}", None),
    "blob cut": (f"ssh-ed25519 {ED[:-5]}", None),
    "blob cut at a group": (f"ssh-ed25519 {ED[:-8]}", None),
    "no base64": ("ssh-ed25519 AAAA!!!", None),
    "empty blob": ("ssh-ed25519 ====", None),
    "two lines": (f"x\nssh-ed25519 {ED}", None),
    "private key": ("-----BEGIN OPENSSH PRIVATE KEY-----", None),
    "known_hosts line": (f"gpu7 rsa {ED}", None),
}


@pytest.mark.parametrize(("line", "key"), LINES.values(), ids=LINES)
def test_a_line_is_read_as_sshd_reads_it(line: str, key: PublicKey | None) -> None:
    assert parse_line(line) == key


def test_fingerprint_is_that_of_ssh_keygen(keygen: "Keygen") -> None:
    key = read_public(keygen("id_ed25519", "ed25519").with_suffix(".pub"), LocalRunner())
    told = subprocess.run(
        ["ssh-keygen", "-lf", keygen.directory / "id_ed25519.pub"], capture_output=True, check=True
    )
    assert fingerprint(key) == told.stdout.split()[1].decode()


MERGES: dict[str, tuple[str, str]] = {
    "nothing stored": ("", "{new}"),
    "no newline at the end": (f"ssh-ed25519 {ED2} b", f"ssh-ed25519 {ED2} b\n{{new}}"),
    "CRLF": (f"ssh-ed25519 {ED2} b\r\n# c\r\n", f"ssh-ed25519 {ED2} b\n# c\n{{new}}"),
    "comments, garbage, blank lines": ("# mine\n\n???\n", "# mine\n\n???\n{new}"),
    "options of another key": (
        f'from="a b" ssh-ed25519 {ED2}\n',
        f'from="a b" ssh-ed25519 {ED2}\n{{new}}',
    ),
    "only commented out": (f"#ssh-ed25519 {ED}\n", f"#ssh-ed25519 {ED}\n{{new}}"),
    "only as an authority": (
        f"cert-authority ssh-ed25519 {ED}\n",
        f"cert-authority ssh-ed25519 {ED}\n{{new}}",
    ),
    "form feed in a comment": (f"ssh-ed25519 {ED2} a\x0cb\n", f"ssh-ed25519 {ED2} a\x0cb\n{{new}}"),
    "not UTF-8": ("# caf\udce9\n", "# caf\udce9\n{new}"),
}


@pytest.mark.parametrize(("stored", "expected"), MERGES.values(), ids=MERGES)
def test_adding_a_key_keeps_every_line_and_is_idempotent(stored: str, expected: str) -> None:
    once = add_key(stored, KEY)
    assert once == expected.format(new=f"{KEY.line}\n")
    assert add_key(once, KEY) == once


@pytest.mark.parametrize(
    "stored",
    [
        f"ssh-ed25519 {ED} another comment",
        f'from="x" ssh-ed25519 {ED}\r\n',
        f"a\n  ssh-ed25519\t{ED}\nb",
    ],
)
def test_text_that_has_the_key_stays_as_it_is(stored: str) -> None:
    assert add_key(stored, KEY) is stored


@pytest.mark.parametrize(
    "key",
    [
        PublicKey("ssh-ed25519", ED[:-8]),
        PublicKey("ssh-ed25519", ED, "a\nssh-ed25519 evil"),
        PublicKey("ssh-rsa", ED),
        PublicKey("ssh-ed25519", ED, options='command="never closed'),
        PublicKey("", ""),
    ],
)
def test_a_key_that_sshd_could_not_read_is_not_added(key: PublicKey) -> None:
    with pytest.raises(UsageError, match="could not read this public key"):
        add_key("", key)


def test_every_line_of_a_removed_key_goes_and_no_other() -> None:
    stored = f'# a\r\nssh-ed25519 {ED} x\nfrom="1" ssh-ed25519 {ED}\n???\nssh-ed25519 {ED2} y'
    kept = f"# a\n???\nssh-ed25519 {ED2} y\n"
    assert remove_key(stored, fingerprint(KEY)) == kept
    assert remove_key(stored, fingerprint(KEY).removeprefix("SHA256:") + "=") == kept


def test_removing_an_unknown_fingerprint_changes_nothing() -> None:
    stored = f"ssh-ed25519 {ED2} y\r\n"
    assert remove_key(stored, fingerprint(KEY)) is stored


def test_removing_the_last_key_leaves_nothing() -> None:
    assert remove_key(f"{KEY.line}\n", fingerprint(KEY)) == ""


class Keygen:
    """Makes real keys with ssh-keygen, private ones 0600."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, name: str, kind: str, *more: str, passphrase: str = "") -> Path:
        path = self.directory / name
        subprocess.run(
            [
                "ssh-keygen",
                "-q",
                "-t",
                kind,
                "-N",
                passphrase,
                "-C",
                f"c-{name}",
                "-f",
                path,
                *more,
            ],
            check=True,
        )
        return path


@pytest.fixture
def keygen(isolated: Path) -> Keygen:
    directory = isolated / ".ssh"
    directory.mkdir(mode=0o700)
    return Keygen(directory)


def names(pairs: Sequence[KeyPair]) -> list[tuple[str | None, str, bool]]:
    return [(pair.path.name if pair.path else None, pair.source, pair.encrypted) for pair in pairs]


def test_best_key_comes_first(keygen: Keygen) -> None:
    keygen("id_rsa", "rsa", "-b", "2048")
    keygen("id_ecdsa", "ecdsa")
    keygen("work", "ed25519")
    keygen("id_ed25519", "ed25519", passphrase="secret")
    keygen("small", "rsa", "-b", "1024")
    assert names(discover(keygen.directory, [], LocalRunner())) == [
        ("work", "file", False),
        ("id_ed25519", "file", True),
        ("id_ecdsa", "file", False),
        ("id_rsa", "file", False),
    ]


def test_a_key_in_the_agent_comes_before_one_that_is_not(keygen: Keygen) -> None:
    keygen("a", "ed25519")
    keygen("loaded", "ed25519", passphrase="secret")
    agent = [read_public(keygen.directory / "loaded.pub", LocalRunner())]
    assert names(discover(keygen.directory, agent, LocalRunner())) == [
        ("loaded", "agent", True),
        ("a", "file", False),
    ]


def test_a_pub_whose_private_half_is_missing_is_not_offered_unless_the_agent_has_it(
    keygen: Keygen,
) -> None:
    keygen("id_ed25519", "ed25519").unlink()
    public = read_public(keygen.directory / "id_ed25519.pub", LocalRunner())
    assert discover(keygen.directory, [], LocalRunner()) == []
    from_agent = PublicKey(public.kind, public.blob, "(stdin)")
    assert discover(keygen.directory, [from_agent], LocalRunner()) == [
        KeyPair(None, public, "agent", encrypted=False)
    ]


@pytest.mark.parametrize("passphrase", ["", "secret"])
def test_the_public_part_of_a_lonely_private_key_is_read_without_its_passphrase(
    keygen: Keygen, passphrase: str
) -> None:
    path = keygen("id_ed25519", "ed25519", passphrase=passphrase)
    public = read_public(path.with_suffix(".pub"), LocalRunner())
    path.with_suffix(".pub").unlink()
    (pair,) = discover(keygen.directory, [], LocalRunner())
    assert (pair.path, pair.public.blob, pair.encrypted) == (path, public.blob, bool(passphrase))


@pytest.mark.parametrize("passphrase", ["", "secret"])
def test_old_pem_keys_are_offered_with_their_pub(keygen: Keygen, passphrase: str) -> None:
    path = keygen("id_rsa", "rsa", "-b", "2048", "-m", "PEM", passphrase=passphrase)
    assert path.read_text().startswith("-----BEGIN RSA PRIVATE KEY")
    assert names(discover(keygen.directory, [], LocalRunner())) == [
        ("id_rsa", "file", bool(passphrase))
    ]
    path.with_suffix(".pub").unlink()
    # Only an unencrypted one tells its public part.
    assert len(discover(keygen.directory, [], LocalRunner())) == (0 if passphrase else 1)


def test_a_pub_of_another_key_spoils_the_pair(keygen: Keygen) -> None:
    path = keygen("id_ed25519", "ed25519")
    keygen("other", "ed25519")
    path.with_suffix(".pub").write_bytes((keygen.directory / "other.pub").read_bytes())
    assert names(discover(keygen.directory, [], LocalRunner())) == [("other", "file", False)]
    with pytest.raises(ConfigError, match="belongs to another key"):
        load(path, (), LocalRunner())


@pytest.mark.skipif(
    not hasattr(os, "chown") or os.getuid() != 0, reason="only root can give a file away"
)
def test_files_of_another_user_are_not_offered(keygen: Keygen) -> None:
    path = keygen("id_ed25519", "ed25519")
    os.chown(path.with_suffix(".pub"), 12345, -1)
    (pair,) = discover(keygen.directory, [], LocalRunner())
    assert pair.public.comment == "c-id_ed25519"  # the private file's own, not that .pub's
    os.chown(path, 12345, -1)
    assert discover(keygen.directory, [], LocalRunner()) == []


def test_a_private_key_that_others_may_read_is_not_offered_for_ssh_ignores_it(
    keygen: Keygen,
) -> None:
    path = keygen("id_ed25519", "ed25519")
    path.chmod(0o644)
    assert discover(keygen.directory, [], LocalRunner()) == []
    with pytest.raises(ConfigError, match="others may read it") as told:
        load(path, (), LocalRunner())
    assert told.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize(
    "spoil", [lambda data: data.replace(b"\n", b"\r\n"), lambda data: data.rstrip(b"\n")]
)
def test_a_key_whose_line_ends_ssh_cannot_read_is_refused_with_the_cure(
    keygen: Keygen, spoil: Callable[[bytes], bytes]
) -> None:
    path = keygen("id_ed25519", "ed25519")
    path.write_bytes(spoil(path.read_bytes()))
    path.chmod(0o600)
    assert (
        subprocess.run(
            ["ssh-keygen", "-y", "-f", path], capture_output=True, check=False
        ).returncode
        != 0
    )
    assert discover(path.parent, [], LocalRunner()) == []
    with pytest.raises(ConfigError, match="Windows line endings") as caught:
        load(path, (), LocalRunner())
    subprocess.run(["sh", "-c", caught.value.hint or ""], check=True)
    assert (
        subprocess.run(
            ["ssh-keygen", "-y", "-f", path], capture_output=True, check=False
        ).returncode
        == 0
    )
    assert load(path, (), LocalRunner()).path == path


def test_certificates_and_dsa_and_unknown_types_are_never_offered(keygen: Keygen) -> None:
    keygen("ca", "ed25519")
    keygen("id_ed25519", "ed25519")
    subprocess.run(
        [
            "ssh-keygen",
            "-q",
            "-s",
            keygen.directory / "ca",
            "-I",
            "alice",
            keygen.directory / "id_ed25519.pub",
        ],
        check=True,
    )
    agent = [
        read_line(keygen.directory / "id_ed25519-cert.pub"),
        PublicKey("ssh-dss", blob(b"ssh-dss", b"p", b"q", b"g", b"y")),
        PublicKey("ssh-mldsa@example.org", FUTURE),
    ]
    assert names(discover(keygen.directory, agent, LocalRunner())) == [
        ("ca", "file", False),
        ("id_ed25519", "file", False),
    ]


def read_line(path: Path) -> PublicKey:
    key = parse_line(path.read_text())
    assert key is not None
    return key


def test_hardware_keys_come_last() -> None:
    hardware = PublicKey(
        "sk-ssh-ed25519@openssh.com", blob(b"sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:")
    )
    found = discover(Path("/nonexistent"), [hardware, KEY], LocalRunner())
    assert [pair.public.kind for pair in found] == ["ssh-ed25519", "sk-ssh-ed25519@openssh.com"]


def test_sockets_pipes_directories_and_huge_files_do_no_harm(
    keygen: Keygen, monkeypatch: pytest.MonkeyPatch
) -> None:
    keygen("id_ed25519", "ed25519")
    monkeypatch.chdir(keygen.directory)
    os.mkfifo("pipe")
    os.mkfifo("pipe.pub")
    Path("directory.pub").mkdir()
    Path("dangling").symlink_to("nowhere")
    Path("huge").write_bytes(b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + b"A" * 100_000)
    Path("broken").write_bytes(
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
    )
    Path("binary.pub").write_bytes(bytes(range(256)))
    for name in ("broken", "huge"):
        Path(name).chmod(0o600)
    with socket.socket(socket.AF_UNIX) as master:
        master.bind("master")
        assert names(discover(keygen.directory, [], LocalRunner())) == [
            ("id_ed25519", "file", False)
        ]


def test_a_cut_private_key_is_never_offered(keygen: Keygen) -> None:
    whole = keygen("id_ed25519", "ed25519").read_bytes()
    path = keygen.directory / "id_ed25519"
    path.with_suffix(".pub").unlink()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        assert discover(keygen.directory, [], LocalRunner()) == []


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_a_new_key_is_one_that_openssh_reads(isolated: Path, passphrase: str | None) -> None:
    pair = generate(
        isolated / ".ssh" / "id_ed25519", comment="alice@my\nlaptop", passphrase=passphrase
    )
    assert pair.path == isolated / ".ssh" / "id_ed25519"
    assert pair.public.comment == "alice@my laptop"
    assert pair.path.stat().st_mode & 0o777 == 0o600
    assert pair.path.parent.stat().st_mode & 0o777 == 0o700
    told = subprocess.run(
        ["ssh-keygen", "-y", "-P", passphrase or "", "-f", pair.path],
        capture_output=True,
        check=True,
    )
    assert told.stdout.split()[1].decode() == pair.public.blob
    assert (pair.path.parent / "id_ed25519.pub").read_text() == f"{pair.public.line}\n"
    assert discover(pair.path.parent, [], LocalRunner()) == [pair]
    if passphrase:
        wrong = subprocess.run(
            ["ssh-keygen", "-y", "-P", "", "-f", pair.path], capture_output=True, check=False
        )
        assert wrong.returncode != 0


@pytest.mark.parametrize("there", ["id_ed25519", "id_ed25519.pub"])
def test_a_new_key_never_overwrites(isolated: Path, there: str) -> None:
    directory = isolated / ".ssh"
    directory.mkdir()
    (directory / there).write_text("precious")
    made = [generate(directory / "id_ed25519", comment="a", passphrase=None).path for _ in range(3)]
    assert [path.name if path else None for path in made] == [
        "id_ed25519_apexgpu",
        "id_ed25519_apexgpu_2",
        "id_ed25519_apexgpu_3",
    ]
    assert (directory / there).read_text() == "precious"


def test_a_new_key_beside_a_dangling_link_leaves_the_link(isolated: Path) -> None:
    (isolated / ".ssh").mkdir()
    (isolated / ".ssh" / "id_ed25519").symlink_to(isolated / "nowhere")
    pair = generate(isolated / ".ssh" / "id_ed25519", comment="a", passphrase=None)
    assert pair.path == isolated / ".ssh" / "id_ed25519_apexgpu"
    assert not (isolated / "nowhere").exists()


def test_a_temporary_file_of_a_killed_run_is_not_offered(isolated: Path) -> None:
    pair = generate(isolated / ".ssh" / "id_ed25519", comment="a", passphrase=None)
    assert pair.path is not None
    pair.path.rename(pair.path.with_name(".id_ed25519.x.tmp"))
    assert discover(isolated / ".ssh", [], LocalRunner()) == []


def test_a_directory_that_cannot_be_written_is_named(isolated: Path) -> None:
    (isolated / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        generate(isolated / "file" / "id_ed25519", comment="a", passphrase=None)


def test_load_takes_either_half(keygen: Keygen) -> None:
    path = keygen("mine", "ed25519", passphrase="x")
    expected = KeyPair(
        path, read_public(path.with_suffix(".pub"), LocalRunner()), "file", encrypted=True
    )
    assert (
        load(path, (), LocalRunner())
        == load(path.with_suffix(".pub"), (), LocalRunner())
        == expected
    )
    assert load(path, [expected.public], LocalRunner()).source == "agent"


def test_load_takes_a_lonely_pub_when_the_agent_has_it(keygen: Keygen) -> None:
    path = keygen("mine", "ed25519")
    path.unlink()
    public = read_public(path.with_suffix(".pub"), LocalRunner())
    assert load(path.with_suffix(".pub"), [public], LocalRunner()) == KeyPair(
        None, public, "agent", encrypted=False
    )
    with pytest.raises(ConfigError, match="private key is neither"):
        load(path.with_suffix(".pub"), (), LocalRunner())


REFUSED: dict[str, tuple[Callable[[Keygen], Path], str]] = {
    "missing": (lambda keygen: keygen.directory / "none", "no such file"),
    "directory": (lambda keygen: keygen.directory, "no such file"),
    "text": (lambda keygen: written(keygen, "hello"), "not an ssh key"),
    "two keys": (lambda keygen: written(keygen, f"ssh-ed25519 {ED}\nssh-ed25519 {ED2}"), "2 keys"),
    "PuTTY": (
        lambda keygen: written(keygen, "PuTTY-User-Key-File-3: ssh-ed25519\n"),
        "a PuTTY key",
    ),
    "SSH2": (
        lambda keygen: written(keygen, "---- BEGIN SSH2 PUBLIC KEY ----\n"),
        "an SSH2 public key",
    ),
    "huge": (lambda keygen: written(keygen, "x" * 70_000), "too large"),
    "DSA": (
        lambda keygen: written(keygen, f"ssh-dss {blob(b'ssh-dss', b'p', b'q', b'g', b'y')}"),
        "DSA",
    ),
    "small RSA": (lambda keygen: keygen("k", "rsa", "-b", "1024"), "only 1024 bits"),
    "certificate": (
        lambda keygen: written(keygen, f"x-cert-v01@openssh.com {blob(b'x-cert-v01@openssh.com')}"),
        "certificate",
    ),
    "a type of the future": (
        lambda keygen: written(keygen, f"ssh-mldsa@example.org {FUTURE}"),
        "does not know",
    ),
    "encrypted PEM without pub": (lambda keygen: lonely_pem(keygen), "cannot derive"),
}


def written(keygen: Keygen, text: str) -> Path:
    path = keygen.directory / "given"
    path.write_text(text)
    return path


def lonely_pem(keygen: Keygen) -> Path:
    path = keygen("id_rsa", "rsa", "-b", "2048", "-m", "PEM", passphrase="secret")
    path.with_suffix(".pub").unlink()
    return path


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_given_key_that_is_no_good_is_refused_with_the_reason(
    keygen: Keygen, make: Callable[[Keygen], Path], reason: str
) -> None:
    path = make(keygen)
    with pytest.raises(ConfigError, match=reason) as told:
        load(path, (), LocalRunner())
    assert told.value.hint
    with pytest.raises(ConfigError, match=reason) as told:
        read_public(path, LocalRunner())
    assert told.value.hint


def test_read_public_gives_the_public_part_of_a_private_file_and_drops_options(
    keygen: Keygen,
) -> None:
    path = keygen("mine", "ed25519")
    public = read_public(path, LocalRunner())
    assert public == read_public(path.with_suffix(".pub"), LocalRunner())
    assert read_public(written(keygen, f"no-pty {public.line}"), LocalRunner()) == public


class FakeRunner(LocalRunner):
    """Expects exactly these calls, in this order; any other fails."""

    def __init__(self, *expected: tuple[list[str], Completed | Exception]) -> None:
        self.expected = list(expected)
        self.stdin = b""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 30,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        wanted, answer = self.expected.pop(0)
        assert list(argv) == wanted
        assert timeout <= 3
        assert env is None
        self.stdin = stdin
        if isinstance(answer, Exception):
            raise answer
        return answer

    def attach(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        watch: Watch | None = None,
    ) -> int:
        assert watch is None
        wanted, answer = self.expected.pop(0)
        assert ["(terminal)", *argv] == wanted
        assert isinstance(answer, Completed)
        return answer.code


def said(code: int, out: bytes = b"") -> Completed:
    return Completed((), code, out, b"")


AGENTS: dict[str, tuple[Completed | Exception, list[PublicKey]]] = {
    "two keys": (
        said(0, f"{KEY.line}\nssh-ed25519 {ED2} b\n".encode()),
        [KEY, PublicKey("ssh-ed25519", ED2, "b")],
    ),
    "none": (said(1, b"The agent has no identities.\n"), []),
    "no agent": (said(2, b""), []),
    "not installed": (MissingProgramError("ssh-add is not installed"), []),
    "hangs": (UnreachableError("ssh-add did not end within 3 s"), []),
    "garbage": (said(0, bytes(range(256))), []),
}


@pytest.mark.parametrize(("answer", "expected"), AGENTS.values(), ids=AGENTS)
def test_an_agent_is_asked_and_never_waited_for(
    answer: Completed | Exception, expected: list[PublicKey]
) -> None:
    assert list_agent_keys(FakeRunner((["ssh-add", "-L"], answer))) == expected


def test_an_encrypted_key_goes_to_the_agent_by_stdin_never_by_argument(isolated: Path) -> None:
    pair = generate(isolated / "key", comment="a", passphrase="correct horse")
    assert pair.path
    runner = FakeRunner((["ssh-add", "-"], said(0)))
    assert add_to_agent(pair.path, runner, "correct horse")
    assert b"OPENSSH PRIVATE KEY" in runner.stdin
    assert b"correct horse" not in runner.stdin
    assert not add_to_agent(pair.path, FakeRunner(), "wrong")
    assert add_to_agent(pair.path, FakeRunner((["(terminal)", "ssh-add", str(pair.path)], said(0))))


def test_without_an_agent_nothing_is_added_and_nothing_fails(isolated: Path) -> None:
    pair = generate(isolated / "key", comment="a", passphrase=None)
    assert pair.path
    command = ["ssh-add", str(pair.path)]
    assert not add_to_agent(pair.path, FakeRunner((command, said(2))))
    assert not add_to_agent(
        pair.path, FakeRunner((command, MissingProgramError("ssh-add is not installed")))
    )


def test_every_line_of_a_text_is_read() -> None:
    assert parse_all(f"# x\n{KEY.line}\r\n???\nssh-ed25519 {ED2}\n") == [
        KEY,
        PublicKey("ssh-ed25519", ED2),
    ]
