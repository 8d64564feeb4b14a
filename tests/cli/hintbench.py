"""A laptop in front of a lab on which errors are provoked and their hints pasted into a real shell.

The bench knows what nobody may lose: the files of the container, of the laptop and of the NAS, and the keys in IAM. It
compares them before a member pastes anything and afterwards, by their content: a file that has only moved is not lost.
After each case everything is as it was, so that the cases are independent of each other.
"""

import hashlib
import io
import itertools
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apexgpu import cli
from apexgpu.render.screen import Screen
from apexgpu.session import Session
from apexgpu_lab.faults import HOST_KINDS, IAM_KINDS
from apexgpu_lab.inprocess import Lab, running
from tests import agents

LIMIT = 120
ENDLESS = {"tunnel", "tensorboard", "jupyter"}
"""Commands that run until Ctrl-C, unless they are told to stay in the background."""
LOOK = 6
"""Seconds that one of those is watched."""
SSH_LOOK = 25
"""Seconds after which a member gives up a plain ssh: later than its own time limit."""

OWN_STANZA = "Host own\n    HostName 192.0.2.7\n"
"""What the member has in their ssh config beside the lab's hosts."""

_EDITOR = """#!/bin/sh
case $1 in
  --version) echo 1.105.1; echo 0123abcd; echo x64 ;;
  --list-extensions) echo ms-vscode-remote.remote-ssh ;;
esac
"""
# Installs what it is asked for, where a program of /usr/bin was hidden.
_SUDO = """#!/bin/sh
[ "$1 $2" = "apt install" ] || exit 0
for package in $3 $4; do
  case $package in
    openssh-client) programs="ssh ssh-keygen ssh-add sftp" ;;
    *) programs=$package ;;
  esac
  for program in $programs; do ln -sf /usr/bin/$program {programs}/$program; done
done
"""


@dataclass(frozen=True)
class Shown:
    """How a command ended, and what it showed. `codes` are those of its errors, where it ran in this process."""

    status: int
    out: str
    err: str
    codes: frozenset[str] = frozenset()

    @property
    def hints(self) -> list[tuple[str, str]]:
        """Each problem with the hint below it, in the order of the output: errors, then checks."""
        return [*_pairs(self.out, _CHECK, _CHECK_HINT), *_pairs(self.err, _ERROR, _ERROR_HINT)]

    @property
    def without_hint(self) -> list[str]:
        """Errors that leave their reader alone."""
        lines = [*self.err.splitlines(), ""]
        found = []
        for line, after in itertools.pairwise(lines):
            if _ERROR.match(line) and not _ERROR_HINT.match(after):
                found.append(line)
        return found

    @property
    def error(self) -> tuple[str, str] | None:
        """The problem to solve, and its hint: the last error, or the first check that failed."""
        errors = _pairs(self.err, _ERROR, _ERROR_HINT)
        if errors:
            return errors[-1]
        checks = _pairs(self.out, _CHECK, _CHECK_HINT)
        return checks[0] if checks and self.status else None


_ERROR = re.compile(r"error: (.*)")
_ERROR_HINT = re.compile(r" hint: (.*)")
_CHECK = re.compile(r"(?:problem|broken|busy|slow|unknown) +(.*)")
_CHECK_HINT = re.compile(r" {8}hint: +(.*)")


def _pairs(text: str, problem: re.Pattern[str], hint: re.Pattern[str]) -> list[tuple[str, str]]:
    found = []
    lines = [*text.splitlines(), ""]
    for line, after in itertools.pairwise(lines):
        first, second = problem.match(line), hint.match(after)
        if first and second:
            found.append((first[1], second[1]))
    return found


class _Recorder(Screen):
    """A screen that notes the codes of what it shows."""

    def __init__(self, out: io.StringIO, err: io.StringIO, stdin: io.StringIO) -> None:
        super().__init__(out=out, err=err, stdin=stdin)
        self.codes: set[str] = set()
        show_error = self.reporter.error

        def note_error(error: Any, *, host: str | None = None) -> None:
            self.codes.add(error.code)
            show_error(error, host=host)

        self.reporter.error = note_error  # type: ignore[method-assign]

    def verdict(
        self, word: str, what: str, fact: str, *, hint: str | None = None, code: str | None = None
    ) -> None:
        """See Screen."""
        if code is not None and word in {"problem", "broken", "busy", "slow", "unknown"}:
            self.codes.add(code)
        super().verdict(word, what, fact, hint=hint, code=code)


