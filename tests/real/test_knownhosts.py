"""known_hosts files, with OpenSSH's own ssh-keygen as the judge of who is known by which key."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from apexgpu.errors import ConfigError
from apexgpu.models import PublicKey
from apexgpu.sshfiles import knownhosts, knownhostsedit
from apexgpu.sshfiles.knownhosts import KnownHosts, lookup_name

pytestmark = pytest.mark.openssh

NAME = "[10.77.0.2]:22001"
OTHER = "[10.77.0.3]:22001"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PublicKey]:
    """Real host keys: two of ed25519, one each of ecdsa and rsa."""
    directory = tmp_path_factory.mktemp("keys")
    found = {}
    for name, kind in {"a": "ed25519", "b": "ed25519", "ec": "ecdsa", "rsa": "rsa"}.items():
        subprocess.run(
            ["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", directory / name], check=True
        )
        kind, blob = (directory / f"{name}.pub").read_text().split()[:2]
        found[name] = PublicKey(kind, blob)
    return found


@pytest.fixture
def file(isolated: Path) -> Path:
    """A known_hosts file that is not there yet."""
    return isolated / ".ssh" / "known_hosts"


def said_by_ssh(file: Path, name: str) -> set[tuple[str, str]]:
    """(kind, blob) of every key that ssh-keygen finds for `name`, revoked ones and authorities left out."""
    done = subprocess.run(
        ["ssh-keygen", "-F", name, "-f", file], capture_output=True, text=True, check=False
    )
    lines = [
        line.split()
        for line in done.stdout.splitlines()
        if line and not line.startswith(("#", "@"))
    ]
    return {(words[1], words[2]) for words in lines}


def ours(file: Path, name: str) -> set[tuple[str, str]]:
    return {(key.kind, key.blob) for key in KnownHosts([file]).keys(name)}


LINES: dict[str, Callable[[str], str]] = {
    "plain": lambda key: f"{NAME} {key}\n",
    "several names": lambda key: f"gpu2,{NAME},10.77.0.2 {key}\n",
    "with a comment": lambda key: f"{NAME} {key} root@gpu2 of the lab\n",
    "tabs": lambda key: f"{NAME}\t{key}\n",
    "indented": lambda key: f"   {NAME} {key}\n",
    "CRLF": lambda key: f"# mine\r\n{NAME} {key}\r\n",
    "no last newline": lambda key: f"{NAME} {key}",
    "a pattern": lambda key: f"[10.77.0.*]:22001 {key}\n",
    "one letter open": lambda key: f"[10.77.0.?]:22001 {key}\n",
    "an exception": lambda key: f"[10.77.0.*]:22001,!{NAME} {key}\n",
    "another name": lambda key: f"{OTHER} {key}\n",
    "the port missing": lambda key: f"10.77.0.2 {key}\n",
    "another port": lambda key: f"[10.77.0.2]:22002 {key}\n",
    "a comment line": lambda key: f"#{NAME} {key}\n",
    "nothing after the name": lambda _: f"{NAME}\n",
    "bytes that are no UTF-8": lambda key: f"\udcff\udcfe {key}\n{NAME} {key}\n",
}


@pytest.mark.parametrize("what", LINES)
def test_a_line_means_what_it_means_to_ssh(
    what: str, file: Path, keys: dict[str, PublicKey]
) -> None:
    file.parent.mkdir()
    file.write_bytes(LINES[what](keys["a"].line).encode("utf-8", "surrogateescape"))
    assert ours(file, NAME) == said_by_ssh(file, NAME)


def test_a_damaged_line_is_nobodys_key(file: Path) -> None:
    # ssh-keygen -F shows such a line all the same; ssh itself cannot use it.
    file.parent.mkdir()
    file.write_text(f"{NAME} ssh-ed25519 !!!!\n")
    assert KnownHosts([file]).check(NAME, "ssh-ed25519", "AAAA") == "unknown"


def test_hashed_names_are_found(file: Path, keys: dict[str, PublicKey]) -> None:
    file.parent.mkdir()
    file.write_text(f"{NAME} {keys['a'].line}\n{OTHER} {keys['b'].line}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
    assert "10.77" not in file.read_text()
    assert knownhosts.is_hashed(file)
    assert KnownHosts([file]).keys(NAME) == [keys["a"]]
    assert KnownHosts([file]).keys(OTHER) == [keys["b"]]


def test_what_is_revoked_is_never_trusted(file: Path, keys: dict[str, PublicKey]) -> None:
    file.parent.mkdir()
    file.write_text(f"@revoked * {keys['a'].line}\n{NAME} {keys['a'].line}\n")
    assert KnownHosts([file]).check(NAME, keys["a"].kind, keys["a"].blob) == "revoked"


def test_an_authority_is_no_host_key(file: Path, keys: dict[str, PublicKey]) -> None:
    file.parent.mkdir()
    file.write_text(f"@cert-authority * {keys['a'].line}\n")
    assert KnownHosts([file]).check(NAME, keys["a"].kind, keys["a"].blob) == "unknown"


def test_verdicts(file: Path, keys: dict[str, PublicKey]) -> None:
    second = file.with_name("second")
    knownhostsedit.add(file, [(NAME, keys["a"])], hashed=False)
    knownhostsedit.add(second, [(NAME, keys["ec"])], hashed=True)
    known = KnownHosts([file, second, file.with_name("absent")])
    assert known.check(NAME, keys["a"].kind, keys["a"].blob) == "known"
    assert known.check(NAME, keys["ec"].kind, keys["ec"].blob) == "known"
    assert known.check(NAME, keys["b"].kind, keys["b"].blob) == "changed"
    assert known.check(NAME, keys["rsa"].kind, keys["rsa"].blob) == "changed"
    assert known.check(OTHER, keys["a"].kind, keys["a"].blob) == "unknown"
    assert known.types(NAME) == [keys["a"].kind, keys["ec"].kind]


@pytest.mark.parametrize("hashed", [False, True])
def test_what_is_added_is_known_to_ssh_too_and_only_once(
    hashed: bool, file: Path, keys: dict[str, PublicKey]
) -> None:
    assert knownhostsedit.add(
        file, [(NAME, keys["a"]), (NAME, keys["a"]), (OTHER, keys["b"])], hashed=hashed
    )
    before = file.read_bytes()
    assert said_by_ssh(file, NAME) == {(keys["a"].kind, keys["a"].blob)}
    assert said_by_ssh(file, OTHER) == {(keys["b"].kind, keys["b"].blob)}
    assert (b"10.77" in before) is not hashed
    assert len(before.splitlines()) == 2
    if os.name == "posix":
        assert file.stat().st_mode & 0o777 == 0o600
    assert not knownhostsedit.add(file, [(NAME, keys["a"])], hashed=hashed)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "old", [b"# mine", b"# mine\r\nh ssh-rsa AAAA\r\n", b"\xff\xfe damaged\n", b""]
)
def test_what_was_there_stays_byte_for_byte(
    old: bytes, file: Path, keys: dict[str, PublicKey]
) -> None:
    file.parent.mkdir()
    file.write_bytes(old)
    knownhostsedit.add(file, [(NAME, keys["a"])], hashed=False)
    assert file.read_bytes().startswith(old)
    assert said_by_ssh(file, NAME) == {(keys["a"].kind, keys["a"].blob)}
    if b"\r\n" in old:
        assert file.read_bytes().endswith(b"\r\n")


@pytest.mark.parametrize("name", ["a b", "*", "!x", "a,b", "|1|x|y", "@revoked", "#x", ""])
def test_a_name_that_would_mean_something_else_is_not_written(
    name: str, file: Path, keys: dict[str, PublicKey]
) -> None:
    with pytest.raises(ConfigError):
        knownhostsedit.add(file, [(name, keys["a"])], hashed=False)
    assert not file.exists()


REPLACED: dict[str, tuple[str, set[str]]] = {
    # what stands in the file -> names that keep the old key
    "alone": (f"{NAME} {{a}}\n", set()),
    "among others": (f"gpu2,{NAME},gpu2.lab {{a}}\n", {"gpu2", "gpu2.lab"}),
    "under a pattern": ("[10.77.0.*]:22001 {a}\n", {OTHER}),
    "of two types": (f"{NAME} {{a}}\n{NAME} {{ec}}\n", set()),
    "twice": (f"{NAME} {{a}}\ngpu2 {{a}}\n{NAME} {{a}}\n", {"gpu2"}),
    "no last newline": (f"{OTHER} {{a}}\n{NAME} {{a}}", {OTHER}),
}


@pytest.mark.parametrize("what", REPLACED)
def test_a_replaced_key_is_the_only_one_and_the_other_names_keep_theirs(
    what: str, file: Path, tmp_path: Path, keys: dict[str, PublicKey]
) -> None:
    text, others = REPLACED[what]
    old = text.format(a=keys["a"].line, ec=keys["ec"].line).encode()
    file.parent.mkdir()
    file.write_bytes(old)
    gone = knownhostsedit.replace(file, NAME, keys["b"], tmp_path / "backups")
    assert keys["a"] in gone
    assert said_by_ssh(file, NAME) == ours(file, NAME) == {(keys["b"].kind, keys["b"].blob)}
    for name in others:
        assert said_by_ssh(file, name) == {(keys["a"].kind, keys["a"].blob)}
    assert [path.read_bytes() for path in (tmp_path / "backups").iterdir()] == [old]
    after = file.read_bytes()
    assert knownhostsedit.replace(file, NAME, keys["b"], tmp_path / "backups") == []
    assert file.read_bytes() == after


def test_a_hashed_entry_is_replaced_by_a_hashed_one(
    file: Path, tmp_path: Path, keys: dict[str, PublicKey]
) -> None:
    knownhostsedit.add(file, [(NAME, keys["a"]), (OTHER, keys["a"])], hashed=True)
    assert knownhostsedit.replace(file, NAME, keys["b"], tmp_path / "backups") == [keys["a"]]
    assert b"10.77" not in file.read_bytes()
    assert said_by_ssh(file, NAME) == {(keys["b"].kind, keys["b"].blob)}
    assert said_by_ssh(file, OTHER) == {(keys["a"].kind, keys["a"].blob)}


def test_a_link_to_a_file_elsewhere_stays_one(
    file: Path, tmp_path: Path, keys: dict[str, PublicKey]
) -> None:
    file.parent.mkdir()
    (tmp_path / "dotfiles").write_bytes(b"")
    file.symlink_to(tmp_path / "dotfiles")
    knownhostsedit.add(file, [(NAME, keys["a"])], hashed=False)
    assert file.is_symlink()
    assert said_by_ssh(tmp_path / "dotfiles", NAME)


def test_what_is_no_file_is_refused_and_stays(file: Path, keys: dict[str, PublicKey]) -> None:
    # A directory stands for /dev/null, which a test may not name: root can replace it.
    file.mkdir(parents=True)
    with pytest.raises(ConfigError, match="not a regular file"):
        knownhostsedit.add(file, [(NAME, keys["a"])], hashed=False)
    assert file.is_dir()


def test_names_are_written_as_ssh_looks_them_up() -> None:
    assert lookup_name("10.77.0.2", 22) == "10.77.0.2"
    assert lookup_name("10.77.0.2", 22001) == NAME
    assert lookup_name("GPU2.Lab", 22) == "gpu2.lab"


def test_a_name_in_capitals_is_the_same_name(file: Path, keys: dict[str, PublicKey]) -> None:
    file.parent.mkdir()
    file.write_text(f"GPU2.Lab {keys['a'].line}\n")
    assert ours(file, "gpu2.lab") == {(keys["a"].kind, keys["a"].blob)}


def test_what_ssh_writes_meanwhile_stays_and_so_does_the_mode(
    file: Path, tmp_path: Path, keys: dict[str, PublicKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    knownhostsedit.add(file, [(NAME, keys["a"])], hashed=False)
    file.chmod(0o644)
    back_up = knownhostsedit._back_up

    def intrude(path: Path, data: bytes, directory: Path) -> None:
        back_up(path, data, directory)
        if OTHER not in file.read_text():
            with file.open("a") as stream:
                stream.write(f"{OTHER} {keys['ec'].line}\n")

    monkeypatch.setattr(knownhostsedit, "_back_up", intrude)
    knownhostsedit.replace(file, NAME, keys["b"], tmp_path / "backups")
    assert ours(file, OTHER) == {(keys["ec"].kind, keys["ec"].blob)}
    assert ours(file, NAME) == {(keys["b"].kind, keys["b"].blob)}
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_line_that_ssh_appends_during_a_slow_sync_stays(
    file: Path, tmp_path: Path, keys: dict[str, PublicKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk may need seconds for our new version; another ssh does not wait for it."""
    knownhostsedit.add(file, [(NAME, keys["a"])], hashed=False)
    sync = os.fsync
    names = [f"[10.77.1.{number}]:22" for number in range(3)]

    def slow_sync(descriptor: int) -> None:
        sync(descriptor)
        if names and not Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            with file.open("a") as stream:
                stream.write(f"{names.pop()} {keys['ec'].line}\n")

    monkeypatch.setattr(os, "fsync", slow_sync)
    knownhostsedit.replace(file, NAME, keys["b"], tmp_path / "backups")
    assert names == []
    assert ours(file, NAME) == {(keys["b"].kind, keys["b"].blob)}
    for number in range(3):
        assert ours(file, f"[10.77.1.{number}]:22") == {(keys["ec"].kind, keys["ec"].blob)}


