"""The password's keeper: a real Secret Service on a D-Bus of its own, and keyrings that are in no state to help."""

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest

from apexgpu.iam import passwords
from apexgpu.iam.passwords import Secret

PASSWORD = "correct horse\tbattery ☂"
LIMIT = 60

CHILD = """
import json, sys
from apexgpu.iam import passwords
from apexgpu.iam.passwords import Secret

password = sys.stdin.readline().rstrip("\\n")
def told(value):
    return value.reveal() if isinstance(value, Secret) else value
steps = {
    "absent": lambda: passwords.load("http://iam", "alice"),
    "saved": lambda: passwords.save("http://iam", "alice", Secret(password)),
    "loaded": lambda: passwords.load("http://iam", "alice"),
    "of another": lambda: passwords.load("http://iam", "bob"),
    "elsewhere": lambda: passwords.load("https://iam", "alice"),
    "deleted": lambda: passwords.delete("http://iam", "alice"),
    "deleted again": lambda: passwords.delete("http://iam", "alice"),
    "gone": lambda: passwords.load("http://iam", "alice"),
}
print(json.dumps({name: [told(work()), passwords.status()] for name, work in steps.items()
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
        none = "the keyring has no password for alice"
        assert on_a_bus(unlock, monkeypatch, isolated) == {
            "absent": [None, none],
            "saved": [True, ""],
            "loaded": [PASSWORD, ""],
            "of another": [None, "the keyring has no password for bob"],
            "elsewhere": [None, none],
            "deleted": [True, ""],
            "deleted again": [False, none],
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
        assert found["saved"][0] is False
        assert found["saved"][1]

    def test_without_a_keyring_the_user_is_asked(
        self, monkeypatch: pytest.MonkeyPatch, isolated: Path
    ) -> None:
        # Started by nobody, and D-Bus may not start it either.
        monkeypatch.setenv("XDG_DATA_DIRS", str(isolated))
        found = on_a_bus("", monkeypatch, isolated)
        assert {name: value for name, (value, _) in found.items()} == {
            "absent": None,
            "saved": False,
            "loaded": None,
            "of another": None,
            "elsewhere": None,
            "deleted": False,
            "deleted again": False,
            "gone": None,
        }
        assert all(reason for _, reason in found.values())


class Ring:
    """A backend that does as it is told."""

    def __init__(
        self, *, hang: bool = False, forget: bool = False, error: Exception | None = None
    ) -> None:
        self.kept: dict[tuple[str, str], str] = {}
        self._hang, self._forget, self._error = hang, forget, error

    def get_password(self, service: str, username: str) -> str | None:
        if self._hang:
            Event().wait()
        if self._error:
            raise self._error
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if not self._forget:
            self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


def test_a_keyring_that_hangs_is_left_after_its_limit() -> None:
    ring = Ring(hang=True)
    began = time.monotonic()
    assert passwords.load("iam", "alice", timeout=0.2, backend=lambda: ring) is None
    assert time.monotonic() - began < 3
    assert passwords.status() == "the keyring did not answer within 0.2 s (locked, or hanging)"


def test_the_limit_is_three_seconds() -> None:
    assert passwords.LIMIT == 3


def test_one_that_drops_what_it_took_did_not_keep_it() -> None:
    assert not passwords.save("iam", "alice", Secret("x"), backend=lambda: Ring(forget=True))
    assert passwords.status() == "the keyring did not keep the password"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("KeyringLocked", "the keyring is locked"),
        ("NoKeyringError", "no keyring on this system"),
        ("Strange", "the keyring failed (Strange)"),
    ],
)
def test_what_a_backend_raises_is_a_reason_without_its_words(name: str, reason: str) -> None:
    error: Exception = type(name, (Exception,), {})(f"could not store {PASSWORD}")
    assert passwords.load("iam", "alice", backend=lambda: Ring(error=error)) is None
    assert passwords.status() == reason


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("keyrings.alt.file", "EncryptedKeyring"),
        ("someone.plain", "PlaintextKeyring"),
        ("keyring.backends.null", "Keyring"),
        ("keyring.backends.fail", "Keyring"),
    ],
)
def test_no_password_goes_to_a_backend_that_would_show_or_lose_it(module: str, name: str) -> None:
    ring = type(name, (Ring,), {"__module__": module})()
    assert not passwords.save("iam", "alice", Secret("x"), backend=lambda: ring)
    assert ring.kept == {}
    assert passwords.status()


def test_the_first_safe_one_of_a_chain_is_taken() -> None:
    plain = type("PlaintextKeyring", (Ring,), {"__module__": "keyrings.alt.file"})()
    safe = Ring()
    chain = type(
        "ChainerBackend", (), {"__module__": "keyring.backends.chainer", "backends": [plain, safe]}
    )()
    assert passwords.save("iam", "alice", Secret("x"), backend=lambda: chain)
    assert (plain.kept, safe.kept) == ({}, {("iam", "alice"): "x"})


def test_an_empty_password_is_never_kept() -> None:
    ring = Ring()
    assert not passwords.save("iam", "alice", Secret(""), backend=lambda: ring)
    assert ring.kept == {}


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret(PASSWORD)
    assert (str(secret), repr(secret), f"{secret:>5}", repr([secret])) == (
        "***",
        "***",
        "***",
        "[***]",
    )
    assert secret == Secret(PASSWORD)
    assert secret != Secret("other")
    assert secret != PASSWORD
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        hash(secret)
