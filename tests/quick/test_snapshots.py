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
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest

from apexgpu.archives import scriptreplies, scripts
from apexgpu.archives.catalog import (
    UNKNOWN_HOST,
    Archive,
    ArchiveCheck,
    FileStamp,
    Manifest,
    archive_name,
    checked_label,
    epoch_seconds,
    identify,
    iso,
    parse_manifest,
    saved_host,
    sizes_agree,
    without_stale_names,
)
from apexgpu.archives.scriptreplies import NameTakenError
from apexgpu.archives.selection import (
    KeepRules,
    choose_archive,
    default_archive,
    rotate,
)
from apexgpu.errors import ApexError, RefusedError, UsageError
from apexgpu.models import Reply

HOSTS = ("gpu2", "gpu12", "my-gpu")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKzh5Q7tJdqLq0ptx7NgNh8sOgK+TUov1qSyVahIboMz root@gpu2"
PUBLIC = "rootfs/etc/ssh/ssh_host_ed25519_key.pub"
SYSTEM = ("rootfs/etc/passwd", "rootfs/bin/sh")
GOOD = ArchiveCheck(FileStamp(100, 5), False, 0, 0, 12, True, "a" * 64)


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


def at(name: str, when: datetime, *, host: str = "gpu2") -> Archive:
    return saved(name, int(when.timestamp()), host=host)


def removed_by(archives: list[Archive], **rules: int) -> list[str]:
    """The names of those that a rotation would remove."""
    return [each.archive.name for each in rotate(archives, KeepRules(**rules)) if not each.why]


def saved(name: str, created: int, *, host: str = "gpu2", verified: int | None = None) -> Archive:
    return Archive(name, host, "", f"/NAS/{name}.tar.gz", 10, created, 0o600, None, verified)


def for_undo(name: str, created: int) -> Archive:
    return replace(saved(name, created, verified=9), label="before-recover")


def make(
    path: Path, *members: str, root: bool = True, system: bool = True, text: str = "x"
) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        if root:
            directory = tarfile.TarInfo("rootfs/")
            directory.type = tarfile.DIRTYPE
            tar.addfile(directory)
        for name in (*(SYSTEM if system else ()), *members):
            data = {"rootfs/etc/hostname": "gpu2-alice\n", PUBLIC: KEY}.get(name, text)
            one = tarfile.TarInfo(name)
            one.size = len(data)
            tar.addfile(one, BytesIO(data.encode()))
    return path


class TestNames:
    def test_a_name_says_user_host_time_and_label(self) -> None:
        assert archive_name("alice", "gpu2", 1_700_000_000, "x") == "alice-gpu2-20231114T221320Z-x"
        assert epoch_seconds(iso(1_700_000_000)) == 1_700_000_000

    @pytest.mark.parametrize(
        ("file", "found"),
        [
            ("alice.tar.gz", ("alice", UNKNOWN_HOST, "")),
            ("alice-gpu2-20231114T221320Z.tar.gz", ("alice-gpu2-20231114T221320Z", "gpu2", "")),
            (
                "alice-my-gpu-20231114T221320Z-a-b.tar.gz",
                ("alice-my-gpu-20231114T221320Z-a-b", "my-gpu", "a-b"),
            ),
            (
                "alice-unknown-20231114T221320Z.tar.gz",
                ("alice-unknown-20231114T221320Z", UNKNOWN_HOST, ""),
            ),
            ("alice-b.tar.gz", None),
            ("alice-b-gpu2-20231114T221320Z.tar.gz", None),
            ("alice-gpu2.tar.gz", None),
        ],
    )
    def test_only_files_of_this_user_are_archives(
        self, file: str, found: tuple[str, str, str] | None
    ) -> None:
        one = identify(
            "alice", HOSTS, f"/NAS/{file}", FileStamp(1, 2), mode=0o600, manifest_text=None
        )
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
        assert (
            sizes_agree(shown, replace(GOOD, stamp=FileStamp(size, 5), disk_usage=blocks)) is agree
        )


