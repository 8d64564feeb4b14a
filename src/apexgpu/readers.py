"""Reads numbers, sizes, lists and JSON that come from outside: from servers, programs and edited files. Pure.

Python's own functions are not made for that. `int("²")` fails although `"²".isdigit()` is true, `int` and `json.loads`
refuse 5,000 digits with an exception that nobody expects, and deep JSON ends in a RecursionError.

There are two kinds of functions here:

- `number`, `decimal`, `size`, `port` return None for text that they do not understand. Use them where a value may be
  unknown.
- `required`, `json_value` and `Fields` raise UnexpectedError, which quotes the text. Where many hosts are asked, it
  becomes that host's own error (`apexgpu.ssh.fanout`), and the other hosts keep their rows.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from apexgpu.errors import UnexpectedError
from apexgpu.models import Host

T = TypeVar("T")

LARGEST = (1 << 63) - 1
"""The largest number that is accepted: more than any size, time or count can be."""

LAST_SECOND = 253402300799
"""The last second of the year 9999, in epoch seconds: no date is later."""

QUOTED = 200
"""How many characters of a text that is not understood a message quotes."""

# ASCII only: `\d` also matches the digits of other scripts.
_NUMBER = re.compile(r"[0-9]{1,19}")
_DECIMAL = re.compile(r"[0-9]{1,19}(?:\.[0-9]{1,19})?")
_SIZE = re.compile(r"([0-9.]{1,39}) ?([A-Za-z]{1,5})")
_LAST_PORT = 65535


# Values that may be unknown


def number(text: str, *, most: int = LARGEST) -> int | None:
    """A whole number such as `4711`; None for anything else, and for one above `most`.

    >>> number("12"), number("-1"), number("1e3"), number("²")
    (12, None, None, None)
    """
    if _NUMBER.fullmatch(text) is None:
        return None
    value = int(text)
    return value if value <= most else None


def decimal(text: str) -> float | None:
    """A number such as `17` or `17.25`; None for anything else.

    >>> decimal("17.25"), decimal("1.2.3"), decimal("nan")
    (17.25, None, None)
    """
    return float(text) if _DECIMAL.fullmatch(text) else None


def size(text: str, units: Mapping[str, int]) -> int | None:
    """A size such as `12.5 MiB` in bytes; None for anything else. `units` has the bytes of each unit.

    >>> size("1.5 KiB", {"KiB": 1024}), size("1.2.3 KiB", {"KiB": 1024})
    (1536, None)
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    count = decimal(match[1])
    unit = units.get(match[2])
    if count is None or unit is None:
        return None
    in_bytes = round(count * unit)
    return in_bytes if in_bytes <= LARGEST else None


def port(text: str) -> int | None:
    """A TCP port, 1 to 65535; None for anything else."""
    return number(text, most=_LAST_PORT) or None


# Values that are needed


def quote(text: str) -> str:
    """The text for a message: its beginning, if it is long."""
    if len(text) <= QUOTED:
        return text
    return text[:QUOTED] + "…"


def required(value: T | None, what: str, text: str) -> T:
    """`value`, which one of the functions above has read from `text`. UnexpectedError if it is None."""
    if value is None:
        raise UnexpectedError(f"{what} is not understood: {quote(text)}")
    return value


# JSON


def json_value(document: str | bytes, what: str) -> object:
    """The value of a JSON document; UnexpectedError for anything that is not one. `what` names it in the message."""
    try:
        return json.loads(
            document,
            parse_int=_json_int,
            parse_float=_json_float,
            parse_constant=_refuse_constant,
        )
    # RecursionError: lists in lists in lists …
    except (ValueError, RecursionError):
        if isinstance(document, bytes):
            document = document[: QUOTED + 1].decode("utf-8", "replace")
        raise UnexpectedError(f"{what} is not JSON: {quote(document)}") from None


def json_object(document: str | bytes, what: str) -> "Fields":
    """The fields of a JSON document that is an object; UnexpectedError for anything else."""
    return Fields(json_value(document, what), what)