def test_a_line_that_goes_to_the_replaced_file_is_brought_over(
    file: Path, tmp_path: Path, keys: dict[str, PublicKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ssh that opened the file before the rename writes into the old one."""
    knownhostsedit.add(file, [(NAME, keys["a"])], hashed=False)
    rename = os.replace

    with file.open("a") as late:

        def replace(old: Path, new: Path) -> None:
            rename(old, new)
            if new == file:
                late.write(f"{OTHER} {keys['ec'].line}\n")
                late.flush()

        monkeypatch.setattr(os, "replace", replace)
        knownhostsedit.replace(file, NAME, keys["b"], tmp_path / "backups")
    assert ours(file, OTHER) == {(keys["ec"].kind, keys["ec"].blob)}


def test_adding_keeps_hard_links_and_replacing_refuses_them(
    file: Path, tmp_path: Path, keys: dict[str, PublicKey]
) -> None:
    file.parent.mkdir()
    (tmp_path / "dotfiles").touch()
    file.hardlink_to(tmp_path / "dotfiles")
    knownhostsedit.add(file, [(NAME, keys["a"])], hashed=False)
    assert (tmp_path / "dotfiles").read_bytes() == file.read_bytes() != b""
    with pytest.raises(ConfigError, match="hard link"):
        knownhostsedit.replace(file, NAME, keys["b"], tmp_path / "backups")
    assert file.samefile(tmp_path / "dotfiles")


def test_ten_earlier_states_are_kept(
    file: Path, tmp_path: Path, keys: dict[str, PublicKey]
) -> None:
    knownhostsedit.add(file, [(NAME, keys["a"])], hashed=False)
    for number in range(12):
        knownhostsedit.replace(
            file, NAME, keys["b" if number % 2 == 0 else "a"], tmp_path / "backups"
        )
    assert len(list((tmp_path / "backups").iterdir())) == 10


def test_what_is_taken_out_leaves_links_and_what_is_revoked(
    file: Path, tmp_path: Path, keys: dict[str, PublicKey]
) -> None:
    file.parent.mkdir()
    target = tmp_path / "dotfiles"
    target.write_text(f"{NAME} {keys['a'].line}\n")
    file.symlink_to(target)
    knownhostsedit.remove(file, [NAME])
    assert (file.is_symlink(), target.read_bytes()) == (True, b"")
    revoked = f"@revoked {NAME} {keys['b'].line}\n"
    target.write_text(f"{NAME} {keys['a'].line}\n{revoked}")
    knownhostsedit.remove(file, [NAME])
    assert target.read_text() == revoked
