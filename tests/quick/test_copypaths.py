"""What the words of `cp` mean, on every system."""

import pytest

from apexgpu.errors import UsageError
from apexgpu.transfer import copypaths
from apexgpu.transfer.copypaths import CopyRoute, Location, parse_location, parse_route


@pytest.mark.parametrize(
    ("word", "platform", "found"),
    [
        # scp(1): HOST:PATH; "Local file names can be made explicit using absolute or relative pathnames".
        ("gpu7:data", "linux", Location("gpu7", "data")),
        ("gpu7:", "linux", Location("gpu7", "")),
        ("gpu7:/SSD/a b:c", "linux", Location("gpu7", "/SSD/a b:c")),
        ("gpu-7.lab_x:~/x", "darwin", Location("gpu-7.lab_x", "~/x")),
        ("gpu7:new\nline", "linux", Location("gpu7", "new\nline")),
        ("gpu?:x", "linux", Location("gpu?", "x")),
        ("./gpu7:data", "linux", Location(None, "./gpu7:data")),
        ("dir/a:b", "darwin", Location(None, "dir/a:b")),
        ("/abs/a:b", "linux", Location(None, "/abs/a:b")),
        ("plain", "linux", Location(None, "plain")),
        ("-rf", "linux", Location(None, "-rf")),
        (":x", "linux", Location(None, ":x")),
        ("-oProxyCommand=x:y", "linux", Location(None, "-oProxyCommand=x:y")),
        ("", "linux", Location(None, "")),
        # Windows: "Naming Files, Paths, and Namespaces": a letter and a colon are a drive, also without a backslash.
        (r"C:\data\x", "win32", Location(None, r"C:\data\x")),
        ("c:/data/x", "win32", Location(None, "c:/data/x")),
        ("C:x", "win32", Location(None, "C:x")),
        (r"\\server\share\a:b", "win32", Location(None, r"\\server\share\a:b")),
        (r".\gpu7:x", "win32", Location(None, r".\gpu7:x")),
        (r"gpu7:C:\x", "win32", Location("gpu7", r"C:\x")),
        ("gpu7:data", "win32", Location("gpu7", "data")),
        ("C:x", "linux", Location("C", "x")),
    ],
)
def test_an_argument_is_a_path_on_this_laptop_or_on_a_host(
    word: str, platform: str, found: Location
) -> None:
    assert parse_location(word, platform) == found


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["a", "gpu7:"], CopyRoute("gpu7", True, ("a",), "")),
        (["a", "b", "gpu7:/SSD"], CopyRoute("gpu7", True, ("a", "b"), "/SSD")),
        (["gpu7:a", "gpu7:b", "."], CopyRoute("gpu7", False, ("a", "b"), ".")),
    ],
)
def test_arguments_are_a_route(words: list[str], found: CopyRoute) -> None:
    assert parse_route(words, "linux") == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "cp needs two arguments: what to copy"),
        (["gpu7:x"], "cp needs two arguments: what to copy"),
        (["a", "b"], "none of these is on a host"),
        (["gpu7:a", "gpu8:b"], "both sides are on a host"),
        (["a", "gpu7:b", "gpu7:c"], "both sides are on a host"),
        (["gpu7:a", "gpu8:b", "."], "all on one host"),
        (["gpu7:a", "b", "."], "all on one host"),
    ],
)
def test_arguments_that_are_not_a_route_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_route(words, "linux")


def test_remote_paths_begin_at_the_home() -> None:
    assert [copypaths.remote_path(path) for path in ("", "~", "~/a", "a~b", "/x")] == [
        b"",
        b"",
        b"a",
        b"a~b",
        b"/x",
    ]
    assert copypaths.remote_path("\udce9") == b"\xe9"
    with pytest.raises(UsageError, match="~bob/x cannot be looked up"):
        copypaths.remote_path("~bob/x")


@pytest.mark.parametrize(
    ("path", "contents"),
    [
        (b"/a/.", True),
        (b"/a/./", True),
        (b"/", True),
        (b"/a/..", True),
        (b"/a", False),
        (b"/a/", False),
        (b"/.a", False),
    ],
)
def test_a_dot_at_the_end_means_the_contents(path: bytes, contents: bool) -> None:
    assert copypaths.means_contents(path) is contents


