"""How the results of `apexgpu.tunnels` look."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.forwarding.records import Forward, Tunnel, TunnelState
from apexgpu.render.screen import Screen, reported_already
from apexgpu.tables import Column, Row
from apexgpu.text import duration, size
from apexgpu.tunnels import ClosedTunnels, OpenTunnel, TunnelList

_COLUMNS = (
    Column("ID"),
    Column("LOCAL"),
    Column("REMOTE"),
    Column("STATE"),
    Column("SINCE", keep=3),
    Column("CARRIED", keep=2),
    Column("RECONNECTS", keep=1),
    Column("PID", keep=0),
)


def show_open(result: OpenTunnel, screen: Screen) -> None:
    """The address of each forwarded port, and where it leads."""
    for forward in result.tunnel.forwards:
        show_forward(f"http://127.0.0.1:{forward.local_port}", result.tunnel, forward, screen)


def show_forward(url: str, tunnel: Tunnel, forward: Forward, screen: Screen) -> None:
    """One line: an address on this laptop, and where it leads."""
    screen.line(f"{url}  →  {tunnel.host} {forward.destination}")


def show_list(result: TunnelList, screen: Screen) -> None:
    """A row for each forwarded port; then why a tunnel is not up, or what the container answered."""
    if not result.tunnels:
        screen.reporter.note("no tunnel is open; open one with: apexgpu tunnel HOST PORT")
        return
    rows = [_row(tunnel, forward) for tunnel in result.tunnels for forward in tunnel.forwards]
    screen.table(_COLUMNS, rows, styles=_style)
    for tunnel in result.tunnels:
        if tunnel.reason and tunnel.state is TunnelState.UP:
            screen.reporter.note(f"{tunnel.id}: the container answered: {tunnel.reason}")
        elif tunnel.reason:
            screen.reporter.note(f"{tunnel.id}: {tunnel.reason}")


def _row(tunnel: Tunnel, forward: Forward) -> Row:
    return (
        tunnel.id,
        f"127.0.0.1:{forward.local_port}",
        f"{tunnel.host} {forward.destination}",
        tunnel.state.value,
        duration(time.time() - tunnel.since),
        size(tunnel.bytes_carried),
        str(tunnel.reconnects),
        str(tunnel.pid),
    )


def _style(row: Row) -> str:
    return "red" if row[3] == TunnelState.DEAD else ""


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    OpenTunnel: show_open,
    TunnelList: show_list,
    ClosedTunnels: reported_already,
}
