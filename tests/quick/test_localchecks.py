"""The links on this machine, from recorded facts of Linux, macOS and Windows: each trouble its verdict and its line."""

from dataclasses import replace

import pytest

from apexgpu.xserver.localchecks import NOT_INSTALLED, Answer, DisplayFacts, check_display

LINUX = DisplayFacts(
    display=":0",
    answer=Answer.ADMITTED,
    server_answer="The X.Org Foundation",
    security=True,
    xauth="/usr/bin/xauth",
    cookie=True,
)
SOCKET = "/private/tmp/com.apple.launchd.X4Qz/org.xquartz:0"
MACOS = DisplayFacts(
    display=SOCKET,
    launchd=SOCKET,
    answer=Answer.ADMITTED,
    server_answer="The X.Org Foundation",
    security=True,
    cookie=True,
    xauth="/opt/X11/bin/xauth",
    xquartz="2.8.5",
    iglx=True,
)
WINDOWS = DisplayFacts(
    display="127.0.0.1:0.0",
    answer=Answer.ADMITTED,
    server_answer="The VcXsrv Project",
    security=True,
    xauth=r"C:\PROGRA~1\VcXsrv\xauth.exe",
    port=True,
    servers=("vcxsrv.exe",),
)
VCXSRV = r"C:\Program Files\VcXsrv\vcxsrv.exe"
AGAIN = "apexgpu x11 check gpu7"


def first_broken(
    system: str, facts: DisplayFacts, *, trusted: bool = False
) -> tuple[str, str | None, str, int]:
    """Name, code, hint and exit code of the one broken link; what comes before is well, what comes after skipped."""
    found = [
        one
        for one in check_display(system, facts, trusted=trusted, again=AGAIN)
        if one.check != "OpenGL"
    ]
    verdicts = [one.verdict for one in found]
    at = verdicts.index("broken")
    assert set(verdicts[:at]) <= {"ok"}
    assert set(verdicts[at + 1 :]) <= {"skipped"}
    return (
        found[at].check,
        found[at].code,
        found[at].hint or "",
        127 if found[at].code in NOT_INSTALLED else 6,
    )


@pytest.mark.parametrize(
    ("system", "facts"), [("linux", LINUX), ("darwin", MACOS), ("win32", WINDOWS)]
)
@pytest.mark.parametrize("trusted", [True, False])
def test_all_is_well(system: str, facts: DisplayFacts, trusted: bool) -> None:
    assert {one.verdict for one in check_display(system, facts, trusted=trusted, again=AGAIN)} == {
        "ok"
    }


@pytest.mark.parametrize(
    ("change", "check", "code", "hint", "exit_code"),
    [
        (
            {"display": "", "answer": Answer.NOT_ASKED},
            "DISPLAY",
            "no_display",
            "sudo apt install xorg",
            6,
        ),
        (
            {"display": "", "other_displays": (":1",)},
            "DISPLAY",
            "no_display",
            "export DISPLAY=:1",
            6,
        ),
        ({"display": "", "wayland": True}, "DISPLAY", "no_display", "sudo apt install xwayland", 6),
        ({"display": "", "over_ssh": True}, "DISPLAY", "no_display", 'echo "ssh -X $USER@', 6),
        ({"display": "nonsense"}, "DISPLAY", "bad_display", "export DISPLAY=:0", 6),
        (
            {"display": ":x", "other_displays": (":3",)},
            "DISPLAY",
            "bad_display",
            "export DISPLAY=:3",
            6,
        ),
        (
            {"answer": Answer.NO_SERVER, "server_answer": "connection refused"},
            "X server",
            "no_server",
            "echo $DISPLAY",
            6,
        ),
        (
            {"answer": Answer.NO_SERVER, "other_displays": (":5",)},
            "X server",
            "no_server",
            "export DISPLAY=:5",
            6,
        ),
        ({"xauth": ""}, "xauth", "no_xauth", "sudo apt install xauth", 127),
        ({"answer": Answer.REJECTED}, "cookie", "bad_cookie", "xhost +si:localuser:$USER", 6),
        (
            {"answer": Answer.REJECTED, "cookie": False},
            "cookie",
            "bad_cookie",
            "xhost +si:localuser:$USER",
            6,
        ),
        (
            {"answer": Answer.REJECTED, "authority": "/run/user/1000/gdm/Xauthority"},
            "cookie",
            "bad_cookie",
            "export XAUTHORITY=/run/user/1000/gdm/Xauthority",
            6,
        ),
        ({"security": False}, "permission", "no_security", "apexgpu x11 check --trusted gpu7", 6),
    ],
)
def test_linux(change: dict[str, object], check: str, code: str, hint: str, exit_code: int) -> None:
    found = first_broken("linux", replace(LINUX, **change))  # type: ignore[arg-type]  # fields by name
    assert (found[0], found[1], found[3]) == (check, code, exit_code)
    assert found[2].startswith(hint)


def test_linux_wayland_names_its_x_server() -> None:
    found = check_display("linux", replace(LINUX, wayland=True), trusted=False, again=AGAIN)
    assert found[1].fact == "XWayland answers"


def test_linux_a_server_that_asks_for_no_cookie_is_well() -> None:
    found = check_display("linux", replace(LINUX, cookie=False), trusted=False, again=AGAIN)
    assert (found[3].verdict, found[3].fact) == (
        "ok",
        "the X server admits this account without a cookie",
    )


