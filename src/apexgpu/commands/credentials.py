"""What goes to IAM: which key, with which password, and over what. Shared by login, keys and register."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from apexgpu.errors import DeclinedError, LoginError, PasswordError, UsageError
from apexgpu.iam.client import IamClient
from apexgpu.iam.finding import find_iam
from apexgpu.iam.passwords import StoredPassword
from apexgpu.iam.publickeys import add_key, fingerprint, parse_line
from apexgpu.iam.publish import publish
from apexgpu.iam.pushlog import follow_push
from apexgpu.secret import Secret
from apexgpu.session import Session
from apexgpu.sshfiles.keys import KeyPair

AllowHttp = Annotated[bool, typer.Option("--allow-http", help="Send the password over plain http.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the domain password from stdin.")
]
NoSave = Annotated[
    bool, typer.Option("--no-save-password", help="Do not keep the password in the keyring.")
]


def stored_password(session: Session) -> StoredPassword:
    """The entry in the keyring for the password."""
    return StoredPassword(session.user, session.settings.iam_url)


def password_missing(session: Session) -> str:
    """Why the keyring gives no password, as a fact; "" when it has one."""
    return stored_password(session).load().problem


def forget_password(session: Session) -> bool:
    """Take the password out of the keyring; whether it was there."""
    return stored_password(session).delete().ok


def iam_client(session: Session, *, allow_http: bool) -> tuple[Session, IamClient]:
    """A client for requests that carry the password, and the session that knows where IAM answers.

    Plain http beyond this machine is asked about once.
    """
    account = session.account

    def allowed(url: str) -> bool:
        nonlocal account
        if url in account.allow_http:
            return True
        if not allow_http:
            if not session.screen.can_ask:
                return False
            session.screen.warn(
                f"{url} has no TLS: your domain password would travel readable for anyone on the way."
            )
            if not session.screen.confirm("Send it all the same, now and in future"):
                return False
        account = replace(account, allow_http=(*account.allow_http, url))
        return True

    url = find_iam(session.settings.iam_url, allowed, timeout=session.settings.timeout)
    if account != session.account:
        session = session.remember(account)
    return session.with_iam_url(url), IamClient(url, timeout=session.settings.timeout)


class Passwords:
    """Where the password comes from: stdin, the keyring, or a prompt; asked as late as can be."""

    def __init__(self, session: Session, *, from_stdin: bool = False, save: bool = True) -> None:
        self._session = session
        self._stdin = from_stdin
        self._save = save
        self._used: Secret | None = None
        self.from_keyring = False

    def get(self) -> str:
        """The password; never an empty one."""
        if self._used is not None:
            return self._used.reveal()
        session = self._session
        if self._stdin:
            text = session.screen.piped_line()
            if not text:
                raise LoginError(
                    "the password on stdin is empty",
                    hint="printf '%s' \"$PASSWORD\" | apexgpu login --password-stdin",
                )
            self._used = Secret(text)
            return text
        kept = stored_password(session).load().value
        if kept is not None and kept.reveal():
            self.from_keyring = True
            self._used = kept
            return kept.reveal()
        if not session.screen.can_ask:
            raise DeclinedError(
                "IAM needs your domain password, and there is no terminal to ask at",
                hint="add --password-stdin",
                code="no_terminal",
            )
        text = session.screen.secret(f"Domain password of {session.user}")
        if not text:
            raise PasswordError("an empty password is never sent", hint="apexgpu login")
        self._used = Secret(text)
        return text

    def wrong(self, refusal: LoginError) -> bool:
        """Forget a password that IAM refused; whether there is another to try, and then it is said why."""
        if self.from_keyring:
            stored_password(self._session).delete()
        self._used, self.from_keyring = None, False
        again = not self._stdin and self._session.screen.can_ask
        if again:
            self._session.screen.warn(refusal.message)
        return again

    def keep(self) -> None:
        """Put a password that worked into the keyring, unless that is not wanted or cannot be."""
        if self._used is None or self.from_keyring or not self._save:
            return
        if stored_password(self._session).save(self._used).ok:
            self._session.screen.good("password kept in the keyring of this system")


def choose_key(session: Session, wanted: Path | None, stored: str) -> KeyPair:
    """The key to log in with: the one asked for, one that IAM has already, the best there is, or a new one."""
    from apexgpu.sshfiles import agent, keys

    if wanted is not None:
        # Its place is remembered, and other commands run elsewhere.
        return keys.load(wanted.expanduser().absolute(), agent.list_agent_keys(session.runner))
    directory = ssh_directory(session)
    found = keys.discover(directory, [])
    default = directory == Path.home() / ".ssh"
    if default or not found:
        found = keys.discover(Path.home() / ".ssh", agent.list_agent_keys(session.runner))
    in_iam = {key.blob for line in stored.splitlines() if (key := parse_line(line)) is not None}
    for pair in found:
        if pair.public.blob in in_iam:
            return pair
    return found[0] if found else _new_key(session, directory)


def ssh_directory(session: Session) -> Path:
    """Where the user's keys lie: beside the ssh config."""
    return session.settings.ssh_config.absolute().parent


