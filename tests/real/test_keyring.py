"""A password in a real Secret Service, on a D-Bus of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PASSWORD = "correct horse\tbattery ☂"
LIMIT = 60

CHILD = """
import json, sys
from apexgpu.iam.passwords import StoredPassword
from apexgpu.secret import Secret

password = sys.stdin.readline().rstrip("\\n")
def told(result):
    return [result.value.reveal() if result.value else None, result.problem]
alice = StoredPassword("alice", "http://iam")
steps = {
    "absent": alice.load,
    "saved": lambda: alice.save(Secret(password)),
    "loaded": alice.load,
    "of another": StoredPassword("bob", "http://iam").load,
    "elsewhere": StoredPassword("alice", "https://iam").load,
    "deleted": alice.delete,
    "deleted again": alice.delete,
    "gone": alice.load,
}
print(json.dumps({name: told(work()) for name, work in steps.items()
                  if name in sys.argv[1:] or not sys.argv[1:]}))
"""


def on_a_bus(
    script: str, monkeypatch: pytest.MonkeyPatch, home: Path, *steps: str
) -> dict[str, list[object]]:
    """What CHILD says on a private D-Bus, after the shell lines of `script`; gnome-keyring lives in `home`."""
    monkeypatch.delenv("PYTHON_KEYRING_BACKEND", raising=False)
    runtime = home / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    done = subprocess.run(
        [
            "dbus-run-session",
            "--",
            "sh",
            "-c",
            f'{script}\nexec "$0" -W ignore -c "$@"',
            sys.executable,
            CHILD,
            *steps,
        ],
        input=f"{PASSWORD}\n",
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[object]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.keyring
class TestGnomeKeyring:
    """The keyring of most Linux desktops, as it is."""

    def test_a_password_is_kept_found_and_forgotten(
        self, monkeypatch: pytest.MonkeyPatch, isolated: Path
    ) -> None:
        unlock = "printf login | gnome-keyring-daemon --daemonize --unlock --components=secrets >/dev/null 2>&1"
        none = "the keyring has no password for alice@http://iam"
        assert on_a_bus(unlock, monkeypatch, isolated) == {
            "absent": [None, none],
            "saved": [None, ""],
            "loaded": [PASSWORD, ""],
            "of another": [None, "the keyring has no password for bob@http://iam"],
            "elsewhere": [None, "the keyring has no password for alice@https://iam"],
            "deleted": [None, ""],
            "deleted again": [None, none],
            "gone": [None, none],
        }
        files = [path for path in isolated.parent.rglob("*") if path.is_file()]
        assert files
        assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []

    def test_a_locked_one_is_no_crash_and_no_wait(
        self, monkeypatch: pytest.MonkeyPatch, isolated: Path
    ) -> None:
        # Never unlocked, and nobody is there to show its prompt.
        start = "gnome-keyring-daemon --start --components=secrets >/dev/null 2>&1"
        found = on_a_bus(start, monkeypatch, isolated, "saved")
        assert found["saved"][1]

    def test_without_a_keyring_the_user_is_asked(
        self, monkeypatch: pytest.MonkeyPatch, isolated: Path
    ) -> None:
        # Started by nobody, and D-Bus may not start it either.
        monkeypatch.setenv("XDG_DATA_DIRS", str(isolated))
        found = on_a_bus("", monkeypatch, isolated)
        assert len(found) == 8
        assert all(value is None for value, _ in found.values())
        assert all(problem for _, problem in found.values())
