"""Where the domain password comes from: standard input, the keyring, or a question."""

from collections.abc import Callable
from typing import TypeVar

from apexgpu import questions
from apexgpu.errors import DeclinedError, LoginError, PasswordError
from apexgpu.iam.passwords import StoredPassword
from apexgpu.platforms import hints
from apexgpu.reporter import Reporter
from apexgpu.secret import Secret

T = TypeVar("T")

_RETRIES = 2  # how often a person may correct a password that IAM refused


class PasswordSource:
    """The domain password of one user, fetched once and as late as possible.

    `from_stdin` takes it from the first line of standard input. Otherwise it comes from the keyring
    (`stored`) or, if that has none, from a question. `save` stores a password that worked.
    """

    def __init__(
        self,
        user: str,
        stored: StoredPassword,
        reporter: Reporter,
        *,
        from_stdin: bool = False,
        save: bool = True,
    ) -> None:
        self._user = user
        self._stored = stored
        self._reporter = reporter
        self._from_stdin = from_stdin
        self._save = save
        self._password: Secret | None = None
        self._from_keyring = False

    def get(self) -> str:
        """Return the password, which is never empty.

        Raises LoginError if stdin has none, PasswordError if the user types none, DeclinedError if
        nobody can be asked.
        """
        if self._password is None:
            self._password = self._fetch()
        return self._password.reveal()

    def retry(self, work: Callable[[], T]) -> T:
        """Return `work()`, which sends the password.

        While IAM refuses it, the user is asked for another one, twice at most.
        """
        for _ in range(_RETRIES):
            try:
                return work()
            except PasswordError as error:
                self._forget()
                if self._from_stdin or not self._reporter.can_ask:
                    raise
                self._reporter.warn(error.message)
        return work()

    def keep(self) -> None:
        """Store the password, which has worked, in the keyring, if that is wanted and possible."""
        if self._password is None or self._from_keyring or not self._save:
            return
        if self._stored.save(self._password).ok:
            self._reporter.success("password kept in the keyring of this system")

    def _fetch(self) -> Secret:
        if self._from_stdin:
            text = self._reporter.piped_line()
            if not text:
                raise LoginError("the password on stdin is empty", hint=hints.pipe_password())
            return Secret(text)
        loaded = self._stored.load()
        if loaded.value is not None:
            self._from_keyring = True
            return loaded.value
        if loaded.timed_out:  # the user may see a window that asks, and wonder
            self._reporter.note(loaded.problem)
        return self._ask()

    def _ask(self) -> Secret:
        if not self._reporter.can_ask:
            raise DeclinedError(
                "IAM needs your domain password, and there is no terminal to ask at",
                hint=hints.pipe_password(),
                code="no_terminal",
            )
        text = self._reporter.secret(questions.DOMAIN_PASSWORD.fill(user=self._user))
        if not text:
            raise PasswordError("an empty password is never sent", hint="apexgpu login")
        return Secret(text)

    def _forget(self) -> None:
        """Drop a password that IAM refused, from the keyring too."""
        if self._from_keyring:
            self._stored.delete()
        self._password = None
        self._from_keyring = False
