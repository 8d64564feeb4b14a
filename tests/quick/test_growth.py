"""The hook that makes TensorFlow 1 take memory as it needs it, in a real Python with a stand-in of it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from apexgpu.recipes import recipe

HOOK = recipe.PACKAGED / "files" / "apexgpu_growth.py"
CONFIG = '''
class GPUOptions(object):
    def __init__(self):
        self.allow_growth = False
        self.per_process_gpu_memory_fraction = 0.0
        self.visible_device_list = ""

    def __setattr__(self, name, value):
        object.__setattr__(self, name, value)
        if getattr(self, "owner", None) is not None:
            self.owner.said.add("gpu_options")


class ConfigProto(object):
    """As protobuf's: a message says whether anything in it was set, be it to its default."""

    def __init__(self, allow_soft_placement=False):
        self.allow_soft_placement = allow_soft_placement
        self.said = set()
        self.gpu_options = GPUOptions()
        object.__setattr__(self.gpu_options, "owner", self)

    def HasField(self, name):
        return name in self.said

    def CopyFrom(self, other):
        self.allow_soft_placement = other.allow_soft_placement
'''
SESSION = """
from tensorflow.core.protobuf import config_pb2


class BaseSession(object):
    def __init__(self, target="", graph=None, config=None):
        self._config = config


class Session(BaseSession):
    def __init__(self, target="", graph=None, config=None):
        super(Session, self).__init__(target, graph, config=config)


class InteractiveSession(BaseSession):
    def __init__(self, target="", graph=None, config=None):
        super(InteractiveSession, self).__init__(target, graph, config)
"""
TOP = """
from tensorflow.core.protobuf.config_pb2 import ConfigProto
from tensorflow.python.client.session import InteractiveSession, Session
"""
FLAT = (
    CONFIG
    + """
class Session(object):
    def __init__(self, target="", graph=None, config=None):
        self._config = config
"""
)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A directory of packages with the hook, its .pth file, and a TensorFlow made as the real one is."""
    room = tmp_path / "site-packages"
    for name, text in {
        "tensorflow/__init__.py": TOP,
        "tensorflow/core/__init__.py": "",
        "tensorflow/core/protobuf/__init__.py": "",
        "tensorflow/core/protobuf/config_pb2.py": CONFIG,
        "tensorflow/python/__init__.py": "",
        "tensorflow/python/client/__init__.py": "",
        "tensorflow/python/client/session.py": SESSION,
        "apexgpu_growth.py": HOOK.read_text(),
        "apexgpu_growth.pth": "import apexgpu_growth\n",
    }.items():
        path = room / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return room


def python(packages: Path, code: str, **environment: str) -> Any:
    """What `code` prints as JSON in a Python that has `packages` as a directory of packages (.pth files are read)."""
    begin = f"import json, site; site.addsitedir({str(packages)!r}); import tensorflow as tf\n"
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", begin + code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


SAY = "print(json.dumps({}))"
GROWS = SAY.format("s._config.gpu_options.allow_growth")


@pytest.mark.parametrize("kind", ["Session", "InteractiveSession"])
def test_a_session_without_a_config_grows(packages: Path, kind: str) -> None:
    assert python(packages, f"s = tf.{kind}(); {GROWS}") is True


@pytest.mark.parametrize(
    "call",
    [
        "Session(config=c)",
        "Session('', None, c)",
        "Session(graph=None, config=c)",
        "InteractiveSession('', None, c)",
    ],
)
def test_a_config_that_says_nothing_of_gpu_memory_grows_in_a_copy(
    packages: Path, call: str
) -> None:
    code = f"c = tf.ConfigProto(allow_soft_placement=True); s = tf.{call}; "
    grows = "s._config.gpu_options.allow_growth, c.gpu_options.allow_growth"
    same = "s._config.allow_soft_placement, s._config is c"
    assert python(packages, code + SAY.format(f"[{grows}, {same}]")) == [True, False, True, False]


@pytest.mark.parametrize(
    "line",
    [
        "c.gpu_options.allow_growth = False",
        "c.gpu_options.per_process_gpu_memory_fraction = 0.4",
        "c.gpu_options.visible_device_list = '1'",
        "c.gpu_options.allow_growth = True",
    ],
)
def test_a_config_that_says_something_of_it_is_the_programs_word(packages: Path, line: str) -> None:
    code = f"c = tf.ConfigProto(); {line}; before = c.gpu_options.allow_growth; s = tf.Session(config=c); "
    assert python(
        packages, code + SAY.format("[s._config is c, c.gpu_options.allow_growth == before]")
    ) == [True, True]


@pytest.mark.parametrize(
    ("value", "grows"), [("false", False), ("FALSE", False), ("true", True), ("", True)]
)
def test_the_variable_of_newer_ones_switches_it_off(
    packages: Path, value: str, grows: bool
) -> None:
    code = "s = tf.Session(); " + SAY.format("s._config is not None")
    assert python(packages, code, TF_FORCE_GPU_ALLOW_GROWTH=value) is grows


def test_a_config_of_another_kind_is_left_to_tensorflow(packages: Path) -> None:
    assert (
        python(packages, "c = object(); s = tf.Session(config=c); " + SAY.format("s._config is c"))
        is True
    )


def test_a_tensorflow_without_a_session_module_grows_too(packages: Path) -> None:
    (packages / "tensorflow" / "__init__.py").write_text(FLAT)
    assert python(packages, f"s = tf.Session(); {GROWS}") is True


def test_a_reload_does_not_begin_twice(packages: Path) -> None:
    code = "import importlib; importlib.reload(tf); importlib.reload(tf.python.client.session)\n"
    assert python(packages, f"{code}s = tf.python.client.session.Session(); {GROWS}") is True


def test_a_start_without_tensorflow_imports_nothing_more(packages: Path) -> None:
    add = f"site.addsitedir({str(packages)!r})"
    code = f"import site, sys; before = set(sys.modules); {add}; print(set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "{'apexgpu_growth'}"


def test_python_2_7_and_3_5_can_read_it() -> None:
    tree = ast.parse(HOOK.read_text(), feature_version=(3, 5))
    newer = (
        ast.JoinedStr,
        ast.AnnAssign,
        ast.NamedExpr,
        ast.Nonlocal,
        ast.AsyncFunctionDef,
        ast.YieldFrom,
    )
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, newer)] == []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None
            assert not node.args.kwonlyargs, "Python 2 has none"
            assert not any(one.annotation for one in node.args.args)
        if isinstance(node, ast.Call):
            assert not (
                isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args
            )
    assert HOOK.read_text().isascii()
