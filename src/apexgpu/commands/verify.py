"""verify: whether a container really computes on a GPU, link by link."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from apexgpu import manyhosts
from apexgpu.commands.options import Group, session_of
from apexgpu.models import Host, Outcome
from apexgpu.recipes import trial
from apexgpu.recipes.trial import Wish
from apexgpu.recipes.verification import Proof
from apexgpu.results import finding_json
from apexgpu.session import Session

app = Group()

_NAMES = {
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "tensorflow": "TensorFlow",
    "gpu": "GPU",
    "command": "as a command",
}


@app.command("verify")
def verify(
    ctx: typer.Context,
    host: Annotated[
        str, typer.Argument(metavar="HOST", help="A host name or glob.", show_default=False)
    ],
    python: Annotated[
        str | None, typer.Option("--python", metavar="PATH", help="A Python or environment.")
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=1, help="How long one run may take.")
    ] = 600,
) -> None:
    """Prove that your container computes: driver, CUDA, cuDNN, TensorFlow, a convolution on a GPU, memory.

    The first link that does not hold is named, with its cure. It takes the GPU with most free memory, computes as
    after a login and then as a command, and changes nothing. Exit code 1: broken; 6: busy, others use the GPUs; 5: not
    done in time. Example: apexgpu verify gpu7
    """
    session = session_of(ctx)
    hosts = session.hosts([host])
    wish = Wish(python, wait, str(Path.home()))
    what = hosts[0].name if len(hosts) == 1 else f"{len(hosts)} hosts"
    with session.screen.working(f"computing on {what}") as progress:

        def work(one: Host) -> Proof:
            def line(text: str) -> None:
                progress.update(text if len(hosts) == 1 else f"{one.name}: {text}")

            return trial.prove(
                session.transport, one, wish, connect=session.settings.timeout, on_line=line
            )

        outcomes = manyhosts.run(
            session,
            hosts,
            work,
            on_done=lambda outcome: _show(session, outcome, alone=len(hosts) == 1),
        )
    raise typer.Exit(_finish(session, outcomes))


def _show(session: Session, outcome: Outcome[Proof], *, alone: bool) -> None:
    """The chain of one host: a line a link, and what it comes to."""
    proof = outcome.value
    if proof is None:
        if outcome.error is not None:
            manyhosts.show_error(session, outcome.host, outcome.error)
        return
    if not alone:
        session.screen.result(outcome.host.name)
    for link in proof.links:
        session.screen.verdict(
            link.verdict, _NAMES.get(link.check, link.check), link.fact, hint=link.hint
        )
    if proof.error is None:
        session.screen.result(f"{outcome.host.name} computes.")
    else:
        session.screen.error(proof.error)


def _finish(session: Session, outcomes: Sequence[Outcome[Proof]]) -> int:
    judged = [replace(one, error=one.value.error) if one.value else one for one in outcomes]
    return manyhosts.finish(session, judged, _value)


def _value(proof: Proof) -> dict[str, Any]:
    card, python = proof.gpu, proof.python
    return {
        "verdict": proof.verdict,
        "driver": proof.driver or None,
        "python": {"path": python.path, "version": python.version} if python else None,
        "tensorflow": python.tensorflow if python else None,
        "gpu": {
            "index": card.index,
            "name": card.name,
            "compute_capability": card.capability or None,
            "pci_bus_id": card.bus or None,
            "memory_total": card.total,
            "memory_free": card.free,
        }
        if card
        else None,
        "checks": [finding_json(one) for one in proof.links],
    }
