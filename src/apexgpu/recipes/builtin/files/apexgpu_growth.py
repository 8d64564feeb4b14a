"""TensorFlow 1 takes GPU memory as it needs it, where the program asks for nothing else. Put here by apexgpu.

A `.pth` file beside it imports it at every start of Python (2.7, 3.5 or newer). It waits for TensorFlow's session
module and gives a session without a config, or with one that says nothing of GPU memory, `allow_growth`. A config that
sets anything in `gpu_options` is the program's word and stays as it is. TF_FORCE_GPU_ALLOW_GROWTH=false switches it
off. From 1.12 on, TensorFlow reads that variable itself, and nothing here is needed.
"""

import os
import sys

_SESSIONS = "tensorflow.python.client.session"


def _new_config():
    for name in ("tensorflow.core.protobuf.config_pb2", "tensorflow"):
        kind = getattr(sys.modules.get(name), "ConfigProto", None)
        if kind is not None:
            return kind()
    return None


def _growing(config):
    """The config to take in place of `config`, which is never changed itself."""
    if config is None:
        config = _new_config()
    else:
        try:
            if config.HasField("gpu_options"):
                return config
            copy = type(config)()
            copy.CopyFrom(config)
            config = copy
        except Exception:  # nothing that we know: the program's word
            return config
    if config is not None:
        config.gpu_options.allow_growth = True
    return config


def _patch(kind):
    """Let the class begin with a growing config; once."""
    begin = kind.__init__
    if getattr(begin, "apexgpu_growth", False):
        return

    def __init__(self, target="", graph=None, config=None, *more, **named):  # noqa: N807 - it becomes one
        begin(self, target, graph, _growing(config), *more, **named)

    __init__.apexgpu_growth = True
    kind.__init__ = __init__


def _loaded(module):
    kind = getattr(module, "BaseSession" if module.__name__ == _SESSIONS else "Session", None)
    if isinstance(kind, type) and not (
        module.__name__ == "tensorflow" and _SESSIONS in sys.modules
    ):
        _patch(kind)


class _Finder:
    """Finds nothing itself: has what the others find looked at when it is loaded."""

    def find_spec(self, name, path=None, target=None):
        if name not in (_SESSIONS, "tensorflow"):
            return None
        for other in sys.meta_path:
            find = getattr(other, "find_spec", None)
            spec = find(name, path, target) if find is not None and other is not self else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    self._watch(spec.loader)
                return spec
        return None

    def _watch(self, loader):
        run = loader.exec_module

        def exec_module(module):
            run(module)
            _loaded(module)

        loader.exec_module = exec_module

    def find_module(self, name, path=None):  # Python 2
        if name not in (_SESSIONS, "tensorflow"):
            return None
        import imp

        try:
            self._found = imp.find_module(name.rpartition(".")[2], path)
        except ImportError:
            return None
        return self

    def load_module(self, name):
        import imp

        if name in sys.modules:
            return sys.modules[name]
        found = self._found
        try:
            module = imp.load_module(name, *found)
        finally:
            if found[0] is not None:
                found[0].close()
        _loaded(module)
        return module


if os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH", "true").lower() != "false":
    sys.meta_path.insert(0, _Finder())
