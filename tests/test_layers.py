"""The rules of the architecture (CONTRIBUTING.md), enforced: who may import whom, one owner for each library.

From the top: the entry (`__main__`, `cli`), `commands`, the user-level modules, then one package per technology, then
what everybody may use (`errors`, `models`, `files` ...). Imports go down this list only.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "apexgpu"
LAB = SOURCE.parent / "apexgpu_lab"
MODULES = {
    path.relative_to(SOURCE).with_suffix("").as_posix(): path
    for path in sorted(SOURCE.rglob("*.py"))
    if "builtin/files" not in path.as_posix()  # sent into containers
}

OWNERS = {
    "subprocess": {"process", "remote/programs/"},  # programs run in a container, without apexgpu
    "rich": {"render/", "reporter"},
    "typer": {"cli", "commands/"},
    "paramiko": {"ssh/paramikoclient", "ssh/identities"},
    "httpx": {"iam/httpfetch"},
    "keyring": {"iam/passwords"},
    "sshconf": {"sshfiles/configblock"},
    "platformdirs": {"settings", "completion"},
    "filelock": {"files"},
    "shellingham": {"shellcompletion"},
}

USER_LEVEL = (
    "credentials",
    "sshconfig",
    "keys",
    "containers",
    "shells",
    "editors",
    "ports",
    "login",
    "backups",
    "tunnels",
    "webapps",
    "mount",
    "copying",
    "x11",
    "gpus",
    "runs",
    "runstart",
    "software",
    "shellcompletion",
    "preferences",
    "explain",
    "overview",
    "doctor",
    "uninstall",
)
"""One module for each thing that a member does, in an order in which each may import those before it."""

TECHNOLOGY = {
    "platforms": 0,
    "iam": 1,
    "sshfiles": 2,
    "ssh": 3,
    "remote": 4,
    "manageshell": 5,
    "archives": 6,
    "transfer": 6,
    "nvidia": 6,
    "forwarding": 6,
    "xserver": 6,
    "sshfs": 7,
    "detached": 7,
    "recipes": 7,
}
"""The packages, one per technology. Each may import those with a lower number."""

FOR_COMMANDS = {
    *USER_LEVEL,
    "labvariables",
    "session",
    "reporter",
    "results",
    "errors",
    "models",
    "commands",
}
"""What a command may import beside typer."""

FOR_THE_LAB = {"errors", "files", "platforms", "results"}
"""What the lab may import: nothing that reads what the lab writes."""

# Pure modules beside those whose docstrings say so.
PURE = {
    "errors",
    "iam/hostlist",
    "manageshell/archivereplies",
    "manageshell/replies",
    "models",
    "remote/disks",
    "remote/programs/xwire",
    "ssh/sshoptions",
    "sshfiles/configblock",
    "sshfiles/inventory",
    "text",
    "transfer/copypaths",
    "transfer/copyplan",
    "transfer/fileinfo",
    "transfer/sftppackets",
    "xserver/sshforwarding",
    "xserver/localchecks",
    "xserver/containerchecks",
}
WORLD = {"subprocess", "socket", "httpx", "paramiko", "os", "tempfile"}


def imports(path: Path) -> set[str]:
    """The dotted names that a module imports, anywhere in it. What only a type checker imports is not among them."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_modules(path: Path) -> set[str]:
    """The modules of apexgpu that a module imports, as paths: `ssh/transport`, `session`."""
    found = set()
    for name in imports(path):
        if not name.startswith("apexgpu."):
            continue
        parts = name.removeprefix("apexgpu.").split(".")
        # The name of a class or a function stands behind its module's.
        for length in range(len(parts), 0, -1):
            module = "/".join(parts[:length])
            if module in MODULES or f"{module}/__init__" in MODULES:
                found.add(module)
                break
    return found


def packages(path: Path) -> set[str]:
    """The parts of apexgpu at the top of `src/apexgpu` that a module imports."""
    return {module.partition("/")[0] for module in own_modules(path)}


def owns(owners: set[str], module: str) -> bool:
    """Whether `module` is among `owners`, where `commands/` means all that is in it."""
    return any(
        module == owner or (owner.endswith("/") and module.startswith(owner)) for owner in owners
    )


def test_each_library_has_one_owner() -> None:
    stray = [
        (module, library)
        for module, path in MODULES.items()
        for library in sorted({name.split(".")[0] for name in imports(path)} & OWNERS.keys())
        if not owns(OWNERS[library], module)
    ]
    assert stray == []