@pytest.mark.parametrize(
    ("change", "check", "code", "hint", "exit_code"),
    [
        (
            {"xquartz": "", "display": "", "launchd": "", "answer": Answer.NOT_ASKED},
            "DISPLAY",
            "no_server_installed",
            "brew install --cask xquartz",
            127,
        ),
        (
            {"display": "", "answer": Answer.NOT_ASKED},
            "DISPLAY",
            "no_display",
            "export DISPLAY=$(launchctl getenv DISPLAY)",
            6,
        ),
        (
            {"display": "", "launchd": "", "answer": Answer.NOT_ASKED},
            "DISPLAY",
            "no_display",
            "open -a XQuartz",
            6,
        ),
        (
            {"display": "XQuartz"},
            "DISPLAY",
            "bad_display",
            "export DISPLAY=$(launchctl getenv DISPLAY)",
            6,
        ),
        (
            {
                "display": "/private/tmp/com.apple.launchd.old/org.xquartz:0",
                "answer": Answer.NO_SERVER,
            },
            "X server",
            "no_server",
            "export DISPLAY=$(launchctl getenv DISPLAY)",
            6,
        ),
        (
            {"answer": Answer.NO_SERVER, "server_answer": "no answer in time"},
            "X server",
            "no_server",
            "open -a XQuartz",
            6,
        ),
        ({"xauth": ""}, "xauth", "no_xauth", "brew reinstall --cask xquartz", 127),
        (
            {"answer": Answer.REJECTED, "server_answer": "no protocol"},
            "cookie",
            "bad_cookie",
            "osascript",
            6,
        ),
        ({"security": False}, "permission", "no_security", "apexgpu x11 check --trusted gpu7", 6),
    ],
)
def test_macos(change: dict[str, object], check: str, code: str, hint: str, exit_code: int) -> None:
    found = first_broken("darwin", replace(MACOS, **change))  # type: ignore[arg-type]  # fields by name
    assert (found[0], found[1], found[3]) == (check, code, exit_code)
    assert found[2].startswith(hint)


def test_macos_an_xauth_that_ssh_does_not_find_is_well_and_has_its_line() -> None:
    found = check_display("darwin", replace(MACOS, xauth_option=True), trusted=False, again=AGAIN)
    assert found[2].verdict == "ok"
    assert found[2].fact.endswith("XAuthLocation /opt/X11/bin/xauth")


def test_macos_opengl_is_told_and_breaks_nothing() -> None:
    found = check_display("darwin", replace(MACOS, iglx=False), trusted=False, again=AGAIN)
    assert [one.verdict for one in found] == ["ok"] * 5 + ["unknown"]
    assert "enable_iglx -bool true" in (found[-1].hint or "")


def test_macos_another_x_server_than_xquartz_will_do() -> None:
    found = check_display(
        "darwin", replace(MACOS, xquartz="", iglx=None, display=":0"), trusted=False, again=AGAIN
    )
    assert {one.verdict for one in found} == {"ok"}


@pytest.mark.parametrize(
    ("change", "check", "code", "hint", "exit_code"),
    [
        (
            {"port": False, "servers": (), "answer": Answer.NOT_ASKED, "display": ""},
            "X server",
            "no_server_installed",
            "winget install marha.VcXsrv",
            127,
        ),
        (
            {"port": False, "servers": (), "answer": Answer.NO_SERVER, "installed": (VCXSRV,)},
            "X server",
            "no_server",
            f'& "{VCXSRV}" :0 -multiwindow',
            6,
        ),
        (
            {"port": False, "answer": Answer.NO_SERVER},
            "X server",
            "no_server",
            "apexgpu x11 check",
            6,
        ),
        (
            {"display": "", "answer": Answer.NOT_ASKED},
            "DISPLAY",
            "no_display",
            '$env:DISPLAY = "127.0.0.1:0.0"',
            6,
        ),
        (
            {"display": ":0", "answer": Answer.NO_SERVER},
            "DISPLAY",
            "bad_display",
            '$env:DISPLAY = "127.0.0.1:0.0"',
            6,
        ),
        (
            {"display": "127.0.0.1:5", "answer": Answer.NO_SERVER},
            "cookie",
            "no_server",
            "$env:DISPLAY",
            6,
        ),
        (
            {"answer": Answer.REJECTED, "server_answer": "No protocol specified"},
            "cookie",
            "bad_cookie",
            "Add-Content",
            6,
        ),
        (
            {"security": False, "xauth": ""},
            "permission",
            "no_security",
            "apexgpu x11 check --trusted gpu7",
            6,
        ),
    ],
)
def test_windows(
    change: dict[str, object], check: str, code: str, hint: str, exit_code: int
) -> None:
    found = first_broken("win32", replace(WINDOWS, **change))  # type: ignore[arg-type]  # fields by name
    assert (found[0], found[1], found[3]) == (check, code, exit_code)
    assert found[2].startswith(hint)


def test_windows_without_xauth_only_trusted_programs_can_be_shown() -> None:
    without = replace(WINDOWS, xauth="")
    assert first_broken("win32", without)[:2] == ("permission", "no_security")
    assert {one.verdict for one in check_display("win32", without, trusted=True, again=AGAIN)} == {
        "ok"
    }


def test_windows_another_display_than_0_is_well_when_it_answers() -> None:
    found = check_display(
        "win32", replace(WINDOWS, display="127.0.0.1:1.0", port=False), trusted=False, again=AGAIN
    )
    assert {one.verdict for one in found} == {"ok"}
