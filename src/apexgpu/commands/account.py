"""login, logout, whoami: from an empty laptop to hosts that know the key."""

from pathlib import Path
from typing import Annotated

import typer

from apexgpu.commands import fleet
from apexgpu.commands.credentials import (
    AllowHttp,
    NoSave,
    Passwords,
    PasswordStdin,
    choose_key,
    forget_password,
    iam_client,
    send_key,
)
from apexgpu.commands.options import Group, kit_of
from apexgpu.errors import LoginError, UsageError
from apexgpu.iam import IamClient, follow_push, valid_user
from apexgpu.keys import KeyPair, fingerprint
from apexgpu.kit import Kit
from apexgpu.models import Host, PushLog

app = Group()


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
    from apexgpu import configfile

    changed = False
    if kit.settings.user:
        changed = forget_password(kit)
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