class TestManifest:
    NOTE = Manifest("gpu2", "x", 1_700_000_000, 100, "b" * 64, 1_700_000_100)

    def test_is_read_back(self) -> None:
        assert parse_manifest(self.NOTE.to_line("alice"), "alice") == self.NOTE

    def test_counts_only_while_the_file_is_the_one_it_speaks_of(self) -> None:
        text = self.NOTE.to_line("alice")
        one = identify(
            "alice",
            HOSTS,
            "/NAS/alice.tar.gz",
            FileStamp(100, 1_700_000_000),
            mode=0o644,
            manifest_text=text,
        )
        assert one is not None
        assert (one.name, one.verified, one.others_can_read) == (
            "alice-gpu2-20231114T221320Z-x",
            1_700_000_100,
            True,
        )
        other = identify(
            "alice",
            HOSTS,
            "/NAS/alice.tar.gz",
            FileStamp(101, 1_700_000_000),
            mode=0o644,
            manifest_text=text,
        )
        assert other is not None
        assert (other.name, other.verified, other.changed) == (one.name, None, True)
        assert other.to_json()["sha256"] is None

    @pytest.mark.parametrize(
        ("mode", "open_to_all"), [(0o644, True), (0o600, False), (0o640, False), (0o604, True)]
    )
    def test_what_the_mode_lets_others_do(self, mode: int, open_to_all: bool) -> None:
        one = identify(
            "alice", HOSTS, "/NAS/alice.tar.gz", FileStamp(1, 2), mode=mode, manifest_text=None
        )
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
            NOTE.to_line("bob"),
            NOTE.to_line("alice").replace("gpu2", "../x"),
            NOTE.to_line("alice").replace('"label": "x"', '"label": "/../x"'),
            NOTE.to_line("alice").replace("b" * 64, "short"),
            NOTE.to_line("alice").replace('"bytes": 100', '"bytes": "x"'),
        ],
    )
    def test_anything_else_is_none(self, text: str) -> None:
        assert parse_manifest(text, "alice") is None

    def test_a_bad_archive_keeps_its_name_and_is_not_verified(self) -> None:
        bad = replace(self.NOTE, verified=None, damage="gzip -t fails")
        assert parse_manifest(bad.to_line("alice"), "alice") == bad
        one = identified(bad.to_line("alice"), FileStamp(100, 1_700_000_000))
        assert (one.name, one.host, one.label) == ("alice-gpu2-20231114T221320Z-x", "gpu2", "x")
        assert (one.verified, one.damage) == (None, "gzip -t fails")
        assert "damaged: gzip -t fails" in one.describe()
        unhashed = replace(bad, sha256="")
        assert parse_manifest(unhashed.to_line("alice"), "alice") == unhashed
        contradiction = replace(bad, verified=5)
        assert parse_manifest(contradiction.to_line("alice"), "alice") is None
        assert parse_manifest(replace(bad, damage=None).to_line("alice"), "alice") is None

    def test_one_that_was_overwritten_since_has_another_ones_name_only_once(self) -> None:
        copy = replace(saved("alice-gpu2-20231114T221320Z-x", 5), label="x")
        stale = identified(self.NOTE.to_line("alice"), FileStamp(7, 7))
        assert "changed since it was verified" in stale.describe()
        assert without_stale_names([stale], "alice") == [stale]
        first, second = without_stale_names([copy, stale], "alice")
        assert first == copy
        assert (second.name, second.host, second.label, second.changed) == (
            "alice",
            UNKNOWN_HOST,
            "",
            False,
        )

    def test_the_printed_name_finds_an_archive_without_a_manifest(self) -> None:
        one = identify(
            "alice",
            HOSTS,
            "/NAS/alice.tar.gz",
            FileStamp(1, 1_700_000_000),
            mode=0o644,
            manifest_text=None,
        )
        assert one is not None
        assert choose_archive([one], "alice-gpu2-20231114T221320Z-x") == one
        assert choose_archive([one], "alice-gpu2-20231114T221320Z") == one
        for other in ("alice-gpu2-20231114T221321Z-x", "bob-gpu2-20231114T221320Z", "x"):
            with pytest.raises(RefusedError, match="no snapshot"):
                choose_archive([one], other)


