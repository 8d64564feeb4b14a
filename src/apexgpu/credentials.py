"""The domain password on its way to IAM: the consent to plain http, the password, and what is sent.

Shared by the user-level modules that change something in IAM (`login`, `containers`) or in the keyring
(`doctor`, `uninstall`).
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from apexgpu import questions
from apexgpu.errors import DeclinedError
from apexgpu.files import locked
from apexgpu.iam.client import IamClient
from apexgpu.iam.finding import PlainHttpError, check_answers, find_iam
from apexgpu.iam.passwords import StoredPassword
from apexgpu.iam.passwordsource import PasswordSource
from apexgpu.iam.proxies import Proxy, find_proxy
from apexgpu.iam.publish import KeyPublisher
from apexgpu.iam.pushlog import PushLog, follow_push
from apexgpu.session import Session
from apexgpu.text import counted

_LEAST_PUSH_LIMIT = 20.0  # seconds
_LOCK_LIMIT = 60.0  # seconds; whoever holds the lock makes a few requests


@dataclass(frozen=True)
class PasswordOptions:
    """How the domain password is found and sent.

    `from_stdin`: it is the first line of standard input. `save`: one that works is stored in the
    keyring. `allow_http`: it may be sent over plain http, now and later, without a question.
    """

    from_stdin: bool = False
    save: bool = True
    allow_http: bool = False


NO_OPTIONS = PasswordOptions()
"""From the keyring or a question; consent to plain http is asked for."""


def stored_password(session: Session) -> StoredPassword:
    """Return the keyring's entry for the password of the session's user."""
    return StoredPassword(session.user, session.settings.iam_url)


def password_problem(session: Session) -> str:
    """Return why the keyring has no password of the user, as a fact; "" if it has one."""
    return stored_password(session).load().problem


def forget_password(session: Session) -> bool:
    """Remove the password from the keyring; return whether there was one."""
    return stored_password(session).delete().ok


def password_source(session: Session, options: PasswordOptions) -> PasswordSource:
    """Return the source of the password."""
    return PasswordSource(
        session.user,
        stored_password(session),
        session.reporter,
        from_stdin=options.from_stdin,
        save=options.save,
    )


def read_client(session: Session) -> IamClient:
    """Return a client for requests without the password, which need no consent."""
    return IamClient(session.iam_url, timeout=session.settings.timeout)


def password_client(session: Session, options: PasswordOptions) -> tuple[Session, IamClient]:
    """Return a client for requests with the password, and the session that knows IAM's URL.

    If that URL is plain http on another machine, the user is asked for consent. The answer is
    remembered. Raises PlainHttpError without consent.
    """
    account = session.account

    def may_send(url: str) -> bool:
        nonlocal account
        # Consent to IAM's own network is no consent to a proxy, which reads the password too.
        proxy = find_proxy(url)
        way = f"{url} through {proxy.name}" if proxy else url
        if way in account.allow_http:
            return True
        if not options.allow_http and not _ask_for_consent(session, url, proxy):
            return False
        account = replace(account, allow_http=(*account.allow_http, way))
        return True

    url = find_iam(session.settings.iam_url, may_send, timeout=session.settings.timeout)
    if account != session.account:
        session = session.remember(account)
    return session.with_iam_url(url), IamClient(url, timeout=session.settings.timeout)


def _ask_for_consent(session: Session, url: str, proxy: Proxy | None) -> bool:
    if not session.reporter.can_ask:
        return False
    # Nobody should have to decide about an IAM that is not there.
    with session.reporter.working("asking IAM"):
        check_answers(url, session.settings.timeout)
    way = ""
    readers = "anyone on the network"
    if proxy is not None:
        way = f" through the proxy {proxy.name}"
        readers = "the proxy, and anyone on the network,"
    session.reporter.warn(
        f"{url} has no TLS: your domain password would be sent unencrypted{way};"
        f" {readers} could read it."
    )
    return session.reporter.confirm(questions.SEND_PASSWORD.fill())


def key_publisher(
    session: Session,
    client: IamClient,
    change: Callable[[str], str],
    passwords: PasswordSource,
) -> KeyPublisher:
    """Return the publisher that makes IAM store `change(stored authorized_keys text)`.

    Pass it to `publish`, and to `confirm` if that returned True.
    """

    def lock() -> AbstractContextManager[None]:
        path = session.state_dir / "locks" / f"+keys-{session.user}.lock"
        return locked(path, what=f"the list of keys of {session.user}", timeout=_LOCK_LIMIT)

    return KeyPublisher(client, session.user, change, passwords.get, lock=lock, wait=session.pause)


def publish(publisher: KeyPublisher, passwords: PasswordSource) -> bool:
    """Make IAM store the changed keys; return whether anything had to be sent.

    The user is asked again if IAM refuses the password. A password that worked is kept.
    """
    sent = passwords.retry(publisher.publish)
    passwords.keep()
    return sent


def follow_own_push(session: Session, client: IamClient) -> PushLog:
    """Follow the push of the keys sent last, and return its log. Warn if its end was not seen."""
    with session.reporter.working("IAM is sending the keys to the hosts") as progress:
        log = follow_push(
            client,
            session.user,
            limit=2 * session.settings.timeout,
            on_log=lambda log: progress.update(f"{counted(len(log.hosts), 'host')} so far"),
        )
    if not log.done:
        message = "IAM did not start on your keys; its pusher may be stuck on another one"
        if log.started_by == session.user:
            message = "IAM's pusher looks stuck: it did not report an end"
        session.reporter.warn(f"{message}. An administrator can restart IAM.")
    return log


def resend_keys(session: Session) -> Callable[[], bool]:
    """Return a function that sends the user's stored keys to IAM again, once for all hosts.

    This helps when the shared `register` account of a host has the keys of someone else, because
    another push came later. The function returns whether the keys were sent.
    """
    lock = threading.Lock()  # several hosts are registered at the same time
    results: list[bool] = []

    def resend() -> bool:
        with lock:
            if not results:
                results.append(_resend(session))
            return results[0]

    return resend


def _resend(session: Session) -> bool:
    if not read_client(session).keys_text(session.user):
        return False
    try:
        session, client = password_client(session, NO_OPTIONS)
        session.reporter.note(
            "The register account has someone else's keys; sending yours to IAM again."
        )
        passwords = password_source(session, NO_OPTIONS)
        publisher = key_publisher(session, client, _without_blank_lines, passwords)
        passwords.retry(lambda: publisher.publish(even_if_unchanged=True))
    except PlainHttpError as error:
        session.reporter.warn(error.message, hint=error.hint)
        return False
    except DeclinedError as error:
        session.reporter.warn(error.message, hint="apexgpu register --help")
        return False
    follow_push(
        client,
        session.user,
        limit=max(_LEAST_PUSH_LIMIT, 2 * session.settings.timeout),
        on_log=lambda log: None,
    )
    return True


def _without_blank_lines(stored: str) -> str:
    lines = [line for line in stored.split("\n") if line.strip()]
    return "".join(f"{line}\n" for line in lines)
