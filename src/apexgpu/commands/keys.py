"""keys: list, add and remove what IAM holds. Other lines of the user's are never touched."""

from pathlib import Path
from typing import Annotated, Any

import typer

from apexgpu.commands.credentials import (
    AllowHttp,
    NoSave,
    Passwords,
    PasswordStdin,
    iam_client,
    ssh_directory,
    with_password,
)
from apexgpu.commands.options import Group, session_of
from apexgpu.errors import UsageError
from apexgpu.iam.client import IamClient
from apexgpu.iam.publickeys import add_key, fingerprint, parse_line, remove_key
from apexgpu.iam.publish import publish
from apexgpu.session import Session
from apexgpu.sshfiles.agent import list_agent_keys
from apexgpu.sshfiles.keys import discover, read_public

app = Group()
keys = Group()
app.add_typer(keys, name="keys", help="List, add or remove the ssh keys that IAM holds for you.")


def key_rows(session: Session, client: IamClient) -> list[dict[str, Any]]:
    """Every key that IAM, this laptop or the agent knows: fingerprint, type, comment, and where."""
    rows: dict[str, dict[str, Any]] = {}

    def known(key: Any, place: str, path: Path | None = None) -> None:
        mark = fingerprint(key)
        row = rows.setdefault(
            mark,
            {
                "fingerprint": mark,
                "type": key.kind,
                "comment": key.comment,
                "known": [],
                "path": None,
            },
        )
        if place not in row["known"]:
            row["known"].append(place)
        row["path"] = row["path"] or (str(path) if path else None)

    for line in (client.keys_text(session.user) or "").splitlines():
        key = parse_line(line)
        if key is not None:
            known(key, "iam")
    agent = list_agent_keys(session.runner)
    for pair in discover(ssh_directory(session), agent):
        known(pair.public, "laptop" if pair.path else "agent", pair.path)
    for key in agent:
        known(key, "agent")
    if session.account.fingerprint in rows:
        rows[session.account.fingerprint]["known"].append("login")
    return list(rows.values())


def show_keys(session: Session, rows: list[dict[str, Any]]) -> None:
    """The keys as a table."""
    if not rows:
        session.screen.result("no keys, neither here nor in IAM")
        return
    session.screen.table(
        ("FINGERPRINT", "TYPE", "KNOWN TO", "COMMENT"),
        [
            (row["fingerprint"], row["type"], ", ".join(row["known"]), row["comment"] or "-")
            for row in rows
        ],
    )


@keys.command("list")
def list_keys(ctx: typer.Context) -> None:
    """Show every key that IAM, this laptop or your agent knows. Example: apexgpu keys list."""
    session = session_of(ctx)
    with session.screen.working("asking IAM"):
        rows = key_rows(session, IamClient(session.iam_url, timeout=session.settings.timeout))
    show_keys(session, rows)
    session.screen.document({"ok": True, "keys": rows})


@keys.command("add")
def add(
    ctx: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A public or private key file.", show_default=False),
    ],
    password_stdin: PasswordStdin = False,
    no_save_password: NoSave = False,
    allow_http: AllowHttp = False,
) -> None:
    """Add a key to those that IAM holds. Example: apexgpu keys add ~/.ssh/id_ed25519.pub."""
    session = session_of(ctx)
    public = read_public(path)
    changed = _change(
        session,
        lambda stored: add_key(stored, public),
        password_stdin,
        no_save_password,
        allow_http,
    )
    mark = fingerprint(public)
    session.screen.document({"ok": True, "changed": changed, "fingerprint": mark})
    session.screen.result(
        f"IAM now has {mark}." if changed else f"Nothing to do: IAM had {mark} already."
    )


@keys.command("remove")
def remove(
    ctx: typer.Context,
    mark: Annotated[
        str,
        typer.Argument(metavar="FINGERPRINT", help="As in: apexgpu keys list.", show_default=False),
    ],
    password_stdin: PasswordStdin = False,
    no_save_password: NoSave = False,
    allow_http: AllowHttp = False,
) -> None:
    """Take a key out of IAM; the hosts forget it with the next push. Example: apexgpu keys remove SHA256:…"""
    session = session_of(ctx)
    stored = (
        IamClient(session.iam_url, timeout=session.settings.timeout).keys_text(session.user) or ""
    )
    found = [key for line in stored.splitlines() if (key := parse_line(line)) is not None]
    matches = {
        fingerprint(key): key
        for key in found
        if fingerprint(key).removeprefix("SHA256:").startswith(mark.removeprefix("SHA256:"))
    }
    if not matches:
        session.screen.document({"ok": True, "changed": False})
        session.screen.result(f"Nothing to do: IAM has no key {mark}.")
        return
    if len(matches) > 1 or not mark.removeprefix("SHA256:"):
        raise UsageError(
            f"{mark} is the start of {len(matches)} fingerprints", hint="apexgpu keys list"
        )
    whole, key = next(iter(matches.items()))
    this = (
        " It is the one this laptop logs in with!" if whole == session.account.fingerprint else ""
    )
    session.confirm(f"Remove {whole} ({key.comment or key.kind}) from IAM?{this}")
    changed = _change(
        session, lambda text: remove_key(text, whole), password_stdin, no_save_password, allow_http
    )
    session.screen.document({"ok": True, "changed": changed, "fingerprint": whole})
    session.screen.result(f"IAM no longer has {whole}.")


def _change(
    session: Session, change: Any, password_stdin: bool, no_save_password: bool, allow_http: bool
) -> bool:
    session, client = iam_client(session, allow_http=allow_http)
    passwords = Passwords(session, from_stdin=password_stdin, save=not no_save_password)
    changed = with_password(passwords, lambda: publish(client, session.user, change, passwords.get))
    passwords.keep()
    return changed
