"""mount, mounts and unmount with the real sshfs, OpenSSH servers and FUSE, as a user who is not root."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.longruns import LARGE
from tests.real.member import EIGHT, SEVEN, Member, Said, member
from tests.waiting import until

pytestmark = pytest.mark.sshfs

READ = "import sys; print(open(sys.argv[1]).read(), end='')"
_NAMES = (
    "plain",
    "two  blanks ",
    " ",
    "Ünïcödé",
    "实验 结果.txt",
    "new\nline",
    "tab\t",
    "'quotes\"",
    "back\\slash",
    "-dash",
    "*?[a]",
    "comma,semicolon;",
    "%d%%",
    "🙂",
    "e\u0301 not composed",
    "a" * 255,
)


@pytest.fixture
def laptop() -> Iterator[Member]:
    with member() as found:
        yield found


def await_state(laptop: Member, state: str) -> None:
    """Ask `mounts` until the mount has that state."""
    end = time.monotonic() + 60
    while (found := laptop.mounts(in_time=True))[0]["state"] != state:
        assert time.monotonic() < end, found


@contextlib.contextmanager
def standing_in(laptop: Member, there: Path, *words: str) -> "Iterator[subprocess.Popen[str]]":
    """The command line in a process that is in the directory `there` already, and begins at a line on its stdin."""
    code = """
import os, sys
os.chdir(sys.argv[1])
print("in", flush=True)
sys.stdin.readline()
os.execv(sys.argv[2], sys.argv[2:])
"""
    apexgpu = str(Path(sysconfig.get_path("scripts"), "apexgpu"))
    argv = [sys.executable, "-I", "-S", "-c", code, str(there), sys.executable, apexgpu, *words]
    with laptop.popen(argv, stdin=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        yield process


def ended(said: Said, code: int) -> Said:
    assert said.code == code, said.err
    return said


def in_time(said: Said, code: int) -> Said:
    """It ended like that, and has waited for nothing that hangs."""
    assert said.seconds < 5, said
    return ended(said, code)


def test_names_of_every_kind_go_there_and_come_back(laptop: Member) -> None:
    there = laptop.mounted()
    code = """
import os, sys
for number, name in enumerate(sys.argv[2:]):
    os.mkdir(os.path.join(sys.argv[1], "d" + name[:254]))
    with open(os.path.join(sys.argv[1], "d" + name[:254], name), "w") as file:
        file.write(str(number))
"""
    laptop.result(code, str(there), *_NAMES)
    for number, name in enumerate(_NAMES):
        path = Path("d" + name[:254]) / name
        assert (laptop.files / path).read_text() == str(number)
        assert laptop.result(READ, str(there / path)) == str(number)
    names = laptop.result("import os,sys; print(sorted(os.listdir(sys.argv[1])))", str(there))
    assert names.strip() == str(sorted("d" + name[:254] for name in _NAMES))
    (laptop.files / "made there\n").write_text("yes")
    assert laptop.result(READ, str(there / "made there\n")) == "yes"
    code = "import os,sys; os.rename(sys.argv[1], sys.argv[2]); os.unlink(sys.argv[3])"
    laptop.result(
        code, str(there / "dplain" / "plain"), str(there / "moved\there"), str(there / "d " / " ")
    )
    assert (laptop.files / "moved\there").read_text() == "0"
    assert not (laptop.files / "d " / " ").exists()


def test_a_directory_with_a_strange_name_can_be_mounted_and_mounted_on(laptop: Member) -> None:
    (laptop.files / 'my "data" ü\\').mkdir()
    (laptop.files / 'my "data" ü\\' / "here").write_text("1")
    here = laptop.home / "blank ü\n,here"
    remote = str(laptop.files / 'my "data" ü\\')
    said = laptop("mount", SEVEN, str(here), "--remote", remote)
    assert said.code == 0, said.err
    assert laptop.result(READ, str(here / "here")) == "1"
    found = laptop.mounts()[0]
    assert (found["directory"], found["remote"], found["state"]) == (str(here), remote, "alive")
    assert laptop("unmount", str(here)).code == 0
    assert laptop.mounts() == []


def test_five_thousand_small_files(laptop: Member) -> None:
    there = laptop.mounted()
    code = """
