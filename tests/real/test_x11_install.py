"""x11 install through a real sshd, into a container whose apt is a strict stand-in: it says what the real one says."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import openssh
from tests.waiting import until

from apexgpu import cli
from apexgpu.session import Session
from apexgpu.xserver import installation

pytestmark = pytest.mark.openssh
LIMIT = 60

_SUDO = """#!/bin/sh
[ "$1" = -n ] || exit 9
[ ! -f "$ROOM/no-sudo" ] || { echo "sudo: a password is required" >&2; exit 1; }
shift
exec "$@"
"""
_DPKG = """#!/bin/sh
[ "$1 $2 $3" = '-W -f ${Status}' ] && [ -f "$ROOM/installed/$4" ] || exit 1
printf 'install ok installed'
"""
# Its answers are files: `say` holds what to print for each call in turn, with the exit status in its first line.
_APT = """#!/bin/sh
echo "$DEBIAN_FRONTEND: $*" >>"$ROOM/calls"
[ ! -p "$ROOM/gate" ] || read -r _ <"$ROOM/gate"
n=$(wc -l <"$ROOM/calls")
if [ -f "$ROOM/say.$n" ]; then
  tail -n +2 "$ROOM/say.$n"
  code=$(head -n 1 "$ROOM/say.$n")
  [ "$code" = 0 ] || exit "$code"
fi
for word in "$@"; do
  case $word in
    install) do=1 ;;
    -*|*=*) ;;
    *) [ -z "$do" ] || { echo "Setting up $word (1.0) ..."; touch "$ROOM/installed/$word"; } ;;
  esac
