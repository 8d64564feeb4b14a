"""Tunnels in the background: how their process is started, and what that process does.

Both sides communicate through two files. The request exists as long as someone waits for the
tunnel; the reply says whether it came up.
"""

import contextlib
import dataclasses
import json
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from apexgpu import files, readers
from apexgpu.errors import ApexError, UnreachableError
from apexgpu.forwarding import records, request
from apexgpu.forwarding.ports import Destination
from apexgpu.forwarding.records import Tunnel, TunnelState
from apexgpu.forwarding.request import PortsTakenError, TunnelRequest
from apexgpu.process import Runner

_POLL = 0.02


class TunnelFailedError(ApexError):
    """The process in the background could not open the tunnel; the message is ssh's reason."""

    code = "tunnel_failed"


def start(
    state_dir: Path, tunnel_request: TunnelRequest, runner: Runner, *, limit: float = 30
) -> Tunnel:
    """Start a process that carries the tunnel, and return the tunnel once it is up.

    Raises PortsTakenError; TunnelFailedError with ssh's reason; UnreachableError after `limit`
    seconds. The process ends by itself when nobody waits for it any more.
    """
    name = secrets.token_hex(6)
    directory = files.private_directory(records.directory(state_dir))
    # A file and not arguments or a pipe: it can be removed, which tells the process that we gave up.
    request_file = directory / f"{name}.request"
    reply_file = directory / f"{name}.reply"
    files.replace_atomically(request_file, _to_json(tunnel_request))
    argument = str(request_file.absolute())  # the process runs in another directory
    # -P: do not import from the current directory, where the user may have a json.py.
    runner.spawn([sys.executable, "-P", "-m", "apexgpu.forwarding.background", argument])
    deadline = time.monotonic() + limit
    try:
        while time.monotonic() < deadline:
            if reply_file.exists():
                return _read_reply(reply_file.read_bytes())
            time.sleep(_POLL)
    finally:
        # Without its request, a process that is still connecting ends itself.
        request_file.unlink(missing_ok=True)
        reply_file.unlink(missing_ok=True)
    message = f"the tunnel to {tunnel_request.host} did not come up within {limit:g} s"
    raise UnreachableError(message, hint=f"apexgpu doctor {tunnel_request.host}", code="timeout")


def _to_json(tunnel_request: TunnelRequest) -> bytes:
    return json.dumps(dataclasses.asdict(tunnel_request)).encode()


def _from_json(data: bytes) -> TunnelRequest:
    values = json.loads(data)
    return TunnelRequest(
        **{
            **values,
            "ssh_arguments": tuple(values["ssh_arguments"]),
            "destinations": tuple(Destination(**fields) for fields in values["destinations"]),
            "local_ports": tuple(values["local_ports"]),
        }
    )


def _read_reply(data: bytes) -> Tunnel:
    fields = readers.json_object(data, "the answer of the tunnel's process")
    if "taken" in fields:
        raise PortsTakenError(list(fields.numbers("taken")))
    if "error" in fields:
        raise TunnelFailedError(fields.text("error"))
    return Tunnel.from_json(fields.fields("tunnel"))


class _NobodyWaitsError(Exception):
    """The command that asked for the tunnel has given up waiting for it."""


@dataclass(slots=True)
class _Reply:
    """Tells the command that started us, once, how the tunnel went."""

    request_file: Path
    sent: bool = False

    def send(self, values: dict[str, object]) -> None:
        """Write the reply, unless one has been written. Raises _NobodyWaitsError."""
        if self.sent:
            return
        if not self.request_file.exists():
            raise _NobodyWaitsError
        self.sent = True
        reply_file = self.request_file.with_suffix(".reply")
        files.replace_atomically(reply_file, json.dumps(values).encode())

    def state_changed(self, tunnel: Tunnel) -> None:
        """Send the tunnel when it is up."""
        if tunnel.state is TunnelState.UP:
            self.send({"tunnel": tunnel.to_json()})


def _run(request_file: Path) -> None:
    """What the process in the background does: listen on the ports, carry the tunnel, report."""
    # asyncio is needed in this process only, not in the one that starts it.
    from apexgpu.forwarding import tunnelprocess

    try:
        tunnel_request = _from_json(request_file.read_bytes())
    except FileNotFoundError:
        return  # nobody waits any more
    state_dir = request_file.parent.parent
    reply = _Reply(request_file)
    with contextlib.suppress(_NobodyWaitsError):
        try:
            sockets = request.take_ports(tunnel_request)
            ending = tunnelprocess.carry(
                state_dir, tunnel_request, sockets, on_change=reply.state_changed
            )
            reply.send({"error": ending.status.reason})
        except PortsTakenError as exc:
            reply.send({"taken": exc.ports})
        except ApexError as exc:
            reply.send({"error": exc.message})
        except OSError as exc:
            reply.send({"error": str(exc)})


if __name__ == "__main__":
    _run(Path(sys.argv[1]))
