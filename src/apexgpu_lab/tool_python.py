"""The Pythons of a container: they run code as usual, and report the versions of its distribution.

There is no other Python on this machine than the one that runs the lab, so this one runs everything.
What recipes look at is that of the container: the version, the prefix, the packages of the
environment and nobody else's, and that a part of the distribution is missing until apt installs it.
A container that is not Ubuntu 16.04 or 18.04 gets this Python's own version. Standard library only.
"""

import io
import os
import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

CONTAINER = Path(os.environ.get("APEXGPU_LAB_CONTAINER", "."))
RELEASES = {"2.7": "2.7.12", "3.5": "3.5.2", "3.6": "3.6.9"}
"""The Pythons of the two Ubuntus that the lab's containers can be."""

_SYSTEM_PYTHON = {"16.04": "3.5", "18.04": "3.6"}
_TAKES_VALUE = "cmWX"
_PACKAGE_TOOLS = frozenset({"ensurepip", "ipykernel", "pip", "venv", "virtualenv"})


class Version(tuple[Any, ...]):
    """As sys.version_info, whose own class cannot be called."""

    __slots__ = ()
    major = property(lambda self: self[0])
    minor = property(lambda self: self[1])
    micro = property(lambda self: self[2])
    releaselevel = property(lambda self: self[3])
    serial = property(lambda self: self[4])


class Python(NamedTuple):
    """One Python: its program, its version, its environment (None: the system's own), its packages."""

    program: Path
    version: str
    environment: Path | None
    packages: Path

    @property
    def short(self) -> str:
        """`3.5` for `3.5.2`."""
        return ".".join(self.version.split(".")[:2])


class Options(NamedTuple):
    """The command line: single letters, `-c` or `-m` with its text, and what the program gets."""

    letters: str
    kind: str
    text: str
    arguments: list[str]


def rootfs() -> Path:
    """The file system of this container."""
    return CONTAINER / "rootfs"


def system_version() -> str:
    """The Python 3 of the container's distribution, such as `3.5`; this Python's own on any other."""
    try:
        text = (rootfs() / "etc" / "os-release").read_text(encoding="utf-8")
    except OSError:
        text = ""
    release = re.search(r'^VERSION_ID="?([\d.]+)', text, re.MULTILINE)
    own = "{}.{}".format(*sys.version_info[:2])
    return _SYSTEM_PYTHON.get(release[1] if release else "", own)


def is_installed(package: str) -> bool:
    """Whether apt has installed a package, see tool_packages."""
    try:
        status = (rootfs() / "var/lib/dpkg/status").read_text(encoding="utf-8")
    except OSError:
        return False
    return f"\nPackage: {package}\n" in f"\n{status}"


