"""Where the domain password comes from, and what happens when IAM refuses it."""

from collections.abc import Sequence

import pytest

from apexgpu.errors import DeclinedError, LoginError, PasswordError
from apexgpu.iam.passwords import KeyringResult, StoredPassword
from apexgpu.iam.passwordsource import PasswordSource
from apexgpu.questions import Question
from apexgpu.reporter import Reporter
from apexgpu.secret import Secret


class Keyring(StoredPassword):
    """An entry of a keyring in memory."""

    def __init__(self, password: str = "") -> None:
        super().__init__("alice", "http://iam")
        self.password = password

    def load(self) -> KeyringResult[Secret]:
        if not self.password:
            return KeyringResult(problem="nothing there")
        return KeyringResult(Secret(self.password))

    def save(self, password: Secret) -> KeyringResult[None]:
        self.password = password.reveal()
        return KeyringResult()

    def delete(self) -> KeyringResult[None]:
        self.password = ""
        return KeyringResult()


class Person(Reporter):
    """Somebody who types `answers`, one for each question; an empty list is nobody."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.is_there = bool(answers)
        self.warnings: list[str] = []

    @property
    def can_ask(self) -> bool:
        return self.is_there

    def secret(self, question: Question) -> str:
        return self.answers.pop(0)

    def piped_line(self) -> str:
        return self.answers.pop(0) if self.answers else ""

    def warn(self, text: str, *, hint: str | None = None) -> None:
        self.warnings.append(text)


class Iam:
    """Accepts one password, and keeps what it was sent."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.sent: list[str] = []

    def send(self, source: PasswordSource) -> str:
        """Send the password of `source`, as `retry` does."""

        def work() -> str:
            self.sent.append(source.get())
            if self.sent[-1] != self.password:
                raise PasswordError("refused")
            return "done"

        return source.retry(work)


def source(keyring: Keyring, person: Person, **options: bool) -> PasswordSource:
    return PasswordSource("alice", keyring, person, **options)


def test_the_keyring_is_asked_before_the_person_and_not_written_again() -> None:
    keyring = Keyring("right")
    passwords = source(keyring, Person())
    assert Iam("right").send(passwords) == "done"
    keyring.password = "changed meanwhile"
    passwords.keep()
    assert keyring.password == "changed meanwhile"


def test_a_stale_one_is_deleted_and_the_person_asked() -> None:
    keyring, person, iam = Keyring("stale"), Person("right"), Iam("right")
    passwords = source(keyring, person)
    assert iam.send(passwords) == "done"
    assert iam.sent == ["stale", "right"]
    assert keyring.password == ""
    assert person.warnings == ["refused"]
    passwords.keep()
    assert keyring.password == "right"


def test_a_person_has_three_tries() -> None:
    iam = Iam("right")
    with pytest.raises(PasswordError):
        iam.send(source(Keyring(), Person("a", "b", "c", "right")))
    assert iam.sent == ["a", "b", "c"]


def test_an_empty_answer_counts_as_a_try_and_is_not_sent() -> None:
    iam = Iam("right")
    assert iam.send(source(Keyring(), Person("", "right"))) == "done"
    assert iam.sent == ["right"]


@pytest.mark.parametrize(
    ("answers", "error", "sent"),
    [(["wrong", "right"], PasswordError, ["wrong"]), ([], LoginError, [])],
)
def test_standard_input_has_one_try(
    answers: Sequence[str], error: type[LoginError], sent: list[str]
) -> None:
    iam = Iam("right")
    with pytest.raises(error):
        iam.send(source(Keyring("unused"), Person(*answers), from_stdin=True))
    assert iam.sent == sent


def test_where_nobody_can_be_asked_nothing_is_sent() -> None:
    iam = Iam("right")
    with pytest.raises(DeclinedError) as caught:
        iam.send(source(Keyring(), Person()))
    assert caught.value.code == "no_terminal"
    assert "--password-stdin" in str(caught.value.hint)
    assert iam.sent == []


def test_a_password_is_not_kept_where_that_is_not_wanted() -> None:
    keyring = Keyring()
    passwords = source(keyring, Person("right"), save=False)
    Iam("right").send(passwords)
    passwords.keep()
    assert keyring.password == ""
