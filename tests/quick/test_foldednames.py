"""Trees copied to disks that take `Model.py` and `model.py`, or two Unicode forms of `é`, for one name: nothing is lost."""

import asyncio
import os
import random
import unicodedata
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from apexgpu.errors import RefusedError
from apexgpu.transfer import foldednames
from apexgpu.transfer.copytargets import find_jobs
from apexgpu.transfer.fileinfo import FileInfo
from apexgpu.transfer.filesystem import OpenFile
from apexgpu.transfer.foldednames import TwinNamesError, Twins
from apexgpu.transfer.localfiles import LocalFiles
from apexgpu.transfer.progress import CopyProgress
from apexgpu.transfer.renames import move_into_place
from apexgpu.transfer.staging import StageRequest, fill_stage

NFC = "é"
NFD = unicodedata.normalize("NFD", NFC)
STAGE = ".apexgpu-0.part"


class Folding(LocalFiles):
    """A disk that keeps the spelling of a name and finds it under any other, as NTFS and APFS do.

    `forms` False: Unicode forms are told apart, as on NTFS. `decomposes`: names are kept in NFD, as on HFS+.
    """

    where = "this laptop"

    def __init__(self, *, forms: bool = True, decomposes: bool = False) -> None:
        self.forms = forms
        self.decomposes = decomposes

    def key(self, name: str) -> str:
        if self.forms:
            name = unicodedata.normalize("NFD", name)
        return name.casefold()

    def found(self, path: bytes) -> bytes:
        """The path as the disk has it; the names that it does not have stay as they are."""
        found = "/"
        for name in os.fsdecode(path).split("/")[1:]:
            if self.decomposes:
                name = unicodedata.normalize("NFD", name)
            names = os.listdir(found) if os.path.isdir(found) else []  # noqa: PTH208, PTH112
            same = [other for other in names if self.key(other) == self.key(name)]
            found = os.path.join(found, same[0] if same else name)  # noqa: PTH118
        return os.fsencode(found)

    async def spelling(self, path: bytes) -> bytes:
        return await super().spelling(self.found(path))

    async def real_path(self, path: bytes) -> bytes:
        return path

    async def info(self, path: bytes, *, follow: bool = False) -> FileInfo | None:
        return await super().info(self.found(path), follow=follow)

    async def list_directory(self, path: bytes) -> list[FileInfo]:
        return await super().list_directory(self.found(path))

    async def mkdir(self, path: bytes, *, private: bool = True) -> None:
        await super().mkdir(self.found(path), private=private)

    async def rmdir(self, path: bytes) -> None:
        await super().rmdir(self.found(path))

    async def remove(self, path: bytes) -> None:
        await super().remove(self.found(path))

    async def rename(self, old: bytes, new: bytes) -> None:
        await super().rename(self.found(old), self.found(new))

    async def set_attributes(self, path: bytes, mode: int | None, mtime: int) -> None:
        await super().set_attributes(self.found(path), mode, mtime)

    @asynccontextmanager
    async def open(self, path: bytes, *, write: bool = False) -> AsyncIterator[OpenFile]:
        async with super().open(self.found(path), write=write) as stream:
            yield stream

    async def sync(self, directory: bytes, files: Sequence[bytes]) -> None:
        """Nothing to wait for."""


class Telling(LocalFiles):
    """A disk that tells all names apart."""

    where = "gpu7"

    async def sync(self, directory: bytes, files: Sequence[bytes]) -> None:
        """Nothing to wait for."""


def merged(source: LocalFiles, top: Path, target: LocalFiles, final: Path) -> int:
    """Copy what is in `top` into `final`; how many names changed."""

    async def run() -> int:
        info = await source.info(os.fsencode(top))
        assert info is not None
        stage = os.fsencode(final / STAGE)
        request = StageRequest(os.fsencode(top), info, stage, existing=os.fsencode(final))
        result = await fill_stage(source, target, request, CopyProgress())
        if not result.staged:
            return result.changed
        moved = await move_into_place(target, stage, os.fsencode(final), file=b"", merge=True)
        return result.changed + moved

    return asyncio.run(run())


