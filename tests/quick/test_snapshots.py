"""Names, manifests, verdicts and rotation of archives; the scripts, run by a real shell on real files."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from apexgpu.archives import answers, scripts
from apexgpu.archives.catalog import (
    UNKNOWN,
    Manifest,
    Reading,
    Saved,
    archive,
    checked_label,
    choose,
    default,
    iso,
    name_of,
    owner,
    read_manifest,
    seconds,
    sizes_agree,
    to_rotate,
)
from apexgpu.errors import ApexError, RefusedError, UsageError
from apexgpu.models import Reply

HOSTS = ("gpu2", "gpu12", "my-gpu")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKzh5Q7tJdqLq0ptx7NgNh8sOgK+TUov1qSyVahIboMz root@gpu2"
PUBLIC = "rootfs/etc/ssh/ssh_host_ed25519_key.pub"
GOOD = Reading(100, 5, False, 0, 0, 12, True, "a" * 64)


def sh(script: str, **environment: str) -> Reply:
    done = subprocess.run(
        ["sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )
    return Reply(done.returncode, done.stdout, done.stderr)


def saved(name: str, created: int, *, host: str = "gpu2", verified: int | None = None) -> Saved:
    return Saved(name, host, "", f"/NAS/{name}.tar.gz", 10, created, 0o600, None, verified)


def make(path: Path, *members: str, root: bool = True, text: str = "x") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        if root:
            directory = tarfile.TarInfo("rootfs/")
            directory.type = tarfile.DIRTYPE
            tar.addfile(directory)
        for name in members:
            data = {"rootfs/etc/hostname": "gpu2-alice\n", PUBLIC: KEY}.get(name, text)
            one = tarfile.TarInfo(name)
            one.size = len(data)
            tar.addfile(one, BytesIO(data.encode()))
    return path


class TestNames:
    def test_a_name_says_user_host_time_and_label(self) -> None:
        assert name_of("alice", "gpu2", 1_700_000_000, "x") == "alice-gpu2-20231114T221320Z-x"
        assert seconds(iso(1_700_000_000)) == 1_700_000_000

    @pytest.mark.parametrize(
        ("file", "found"),
        [
            ("alice.tar.gz", ("alice", UNKNOWN, "")),
            ("alice-gpu2-20231114T221320Z.tar.gz", ("alice-gpu2-20231114T221320Z", "gpu2", "")),
            (
                "alice-my-gpu-20231114T221320Z-a-b.tar.gz",
                ("alice-my-gpu-20231114T221320Z-a-b", "my-gpu", "a-b"),
            ),
            (
                "alice-unknown-20231114T221320Z.tar.gz",
                ("alice-unknown-20231114T221320Z", UNKNOWN, ""),
            ),
            ("alice-b.tar.gz", None),
            ("alice-b-gpu2-20231114T221320Z.tar.gz", None),
            ("alice-gpu2.tar.gz", None),
        ],
    )
    def test_only_files_of_this_user_are_archives(
        self, file: str, found: tuple[str, str, str] | None
    ) -> None:
        one = archive("alice", HOSTS, f"/NAS/{file}", (1, 2, 0o600), None)
        assert (one and (one.name, one.host, one.label)) == found

    @pytest.mark.parametrize("label", ["a/b", "-x", "a b", "x" * 41, "$(x)", ".x"])
    def test_a_label_must_be_part_of_a_file_name(self, label: str) -> None:
        with pytest.raises(UsageError):
            checked_label(label)
        assert checked_label("before-upgrade_1.0") == "before-upgrade_1.0"

    @pytest.mark.parametrize(
        ("shown", "size", "blocks", "agree"),
        [
            ("68M", 71_000_000, 0, True),
            ("4.0K", 2250, 4096, True),
            ("68M", 30_000_000, 30_001_152, False),
            ("68M", 50_000_000, 50_001_920, False),
            ("1.2G", 1_250_000_000, 0, True),
            ("x", 1, 512, False),
            ("68M", 35_000_000, 70_000_000, True),  # a NAS that keeps two copies
            ("512", 52_000_000, 512, True),
        ],  # one that has not laid it out yet
    )
    def test_sizes_are_compared_as_far_as_du_tells_them(
        self, shown: str, size: int, blocks: int, agree: bool
    ) -> None:
        assert sizes_agree(shown, replace(GOOD, size=size, blocks=blocks)) is agree


class TestManifest:
    NOTE = Manifest("gpu2", "x", 1_700_000_000, 100, "b" * 64, 1_700_000_100)

    def test_is_read_back(self) -> None:
        assert read_manifest(self.NOTE.text("alice"), "alice") == self.NOTE

    def test_counts_only_while_the_file_is_the_one_it_speaks_of(self) -> None:
        text = self.NOTE.text("alice")
        one = archive("alice", HOSTS, "/NAS/alice.tar.gz", (100, 1_700_000_000, 0o644), text)
        assert one is not None
        assert (one.name, one.verified, one.others_can_read) == (
            "alice-gpu2-20231114T221320Z-x",
            1_700_000_100,
            True,
        )
        other = archive("alice", HOSTS, "/NAS/alice.tar.gz", (101, 1_700_000_000, 0o644), text)
        assert other is not None
        assert (other.name, other.verified, other.sha256) == ("alice", None, None)

    @pytest.mark.parametrize(
        ("mode", "open_to_all"), [(0o644, True), (0o600, False), (0o640, False), (0o604, True)]
    )
    def test_what_the_mode_lets_others_do(self, mode: int, open_to_all: bool) -> None:
        one = archive("alice", HOSTS, "/NAS/alice.tar.gz", (1, 2, mode), None)
        assert one is not None
        assert one.others_can_read is open_to_all

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            '{"schema": 2}',
            NOTE.text("bob"),
            NOTE.text("alice").replace("gpu2", "../x"),
            NOTE.text("alice").replace('"label": "x"', '"label": "/../x"'),
            NOTE.text("alice").replace("b" * 64, "short"),
            NOTE.text("alice").replace('"bytes": 100', '"bytes": "x"'),
        ],
    )
    def test_anything_else_is_none(self, text: str) -> None:
        assert read_manifest(text, "alice") is None


class TestVerdict:
    @pytest.mark.parametrize(
        ("found", "word"),
        [
            (replace(GOOD, gzip=1, said="gzip: stdin: unexpected end of file"), "unexpected end"),
            (replace(GOOD, listing=2), "tar cannot list"),
            (replace(GOOD, rooted=False), "no root file system"),
            (replace(GOOD, members=0), "no root file system"),
            (replace(GOOD, moved=True), "being written"),
        ],
    )
    def test_every_doubt_is_named(self, found: Reading, word: str) -> None:
        assert word in (found.trouble or "")
        assert GOOD.trouble is None

    def test_the_owner_is_a_host_or_nobody(self) -> None:
        assert owner(replace(GOOD, hostname="gpu2-alice"), "alice", HOSTS) == "gpu2"
        assert owner(replace(GOOD, hostname="mylab"), "alice", HOSTS) is None
        assert owner(GOOD, "alice", HOSTS) is None


class TestChoice:
    def test_by_name_label_file_or_path(self) -> None:
        one = replace(saved("alice-gpu2-20231114T221320Z-x", 1), label="x")
        for wanted in (one.name, "x", f"{one.name}.tar.gz", one.path):
            assert choose([one, saved("other", 2)], wanted, "gpu2") == one
        assert choose([one, replace(saved("other", 2), label=one.name)], one.name, "gpu2") == one
        with pytest.raises(RefusedError, match="names 2 snapshots"):
            choose([one, replace(one, name="y", path="/NAS/y")], "x", "gpu2")
        with pytest.raises(RefusedError, match="no snapshot nothere"):
            choose([one], "nothere", "gpu2")

    def test_by_default_the_servers_own_when_it_is_the_hosts(self) -> None:
        own, older = saved("own", 3), saved("older", 2)
        assert default([older, own], "gpu2", own.path) == own
        assert default([older, replace(own, host=UNKNOWN)], "gpu2", own.path).path == own.path
        foreign = replace(own, host="gpu12")
        assert default([older, foreign], "gpu2", own.path) == older
        with pytest.raises(RefusedError, match="gpu12's"):
            default([foreign], "gpu2", own.path)
        with pytest.raises(RefusedError, match="no snapshot can be seen"):
            default([], "gpu2", own.path)

    def test_a_rotation_keeps_the_newest_and_the_last_verified(self) -> None:
        found = [
            saved("a", 1, verified=9),
            saved("b", 2, verified=9),
            saved("c", 3),
            saved("d", 4),
            saved("e", 1, host="gpu12"),
        ]
        assert [one.name for one in to_rotate(found, 2)] == ["a"]
        assert [one.name for one in to_rotate(found, 1)] == ["c", "a"]
        assert to_rotate(found, 5) == []
        with pytest.raises(UsageError):
            to_rotate(found, 0)


@pytest.fixture
def nas(tmp_path: Path) -> Path:
    """An empty directory."""
    (tmp_path / "nas").mkdir()
    return tmp_path / "nas"


ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A directory with an archive, both somebody else's for `as_nobody`."""
    directory = Path(tempfile.mkdtemp(prefix="nas-"))
    (directory / "alice.tar.gz").write_text("good")
    (directory / "alice.tar.gz").chmod(0o644)
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)


