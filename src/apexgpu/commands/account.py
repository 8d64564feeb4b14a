"""login, logout, whoami: from an empty laptop to hosts that know the key."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from apexgpu.commands import fleet
from apexgpu.commands.options import Group, kit_of
from apexgpu.errors import DeclinedError, LoginError, UsageError
from apexgpu.iam import IamClient, follow_push, publish, reach, valid_user
from apexgpu.keys import KeyPair, fingerprint, merge
from apexgpu.kit import Kit
from apexgpu.models import Host, PushLog
from apexgpu.passwords import Secret

app = Group()

_SERVICE = "apexgpu"
AllowHttp = Annotated[bool, typer.Option("--allow-http", help="Send the password over plain http.")]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the domain password from stdin.")]
NoSave = Annotated[bool, typer.Option("--no-save-password", help="Do not keep the password in the keyring.")]


@app.command("login")
def login(
    ctx: typer.Context,
    user: Annotated[str | None, typer.Argument(metavar="[USER]", help="Your domain account.")] = None,
    iam_url: Annotated[str | None, typer.Option(help="Where IAM is.")] = None,
    key: Annotated[Path | None, typer.Option(help="The ssh key to use, instead of the best one found.")] = None,
    password_stdin: PasswordStdin = False,
    no_save_password: NoSave = False,
    allow_http: AllowHttp = False,
    register: Annotated[list[str] | None, typer.Option(metavar="HOST", help="Register there too; repeatable.")] = None,
    register_all: Annotated[bool, typer.Option("--register-all", help="Register on every host.")] = False,
) -> None:
    """Log in to IAM, send it a key, and write the lab's hosts into your ssh config.

    Run twice, it changes nothing the second time. Example: apexgpu login alice
    """
    kit = kit_of(ctx)
    name = _settle_user(kit, user, iam_url)
    client = iam_client(kit, allow_http=allow_http)
    passwords = Passwords(kit, from_stdin=password_stdin, save=not no_save_password)
    pair = choose_key(kit, key, client.keys_text(name) or "")
    changed = send_key(kit, client, pair, passwords)
    hosts, written = _write_config(kit, client, pair)
    reached = (
        _follow(kit, client, hosts)
        if changed
        else _probe_or_skip(kit, hosts, registering=bool(register or register_all))
    )
    code = 0
    wanted = hosts if register_all else kit.hosts(register) if register else []
    if wanted:
        from apexgpu.commands.hosts import register_hosts

        with _quiet_json(kit):
            code = register_hosts(kit, list(wanted))
    _say_next(kit, changed or written, reached, bool(wanted))
    kit.screen.document(
        {
            "ok": code == 0,
            "user": name,
            "iam_url": client.url,
            "changed": changed or written,
            "key": {"fingerprint": fingerprint(pair.public), "path": str(pair.path) if pair.path else None},
            "hosts": [
                {"host": host.name, "ok": True, "error": None, "key_accepted": reached.get(host.name)} for host in hosts
            ],
        }
    )
    raise typer.Exit(code)


class _quiet_json:  # noqa: N801 - reads as the statement it is
    """Lets a step that would print a JSON document of its own stay silent inside another."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    def __enter__(self) -> None:
        self._document = self._kit.screen.document
        self._kit.screen.document = lambda values: None  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        self._kit.screen.document = self._document  # type: ignore[method-assign]


def _settle_user(kit: Kit, user: str | None, iam_url: str | None) -> str:
    """The account name, from the argument, the settings or the user; lower case, for IAM minds it."""
    if iam_url:
        kit.flags["iam_url"] = iam_url
    if user:
        kit.flags["user"] = user
    kit.__dict__.pop("settings", None)
    given = kit.settings.user
    if not given:
        if not kit.screen.can_ask:
            raise UsageError("who are you? no account name was given", hint="apexgpu login USER")
        given = kit.screen.ask("Your domain account")
    name = given.strip().lower()
    if name != given:
        kit.screen.note(f"Using {name}: IAM takes {given} for somebody else.")
    if not valid_user(name):
        message = f"{given!r} is not an account name: letters, digits, '_', '.', '-' only"
        raise UsageError(message, hint="apexgpu login USER")
    kit.flags["user"] = name
    kit.__dict__.pop("settings", None)
    return name


