"""The domain password in the system's keyring: asked with a time limit, never kept in a plaintext backend.

The owner of `keyring`. Nothing here raises: a keyring that is missing, locked, hanging or unsafe means that
the caller asks the user, and `status` says why.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Thread
from typing import Generic, NoReturn, Protocol, TypeVar

T = TypeVar("T")

LIMIT = 3.0
# Where a password would lie readable in a file, nowhere at all, or behind a prompt of the backend's own.
_REFUSED = ("keyrings.alt.", "keyring.backends.null.", "keyring.backends.fail.")


class Secret:
    """A string that does not show itself: `str`, `repr`, formatting and pickling never give it away."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself, at the one place that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(
            self._value.encode("utf-8", "surrogatepass"),
            other._value.encode("utf-8", "surrogatepass"),
        )

    __hash__ = None  # type: ignore[assignment]  # a hash of a password is a thing to guess from

    def __reduce__(self) -> NoReturn:
        message = "a secret is not to be written anywhere"
        raise TypeError(message)


class Backend(Protocol):
    """The part of a keyring backend that is used."""

    def get_password(self, service: str, username: str) -> str | None:
        """The password, or None."""
        ...

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep the password."""
        ...

    def delete_password(self, service: str, username: str) -> None:
        """Forget the password."""
        ...


@dataclass(slots=True)
class _Answer(Generic[T]):
    value: T | None = None
    reason: str = ""


_last = _Answer[None]()


def status() -> str:
    """Why the last call gave nothing, as a fact for the user; "" when it worked."""
    return _last.reason


def load(
    service: str, user: str, *, timeout: float = LIMIT, backend: Callable[[], object] | None = None
) -> Secret | None:
    """The password that the keyring keeps for `user` at `service`, or None (see `status`)."""
    found = _bounded(lambda ring: ring.get_password(service, user), timeout, backend)
    if found.reason:
        return None
    if not found.value:
        _last.reason = f"the keyring has no password for {user}"
        return None
    return Secret(found.value)


def save(
    service: str,
    user: str,
    password: Secret,
    *,
    timeout: float = LIMIT,
    backend: Callable[[], object] | None = None,
) -> bool:
    """Keep the password; False (see `status`) when no safe keyring took it. An empty one is never kept."""
    if not password:
        _last.reason = "an empty password is not kept"
        return False

    def work(ring: Backend) -> bool:
        ring.set_password(service, user, password.reveal())
        # Some backends drop a password that they cannot store without a word.
        return ring.get_password(service, user) == password.reveal()

    found = _bounded(work, timeout, backend)
    if not found.reason and not found.value:
        _last.reason = "the keyring did not keep the password"
    return bool(found.value)


def delete(
    service: str, user: str, *, timeout: float = LIMIT, backend: Callable[[], object] | None = None
) -> bool:
    """Forget the password; False when there was none, or the keyring could not be reached (see `status`)."""

    def work(ring: Backend) -> bool:
        if ring.get_password(service, user) is None:
            return False
        ring.delete_password(service, user)
        return True

    found = _bounded(work, timeout, backend)
    if not found.reason and not found.value:
        _last.reason = f"the keyring has no password for {user}"
    return bool(found.value)


def _bounded(
    work: Callable[[Backend], T], timeout: float, backend: Callable[[], object] | None
) -> _Answer[T]:
    """Do `work` in a thread that may be left behind: a D-Bus call to a stuck service never comes back."""
    answer: _Answer[T] = _Answer()
    done = Event()

    def call() -> None:
        try:
            ring, reason = _safe_backend((backend or _configured)())
            if ring is None:
                answer.reason = reason
            else:
                answer.value = work(ring)
        # Backends raise what their libraries raise (D-Bus, COM, ctypes …); all of it means 'ask the user'.
        # Only the class is told: a message may quote what was to be stored.
        except Exception as error:
            answer.reason = _reason(error)
        finally:
            done.set()

    Thread(target=call, name="keyring", daemon=True).start()
    if not done.wait(timeout):
        # A fresh answer, for the thread may still write into its own.
        answer = _Answer(
            reason=f"the keyring did not answer within {timeout:g} s (locked, or hanging)"
        )
    _last.reason = answer.reason
    return answer


def _configured() -> object:
    import keyring

    return keyring.get_keyring()


def _safe_backend(ring: object) -> tuple[Backend | None, str]:
    """The first backend that may keep a password, or None and why.

    The chainer tries one backend after the other, plaintext ones too: it is taken apart.
    """
    chained = (
        getattr(ring, "backends", None)
        if _name(ring).startswith("keyring.backends.chainer.")
        else None
    )
    rings: list[Backend] = [ring] if chained is None else list(chained)  # type: ignore[list-item]  # checked below
    safe = [one for one in rings if _is_safe(one)]
    if safe:
        return safe[0], ""
    names = ", ".join(_name(one) for one in rings)
    if not rings or names.startswith("keyring.backends."):
        return None, "no keyring on this system"
    return None, f"the keyring {names} would keep the password in plain text"


def _name(ring: object) -> str:
    return f"{type(ring).__module__}.{type(ring).__qualname__}"


def _is_safe(ring: object) -> bool:
    name = _name(ring)
    return not name.startswith(_REFUSED) and "plaintext" not in name.lower()


def _reason(error: Exception) -> str:
    known = {
        "KeyringLocked": "the keyring is locked",
        "NoKeyringError": "no keyring on this system",
        "InitError": "the keyring cannot be opened",
    }
    return known.get(type(error).__name__, f"the keyring failed ({type(error).__name__})")