def as_nobody(script: str) -> Reply:
    """A script run by one who may not do everything: this user, or nobody where this is root."""
    who = {"user": 65534, "group": 65534, "extra_groups": []} if ROOT else {}
    done = subprocess.run(
        ["sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
        **who,
    )  # type: ignore[call-overload]  # as the keywords of Popen
    return Reply(done.returncode, done.stdout, done.stderr)


class TestScripts:
    def test_look_sees_archives_manifests_room_and_whether_it_may_write(self, nas: Path) -> None:
        one = make(nas / "alice.tar.gz", "rootfs/a")
        (nas / "alice-b.tar.gz").write_text("x")
        (nas / "alice-gpu2-20231114T221320Z-o'x y.tar.gz").write_text("x")
        stat = one.stat()
        note = Manifest("gpu2", "", int(stat.st_mtime), stat.st_size, "c" * 64, 7)
        (nas / "alice.tar.gz.json").write_text(note.text("alice") + "\n")
        sight = answers.saw(
            sh(scripts.look(str(nas), "alice")),
            "gpu2",
            directory=str(nas),
            user="alice",
            hosts=HOSTS,
        )
        assert {found.path.rpartition("/")[2] for found in sight.archives} == {
            "alice.tar.gz",
            "alice-gpu2-20231114T221320Z-o'x y.tar.gz",
        }
        (own,) = [found for found in sight.archives if found.path == str(one)]
        assert own.verified == 7
        assert sight.writable
        assert (sight.free or 0) > 0
        assert not list(nas.glob(".apexgpu-probe*"))

    def test_look_lets_nobody_send_more_than_a_manifest(self, nas: Path) -> None:
        (nas / "alice.tar.gz").write_text("x")
        (nas / "alice.tar.gz.json").write_text("x" * 100_000)
        assert len(sh(scripts.look(str(nas), "alice")).out) < 10_000

    def test_look_passes_over_a_name_that_speaks_in_our_words(self, nas: Path) -> None:
        (nas / "alice.tar.gz").write_text("x")
        (nas / "alice-a\nfree 5\nfile 9 9 600 alice-gpu2-20231114T221320Z.tar.gz").write_text("x")
        sight = answers.saw(
            sh(scripts.look(str(nas), "alice")),
            "gpu2",
            directory=str(nas),
            user="alice",
            hosts=HOSTS,
        )
        assert [one.path for one in sight.archives] == [str(nas / "alice.tar.gz")]
        assert sight.free != 5 << 10

    def test_look_sees_the_archive_behind_a_link(self, nas: Path) -> None:
        (nas / "elsewhere").write_text("12345")
        (nas / "alice.tar.gz").symlink_to("elsewhere")
        sight = answers.saw(
            sh(scripts.look(str(nas), "alice")),
            "gpu2",
            directory=str(nas),
            user="alice",
            hosts=HOSTS,
        )
        assert [one.size for one in sight.archives] == [5]

    def test_look_where_there_is_nothing(self, nas: Path) -> None:
        with pytest.raises(RefusedError, match="does not see"):
            answers.saw(
                sh(scripts.look(f"{nas}/no", "alice")),
                "gpu2",
                directory="x",
                user="alice",
                hosts=HOSTS,
            )

    def test_a_good_archive_is_read_to_its_end(self, nas: Path) -> None:
        path = make(nas / "it's.tar.gz", "rootfs/etc/hostname", PUBLIC, "rootfs/b")
        found = answers.tested(sh(scripts.test(str(path)), TMPDIR=str(nas)), "gpu2", str(path))
        assert found.trouble is None
        assert (found.size, found.members, found.hostname) == (path.stat().st_size, 4, "gpu2-alice")
        assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert [key.line for key in found.keys] == [KEY]
        assert list(nas.iterdir()) == [path]

    def test_one_that_changes_while_it_is_read_is_not_whole(self, nas: Path) -> None:
        path = make(nas / "a.tar.gz", "rootfs/a")
        reply = sh(scripts.test(str(path)))
        changed = re.sub(r"(?m)^after (\d+) \d+$", r"after \1 1", reply.out)
        assert (
            answers.tested(Reply(0, changed), "gpu2", str(path)).trouble
            == "it was being written while it was read"
        )

    @pytest.mark.parametrize("damage", ["cut", "flip", "garbage", "empty", "no-root"])
    def test_no_damage_passes(self, nas: Path, damage: str) -> None:
        path = make(nas / "a.tar.gz", "rootfs/a", "rootfs/b", text=os.urandom(4000).hex())
        data = path.read_bytes()
        if damage == "no-root":
            make(path, "home/x", root=False)
        else:
            middle = len(data) // 2
            path.write_bytes(
                {
                    "cut": data[:middle],
                    "flip": data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :],
                    "garbage": b"not gzip",
                    "empty": b"",
                }[damage]
            )
        assert answers.tested(sh(scripts.test(str(path))), "gpu2", str(path)).trouble

    def test_what_is_missing_or_cut_is_no_result(self, nas: Path) -> None:
        with pytest.raises(RefusedError, match="no archive"):
            answers.tested(sh(scripts.test(f"{nas}/no")), "gpu2", "x")
        for reply in (
            Reply(0, ""),
            Reply(0, "before 1 2\ngzip 0\n"),
            Reply(255, "", "Permission denied"),
        ):
            with pytest.raises(ApexError, match="could not look"):
                answers.tested(reply, "gpu2", "x")
        with pytest.raises(ApexError, match="no result"):
            answers.tested(Reply(0, "gzip 0\nend\n"), "gpu2", "x")

    def test_moving_aside_and_back_takes_the_manifest_along(self, nas: Path) -> None:
        old, new = nas / "alice.tar.gz", nas / "alice-gpu2-x.tar.gz"
        old.write_text("good")
        (nas / "alice.tar.gz.json").write_text("{}")
        assert answers.moved(sh(scripts.aside(str(old), str(new))), "gpu2") == "renamed"
        assert (nas / "alice-gpu2-x.tar.gz.json").exists()
        assert new.stat().st_mode & 0o777 == 0o600
        assert answers.moved(sh(scripts.aside(str(old), str(new))), "gpu2") is None
        old.write_text("bad")
        with pytest.raises(RefusedError):
            answers.moved(sh(scripts.aside(str(old), str(new))), "gpu2")
        assert answers.moved(sh(scripts.back(str(new), str(old))), "gpu2") == "renamed"
        assert old.read_text() == "good"
        assert sorted(path.name for path in nas.iterdir()) == ["alice.tar.gz", "alice.tar.gz.json"]

    def test_a_name_that_is_taken_is_never_overwritten(self, nas: Path) -> None:
        old, new = nas / "alice.tar.gz", nas / "taken.tar.gz"
        old.write_text("old")
        new.write_text("other")
        with pytest.raises(RefusedError, match="is there already"):
            answers.moved(sh(scripts.aside(str(old), str(new))), "gpu2")
        assert (old.read_text(), new.read_text()) == ("old", "other")

    def test_what_goes_back_to_the_server_can_be_read_by_it(self, nas: Path) -> None:
        old, new = nas / "alice-gpu2-x.tar.gz", nas / "alice.tar.gz"
        old.write_text("good")
        old.chmod(0o600)
        assert answers.moved(sh(scripts.back(str(old), str(new))), "gpu2") == "renamed"
        assert new.stat().st_mode & 0o777 == 0o644

    def test_an_archive_may_begin_its_names_with_a_dot(self, nas: Path) -> None:
        tree = nas / "rootfs" / "etc" / "ssh"
        tree.mkdir(parents=True)
        (tree.parent / "hostname").write_text("gpu2-alice\n")
        (tree / "ssh_host_ed25519_key.pub").write_text(f"{KEY}\n")
        path = nas / "a.tar.gz"
        subprocess.run(["tar", "-czf", path, "-C", nas, "./rootfs"], check=True, timeout=30)
        found = answers.tested(sh(scripts.test(str(path))), "gpu2", str(path))
        assert found.trouble is None
        assert (found.hostname, [key.line for key in found.keys], found.mode) == (
            "gpu2-alice",
            [KEY],
            0o644,
        )
        assert found.blocks >= found.size

    def test_a_long_reading_tells_how_far_it_is_until_it_stands_still(self, nas: Path) -> None:
        """`gzip` reads the file, then hangs as on a NAS that is gone; the test lets it go when it has been told of."""
        path = make(nas / "a.tar.gz", "rootfs/a", text=os.urandom(40_000).hex())
        tools, gate = nas / "bin", nas / "gate"
        tools.mkdir()
        os.mkfifo(gate)
        waits = f'/bin/gzip -t\nread go <"{gate}"\n'
        (tools / "gzip").write_text(f'#!/bin/sh\n[ "$1" = -t ] || exec /bin/gzip "$@"\n{waits}')
        (tools / "sleep").write_text("#!/bin/sh\nexec /bin/sleep 0.02\n")
        for tool in tools.iterdir():
            tool.chmod(0o755)
        environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
        with subprocess.Popen(
            ["sh", "-c", scripts.test(str(path))],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        ) as reading:
            assert reading.stdout is not None
            said = [reading.stdout.readline(), reading.stdout.readline()]
            gate.write_text("go\n")
            said += reading.stdout.read().splitlines(keepends=True)
        found = [answers.position(line) for line in said if answers.position(line) is not None]
        assert found
        assert len(found) == len(dict.fromkeys(found)), (
            "a position that does not change is said once"
        )
        assert answers.tested(Reply(0, "".join(said)), "gpu2", str(path)).trouble is None
        assert answers.position("free 12") is None

    def test_a_reading_that_nobody_listens_to_any_more_ends(self, nas: Path) -> None:
        """A laptop that is closed: nothing goes on reading many GB over the network."""
        path = make(nas / "a.tar.gz", "rootfs/a", text=os.urandom(40_000).hex())
        tools = nas / "bin"
        tools.mkdir()
        slow = "while head -c 1 >/dev/null; do /bin/sleep 0.02; done\n"
        (tools / "gzip").write_text(f'#!/bin/sh\n[ "$1" = -t ] || exec /bin/gzip "$@"\n{slow}')
        (tools / "sleep").write_text("#!/bin/sh\nexec /bin/sleep 0.02\n")
        for tool in tools.iterdir():
            tool.chmod(0o755)
        environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
        with subprocess.Popen(
            ["sh", "-c", scripts.test(str(path))],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        ) as reading:
            assert reading.stdout is not None
            try:
                reading.stdout.readline()
                reading.stdout.close()
                reading.wait(10)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(reading.pid, signal.SIGKILL)

    def test_where_a_rename_is_refused_it_is_copied(self, nas: Path) -> None:
        tools = nas / "bin"
        tools.mkdir()
        (tools / "mv").write_text(
            '#!/bin/sh\ncase "$*" in *.part*) exec /bin/mv "$@";; esac\nexit 1\n'
        )
        (tools / "mv").chmod(0o755)
        old, new = nas / "alice.tar.gz", nas / "copy.tar.gz"
        old.write_text("good")
        os.utime(old, (1_700_000_000, 1_700_000_000))
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        assert answers.moved(sh(scripts.aside(str(old), str(new)), PATH=path), "gpu2") == "copied"
        assert old.read_text() == new.read_text() == "good"
        assert int(new.stat().st_mtime) == 1_700_000_000

    def test_a_copy_that_is_not_the_same_is_none(self, nas: Path) -> None:
        """A `cp` that loses bytes and says nothing: the previous archive stays the only one."""
        tools = nas.parent / "bin"
        tools.mkdir()
        (tools / "mv").write_text(
            '#!/bin/sh\ncase "$*" in *.part*) exec /bin/mv "$@";; esac\nexit 1\n'
        )
        (tools / "cp").write_text(
            '#!/bin/sh\n/bin/cp "$@"\nfor last; do :; done\necho lost >"$last"\n'
        )
        for tool in tools.iterdir():
            tool.chmod(0o755)
        old, new = nas / "alice.tar.gz", nas / "copy.tar.gz"
        old.write_text("good")
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        with pytest.raises(RefusedError, match="neither be renamed nor copied"):
            answers.moved(sh(scripts.aside(str(old), str(new)), PATH=path), "gpu2")
        assert [(one.name, one.read_text()) for one in nas.iterdir()] == [("alice.tar.gz", "good")]

    def test_notes_modes_removal_and_standing(self, nas: Path) -> None:
        one = nas / "a b.tar.gz"
        one.write_text("12345")
        assert answers.did(sh(scripts.note(str(one), '{"it\'s": 1}')), "gpu2")
        assert (nas / "a b.tar.gz.json").read_text() == '{"it\'s": 1}\n'
        assert (nas / "a b.tar.gz.json").stat().st_mode & 0o777 == 0o600
        assert answers.bits(sh(scripts.mode(str(one), 0o640)), "gpu2") == 0o640
        assert one.stat().st_mode & 0o777 == 0o640
        assert (answers.standing(sh(scripts.stat(str(one))), "gpu2") or (0, 0))[0] == 5
        stamp = answers.standing(sh(scripts.stat(str(one))), "gpu2") or (0, 0)
        with pytest.raises(RefusedError, match="another archive by now"):
            answers.removed(
                sh(scripts.remove(str(one), (stamp[0] + 1, stamp[1]))), "gpu2", str(one)
            )
        assert answers.removed(sh(scripts.remove(str(one), stamp)), "gpu2", str(one))
        assert list(nas.iterdir()) == []
        assert answers.standing(sh(scripts.stat(str(one))), "gpu2") is None
        assert answers.bits(sh(scripts.mode(str(one), 0o640)), "gpu2") is None

    def test_a_full_disk_is_told_from_one_that_may_not_be_written(
        self, nas: Path, tmp_path: Path
    ) -> None:
        old = nas / "alice.tar.gz"
        old.write_bytes(bytes(5000))
        programs = tmp_path / "programs"
        programs.mkdir()
        for name, text in (("cp", "exit 1"), ("mv", "exit 1"), ("df", "echo; echo / 9 7 2 78% /")):
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        script = f"PATH={programs}:$PATH\n{scripts.aside(str(old), f'{nas}/kept.tar.gz')}"
        with pytest.raises(RefusedError, match=r"no room for a copy: 2\.0 KiB free") as caught:
            answers.moved(sh(script), "gpu2")
        assert caught.value.code == "no_room"
        assert [path.name for path in nas.iterdir()] == ["alice.tar.gz"]

    @pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no such modes")
    def test_a_directory_that_may_not_be_written_is_said_and_nothing_is_moved(
        self, theirs: Path
    ) -> None:
        old = theirs / "alice.tar.gz"
        theirs.chmod(0o555)
        sight = answers.saw(
            as_nobody(scripts.look(str(theirs), "alice")),
            "gpu2",
            directory=str(theirs),
            user="alice",
            hosts=HOSTS,
        )
        assert (sight.writable, len(sight.archives)) == (False, 1)
        with pytest.raises(RefusedError, match="neither be renamed nor copied"):
            answers.moved(as_nobody(scripts.aside(str(old), f"{theirs}/copy.tar.gz")), "gpu2")
        assert not answers.did(as_nobody(scripts.note(str(old), "{}")), "gpu2")
        stamp = answers.standing(as_nobody(scripts.stat(str(old))), "gpu2") or (0, 0)
        assert not answers.removed(as_nobody(scripts.remove(str(old), stamp)), "gpu2", str(old))
        assert [path.read_text() for path in theirs.iterdir()] == ["good"]

    @pytest.mark.skipif(not ROOT, reason="only root can make files of two users")
    def test_where_only_the_owner_may_rename_a_copy_is_made_and_made_private(
        self, theirs: Path
    ) -> None:
        theirs.chmod(0o1777)
        old, new = theirs / "alice.tar.gz", theirs / "copy.tar.gz"
        assert answers.moved(as_nobody(scripts.aside(str(old), str(new))), "gpu2") == "copied"
        assert old.read_text() == new.read_text() == "good"
        assert (new.stat().st_mode & 0o777, new.stat().st_uid) == (0o600, 65534)
        assert answers.bits(as_nobody(scripts.mode(str(old), 0o600)), "gpu2") == 0o644

    def test_no_script_links_what_tar_would_write_through(self) -> None:
        assert not re.search(r"\bln\b", scripts.aside("/a", "/b"))
