"""A password or passphrase that cannot be printed, logged, formatted or pickled by mistake."""

import hmac
from typing import NoReturn


class Secret:
    """A string that every form of output shows as `***`; only `reveal` returns it.

    >>> str(Secret("hunter2"))
    '***'
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the string itself."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return False
        return hmac.compare_digest(_encoded(self), _encoded(other))

    # A hash of a password would help an attacker to guess it.
    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> NoReturn:
        message = "a secret is not written anywhere"
        raise TypeError(message)


def _encoded(secret: Secret) -> bytes:
    # `surrogatepass`: what a user types may contain bytes that are not UTF-8.
    return secret.reveal().encode("utf-8", "surrogatepass")
