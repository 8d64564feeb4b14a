"""Two trees compared: what has to be sent, and what has not."""

import pytest

from apexgpu.transfer.copyplan import CopyPlan, plan_copy
from apexgpu.transfer.fileinfo import FileInfo, FileKind, count_files, is_stage, join, parents


def file(size: int = 1, mtime: int = 1, mode: int = 0o644) -> FileInfo:
    return FileInfo(b"f", FileKind.FILE, size, mtime, mode)


DIRECTORY = FileInfo(b"d", FileKind.DIRECTORY, 0, 5, 0o755)
LINK = FileInfo(b"l", FileKind.LINK, 3, 5, 0o777, b"old")
SPECIAL = FileInfo(b"p", FileKind.SPECIAL)


@pytest.mark.parametrize(
    ("source", "final", "staged", "expected"),
    [
        ({}, {}, {}, CopyPlan()),
        ({b"f": file()}, {}, {}, CopyPlan(files=[b"f"])),
        ({b"f": file()}, {b"f": file()}, {}, CopyPlan()),
        ({b"f": file()}, {b"f": file(size=2)}, {}, CopyPlan(files=[b"f"])),
        ({b"f": file()}, {b"f": file(mtime=2)}, {}, CopyPlan(files=[b"f"])),
        ({b"f": file()}, {b"f": file(mode=0o600)}, {}, CopyPlan(modes=[b"f"])),
        ({b"f": file()}, {b"f": LINK}, {}, CopyPlan(files=[b"f"])),
        ({b"f": file()}, {}, {b"f": file()}, CopyPlan(complete=[b"f"])),
        ({b"f": file(9)}, {}, {b"f": file(4)}, CopyPlan(files=[b"f"])),  # a part, to be looked at
        (
            {b"f": file()},
            {b"f": file()},
            {b"f": file(0)},
            CopyPlan(leftovers=[b"f"]),
        ),  # must not replace the good one
        ({}, {}, {b"d": DIRECTORY, b"d/f": file()}, CopyPlan(leftovers=[b"d", b"d/f"])),
        ({}, {b"theirs": file()}, {}, CopyPlan()),
        ({b"l": LINK}, {b"l": LINK}, {}, CopyPlan()),
        (
            {b"l": LINK},
            {b"l": FileInfo(b"l", FileKind.LINK, 3, 5, 0o777, b"new")},
            {},
            CopyPlan(links=[b"l"]),
        ),
        ({b"p": SPECIAL}, {}, {}, CopyPlan(skipped=[b"p"])),
        ({b"p": SPECIAL}, {b"p": DIRECTORY}, {}, CopyPlan()),
        ({b"d": DIRECTORY}, {b"d": file()}, {}, CopyPlan(conflicts=[b"d"])),
        ({b"d": DIRECTORY}, {b"d": LINK}, {}, CopyPlan(conflicts=[b"d"])),
        ({b"d": file()}, {b"d": DIRECTORY}, {}, CopyPlan(conflicts=[b"d"])),
        ({b"d": DIRECTORY}, {}, {}, CopyPlan(directories=[b"d"], new_directories=[b"d"])),
        ({b"d": DIRECTORY}, {}, {b"d": DIRECTORY}, CopyPlan(new_directories=[b"d"])),
        (
            {b"d": DIRECTORY},
            {},
            {b"d": file()},
            CopyPlan(directories=[b"d"], new_directories=[b"d"], leftovers=[b"d"]),
        ),
        (
            {b"d": DIRECTORY, b"d/f": file()},
            {b"d": DIRECTORY},
            {},
            CopyPlan(directories=[b"d"], files=[b"d/f"]),
        ),
        ({b"d": DIRECTORY, b"d/f": file()}, {b"d": DIRECTORY, b"d/f": file()}, {}, CopyPlan()),
    ],
)
def test_what_the_target_does_not_have_is_planned(
    source: dict[bytes, FileInfo],
    final: dict[bytes, FileInfo],
    staged: dict[bytes, FileInfo],
    expected: CopyPlan,
) -> None:
    assert plan_copy(source, final, staged) == expected


def test_modes_do_not_count_where_one_system_has_none() -> None:
    assert plan_copy({b"f": file()}, {b"f": file(mode=0)}, {}, modes=False) == CopyPlan()


def test_new_directories_are_listed_from_the_innermost_out() -> None:
    source = {b"a": DIRECTORY, b"a/b": DIRECTORY, b"a/b/c": DIRECTORY}
    found = plan_copy(source, {}, {})
    assert (found.directories, found.new_directories) == (
        [b"a", b"a/b", b"a/b/c"],
        [b"a/b/c", b"a/b", b"a"],
    )


def test_parts() -> None:
    assert parents(b"a/b/c") == [b"a", b"a/b"]
    assert (join(b"/", b"a"), join(b"/a", b"b"), join(b"/a/", b"b")) == (b"/a", b"/a/b", b"/a/b")
    assert count_files({b"f": file(5), b"l": LINK, b"d": DIRECTORY, b"p": SPECIAL}) == (2, 8)
    assert is_stage(b".apexgpu-0123456789.part")
    assert not is_stage(b".apexgpu-lab")