done
exit 0
"""


@dataclass
class Container:
    """The command line in this process, before a host gpu7 with that apt. `room` is where it keeps its world."""

    room: Path
    server: openssh.OpenSSH
    capsys: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""

    def __call__(self, *words: str) -> int:
        self.capsys.readouterr()
        code = cli.main(["x11", "install", "gpu7", *words], Session(environment=os.environ))
        self.out, self.err = self.capsys.readouterr()
        return code

    def json(self, *words: str) -> dict[str, Any]:
        self(*words, "--json")
        row: dict[str, Any] = json.loads(self.out)["hosts"][0]
        return row

    def says(self, call: int, code: int, text: str) -> None:
        """What apt-get says in its `call`-th run, counted from 1, and how it ends."""
        (self.room / f"say.{call}").write_text(f"{code}\n{text}\n")

    @property
    def calls(self) -> list[str]:
        """The words of each run of apt-get, its options left out."""
        file = self.room / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        for line in lines:
            assert line.startswith("noninteractive: ")
        return [
            " ".join(
                word
                for word in line.split()[1:]
                if word[0] != "-"
                and "=" not in word
                and not word.startswith(("Dpkg::", "Acquire::"))
            )
            for line in lines
        ]

    @property
    def installed(self) -> set[str]:
        """The packages that are there."""
        return {path.name for path in (self.room / "installed").iterdir()}


@pytest.fixture
def container(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Container]:
    """A container without anything."""
    room = tmp_path / "room"
    (room / "bin").mkdir(parents=True)
    (room / "installed").mkdir()
    for name, text in (("sudo", _SUDO), ("dpkg-query", _DPKG), ("apt-get", _APT)):
        (room / "bin" / name).write_text(text)
        (room / "bin" / name).chmod(0o755)
    server = openssh.start(tmp_path / "server", home=room)
    file = tmp_path / "server" / "sshd_config"
    own = f"PATH={room}/bin:/usr/bin:/bin ROOM={room} TMPDIR={room}"
    file.write_text(file.read_text().replace("SetEnv ", f"SetEnv {own} "))
    server.stop()
    server.again()
    openssh.remember(server.host)
    monkeypatch.setenv("APEXGPU_SSH_CONFIG", str(server.config))
    yield Container(room, server, capsys)
    server.stop()


def test_what_is_missing_is_installed_once(container: Container) -> None:
    (container.room / "installed" / "xauth").touch()
    assert container() == 0, container.err
    assert container.calls == ["install x11-apps"]
    assert container.installed == {"xauth", "x11-apps"}
    assert container() == 0
    assert "xauth, x11-apps: already on gpu7, nothing to do" in container.err
    assert len(container.calls) == 1
    row = container.json()
    assert (row["ok"], row["changed"], row["packages"]) == (True, False, ["xauth", "x11-apps"])
    assert not list(container.room.glob("tmp.*"))  # nothing is left behind


def test_full_is_xorg_too(container: Container) -> None:
    assert container.json("--full")["changed"] is True
    assert container.calls == ["install xauth x11-apps xorg"]


def test_the_lists_are_fetched_only_when_something_is_missed(container: Container) -> None:
    container.says(1, 100, "E: Unable to locate package x11-apps")
    assert container() == 0, container.err
    assert container.calls == ["install xauth x11-apps", "update", "install xauth x11-apps"]


def test_another_apt_is_waited_for(container: Container) -> None:
    container.says(
        1,
        100,
        "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 17 (apt-get)",
    )
    assert container() == 0, container.err
    assert container.calls == ["install xauth x11-apps"] * 2


def test_an_apt_that_never_ends_is_waited_for_so_long(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 17 (apt-get)"
    for call in range(1, 9):
        container.says(call, 100, held)
    real = installation.command
    monkeypatch.setattr(installation, "command", lambda packages: real(packages, lock=1))
    assert container() == 5
    assert "another apt has been running" in container.err
    assert "held by process 17" in container.err


@pytest.mark.parametrize(
    ("said", "code", "words", "hint"),
    [
        (
            "Reading package lists...\nE: Temporary failure resolving 'archive.ubuntu.com'",
            "apt_failed",
            "apt failed in the container on gpu7: E: Temporary failure resolving 'archive.ubuntu.com'",
            "sudo apt-get update && sudo apt-get install -y xauth x11-apps",
        ),
        (
            "E: dpkg was interrupted, you must manually run 'sudo dpkg --configure -a' to correct the problem.",
            "dpkg_interrupted",
            "was interrupted",
            "sudo dpkg --configure -a",
        ),
        (
            "E: You don't have enough free space in /var/cache/apt/archives/.",
            "full",
            "not enough free space",
            "df -h /",
        ),
    ],
)
def test_a_failure_is_told_with_the_last_words_of_apt(
    container: Container, said: str, code: str, words: str, hint: str
) -> None:
    container.says(1, 100, said)
    assert container() == 6
    assert words in container.err
    assert hint in container.err
    container.says(2, 100, said)
    assert container.json()["error"]["code"] == code


def test_an_apt_that_only_says_so_is_not_believed(container: Container) -> None:
    container.says(1, 0, "0 upgraded, 0 newly installed")
    (container.room / "bin" / "apt-get").write_text(
        '#!/bin/sh\necho "noninteractive: $*" >>"$ROOM/calls"\nexit 0\n'
    )
    assert container() == 6
    assert "reports success, but xauth, x11-apps is not installed" in container.err


def test_a_sudo_that_asks_for_a_password_is_said(container: Container) -> None:
    (container.room / "no-sudo").touch()
    assert container() == 6
    assert "sudo in the container on gpu7 asks for a password" in container.err


def test_ctrl_c_leaves_apt_to_end_in_peace(container: Container) -> None:
    gate = container.room / "gate"
    os.mkfifo(gate)
    child = subprocess.Popen(
        [sys.executable, "-m", "apexgpu", "x11", "install", "gpu7"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    opened = os.open(gate, os.O_WRONLY)  # until apt is at work
    os.killpg(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=LIMIT)
    assert (child.returncode, "Traceback" in err) == (130, False)
    container.server.kill()  # and its connection is gone for good
    os.write(opened, b"\n")
    os.close(opened)
    until(lambda: container.installed == {"xauth", "x11-apps"})
    container.server.again()
