"""The keeper of the password, with keyrings that are in no state to help."""

import pickle
import time
from threading import Event

import pytest

from apexgpu.iam import passwords
from apexgpu.iam.passwords import StoredPassword
from apexgpu.secret import Secret

PASSWORD = "correct horse\tbattery ☂"


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


def entry(backend: object, timeout: float = passwords.TIMEOUT) -> StoredPassword:
    """The password of alice in `backend`."""
    return StoredPassword("alice", "iam", timeout=timeout, backend=lambda: backend)


def test_a_keyring_that_hangs_is_left_after_its_limit() -> None:
    ring = Ring(hang=True)
    began = time.monotonic()
    result = entry(ring, timeout=0.2).load()
    assert time.monotonic() - began < 60
    assert (result.value, result.ok) == (None, False)
    assert result.problem == "the keyring did not answer within 0.2 s (locked, or hanging)"


def test_the_limit_is_three_seconds() -> None:
    assert passwords.TIMEOUT == 3


def test_one_that_drops_what_it_took_did_not_keep_it() -> None:
    result = entry(Ring(forget=True)).save(Secret("x"))
    assert result.problem == "the keyring did not keep the password"


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
    result = entry(Ring(error=error)).load()
    assert (result.value, result.problem) == (None, reason)


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
    assert entry(ring).save(Secret("x")).problem
    assert ring.kept == {}


def test_the_first_safe_one_of_a_chain_is_taken() -> None:
    plain = type("PlaintextKeyring", (Ring,), {"__module__": "keyrings.alt.file"})()
    safe = Ring()
    chain = type(
        "ChainerBackend", (), {"__module__": "keyring.backends.chainer", "backends": [plain, safe]}
    )()
    assert entry(chain).save(Secret("x")).ok
    assert (plain.kept, safe.kept) == ({}, {("apexgpu", "alice@iam"): "x"})


def test_an_empty_password_is_never_kept() -> None:
    ring = Ring()
    assert not entry(ring).save(Secret("")).ok
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
