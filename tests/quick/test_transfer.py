"""A stage filled and put in place, from one directory of this machine to another: what is believed, in which order."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from apexgpu.errors import ApexError, RefusedError
from apexgpu.transfer.localfiles import LocalFiles
from apexgpu.transfer.progress import CopyProgress
from apexgpu.transfer.renames import move_into_place, remove_stage
from apexgpu.transfer.staging import SourceChangedError, StageRequest, StageResult, fill_stage

MIB = 1 << 20
STAGE = ".apexgpu-0.part"


class Noting(LocalFiles):
    """Notes what is made sure to be on the disk, and what is moved."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def sync(self, directory: bytes, files: Sequence[bytes]) -> None:
        self.done.append(
            f"sync {' '.join(sorted(os.fsdecode(path).rpartition('/')[2] for path in files))}"
        )
        await super().sync(directory, files)

    async def rename(self, old: bytes, new: bytes) -> None:
        self.done.append(f"rename {os.fsdecode(new).rpartition('/')[2]}")
        await super().rename(old, new)


def as_given(path: Path) -> bytes:
    """A path as the copy gets it, with slashes on Windows too."""
    return os.fsencode(path.as_posix())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


class Plain(LocalFiles):
    """A disk on which an owner is held to the modes, whoever runs the tests; with room for `space` bytes."""

    space = 1 << 40

    async def free_space(self, directory: bytes) -> int | None:
        return self.space

    def accepts_name(self, name: bytes) -> bool:
        return b":" not in name

    async def mkdir(self, path: bytes, *, private: bool = True) -> None:
        usable(os.path.dirname(path))  # noqa: PTH120 - paths are bytes here
        await super().mkdir(path, private=private)

    async def remove(self, path: bytes) -> None:
        usable(os.path.dirname(path))  # noqa: PTH120 - the same
        await super().remove(path)

    async def rmdir(self, path: bytes) -> None:
        usable(os.path.dirname(path))  # noqa: PTH120 - the same
        await super().rmdir(path)

    async def rename(self, old: bytes, new: bytes) -> None:
        for path in (
            os.path.dirname(old),  # noqa: PTH120
            os.path.dirname(new),  # noqa: PTH120
            *([old] if Path(os.fsdecode(old)).is_dir() else []),
        ):
            usable(path)
        await super().rename(old, new)


def usable(directory: bytes) -> None:
    assert os.stat(directory).st_mode & 0o300 == 0o300, directory  # noqa: PTH116 - paths are bytes here


def filled(
    source: Path,
    target: Path,
    *,
    final: Path | None = None,
    before: Path | None = None,
    side: LocalFiles | None = None,
) -> StageResult:
    """The stage in `target`, filled; `before` is done to the source after it was looked at."""

    async def run() -> StageResult:
        info = await LocalFiles().info(as_given(source))
        assert info is not None
        if before is not None:
            before.write_bytes(b"short")
        name = b"" if info.is_directory else os.fsencode(source.name)
        load = StageRequest(
            as_given(source),
            info,
            as_given(target / STAGE),
            name,
            None if final is None else as_given(final),
        )
        files = side or LocalFiles()
        result = await fill_stage(LocalFiles(), files, load, CopyProgress())
        # move_into_place() does this first; a run may be killed right after it.
        await files.set_attributes_of_all(result.attributes)
        return result

    return asyncio.run(run())


def placed(
    target: Path, final: Path, *, file: str = "", merge: bool = False, side: Noting | None = None
) -> tuple[int, list[str]]:
    side = side or Noting()
    changed = asyncio.run(
        move_into_place(
            side, as_given(target / STAGE), as_given(final), file=file.encode(), merge=merge
        )
    )
    return changed, side.done


def test_bytes_are_on_the_disk_before_a_name_leads_to_them(source: Path, target: Path) -> None:
    (source / "a").write_text("a")
    (source / "sub").mkdir()
    (source / "sub/b").write_text("b")
    filled(source / "a", target)
    assert placed(target, target / "a", file="a") == (1, ["sync a", "rename a"])
    filled(source, target)
    assert placed(target, target / "new") == (2, ["sync a b", "rename new"])
    (source / "sub/b").write_text("other")
    (source / "c").write_text("c")
    filled(source, target, final=target / "new")
    assert placed(target, target / "new", merge=True) == (2, ["sync b c", "rename c", "rename b"])
    assert (target / "new/sub/b").read_text() == "other"
    assert not (target / STAGE).exists()


def test_a_source_that_becomes_shorter_meanwhile_is_an_error_and_no_file(
    source: Path, target: Path
) -> None:
    (source / "log").write_bytes(bytes(100))
    with pytest.raises(SourceChangedError, match="became shorter") as caught:
        filled(source / "log", target, before=source / "log")
    assert (caught.value.code, caught.value.hint) == ("changed", None)  # the command adds the hint


