"""login, logout, whoami: from an empty laptop to hosts that know the key."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from apexgpu.commands import fleet
from apexgpu.commands.config import fetch_hosts, merge_into_config, remove_ours
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
from apexgpu.dotssh import configfile
from apexgpu.errors import DeclinedError, LoginError, UsageError
from apexgpu.iam.client import IamClient, valid_user
from apexgpu.iam.publickeys import fingerprint
from apexgpu.iam.push import follow_push
from apexgpu.kit import Kit
from apexgpu.models import Host, Outcome
from apexgpu.ssh import fanout
from apexgpu.ssh.transport import UnknownHostKeyError

app = Group()


@app.command("login")
def login(
    ctx: typer.Context,
    user: Annotated[
        str | None, typer.Argument(metavar="[USER]", help="Your domain account.")
    ] = None,
    iam_url: Annotated[str | None, typer.Option(help="Where IAM is.")] = None,
    key: Annotated[
        Path | None, typer.Option(help="The ssh key to use, instead of the best one found.")
    ] = None,
    password_stdin: PasswordStdin = False,
    no_save_password: NoSave = False,
    allow_http: AllowHttp = False,
    register: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="Register there too; repeatable.")
    ] = None,
    register_all: Annotated[
        bool, typer.Option("--register-all", help="Register on every host.")
    ] = False,
) -> None:
    """Log in to IAM, send it a key, and write the lab's hosts into your ssh config.

    Run twice, it changes nothing the second time. Example: apexgpu login alice
    """
    kit = kit_of(ctx)
    name = _settle_user(kit, user, iam_url)
    client = iam_client(kit, allow_http=allow_http)
    # Everything that can be refused without a password is asked first: nothing is made or sent for it then.
    with kit.screen.working("asking IAM for the hosts"):
        client.open_page(name)
        hosts = fetch_hosts(kit, client)
        stored = client.keys_text(name) or ""
    wanted = hosts if register_all else kit.hosts(register) if register else []
    configfile.read(kit.settings.ssh_config)
    pair = choose_key(kit, key, stored)
    sent = send_key(
        kit, client, pair, Passwords(kit, from_stdin=password_stdin, save=not no_save_password)
    )
    written = merge_into_config(kit, hosts, identity=pair.path)
    pushed = _follow(kit, client, hosts) if sent else {}
    reached = _probe(kit, hosts, pushed)
    made = _register(kit, list(wanted))
    code = fanout.exit_code(made)
    _say_next(kit, sent or written, reached, made)
    kit.screen.document(
        {
            "ok": code == 0,
            "user": name,
            "iam_url": client.url,
            "changed": sent or written,
            "key": {
                "fingerprint": fingerprint(pair.public),
                "path": str(pair.path) if pair.path else None,
            },
            "hosts": _rows(reached, made),
        }
    )
    raise typer.Exit(code)


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
            message = "your domain account is needed, and there is no terminal to ask at"
            raise DeclinedError(message, hint="apexgpu login USER", code="no_terminal")
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


def _follow(kit: Kit, client: IamClient, hosts: Sequence[Host]) -> dict[str, bool | None]:
    """Follow IAM's push to its end; host -> took the key, None where the log does not tell."""
    with kit.screen.working("IAM is sending the key to the hosts") as progress:
        log = follow_push(
            client,
            kit.user,
            limit=2 * kit.settings.timeout,
            on_log=lambda log: progress.say(f"{len(log.hosts)} of {len(hosts)} hosts"),
        )
    if not log.done:
        kit.screen.warn(
            "IAM's pusher looks stuck: it never said that it was done"
            if log.started_by == kit.user
            else "IAM did not start on your key; its pusher may be stuck on another one",
            hint="tell the administrators to restart IAM; meanwhile, the hosts are asked one by one",
        )
    by_address = {line.address: line.user for line in log.hosts}
    return {host.name: by_address.get(host.address) for host in hosts}


