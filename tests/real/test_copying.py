"""One contract for both carriers of `cp`, rsync and SFTP, against a real OpenSSH server and the embedded lab."""

import asyncio
import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests import openssh
from tests.longruns import LARGE
from tests.real.copies import There, lab_there, nasty, noise, small_disk, sshd, stages, tree
from tests.real.wire import wire

from apexgpu.errors import ApexError, DroppedError, RefusedError, UsageError
from apexgpu.transfer import copypaths, excludes
from apexgpu.transfer.copier import CopySummary, Method
from apexgpu.transfer.copytargets import CopyJob
from apexgpu_lab.inprocess import running

pytestmark = pytest.mark.openssh

MIB = 1 << 20


@pytest.fixture(params=["sshd", "lab"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[There]:
    """A container with an empty home (but for dot files)."""
    if request.param == "lab":
        with running(tmp_path / "lab", hosts=2, registered=True) as lab:
            yield lab_there(lab, tmp_path / "state")
            assert lab.troubles == []
        return
    server, found = sshd(tmp_path / "there")
    yield found
    server.stop()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[tuple[openssh.OpenSSH, There]]:
    """A real sshd, to be killed."""
    server, found = sshd(tmp_path / "there")
    yield server, found
    server.stop()


@pytest.fixture(params=["rsync", "sftp"])
def method(request: pytest.FixtureRequest) -> Method:
    return Method(request.param)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory on this laptop."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


class TestTrees:
    def test_names_of_all_kinds_modes_times_and_links_come_there_and_back(
        self, there: There, here: Path, method: Method
    ) -> None:
        nasty(here / "a b")
        made = there.cp("a b", "gpu:", method=method)
        assert tree(there.home / "a b") == tree(here / "a b")
        assert (made.method, made.changed) == (method, made.files)
        back = there.cp("gpu:a b", "back", method=method)
        assert tree(here / "back") == tree(here / "a b")
        assert (here / "back").stat().st_mtime == (here / "a b").stat().st_mtime
        assert (back.files, back.size, back.sent) == (made.files, made.size, made.sent)
        plain = [
            path for path in (here / "a b").rglob("*") if path.is_file() and not path.is_symlink()
        ]
        assert made.sent == sum(path.stat().st_size for path in plain)
        assert stages(here) == []

    def test_the_second_time_there_is_nothing_to_do(
        self, there: There, here: Path, method: Method
    ) -> None:
        nasty(here / "tree")
        there.cp("tree", "gpu:new", method=method)
        before = {path: path.lstat().st_ino for path in (there.home / "new").rglob("*")}
        again = there.cp("tree/.", "gpu:new", method=method)
        assert (again.changed, again.sent) == (0, 0)
        assert {path: path.lstat().st_ino for path in (there.home / "new").rglob("*")} == before
        there.cp("gpu:new", "back", method=method)
        assert there.cp("gpu:new/.", "back", method=method).changed == 0

    def test_only_what_has_changed_is_replaced_and_nothing_is_deleted(
        self, there: There, here: Path, method: Method
    ) -> None:
        (here / "tree/sub").mkdir(parents=True)
        for name in ("same", "sub/longer", "sub/same"):
            (here / "tree" / name).write_text(name)
        there.cp("tree", "gpu:", method=method)
        (there.home / "tree/theirs").write_text("kept")
        (there.home / "tree").chmod(0o751)
        (here / "tree/sub/longer").write_text("much longer")
        (here / "tree/new/deep").mkdir(parents=True)
        (here / "tree/new/deep/file").write_text("new")
        for path in ("new/deep", "new"):
            (here / "tree" / path).chmod(0o555)
        inode = (there.home / "tree/same").stat().st_ino
        made = there.cp("tree", "gpu:", method=method)
        assert made.changed == 3  # the file, the new directory, and what is in it
        assert [
            (there.home / "tree" / path).stat().st_mode & 0o777 for path in ("new", "new/deep")
        ] == [0o555] * 2
        assert (there.home / "tree/sub/longer").read_text() == "much longer"
        assert (there.home / "tree/new/deep/file").read_text() == "new"
        assert (there.home / "tree/theirs").read_text() == "kept"
        assert (there.home / "tree/same").stat().st_ino == inode
        assert (there.home / "tree").stat().st_mode & 0o777 == 0o751

    @pytest.mark.timeout(300)
    def test_five_thousand_small_files_come_there_and_back(
        self, real: tuple[openssh.OpenSSH, There], here: Path, method: Method
    ) -> None:
        there = real[1]
        for number in range(5000):
            path = here / "many" / str(number // 100) / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{number}\n" * (number % 50))
        assert there.cp("many", "gpu:", method=method).files == 5000
        there.cp("gpu:many", "back", method=method)
        assert tree(here / "back") == tree(here / "many") == tree(there.home / "many")

    def test_hundreds_of_directories_are_made_before_their_files(
        self, real: tuple[openssh.OpenSSH, There], here: Path, method: Method
    ) -> None:
        there = real[1]
        for number in range(600):
            path = here / "many" / str(number) / "deep/file"
            path.parent.mkdir(parents=True)
            path.write_text(str(number))
        (here / "many/7").chmod(0o555)
        there.cp("many", "gpu:", method=method)
        assert tree(there.home / "many") == tree(here / "many")
        for number in range(0, 600, 2):
            (here / f"many/{number}/deep/file").write_text("longer than before")
        assert there.cp("many", "gpu:", method=method).changed == 300
        for number in range(600):
            name = f"many/{number}/deep/file"
            assert (there.home / name).read_text() == (here / name).read_text()

    def test_a_file_that_is_in_the_way_of_a_directory_is_not_replaced(
        self, there: There, here: Path, method: Method
    ) -> None:
        (here / "tree/x").mkdir(parents=True)
        (here / "tree/a").write_text("a")
        (there.home / "tree").mkdir()
        (there.home / "tree/x").write_text("theirs")
        with pytest.raises(RefusedError, match="cannot replace a directory with a file") as caught:
            there.cp("tree", "gpu:", method=method)
        assert caught.value.code == "in_the_way"
        assert (there.home / "tree/x").read_text() == "theirs"
        assert not (there.home / "tree/a").exists()

    def test_what_is_no_file_is_left_out_and_counted(
        self, there: There, here: Path, method: Method
    ) -> None:
        (here / "tree").mkdir()
        os.mkfifo(here / "tree/pipe")
        (here / "tree/file").write_text("x")
        made = there.cp("tree", "gpu:", method=method)
        assert (made.left_out, made.files) == (1, 1)
        assert [path.name for path in (there.home / "tree").iterdir()] == ["file"]


class TestFiles:
    def test_a_file_is_replaced_at_one_stroke_and_takes_another_name(
        self, there: There, here: Path, method: Method
    ) -> None:
        (here / "new").write_bytes(noise(300_000))
        (there.home / "old").write_bytes(noise(200_000, 2))
        before = (there.home / "old").open("rb")
        with before:
            assert there.cp("new", "gpu:old", method=method).changed == 1
            assert before.read() == noise(
                200_000, 2
            )  # another file: whoever reads the old one, reads it to its end
        assert (there.home / "old").read_bytes() == noise(300_000)
        assert there.cp("new", "gpu:old", method=method).changed == 0

    def test_an_empty_file_and_a_mode_alone(self, there: There, here: Path, method: Method) -> None:
        (here / "empty").touch()
        there.cp("empty", "gpu:", method=method)
        (here / "empty").chmod(0o600)
        assert there.cp("empty", "gpu:", method=method).changed == 1
        assert (there.home / "empty").stat().st_mode & 0o777 == 0o600

    def test_a_link_on_the_command_line_is_followed_and_one_at_the_target_stays(
        self, there: There, here: Path, method: Method
    ) -> None:
        (there.home / "step-7").write_text("weights")
        (there.home / "latest").symlink_to("step-7")
        there.cp("gpu:latest", ".", method=method)
        assert not (here / "latest").is_symlink()
        (here / "latest").write_text("better weights")
        there.cp("latest", "gpu:", method=method)
        assert (there.home / "latest").is_symlink()
        assert (there.home / "step-7").read_text() == "better weights"

    @pytest.mark.timeout(300)
    @pytest.mark.parametrize(("one", "other"), [("rsync", "sftp"), ("sftp", "rsync")])
    def test_a_large_file_goes_there_by_one_way_and_comes_back_by_the_other_with_its_checksum(
        self, real: tuple[openssh.OpenSSH, There], here: Path, one: Method, other: Method
    ) -> None:
        there = real[1]
        block = noise(16 * MIB)
        with (here / "big").open("wb") as stream:
            for number in range(LARGE // len(block)):
                stream.write(number.to_bytes(8) + block[8:])
        assert there.cp("big", "gpu:", method=one).sent == LARGE
        there.cp("gpu:big", "back", method=other)
        digests = set()
        for path in (here / "big", here / "back"):
            with path.open("rb") as stream:
                digests.add(hashlib.file_digest(stream, "sha256").hexdigest())
        assert len(digests) == 1


class TestWords:
    @pytest.mark.parametrize(
        ("words", "made"),
        [
            (("file", "gpu:"), ["file"]),
            (("file", "gpu:dir"), ["dir/file"]),
            (("file", "gpu:dir/"), ["dir/file"]),
            (("file", "gpu:~/dir/"), ["dir/file"]),
            (("file", "gpu:dir/other"), ["dir/other"]),
            (("file", "gpu:./dir/./other"), ["dir/other"]),
            (("tree", "gpu:"), ["tree/in"]),
            (("tree/", "gpu:"), ["tree/in"]),
            (("tree", "gpu:dir"), ["dir/tree/in"]),
            (("tree", "gpu:new"), ["new/in"]),
            (("tree", "gpu:new/"), ["new/tree/in"]),
            (("tree/", "gpu:new/"), ["new/tree/in"]),
            (("file", "gpu:new/"), ["new/file"]),
            (("file", "other", "gpu:new/"), ["new/file", "new/other"]),
            (("file", "other", "gpu:dir"), ["dir/file", "dir/other"]),
            (("file", "tree", "gpu:new/"), ["new/file", "new/tree/in"]),
            (("tree/.", "gpu:new/"), ["new/in"]),
            (("tree/.", "gpu:dir"), ["dir/in"]),
            (("tree/.", "gpu:new"), ["new/in"]),
            (("file", "tree", "gpu:dir"), ["dir/file", "dir/tree/in"]),
        ],
    )
    def test_what_goes_where_is_as_with_cp_r(
        self,
        real: tuple[openssh.OpenSSH, There],
        here: Path,
        words: tuple[str, ...],
        made: list[str],
        method: Method,
    ) -> None:
        there = real[1]
        (here / "file").write_text("x")
        (here / "other").write_text("y")
        (here / "tree").mkdir()
        (here / "tree/in").write_text("x")
        (there.home / "dir").mkdir()
        for _ in range(2):  # the second time, the same goes to the same place
            there.cp(*words, method=method)
            found = [
                str(path.relative_to(there.home))
                for path in there.home.rglob("*")
                if path.is_file()
            ]
            # Without a slash, a new name is a directory the second time, as with `cp -r`.
            if words == ("tree", "gpu:new"):
                found = [path for path in found if path != "new/tree/in"]
            assert sorted(found) == made

    def test_a_new_directory_of_the_laptop_is_made_for_what_comes_with_the_usual_mode(
        self, there: There, here: Path, method: Method
    ) -> None:
        (there.home / "data").mkdir()
        (there.home / "data/in").write_text("x")
        for _ in range(2):
            there.cp("gpu:data", "new/", method=method)
            assert sorted(tree(here / "new")) == [b"data".hex(), b"data/in".hex()]
        before = os.umask(0o022)
        os.umask(before)
        assert (here / "new").stat().st_mode & 0o777 == 0o777 & ~before

    def test_files_of_one_directory_are_one_copy(
        self, there: There, here: Path, method: Method
    ) -> None:
        (there.home / "runs").mkdir()
        for number in range(111):
            (there.home / f"runs/{number}.csv").write_text(f"{number}\n" * number)
        (here / "plots").mkdir()
        (here / "plots/7.csv").write_text("older")
        (here / "plots/theirs").write_text("kept")
        made = there.cp("gpu:runs/*.csv", "plots", method=method)
        assert (made.files, made.changed, len(made.targets)) == (111, 111, 111)
        assert made.targets[0] == f"{here}/plots/0.csv"
        assert (here / "plots/110.csv").read_text() == "110\n" * 110
        assert (here / "plots/7.csv").read_text() == "7\n" * 7
        assert (here / "plots/theirs").read_text() == "kept"
        again = there.cp("gpu:runs/*.csv", "plots", method=method)
        assert (again.files, again.changed, again.sent) == (111, 0, 0)
        assert stages(here) == []

    def test_what_an_interrupted_copy_of_files_has_left_is_not_put_in_place(
        self, there: There, here: Path, method: Method
    ) -> None:
        for name in ("a", "b"):
            (here / name).write_text(name)
        jobs = asyncio.run(_jobs(there, "a", "b", "gpu:"))
        [job] = jobs
        stage = there.home / os.fsdecode(copypaths.base_name(job.stage))
        stage.mkdir()
        (stage / "left").write_text("x")
        (stage / "sub").mkdir()
        there.cp("a", "b", "gpu:", method=method)
        found = sorted(path.name for path in there.home.iterdir() if path.name[0] != ".")
        assert found == ["a", "b"]

    def test_modes_of_a_container_give_nobody_rights_on_the_laptop(
        self, real: tuple[openssh.OpenSSH, There], here: Path, method: Method
    ) -> None:
        there = real[1]
        (there.home / "tree/sub").mkdir(parents=True)
        modes = {"tree/sub": 0o3777, "tree/run": 0o6755, "tree/all": 0o666, "tree/mine": 0o640}
        for path, mode in modes.items():
            if path != "tree/sub":
                (there.home / path).write_text("x")
            (there.home / path).chmod(mode)
        for _ in range(2):
            made = there.cp("gpu:tree", "new/", method=method)
            found = {path: (here / "new" / path).stat().st_mode & 0o7777 for path in modes}
            assert found == {
                "tree/sub": 0o775,
                "tree/run": 0o755,
                "tree/all": 0o664,
                "tree/mine": 0o640,
            }
        assert made.changed == 0
        there.cp("gpu:tree/run", "alone", method=method)
        assert (here / "alone").stat().st_mode & 0o7777 == 0o755
        # To the container, every bit goes as it is.
        (here / "alone").chmod(0o2775)
        there.cp("alone", "gpu:", method=method)
        assert (there.home / "alone").stat().st_mode & 0o7777 == 0o2775

    def test_excluded_files_are_neither_sent_nor_deleted(
        self, there: There, here: Path, method: Method
    ) -> None:
        for path in ("a.py", "a.pyc", "sub/b.pyc", "sub/b.py", "data/big", "runs/data/x"):
            (here / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
            (here / "tree" / path).write_text(path)
        (there.home / "tree").mkdir()
        (there.home / "tree/theirs.pyc").write_text("kept")
        copier = there.copier("tree", "gpu:", method=method)
        copier.excludes = excludes.parse(["*.pyc", "/data"])
        asyncio.run(copier.run())
        files = [path for path in (there.home / "tree").rglob("*") if path.is_file()]
        found = sorted(str(path.relative_to(there.home / "tree")) for path in files)
        assert found == ["a.py", "runs/data/x", "sub/b.py", "theirs.pyc"]

    def test_wildcards_are_the_containers_and_a_name_with_one_in_it_is_taken_as_it_is(
        self, there: There, here: Path, method: Method
    ) -> None:
        (there.home / "runs").mkdir()
        for name in ("a.csv", "b.csv", ".c.csv", "d.txt", "[ab].csv"):
            (there.home / "runs" / name).write_text(name)
        there.cp("gpu:runs/[ab].csv", "one", method=method)
        assert (here / "one").read_text() == "[ab].csv"
        (here / "all").mkdir()
        there.cp("gpu:ru*s/*.csv", "all", method=method)
        assert sorted(path.name for path in (here / "all").iterdir()) == [
            "[ab].csv",
            "a.csv",
            "b.csv",
        ]
        with pytest.raises(RefusedError, match="nothing matches"):
            there.cp("gpu:runs/*.png", "all", method=method)

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("nothing", "gpu:"), "nothing on this laptop does not exist"),
            (("gpu:nothing", "."), "nothing on gpu[27] does not exist"),
            (("gpu:nothing/more", "."), "does not exist"),
            (("file/", "gpu:"), "is not a directory"),
            (("file", "gpu:no/dir"), "there is no directory .*/no on gpu"),
            (("file", "gpu:no/such/"), "there is no directory .*/no on gpu"),
            (("file", "tree", "gpu:no"), "there is no directory .*/no on gpu.*: write a slash"),
            (("gpu:.profile", "no/dir"), "there is no directory .*/no on this laptop"),
            (("tree", "gpu:.profile"), "is a file, and what is copied is a directory"),
            (("name", "gpu:taken"), "is a directory, and what is copied is a file"),
            (("file", "tree", "gpu:.profile"), "is not a directory"),
            (("gpu:.profile", "/dev/null"), "is not a file that can be replaced"),
            (("broken", "gpu:"), "is a broken link"),
        ],
    )
    def test_what_cannot_be_copied_is_refused_before_anything_is_written(
        self, there: There, here: Path, words: tuple[str, ...], said: str
    ) -> None:
        (here / "file").write_text("x")
        (here / "name").write_text("x")
        (here / "tree").mkdir()
        (here / "broken").symlink_to("nowhere")
        (there.home / ".profile").write_text("theirs")
        (there.home / "taken/name").mkdir(parents=True)
        before = tree(there.home), tree(here)
        with pytest.raises(RefusedError, match=said):
            there.cp(*words)
        assert (tree(there.home), tree(here)) == before

    def test_two_sources_of_one_name_are_refused(self, there: There, here: Path) -> None:
        for directory in ("a", "b"):
            (here / directory).mkdir()
            (here / directory / "file").write_text(directory)
        with pytest.raises(UsageError, match="would both become"):
            there.cp("a/file", "b/file", "gpu:")


async def _jobs(there: There, *words: str) -> list[CopyJob]:
    """What a copy would do."""
    copier = there.copier(*words)
    async with copier.connect() as connection:
        return (await copier._prepare(connection))[2]


def broken(there: There, port: int, *words: str, method: Method) -> ApexError:
    with pytest.raises(ApexError) as caught:
        asyncio.run(there.copier(*words, method=method, port=port).run())
    return caught.value


@pytest.mark.parametrize("upload", [True, False], ids=["up", "down"])
class TestBroken:
    def test_a_killed_server_leaves_no_half_file_and_the_next_run_goes_on(
        self, real: tuple[openssh.OpenSSH, There], here: Path, method: Method, upload: bool
    ) -> None:
        server, there = real
        whole, old = noise(48 * MIB), b"the old one"
        source, final = (
            (here / "big", there.home / "big") if upload else (there.home / "big", here / "big")
        )
        words = ("big", "gpu:") if upload else ("gpu:big", ".")
        source.write_bytes(whole)
        final.write_bytes(old)
        with (
            wire(there.host.address, server.host.manage_port) as line,
            ThreadPoolExecutor(1) as pool,
        ):
            _known(there, line.port)
            line.hold_after(30 * MIB)
            running = pool.submit(broken, there, line.port, *words, method=method)
            line.await_hold()
            assert final.read_bytes() == old
            server.kill()
            line.cut()
            error = running.result(60)
            assert (error.exit_code, error.hint) == (5, None)  # the command adds the hint
            assert isinstance(error, DroppedError)
            assert final.read_bytes() == old
            [stage] = stages(final.parent)
            assert there.progress.partial is not None
            assert there.progress.partial[1].endswith(stage.name)
            server.again()
            before = line.carried
            made = there.cp(*words, method=method, port=line.port)
            assert final.read_bytes() == whole
            assert stages(final.parent) == []
            # Half of it had come; a little is sent again where its end may have holes.
            assert made.sent < 26 * MIB
            assert line.carried - before < 27 * MIB

    def test_a_part_of_another_source_is_not_believed(
        self, real: tuple[openssh.OpenSSH, There], here: Path, method: Method, upload: bool
    ) -> None:
        server, there = real
        source, final = (
            (here / "big", there.home / "big") if upload else (there.home / "big", here / "big")
        )
        words = ("big", "gpu:") if upload else ("gpu:big", ".")
        source.write_bytes(noise(24 * MIB))
        with (
            wire(there.host.address, server.host.manage_port) as line,
            ThreadPoolExecutor(1) as pool,
        ):
            _known(there, line.port)
            line.hold_after(15 * MIB)
            running = pool.submit(broken, there, line.port, *words, method=method)
            line.await_hold()
            line.cut()
            assert running.result(60).exit_code == 5
        source.write_bytes(noise(20 * MIB, 2))
        there.cp(*words, method=method)
        assert final.read_bytes() == noise(20 * MIB, 2)

    def test_a_tree_goes_on_where_it_was_and_what_the_source_has_lost_is_not_put_in_place(
        self, real: tuple[openssh.OpenSSH, There], here: Path, method: Method, upload: bool
    ) -> None:
        server, there = real
        top, final = (here, there.home / "tree") if upload else (there.home, here / "tree")
        words = ("tree", "gpu:") if upload else ("gpu:tree", ".")
        (top / "tree/sub").mkdir(parents=True)
        for number in range(12):
            (top / f"tree/sub/{number:02}").write_bytes(noise(2 * MIB, number))
        final.mkdir()
        (final / "theirs").write_text("kept")
        with (
            wire(there.host.address, server.host.manage_port) as line,
            ThreadPoolExecutor(1) as pool,
        ):
            _known(there, line.port)
            line.hold_after(14 * MIB)
            running = pool.submit(broken, there, line.port, *words, method=method)
            line.await_hold()
            assert [
                path.name for path in final.iterdir() if not path.name.startswith(".apexgpu-")
            ] == ["theirs"]
            line.cut()
            assert running.result(60).exit_code == 5
            for path in (top / "tree/sub").iterdir():
                if int(path.name) % 2:
                    path.unlink()
            made = there.cp(*words, method=method, port=line.port)
        assert sorted(path.name for path in (final / "sub").iterdir()) == [
            "00",
            "02",
            "04",
            "06",
            "08",
            "10",
        ]
        for number in range(0, 12, 2):
            assert (final / f"sub/{number:02}").read_bytes() == noise(2 * MIB, number)
        assert made.sent <= 10 * MIB
        assert stages(final.parent) == []

    def test_a_full_disk_is_named_and_what_came_is_taken_away(
        self, real: tuple[openssh.OpenSSH, There], here: Path, method: Method, upload: bool
    ) -> None:
        server, there = real
        words = ("big", "gpu:disk") if upload else ("gpu:big", "disk")
        with (
            small_disk((there.home if upload else here) / "disk", 20 * MIB) as disk,
            wire(there.host.address, server.host.manage_port) as line,
            ThreadPoolExecutor(1) as pool,
        ):
            _known(there, line.port)
            (here / "big" if upload else there.home / "big").write_bytes(noise(16 * MIB))
            (disk / "big").write_bytes(b"old")
            line.hold_after(8 * MIB)
            running = pool.submit(broken, there, line.port, *words, method=method)
            line.await_hold()
            with (
                pytest.raises(OSError, match="No space left"),
                (disk / "theirs").open("wb") as theirs,
            ):
                theirs.write(bytes(20 * MIB))  # somebody else takes what is left
            line.release()
            error = running.result(60)
            assert error.message.startswith(
                f"the disk is full on {'gpu7' if upload else 'this laptop'}"
            )
            assert (error.exit_code, error.code) == (1, "no_space")
            assert error.hint
            assert (disk / "big").read_bytes() == b"old"
            assert sorted(path.name for path in disk.iterdir()) == ["big", "theirs"]

    def test_what_has_no_room_is_not_begun(
        self, real: tuple[openssh.OpenSSH, There], here: Path, method: Method, upload: bool
    ) -> None:
        there = real[1]
        with small_disk((there.home if upload else here) / "disk", 4 * MIB) as disk:
            top = here if upload else there.home
            (top / "tree").mkdir()
            for name in ("big", "tree/one", "tree/two"):
                (top / name).write_bytes(noise(8 * MIB if name == "big" else 3 * MIB))
            for name, needed in (("big", "8.0"), ("tree", "6.0")):
                words = (name, "gpu:disk") if upload else (f"gpu:{name}", "disk")
                with pytest.raises(
                    ApexError,
                    match=f"{needed} MiB are needed at .*/disk on .*, and 4.0 MiB are free",
                ):
                    there.cp(*words, method=method)
            assert list(disk.iterdir()) == []

    def test_nobody_sees_a_half_file_under_its_name(
        self, real: tuple[openssh.OpenSSH, There], here: Path, method: Method, upload: bool
    ) -> None:
        there = real[1]
        source, final = (
            (here / "big", there.home / "big") if upload else (there.home / "big", here / "big")
        )
        words = ("big", "gpu:") if upload else ("gpu:big", ".")
        source.write_bytes(noise(32 * MIB))
        final.write_bytes(b"old")
        seen: set[int] = set()
        over = threading.Event()

        def look() -> None:
            while not over.is_set():
                seen.add(final.stat().st_size)

        with ThreadPoolExecutor(1) as pool:
            looking = pool.submit(look)
            there.cp(*words, method=method)
            over.set()
            looking.result(10)
        assert seen <= {3, 32 * MIB}
        assert 3 in seen


def _known(there: There, port: int) -> None:
    """Let the host key be known at the wire's port too."""
    file = there.config.parent / "known_hosts"
    name, rest = file.read_text().splitlines()[0].split(" ", 1)
    file.write_text(f"{name} {rest}\n[{there.host.address}]:{port} {rest}\n")


def test_two_copies_to_one_place_wait_for_each_other(
    real: tuple[openssh.OpenSSH, There], here: Path, method: Method
) -> None:
    server, there = real
    (here / "big").write_bytes(noise(8 * MIB))
    with wire(there.host.address, server.host.manage_port) as line, ThreadPoolExecutor(1) as pool:
        _known(there, line.port)
        line.hold_after(4 * MIB)
        first = pool.submit(
            lambda: asyncio.run(there.copier("big", "gpu:", method=method, port=line.port).run())
        )
        line.await_hold()
        with pytest.raises(ApexError, match="is in use by another apexgpu"):
            asyncio.run(there.copier("big", "gpu:", method=method).run())
        line.release()
        made: CopySummary = first.result(60)
    assert made.sent == 8 * MIB
    assert (there.home / "big").read_bytes() == noise(8 * MIB)


def test_a_shell_that_talks_is_named_with_its_cure(
    real: tuple[openssh.OpenSSH, There], here: Path
) -> None:
    program = real[0].directory.parent / "sftp-server"
    program.write_text(program.read_text().replace("cd ", "echo 'Welcome to gpu7'; cd "))
    with pytest.raises(
        RefusedError, match="prints text where files should come: Welcome to gpu7"
    ) as caught:
        real[1].cp("gpu:x", ".")
    assert caught.value.hint is not None
    assert "~/.bashrc" in caught.value.hint


def test_a_server_without_sftp_is_named_with_its_cure(tmp_path: Path, here: Path) -> None:
    server = openssh.start(tmp_path / "sshd")
    there = There(server.host, server.config, tmp_path, tmp_path / "state")
    with pytest.raises(
        RefusedError, match="the ssh server in the container on gpu7 has no SFTP"
    ) as caught:
        there.cp("gpu:x", ".")
    server.stop()
    assert caught.value.hint == "apexgpu ssh gpu7 -- sudo apt install openssh-sftp-server"


def test_a_refused_login_is_the_transports_own_error(
    real: tuple[openssh.OpenSSH, There], here: Path
) -> None:
    server, there = real
    (server.directory / "authorized_keys").write_text("")
    with pytest.raises(ApexError, match="rejected your key") as caught:
        there.cp("gpu:x", ".")
    assert caught.value.exit_code == 4
