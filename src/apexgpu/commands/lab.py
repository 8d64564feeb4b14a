"""lab and demo: the embedded lab, for trying, for scripts and for tests."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from apexgpu.commands.options import Group, kit_of
from apexgpu.errors import ApexError
from apexgpu.kit import Kit

app = Group()
lab = Group()
app.add_typer(lab, name="lab", help="The embedded lab: up, env, status, fault, down.")

LabHost = Annotated[
    str | None, typer.Argument(metavar="[HOST]", help="A lab host, or iam.", show_default=False)
]


def lab_home(kit: Kit) -> Path:
    """Where the lab lives: in the state directory; inside `lab env`, the lab that this state directory is part of."""
    state = kit.state_dir
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
    kit = kit_of(ctx)
    from apexgpu.lab import client

    with kit.screen.working(f"starting a lab of {hosts} hosts"):
        status = client.up(lab_home(kit), hosts=hosts, registered=registered)
    kit.screen.document({"ok": True, **_without_schema(status)})
    kit.screen.result(
        f"The lab serves {len(status['hosts'])} hosts and IAM at {status['iam_url']}."
    )
    if not kit.screen.as_json:
        kit.screen.note(
            'Next: eval "$(apexgpu lab env)", then apexgpu login   (password: apexgpu lab status)'
        )


def _without_schema(values: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if key != "schema"}


@lab.command("env")
def env(ctx: typer.Context) -> None:
    """Print export lines that point apexgpu and ssh at the lab. Use: eval "$(apexgpu lab env)"."""
    kit = kit_of(ctx)
    from apexgpu.lab import client

    values = client.environment(lab_home(kit))
    kit.screen.document({"ok": True, "environment": values})
    for name, value in values.items():
        kit.screen.result(f"export {name}={shlex.quote(value)}")


@lab.command("status")
def status(ctx: typer.Context) -> None:
    """Show the lab's hosts, users and directories. Example: apexgpu lab status --json."""
    kit = kit_of(ctx)
    from apexgpu.lab import client

    found = client.status(lab_home(kit))
    kit.screen.document(_without_schema(found))
    if not found.get("hosts"):
        kit.screen.result("No lab is running. Next: apexgpu lab up")
        return
    kit.screen.result(f"IAM   {found['iam_url']}")
    for user in found["users"]:
        kit.screen.result(f"user  {user['name']}   password {user.get('password', '-')}")
    kit.screen.table(
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
    kit = kit_of(ctx)
    if list_ or host is None or kind is None:
        from apexgpu.lab.faults import KINDS

        kit.screen.document(
            {"ok": True, "faults": [{"name": name, "what": what} for name, what in KINDS.items()]}
        )
        kit.screen.table(("KIND", "WHAT HAPPENS"), list(KINDS.items()))
        return
    from apexgpu.lab import client

    if clear:
        client.clear(lab_home(kit), host, kind)
    else:
        client.fault(lab_home(kit), host, kind, times)
    kit.screen.document({"ok": True, "host": host, "kind": kind, "cleared": clear})
    kit.screen.result(f"{host}: {kind} {'is over' if clear else 'from now on'}.")


@lab.command("down")
def down(ctx: typer.Context) -> None:
    """End the lab: every process it started, and its directories. Example: apexgpu lab down."""
    kit = kit_of(ctx)
    from apexgpu.lab import client

    home = lab_home(kit)
    was = home.exists()
    client.down(home)
    kit.screen.document({"ok": True, "changed": was})
    kit.screen.result("The lab is gone." if was else "Nothing to do: no lab is running.")


@app.command("demo")
def demo(ctx: typer.Context) -> None:
    """Play the whole story against a lab inside this program, then clean up. Nothing of yours is touched."""
    kit = kit_of(ctx)
    from apexgpu import story
    from apexgpu.lab import client

    client.need_extra()

    code = story.play(kit.screen)
    if code:
        raise ApexError("the demo did not come to its end", hint="apexgpu demo --debug")