def contents(top: Path) -> dict[str, bytes]:
    """Each file below `top` by its path."""
    found = {}
    for path in sorted(top.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(top))] = path.read_bytes()
    return found


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "top").mkdir()
    return tmp_path / "top"


@pytest.fixture
def final(tmp_path: Path) -> Path:
    (tmp_path / "final").mkdir()
    return tmp_path / "final"


def test_two_files_whose_names_differ_in_case_are_refused_before_anything_is_written(
    top: Path, final: Path
) -> None:
    (top / "src").mkdir()
    (top / "src/Model.py").write_bytes(b"A" * 200_000)
    (top / "src/model.py").write_bytes(b"b" * 100_000)
    (top / "other").write_bytes(b"x")
    with pytest.raises(
        TwinNamesError, match=r"differ only in case: src/.odel\.py and src/"
    ) as caught:
        merged(Telling(), top, Folding(), final)
    assert (caught.value.exit_code, caught.value.code) == (6, "name")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"mv -n -- {top}/src/")
    assert list(final.iterdir()) == []
    # The same tree goes to a disk that tells them apart.
    assert merged(Telling(), top, Telling(), final) == 4  # the directory is the fourth
    assert contents(final) == contents(top)


def test_two_directories_are_named_once_and_not_with_all_that_is_in_them(
    top: Path, final: Path
) -> None:
    for directory in ("Data", "data"):
        (top / directory).mkdir()
        for name in ("a", "b"):
            (top / directory / name).write_text(directory)
    with pytest.raises(TwinNamesError) as caught:
        merged(Telling(), top, Folding(), final)
    assert "/" not in caught.value.message.partition(": ")[2]
    assert list(final.iterdir()) == []


def test_a_name_that_the_target_has_in_another_case_is_refused(top: Path, final: Path) -> None:
    (top / "README").write_text("new")
    (final / "readme").write_text("theirs")
    with pytest.raises(TwinNamesError, match="README and readme"):
        merged(Telling(), top, Folding(), final)
    assert contents(final) == {"readme": b"theirs"}
    assert merged(Telling(), top, Telling(), final) == 1
    assert contents(final) == {"README": b"new", "readme": b"theirs"}


@pytest.mark.parametrize("decomposes", [False, True], ids=["APFS", "HFS+"])
def test_the_other_unicode_form_of_a_name_is_the_same_name(
    top: Path, final: Path, decomposes: bool
) -> None:
    disk = Folding(decomposes=decomposes)
    (top / NFC).mkdir()
    (top / NFC / NFC).write_text("new")
    (final / NFD).mkdir()
    (final / NFD / NFD).write_text("old one")
    assert merged(Telling(), top, disk, final) == 1
    assert contents(final) == {f"{NFD}/{NFD}": b"new"}
    assert merged(Telling(), top, disk, final) == 0


def test_two_unicode_forms_in_one_source_are_refused_where_they_are_one_name(
    top: Path, final: Path
) -> None:
    for name in (NFC, NFD):
        (top / name).write_text(name)
    with pytest.raises(TwinNamesError, match="the form of their accents"):
        merged(Telling(), top, Folding(), final)
    assert list(final.iterdir()) == []
    assert merged(Telling(), top, Folding(forms=False), final) == 2  # NTFS tells them apart


def test_a_single_file_does_not_replace_one_in_another_case(top: Path, final: Path) -> None:
    (top / "Model.py").write_text("new")
    (final / "model.py").write_text("theirs")
    with pytest.raises(TwinNamesError, match=r"Model\.py and .*model\.py"):
        asyncio.run(
            find_jobs(Telling(), Folding(), [os.fsencode(top / "Model.py")], os.fsencode(final))
        )
    (final / "model.py").rename(final / "Model.py")
    [job] = asyncio.run(
        find_jobs(Telling(), Folding(), [os.fsencode(top / "Model.py")], os.fsencode(final))
    )
    assert job.existing is not None