@dataclass
class Bench:
    """The laptop and its shell. The container on gpu2 runs, that on gpu3 is stopped."""

    lab: Lab
    home: Path
    programs: Path
    directory: Path
    saved: dict[str, Any] = field(default_factory=dict)
    faults: ExitStack = field(default_factory=ExitStack)

    # Running commands

    def provoke(self, line: str, stdin: str = "") -> Shown:
        """Run `apexgpu …` in this process, which tells the codes of its errors."""
        words = shlex.split(line)
        assert words[0] == "apexgpu"
        out, err = io.StringIO(), io.StringIO()
        given = io.StringIO(stdin.replace("{password}", self.lab.password("alice")))
        screen = _Recorder(out, err, given)
        here = _working_directory()
        status = cli.main(words[1:], Session(environment=os.environ), screen)
        if here is not None:
            with suppress(OSError):  # it was in a mount that is gone
                os.chdir(here)
        return Shown(status, out.getvalue(), err.getvalue(), frozenset(screen.codes))

    def paste(self, line: str, stdin: str = "") -> Shown:
        """Type a line into the member's bash, which remembers variables and its directory."""
        script = (
            f'. "{self.directory}/variables" 2>/dev/null\n'
            f'cd "$(cat {self.directory}/where)" 2>/dev/null\n'
            f"{line}\n"
            f"status=$?\nexport -p >{self.directory}/variables\npwd >{self.directory}/where\nexit $status\n"
        )
        given = stdin.replace("{password}", self.lab.password("alice"))
        # Into files: a program in the background would keep a pipe open.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            with tempfile.TemporaryFile("w+") as typed:
                typed.write(given)
                typed.seek(0)
                child = subprocess.Popen(
                    ["bash", "--norc", "-c", script],
                    stdin=typed,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            limit = LIMIT
            if _is_endless(line):
                limit = SSH_LOOK if line.startswith("ssh ") else LOOK
            status = _wait(child, limit, interrupt=_is_endless(line))
            out.seek(0)
            err.seek(0)
            return Shown(status, out.read(), err.read())

    # Faults

    def set(self, fault: str) -> None:
        """Let something be wrong: a fault of the lab, or one of `FAULTS`."""
        if fault in FAULTS:
            self.faults.enter_context(FAULTS[fault](self))
        else:
            where, kind = fault.split(":")
            self.lab.fault(where, kind)
        # A shell that is opened now has these variables.
        self.open_shell()

    def end_faults(self) -> None:
        """End everything that is wrong. What the member's shell has learned, it keeps."""
        self.faults.close()
        for host in self.lab.status()["hosts"]:
            for kind in HOST_KINDS:
                if kind != "half-made":
                    self.lab.clear(host["host"], kind)
        for kind in IAM_KINDS:
            self.lab.clear("iam", kind)

    def open_shell(self) -> None:
        """A new terminal."""
        here = _working_directory()
        (self.directory / "variables").write_text(_exports())
        (self.directory / "where").write_text(f"{here or '/nowhere'}\n")

    # What nobody may lose

    def treasures(self, command: str) -> dict[str, str]:
        """Names of what is valuable, by the digest of its content.

        `command` is what the member runs: who rebuilds a container gives its files up.
        """
        found = {}
        for root in self._valuable_places(command):
            for path in sorted(root.rglob("*")):
                if path.is_file() and not path.is_symlink() and not self._is_ours(path):
                    found[hashlib.sha256(path.read_bytes()).hexdigest()] = str(path)
        for line in self.iam_keys().splitlines():
            found[line] = "a key in IAM"
        config = self.lab.layout.ssh_config
        if config.exists() and OWN_STANZA in config.read_text():
            found[OWN_STANZA] = str(config)
        return found

    def _valuable_places(self, command: str) -> list[Path]:
        layout = self.lab.layout
        places = [layout.home / "nas", self.home, layout.ssh_config.parent]
        if command != "rebuild":
            places.append(layout.home / "hosts/gpu2/alice/rootfs/home")
        return places

    def _is_ours(self, path: Path) -> bool:
        """What apexgpu itself writes, and may write anew."""
        parts = {"apexgpu", ".cache", "etc"} & set(path.parts[len(self.directory.parts) :])
        names = path.name.startswith(("known_hosts", "authorized_keys", "config"))
        return bool(parts) or names

    def iam_keys(self) -> str:
        return self.lab.call(lambda lab_state: lab_state.users.keys.get("alice", ""))

    def container(self, host: str = "gpu2") -> Any:
        return self.lab.call(lambda lab_state: lab_state.host(host).accounts["alice"].container)

    @property
    def started(self) -> tuple[bool, float]:
        """Whether the container on gpu2 runs, and since when."""
        container = self.container()
        return container.running, container.started

    # As it was

    def remember(self) -> None:
        """Keep how everything is now; `reset` goes back to it."""
        for number, place in enumerate(self._places()):
            shutil.copytree(
                place, self.directory / f"saved/{number}", symlinks=True, dirs_exist_ok=True
            )
        self.saved["keys"] = self.iam_keys()
        self.saved["environment"] = dict(os.environ)
        self.open_shell()

    def reset(self) -> None:
        """Undo what a case has done."""
        self.end_faults()
        self._unmount()
        if any(self.lab.layout.state.rglob("*tunnel*")):
            self.provoke("apexgpu tunnels close --all")
        os.environ.clear()
        os.environ |= self.saved["environment"]
        os.chdir(self.home)
        for number, place in enumerate(self._places()):
            _mirror(self.directory / f"saved/{number}", place)
        self.lab.call(self._restore_lab)
        self.open_shell()
        running, _ = self.started
        if running and self.provoke("apexgpu ssh gpu2 -- true").status == 0:
            return
        # A new start reads the container's host key anew, which a recover may have changed.
        self.lab.call(_stop)
        shown = self.provoke("apexgpu up gpu2 --accept-new")
        assert shown.status == 0, shown.err

    def _unmount(self) -> None:
        for line in Path("/proc/self/mounts").read_text().splitlines():
            directory = line.split()[1]
            if directory.startswith(f"{self.home}/"):
                subprocess.run(["fusermount3", "-uz", directory], check=True, capture_output=True)

    def _places(self) -> list[Path]:
        layout = self.lab.layout
        return [
            self.home,
            layout.ssh_config.parent,
            layout.config,
            layout.state,
            layout.home / "nas",
            layout.home / "bin",
            layout.home / "hosts/gpu2/alice/rootfs",
        ]

    def _restore_lab(self, lab_state: Any) -> None:
        lab_state.users.keys["alice"] = self.saved["keys"]
        for host in lab_state.hosts.values():
            account = host.accounts.get("alice")
            if account is None or account.container is None:
                lab_state.register(host, "alice")
                continue
            account.keys = self.saved["keys"]
            account.container.owned = account.container.intact = True
            lab_state.push(host, "alice")
        stopped = lab_state.host("gpu3")
        container = stopped.accounts["alice"].container
        if container.running:
            lab_state.halt(stopped, container)


def _working_directory() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:
        return None


def _exports() -> str:
    return "".join(
        f"export {name}={shlex.quote(value)}\n"
        for name, value in os.environ.items()
        if name.isidentifier()
    )


def _is_endless(line: str) -> bool:
    words = line.split()
    if "--help" in words or "--background" in words:
        return False
    if words[0] == "ssh":
        return True  # a host that hangs after the login
    return "--watch" in words or (words[:1] == ["apexgpu"] and bool(ENDLESS & set(words[1:2])))


def _wait(child: "subprocess.Popen[bytes]", limit: float, *, interrupt: bool) -> int:
    """Wait for the end of a shell; one that is to be interrupted counts as well."""
    try:
        return child.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGINT)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        assert interrupt, f"no end within {limit} s"
        return 0


