"""The merge on bytes: the block, its removal, its marks; idempotent and exact on every config there is."""

import ast
import time
from pathlib import Path

import pytest

from apexgpu import sshconfig
from apexgpu.errors import ConfigError
from apexgpu.models import Host
from apexgpu.sshfiles import configblock

DATA = Path(__file__).parent.parent / "data"
REAL = sorted((DATA / "ssh_configs").iterdir())
NASTY: list[tuple[str, str, bytes]] = ast.literal_eval(
    (DATA / "nasty_configs/cases.txt").read_text(encoding="ascii")
)
HOSTS = (Host("gpu7", "10.77.0.1", "alice", 22001), Host("gpu8", "10.77.0.2", "alice", 22001, 2022))

BLOCK = b"""\
# >>> apexgpu >>>
# apexgpu owns the lines between these two marks and undoes edits here; yours go below them.
Host gpu7-manage
    HostName 10.77.0.1
    User alice
    Port 22
Host gpu7
    HostName 10.77.0.1
    User alice
    Port 22001
Host gpu8-manage
    HostName 10.77.0.2
    User alice
    Port 2022
Host gpu8
    HostName 10.77.0.2
    User alice
    Port 22001
Host *
# <<< apexgpu <<<
"""


def blocks(count: int) -> bytes:
    return b"".join(
        b"Host h%d\n  HostName 192.0.2.%d\n  User bob\n\n" % (n, n % 250) for n in range(count)
    )


def test_merge_is_part_of_the_python_api() -> None:
    assert sshconfig.merge(b"Host mine\n", HOSTS) == BLOCK + b"Host mine\n"


def test_the_block_names_every_host_twice_and_ends_in_a_bare_host_star() -> None:
    assert configblock.render_block(HOSTS) == BLOCK


def test_the_block_of_a_user_without_a_port_has_manage_names_only() -> None:
    written = configblock.render_block([Host("gpu7", "10.77.0.1", "alice")])
    assert b"Host gpu7-manage\n" in written
    assert b"Host gpu7\n" not in written
    assert configblock.managed_hosts(written) == (Host("gpu7", "10.77.0.1", "alice"),)


def test_the_block_has_the_newline_asked_for() -> None:
    assert configblock.render_block(HOSTS, newline=b"\r\n") == BLOCK.replace(b"\n", b"\r\n")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/home/a/.ssh/lab", b"IdentityFile /home/a/.ssh/lab\n"),
        ("~/.ssh/id_lab", b"IdentityFile ~/.ssh/id_lab\n"),
        ("/home/a b/key", b'IdentityFile "/home/a b/key"\n'),
        ("/keys/50%/key", b"IdentityFile /keys/50%%/key\n"),
        ("/keys/#1/key", b'IdentityFile "/keys/#1/key"\n'),
        ('/keys/"x"/key', b'IdentityFile "/keys/\\"x\\"/key"\n'),
        ("C:\\Users\\a b\\key", b'IdentityFile "C:\\\\Users\\\\a b\\\\key"\n'),
        ("/家/key", "IdentityFile /家/key\n".encode()),
    ],
)
def test_an_identity_file_is_quoted_as_ssh_reads_it_and_read_back(path: str, line: bytes) -> None:
    written = configblock.render_block(HOSTS, identity_file=path)
    assert written.count(line) == 4
    assert (
        written.count(b"    IdentitiesOnly yes\n") == 4
    )  # or an agent's keys come first, and six are too many
    assert configblock.managed_identity(written) == path
    assert configblock.managed_hosts(written) == HOSTS
    assert not configblock.is_edited(written)


@pytest.mark.parametrize(
    "path", ["", "/a\nProxyCommand x", "/a/${HOME}", "/a\0b", "/a\x1b[1m", "/a\udcff"]
)
def test_an_identity_file_that_cannot_be_written_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be named"):
        configblock.render_block(HOSTS, identity_file=path)


@pytest.mark.parametrize(
    "host",
    [
        Host("a b", "10.0.0.1", "alice", 1),
        Host("a", "10.0.0.1\n  ProxyCommand x", "alice", 1),
        Host("a", "10.0.0.1", "alice #", 1),
        Host("a", "", "alice", 1),
        Host("a\nHost *", "10.0.0.1", "alice", 1),
        Host("*", "10.0.0.1", "alice", 1),
        Host("-oa", "10.0.0.1", "alice", 1),
        Host("a", "%h", "alice", 1),
    ],
)
def test_a_value_that_would_not_be_read_back_is_refused(host: Host) -> None:
    with pytest.raises(ConfigError):
        configblock.render_block([host])


def test_two_hosts_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="the same name"):
        configblock.render_block([HOSTS[0], HOSTS[0]])


@pytest.mark.parametrize(
    "old", [path.read_bytes() for path in REAL], ids=[path.name for path in REAL]
)
def test_real_configs_merge_once_and_come_back_whole(old: bytes) -> None:
    exact(old)


@pytest.mark.parametrize(
    "old", [pytest.param(old, id=why) for why, kind, old in NASTY if kind != "damaged"]
)
def test_nasty_configs_merge_once_and_come_back_whole(old: bytes) -> None:
    exact(old)


