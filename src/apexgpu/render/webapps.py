"""How the results of `apexgpu.webapps` look."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.render.screen import Screen, reported_already
from apexgpu.render.tunnels import show_forward
from apexgpu.webapps import ShownServer, StoppedServers


def show_server(result: ShownServer, screen: Screen) -> None:
    """The address of the page, and where it leads."""
    show_forward(result.url, result.tunnel, result.tunnel.forwards[0], screen)


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    ShownServer: show_server,
    StoppedServers: reported_already,
}
