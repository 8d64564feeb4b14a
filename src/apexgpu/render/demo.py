"""The result of `apexgpu_lab.demo` needs no drawing: the demo prints its steps while it plays."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.render.screen import Screen, reported_already
from apexgpu_lab.demo import Demo

VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {Demo: reported_already}
