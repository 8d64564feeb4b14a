"""Two trees compared: what has to be sent, and what has not."""

import pytest

from apexgpu.transfer.fileinfo import Entry, Plan, is_stage, join, parents, plan, total


def file(size: int = 1, mtime: int = 1, mode: int = 0o644) -> Entry:
    return Entry(b"f", "file", size, mtime, mode)


DIRECTORY = Entry(b"d", "directory", 0, 5, 0o755)
LINK = Entry(b"l", "link", 3, 5, 0o777, b"old")
OTHER = Entry(b"p", "other")


@pytest.mark.parametrize(
    ("source", "final", "staged", "found"),
    [
        ({}, {}, {}, Plan()),
        ({b"f": file()}, {}, {}, Plan(files=[b"f"])),
        ({b"f": file()}, {b"f": file()}, {}, Plan()),
        ({b"f": file()}, {b"f": file(size=2)}, {}, Plan(files=[b"f"])),
        ({b"f": file()}, {b"f": file(mtime=2)}, {}, Plan(files=[b"f"])),
        ({b"f": file()}, {b"f": file(mode=0o600)}, {}, Plan(modes=[b"f"])),
        ({b"f": file()}, {b"f": LINK}, {}, Plan(files=[b"f"])),
        ({b"f": file()}, {}, {b"f": file()}, Plan(whole=[b"f"])),
        ({b"f": file(9)}, {}, {b"f": file(4)}, Plan(files=[b"f"])),  # a part, to be looked at
        (
            {b"f": file()},
            {b"f": file()},
            {b"f": file(0)},
            Plan(junk=[b"f"]),
        ),  # must not replace the good one
        ({}, {}, {b"d": DIRECTORY, b"d/f": file()}, Plan(junk=[b"d", b"d/f"])),
        ({}, {b"theirs": file()}, {}, Plan()),
        ({b"l": LINK}, {b"l": LINK}, {}, Plan()),
        ({b"l": LINK}, {b"l": Entry(b"l", "link", 3, 5, 0o777, b"new")}, {}, Plan(links=[b"l"])),
        ({b"p": OTHER}, {}, {}, Plan(left_out=[b"p"])),
        ({b"p": OTHER}, {b"p": DIRECTORY}, {}, Plan()),
        ({b"d": DIRECTORY}, {b"d": file()}, {}, Plan(conflicts=[b"d"])),
        ({b"d": DIRECTORY}, {b"d": LINK}, {}, Plan(conflicts=[b"d"])),
        ({b"d": file()}, {b"d": DIRECTORY}, {}, Plan(conflicts=[b"d"])),
        ({b"d": DIRECTORY}, {}, {}, Plan(directories=[b"d"], dressed=[b"d"])),
        ({b"d": DIRECTORY}, {}, {b"d": DIRECTORY}, Plan(dressed=[b"d"])),
        (
            {b"d": DIRECTORY},
            {},
            {b"d": file()},
            Plan(directories=[b"d"], dressed=[b"d"], junk=[b"d"]),
        ),
        (
            {b"d": DIRECTORY, b"d/f": file()},
            {b"d": DIRECTORY},
            {},
            Plan(directories=[b"d"], files=[b"d/f"]),
        ),
        ({b"d": DIRECTORY, b"d/f": file()}, {b"d": DIRECTORY, b"d/f": file()}, {}, Plan()),
    ],
)
def test_what_is_not_there_yet_is_planned(
    source: dict[bytes, Entry], final: dict[bytes, Entry], staged: dict[bytes, Entry], found: Plan
) -> None:
    assert plan(source, final, staged) == found


def test_modes_do_not_count_where_one_system_has_none() -> None:
    assert plan({b"f": file()}, {b"f": file(mode=0)}, {}, modes=False) == Plan()


def test_new_directories_are_dressed_from_the_deepest_up() -> None:
    source = {b"a": DIRECTORY, b"a/b": DIRECTORY, b"a/b/c": DIRECTORY}
    found = plan(source, {}, {})
    assert (found.directories, found.dressed) == (
        [b"a", b"a/b", b"a/b/c"],
        [b"a/b/c", b"a/b", b"a"],
    )


def test_parts() -> None:
    assert parents(b"a/b/c") == [b"a", b"a/b"]
    assert (join(b"/", b"a"), join(b"/a", b"b"), join(b"/a/", b"b")) == (b"/a", b"/a/b", b"/a/b")
    assert total({b"f": file(5), b"l": LINK, b"d": DIRECTORY, b"p": OTHER}) == (2, 8)
    assert is_stage(b".apexgpu-0123456789.part")
    assert not is_stage(b".apexgpu-lab")