import os, sys
for number in range(5000):
    with open(f"{sys.argv[1]}/{number}", "w") as file:
        file.write(str(number) * 10)
"""
    laptop.result(code, str(there))
    assert len(list(laptop.files.iterdir())) == 5000
    assert all(
        (laptop.files / str(number)).read_text() == str(number) * 10 for number in range(5000)
    )
    code = "import os,sys; print(sum(one.stat().st_size for one in os.scandir(sys.argv[1])))"
    assert int(laptop.result(code, str(there))) == sum(
        len(str(number)) * 10 for number in range(5000)
    )


@pytest.mark.timeout(400)
def test_a_large_file_comes_back_as_it_was_sent(laptop: Member) -> None:
    there = laptop.mounted()
    code = f"""
import hashlib, random, sys
block, sum = random.Random(1).randbytes(1 << 20), hashlib.sha256()
with open(sys.argv[1], "wb") as file:
    for number in range({LARGE >> 20}):
        part = number.to_bytes(8, "big") + block[8:]
        sum.update(part)
        file.write(part)
print(sum.hexdigest(), end="")
"""
    with laptop.python(code, str(there / "big")) as process:
        sent, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert (laptop.files / "big").stat().st_size == LARGE
    with (laptop.files / "big").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == sent
    assert laptop("unmount", SEVEN).code == 0
    there = laptop.mounted("--read-only")  # nothing of it is in the laptop's memory any more
    code = "import hashlib,sys; print(hashlib.file_digest(open(sys.argv[1],'rb'),'sha256').hexdigest(), end='')"
    with laptop.python(code, str(there / "big")) as process:
        read, err = process.communicate(timeout=300)
    assert (process.returncode, read) == (0, sent), err


def test_what_is_changed_there_is_seen_here_though_it_was_read_before(laptop: Member) -> None:
    there = laptop.mounted()
    code = """
