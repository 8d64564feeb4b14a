"""login, logout, whoami: from an empty laptop to hosts that know the key."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from apexgpu import manyhosts, sshconfig
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
from apexgpu.commands.options import Group, session_of
from apexgpu.errors import DeclinedError, LoginError, UsageError
from apexgpu.iam.client import IamClient, valid_user
from apexgpu.iam.publickeys import fingerprint
from apexgpu.iam.pushlog import follow_push
from apexgpu.models import Host, Outcome
from apexgpu.session import Session
from apexgpu.ssh import fanout
from apexgpu.ssh.failures import UnknownHostKeyError
from apexgpu.sshfiles import configfile

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
    session = session_of(ctx)
    session = _settle_user(session, user, iam_url)
    name = session.user
    session, client = iam_client(session, allow_http=allow_http)
    # Everything that can be refused without a password is asked first: nothing is made or sent for it then.
    with session.screen.working("asking IAM for the hosts"):
        client.open_page(name)
        hosts = sshconfig.fetch_hosts(session, client)
        session = session.with_hosts(hosts)
        stored = client.keys_text(name) or ""
    wanted = hosts if register_all else session.hosts(register) if register else []
    configfile.read_config(session.settings.ssh_config)
    pair = choose_key(session, key, stored)
    session, sent = send_key(
        session,
        client,
        pair,
        Passwords(session, from_stdin=password_stdin, save=not no_save_password),
    )
    session, written = sshconfig.merge_hosts(session, hosts, identity=pair.path)
    pushed = _follow(session, client, hosts) if sent else {}
    reached = _probe(session, hosts, pushed)
    made = _register(session, list(wanted))
    code = fanout.exit_code(made)
    _say_next(session, sent or written, reached, made)
    session.screen.document(
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


def _settle_user(session: Session, user: str | None, iam_url: str | None) -> Session:
    """The session of the account that the argument, the settings or the user names, in lower case."""
    if iam_url:
        session = session.with_flags(iam_url=iam_url)
    if user:
        session = session.with_flags(user=user)
    given = session.settings.user
    if not given:
        if not session.screen.can_ask:
            message = "your domain account is needed, and there is no terminal to ask at"
            raise DeclinedError(message, hint="apexgpu login USER", code="no_terminal")
        given = session.screen.ask("Your domain account")
    name = given.strip().lower()
    if name != given:
        session.screen.note(f"Using {name}: IAM takes {given} for somebody else.")
    if not valid_user(name):
        message = f"{given!r} is not an account name: letters, digits, '_', '.', '-' only"
        raise UsageError(message, hint="apexgpu login USER")
    return session.with_flags(user=name)


def _follow(session: Session, client: IamClient, hosts: Sequence[Host]) -> dict[str, bool | None]:
    """Follow IAM's push to its end; host -> took the key, None where the log does not tell."""
    with session.screen.working("IAM is sending the key to the hosts") as progress:
        log = follow_push(
            client,
            session.user,
            limit=2 * session.settings.timeout,
            on_log=lambda log: progress.update(f"{len(log.hosts)} of {len(hosts)} hosts"),
        )
    if not log.done:
        session.screen.warn(
            "IAM's pusher looks stuck: it never said that it was done"
            if log.started_by == session.user
            else "IAM did not start on your key; its pusher may be stuck on another one",
            hint="tell the administrators to restart IAM; meanwhile, the hosts are asked one by one",
        )
    by_address = {pushed.address: pushed.account_ok for pushed in log.hosts}
    return {host.name: by_address.get(host.address) for host in hosts}


def _probe(
    session: Session, hosts: Sequence[Host], pushed: dict[str, bool | None]
) -> list[Outcome[bool]]:
    """Whether each host takes the key, by logging in there; IAM's word for it where a host key is not confirmed.

    This is the first contact with every host: the one question about all host keys comes here.
    """
    from apexgpu.manageshell import manage

    def works(host: Host) -> bool:
        return manage.status(session.transport, host).registered

    with session.screen.working(f"asking {len(hosts)} hosts whether they know the key"):
        outcomes = manyhosts.run(session, hosts, works)
    unknown = [outcome for outcome in outcomes if isinstance(outcome.error, UnknownHostKeyError)]
    for outcome in outcomes:
        if outcome.error is not None and outcome not in unknown:
            session.screen.warn(outcome.error.message, hint=outcome.error.hint)
    if unknown:
        session.screen.warn(
            f"the host keys of {len(unknown)} hosts are not confirmed yet, so nothing was asked of them",
            hint="apexgpu login   (in a terminal), or apexgpu login --accept-new",
        )
    reached = [
        Outcome(outcome.host, pushed[outcome.host.name])
        if outcome in unknown and pushed.get(outcome.host.name) is not None
        else outcome
        for outcome in outcomes
    ]
    _show_reached(session, reached, unsent={name for name, took in pushed.items() if took is None})
    return reached


