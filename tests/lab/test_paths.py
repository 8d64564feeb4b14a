"""Names of the container's tree and of this machine's: in commands, and in output however it is cut."""

from pathlib import Path, PurePosixPath

import pytest

from apexgpu_lab.containers import Container, size_du, size_iec
from apexgpu_lab.keypairs import new_private_key, public_key_blobs, public_line
from apexgpu_lab.pathtranslation import READS_COMMANDS, PathTranslator

ROOT = Path("/lab/hosts/gpu2/alice/rootfs")
PATHS = PathTranslator(
    Container("alice", ROOT.parent), {"NAS": Path("/lab/nas"), "newNAS": Path("/lab/newNAS")}
)


@pytest.mark.parametrize(
    ("command", "translated"),
    [
        ("cat /etc/hosts", f"cat {ROOT}/etc/hosts"),
        ("cat '/home/alice/a b' \"/tmp/x\"", f"cat '{ROOT}/home/alice/a b' \"{ROOT}/tmp/x\""),
        ("ls /NAS /newNAS/Share;ls /NAS", "ls /lab/nas /lab/newNAS/Share;ls /lab/nas"),
        (
            "A=/NAS/x; prog --dir=/NAS/y <//dev/null",
            "A=/lab/nas/x; prog --dir=/lab/nas/y <//dev/null",
        ),
        ("ls /usr/local/cuda-9.0/include", f"ls {ROOT}/usr/local/cuda-9.0/include"),
        (
            "/bin/ls /usr/bin /dev/null /NASA /homework",
            "/bin/ls /usr/bin /dev/null /NASA /homework",
        ),
        (
            "curl http://host/home/x ./etc/y ~/tmp/z ${X}/var/q a/etc",
            "curl http://host/home/x ./etc/y ~/tmp/z ${X}/var/q a/etc",
        ),
    ],
)
def test_commands_are_translated(command: str, translated: str) -> None:
    assert PATHS.translate_input(command) == translated


@pytest.mark.parametrize(
    ("path", "real"),
    [
        ("/", ROOT),
        ("/home/alice/../bob", ROOT / "home" / "bob"),
        ("/../../../etc", ROOT / "etc"),
        ("/NAS/Workspaces", Path("/lab/nas/Workspaces")),
        ("/home/../NAS", Path("/lab/nas")),
    ],
)
def test_paths_cannot_leave_the_tree(path: str, real: Path) -> None:
    assert PATHS.real(PurePosixPath(path)) == real


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_output_is_translated_however_it_is_cut(size: int) -> None:
    data = f"{ROOT}\n{ROOT}/home/alice and /lab/nas/x, /lab/hosts/other {ROOT}".encode()
    outward = PATHS.output_translator()
    found = (
        b"".join(outward.feed(data[place : place + size]) for place in range(0, len(data), size))
        + outward.flush()
    )
    assert found == b"/\n/home/alice and /NAS/x, /lab/hosts/other /"


def test_only_the_beginning_of_a_name_is_held_back() -> None:
    outward = PATHS.output_translator()
    assert outward.feed(b"50/") == b"50"
    assert outward.has_pending
    assert outward.flush() == b"/"
    assert outward.feed(b"no name here") == b"no name here"
    assert not outward.has_pending


@pytest.mark.parametrize(
    ("command", "reads"),
    [
        ("sh", True),
        ("sh -s", True),
        ("bash -s --", True),
        ("sudo -n bash -eu", True),
        ("/bin/sh -e", True),
        ("sh script", False),
        ("bash -c 'x'", False),
        ("cat", False),
        ("ssh", False),
    ],
)
def test_shells_that_read_commands(command: str, reads: bool) -> None:
    assert bool(READS_COMMANDS.fullmatch(command)) is reads


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "4.0K"),
        (1, "4.0K"),
        (4096, "4.0K"),
        (980 * 1024, "980K"),
        (9 * 1024 * 1024 + 1, "9.1M"),
        (10 * 1024 * 1024, "10M"),
        (10 * 1024 * 1024 + 1, "11M"),
        (68 * 1024 * 1024, "68M"),
        (1288490189, "1.3G"),
    ],
)
def test_sizes_as_du_shows_them(count: int, shown: str) -> None:
    assert size_du(count) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(954, "954 bytes"), (1208, "1.18 KiB"), (3030384, "2.89 MiB")]
)
def test_sizes_as_lxc_shows_them(count: int, shown: str) -> None:
    assert size_iec(count) == shown


def test_keys_are_found_whatever_stands_around_them() -> None:
    line = public_line(new_private_key(), "me@laptop").strip()
    kind, blob, comment = line.split()
    alone = public_key_blobs(line)
    assert len(alone) == 1
    assert (
        public_key_blobs(
            f'from="10.0.0.0/8",no-pty {kind} {blob} {comment} more\r\n# a comment\n\nssh-rsa nonsense\n'
        )
        == alone
    )
    assert public_key_blobs("") == public_key_blobs("ssh-ed25519") == set()