def _mirror(source: Path, target: Path) -> None:
    """Give `target` the content of `source`, and remove what else it has."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(target.rglob("*"), reverse=True):
        twin = source / path.relative_to(target)
        if not twin.exists() and not twin.is_symlink():
            _remove(path)
    for path in sorted(source.rglob("*")):
        _copy(path, target / path.relative_to(source))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        with suppress(OSError):  # it is not empty: a socket is in it
            path.rmdir()
    elif not path.is_socket():
        path.unlink()


def _copy(path: Path, twin: Path) -> None:
    if path.is_symlink():
        if not twin.is_symlink():
            twin.symlink_to(path.readlink())
        return
    if path.is_dir():
        twin.mkdir(exist_ok=True)
    elif not twin.is_file() or twin.read_bytes() != path.read_bytes():
        # `unlink` first: it may be read-only, or a program that runs.
        twin.unlink(missing_ok=True)
        shutil.copy2(path, twin)
    twin.chmod(path.stat().st_mode)


@contextmanager
def bench_in(tmp: Path) -> Iterator[Bench]:
    """A bench in the directory `tmp`."""
    home, programs, runtime = tmp / "home", tmp / "programs", Path(tempfile.mkdtemp(prefix="hb-"))
    for directory in (home, programs):
        directory.mkdir(mode=0o700)
    (home / "thesis.tex").write_text("Chapter 1\n")
    (home / "data").mkdir()
    (home / "data" / "a.csv").write_text("1,2\n")
    _install(programs, "sudo", _SUDO.format(programs=programs))
    _install(programs, "code", _EDITOR)
    # The real one reads the config of the account's home, wherever HOME is.
    _install(programs, "ssh", '#!/bin/sh\nexec /usr/bin/ssh -F "$APEXGPU_SSH_CONFIG" "$@"\n')
    _install(programs, "xhost", "#!/bin/sh\nexit 0\n")
    _install(
        programs, "apexgpu", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m apexgpu "$@"\n'
    )
    saved, here = dict(os.environ), Path.cwd()
    os.environ |= {
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(runtime),
        "APEXGPU_TIMEOUT": "3",
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        # Each pasted command is a Python of its own: its modules are compiled once.
        "PYTHONPYCACHEPREFIX": str(tmp / "pycache"),
    }
    for name in (
        "PYTHONDONTWRITEBYTECODE",
        "SSH_AUTH_SOCK",
        "DISPLAY",
        "WAYLAND_DISPLAY",
        "XAUTHORITY",
    ):
        os.environ.pop(name, None)
    os.chdir(home)
    try:
        with running(tmp / "lab", hosts=2, registered=True, pace=0) as lab:
            os.environ |= lab.environment
            (lab.layout.config / "config.toml").write_text("keep_connections = false\n")
            _install(lab.layout.home / "bin", "getconf", "#!/bin/sh\necho glibc 2.31\n")
            config = lab.layout.ssh_config
            config.write_text(f"{config.read_text()}\n{OWN_STANZA}")
            bench = Bench(lab, home, programs, tmp)
            bench.open_shell()
            for line in (
                "up gpu2 gpu3 --accept-new",
                "exec gpu2 -- 'mkdir -p work runs; echo 1 > work/a; echo 2 > work/b'",
                "snapshot gpu2 --name before --yes",
                "snapshot gpu2 --name after --yes",
                "down gpu3 --yes",
            ):
                shown = bench.provoke(f"apexgpu {line}")
                assert shown.status == 0, shown.err
            bench.remember()
            yield bench
            bench.reset()
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ |= saved
        shutil.rmtree(runtime, ignore_errors=True)


def _install(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o755)


# Faults that the lab does not have: those of the laptop, and of what a member has done


def _written(path_of: Callable[[Bench], Path], change: Callable[[bytes], bytes]) -> Any:
    """A fault that changes a file, and puts it back."""

    @contextmanager
    def fault(bench: Bench) -> Iterator[None]:
        path = path_of(bench)
        before = path.read_bytes()
        path.write_bytes(change(before))
        yield
        path.write_bytes(before)

    return fault


def _mode(path_of: Callable[[Bench], Path], mode: int) -> Any:
    @contextmanager
    def fault(bench: Bench) -> Iterator[None]:
        path = path_of(bench)
        before = path.stat().st_mode
        path.chmod(mode)
        yield
        path.chmod(before)

    return fault


def _variable(name: str, value: str | None) -> Any:
    @contextmanager
    def fault(_bench: Bench) -> Iterator[None]:
        before = os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
        yield
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before

    return fault


def _missing(*names: str) -> Any:
    """Programs that are not installed: PATH leads to a directory with everything else."""

    @contextmanager
    def fault(bench: Bench) -> Iterator[None]:
        if not (bench.programs / "sh").exists():
            for directory in os.environ["PATH"].split(":"):
                for path in Path(directory).glob("*"):
                    link = bench.programs / path.name
                    if not link.exists() and not link.is_symlink():
                        link.symlink_to(path)
        before = os.environ["PATH"]
        for name in names:
            (bench.programs / name).unlink(missing_ok=True)
        os.environ["PATH"] = str(bench.programs)
        yield
        os.environ["PATH"] = before
        for name in names:
            link = bench.programs / name
            if not link.is_symlink():
                link.symlink_to(Path("/usr/bin") / name)

    return fault


def _program(name: str, text: str) -> Any:
    """Another program in the place of one of the laptop's."""

    @contextmanager
    def fault(bench: Bench) -> Iterator[None]:
        path = bench.programs / name
        before = path.read_text() if path.exists() else None
        _install(bench.programs, name, text)
        yield
        path.unlink()
        if before is not None:
            _install(bench.programs, name, before)

    return fault


