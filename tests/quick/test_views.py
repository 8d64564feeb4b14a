"""Every result of a command has a view: without one, a person would see nothing."""

import importlib
import inspect

import pytest
from tests.test_layers import USER_LEVEL

from apexgpu.results import Result

MODULES = [*(f"apexgpu.{name}" for name in USER_LEVEL), "apexgpu_lab.lab", "apexgpu_lab.demo"]

PARTS = {"KeyOnHosts"}
"""Results that are a part of another one, so that no function returns them."""


def returned(module: str) -> list[type[Result]]:
    """The results that a module's public functions return."""
    found = []
    for _, member in inspect.getmembers(importlib.import_module(module), inspect.isclass):
        if member.__module__ != module or member.__name__ in PARTS:
            continue
        if issubclass(member, Result):
            found.append(member)
    return found


@pytest.mark.parametrize("module", [name for name in MODULES if returned(name)])
def test_every_result_has_a_view(module: str) -> None:
    name = module.rpartition(".")[2]
    views = importlib.import_module(f"apexgpu.render.{name}").VIEWS
    assert [result.__name__ for result in returned(module) if result not in views] == []
