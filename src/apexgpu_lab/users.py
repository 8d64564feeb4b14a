"""Who exists: the domain's directory (names and passwords), and what IAM has stored about them."""

import secrets
from dataclasses import dataclass

FIRST_PORT = 22001
FIRST_SUBUID = 10065536
SUBUIDS = 65536


@dataclass
class Person:
    """An entry of the directory; one without a display name breaks IAM's manage page."""

    name: str
    display_name: str | None
    password: str


@dataclass(frozen=True)
class Registration:
    """What IAM has allotted to a name."""

    name: str
    display_name: str
    port: int
    subuid: int


class UserDatabase:
    """The directory and IAM's database."""

    def __init__(self) -> None:
        self.people: dict[str, Person] = {}
        self.registered: dict[str, Registration] = {}
        self.keys: dict[str, str] = {}
        for name, display_name in (
            ("alice", "王芳"),
            ("bob", "Li, Bob"),
            ("carol", "Carol Wu"),
            ("dave", None),
        ):
            self.add(name, display_name)

    def add(self, name: str, display_name: str | None) -> Person:
        """Put someone into the directory, with a password of their own."""
        person = Person(name, display_name, secrets.token_urlsafe(12))
        self.people[name] = person
        return person

    def find(self, name: str) -> Person | None:
        """The directory's entry: it ignores the case of a name, which IAM does not."""
        return self.people.get(name.lower())

    def ensure_registered(self, name: str) -> Registration:
        """Register a name as IAM's manage page does on the way; the name is taken as it is written."""
        if name not in self.registered:
            person, count = self.find(name), len(self.registered)
            display_name = (person.display_name if person else None) or name
            self.registered[name] = Registration(
                name, display_name, FIRST_PORT + count, FIRST_SUBUID + count * SUBUIDS
            )
        return self.registered[name]

    def accepts_password(self, name: str, password: str, *, empty_accepted: bool) -> bool:
        """Whether the directory lets this password in.

        With `empty_accepted`, an empty one passes as an unauthenticated bind (RFC 4513), as it does
        at some real directories.
        """
        person = self.find(name)
        if person is None:
            return False
        if not password:
            return empty_accepted
        return secrets.compare_digest(person.password.encode(), password.encode())