def _new_key(session: Session, directory: Path) -> KeyPair:
    import socket

    from apexgpu.sshfiles import agent, keys

    passphrase = None
    if session.screen.can_ask and not session.yes:
        session.screen.note("You have no ssh key yet; making one (ed25519).")
        passphrase = session.screen.secret("Passphrase for the new key (empty for none)") or None
        if passphrase and session.screen.secret("The same passphrase again") != passphrase:
            raise UsageError("the two passphrases differ; no key was made", hint="apexgpu login")
    pair = keys.generate(
        directory / "id_ed25519",
        comment=f"{session.user}@{socket.gethostname()}",
        passphrase=passphrase,
    )
    session.screen.good(f"made a new key: {pair.path}")
    if pair.path is not None:
        if passphrase:
            session.passphrases.remember(pair.path, Secret(passphrase))
        agent.add_to_agent(pair.path, session.runner, passphrase)
    return pair


def send_key(
    session: Session, client: IamClient, pair: KeyPair, passwords: Passwords
) -> tuple[Session, bool]:
    """Merge the key into what IAM holds; the session that knows it, and whether anything had to be sent."""
    with session.screen.working("talking to IAM"):
        changed = with_password(
            passwords,
            lambda: publish(
                client, session.user, lambda stored: add_key(stored, pair.public), passwords.get
            ),
        )
    mark = fingerprint(pair.public)
    identity = str(pair.path) if pair.path else ""
    session = session.remember(
        replace(
            session.account,
            user=session.user,
            iam_url=session.settings.iam_url,
            fingerprint=mark,
            identity_file=identity,
        )
    )
    where = pair.path or "ssh agent"
    session.screen.good(f"IAM {'now has' if changed else 'had'} your key {mark} ({where})")
    passwords.keep()
    return session, changed


def with_password(passwords: Passwords, work: Callable[[], bool]) -> bool:
    """Do `work`, asking again (twice at most) when IAM refuses the password."""
    for left in (2, 1, 0):
        try:
            return work()
        except PasswordError as exc:
            if not left or not passwords.wrong(exc):
                raise
    return False


def post_again(session: Session) -> Callable[[], bool]:
    """The cure for a register account with someone else's keys: post the own keys again, once for all hosts."""
    lock = threading.Lock()
    done: list[bool] = []

    def post() -> bool:
        with lock:
            if not done:
                done.append(_post_again(session))
            return done[0]

    return post


def _post_again(session: Session) -> bool:
    client = IamClient(session.iam_url, timeout=session.settings.timeout)
    stored = client.keys_text(session.user)
    if not stored:
        return False
    passwords = Passwords(session)
    if session.iam_url.startswith("http://") and not _may_send(session):
        return False
    session.screen.note(
        "The register account holds someone else's keys; sending yours to IAM again."
    )

    def send() -> bool:
        password = passwords.get()
        text = "\n".join(line for line in stored.splitlines() if line.strip()) + "\n"
        client.post_keys(session.user, text, password)
        return True

    try:
        with_password(passwords, send)
    except DeclinedError as exc:
        session.screen.warn(exc.message, hint="apexgpu register HOST   (in a terminal)")
        return False
    follow_push(
        client, session.user, limit=max(20.0, 2 * session.settings.timeout), on_log=lambda log: None
    )
    return True


def _may_send(session: Session) -> bool:
    """Whether plain http to this IAM has been agreed to."""
    try:
        iam_client(session, allow_http=False)
    except DeclinedError as exc:
        session.screen.warn(exc.message, hint=exc.hint)
        return False
    return True