def _in_container(name: str, script: str) -> Any:
    """Another program in front of the containers' own."""

    @contextmanager
    def fault(bench: Bench) -> Iterator[None]:
        path = bench.lab.layout.home / "bin" / name
        before = path.read_text() if path.exists() else None
        _install(path.parent, name, f"#!/bin/sh\n{script}\n")
        yield
        path.unlink()
        if before is not None:
            _install(path.parent, name, before)

    return fault


def _stop(lab_state: Any) -> None:
    host = lab_state.host("gpu2")
    lab_state.halt(host, host.accounts["alice"].container)


@contextmanager
def _stopped(bench: Bench) -> Iterator[None]:
    bench.lab.call(_stop)
    yield


@contextmanager
def _key_revoked(bench: Bench) -> Iterator[None]:
    """Somebody has removed the key in IAM, and IAM has told the hosts."""

    def change(lab_state: Any, keys: str) -> None:
        lab_state.users.keys["alice"] = keys
        for host in lab_state.hosts.values():
            if "alice" in host.accounts:
                lab_state.push(host, "alice")

    before = bench.iam_keys()
    other = " ".join(["ssh-ed25519", before.split()[1][:-6] + "AAAAAA", "other"])
    bench.lab.call(lambda lab_state: change(lab_state, f"{other}\n"))
    yield
    bench.lab.call(lambda lab_state: change(lab_state, before))


