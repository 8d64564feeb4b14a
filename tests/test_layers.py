"""The house rules, enforced: who may import whom, and one owner for each library."""

import ast
import re
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "apexgpu"
MODULES = {
    path.relative_to(SOURCE).with_suffix("").as_posix(): path
    for path in sorted(SOURCE.rglob("*.py"))
}

OWNERS = {
    "subprocess": {
        "process",
        "jobs",
        "story",
        "lab/",
        "there/",
    },  # there: in the container, where nothing of ours is
    "rich": {"render"},
    "typer": {"app", "commands/"},
    "paramiko": {"ssh/paramiko_link", "ssh/identities"},
    "httpx": {"iam/client", "iam/iamhttp"},
    "keyring": {"iam/passwords"},
    "sshconf": {"dotssh/sshconfig"},
    "platformdirs": {"settings", "completion"},
    "filelock": {"files"},
    "shellingham": {"commands/shell"},
    "asyncssh": {"lab/", "commands/lab"},
    "h11": {"lab/", "commands/lab"},
}
# What the lab may take from the rest: it must not share code with what reads its words.
LAB_MAY_IMPORT = {"errors", "files", "lab"}
# Beside those whose first words say so.
PURE = {
    "backups/archives",
    "copy/copypaths",
    "copy/entries",
    "dotssh/sshconfig",
    "errors",
    "hosts/disks",
    "hosts/replies",
    "iam/iamconfig",
    "models",
    "ssh/sshoptions",
    "text",
    "there/xwire",
    "xwindows/x11",
    "xwindows/x11local",
    "xwindows/x11there",
}
# Which package may rest on which: on lower numbers only.
FLOORS = {
    "iam": 1,
    "dotssh": 2,
    "ssh": 3,
    "hosts": 4,
    "backups": 5,
    "copy": 5,
    "gpu": 5,
    "tunnel": 5,
    "xwindows": 5,
    "mount": 6,
    "software": 6,
}
WORLD = {"subprocess", "socket", "httpx", "paramiko", "os", "tempfile"}


def imports(path: Path) -> set[str]:
    """The dotted names that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own(names: set[str]) -> set[str]:
    """The floors of the house among `names`: `ssh` for `apexgpu.ssh.transport`, `kit` for `apexgpu.kit`."""
    return {name.split(".")[1] for name in names if name.startswith("apexgpu.")}


def test_each_library_has_its_owner() -> None:
    stray = [
        f"{module} imports {library}"
        for module, path in MODULES.items()
        for library in {name.split(".")[0] for name in imports(path)} & OWNERS.keys()
        if not any(
            module == owner or (owner.endswith("/") and module.startswith(owner))
            for owner in OWNERS[library]
        )
    ]
    assert stray == []


def test_one_room_says_with_which_options_ssh_goes() -> None:
    owned = (
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "ServerAliveInterval=",
        "ConnectTimeout=",
    )
    stray = [
        f"{module}: {option}"
        for module, path in MODULES.items()
        if module != "ssh/sshoptions" and not module.startswith("lab/")
        for option in owned
        if option in path.read_text()
    ]
    assert stray == []


def test_the_lab_shares_no_code_with_what_reads_its_words() -> None:
    stray = {
        module: sorted(own(imports(path)) - LAB_MAY_IMPORT)
        for module, path in MODULES.items()
        if module.startswith("lab/") and own(imports(path)) - LAB_MAY_IMPORT
    }
    assert stray == {}


def test_only_the_front_door_and_commands_know_commands() -> None:
    stray = [
        module
        for module, path in MODULES.items()
        if "commands" in own(imports(path))
        and not module.startswith("commands/")
        and module not in {"app", "cli"}
    ]
    assert stray == []


def test_floors_rest_on_lower_ones_alone() -> None:
    stray = []
    for module, path in MODULES.items():
        floor = module.partition("/")[0]
        if floor in FLOORS:
            stray += [
                f"{module} imports {name}"
                for name in sorted(own(imports(path)) & FLOORS.keys())
                if name != floor and FLOORS[name] >= FLOORS[floor]
            ]
    assert stray == []


def test_no_floor_knows_the_front_of_the_house() -> None:
    front = {
        "app",
        "board",
        "cli",
        "commands",
        "completion",
        "doctor",
        "kit",
        "lab",
        "render",
        "story",
        "uninstall",
    }
    stray = {
        module: sorted(own(imports(path)) & front)
        for module, path in MODULES.items()
        if module.partition("/")[0] in FLOORS and own(imports(path)) & front
    }
    assert stray == {}


def test_pure_rooms_touch_nothing() -> None:
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


def test_names_say_what_is_in_the_room() -> None:
    assert [name for name in MODULES if re.search(r"util|helper|common|misc", name)] == []
    classes = [
        f"{module}:{node.name}"
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Manager")
    ]
    assert classes == []


def test_every_module_says_what_lives_in_it() -> None:
    assert [
        name for name, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text()))
    ] == []