def json_objects(document: str | bytes, what: str) -> list["Fields"]:
    """The objects of a JSON document that is a list of them; UnexpectedError for anything else."""
    value = json_value(document, what)
    if not isinstance(value, list):
        raise UnexpectedError(f"{what} is not a JSON list: {quote(str(value))}")
    return [Fields(row, f"a row of {what}") for row in value]


def _json_int(text: str) -> int:
    value = number(text.removeprefix("-"))
    if value is None:
        message = f"the number {quote(text)} is too large"
        raise ValueError(message)
    return -value if text.startswith("-") else value


def _json_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        message = f"the number {quote(text)} is too large"
        raise ValueError(message)
    return value


def _refuse_constant(text: str) -> NoReturn:
    """Refuse NaN and Infinity, which are not JSON."""
    raise ValueError(text)


class Fields:
    """The fields of a JSON object. Each method returns a field of one type, or raises UnexpectedError.

    A field that may be missing has a `default`; null counts as missing.
    """

    def __init__(self, value: object, what: str) -> None:
        self._what = what
        if not isinstance(value, dict):
            raise UnexpectedError(f"{what} is not a JSON object: {quote(str(value))}")
        self._values: dict[str, Any] = value

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    @property
    def names(self) -> list[str]:
        """The names of all fields."""
        return list(self._values)

    def text(self, name: str, default: str | None = None) -> str:
        """A text. UnexpectedError for one that contains NUL, which no path and no argument can."""
        value = self._value(name, default)
        if not isinstance(value, str) or "\0" in value:
            self._refuse(name, value)
        return value

    def optional_text(self, name: str) -> str | None:
        """A text, or None where there is none."""
        return self.text(name) if name in self else None

    def number(self, name: str, default: int | None = None, *, most: int = LARGEST) -> int:
        """A whole number from 0 to `most`."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            self._refuse(name, value)
        return value

    def optional_number(self, name: str) -> int | None:
        """A whole number, or None where there is none."""
        return self.number(name) if name in self else None

    def port(self, name: str) -> int:
        """A TCP port."""
        value = self.number(name, most=_LAST_PORT)
        if value == 0:
            self._refuse(name, value)
        return value

    def time(self, name: str, default: float | None = None) -> float:
        """A time in epoch seconds that a date can show."""
        value = self.decimal(name, default)
        if value > LAST_SECOND:
            self._refuse(name, value)
        return value

    def decimal(self, name: str, default: float | None = None) -> float:
        """A number that is not negative, with or without a fraction."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            self._refuse(name, value)
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            self._refuse(name, value)
        return value

    def texts(self, name: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A list of texts."""
        texts = []
        for value in self._list(name, default):
            if not isinstance(value, str) or "\0" in value:
                self._refuse(name, value)
            texts.append(value)
        return tuple(texts)

    def numbers(self, name: str, *, most: int = LARGEST) -> tuple[int, ...]:
        """A list of whole numbers from 0 to `most`."""
        numbers = []
        for value in self._list(name, None):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                self._refuse(name, value)
            numbers.append(value)
        return tuple(numbers)

    def objects(self, name: str) -> list["Fields"]:
        """A list of objects."""
        return [Fields(value, f"{name} of {self._what}") for value in self._list(name, None)]

    def fields(self, name: str) -> "Fields":
        """An object."""
        return Fields(self._value(name, None), f"{name} of {self._what}")

    def _value(self, name: str, default: object) -> Any:
        value = self._values.get(name)
        return default if value is None else value

    def _list(self, name: str, default: object) -> list[Any]:
        value = self._value(name, default)
        if not isinstance(value, list | tuple):
            self._refuse(name, value)
        return list(value)

    def _refuse(self, name: str, value: object) -> NoReturn:
        if value is None:
            raise UnexpectedError(f"{self._what} has no {name}")
        raise UnexpectedError(f"{name} of {self._what} is not understood: {quote(str(value))}")


def host(fields: Fields) -> Host:
    """A host, as state files keep it."""
    return Host(
        name=fields.text("name"),
        address=fields.text("address"),
        user=fields.text("user"),
        port=fields.port("port") if "port" in fields else None,
        manage_port=fields.port("manage_port") if "manage_port" in fields else 22,
    )