@contextmanager
def _unregistered(bench: Bench) -> Iterator[None]:
    """The member has no account on gpu3."""
    account = bench.lab.call(lambda lab_state: lab_state.host("gpu3").accounts.pop("alice"))
    assert account.container is not None
    directory = account.container.directory
    away = directory.with_name("away")
    directory.rename(away)
    yield

    def put_back(lab_state: Any) -> None:
        lab_state.host("gpu3").accounts["alice"] = account

    shutil.rmtree(directory, ignore_errors=True)
    away.rename(directory)
    bench.lab.call(put_back)


@contextmanager
def _agent_hangs(_bench: Bench) -> Iterator[None]:
    with agents.short_directory() as directory, agents.hanging(directory / "a") as path:
        os.environ["SSH_AUTH_SOCK"] = path
        yield
        os.environ.pop("SSH_AUTH_SOCK", None)


@contextmanager
def _agent_is_empty(_bench: Bench) -> Iterator[None]:
    with agents.short_directory() as directory, agents.running(directory / "a") as path:
        os.environ["SSH_AUTH_SOCK"] = path
        yield
        os.environ.pop("SSH_AUTH_SOCK", None)


@contextmanager
def _key_gone(bench: Bench) -> Iterator[None]:
    identity = bench.lab.layout.identity
    away = identity.with_name("away")
    identity.rename(away)
    yield
    away.replace(identity)


