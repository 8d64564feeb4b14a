"""What goes to IAM: which key, with which password, and over what. Shared by login, keys and register."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from apexgpu.dotssh.keys import KeyPair
from apexgpu.errors import DeclinedError, LoginError, UsageError
from apexgpu.iam.client import IamClient, reach
from apexgpu.iam.passwords import Secret
from apexgpu.iam.publickeys import fingerprint, merge, parse_line
from apexgpu.iam.push import follow_push, publish
from apexgpu.kit import Kit

_SERVICE = "apexgpu"
AllowHttp = Annotated[bool, typer.Option("--allow-http", help="Send the password over plain http.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the domain password from stdin.")
]
NoSave = Annotated[
    bool, typer.Option("--no-save-password", help="Do not keep the password in the keyring.")
]


def entry(kit: Kit) -> str:
    """The keyring's name for the password."""
    return f"{kit.user}@{kit.settings.iam_url}"


def password_missing(kit: Kit) -> str:
    """Why the keyring gives no password, as a fact; "" when it has one."""
    from apexgpu.iam import passwords

    return "" if passwords.load(_SERVICE, entry(kit)) else passwords.status()


def forget_password(kit: Kit) -> bool:
    """Take the password out of the keyring; whether it was there."""
    from apexgpu.iam import passwords

    return passwords.delete(_SERVICE, entry(kit))


def iam_client(kit: Kit, *, allow_http: bool) -> IamClient:
    """A client for requests that carry the password: plain http beyond this machine is asked about once."""

    def allowed(url: str) -> bool:
        if url in kit.account.allow_http:
            return True
        if not allow_http:
            if not kit.screen.can_ask:
                return False
            kit.screen.warn(
                f"{url} has no TLS: your domain password would travel readable for anyone on the way."
            )
            if not kit.screen.confirm("Send it all the same, now and in future"):
                return False
        kit.remember(replace(kit.account, allow_http=(*kit.account.allow_http, url)))
        return True

    url = reach(kit.settings.iam_url, allowed, timeout=kit.settings.timeout)
    kit.__dict__["iam_url"] = url
    return IamClient(url, timeout=kit.settings.timeout)


class Passwords:
    """Where the password comes from: stdin, the keyring, or a prompt; asked as late as can be."""

    def __init__(self, kit: Kit, *, from_stdin: bool = False, save: bool = True) -> None:
        self._kit = kit
        self._stdin = from_stdin
        self._save = save
        self._used: Secret | None = None
        self.from_keyring = False

    def get(self) -> str:
        """The password; never an empty one."""
        from apexgpu.iam import passwords

        if self._used is not None:
            return self._used.reveal()
        kit = self._kit
        if self._stdin:
            text = kit.screen.piped_line()
            if not text:
                raise LoginError(
                    "the password on stdin is empty",
                    hint="printf '%s' \"$PASSWORD\" | apexgpu login --password-stdin",
                )
            self._used = Secret(text)
            return text
        kept = passwords.load(_SERVICE, entry(kit))
        if kept is not None and kept.reveal():
            self.from_keyring = True
            self._used = kept
            return kept.reveal()
        if not kit.screen.can_ask:
            raise DeclinedError(
                "IAM needs your domain password, and there is no terminal to ask at",
                hint="add --password-stdin",
                code="no_terminal",
            )
        text = kit.screen.secret(f"Domain password of {kit.user}")
        if not text:
            raise LoginError(
                "an empty password is never sent", hint="apexgpu login", code="password"
            )
        self._used = Secret(text)
        return text

    def wrong(self, refusal: LoginError) -> bool:
        """Forget a password that IAM refused; whether there is another to try, and then it is said why."""
        from apexgpu.iam import passwords

        if self.from_keyring:
            passwords.delete(_SERVICE, entry(self._kit))
        self._used, self.from_keyring = None, False
        again = not self._stdin and self._kit.screen.can_ask
        if again:
            self._kit.screen.warn(refusal.message)
        return again

    def keep(self) -> None:
        """Put a password that worked into the keyring, unless that is not wanted or cannot be."""
        from apexgpu.iam import passwords

        if self._used is None or self.from_keyring or not self._save:
            return
        if passwords.save(_SERVICE, entry(self._kit), self._used):
            self._kit.screen.good("password kept in the keyring of this system")