def test_what_an_earlier_run_left_is_cut_where_it_is_longer_and_not_believed_where_it_is_other(
    source: Path, target: Path
) -> None:
    whole = os.urandom(9 * MIB)
    (target / STAGE).mkdir()
    for name, left in (
        ("longer", whole + b"tail" * MIB),
        ("other", b"x" * MIB + whole[MIB : 8 * MIB]),
    ):
        (source / name).write_bytes(whole)
        (target / STAGE / name).write_bytes(left)
    done = filled(source, target)
    assert [(target / STAGE / name).read_bytes() == whole for name in ("longer", "other")] == [
        True,
        True,
    ]
    assert done.sent < 14 * MIB  # of the longer one its end alone


def test_a_link_in_the_stage_is_not_written_through(
    source: Path, target: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("theirs")
    (source / "file").write_text("mine")
    (source / "link").symlink_to("new")
    (target / STAGE).mkdir()
    (target / STAGE / "file").symlink_to(theirs)
    (target / STAGE / "link").symlink_to("old")
    filled(source, target)
    assert theirs.read_text() == "theirs"
    assert ((target / STAGE / "file").read_text(), (target / STAGE / "link").readlink()) == (
        "mine",
        Path("new"),
    )


def test_modes_and_times_are_the_sources_and_a_mode_alone_is_no_copy(
    source: Path, target: Path
) -> None:
    (source / "run").write_text("x")
    (source / "run").chmod(0o750)
    source.chmod(0o751)
    for path in (source / "run", source):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    filled(source, target)
    for made, mode in ((target / STAGE / "run", 0o750), (target / STAGE, 0o751)):
        assert (made.stat().st_mode & 0o7777, made.stat().st_mtime) == (mode, 1_000_000_000)
    placed(target, target / "new")
    (source / "run").chmod(0o700)
    done = filled(source, target, final=target / "new")
    assert (done.sent, done.changed, done.staged) == (0, 1, False)
    assert (target / "new/run").stat().st_mode & 0o7777 == 0o700


def test_a_stage_of_another_copy_is_not_copied(source: Path, target: Path) -> None:
    (source / STAGE).mkdir()
    (source / STAGE / "half").write_text("x")
    (source / ".apexgpu-notes").write_text("mine")
    assert filled(source, target).files == 1
    assert [path.name for path in (target / STAGE).iterdir()] == [".apexgpu-notes"]


def test_what_came_in_the_way_since_is_not_replaced_and_nothing_is_moved(
    source: Path, target: Path
) -> None:
    (source / "a").write_text("a")
    (source / "b").mkdir()
    (source / "b/c").write_text("c")
    (target / "final").mkdir()
    filled(source, target, final=target / "final")
    (target / "final/b").write_text("theirs")
    with pytest.raises(RefusedError) as caught:
        placed(target, target / "final", merge=True)
    assert caught.value.code == "in_the_way"
    assert [path.name for path in (target / "final").iterdir()] == ["b"]
    assert (target / "final/b").read_text() == "theirs"


def test_an_empty_stage_of_a_file_that_is_there_goes_without_a_change(target: Path) -> None:
    (target / STAGE / "left").mkdir(parents=True)
    assert placed(target, target / "file", file="file") == (0, [])
    assert list(target.iterdir()) == []


def test_a_stage_is_taken_away_with_all_that_is_in_it(target: Path) -> None:
    (target / STAGE / "a/b/c").mkdir(parents=True)
    (target / STAGE / "a/b/file").write_text("x")
    (target / STAGE / "a/link").symlink_to("/")
    asyncio.run(remove_stage(LocalFiles(), as_given(target / STAGE)))
    asyncio.run(remove_stage(LocalFiles(), as_given(target / STAGE)))
    assert list(target.iterdir()) == []


def test_what_is_being_written_is_the_owners_alone(source: Path, target: Path) -> None:
    (source / "secret").write_bytes(bytes(100_000))
    before = os.umask(0)
    try:
        with pytest.raises(ApexError):
            filled(source / "secret", target, before=source / "secret")
    finally:
        os.umask(before)
    assert (target / STAGE).stat().st_mode & 0o777 == 0o700
    assert (target / STAGE / "secret").stat().st_mode & 0o777 == 0o600


class NotingPlain(Plain, Noting):
    """Both."""


def test_directories_that_their_owner_cannot_write_are_opened_for_the_moment_only(
    source: Path, target: Path
) -> None:
    for name in ("new/deep", "there/new"):
        (source / name).mkdir(parents=True)
        (source / name / "file").write_text("x")
        (source / name).chmod(0o555)
    (source / "new").chmod(0o500)
    (source / "there").chmod(0o555)
    (target / "final/there").mkdir(parents=True)
    filled(source, target, final=target / "final", side=Plain())
    deep = target / STAGE / "new/deep"
    deep.chmod(0o755)
    (deep / "lost/more").mkdir(parents=True)
    (deep / "lost/more/file").write_text("the source has it no more")
    deep.chmod(0o555)
    filled(
        source, target, final=target / "final", side=Plain()
    )  # again, over what is dressed already
    assert [path.name for path in deep.iterdir()] == ["file"]
    (target / STAGE).chmod(0o555)  # as a run has left it for which there was no such directory yet
    placed(target, target / "final", merge=True, side=NotingPlain())
    assert sorted(path.name for path in target.iterdir()) == ["final"]
    for name, mode in (("new", 0o500), ("new/deep", 0o555), ("there/new", 0o555)):
        assert (target / "final" / name).stat().st_mode & 0o777 == mode
    assert (target / "final/new/deep/file").read_text() == "x"


def test_a_stage_with_such_directories_is_taken_away_too(source: Path, target: Path) -> None:
    (source / "deep").mkdir()
    (source / "deep/file").write_text("x")
    (source / "deep").chmod(0o555)
    filled(source, target)
    asyncio.run(remove_stage(Plain(), as_given(target / STAGE)))
    assert list(target.iterdir()) == []


def test_what_cannot_be_is_refused_before_anything_is_made(source: Path, target: Path) -> None:
    (source / "a").mkdir()
    (source / "a/file").write_bytes(bytes(MIB))
    final = target / "final"
    final.mkdir()
    (final / "a").write_text("theirs")
    with pytest.raises(RefusedError) as caught:
        filled(source, target, final=final)
    assert caught.value.code == "in_the_way"
    (final / "a").unlink()
    small = Plain()
    small.space = MIB - 1
    with pytest.raises(ApexError, match=r"1\.0 MiB are needed") as short:
        filled(source, target, final=final, side=small)
    assert short.value.code == "no_room"
    (source / "a/b:c").write_text("x")
    with pytest.raises(RefusedError, match="a file cannot have the name b:c"):
        filled(source, target, final=final, side=Plain())
    assert [path.name for path in target.iterdir()] == ["final"]
    assert list(final.iterdir()) == []


def test_what_came_already_needs_no_room_again(source: Path, target: Path) -> None:
    (source / "file").write_bytes(bytes(MIB))
    (target / STAGE).mkdir()
    (target / STAGE / "file").write_bytes(bytes(MIB - 100))
    small = Plain()
    small.space = 100
    filled(source, target, side=small)
    assert (target / STAGE / "file").stat().st_size == MIB


def test_windows_is_asked_again_while_another_program_has_the_file_open(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (target / "new").write_text("new")
    (target / "old").write_text("old")
    refusals = [PermissionError(13, "Access is denied")] * 3
    replace = os.replace

    def refuse_at_first(old: bytes, new: bytes) -> None:
        if refusals:
            raise refusals.pop()
        replace(old, new)

    rename = LocalFiles().rename(as_given(target / "new"), as_given(target / "old"))
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr(os, "replace", refuse_at_first)
    asyncio.run(rename)
    assert (target / "old").read_text() == "new"


def test_windows_is_not_asked_forever(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    def refuse(old: bytes, new: bytes) -> None:
        raise PermissionError(13, "Access is denied")

    rename = LocalFiles().rename(as_given(target / "new"), as_given(target / "old"))
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr("apexgpu.transfer.localfiles.asyncio.sleep", pause)
    monkeypatch.setattr(os, "replace", refuse)

    async def run() -> None:
        with pytest.raises(RefusedError, match="permission denied on this laptop"):
            await rename

    asyncio.run(run())
    assert 2 <= sum(pauses) <= 3


def test_what_macos_keeps_from_a_terminal_is_named_with_the_setting(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    files = LocalFiles()
    with (
        pytest.raises(RefusedError, match="macOS does not let this terminal use /x") as caught,
        files.translated_errors(b"/x"),
    ):
        raise PermissionError(1, "Operation not permitted")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("open 'x-apple.systempreferences:")


class NoDirectories(LocalFiles):
    """A disk on which no directory can be made."""

    async def mkdir(self, path: bytes, *, private: bool = True) -> None:
        raise RefusedError("no directory can be made", code="permission")


def test_a_directory_that_cannot_be_made_is_the_error_and_not_what_follows_from_it(
    source: Path, target: Path
) -> None:
    for name in ("a", "b"):
        (source / name).write_text(name)
    with pytest.raises(RefusedError, match="no directory can be made"):
        filled(source, target, side=NoDirectories())
    assert list(target.iterdir()) == []
