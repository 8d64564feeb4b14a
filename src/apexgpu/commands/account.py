"""The commands `login`, `logout`, `whoami` and `keys`."""

from pathlib import Path
from typing import Annotated

import typer

from apexgpu import keys
from apexgpu import login as logins
from apexgpu.commands.options import DefaultCommand, Group, session_of
from apexgpu.credentials import PasswordOptions
from apexgpu.results import Result

app = Group()
key_commands = Group(cls=DefaultCommand)
app.add_typer(
    key_commands, name="keys", help="List, add or remove the ssh keys that IAM stores for you."
)

AllowHttp = Annotated[bool, typer.Option("--allow-http", help="Send the password over plain http.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the domain password from stdin.")
]
NoSave = Annotated[
    bool, typer.Option("--no-save-password", help="Do not store the password in the keyring.")
]


@app.command("login")
def login(
    ctx: typer.Context,
    user: Annotated[
        str | None, typer.Argument(metavar="[USER]", help="Your domain account.")
    ] = None,
    iam_url: Annotated[
        str | None, typer.Option(help="The address of IAM: a URL or a host name.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="The ssh key to use. By default, the best one that you have."),
    ] = None,
    password_stdin: PasswordStdin = False,
    no_save_password: NoSave = False,
    allow_http: AllowHttp = False,
    register: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Also register on HOST. Can be repeated."),
    ] = None,
    register_all: Annotated[
        bool, typer.Option("--register-all", help="Also register on every host.")
    ] = False,
) -> Result:
    """Log in to IAM, send it a key, and write the lab's hosts into your ssh config.

    A second run changes nothing. Example: apexgpu login alice
    """
    return logins.login(
        session_of(ctx),
        user,
        iam_url=iam_url,
        key=key,
        register=register or [],
        register_all=register_all,
        password=PasswordOptions(password_stdin, not no_save_password, allow_http),
    )


@app.command("logout")
def logout(
    ctx: typer.Context,
    keep_config: Annotated[
        bool, typer.Option("--keep-config", help="Do not change the ssh config.")
    ] = False,
) -> Result:
    """Forget the login on this laptop: the saved password, the account, and our part of the ssh config.

    Mounts, tunnels and open connections are closed. Your keys stay, on this laptop and
    in IAM (see: apexgpu keys remove).

    Example: apexgpu logout
    """
    return logins.logout(session_of(ctx), keep_config=keep_config)


@app.command("whoami")
def whoami(ctx: typer.Context) -> Result:
    """Show your account, its port on every host, and where each key is.

    Example: apexgpu whoami
    """
    return logins.whoami(session_of(ctx))


@key_commands.command("list")
def list_keys(ctx: typer.Context) -> Result:
    """Show every key that IAM, this laptop or your ssh-agent has. Example: apexgpu keys list."""
    return keys.list_keys(session_of(ctx))


@key_commands.command("add")
def add(
    ctx: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A public or private key file.", show_default=False),
    ],
    password_stdin: PasswordStdin = False,
    no_save_password: NoSave = False,
    allow_http: AllowHttp = False,
) -> Result:
    """Add a key to those that IAM stores. Example: apexgpu keys add ~/.ssh/id_ed25519.pub."""
    return keys.add(
        session_of(ctx),
        path,
        password=PasswordOptions(password_stdin, not no_save_password, allow_http),
    )


@key_commands.command("remove")
def remove(
    ctx: typer.Context,
    fingerprint: Annotated[
        str,
        typer.Argument(
            metavar="FINGERPRINT",
            help="The fingerprint that `apexgpu keys list` shows.",
            show_default=False,
        ),
    ],
    password_stdin: PasswordStdin = False,
    no_save_password: NoSave = False,
    allow_http: AllowHttp = False,
) -> Result:
    """Remove a key from IAM; the hosts remove it with the next push. Example: apexgpu keys remove SHA256:…"""
    return keys.remove(
        session_of(ctx),
        fingerprint,
        password=PasswordOptions(password_stdin, not no_save_password, allow_http),
    )