def _probe(kit: Kit, hosts: Sequence[Host], pushed: dict[str, bool | None]) -> list[Outcome[bool]]:
    """Whether each host takes the key, by logging in there; IAM's word for it where a host key is not confirmed.

    This is the first contact with every host: the one question about all host keys comes here.
    """
    from apexgpu.hosts import manage

    def works(host: Host) -> bool:
        return manage.status(kit.transport, host).registered

    with kit.screen.working(f"asking {len(hosts)} hosts whether they know the key"):
        outcomes = fleet.run(kit, hosts, works)
    unknown = [outcome for outcome in outcomes if isinstance(outcome.error, UnknownHostKeyError)]
    for outcome in outcomes:
        if outcome.error is not None and outcome not in unknown:
            kit.screen.warn(outcome.error.message, hint=outcome.error.hint)
    if unknown:
        kit.screen.warn(
            f"the host keys of {len(unknown)} hosts are not confirmed yet, so nothing was asked of them",
            hint="apexgpu login   (in a terminal), or apexgpu login --accept-new",
        )
    reached = [
        Outcome(outcome.host, pushed[outcome.host.name])
        if outcome in unknown and pushed.get(outcome.host.name) is not None
        else outcome
        for outcome in outcomes
    ]
    _show_reached(kit, reached, unsent={name for name, took in pushed.items() if took is None})
    return reached


def _show_reached(kit: Kit, reached: Sequence[Outcome[bool]], unsent: set[str]) -> None:
    """What came of it. From a host of `unsent`, to which nobody saw IAM send the key, a refusal may only mean that."""
    took = [outcome.host.name for outcome in reached if outcome.value]
    fresh = [outcome.host.name for outcome in reached if outcome.value is False]
    silent = [outcome.host.name for outcome in reached if outcome.value is None]
    if took:
        kit.screen.good(f"the key works on {', '.join(took)}")
    if new := [name for name in fresh if name not in unsent]:
        kit.screen.note(f"  not registered yet: {', '.join(new)}")
    if waiting := [name for name in fresh if name in unsent]:
        kit.screen.note(f"  the key has not arrived, or not registered yet: {', '.join(waiting)}")
    if silent:
        kit.screen.note(f"  said nothing: {', '.join(silent)}")


def _register(kit: Kit, hosts: list[Host]) -> list[Outcome[bool]]:
    from apexgpu.commands.hosts import register_hosts

    return register_hosts(kit, hosts) if hosts else []


def _rows(reached: Sequence[Outcome[bool]], made: Sequence[Outcome[bool]]) -> list[dict[str, Any]]:
    from apexgpu.commands.hosts import register_value

    registering = {row["host"]: row for row in fleet.rows(made, register_value)}
    return [
        {"key_accepted": None, **row, **registering.get(row["host"], {})}
        for row in fleet.rows(reached, lambda took: {"key_accepted": took})
    ]


def _say_next(
    kit: Kit, changed: bool, reached: Sequence[Outcome[bool]], made: Sequence[Outcome[bool]]
) -> None:
    changed = changed or any(outcome.value for outcome in made)
    kit.screen.result(
        "You are logged in."
        if changed
        else "Nothing to change: you are logged in, and your ssh config is up to date."
    )
    ready = [
        outcome.host.name
        for outcome in (*made, *reached)
        if outcome.ok and (outcome in made or outcome.value)
    ]
    names = [outcome.host.name for outcome in reached]
    step = f"apexgpu up {ready[0]}" if ready else f"apexgpu register {names[0]}"
    kit.screen.result(f"Next: {step}   (all hosts: apexgpu status)")


@app.command("logout")
def logout(
    ctx: typer.Context,
    keep_config: Annotated[
        bool, typer.Option("--keep-config", help="Leave the ssh config as it is.")
    ] = False,
) -> None:
    """Forget the login on this laptop: the saved password, the account, and our part of the ssh config.

    Mounts, tunnels and open connections end. Keys stay, here and in IAM (see: apexgpu keys remove).

    Example: apexgpu logout
    """
    kit = kit_of(ctx)
    from apexgpu import account as accounts
    from apexgpu.mount import mounts
    from apexgpu.ssh import mux
    from apexgpu.tunnel import tunnels

    unmounted = mounts.unmount_ours(
        kit.state_dir
    )  # first: a mount that is in use stops it before anything is gone
    for mount in unmounted:
        kit.screen.good(f"unmounted {mount.directory}")
    carried = [one for one in tunnels.listed(kit.state_dir) if one.state != tunnels.DEAD]
    for one in carried:
        tunnels.close(kit.state_dir, one)
        kit.screen.good(f"closed {one.id}")
    mux.close_masters(kit.runner)
    changed = forget_password(kit) if kit.settings.user else False
    changed = accounts.forget(kit.state_dir) or changed or bool(unmounted) or bool(carried)
    if not keep_config and remove_ours(kit):
        kit.screen.good(f"our part of {kit.settings.ssh_config} is gone; the rest is as it was")
        changed = True
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
        {
            "ok": True,
            "user": kit.user,
            "name": name,
            "port": port,
            "iam_url": kit.iam_url,
            "keys": rows,
        }
    )