def identified(manifest: str, stamp: FileStamp) -> Archive:
    """The server's own archive with this manifest beside it."""
    one = identify("alice", HOSTS, "/NAS/alice.tar.gz", stamp, mode=0o644, manifest_text=manifest)
    assert one is not None
    return one


class TestVerdict:
    @pytest.mark.parametrize(
        ("found", "word"),
        [
            (
                replace(GOOD, gzip_status=1, error_output="gzip: stdin: unexpected end of file"),
                "unexpected end",
            ),
            (replace(GOOD, tar_status=2), "tar cannot list"),
            (replace(GOOD, has_rootfs=False), "no root file system"),
            (replace(GOOD, members=0), "no root file system"),
            (replace(GOOD, changed=True), "being written"),
            (replace(GOOD, has_system=False), "contains no system"),
            (replace(GOOD, error_output="tar: A lone zero block at 20"), "a lone zero block"),
        ],
    )
    def test_every_doubt_is_named(self, found: ArchiveCheck, word: str) -> None:
        assert word.lower() in (found.problem or "").lower()
        assert GOOD.problem is None

    def test_the_owner_is_a_host_or_nobody(self) -> None:
        assert saved_host(replace(GOOD, hostname="gpu2-alice"), "alice", HOSTS) == "gpu2"
        assert saved_host(replace(GOOD, hostname="mylab"), "alice", HOSTS) is None
        assert saved_host(GOOD, "alice", HOSTS) is None


