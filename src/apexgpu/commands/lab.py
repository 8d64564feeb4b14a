"""lab and demo: the embedded lab, for trying, for scripts and for tests."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from apexgpu.commands.options import Group, session_of
from apexgpu.errors import ApexError
from apexgpu.session import Session

app = Group()
lab = Group()
app.add_typer(lab, name="lab", help="The embedded lab: up, env, status, fault, down.")

LabHost = Annotated[
    str | None, typer.Argument(metavar="[HOST]", help="A lab host, or iam.", show_default=False)
]


def lab_home(session: Session) -> Path:
    """Where the lab lives: in the state directory; inside `lab env`, the lab that this state directory is part of."""
    state = session.state_dir
    inside = state.parent
    return inside if (inside / "lab.json").exists() else state / "lab"


@lab.command("up")
def up(
    ctx: typer.Context,
    hosts: Annotated[int, typer.Option(help="How many hosts.", min=1, max=254)] = 3,
    registered: Annotated[
        bool, typer.Option("--registered", help="With the first user registered everywhere.")
    ] = False,
) -> None:
    """Start the lab: an IAM and GPU hosts on this machine's loopback. Example: apexgpu lab up --hosts 3."""
    session = session_of(ctx)
    from apexgpu_lab import client

    with session.screen.working(f"starting a lab of {hosts} hosts"):
        status = client.up(lab_home(session), hosts=hosts, registered=registered)
    session.screen.document({"ok": True, **_without_schema(status)})
    session.screen.result(
        f"The lab serves {len(status['hosts'])} hosts and IAM at {status['iam_url']}."
    )
    if not session.screen.as_json:
        session.screen.note(
            'Next: eval "$(apexgpu lab env)", then apexgpu login   (password: apexgpu lab status)'
        )


def _without_schema(values: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if key != "schema"}


@lab.command("env")
def env(ctx: typer.Context) -> None:
    """Print export lines that point apexgpu and ssh at the lab. Use: eval "$(apexgpu lab env)"."""
    session = session_of(ctx)
    from apexgpu_lab import client

    values = client.environment(lab_home(session))
    session.screen.document({"ok": True, "environment": values})
    for name, value in values.items():
        session.screen.result(f"export {name}={shlex.quote(value)}")


@lab.command("status")
def status(ctx: typer.Context) -> None:
    """Show the lab's hosts, users and directories. Example: apexgpu lab status --json."""
    session = session_of(ctx)
    from apexgpu_lab import client

    found = client.status(lab_home(session))
    session.screen.document(_without_schema(found))
    if not found.get("hosts"):
        session.screen.result("No lab is running. Next: apexgpu lab up")
        return
    session.screen.result(f"IAM   {found['iam_url']}")
    for user in found["users"]:
        session.screen.result(f"user  {user['name']}   password {user.get('password', '-')}")
    session.screen.table(
        ("HOST", "ADDRESS", "PORT", "CONTAINERS"),
        [
            (
                host["host"],
                host["address"],
                str(host["port"]),
                ", ".join(
                    str(one.get("user", one)) if isinstance(one, dict) else str(one)
                    for one in host["containers"]
                )
                or "-",
            )
            for host in found["hosts"]
        ],
    )


@lab.command("fault")
def fault(
    ctx: typer.Context,
    host: LabHost = None,
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", show_default=False)] = None,
    times: Annotated[int | None, typer.Option(help="Only this often.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take the fault away again.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Name the kinds.")] = False,
) -> None:
    """Make a lab host (or iam) misbehave. Example: apexgpu lab fault gpu3 silent."""
    session = session_of(ctx)
    if list_ or host is None or kind is None:
        from apexgpu_lab.faults import KINDS

        session.screen.document(
            {"ok": True, "faults": [{"name": name, "what": what} for name, what in KINDS.items()]}
        )
        session.screen.table(("KIND", "WHAT HAPPENS"), list(KINDS.items()))
        return
    from apexgpu_lab import client

    if clear:
        client.clear(lab_home(session), host, kind)
    else:
        client.fault(lab_home(session), host, kind, times)
    session.screen.document({"ok": True, "host": host, "kind": kind, "cleared": clear})
    session.screen.result(f"{host}: {kind} {'is over' if clear else 'from now on'}.")


@lab.command("down")
def down(ctx: typer.Context) -> None:
    """End the lab: every process it started, and its directories. Example: apexgpu lab down."""
    session = session_of(ctx)
    from apexgpu_lab import client

    home = lab_home(session)
    was = home.exists()
    client.down(home)
    session.screen.document({"ok": True, "changed": was})
    session.screen.result("The lab is gone." if was else "Nothing to do: no lab is running.")


@app.command("demo")
def demo(ctx: typer.Context) -> None:
    """Play the whole story against a lab inside this program, then clean up. Nothing of yours is touched."""
    session = session_of(ctx)
    from apexgpu_lab import client, demo

    client.need_extra()

    code = demo.play(session.screen)
    if code:
        raise ApexError("the demo did not come to its end", hint="apexgpu demo --debug")