def find_python(program: Path) -> Python | None:
    """The Python that a program is, None if it is not installed."""
    environment = program.parent.parent
    try:
        text = (environment / "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return _system_python(program)
    version = re.search(r"^version = ([\d.]+)$", text, re.MULTILINE)
    if version is None:
        return None
    short = ".".join(version[1].split(".")[:2])
    if not (rootfs() / "usr" / "bin" / f"python{short}").exists():
        return None
    packages = environment / "lib" / f"python{short}" / "site-packages"
    return Python(program, version[1], environment, packages)


def _system_python(program: Path) -> Python | None:
    system = system_version()
    wanted = program.name.removeprefix("python")
    short = {"": system, "3": system, "2": "2.7"}.get(wanted, wanted)
    if short != system and not is_installed(f"python{short}"):
        return None
    own = "{}.{}.{}".format(*sys.version_info[:3])
    packages = rootfs() / "usr/local/lib" / f"python{short}" / "dist-packages"
    return Python(program, RELEASES.get(short, own), None, packages)


def parse(words: Sequence[str]) -> Options:
    """The command line of a Python."""
    letters = ""
    remaining = list(words)
    while remaining and remaining[0].startswith("-") and remaining[0] != "-":
        word = remaining.pop(0)
        if word.startswith("--"):
            letters += "V" if word == "--version" else ""
            continue
        for place, letter in enumerate(word[1:], 1):
            letters += letter
            if letter not in _TAKES_VALUE:
                continue
            value = word[place + 1 :] or (remaining.pop(0) if remaining else "")
            if letter in "cm":
                return Options(letters, letter, value, remaining)
            break
    if remaining and remaining[0] != "-":
        return Options(letters, "file", remaining[0], remaining[1:])
    return Options(letters, "stdin", "", remaining[1:])


def report_version(python: Python) -> None:
    """Let `sys` report the Python of the container."""
    numbers = [int(part) for part in python.version.split(".")]
    info = Version((*numbers, "final", 0))
    system: Any = sys
    system.version_info = info
    system.hexversion = numbers[0] << 24 | numbers[1] << 16 | numbers[2] << 8 | 0xF0
    system.version = f"{python.version} (default, Nov 17 2016, 17:05:23) \n[GCC 5.4.0 20160609]"


def set_paths(python: Python, options: Options) -> None:
    """Give this process the prefix and the packages of the container's Python, and no others."""
    sys.executable = str(python.program)
    prefix = python.environment or rootfs() / "usr"
    sys.prefix = sys.exec_prefix = str(prefix)
    isolated = "I" in options.letters
    if not isolated and "E" not in options.letters:
        for directory in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
            if directory:
                sys.path.insert(0, directory)
    import site

    user = Path.home() / ".local" / "lib" / f"python{python.short}" / "site-packages"
    without_user = isolated or "s" in options.letters or os.environ.get("PYTHONNOUSERSITE")
    if python.environment is None and not without_user and user.is_dir():
        site.addsitedir(str(user))
    if python.packages.is_dir():
        site.addsitedir(str(python.packages))
    sys.meta_path.insert(0, _MissingParts(python))


class _MissingParts:
    """Hides what the distribution has in a package of its own, until that is installed."""

    def __init__(self, python: Python) -> None:
        self._python = python

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raise for a module that is missing; find nothing."""
        if name == "ensurepip" and not has_ensurepip(self._python):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


def has_ensurepip(python: Python) -> bool:
    """Whether this Python can put pip into a new environment: in a package of its own on Debian and Ubuntu."""
    return any(is_installed(name) for name in (f"python{python.short}-venv", "python3-venv"))


def show_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a traceback without the frames of this file."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)


def run(python: Python, options: Options) -> int:
    """Run what the command line asks for."""
    isolated = "I" in options.letters
    if options.kind == "m":
        return _run_module(python, options, isolated=isolated)
    main = ModuleType("__main__")
    sys.modules["__main__"] = main
    if options.kind == "c":
        name, source, first = "<string>", options.text, ""
        sys.argv = ["-c", *options.arguments]
    elif options.kind == "file":
        path = Path(options.text)
        try:
            source = path.read_text(encoding="utf-8")
        except OSError as error:
            reason = f"[Errno {error.errno}] {error.strerror}"
            sys.stderr.write(f"{python.program}: can't open file '{options.text}': {reason}\n")
            return 2
        name, first = options.text, str(path.absolute().parent)
        sys.argv = [options.text, *options.arguments]
        main.__file__ = options.text
    else:
        sys.argv = ["-", *options.arguments] if options.arguments else [""]
        if sys.stdin.isatty():
            return _interact(python, main)
        name, source, first = "<stdin>", sys.stdin.read(), ""
    if not isolated:
        sys.path.insert(0, first)
    exec(compile(source, name, "exec"), main.__dict__)  # noqa: S102 - this is what a Python does
    return 0


def write_at_once() -> None:
    """What `-u` does: output is not kept until there is a block of it. A server's first line is waited for."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        encoding = getattr(sys, name).encoding
        raw = open(descriptor, "wb", buffering=0, closefd=False)  # noqa: SIM115 - open to the end
        setattr(sys, name, io.TextIOWrapper(raw, encoding=encoding, write_through=True))


def _interact(python: Python, main: ModuleType) -> int:
    import code

    sys.path.insert(0, "")
    banner = f"Python {sys.version} on linux"
    code.interact(banner=banner, local=main.__dict__, exitmsg="")
    return 0


def _run_module(python: Python, options: Options, *, isolated: bool) -> int:
    """`-m NAME`: the package tools are stand-ins too."""
    if options.text in _PACKAGE_TOOLS:
        tools = runpy.run_path(str(Path(__file__).with_name("tool_pip.py")))
        return int(tools["main"](python, options.text, options.arguments))
    sys.argv = [options.text, *options.arguments]
    if not isolated:
        sys.path.insert(0, "")
    try:
        runpy.run_module(options.text, run_name="__main__", alter_sys=True)
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] != options.text.split(".")[0]:
            raise
        sys.stderr.write(f"{python.program}: No module named {options.text}\n")
        return 1
    return 0


def start(program: str, words: Sequence[str]) -> int:
    """Be the Python that is called `program`."""
    python = find_python(Path(program).absolute())
    if python is None:
        sys.stderr.write(f"sh: 1: {Path(program).name}: not found\n")
        return 127
    options = parse(words)
    if "V" in options.letters:
        sys.stdout.write(f"Python {python.version}\n")
        return 0
    if "u" in options.letters:
        write_at_once()
    report_version(python)
    set_paths(python, options)
    sys.excepthook = show_exception
    return run(python, options)


if __name__ == "__main__":
    sys.exit(start(sys.argv[1], sys.argv[2:]))