import sys, time
for number in range(10):
    print("next", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + 10
    while open(sys.argv[1]).read() != f"step {number}\\n" * (number + 1):
        assert time.monotonic() < end, number
"""
    with laptop.popen(
        [sys.executable, "-I", "-S", "-c", code, str(there / "log")], stdin=-1
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdin is not None
        for number in range(10):
            assert reader.stdout.readline() == "next\n"
            (laptop.files / "log").write_text(f"step {number}\n" * (number + 1))
            reader.stdin.write("\n")
            reader.stdin.flush()
        _, err = reader.communicate(timeout=60)
        assert reader.returncode == 0, err


@pytest.mark.serial
def test_a_server_that_is_killed_hangs_nobody_and_when_it_is_back_the_mount_works(
    laptop: Member,
) -> None:
    there = laptop.mounted()
    (laptop.files / "data").write_bytes(b"x" * 5_000_000)
    code = """
import sys
with open(sys.argv[1], "r+b", buffering=0) as file:
    print("open", flush=True)
    while True:
        file.seek(0)
        file.write(b"y" * 4096)
"""
    with laptop.python(code, str(there / "data")) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        laptop.servers[0].kill()
        _, err = writer.communicate(timeout=60)  # an error, and no lock-up
    assert writer.returncode == 1
    assert "OSError" in err
    await_state(laptop, "stale")
    assert "stale" in in_time(laptop("mount", SEVEN, "--remote", str(laptop.files)), 6).err
    assert "connection refused" in in_time(laptop("mounts", "repair"), 5).err
    in_time(laptop("doctor", SEVEN), 1)
    laptop.servers[0].again()
    await_state(laptop, "alive")
    assert laptop.result(READ, str(there / "data"))[-1] == "x"


@pytest.mark.serial
def test_a_server_that_falls_silent_gives_programs_an_error_and_our_commands_do_not_wait(
    laptop: Member,
) -> None:
    there = laptop.mounted()
    (laptop.files / "data").write_text("1")
    stopped = laptop.servers[0].freeze()
    try:
        with laptop.python(READ, str(there / "data")) as reader:
            while Path(f"/proc/{reader.pid}/wchan").read_text() != "request_wait_answer":
                assert reader.poll() is None
            assert f"(process {reader.pid})" in in_time(laptop("unmount", SEVEN), 6).err
            assert laptop.mounts(in_time=True)[0]["state"] == "stale"
            assert laptop.mounts(in_time=True)[0]["reason"]
            in_time(laptop("mounts", "repair"), 5)
            _, err = reader.communicate(timeout=40)
            assert "OSError" in err
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    await_state(laptop, "alive")
    assert laptop.result(READ, str(there / "data")) == "1"


@pytest.mark.serial
def test_a_connection_that_is_stuck_is_found_and_repaired_and_who_waits_gets_an_error(
    laptop: Member,
) -> None:
    there = laptop.mounted("--read-only")
    (laptop.files / "data").write_text("1")
    (ssh,) = laptop.processes("ssh")
    os.kill(ssh, signal.SIGSTOP)
    with laptop.python(READ, str(there / "data")) as reader:
        assert laptop.mounts(in_time=True)[0]["state"] == "stale"
        inner = in_time(laptop("mount", SEVEN, str(there / "inner")), 6)
        assert f"which is mounted from {SEVEN}" in inner.err
        said = in_time(laptop("mounts", "repair", "--json"), 0)
        assert '"state": "alive"' in said.out
        _, err = reader.communicate(timeout=60)
        assert "OSError" in err or "ConnectionAbortedError" in err
    assert laptop.processes("ssh") != [ssh]
    assert len(laptop.processes("ssh")) == len(laptop.processes("sshfs")) == 1
    assert laptop.result(READ, str(there / "data")) == "1"
    found = laptop.mounts()[0]
    assert (found["read_only"], found["remote"], found["state"]) == (
        True,
        str(laptop.files),
        "alive",
    )
    assert "nothing to repair" in in_time(laptop("mounts", "repair"), 0).err


@pytest.mark.serial
def test_an_sshfs_that_was_killed_leaves_a_mount_that_repair_or_unmount_cures(
    laptop: Member,
) -> None:
    there = laptop.mounted()
    (laptop.files / "data").write_text("1")
    for cure in ("repair", "unmount"):
        (pid,) = laptop.processes("sshfs")
        os.kill(pid, signal.SIGKILL)
        await_state(laptop, "stale")
        in_time(laptop(*(("mounts", "repair") if cure == "repair" else ("unmount", SEVEN))), 0)
        if cure == "repair":
            assert laptop.result(READ, str(there / "data")) == "1"
    assert laptop.mounts() == []
    assert not there.exists()


@pytest.mark.serial
def test_who_stands_in_a_stuck_mount_is_not_stuck(laptop: Member) -> None:
    there = laptop.mounted()
    (ssh,) = laptop.processes("ssh")
    with standing_in(laptop, there, "unmount", SEVEN) as process:
        os.kill(ssh, signal.SIGSTOP)
        began = time.monotonic()
        _, err = process.communicate("\n", timeout=60)
    assert process.returncode == 0, err
    assert (time.monotonic() - began) / laptop.slowness < 5
    assert laptop.mounts(in_time=True) == []


@pytest.mark.serial
def test_a_stuck_mount_goes_by_force_with_all_its_processes(laptop: Member) -> None:
    there = laptop.mounted()
    (ssh,) = laptop.processes("ssh")
    os.kill(ssh, signal.SIGSTOP)
    in_time(laptop("unmount", SEVEN, "--force"), 0)
    assert laptop.processes("ssh") == laptop.processes("sshfs") == []
    assert not there.exists()


@pytest.mark.parametrize("words", ["mounts", "mounts repair", "unmount HOST", "mount HOST"])
@pytest.mark.serial
def test_who_stands_in_a_dead_mount_can_still_use_every_command(laptop: Member, words: str) -> None:
    there = laptop.mounted()
    with standing_in(laptop, there, *words.replace("HOST", SEVEN).split()) as process:
        (pid,) = laptop.processes("sshfs")
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        _, err = process.communicate("\n", timeout=60)
    assert process.returncode == (6 if words.startswith("mount ") else 0), err
    assert "apexgpu itself failed" not in err
    assert (time.monotonic() - began) / laptop.slowness < 5


def test_two_hosts_at_once() -> None:
    with member(SEVEN, EIGHT) as laptop:
        seven, eight = laptop.mounted(), laptop.home / "apexgpu" / EIGHT
        (laptop.files / "other").mkdir()
        said = laptop("mount", EIGHT, "--remote", str(laptop.files / "other"))
        assert said.code == 0, said.err
        laptop.result("import sys; open(sys.argv[1],'w').write('8')", str(eight / "file"))
        assert laptop.result(READ, str(seven / "other" / "file")) == "8"
        laptop.servers[0].kill()
        states = {one["host"]: one["state"] for one in laptop.mounts()}
        assert states == {SEVEN: "stale", EIGHT: "alive"}
        assert laptop.result(READ, str(eight / "file")) == "8"
        ended(laptop("unmount", EIGHT), 0)
        assert [one["host"] for one in laptop.mounts()] == [SEVEN]
        ended(laptop("unmount", "--all"), 0)
        assert not (laptop.home / "apexgpu").exists()


def test_twice_is_nothing_to_do_and_another_thing_there_is_refused(laptop: Member) -> None:
    there = laptop.mounted()
    before = laptop.mounts()[0]
    said = laptop("mount", SEVEN, "--remote", str(laptop.files))
    assert (said.code, said.out) == (0, f"{there}  →  {SEVEN}:{laptop.files}\n")
    assert "nothing to do" in said.err
    assert laptop.mounts()[0]["pid"] == before["pid"]
    assert laptop("mount", SEVEN, "--remote", "/usr").code == 6
    assert laptop("mount", SEVEN, "--remote", str(laptop.files), "--read-only").code == 6
    assert laptop("unmount", SEVEN).code == 0
    said = laptop("unmount", SEVEN)
    assert (said.code, "nothing to unmount" in said.err) == (0, True)


def test_what_is_in_use_is_not_unmounted_and_said_by_whom_and_force_lets_it_finish(
    laptop: Member,
) -> None:
    there = laptop.mounted()
    (laptop.files / "data").write_text("1")
    code = """
import sys
file = open(sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
print(file.read(), flush=True)
"""
    holder = laptop.popen(
        ["/usr/bin/env", "python3", "-I", "-S", "-c", code, str(there / "data")], stdin=-1
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        said = ended(laptop("unmount", SEVEN), 6)
        assert f"(process {holder.pid})" in said.err
        assert "--force" in said.err
        assert laptop.mounts()[0]["state"] == "alive"
        ended(laptop("unmount", SEVEN, "--force"), 0)
        assert laptop.mounts() == []
        out, _ = holder.communicate("go on\n", timeout=60)
        assert out == "1\n"


def test_it_is_the_users_own_sshfs_not_roots(laptop: Member) -> None:
    there = laptop.mounted()
    (sshfs,) = laptop.processes("sshfs")
    assert Path(f"/proc/{sshfs}").stat().st_uid == (65534 if os.getuid() == 0 else os.getuid())
    laptop.result("import sys; open(sys.argv[1],'w').close()", str(there / "mine"))
    code = "import os,sys; print(os.stat(sys.argv[1]).st_uid == os.getuid())"
    assert laptop.result(code, str(there / "mine")) == "True\n"  # idmap=user
    assert laptop("mount", SEVEN, "/usr").code == 6


def test_a_mount_made_by_hand_is_listed_and_unmounted_too(laptop: Member) -> None:
    here = laptop.home / "by hand"
    laptop.result("import os,sys; os.mkdir(sys.argv[1])", str(here))
    server = laptop.servers[0].host
    argv = [
        "sshfs",
        "-F",
        laptop.environment["APEXGPU_SSH_CONFIG"],
        "-p",
        str(server.port),
        "-o",
        f"IdentityFile={laptop.directory}/key0",
        f"{server.user}@{server.address}:{laptop.files}",
        str(here),
    ]
    with laptop.popen(argv, stdout=-3, stderr=-3) as process:
        assert process.wait(60) == 0
    found = laptop.mounts()[0]
    assert (found["host"], found["directory"], found["remote"]) == (
        SEVEN,
        str(here),
        str(laptop.files),
    )
    assert found["since"]
    said = laptop("mount", SEVEN, str(here))
    assert (said.code, f"{SEVEN}:{laptop.files} is mounted on {here} already" in said.err) == (
        6,
        True,
    )
    ended(laptop("unmount", SEVEN), 0)
    assert here.is_dir()  # we did not make it


def test_what_was_unmounted_by_hand_is_forgotten(laptop: Member) -> None:
    there = laptop.mounted()
    with laptop.popen(["fusermount3", "-u", str(there)]) as process:
        assert process.wait(60) == 0
    assert laptop.mounts() == []
    assert "nothing to unmount" in ended(laptop("unmount", SEVEN), 0).err
    assert not there.exists()
    assert (laptop.state / "mounts.json").read_text() == "[]"


def test_a_mount_by_hand_that_leads_elsewhere_is_not_ours_though_its_name_is() -> None:
    with member(SEVEN, EIGHT) as laptop:
        here, config = laptop.home / "elsewhere", laptop.directory / "other_config"
        other = laptop.servers[1].host
        laptop.result("import os,sys; os.mkdir(sys.argv[1])", str(here))
        config.write_text(
            f"Host {SEVEN}\n  HostName 127.0.0.1\n  Port {other.port}\n  User {other.user}\n"
            f"  IdentityFile {laptop.directory}/key1\n  UserKnownHostsFile {laptop.directory}/known_hosts\n"
        )
        argv = ["sshfs", "-F", str(config), f"{SEVEN}:{laptop.files}", str(here)]
        with laptop.popen(argv, stdout=-3, stderr=-3) as made:
            assert made.wait(60) == 0
        assert laptop.mounts() == []
        for words in (("unmount", SEVEN), ("unmount", "--all"), ("mounts", "repair")):
            assert laptop(*words).code == 0
        assert laptop("unmount", str(here)).code == 2
        assert str(here) in Path("/proc/self/mountinfo").read_text()
        with laptop.popen(["fusermount3", "-u", str(here)]) as gone:
            assert gone.wait(60) == 0


def test_logout_and_uninstall_unmount(laptop: Member) -> None:
    for command in (("logout",), ("uninstall", "--yes")):
        there = laptop.mounted()
        said = laptop(*command)
        assert said.code == 0, said.err
        assert str(there) in said.err
        assert str(there) not in Path("/proc/self/mountinfo").read_text()
        assert not there.exists()
        laptop.remember()


def test_a_mount_in_use_stops_a_logout_before_anything_is_gone(laptop: Member) -> None:
    there = laptop.mounted()
    code = "import os,sys; os.chdir(sys.argv[1]); print('in', flush=True); sys.stdin.readline()"
    with laptop.popen(["/usr/bin/env", "python3", "-c", code, str(there)], stdin=-1) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "in\n"
        said = laptop("logout")
        assert (said.code, f"(process {holder.pid})" in said.err) == (6, True)
        assert (laptop.state / "account.json").exists()
        holder.communicate("\n", timeout=60)


@pytest.mark.parametrize("step", ["the look at the host", "the mount", "after the mount"])
def test_ctrl_c_leaves_no_mount_and_no_directory(laptop: Member, step: str) -> None:
    more: list[str] = []
    flag = laptop.files / "flag"
    laptop.files.chmod(0o777)
    if step == "the look at the host":
        laptop.servers[0].freeze()
    else:
        script = laptop.directory / "slow-ssh"
        last = 'exec ssh "$@"' if step == "after the mount" else "exec tail -f /dev/null"
        script.write_text(f"#!/bin/sh\ntouch {flag}\n{last}\n")
        script.chmod(0o755)
        more = ["-o", f"ssh_command={script}"]
    with laptop.popen(
        laptop.apexgpu("mount", SEVEN, "--remote", str(laptop.files), *more)
    ) as process:
        until(lambda: _reached(laptop, step, process.pid, flag))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 or (step == "after the mount" and process.returncode == 0), err
    assert "Traceback" not in err
    if process.returncode == 130:
        assert str(laptop.home) not in Path("/proc/self/mountinfo").read_text()
        assert not (laptop.home / "apexgpu").exists()
        assert (
            laptop.processes("ssh") == laptop.processes("sshfs") == laptop.processes("tail") == []
        )


def _reached(laptop: Member, step: str, pid: int, flag: Path) -> bool:
    if step == "the look at the host":
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        with contextlib.suppress(OSError):
            return any(Path(f"/proc/{child}/comm").read_text() == "sftp\n" for child in children)
        return False
    if step == "the mount":
        return flag.exists()
    return str(laptop.home) in Path("/proc/self/mountinfo").read_text()
