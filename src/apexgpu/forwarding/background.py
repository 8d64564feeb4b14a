"""Tunnels in the background: starting the process of one, and what that process does.

Both sides agree by two files: the order, which is there as long as somebody waits, and the answer.
"""

import contextlib
import dataclasses
import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from apexgpu import files
from apexgpu.errors import ApexError, UnreachableError
from apexgpu.forwarding import ports, records
from apexgpu.forwarding.records import UP, Plan, PortsTakenError, Tunnel
from apexgpu.process import Runner


def start(state_dir: Path, plan: Plan, runner: Runner, *, limit: float = 30) -> Tunnel:
    """Start a process that carries `plan` in the background, and wait until it is up; the tunnel then.

    PortsTakenError, or ApexError (`tunnel_failed`) with ssh's reason. When nobody waits any more, it ends itself.
    """
    name = secrets.token_hex(6)
    directory = files.private_directory(records.directory(state_dir))
    order, answer = directory / f"{name}.order", directory / f"{name}.answer"
    value = {"plan": dataclasses.asdict(plan), "answer": str(answer)}
    files.replace_atomically(order, json.dumps(value).encode())
    runner.spawn([sys.executable, "-P", "-m", "apexgpu.forwarding.background", str(order)])
    end = time.monotonic() + limit
    try:
        while time.monotonic() < end:
            if answer.exists():
                return _answered(json.loads(answer.read_bytes()))
            time.sleep(0.02)
    finally:
        order.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)
    message = f"the tunnel to {plan.host} did not come up within {limit:g} s"
    raise UnreachableError(message, hint=f"apexgpu doctor {plan.host}", code="timeout")


def _answered(value: dict[str, Any]) -> Tunnel:
    if "taken" in value:
        raise PortsTakenError(value["taken"])
    if "error" in value:
        raise ApexError(str(value["error"]), code="tunnel_failed")
    return records.tunnel(value)


class _Unwanted(Exception):  # noqa: N818 - nothing is wrong
    """Whoever ordered the tunnel does not wait for it any more."""


def _background(order: Path) -> None:
    """What the process in the background does: take the ports, say how it went, carry on."""
    from apexgpu.forwarding import tunnelprocess

    try:
        value = json.loads(order.read_bytes())
    except FileNotFoundError:
        return
    raw, answer = value["plan"], Path(value["answer"])
    remotes = tuple(ports.Remote(**one) for one in raw["remotes"])
    plan = Plan(
        **{**raw, "where": tuple(raw["where"]), "wanted": tuple(raw["wanted"]), "remotes": remotes}
    )
    said: list[bool] = []

    def say(what: dict[str, object]) -> None:
        if said:
            return
        if not order.exists():
            raise _Unwanted
        said.append(True)
        files.replace_atomically(answer, json.dumps(what).encode())

    def changed(one: Tunnel) -> None:
        if one.state == UP:
            say(dataclasses.asdict(one))

    with contextlib.suppress(_Unwanted):
        try:
            _, state, _ = tunnelprocess.carry(
                order.parent.parent, plan, records.take(plan), changed=changed
            )
            say({"error": state.reason})
        except PortsTakenError as exc:
            say({"taken": exc.taken})
        except ApexError as exc:
            say({"error": exc.message})
        except OSError as exc:
            say({"error": str(exc)})


if __name__ == "__main__":
    _background(Path(sys.argv[1]))