def test_only_the_labs_own_commands_and_uninstall_know_the_lab() -> None:
    stray = [
        module
        for module, path in MODULES.items()
        if any(name.startswith("apexgpu_lab") for name in imports(path))
        and not module.startswith("commands/")
        and module not in {"render/demo", "render/lab", "uninstall"}
    ]
    assert stray == []


def test_the_lab_shares_no_code_with_what_reads_its_replies() -> None:
    stray = {
        path.name: sorted(packages(path) - FOR_THE_LAB)
        for path in sorted(LAB.rglob("*.py"))
        if packages(path) - FOR_THE_LAB
    }
    assert stray == {}


def test_only_the_entry_imports_commands() -> None:
    stray = [
        module
        for module, path in MODULES.items()
        if "commands" in packages(path)
        and not module.startswith("commands/")
        and module not in {"cli", "__main__"}
    ]
    assert stray == []


def test_commands_import_user_level_modules_alone() -> None:
    stray = {
        module: sorted(packages(path) - FOR_COMMANDS)
        for module, path in MODULES.items()
        if module.startswith("commands/") and packages(path) - FOR_COMMANDS
    }
    assert stray == {}


def test_user_level_modules_import_downwards() -> None:
    stray = []
    for place, module in enumerate(USER_LEVEL):
        if module in MODULES:
            above = {*USER_LEVEL[place:], "commands", "cli", "render"} - {module}
            stray += [f"{module} imports {name}" for name in packages(MODULES[module]) & above]
    assert stray == []


def test_user_level_modules_neither_print_nor_exit() -> None:
    stray = []
    for module in USER_LEVEL:
        if module not in MODULES:
            continue
        for node in ast.walk(ast.parse(MODULES[module].read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in {"print", "exit", "sys.exit", "input"} or called.startswith("sys.std"):
                stray.append(f"{module}: {called}")
    assert stray == []


def test_technology_packages_import_downwards() -> None:
    above = {*USER_LEVEL, "commands", "cli", "manyhosts", "session", "render"}
    stray = []
    for module, path in MODULES.items():
        package = module.partition("/")[0]
        if package not in TECHNOLOGY:
            continue
        for name in sorted(packages(path) - {package}):
            if name in above or TECHNOLOGY.get(name, 0) >= TECHNOLOGY[package]:
                stray.append(f"{module} imports {name}")
    assert stray == []


def circles() -> Iterator[list[str]]:
    """The modules that import each other in a circle, wherever in them the imports are."""
    graph = {module: own_modules(path) - {module} for module, path in MODULES.items()}
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> Iterator[list[str]]:
        if module in way:
            yield way[way.index(module) :]
        elif module not in done:
            for other in sorted(graph.get(module, ())):
                yield from walk(other, [*way, module])
            done.add(module)

    for module in graph:
        yield from walk(module, [])


def test_there_are_no_import_cycles() -> None:
    assert list(circles()) == []


def test_one_module_knows_the_options_of_ssh() -> None:
    owned = (
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "ServerAliveInterval=",
        "ConnectTimeout=",
    )
    stray = [
        f"{module}: {option}"
        for module, path in MODULES.items()
        if module != "ssh/sshoptions"
        for option in owned
        if option in path.read_text()
    ]
    assert stray == []


def test_only_manageshell_contains_what_a_manage_shell_prints() -> None:
    printed = (
        "Hi, ",
        "Have a good day",
        "Welcome to APEX",
        "The container is up",
        "Current port forward",
        "Unmapping port",
        "Saved to:",
        "Invalid token",
        "already exist",
        "NVIDIA driver version mismatch",
    )
    stray = [
        f"{module}: {text}"
        for module, path in MODULES.items()
        if not module.startswith("manageshell/")
        for text in printed
        if text in path.read_text()
    ]
    assert stray == []


def test_pure_modules_touch_nothing() -> None:
    said = {
        name
        for name, path in MODULES.items()
        if re.search(r"\bPure\b", path.read_text().split('"""')[1])
    }
    stray = {
        name: sorted(imports(MODULES[name]) & WORLD)
        for name in PURE | said
        if imports(MODULES[name]) & WORLD
    }
    assert stray == {}


def test_nothing_posix_only_is_imported_at_import_time() -> None:
    posix = {"pwd", "grp", "fcntl", "termios", "resource", "pty", "tty"}
    stray = []
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
            stray += [f"{module}: {name}" for name in names & posix]
    assert stray == []


def test_names_say_what_a_module_is_for() -> None:
    assert [name for name in MODULES if re.search(r"util|helper|common|misc", name)] == []
    classes = [
        f"{module}:{node.name}"
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Manager")
    ]
    assert classes == []


def test_every_module_has_a_docstring() -> None:
    assert [
        name for name, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text()))
    ] == []