@pytest.mark.parametrize(
    ("name", "fits"),
    # https://learn.microsoft.com/windows/win32/fileio/naming-a-file
    [
        (b"a b.txt", True),
        ("名字".encode(), True),
        (b".hidden", True),
        (b"console", True),
        (b"a:b", False),
        (b"what?", False),
        (b"a\\b", False),
        (b"new\nline", False),
        (b"dot.", False),
        (b"blank ", False),
        (b"nul", False),
        (b"AUX.txt", False),
        (b"com1", False),
        (b'a"b', False),
    ],
)
def test_names_that_windows_cannot_have(name: bytes, fits: bool) -> None:
    assert copypaths.is_windows_name(name) is fits


def test_parts_of_paths() -> None:
    assert (
        copypaths.base_name(b"/a/b//"),
        copypaths.parent(b"/a/b/"),
        copypaths.parent(b"/a"),
    ) == (
        b"b",
        b"/a",
        b"/",
    )
    assert [copypaths.without_dots(path) for path in (b"/a/./b/.", b"/./a/", b"/.", b"/")] == [
        b"/a/b",
        b"/a/",
        b"/",
        b"/",
    ]


@pytest.mark.parametrize(
    ("word", "path", "name", "directory"),
    [
        ("data", b"C:/Users/alice/proj/data", b"data", b"C:/Users/alice/proj"),
        (r"data\x.txt", b"C:/Users/alice/proj/data/x.txt", b"x.txt", b"C:/Users/alice/proj/data"),
        ("plots/new.csv", b"C:/Users/alice/proj/plots/new.csv", b"new.csv", None),
        (".", b"C:/Users/alice/proj/.", b".", None),
        (r"..\x", b"C:/Users/alice/proj/../x", b"x", None),
        (r"C:\data\x", b"C:/data/x", b"x", b"C:/data"),
        ("C:/data", b"C:/data", b"data", b"C:/"),
        # Each drive has a working directory of its own, and D:x is a file in that of D:.
        ("D:x", b"D:/work/x", b"x", b"D:/work"),
        ("C:x", b"C:/Users/alice/proj/x", b"x", None),
        ("D:\\", b"D:/", b"", b"D:/"),
        (r"\x", b"C:/x", b"x", b"C:/"),
        (r"\\nas\home\a b", b"//nas/home/a b", b"a b", b"//nas/home"),
        (r"\\?\C:\long\x", b"C:/long/x", b"x", None),
        (r"~\runs", b"C:/Users/alice/runs", b"runs", None),
        ("~", b"C:/Users/alice", b"alice", None),
        ("~bob", b"C:/Users/alice/proj/~bob", b"~bob", None),
        ("数据", "C:/Users/alice/proj/数据".encode(), "数据".encode(), None),
        ("data\\", b"C:/Users/alice/proj/data/", b"data", None),
    ],
)
def test_local_paths_of_windows(
    word: str, path: bytes, name: bytes, directory: bytes | None
) -> None:
    drives = {"": r"C:\Users\alice\proj", "C:": r"C:\Users\alice\proj", "D:": r"D:\work"}
    found = copypaths.local_path(
        word,
        home=r"C:\Users\alice",
        directory_on_drive=lambda drive: drives.get(drive, drive),
        platform="win32",
    )
    assert (found, copypaths.base_name(found)) == (path, name)
    if directory is not None:
        assert copypaths.parent(found) == directory


@pytest.mark.parametrize(
    ("word", "path"),
    [
        ("data", b"/home/alice/proj/data"),
        (r"back\slash", rb"/home/alice/proj/back\slash"),
        ("C:x", b"/home/alice/proj/C:x"),
        ("~/x", b"/home/alice/x"),
        ("~bob", b"/home/alice/proj/~bob"),
        ("/abs/", b"/abs/"),
        ("", b"/home/alice/proj/"),
        ("\udce9", b"/home/alice/proj/\xe9"),
    ],
)
def test_local_paths_elsewhere(word: str, path: bytes) -> None:
    found = copypaths.local_path(
        word,
        home="/home/alice",
        directory_on_drive=lambda _: "/home/alice/proj",
        platform="linux",
    )
    assert found == path


def test_roots_keep_their_slash() -> None:
    roots = [copypaths.without_slash(path) for path in (b"/", b"C:/", b"/a/", b"C:/a/", b"/C:/")]
    assert roots == [b"/", b"C:/", b"/a", b"C:/a", b"/C:"]
    assert copypaths.means_contents(b"C:/")
    assert not copypaths.means_contents(b"/x/C:")
    assert copypaths.slashes(b"\\\\?\\UNC\\nas\\home") == b"//nas/home"