class TestChoice:
    def test_by_name_label_file_or_path(self) -> None:
        one = replace(saved("alice-gpu2-20231114T221320Z-x", 1), label="x")
        for wanted in (one.name, "x", f"{one.name}.tar.gz", one.path):
            assert choose_archive([one, saved("other", 2)], wanted) == one
        assert choose_archive([one, replace(saved("other", 2), label=one.name)], one.name) == one
        with pytest.raises(RefusedError, match="no snapshot nothere"):
            choose_archive([one], "nothere")

    def test_several_of_a_name_are_listed_and_the_hint_chooses_none(self) -> None:
        one = replace(saved("alice-gpu2-20231114T221320Z-x", 1), label="x")
        other = replace(saved("alice-gpu2-20231115T221320Z-x", 1), label="x")
        with pytest.raises(RefusedError, match="name of several snapshots") as caught:
            choose_archive([one, other], "x")
        assert one.name in caught.value.message
        assert other.name in caught.value.message
        assert caught.value.hint == "apexgpu snapshots"

    def test_by_default_the_newest_verified_one_that_a_user_asked_for(self) -> None:
        good, better = saved("good", 3, verified=9), saved("better", 4, verified=9)
        untested = saved("untested", 5)
        unknown = saved("alice", 6, host=UNKNOWN_HOST)
        foreign = saved("foreign", 7, host="gpu12", verified=9)
        undo = for_undo("undo", 8)
        found = [good, better, untested, unknown, foreign, undo]
        assert default_archive(found, "gpu2") == better
        assert default_archive([*reversed(found)], "gpu2") == better

    @pytest.mark.parametrize(
        ("archives", "message", "hint"),
        [
            (["untested", "unknown"], "no verified snapshot of gpu2", "--from untested"),
            (["undo", "foreign"], "a recover or rebuild saved itself", "--from undo"),
            (["foreign", "unknown"], "is of gpu12", "--from foreign"),
            (["unknown"], "host unknown.*has to be named", "--from alice"),
            ([], "no snapshot found", "apexgpu snapshot gpu2"),
        ],
    )
    def test_what_comes_nearest_is_named_and_never_taken(
        self, archives: list[str], message: str, hint: str
    ) -> None:
        known = {
            "untested": saved("untested", 5),
            "unknown": saved("alice", 6, host=UNKNOWN_HOST),
            "foreign": saved("foreign", 7, host="gpu12", verified=9),
            "undo": for_undo("undo", 8),
        }
        with pytest.raises(RefusedError, match=message) as caught:
            default_archive([known[name] for name in archives], "gpu2")
        assert hint in (caught.value.hint or "")

    def test_a_rotation_keeps_the_newest_and_the_last_verified(self) -> None:
        found = [
            saved("a", 1, verified=9),
            saved("b", 2, verified=9),
            saved("c", 3),
            saved("d", 4),
            saved("e", 1, host="gpu12"),
        ]
        assert removed_by(found, last=2) == ["a"]
        assert removed_by(found, last=1) == ["a", "c"]
        assert removed_by(found, last=5) == []
        with pytest.raises(UsageError):
            rotate(found, KeepRules())

    def test_days_and_weeks_keep_their_newest_whole_archive_and_say_why(self) -> None:
        noon = datetime(2026, 3, 4, 12).astimezone()  # a Wednesday
        found = [
            at("last-week", noon - timedelta(days=7)),
            at("monday", noon - timedelta(days=2)),
            at("morning", noon - timedelta(hours=3)),
            replace(at("noon", noon), damage="gzip -t fails"),
            at("elsewhere", noon, host="gpu12"),
        ]
        by_days = {each.archive.name: each.why for each in rotate(found, KeepRules(daily=2))}
        assert by_days == {
            "last-week": "",
            "monday": "day 2026-03-02",
            "morning": "day 2026-03-04",
            "noon": "",
            "elsewhere": "day 2026-03-04",
        }
        both = {each.archive.name: each.why for each in rotate(found, KeepRules(last=1, weekly=2))}
        assert both == {
            "last-week": "week 2026-W09",
            "monday": "",
            "morning": "week 2026-W10",
            "noon": "last 1",
            "elsewhere": "last 1, week 2026-W10",
        }

    def test_any_part_of_a_name_that_only_one_archive_has_selects_it(self) -> None:
        found = [
            saved("alice-gpu2-20260304T120000Z-before-upgrade", 1),
            saved("alice-gpu2-20260305T120000Z", 2),
        ]
        assert choose_archive(found, "upgr") is found[0]
        assert choose_archive(found, "0305") is found[1]
        with pytest.raises(RefusedError, match="several snapshots"):
            choose_archive(found, "gpu2")
        with pytest.raises(RefusedError, match="there is no snapshot nothing"):
            choose_archive(found, "nothing")

    def test_what_recovers_saved_pushes_out_nothing_that_a_user_asked_for(self) -> None:
        found = [saved("a", 1, verified=9), saved("b", 2, verified=9)]
        found += [for_undo(f"undo{number}", number) for number in range(3, 7)]
        assert removed_by(found, last=2) == ["undo3", "undo4", "undo5"]

    @pytest.mark.parametrize(
        ("label", "undo"),
        [
            ("before-recover", True),
            ("before-rebuild", True),
            ("before-recover-2", True),
            ("before-upgrade", False),
            ("before-recovery", False),
            ("", False),
        ],
    )
    def test_what_a_recover_saves_itself_has_a_name_that_no_user_can_give(
        self, label: str, undo: bool
    ) -> None:
        assert replace(saved("a", 1), label=label).made_for_undo is undo
        if undo:
            with pytest.raises(UsageError, match="saves itself"):
                checked_label(label)


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
        (nas / "alice.tar.gz.json").write_text(note.to_line("alice") + "\n")
        listing = scriptreplies.parse_listing(
            sh(scripts.list_archives(str(nas), "alice")),
            "gpu2",
            directory=str(nas),
            user="alice",
            hosts=HOSTS,
        )
        assert {found.path.rpartition("/")[2] for found in listing.archives} == {
            "alice.tar.gz",
            "alice-gpu2-20231114T221320Z-o'x y.tar.gz",
        }
        (own,) = [found for found in listing.archives if found.path == str(one)]
        assert own.verified == 7
        assert listing.writable
        assert (listing.free or 0) > 0
        assert not list(nas.glob(".apexgpu-probe*"))

    def test_look_lets_nobody_send_more_than_a_manifest(self, nas: Path) -> None:
        (nas / "alice.tar.gz").write_text("x")
        (nas / "alice.tar.gz.json").write_text("x" * 100_000)
        assert len(sh(scripts.list_archives(str(nas), "alice")).out) < 10_000

    def test_look_passes_over_a_name_that_speaks_in_our_words(self, nas: Path) -> None:
        (nas / "alice.tar.gz").write_text("x")
        (nas / "alice-a\nfree 5\nfile 9 9 600 alice-gpu2-20231114T221320Z.tar.gz").write_text("x")
        listing = scriptreplies.parse_listing(
            sh(scripts.list_archives(str(nas), "alice")),
            "gpu2",
            directory=str(nas),
            user="alice",
            hosts=HOSTS,
        )
        assert [one.path for one in listing.archives] == [str(nas / "alice.tar.gz")]
        assert listing.free != 5 << 10

    def test_look_sees_the_archive_behind_a_link(self, nas: Path) -> None:
        (nas / "elsewhere").write_text("12345")
        (nas / "alice.tar.gz").symlink_to("elsewhere")
        listing = scriptreplies.parse_listing(
            sh(scripts.list_archives(str(nas), "alice")),
            "gpu2",
            directory=str(nas),
            user="alice",
            hosts=HOSTS,
        )
        assert [one.size for one in listing.archives] == [5]

    def test_look_where_there_is_nothing(self, nas: Path) -> None:
        with pytest.raises(RefusedError, match="does not see"):
            scriptreplies.parse_listing(
                sh(scripts.list_archives(f"{nas}/no", "alice")),
                "gpu2",
                directory="x",
                user="alice",
                hosts=HOSTS,
            )

    def test_a_good_archive_is_read_to_its_end(self, nas: Path) -> None:
        path = make(nas / "it's.tar.gz", "rootfs/etc/hostname", PUBLIC, "rootfs/b")
        found = scriptreplies.parse_check(
            sh(scripts.check(str(path)), TMPDIR=str(nas)), "gpu2", str(path)
        )
        assert found.problem is None
        assert (found.stamp.size, found.members, found.hostname) == (
            path.stat().st_size,
            6,
            "gpu2-alice",
        )
        assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert [key.line for key in found.host_keys] == [KEY]
        assert list(nas.iterdir()) == [path]

    def test_one_that_changes_while_it_is_read_is_not_whole(self, nas: Path) -> None:
        path = make(nas / "a.tar.gz", "rootfs/a")
        reply = sh(scripts.check(str(path)))
        changed = re.sub(r"(?m)^after (\d+) \d+$", r"after \1 1", reply.out)
        assert (
            scriptreplies.parse_check(Reply(0, changed), "gpu2", str(path)).problem
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
        assert scriptreplies.parse_check(sh(scripts.check(str(path))), "gpu2", str(path)).problem

    @pytest.mark.parametrize(
        "members",
        [
            (),
            ("rootfs/notes",),
            ("rootfs/etc/passwd",),
            ("rootfs/bin/sh",),
            ("rootfs/home/etc/passwd", "rootfs/cabin"),
        ],
    )
    def test_a_rootfs_without_a_system_in_it_does_not_pass(
        self, nas: Path, members: tuple[str, ...]
    ) -> None:
        path = make(nas / "a.tar.gz", "rootfs/etc/hostname", *members, system=False)
        found = scriptreplies.parse_check(sh(scripts.check(str(path))), "gpu2", str(path))
        assert "contains no system" in (found.problem or "")

    def test_what_tar_says_and_no_rule_knows_is_a_doubt(self, nas: Path) -> None:
        """Two archives one after the other, as a tar that was cut and begun again leaves them."""
        path = make(nas / "a.tar.gz", "rootfs/a")
        reply = sh(scripts.check(str(path)))
        assert scriptreplies.parse_check(reply, "gpu2", str(path)).problem is None
        for line, doubt in (
            ("tar: A lone zero block at 20", "there is a doubt: tar: A lone zero block at 20"),
            ("tar: Ignoring unknown extended header keyword 'SCHILY.fflags'", None),
        ):
            said = reply.out.replace("mode ", f"said {line}\nmode ")
            check = scriptreplies.parse_check(Reply(0, said), "gpu2", str(path))
            assert check.problem == doubt

    def test_a_locale_of_the_containers_owner_changes_nothing(self, nas: Path) -> None:
        path = make(nas / "a.tar.gz", "rootfs/a")
        os.truncate(path, path.stat().st_size - 9)
        reply = sh(scripts.check(str(path)), LC_ALL="de_DE.UTF-8", LANGUAGE="de")
        found = scriptreplies.parse_check(reply, "gpu2", str(path))
        assert "unexpected end of file" in (found.problem or "")

    def test_what_is_missing_or_cut_is_no_result(self, nas: Path) -> None:
        with pytest.raises(RefusedError, match="no archive"):
            scriptreplies.parse_check(sh(scripts.check(f"{nas}/no")), "gpu2", "x")
        for reply in (
            Reply(0, ""),
            Reply(0, "before 1 2\ngzip 0\n"),
            Reply(255, "", "Permission denied"),
        ):
            with pytest.raises(ApexError, match="could not read"):
                scriptreplies.parse_check(reply, "gpu2", "x")
        with pytest.raises(ApexError, match="no result"):
            scriptreplies.parse_check(Reply(0, "gzip 0\nend\n"), "gpu2", "x")

    def test_moving_aside_and_back_takes_the_manifest_along(self, nas: Path) -> None:
        old, new = nas / "alice.tar.gz", nas / "alice-gpu2-x.tar.gz"
        old.write_text("good")
        (nas / "alice.tar.gz.json").write_text("{}")
        assert (
            scriptreplies.parse_move(sh(scripts.move_away(str(old), str(new))), "gpu2") == "renamed"
        )
        assert (nas / "alice-gpu2-x.tar.gz.json").exists()
        assert new.stat().st_mode & 0o777 == 0o600
        assert scriptreplies.parse_move(sh(scripts.move_away(str(old), str(new))), "gpu2") is None
        old.write_text("bad")
        with pytest.raises(RefusedError):
            scriptreplies.parse_move(sh(scripts.move_away(str(old), str(new))), "gpu2")
        assert (
            scriptreplies.parse_move(sh(scripts.restore(str(new), str(old))), "gpu2") == "renamed"
        )
        assert old.read_text() == "good"
        assert sorted(path.name for path in nas.iterdir()) == ["alice.tar.gz", "alice.tar.gz.json"]

    def test_a_name_that_is_taken_is_never_overwritten(self, nas: Path) -> None:
        old, new = nas / "alice.tar.gz", nas / "taken.tar.gz"
        old.write_text("old")
        new.write_text("other")
        with pytest.raises(NameTakenError, match="already an archive of this name"):
            scriptreplies.parse_move(sh(scripts.move_away(str(old), str(new))), "gpu2")
        assert (old.read_text(), new.read_text()) == ("old", "other")

    def test_what_goes_back_to_the_server_can_be_read_by_it(self, nas: Path) -> None:
        old, new = nas / "alice-gpu2-x.tar.gz", nas / "alice.tar.gz"
        old.write_text("good")
        old.chmod(0o600)
        assert (
            scriptreplies.parse_move(sh(scripts.restore(str(old), str(new))), "gpu2") == "renamed"
        )
        assert new.stat().st_mode & 0o777 == 0o644

    def test_an_archive_may_begin_its_names_with_a_dot(self, nas: Path) -> None:
        tree = nas / "rootfs" / "etc" / "ssh"
        tree.mkdir(parents=True)
        (tree.parent / "hostname").write_text("gpu2-alice\n")
        (tree.parent / "passwd").write_text("root\n")
        (nas / "rootfs" / "usr" / "bin").mkdir(parents=True)
        (tree / "ssh_host_ed25519_key.pub").write_text(f"{KEY}\n")
        path = nas / "a.tar.gz"
        subprocess.run(["tar", "-czf", path, "-C", nas, "./rootfs"], check=True, timeout=30)
        found = scriptreplies.parse_check(sh(scripts.check(str(path))), "gpu2", str(path))
        assert found.problem is None
        assert (found.hostname, [key.line for key in found.host_keys], found.mode) == (
            "gpu2-alice",
            [KEY],
            0o644,
        )
        assert found.disk_usage >= found.stamp.size

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
            ["sh", "-c", scripts.check(str(path))],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        ) as reading:
            assert reading.stdout is not None
            # An empty line, the size before, and the first position.
            said = [reading.stdout.readline() for _ in range(3)]
            gate.write_text("go\n")
            said += reading.stdout.read().splitlines(keepends=True)
        found = [
            scriptreplies.parse_progress(line)
            for line in said
            if scriptreplies.parse_progress(line) is not None
        ]
        assert found
        assert len(found) == len(dict.fromkeys(found)), (
            "a position that does not change is said once"
        )
        assert scriptreplies.parse_check(Reply(0, "".join(said)), "gpu2", str(path)).problem is None
        assert scriptreplies.parse_progress("free 12") is None

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
            ["sh", "-c", scripts.check(str(path))],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        ) as reading:
            assert reading.stdout is not None
            try:
                assert reading.stdout.readline() == "\n"
                assert reading.stdout.readline().startswith("before ")
                reading.stdout.close()
                reading.wait(60)
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
        assert (
            scriptreplies.parse_move(sh(scripts.move_away(str(old), str(new)), PATH=path), "gpu2")
            == "copied"
        )
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
            scriptreplies.parse_move(sh(scripts.move_away(str(old), str(new)), PATH=path), "gpu2")
        assert [(one.name, one.read_text()) for one in nas.iterdir()] == [("alice.tar.gz", "good")]

    def test_notes_modes_removal_and_standing(self, nas: Path) -> None:
        one = nas / "a b.tar.gz"
        one.write_text("12345")
        assert scriptreplies.parse_done(
            sh(scripts.write_manifest(str(one), '{"it\'s": 1}')), "gpu2"
        )
        assert (nas / "a b.tar.gz.json").read_text() == '{"it\'s": 1}\n'
        assert (nas / "a b.tar.gz.json").stat().st_mode & 0o777 == 0o600
        assert scriptreplies.parse_mode(sh(scripts.set_mode(str(one), 0o640)), "gpu2") == 0o640
        assert one.stat().st_mode & 0o777 == 0o640
        assert (
            scriptreplies.parse_stamp(sh(scripts.stat(str(one))), "gpu2") or FileStamp(0, 0)
        ).size == 5
        stamp = scriptreplies.parse_stamp(sh(scripts.stat(str(one))), "gpu2") or FileStamp(0, 0)
        with pytest.raises(RefusedError, match="has changed since"):
            scriptreplies.parse_removal(
                sh(scripts.remove(str(one), FileStamp(stamp.size + 1, stamp.mtime))),
                "gpu2",
                str(one),
            )
        assert scriptreplies.parse_removal(sh(scripts.remove(str(one), stamp)), "gpu2", str(one))
        assert list(nas.iterdir()) == []
        assert scriptreplies.parse_stamp(sh(scripts.stat(str(one))), "gpu2") is None
        assert scriptreplies.parse_mode(sh(scripts.set_mode(str(one), 0o640)), "gpu2") is None

    def test_a_manifest_that_cannot_be_written_leaves_nothing(self, nas: Path) -> None:
        """A full disk cuts `printf`, a directory in the way stops `mv`."""
        (nas / "a.tar.gz").write_text("x")
        (nas / "a.tar.gz.json").mkdir()
        (nas / "a.tar.gz.json" / "x").write_text("x")
        command = scripts.write_manifest(str(nas / "a.tar.gz"), "{}")
        in_the_way = sh(command.replace("mv -f --", "mv -fT --"))
        assert not scriptreplies.parse_done(in_the_way, "gpu2")
        full = sh(command.replace('>"$part"', '>"$part" && false'))
        assert not scriptreplies.parse_done(full, "gpu2")
        assert sorted(path.name for path in nas.iterdir()) == ["a.tar.gz", "a.tar.gz.json"]

    def test_the_ages_of_an_archive_and_of_a_container_are_periods(self, nas: Path) -> None:
        path = nas / "a.tar.gz"
        path.write_text("x")
        os.utime(path, (path.stat().st_mtime - 1000, path.stat().st_mtime - 1000))
        ages = scriptreplies.parse_ages(sh(scripts.ages(str(path))), "gpu2")
        assert ages is not None
        assert 1000 <= ages.archive <= 1060
        assert ages.container > 0
        assert [one.name for one in nas.iterdir()] == ["a.tar.gz"]

    @pytest.mark.parametrize(
        ("lines", "ages"),
        [
            ("archive 5\ncontainer 9\ncontainer 3\n", (5, 3)),
            ("archive 5\ncontainer \ncontainer 3\n", (5, 3)),
            ("archive 5\ncontainer -1\n", None),
            ("archive -5\ncontainer 9\n", None),
            ("container 9\n", None),
            ("archive 5\n", None),
        ],
    )
    def test_an_age_that_is_not_known_is_none(
        self, lines: str, ages: tuple[int, int] | None
    ) -> None:
        found = scriptreplies.parse_ages(Reply(0, f"{lines}end\n"), "gpu2")
        assert (found and (found.archive, found.container)) == ages

    @pytest.mark.skipif(not ROOT, reason="only root can make files of two users")
    def test_whose_an_archive_is_is_listed(self, theirs: Path) -> None:
        theirs.chmod(0o1777)
        os.chown(theirs / "alice.tar.gz", 1234, 1234)
        (theirs / "alice-gpu2-20231114T221320Z.tar.gz").write_text("x")
        os.chown(theirs / "alice-gpu2-20231114T221320Z.tar.gz", 65534, 65534)
        listing = scriptreplies.parse_listing(
            as_nobody(scripts.list_archives(str(theirs), "alice")),
            "gpu2",
            directory=str(theirs),
            user="alice",
            hosts=HOSTS,
        )
        owners = {one.name: one.of_server for one in listing.archives}
        assert owners == {"alice": True, "alice-gpu2-20231114T221320Z": False}

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
        script = f"PATH={programs}:$PATH\n{scripts.move_away(str(old), f'{nas}/kept.tar.gz')}"
        with pytest.raises(RefusedError, match=r"no room for a copy \(2\.0 KiB free\)") as caught:
            scriptreplies.parse_move(sh(script), "gpu2")
        assert caught.value.code == "no_room"
        assert [path.name for path in nas.iterdir()] == ["alice.tar.gz"]

    @pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no such modes")
    def test_a_directory_that_may_not_be_written_is_said_and_nothing_is_moved(
        self, theirs: Path
    ) -> None:
        old = theirs / "alice.tar.gz"
        theirs.chmod(0o555)
        listing = scriptreplies.parse_listing(
            as_nobody(scripts.list_archives(str(theirs), "alice")),
            "gpu2",
            directory=str(theirs),
            user="alice",
            hosts=HOSTS,
        )
        assert (listing.writable, len(listing.archives)) == (False, 1)
        with pytest.raises(RefusedError, match="neither be renamed nor copied"):
            scriptreplies.parse_move(
                as_nobody(scripts.move_away(str(old), f"{theirs}/copy.tar.gz")), "gpu2"
            )
        assert not scriptreplies.parse_done(
            as_nobody(scripts.write_manifest(str(old), "{}")), "gpu2"
        )
        stamp = scriptreplies.parse_stamp(as_nobody(scripts.stat(str(old))), "gpu2") or FileStamp(
            0, 0
        )
        assert not scriptreplies.parse_removal(
            as_nobody(scripts.remove(str(old), stamp)), "gpu2", str(old)
        )
        assert [path.read_text() for path in theirs.iterdir()] == ["good"]

    @pytest.mark.skipif(not ROOT, reason="only root can make files of two users")
    def test_where_only_the_owner_may_rename_a_copy_is_made_and_made_private(
        self, theirs: Path
    ) -> None:
        theirs.chmod(0o1777)
        old, new = theirs / "alice.tar.gz", theirs / "copy.tar.gz"
        assert (
            scriptreplies.parse_move(as_nobody(scripts.move_away(str(old), str(new))), "gpu2")
            == "copied"
        )
        assert old.read_text() == new.read_text() == "good"
        assert (new.stat().st_mode & 0o777, new.stat().st_uid) == (0o600, 65534)
        assert (
            scriptreplies.parse_mode(as_nobody(scripts.set_mode(str(old), 0o600)), "gpu2") == 0o644
        )

    def test_no_script_links_what_tar_would_write_through(self) -> None:
        assert not re.search(r"\bln\b", scripts.move_away("/a", "/b"))