def exact(old: bytes) -> None:
    mine = configblock.unmerge(old)
    merged = configblock.merge(old, HOSTS)
    assert configblock.merge(merged, HOSTS) == merged
    assert configblock.unmerge(merged) == mine
    assert configblock.unmerge(mine) == mine
    assert configblock.managed_hosts(merged) == HOSTS
    assert not configblock.is_edited(merged)
    assert configblock.user_host_names(merged) == configblock.user_host_names(mine)
    assert merged.endswith(mine.removeprefix(b"\xef\xbb\xbf"))
    other = configblock.merge(merged, HOSTS[:1], identity_file="/k")
    assert configblock.unmerge(other) == mine
    assert configblock.merge(other, ()) == mine


@pytest.mark.parametrize(
    "old", [pytest.param(old, id=why) for why, kind, old in NASTY if kind == "damaged"]
)
def test_damaged_marks_are_refused_with_their_lines(old: bytes) -> None:
    lines = [n for n, line in enumerate(old.splitlines(), 1) if b"apexgpu" in line]
    for use in (
        configblock.check_markers,
        configblock.unmerge,
        configblock.managed_hosts,
        configblock.user_host_names,
        configblock.is_edited,
        lambda data: configblock.merge(data, HOSTS),
    ):
        with pytest.raises(ConfigError) as caught:
            use(old)
        assert all(f"line {line} " in caught.value.message for line in lines)
        assert caught.value.hint is not None


def test_there_are_enough_of_them() -> None:
    assert len(REAL) == 135
    assert len(NASTY) >= 60
    assert len({why for why, _, _ in NASTY}) == len(NASTY)


def test_a_byte_order_mark_stays_at_the_start() -> None:
    merged = configblock.merge(b"\xef\xbb\xbfHost a\r\n", HOSTS)
    assert merged.startswith(b"\xef\xbb\xbf# >>> apexgpu >>>\r\n")
    assert merged.count(b"\xef\xbb\xbf") == 1


@pytest.mark.parametrize(
    ("old", "newline"),
    [
        (b"", b"\n"),
        (b"Host a\r\n", b"\r\n"),
        (b"a\r\nb\n", b"\n"),
        (b"a\r\nb\r\nc\n", b"\r\n"),
        (b"Host a\n", b"\n"),
    ],
)
def test_the_line_end_is_the_one_that_most_lines_have(old: bytes, newline: bytes) -> None:
    assert configblock.merge(old, HOSTS) == BLOCK.replace(b"\n", newline) + old


def test_an_edit_inside_the_block_is_told_and_undone() -> None:
    merged = configblock.merge(b"Host a\n", HOSTS)
    for old, new in (
        (b"Port 22001", b"Port 99"),
        (b"Host *\n", b""),
        (b"    User", b"  User"),
        (b"Host *\n", b"Host *\n    Port 99\n"),
        (b"HostName 10.77.0.1", b"Hostname = x"),
    ):
        changed = merged.replace(old, new, 1)
        assert configblock.merge(changed, HOSTS) == merged
        assert configblock.unmerge(changed) == b"Host a\n"
    assert configblock.is_edited(merged.replace(b"Host *\n", b""))
    assert configblock.is_edited(merged.replace(b"    User", b"  User"))
    assert not configblock.is_edited(merged)
    assert not configblock.is_edited(b"Host a\n")


def test_a_block_that_was_moved_goes_back_to_the_start() -> None:
    moved = b"Host a\n" + BLOCK + b"Host b\n"
    assert configblock.is_edited(moved)
    assert configblock.unmerge(moved) == b"Host a\nHost b\n"
    assert configblock.merge(moved, HOSTS) == BLOCK + b"Host a\nHost b\n"


def test_host_names_are_the_literal_names_of_the_users_own_lines() -> None:
    mine = (
        b"Host a b # c\n  HostName d\nHOST=e\nhost = \"f g\" 'h'\nHost * gpu? !i j#k\n#Host l\n"
        b"HostKeyAlias m\nMatch host n\n\thost\to\xe9\nHost a\nHost p\0q\nHost r\r\n"
    )
    names = configblock.user_host_names(configblock.merge(mine, HOSTS))
    assert names == ["a", "b", "e", "f g", "h", "j#k", "o\udce9", "p", "r"]


def test_the_merge_is_fast_and_linear() -> None:
    hosts = [Host(f"gpu{n}", f"10.77.0.{n}", "alice", 22001) for n in range(2, 19)]

    def seconds(count: int) -> float:
        # The time on the CPU: other processes on a busy machine do not count.
        old = configblock.merge(blocks(count), hosts[1:])
        best = 1.0
        for _ in range(7):
            start = time.process_time()
            configblock.merge(old, hosts)
            best = min(best, time.process_time() - start)
        return best

    seconds(34)  # the first call imports sshconf
    small, large = seconds(34), seconds(5000)
    assert small < 0.005
    assert large < small + 0.02


def test_a_name_for_each_section_with_a_key_of_its_own() -> None:
    mine = (
        b"IdentityFile /a\nHost plain\n  Port 1\nHost github.com *.github.com !x.github.com\n"
        b'  identityfile /b\nMatch originalhost "jump?,bastion"\n\tIdentityFile=/c\nHost *\n  IdentityFile /d\n'
    )
    names = configblock.names_with_own_keys(configblock.merge(mine, HOSTS, identity_file="/e"))
    # A criterion of Match is a name too: to ask ssh about it does no harm.
    assert names == ["github.com", "x.github.com", "originalhost", "jumpx", "bastion"]
    assert configblock.names_with_own_keys(b"# nothing\n") == []