def iam_client(kit: Kit, *, allow_http: bool) -> IamClient:
    """A client for requests that carry the password: plain http beyond this machine is asked about once."""

    def allowed(url: str) -> bool:
        if url in kit.account.allow_http:
            return True
        if not allow_http:
            if not kit.screen.can_ask:
                return False
            kit.screen.warn(f"{url} has no TLS: your domain password would travel readable for anyone on the way.")
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
        from apexgpu import passwords

        if self._used is not None:
            return self._used.reveal()
        kit = self._kit
        if self._stdin:
            text = _stdin_line()
            if not text:
                raise LoginError(
                    "the password on stdin is empty", hint="printf '%s' \"$PASSWORD\" | apexgpu login --password-stdin"
                )
            self._used = Secret(text)
            return text
        kept = passwords.load(_SERVICE, _entry(kit))
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
            raise LoginError("an empty password is never sent", hint="apexgpu login", code="password")
        self._used = Secret(text)
        return text

    def wrong(self) -> bool:
        """Forget a password that IAM refused; whether there is another to try."""
        from apexgpu import passwords

        stale = self.from_keyring
        if stale:
            passwords.delete(_SERVICE, _entry(self._kit))
        self._used, self.from_keyring = None, False
        return (stale or not self._stdin) and self._kit.screen.can_ask

    def keep(self) -> None:
        """Put a password that worked into the keyring, unless that is not wanted or cannot be."""
        from apexgpu import passwords

        if self._used is None or self.from_keyring or not self._save:
            return
        if passwords.save(_SERVICE, _entry(self._kit), self._used):
            self._kit.screen.good("password kept in the keyring of this system")


def _entry(kit: Kit) -> str:
    return f"{kit.user}@{kit.settings.iam_url}"


def _stdin_line() -> str:
    import sys

    return sys.stdin.readline().rstrip("\r\n")


def choose_key(kit: Kit, wanted: Path | None, stored: str) -> KeyPair:
    """The key to log in with: the one asked for, one that IAM has already, the best there is, or a new one."""
    from apexgpu import keys

    if wanted is not None:
        return keys.load(wanted, keys.agent_keys(kit.runner))
    directory = ssh_directory(kit)
    found = keys.discover(directory, [])
    default = directory == Path.home() / ".ssh"
    if default or not found:
        found = keys.discover(Path.home() / ".ssh", keys.agent_keys(kit.runner))
    in_iam = {key.blob for line in stored.splitlines() if (key := keys.parse_line(line)) is not None}
    for pair in found:
        if pair.public.blob in in_iam:
            return pair
    return found[0] if found else _new_key(kit, directory)


def ssh_directory(kit: Kit) -> Path:
    """Where the user's keys lie: beside the ssh config."""
    return kit.settings.ssh_config.absolute().parent


def _new_key(kit: Kit, directory: Path) -> KeyPair:
    import socket

    from apexgpu import keys

    passphrase = None
    if kit.screen.can_ask and not kit.yes:
        kit.screen.note("You have no ssh key yet; making one (ed25519).")
        passphrase = kit.screen.secret("Passphrase for the new key (empty for none)") or None
        if passphrase and kit.screen.secret("The same passphrase again") != passphrase:
            raise UsageError("the two passphrases differ; no key was made", hint="apexgpu login")
    pair = keys.generate(directory / "id_ed25519", comment=f"{kit.user}@{socket.gethostname()}", passphrase=passphrase)
    kit.screen.good(f"made a new key: {pair.path}")
    if pair.path is not None:
        keys.add_to_agent(pair.path, kit.runner, passphrase)
    return pair