def test_two_sources_that_would_become_one_file_are_refused(top: Path, final: Path) -> None:
    origins = []
    for path in (top / "a/Model.py", top / "b/model.py"):
        path.parent.mkdir()
        path.write_text(path.name)
        origins.append(os.fsencode(path))
    with pytest.raises(TwinNamesError):
        asyncio.run(find_jobs(Telling(), Folding(), origins, os.fsencode(final)))
    assert list(final.iterdir()) == []
    assert len(asyncio.run(find_jobs(Telling(), Telling(), origins, os.fsencode(final)))) == 2


def test_only_names_of_one_directory_are_a_pair() -> None:
    paths = [b"a/x", b"A/X", b"a", b"A", b"b/x", b"c/X"]
    assert foldednames.twins_within(paths) == [Twins(b"a", b"A")]


def _random_tree(generator: random.Random, top: Path) -> None:
    names = ["model.py", "Model.py", "MODEL.PY", NFC, NFD, "É", "data", "Data", "ß", "SS", "x"]
    for _ in range(generator.randint(1, 5)):
        parts = generator.sample(names, generator.randint(1, 3))
        path = top.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(generator.randbytes(generator.randint(1, 40)))
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
    for path in top.rglob("*"):
        os.utime(path, (10**9 + generator.randint(0, 10**6),) * 2)


def _unfold(disk: Folding, top: Path) -> None:
    """Leave of each pair of names only one: what a disk that folds can hold."""
    for directory, directories, files in os.walk(top, topdown=True):
        seen = set()
        for name in [*directories, *files]:
            path = Path(directory, name)
            if disk.key(name) not in seen:
                seen.add(disk.key(name))
            elif path.is_dir():
                directories.remove(name)
                for below in sorted(path.rglob("*"), reverse=True):
                    below.rmdir() if below.is_dir() else below.unlink()
                path.rmdir()
            else:
                path.unlink()


@pytest.mark.parametrize("hundred", range(2))
@pytest.mark.parametrize("to_folding", [True, False], ids=["to the laptop", "from the laptop"])
def test_200_pairs_of_trees_lose_nothing(hundred: int, to_folding: bool, tmp_path: Path) -> None:
    refused = 0
    codes = set()
    for number in range(100):
        generator = random.Random(hundred * 1000 + number)
        disk = Folding(forms=generator.random() < 0.7)
        top, final = tmp_path / f"{number}s", tmp_path / f"{number}t"
        for place in (top, final):
            place.mkdir()
            _random_tree(generator, place)
        _unfold(disk, final if to_folding else top)
        source, target = (Telling(), disk) if to_folding else (disk, Telling())
        wanted, before = contents(top), contents(final)
        try:
            merged(source, top, target, final)
        except TwinNamesError:
            refused += 1
            assert (contents(top), contents(final)) == (wanted, before)
            continue
        except RefusedError as error:
            # A directory where a file has to go, or the other way round.
            codes.add(error.code)
            assert (contents(top), contents(final)) == (wanted, before)
            continue
        after = contents(final)
        assert contents(top) == wanted
        for path, content in wanted.items():
            found = os.fsencode(final / path)
            if to_folding:
                found = disk.found(found)
            assert Path(os.fsdecode(found)).read_bytes() == content
        same = (
            {unicodedata.normalize("NFC", path) for path in wanted} if to_folding else set(wanted)
        )
        for path, content in before.items():
            is_replaced = (unicodedata.normalize("NFC", path) if to_folding else path) in same
            assert is_replaced or after[path] == content
        assert not list(final.rglob(".apexgpu*"))
        assert len(after) == len({*wanted, *before}) or to_folding
    assert codes <= {"in_the_way"}
    assert (refused > 20) is to_folding
