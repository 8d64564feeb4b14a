"""The domain password in the system's keyring. Owns keyring.

Nothing here raises. A keyring that is missing, locked, hanging or unsafe means that the user is asked
for the password; the result says why.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from apexgpu.platforms.system import is_macos
from apexgpu.secret import Secret
from apexgpu.timelimit import run_with_limit

T = TypeVar("T")

TIMEOUT = 3.0  # seconds
_SERVICE = "apexgpu"
# Backends that store a password as plain text, or nowhere at all.
_UNSAFE = ("keyrings.alt.", "keyring.backends.null.", "keyring.backends.fail.")
_CHAINER = "keyring.backends.chainer."
_KNOWN_ERRORS = {
    "KeyringLocked": "the keyring is locked",
    "NoKeyringError": "no keyring on this system",
    "InitError": "the keyring cannot be opened",
}


@dataclass(frozen=True, slots=True)
class KeyringResult(Generic[T]):
    """What the keyring returned, or the `problem` that prevented it, as a fact for the user."""

    value: T | None = None
    problem: str = ""
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        """Whether the keyring did what it was asked to do."""
        return not self.problem


class Backend(Protocol):
    """The methods of a keyring backend that are used."""

    def get_password(self, service: str, username: str) -> str | None:
        """Return the password, or None."""
        ...

    def set_password(self, service: str, username: str, password: str) -> None:
        """Store the password."""
        ...

    def delete_password(self, service: str, username: str) -> None:
        """Remove the password."""
        ...


class StoredPassword:
    """The entry in the system's keyring for one user's password at one IAM."""

    def __init__(
        self,
        user: str,
        iam_url: str,
        *,
        timeout: float = TIMEOUT,
        backend: Callable[[], object] | None = None,
    ) -> None:
        """`timeout` is in seconds, for each call. `backend` replaces the configured keyring."""
        self._entry = f"{user}@{iam_url}"
        self._timeout = timeout
        self._backend = backend

    def load(self) -> KeyringResult[Secret]:
        """Return the password, if the keyring has one."""
        result = self._call(lambda ring: ring.get_password(_SERVICE, self._entry))
        if not result.ok:
            return KeyringResult(problem=result.problem, timed_out=result.timed_out)
        if not result.value:
            return KeyringResult(problem=self._nothing_stored())
        return KeyringResult(Secret(result.value))

    def save(self, password: Secret) -> KeyringResult[None]:
        """Store the password, unless it is empty or no safe keyring keeps it."""
        if not password:
            return KeyringResult(problem="an empty password is not stored")

        def store(ring: Backend) -> bool:
            ring.set_password(_SERVICE, self._entry, password.reveal())
            # Some backends silently drop a password that they cannot store.
            return ring.get_password(_SERVICE, self._entry) == password.reveal()

        result = self._call(store)
        if result.ok and not result.value:
            return KeyringResult(problem="the keyring did not keep the password")
        return KeyringResult(problem=result.problem)

    def delete(self) -> KeyringResult[None]:
        """Remove the password; it is a problem if there was none."""

        def remove(ring: Backend) -> bool:
            if ring.get_password(_SERVICE, self._entry) is None:
                return False
            ring.delete_password(_SERVICE, self._entry)
            return True

        result = self._call(remove)
        if result.ok and not result.value:
            return KeyringResult(problem=self._nothing_stored())
        return KeyringResult(problem=result.problem)

    def _nothing_stored(self) -> str:
        return f"the keyring has no password for {self._entry}"

    def _call(self, work: Callable[[Backend], T]) -> KeyringResult[T]:
        """Call `work` with a safe backend. A D-Bus call to a hanging service never returns."""

        def call() -> KeyringResult[T]:
            try:
                configured = self._backend() if self._backend else _configured()
                backends = _backends(configured)
                for ring in backends:
                    if _is_safe(ring):
                        return KeyringResult(work(ring))
                return KeyringResult(problem=_why_unsafe(backends))
            # A backend raises whatever its library raises (D-Bus, COM, ctypes …). Only the class is
            # reported: the message may contain the password.
            except Exception as error:
                name = type(error).__name__
                return KeyringResult(
                    problem=_KNOWN_ERRORS.get(name, f"the keyring failed ({name})")
                )

        try:
            return run_with_limit(call, self._timeout, name="keyring")
        except TimeoutError:
            limit = f"{self._timeout:g} s"
            problem = f"the keyring did not answer within {limit} (locked, or hanging)"
            if is_macos():
                problem = (
                    f"the keychain did not answer within {limit}: macOS may ask in a window whether Python may read it,"
                    " as after each update of Python (choose Always Allow)"
                )
            return KeyringResult(problem=problem, timed_out=True)


def _configured() -> object:
    import keyring

    return keyring.get_keyring()


def _backends(ring: object) -> Sequence[Backend]:
    """Return the backends to choose from.

    keyring's "chainer" tries one backend after the other, including those that store plain text;
    therefore its parts are judged one by one.
    """
    if _name(ring).startswith(_CHAINER):
        parts: list[Backend] = list(getattr(ring, "backends", []))
        return parts
    single: Backend = ring  # type: ignore[assignment]  # what keyring.get_keyring returns
    return [single]


def _is_safe(ring: Backend) -> bool:
    name = _name(ring)
    return not name.startswith(_UNSAFE) and "plaintext" not in name.lower()


def _why_unsafe(backends: Sequence[Backend]) -> str:
    names = ", ".join(_name(ring) for ring in backends)
    # keyring's own null and fail backends stand for "there is none".
    if not names or names.startswith("keyring.backends."):
        return "no keyring on this system"
    return f"the keyring {names} would store the password as plain text"


def _name(ring: object) -> str:
    return f"{type(ring).__module__}.{type(ring).__qualname__}"