def send_key(kit: Kit, client: IamClient, pair: KeyPair, passwords: Passwords) -> bool:
    """Merge the key into what IAM holds; whether anything had to be sent."""
    with kit.screen.working("talking to IAM"):
        changed = with_password(
            passwords, lambda: publish(client, kit.user, lambda stored: merge(stored, pair.public), passwords.get)
        )
    mark = fingerprint(pair.public)
    identity = str(pair.path) if pair.path else ""
    kit.remember(
        replace(kit.account, user=kit.user, iam_url=kit.settings.iam_url, fingerprint=mark, identity_file=identity)
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
            if exc.code != "password" or not passwords.wrong() or not left:
                raise
    return False


def _write_config(kit: Kit, client: IamClient, pair: KeyPair) -> tuple[tuple[Host, ...], bool]:
    from apexgpu.commands.config import fetch_hosts, merge_into_config

    hosts = fetch_hosts(kit, client)
    written = merge_into_config(kit, hosts, identity=pair.path)
    return hosts, written


def _follow(kit: Kit, client: IamClient, hosts: tuple[Host, ...]) -> dict[str, bool | None]:
    """Follow IAM's push to its end; host -> took the key, None where that is not known."""
    with kit.screen.working("IAM is sending the key to the hosts") as progress:
        log = follow_push(
            client,
            kit.user,
            limit=max(20.0, 2 * kit.settings.timeout),
            on_log=lambda log: progress.say(f"{len(log.hosts)} of {len(hosts)} hosts"),
        )
    by_address = {line.address: line for line in log.hosts}
    reached = {host.name: by_address[host.address].user if host.address in by_address else None for host in hosts}
    if not log.done:
        kit.screen.warn(
            "IAM's pusher looks stuck: it never said that it was done"
            if log.started_by == kit.user
            else "IAM did not start on your key; its pusher may be stuck on another one",
            hint="tell the administrators to restart IAM; meanwhile, the hosts are asked one by one",
        )
        reached = reached | _probe(kit, [host for host in hosts if reached[host.name] is None])
    _show_reached(kit, hosts, reached, log)
    return reached


def _probe_or_skip(kit: Kit, hosts: tuple[Host, ...], *, registering: bool) -> dict[str, bool | None]:
    """On a second login: whether the hosts still know the key. Not worth a question about host keys."""
    return {host.name: None for host in hosts} if registering else _probe(kit, list(hosts))


def _probe(kit: Kit, hosts: list[Host]) -> dict[str, bool | None]:
    from apexgpu import manage

    def works(host: Host) -> bool:
        return manage.status(kit.transport, host).registered

    with kit.screen.working(f"asking {len(hosts)} hosts whether they know the key"):
        outcomes = fleet.run(kit, hosts, works)
    for outcome in outcomes:
        if outcome.error is not None and outcome.error.code != "host_key_unknown":
            kit.screen.warn(outcome.error.message)
    unknown = [
        outcome for outcome in outcomes if outcome.error is not None and outcome.error.code == "host_key_unknown"
    ]
    if unknown:
        kit.screen.warn(
            f"the host keys of {len(unknown)} hosts are not confirmed yet, so nothing was asked of them",
            hint="apexgpu login   (in a terminal), or apexgpu login --accept-new",
        )
    return {outcome.host.name: outcome.value for outcome in outcomes}


def _show_reached(kit: Kit, hosts: tuple[Host, ...], reached: dict[str, bool | None], log: PushLog) -> None:
    took = [host.name for host in hosts if reached[host.name]]
    fresh = [host.name for host in hosts if reached[host.name] is False]
    silent = [host.name for host in hosts if reached[host.name] is None]
    if took:
        kit.screen.good(f"took the key: {', '.join(took)}")
    if fresh:
        kit.screen.note(f"  not registered yet: {', '.join(fresh)}")
    if silent:
        kit.screen.note(f"  said nothing: {', '.join(silent)}")


def _say_next(kit: Kit, changed: bool, reached: dict[str, bool | None], registered: bool) -> None:
    if not changed:
        kit.screen.result("Nothing to change: you are logged in, and your ssh config is up to date.")
    elif not registered:
        kit.screen.result("You are logged in.")
    ready = [name for name, took in reached.items() if took]
    first = next(iter(reached), "HOST")
    step = f"apexgpu up {ready[0]}" if ready else f"apexgpu up {first}" if registered else f"apexgpu register {first}"
    kit.screen.result(f"Next: {step}   (all hosts: apexgpu status)")


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
    follow_push(client, kit.user, limit=max(20.0, 2 * kit.settings.timeout), on_log=lambda log: None)
    return True


def _may_send(kit: Kit) -> bool:
    """Whether plain http to this IAM has been agreed to."""
    try:
        iam_client(kit, allow_http=False)
    except DeclinedError as exc:
        kit.screen.warn(exc.message, hint=exc.hint)
        return False
    return True


@app.command("logout")
def logout(
    ctx: typer.Context,
    keep_config: Annotated[bool, typer.Option("--keep-config", help="Leave the ssh config as it is.")] = False,
) -> None:
    """Forget the login on this laptop: the saved password, the account, and our part of the ssh config.

    Keys stay, here and in IAM (see: apexgpu keys remove). Example: apexgpu logout
    """
    kit = kit_of(ctx)
    from apexgpu import account as accounts
    from apexgpu import configfile, passwords

    changed = False
    if kit.settings.user:
        changed = passwords.delete(_SERVICE, _entry(kit))
    if not keep_config:
        removed = configfile.remove(kit.settings.ssh_config, state_dir=kit.state_dir, runner=kit.runner)
        if removed:
            kit.screen.good(f"our part of {kit.settings.ssh_config} is gone; the rest is as it was")
        changed = changed or removed
    changed = accounts.forget(kit.state_dir) or changed
    kit.screen.document({"ok": True, "changed": changed})
    kit.screen.result("Logged out." if changed else "Nothing to do: there was no login.")


@app.command("whoami")
def whoami(ctx: typer.Context) -> None:
    """Show your account, its port on every host, and where each key is known.

    Example: apexgpu whoami
    """
    kit = kit_of(ctx)
    from apexgpu.commands.keys import key_rows, show_keys

    with kit.screen.working("asking IAM"):
        client = IamClient(kit.iam_url, timeout=kit.settings.timeout)
        port = client.port(kit.user)
        name = client.name(kit.user) if port is not None else None
        rows = key_rows(kit, client)
    if port is None:
        raise LoginError(f"IAM does not know {kit.user} yet", hint=f"apexgpu login {kit.user}")
    kit.screen.result(f"user  {kit.user}{f' ({name})' if name else ''}")
    kit.screen.result(f"port  {port} on every host")
    kit.screen.result(f"IAM   {kit.iam_url}")
    show_keys(kit, rows)
    kit.screen.document(
        {"ok": True, "user": kit.user, "name": name, "port": port, "iam_url": kit.iam_url, "keys": rows}
    )
