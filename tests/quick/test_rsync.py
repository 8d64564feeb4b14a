"""rsync's command lines and words, of the versions that are about; and the ssh below it."""

import shlex
from pathlib import Path

import pytest

from apexgpu.errors import ApexError
from apexgpu.models import Host, Target
from apexgpu.transfer import copyconnection, rsync
from apexgpu.transfer.localfiles import LocalFiles
from apexgpu.transfer.rsync import (
    RsyncJob,
    argv,
    failure,
    is_usable,
    parse_bytes_sent,
    parse_progress,
)


@pytest.mark.parametrize(
    ("line", "good"),
    [
        # The first line of `rsync --version`, from: Debian 12; Ubuntu 18.04; Ubuntu 16.04; Homebrew.
        ("rsync  version 3.2.7  protocol version 31", True),
        ("rsync  version 3.1.2  protocol version 31", True),
        ("rsync  version 3.1.1  protocol version 31", True),
        ("rsync  version v3.4.1  protocol version 32", True),
        ("rsync  version 10.0.0  protocol version 40", True),
        # macOS up to 15.3 (and the compatibility shim after it); macOS 15.4's openrsync(1); CentOS 6.
        ("rsync  version 2.6.9  protocol version 29", False),
        ("openrsync: protocol version 29\nrsync version 2.6.9 compatible", False),
        ("rsync  version 3.0.6  protocol version 30", False),
        ("sh: rsync: command not found", False),
        ("Hello from .bashrc", False),
        ("", False),
    ],
)
def test_only_an_rsync_that_can_do_it_is_used(line: str, good: bool) -> None:
    assert is_usable(line) is good


class Gpu7(LocalFiles):
    """The side that receives, by its name."""

    where = "gpu7"


COMMON = [
    "rsync",
    "--links",
    "--perms",
    "--times",
    "--inplace",
    "--no-inc-recursive",
    "--stats",
    "--no-human-readable",
    "--info=progress2",
    "--no-motd",
    "-e",
    "ssh -F '/home/a b/it''s' -x",
]


NAMES = ["--from0", "--files-from=/tmp/n", "--ignore-missing-args"]


@pytest.mark.parametrize(
    ("job", "rest"),
    [
        (
            RsyncJob(True, b"/here/t", b"/there/.s", (b"a",), compare=True),
            [
                "--rsync-path=cd /there/.s && exec rsync",
                *NAMES,
                "--compare-dest=..",
                "./",
                "gpu7:./",
            ],
        ),
        (
            RsyncJob(False, b"/here/.s", b"/a b/$(x)\n'", (b"-name:[x]",)),
            [
                "--rsync-path=cd '/a b/$(x)\n'\"'\"'' && exec rsync",
                *NAMES,
                "--chmod=ug-s,o-w,a-t",
                "gpu7:./",
                "./",
            ],
        ),
    ],
    ids=["up", "down, a wild directory"],
)
def test_no_name_of_a_file_stands_in_the_command_line(job: RsyncJob, rest: list[str]) -> None:
    # rsync(1): --rsh is split at spaces, quotes doubled; --rsync-path goes through the remote shell.
    ssh = ["ssh", "-F", "/home/a b/it's", "-x"]
    assert argv(job, ssh=ssh, alias="gpu7", names=Path("/tmp/n")) == [*COMMON, *rest]


def test_the_remote_shell_gets_the_directory_as_one_word() -> None:
    job = RsyncJob(True, b"/h", b"/a b/*'\"\n\xe9", ())
    words = argv(job, ssh=["ssh"], alias="gpu7", names=Path("/tmp/n"))
    command = next(word for word in words if word.startswith("--rsync-path="))
    assert shlex.split(command.removeprefix("--rsync-path="))[:2] == ["cd", "/a b/*'\"\n\udce9"]


@pytest.mark.parametrize(
    ("piece", "found"),
    [
        (b"     30000000  99%  476.75MB/s    0:00:00 (xfr#1, to-chk=3/5)", 30_000_000),
        (b"    123,456,789  12%    1.00MB/s    0:10:00  ", 123_456_789),
        (b"            0   0%    0.00kB/s    0:00:00", 0),
        (b"Number of files: 5", None),
        (b"", None),
    ],
)
def test_progress_is_bytes(piece: bytes, found: int | None) -> None:
    assert parse_progress(piece) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "Total file size: 1,234,567 bytes\nLiteral data: 2,496 bytes\nMatched data: 5 bytes\n",
            2496,
        ),
        ("Literal data: 30000013 bytes\n", 30_000_013),
        ("Number of files: 1\n", 0),
        ("", 0),
    ],
)
def test_what_had_to_travel_is_read_with_and_without_commas(text: str, found: int) -> None:
    assert parse_bytes_sent(text) == found