def choose_key(kit: Kit, wanted: Path | None, stored: str) -> KeyPair:
    """The key to log in with: the one asked for, one that IAM has already, the best there is, or a new one."""
    from apexgpu.dotssh import keys

    if wanted is not None:
        # Its place is remembered, and other commands run elsewhere.
        return keys.load(wanted.expanduser().absolute(), keys.agent_keys(kit.runner))
    directory = ssh_directory(kit)
    found = keys.discover(directory, [])
    default = directory == Path.home() / ".ssh"
    if default or not found:
        found = keys.discover(Path.home() / ".ssh", keys.agent_keys(kit.runner))
    in_iam = {key.blob for line in stored.splitlines() if (key := parse_line(line)) is not None}
    for pair in found:
        if pair.public.blob in in_iam:
            return pair
    return found[0] if found else _new_key(kit, directory)


def ssh_directory(kit: Kit) -> Path:
    """Where the user's keys lie: beside the ssh config."""
    return kit.settings.ssh_config.absolute().parent


def _new_key(kit: Kit, directory: Path) -> KeyPair:
    import socket

    from apexgpu.dotssh import keys

    passphrase = None
    if kit.screen.can_ask and not kit.yes:
        kit.screen.note("You have no ssh key yet; making one (ed25519).")
        passphrase = kit.screen.secret("Passphrase for the new key (empty for none)") or None
        if passphrase and kit.screen.secret("The same passphrase again") != passphrase:
            raise UsageError("the two passphrases differ; no key was made", hint="apexgpu login")
    pair = keys.generate(
        directory / "id_ed25519",
        comment=f"{kit.user}@{socket.gethostname()}",
        passphrase=passphrase,
    )
    kit.screen.good(f"made a new key: {pair.path}")
    if pair.path is not None:
        if passphrase:
            kit.passphrases[pair.path] = Secret(passphrase)
        keys.add_to_agent(pair.path, kit.runner, passphrase)
    return pair


def send_key(kit: Kit, client: IamClient, pair: KeyPair, passwords: Passwords) -> bool:
    """Merge the key into what IAM holds; whether anything had to be sent."""
    with kit.screen.working("talking to IAM"):
        changed = with_password(
            passwords,
            lambda: publish(
                client, kit.user, lambda stored: merge(stored, pair.public), passwords.get
            ),
        )
    mark = fingerprint(pair.public)
    identity = str(pair.path) if pair.path else ""
    kit.remember(
        replace(
            kit.account,
            user=kit.user,
            iam_url=kit.settings.iam_url,
            fingerprint=mark,
            identity_file=identity,
        )
    )
    where = pair.path or "ssh agent"
    kit.screen.good(f"IAM {'now has' if changed else 'had'} your key {mark} ({where})")
    passwords.keep()
    return changed


def with_password(passwords: Passwords, work: Callable[[], bool]) -> bool:
    """Do `work`, asking again (twice at most) when IAM refuses the password."""
    for left in (2, 1, 0):
        try:
            return work()
        except LoginError as exc:
            if exc.code != "password" or not left or not passwords.wrong(exc):
                raise
    return False


def post_again(kit: Kit) -> Callable[[], bool]:
    """The cure for a register account with someone else's keys: post the own keys again, once for all hosts."""
    lock = threading.Lock()
    done: list[bool] = []

    def post() -> bool:
        with lock:
            if not done:
                done.append(_post_again(kit))
            return done[0]

    return post


def _post_again(kit: Kit) -> bool:
    client = IamClient(kit.iam_url, timeout=kit.settings.timeout)
    stored = client.keys_text(kit.user)
    if not stored:
        return False
    passwords = Passwords(kit)
    if kit.iam_url.startswith("http://") and not _may_send(kit):
        return False
    kit.screen.note("The register account holds someone else's keys; sending yours to IAM again.")

    def send() -> bool:
        password = passwords.get()
        text = "\n".join(line for line in stored.splitlines() if line.strip()) + "\n"
        client.post_keys(kit.user, text, password)
        return True

    try:
        with_password(passwords, send)
    except DeclinedError as exc:
        kit.screen.warn(exc.message, hint="apexgpu register HOST   (in a terminal)")
        return False
    follow_push(
        client, kit.user, limit=max(20.0, 2 * kit.settings.timeout), on_log=lambda log: None
    )
    return True


def _may_send(kit: Kit) -> bool:
    """Whether plain http to this IAM has been agreed to."""
    try:
        iam_client(kit, allow_http=False)
    except DeclinedError as exc:
        kit.screen.warn(exc.message, hint=exc.hint)
        return False
    return True
