"""What sftp says before a mount, as OpenSSH 9.2 says it, and what it means."""

from pathlib import Path

import pytest

from apexgpu.errors import ApexError, UsageError
from apexgpu.models import Host, Target
from apexgpu.process import Completed
from apexgpu.sshfs import mountcheck

TARGET = Target(Host("gpu7", "10.1.2.7", "alice", 22001), "container")
HOME = b"sftp> pwd\nRemote working directory: /home/alice\n"


def done(code: int, out: bytes = HOME, err: bytes = b"", *, late: bool = False) -> Completed:
    return Completed(("sftp",), code, out, err, late)


@pytest.mark.parametrize(
    ("word", "path"),
    [
        ("", ""),
        ("~", ""),
        (".", ""),
        ("data", "data"),
        ("~/data/", "data"),
        ("/SSD//alice/", "/SSD/alice"),
        ("a b", "a b"),
        ("./x/../y", "y"),
    ],
)
def test_where_a_remote_path_begins(word: str, path: str) -> None:
    assert mountcheck.parse_remote_path(word) == path


def test_what_sftp_is_asked() -> None:
    job = mountcheck.sftp_command(TARGET, 'a "b\\', config=Path("/c"), limit=4)
    assert job.stdin == b'pwd\ncd "a \\"b\\\\"\n'
    assert job.argv[:5] == ("sftp", "-b", "-", "-F", str(Path("/c")))
    assert job.argv[-1] == "gpu7"
    assert {
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "HostName=10.1.2.7",
        "ControlPath=none",
    } < set(job.argv)
    with pytest.raises(UsageError, match="newline"):
        mountcheck.sftp_command(TARGET, "a\nb", config=Path("/c"), limit=4)


@pytest.mark.parametrize(
    ("remote", "out", "full"),
    [
        ("", HOME, "/home/alice"),
        ("data", HOME, "/home/alice/data"),
        ("/SSD", HOME, "/SSD"),
        # A home that is no ASCII is shown in octal: then the path is left to sshfs as it is.
        ("data", b"Remote working directory: /home/\\303\\274\n", "data"),
        ("/SSD", b"Remote working directory: /home/\\303\\274\n", "/SSD"),
    ],
)
def test_the_full_path(remote: str, out: bytes, full: str) -> None:
    assert mountcheck.full_remote_path(done(0, out), TARGET, remote) == full


@pytest.mark.parametrize(
    ("answer", "code", "number", "part"),
    [
        (
            done(1, err=b"stat remote: No such file or directory\n"),
            "no_path",
            6,
            "data on gpu7 does not exist",
        ),
        (
            done(1, err=b'Can\'t change directory: "/x" is not a directory\n'),
            "no_path",
            6,
            "is not a directory",
        ),
        (done(1, err=b"stat remote: Permission denied\n"), "no_path", 6, "permission denied"),
        (
            done(255, b"", b"subsystem request failed on channel 0\nConnection closed\n"),
            "no_sftp",
            6,
            "no SFTP",
        ),
        (
            done(255, b"", b"Received message too long 1214606444\n"),
            "shell_talks",
            6,
            "prints something",
        ),
        (
            done(
                255,
                b"",
                b"ssh: connect to host 10.1.2.7 port 22001: Connection refused\nConnection closed\n",
            ),
            "connection_refused",
            5,
            "connection refused",
        ),
        (
            done(255, b"", b"alice@10.1.2.7: Permission denied (publickey).\nConnection closed.\n"),
            "key_prompt",
            4,
            "would ask for a passphrase or a password",
        ),
        (
            done(
                255,
                b"",
                b"No ED25519 host key is known for [10.1.2.7]:22001 and you have requested strict checking.\r\n"
                b"Host key verification failed.\r\nConnection closed\r\n",
            ),
            "host_key_unknown",
            7,
            "not known yet",
        ),
        (done(-9, b"", late=True), "timeout", 5, "no answer in time"),
        (done(1, b"", b"what is this?\n"), "sftp", 1, "what is this?"),
        (done(1, b"", b""), "sftp", 1, "did not say why"),
    ],
)
def test_what_stood_in_the_way(answer: Completed, code: str, number: int, part: str) -> None:
    with pytest.raises(ApexError) as caught:
        mountcheck.full_remote_path(answer, TARGET, "data")
    assert (caught.value.code, caught.value.exit_code) == (code, number)
    assert part in caught.value.message
    assert caught.value.hint


def test_a_tilde_that_the_local_shell_has_expanded_is_recognised() -> None:
    with pytest.raises(ApexError) as caught:
        mountcheck.full_remote_path(
            done(1, err=b"stat remote: No such file or directory\n"),
            TARGET,
            f"{Path.home()}/data/x",
        )
    assert caught.value.hint == "apexgpu mount gpu7 --remote data/x"