def _show_reached(session: Session, reached: Sequence[Outcome[bool]], unsent: set[str]) -> None:
    """What came of it. From a host of `unsent`, to which nobody saw IAM send the key, a refusal may only mean that."""
    took = [outcome.host.name for outcome in reached if outcome.value]
    fresh = [outcome.host.name for outcome in reached if outcome.value is False]
    silent = [outcome.host.name for outcome in reached if outcome.value is None]
    if took:
        session.screen.good(f"the key works on {', '.join(took)}")
    if new := [name for name in fresh if name not in unsent]:
        session.screen.note(f"  not registered yet: {', '.join(new)}")
    if waiting := [name for name in fresh if name in unsent]:
        session.screen.note(
            f"  the key has not arrived, or not registered yet: {', '.join(waiting)}"
        )
    if silent:
        session.screen.note(f"  said nothing: {', '.join(silent)}")


def _register(session: Session, hosts: list[Host]) -> list[Outcome[bool]]:
    from apexgpu.commands.hosts import register_hosts

    return register_hosts(session, hosts) if hosts else []


def _rows(reached: Sequence[Outcome[bool]], made: Sequence[Outcome[bool]]) -> list[dict[str, Any]]:
    from apexgpu.commands.hosts import register_value

    registering = {row["host"]: row for row in manyhosts.rows(made, register_value)}
    return [
        {"key_accepted": None, **row, **registering.get(row["host"], {})}
        for row in manyhosts.rows(reached, lambda took: {"key_accepted": took})
    ]


def _say_next(
    session: Session, changed: bool, reached: Sequence[Outcome[bool]], made: Sequence[Outcome[bool]]
) -> None:
    changed = changed or any(outcome.value for outcome in made)
    session.screen.result(
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
    session.screen.result(f"Next: {step}   (all hosts: apexgpu status)")


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
    session = session_of(ctx)
    from apexgpu import account as accounts
    from apexgpu.forwarding import records
    from apexgpu.ssh import controlmaster
    from apexgpu.sshfs import mounts

    unmounted = mounts.unmount_ours(
        session.state_dir
    )  # first: a mount that is in use stops it before anything is gone
    for mount in unmounted:
        session.screen.good(f"unmounted {mount.directory}")
    carried = records.list_open(session.state_dir)
    for one in carried:
        records.close(session.state_dir, one)
        session.screen.good(f"closed {one.id}")
    controlmaster.close_all(session.runner)
    changed = forget_password(session) if session.settings.user else False
    changed = accounts.forget(session.state_dir) or changed or bool(unmounted) or bool(carried)
    if not keep_config and sshconfig.remove_block(session):
        session.screen.good(
            f"our part of {session.settings.ssh_config} is gone; the rest is as it was"
        )
        changed = True
    session.screen.document({"ok": True, "changed": changed})
    session.screen.result("Logged out." if changed else "Nothing to do: there was no login.")


@app.command("whoami")
def whoami(ctx: typer.Context) -> None:
    """Show your account, its port on every host, and where each key is known.

    Example: apexgpu whoami
    """
    session = session_of(ctx)
    from apexgpu.commands.keys import key_rows, show_keys

    with session.screen.working("asking IAM"):
        client = IamClient(session.iam_url, timeout=session.settings.timeout)
        port = client.port(session.user)
        name = client.name(session.user) if port is not None else None
        rows = key_rows(session, client)
    if port is None:
        raise LoginError(
            f"IAM does not know {session.user} yet", hint=f"apexgpu login {session.user}"
        )
    session.screen.result(f"user  {session.user}{f' ({name})' if name else ''}")
    session.screen.result(f"port  {port} on every host")
    session.screen.result(f"IAM   {session.iam_url}")
    show_keys(session, rows)
    session.screen.document(
        {
            "ok": True,
            "user": session.user,
            "name": name,
            "port": port,
            "iam_url": session.iam_url,
            "keys": rows,
        }
    )