@contextmanager
def _passphrase(bench: Bench) -> Iterator[None]:
    """The key has a passphrase, and no agent has it."""
    identity = bench.lab.layout.identity
    before = identity.read_bytes()
    subprocess.run(
        ["/usr/bin/ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(identity)],
        check=True,
        capture_output=True,
    )
    yield
    identity.write_bytes(before)


@contextmanager
def _directory_gone(bench: Bench) -> Iterator[None]:
    directory = bench.directory / "gone"
    directory.mkdir()
    os.chdir(directory)
    directory.rmdir()
    yield
    os.chdir(bench.home)


@contextmanager
def _port_taken(_bench: Bench) -> Iterator[None]:
    """Another program of the member listens on port 46006."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        deadline = time.monotonic() + 30
        while True:
            try:
                listener.bind(("127.0.0.1", 46006))
                break
            except OSError:
                # The forwarding of the case before may be ending.
                assert time.monotonic() < deadline
                time.sleep(0.05)
        listener.listen()
        yield


@contextmanager
def _run_exists(bench: Bench) -> Iterator[None]:
    """There is a run called `mine` on gpu2."""
    assert bench.provoke("apexgpu run gpu2 --name mine -- true").status == 0
    yield


@contextmanager
def _recipes(bench: Bench) -> Iterator[None]:
    """Recipes of the member's own: one whose step fails, one that is not understood."""
    directory = bench.lab.layout.config / "recipes"
    directory.mkdir()
    step = "[[steps]]\nname = 'one'\ntitle = 'a part'\ndone = 'test -e ~/never'\ndo = 'exit 3'\n"
    (directory / "fails.toml").write_text(f"summary = 'it fails'\nuse = 'true'\n{step}")
    yield
    shutil.rmtree(directory)


@contextmanager
def _garbled_recipe(bench: Bench) -> Iterator[None]:
    directory = bench.lab.layout.config / "recipes"
    directory.mkdir()
    (directory / "mine.toml").write_text("summary = [\n")
    yield
    shutil.rmtree(directory)


@contextmanager
def _garbled_journal(bench: Bench) -> Iterator[None]:
    directory = bench.lab.layout.state / "journal"
    directory.mkdir(exist_ok=True)
    for path in directory.glob("*"):
        path.unlink()
    (directory / "gpu2.json").write_text("{")
    yield
    for path in directory.glob("gpu2.json*"):
        path.unlink()


@contextmanager
def _mounted_in_use(bench: Bench) -> Iterator[None]:
    """gpu2 is mounted, and the member's shell is in there."""
    assert bench.provoke("apexgpu mount gpu2").status == 0
    os.chdir(bench.home / "apexgpu" / "gpu2")
    yield
    os.chdir(bench.home)


@contextmanager
def _broken_archive(bench: Bench) -> Iterator[None]:
    """The snapshot `before` has lost its end."""
    (path,) = [
        path for path in (bench.lab.layout.home / "nas").rglob("*-before*.tar.gz") if path.is_file()
    ]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    yield
    path.write_bytes(data)


@contextmanager
def _old_lab(bench: Bench) -> Iterator[None]:
    """The variables of a lab that is down."""
    gone = bench.directory / "gone-lab"
    names = {
        "APEXGPU_STATE_DIR": gone / "state",
        "APEXGPU_CONFIG_DIR": gone / "config",
        "APEXGPU_SSH_CONFIG": gone / "ssh/config",
    }
    before = {name: os.environ[name] for name in names}
    os.environ |= {name: str(path) for name, path in names.items()}
    yield
    os.environ |= before


def _settings(bench: Bench) -> Path:
    return bench.lab.layout.config / "config.toml"


def _identity(bench: Bench) -> Path:
    return bench.lab.layout.identity


def _known_hosts(bench: Bench) -> Path:
    return bench.lab.layout.known_hosts


def _ssh_config(bench: Bench) -> Path:
    return bench.lab.layout.ssh_config


FAULTS: dict[str, Callable[[Bench], AbstractContextManager[None]]] = {
    "gpu2:stopped": _stopped,
    "gpu3:unregistered": _unregistered,
    "gpu2:no-python": _in_container(
        "python3", "exec sh -c 'python3 is not here' >/dev/null; exit 127"
    ),
    "gpu2:no-flock": _in_container("flock", "exit 127"),
    "gpu2:run-exists": _run_exists,
    "gpu2:old-glibc": _in_container("getconf", "echo glibc 2.12"),
    "gpu2:talking-shell": _written(
        lambda bench: bench.lab.layout.home / "hosts/gpu2/alice/rootfs/home/alice/.bashrc",
        lambda text: b"echo welcome\n" + text,
    ),
    "iam:key-revoked": _key_revoked,
    "laptop:settings-garbled": _written(_settings, lambda _: b"timeout = [\n"),
    "laptop:settings-open": _mode(_settings, 0o666),
    "laptop:ssh-config-slow": _written(
        _ssh_config, lambda text: b'Match exec "sleep 30"\n    User nobody\nMatch all\n' + text
    ),
    "laptop:ssh-config-without-known-hosts": _written(
        _ssh_config, lambda text: b"Host *\n    UserKnownHostsFile none\n" + text
    ),
    "laptop:own-recipes": _recipes,
    "laptop:garbled-recipe": _garbled_recipe,
    "laptop:garbled-journal": _garbled_journal,
    "laptop:in-mount": _mounted_in_use,
    "laptop:editor-fails": _program("code", "#!/bin/sh\nexit 1\n"),
    "laptop:editor-bare": _program(
        "code", "#!/bin/sh\n[ $1 = --version ] && echo 1.105.1\nexit 0\n"
    ),
    "laptop:no-rsync": _missing("rsync"),
    "laptop:broken-git": _program(
        "git", "#!/bin/sh\necho fatal: index file corrupt >&2\nexit 128\n"
    ),
    "nas:broken-archive": _broken_archive,
    "laptop:settings-wrong": _written(_settings, lambda _: b'timeout = "soon"\n'),
    "laptop:ssh-config-garbled": _written(_ssh_config, lambda text: b"Hots gpu2\n" + text),
    "laptop:key-gone": _key_gone,
    "laptop:key-open": _mode(_identity, 0o644),
    "laptop:key-with-cr": _written(_identity, lambda text: text.replace(b"\n", b"\r\n")),
    "laptop:key-garbage": _written(_identity, lambda _: b"not a key\n"),
    "laptop:passphrase": _passphrase,
    "laptop:agent-hangs": _agent_hangs,
    "laptop:agent-empty": _agent_is_empty,
    "laptop:known-hosts-empty": _written(_known_hosts, lambda _: b""),
    "laptop:directory-gone": _directory_gone,
    "laptop:no-home": _variable("HOME", None),
    "laptop:proxy": _variable("http_proxy", "http://127.0.0.1:1"),
    "laptop:bad-display": _variable("DISPLAY", "nothing"),
    "laptop:dead-display": _variable("DISPLAY", ":97"),
    "laptop:old-lab": _old_lab,
    "laptop:port-taken": _port_taken,
    "laptop:no-ssh": _missing("ssh"),
    "laptop:no-ssh-keygen": _missing("ssh-keygen"),
    "laptop:no-sshfs": _missing("sshfs"),
    "laptop:no-git": _missing("git"),
    "laptop:no-editor": _missing("code"),
    "laptop:no-xauth": _missing("xauth"),
}

CURABLE = {
    "gpu2:stopped",
    "gpu3:unregistered",
    "laptop:settings-garbled",
    "laptop:settings-wrong",
    "laptop:key-open",
    "laptop:key-with-cr",
    "laptop:known-hosts-empty",
    "laptop:directory-gone",
    "laptop:no-home",
    "laptop:old-lab",
    "laptop:no-ssh",
    "laptop:no-ssh-keygen",
    "laptop:no-sshfs",
    "laptop:no-git",
    "laptop:port-taken",
}
"""Faults that a member can repair without an administrator, a password or a person at the prompt."""

SCENES = {"gpu2:run-exists", "laptop:in-mount", "laptop:own-recipes"}
"""What a member has made, beside what is wrong: it stays, and so does the refusal of what does not go with it."""