@pytest.mark.parametrize(
    ("code", "err", "exit_code", "said"),
    [
        (
            11,
            'rsync: [receiver] write failed on "/d/x": No space left on device (28)\nrsync error: error in file IO '
            "(code 11) at receiver.c(381)",
            1,
            "the disk is full on gpu7",
        ),
        (
            11,
            'rsync: write failed on "x": Disk quota exceeded (122)',
            1,
            "your quota is full on gpu7",
        ),
        (
            23,
            'rsync: [sender] send_files failed to open "/x": Permission denied (13)',
            6,
            "permission denied",
        ),
        (
            12,
            "rsync: connection unexpectedly closed (73 bytes received so far) [sender]\nrsync error: error in rsync "
            "protocol data stream (code 12) at io.c(231)",
            5,
            "the connection to gpu7 was lost",
        ),
        (255, "client_loop: send disconnect: Broken pipe", 5, "the connection to gpu7 was lost"),
        (30, "", 5, "the connection to gpu7 was lost"),
        (3, "", 1, "rsync: exit 3"),
    ],
)
def test_exit_codes_become_our_errors(code: int, err: str, exit_code: int, said: str) -> None:
    # EXIT VALUES in rsync(1).
    error: ApexError = failure(code, err, host="gpu7", target=Gpu7(), directory=b"/d")
    assert error.exit_code == exit_code
    assert error.message.startswith(said)


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_ssh_is_careful_everywhere_and_shares_its_connection_where_it_can(
    platform: str,
) -> None:
    # ssh_config(5). Win32-OpenSSH has no control sockets (its wiki: "ControlMaster … not supported").
    control = None if platform == "win32" else Path("/run/c/s")
    words = copyconnection.ssh_options(connect=9.6, ask=False, control=control, master=True)
    assert words[::2] == ["-o"] * (len(words) // 2)
    options = dict(word.split("=", 1) for word in words[1::2])
    assert options["StrictHostKeyChecking"] == "yes"
    assert options["BatchMode"] == "yes"
    assert options["ConnectTimeout"] == "10"
    assert (options["ControlMaster"], options["ControlPath"]) == (
        ("no", "none") if platform == "win32" else ("yes", "/run/c/s")
    )
    assert options["RemoteCommand"] == "none"  # else the user's own would run instead of SFTP
    follower = copyconnection.ssh_options(connect=10, ask=True, control=control, master=False)
    assert "ControlMaster=no" in follower
    assert "BatchMode=no" in follower


def test_a_connection_names_config_address_and_alias() -> None:
    where = ["-F", "/c", "-o", "HostName=10.0.0.7", "-o", "User=alice", "-o", "Port=22001", "gpu7"]
    target = Target(Host("gpu7", "10.0.0.7", "alice", 22001), "container")
    found = copyconnection.CopyConnection(target, where, connect=10, ask=False)
    assert found.ssh_argv()[:12] == ["ssh", *where[:-1], "-T", "-a", "-x"]
    assert (found.alias, found.host) == ("gpu7", "gpu7")


@pytest.mark.parametrize(
    ("platform", "hint"),
    # macOS ships 2.6.9 or openrsync; https://formulae.brew.sh/formula/rsync is the real one.
    [
        ("linux", "sudo apt install rsync"),
        ("darwin", "brew install rsync"),
        ("win32", "apexgpu cp --help"),
    ],
)
def test_a_laptop_without_it_is_told_how_to_get_it(platform: str, hint: str) -> None:
    error = rsync.not_installed(platform)
    assert error.exit_code == 127
    assert (error.hint or "").startswith(hint)
    assert ("leave out --method" in error.message) == (platform == "win32")


def test_rsync_is_not_looked_for_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setattr("sys.platform", "win32")
    assert asyncio.run(rsync.is_installed_locally()) is False
