"""What the words of `cp` mean, on every system."""

import pytest

from apexgpu.errors import UsageError
from apexgpu.transfer import copypaths
from apexgpu.transfer.copypaths import Place, Route, place, route


@pytest.mark.parametrize(
    ("word", "platform", "found"),
    [
        # scp(1): HOST:PATH; "Local file names can be made explicit using absolute or relative pathnames".
        ("gpu7:data", "linux", Place("gpu7", "data")),
        ("gpu7:", "linux", Place("gpu7", "")),
        ("gpu7:/SSD/a b:c", "linux", Place("gpu7", "/SSD/a b:c")),
        ("gpu-7.lab_x:~/x", "darwin", Place("gpu-7.lab_x", "~/x")),
        ("gpu7:new\nline", "linux", Place("gpu7", "new\nline")),
        ("gpu?:x", "linux", Place("gpu?", "x")),
        ("./gpu7:data", "linux", Place(None, "./gpu7:data")),
        ("dir/a:b", "darwin", Place(None, "dir/a:b")),
        ("/abs/a:b", "linux", Place(None, "/abs/a:b")),
        ("plain", "linux", Place(None, "plain")),
        ("-rf", "linux", Place(None, "-rf")),
        (":x", "linux", Place(None, ":x")),
        ("-oProxyCommand=x:y", "linux", Place(None, "-oProxyCommand=x:y")),
        ("", "linux", Place(None, "")),
        # Windows: "Naming Files, Paths, and Namespaces": a letter and a colon are a drive, also without a backslash.
        (r"C:\data\x", "win32", Place(None, r"C:\data\x")),
        ("c:/data/x", "win32", Place(None, "c:/data/x")),
        ("C:x", "win32", Place(None, "C:x")),
        (r"\\server\share\a:b", "win32", Place(None, r"\\server\share\a:b")),
        (r".\gpu7:x", "win32", Place(None, r".\gpu7:x")),
        (r"gpu7:C:\x", "win32", Place("gpu7", r"C:\x")),
        ("gpu7:data", "win32", Place("gpu7", "data")),
        ("C:x", "linux", Place("C", "x")),
    ],
)
def test_a_word_is_a_place_here_or_on_a_host(word: str, platform: str, found: Place) -> None:
    assert place(word, platform) == found


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["a", "gpu7:"], Route("gpu7", True, ("a",), "")),
        (["a", "b", "gpu7:/SSD"], Route("gpu7", True, ("a", "b"), "/SSD")),
        (["gpu7:a", "gpu7:b", "."], Route("gpu7", False, ("a", "b"), ".")),
    ],
)
def test_words_are_a_route(words: list[str], found: Route) -> None:
    assert route(words, "linux") == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "needs two things: what to copy"),
        (["gpu7:x"], "needs two things: what to copy"),
        (["a", "b"], "none of these is on a host"),
        (["gpu7:a", "gpu8:b"], "both sides are on a host"),
        (["a", "gpu7:b", "gpu7:c"], "both sides are on a host"),
        (["gpu7:a", "gpu8:b", "."], "all on one host"),
        (["gpu7:a", "b", "."], "all on one host"),
    ],
)
def test_words_that_are_no_route_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        route(words, "linux")


def test_paths_there_begin_at_the_home() -> None:
    assert [copypaths.remote(path) for path in ("", "~", "~/a", "a~b", "/x")] == [
        b"",
        b"",
        b"a",
        b"a~b",
        b"/x",
    ]
    assert copypaths.remote("\udce9") == b"\xe9"
    with pytest.raises(UsageError, match="~bob/x cannot be looked up"):
        copypaths.remote("~bob/x")


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
    assert copypaths.takes_contents(path) is contents


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
    assert copypaths.fits_windows(name) is fits


def test_parts_of_paths() -> None:
    assert (copypaths.name(b"/a/b//"), copypaths.parent(b"/a/b/"), copypaths.parent(b"/a")) == (
        b"b",
        b"/a",
        b"/",
    )
    assert [copypaths.tidy(path) for path in (b"/a/./b/.", b"/./a/", b"/.", b"/")] == [
        b"/a/b",
        b"/a/",
        b"/",
        b"/",
    ]
