"""One contract for every way to a server, against a real OpenSSH server on loopback and the embedded lab."""

import contextlib
import errno
import json
import os
import shutil
import socket
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from paramiko import Channel, SSHException
from tests import openssh
from tests.real.places import LabHosts, Place, Sshd
from tests.waiting import until

from apexgpu.errors import (
    ApexError,
    CommandKilledError,
    DroppedError,
    HostKeyError,
    LoginError,
    TooMuchOutputError,
    UnansweredError,
    UnreachableError,
)
from apexgpu.models import Host, Reply, Role, Target
from apexgpu.process import LocalRunner
from apexgpu.ssh import route as routes
from apexgpu.ssh.confirmation import ConfirmingClient
from apexgpu.ssh.controlmaster import ControlMasters, master_argv, runtime_directory
from apexgpu.ssh.failures import UnknownHostKeyError, command_timeout_error
from apexgpu.ssh.history import ConnectionHistory
from apexgpu.ssh.identities import Identities, Offer
from apexgpu.ssh.muxclient import terminate
from apexgpu.ssh.opensshclient import OpenSshClient
from apexgpu.ssh.paramikoclient import ParamikoClient
from apexgpu.ssh.transport import (
    Client,
    Connections,
    Limits,
    OnLogin,
)
from apexgpu_lab.inprocess import running

pytestmark = pytest.mark.openssh

RUNNER = LocalRunner()
Make = Callable[[Path], Client]


def paramiko_client(_config: Path) -> Client:
    return ParamikoClient(Identities(preferred=None, fingerprint="", passphrase=lambda _: None))


def openssh_client(config: Path) -> Client:
    return OpenSshClient(RUNNER, config)


@pytest.fixture(scope="module", params=["sshd", "lab"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("server")
    if request.param == "lab":
        with running(directory / "lab", hosts=2, registered=True) as lab:
            yield LabHosts(lab)
            assert lab.troubles == []
        return
    found = openssh.start(directory)
    yield Sshd(found)
    found.stop()


def confirming_client(config: Path) -> Client:
    """As the program connects: paramiko, and OpenSSH for the final say."""
    identities = Identities(preferred=None, fingerprint="", passphrase=lambda _: None)
    history = ConnectionHistory()

    def make_paramiko(on_login: OnLogin) -> ParamikoClient:
        return ParamikoClient(identities, history=history, on_login=on_login)

    return ConfirmingClient(make_paramiko, OpenSshClient(RUNNER, config, history=history), history)


@pytest.fixture(params=[confirming_client, openssh_client], ids=["confirming", "openssh"])
def make(request: pytest.FixtureRequest) -> Make:
    found: Make = request.param
    return found


def run(
    make: Make,
    server: Place,
    command: str,
    *,
    role: Role = "container",
    host: Host | None = None,
    config: Path | None = None,
    limits: Limits | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Reply:
    config, limits = config or server.config, limits or Limits(connect=60, total=60)
    route = routes.resolve(Target(host or server.host, role), config=config, runner=RUNNER)
    return make(config).run(route, command, limits=limits, on_line=on_line)


def test_a_manage_command_gives_stdout_stderr_and_status(make: Make, server: Place) -> None:
    reply = run(make, server, "stop", role="manage", host=server.stopped())
    assert reply.code == 0
    assert reply.out.startswith("========== Hi, \x1b[96;1malice")
    assert reply.err.endswith("alice is not running\n")


def test_an_empty_command_asks_for_a_shell(make: Make, server: Place) -> None:
    assert "The container is up" in run(make, server, "", role="manage", host=server.stopped()).out


def test_a_container_command_keeps_its_status_and_both_streams(make: Make, server: Place) -> None:
    assert run(make, server, "echo out; echo err >&2; exit 7") == Reply(7, "out\n", "err\n")


def test_megabytes_on_both_streams_do_not_block(make: Make, server: Place) -> None:
    reply = run(
        make,
        server,
        "head -c 5000000 /dev/zero | tr '\\0' x; head -c 3000000 /dev/zero | tr '\\0' y >&2",
    )
    assert (len(reply.out), len(reply.err)) == (5_000_000, 3_000_000)


def test_lines_are_passed_on_as_they_come(make: Make, server: Place, tmp_path: Path) -> None:
    gate, name = server.file(f"gate-{tmp_path.name}")
    seen: list[str] = []

    def line(text: str) -> None:
        seen.append(text)
        gate.touch()

    reply = run(
        make, server, f"echo one; while [ ! -e {name} ]; do :; done; printf two", on_line=line
    )
    assert seen == ["one", "two"]
    assert reply.out == "one\ntwo"


def test_a_refused_key_is_not_registered_on_the_manage_host(make: Make, server: Place) -> None:
    with pytest.raises(ApexError) as caught:
        run(make, server, "help", role="manage", host=replace(server.host, user="nobody"))
    assert (caught.value.code, caught.value.exit_code) == ("not_registered", 6)
    assert caught.value.hint == f"apexgpu register {server.host.name}"


def test_a_refused_key_in_the_container_is_a_login_error(make: Make, server: Place) -> None:
    with pytest.raises(ApexError) as caught:
        run(make, server, "true", host=replace(server.host, user="nobody"))
    assert (caught.value.code, caught.value.exit_code) == ("key_refused", 4)


def test_a_closed_port_is_connection_refused(make: Make, server: Place) -> None:
    with socket.socket() as probe:
        probe.bind((server.host.address, 0))
        host = replace(server.host, port=probe.getsockname()[1])
        with pytest.raises(UnreachableError) as caught:
            run(make, server, "true", host=host)
    assert caught.value.code == "connection_refused"
    assert caught.value.hint is not None
    assert f"apexgpu up {server.host.name}" in caught.value.hint


@pytest.mark.parametrize(
    "speak", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["silent", "not-ssh"]
)
def test_a_port_that_is_no_ssh_server_ends_in_time(make: Make, server: Place, speak: bytes) -> None:
    with socket.create_server((server.host.address, 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(speak)
                if speak:
                    return
                while connection.recv(100):
                    pass

        threading.Thread(target=accept, daemon=True).start()
        host = replace(server.host, manage_port=listener.getsockname()[1])
        with pytest.raises(UnreachableError) as caught:
            run(make, server, "help", role="manage", host=host, limits=Limits(connect=1, total=1))
    assert caught.value.code in {"timeout", "closed"}


def test_a_server_that_hangs_up_on_one_login_of_many_is_dialled_again(server: Place) -> None:
    with socket.create_server((server.host.address, 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"Exceeded MaxStartups\r\n")
            connection, _ = listener.accept()
            there = socket.create_connection((server.host.address, server.host.manage_port))
            with connection, there:
                back = threading.Thread(target=pour, args=(there, connection))
                back.start()
                pour(connection, there)
                back.join()

        threading.Thread(target=accept, daemon=True).start()
        host = replace(server.host, manage_port=listener.getsockname()[1])
        with pytest.raises(UnknownHostKeyError):  # of the new port: it was met
            run(paramiko_client, server, "help", role="manage", host=host)


def pour(origin: socket.socket, target: socket.socket) -> None:
    """All that comes from one to the other, and the end."""
    with contextlib.suppress(OSError):
        while data := origin.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_a_new_host_key_is_shown_never_taken(make: Make, server: Place, tmp_path: Path) -> None:
    with pytest.raises(UnknownHostKeyError) as caught:
        run(make, server, "help", role="manage", config=server.knowing(tmp_path, None))
    assert caught.value.key.blob == server.host_key
    assert caught.value.exit_code == 7
    assert not (tmp_path / "known_hosts").exists()


def test_a_changed_host_key_makes_no_connection(make: Make, server: Place, tmp_path: Path) -> None:
    RUNNER.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")])
    kind, blob, *_ = (tmp_path / "other.pub").read_text().split()
    known = f"[{server.host.address}]:{server.host.manage_port} {kind} {blob}\n"
    with pytest.raises(HostKeyError) as caught:
        run(make, server, "help", role="manage", config=server.knowing(tmp_path, known))
    assert caught.value.exit_code == 4
    assert "SHA256:" in caught.value.message


def test_a_revoked_host_key_makes_no_connection_though_it_is_listed_too(
    make: Make, server: Place, tmp_path: Path
) -> None:
    name = f"[{server.host.address}]:{server.host.manage_port}"
    line = next(
        line for line in server.known_hosts.read_text().splitlines() if line.startswith(f"{name} ")
    )
    config = server.knowing(tmp_path, f"{line}\n@revoked {line}\n")
    with pytest.raises(HostKeyError) as caught:
        run(make, server, "help", role="manage", config=config)
    assert caught.value.exit_code == 4


def test_a_host_key_is_looked_up_under_the_users_own_alias(
    make: Make, server: Place, tmp_path: Path
) -> None:
    config = server.knowing(tmp_path, f"lab-machine ssh-ed25519 {server.host_key}\n")
    config.write_text(f"HostKeyAlias lab-machine\n{config.read_text()}")
    assert run(make, server, "help", role="manage", config=config).code == 0


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_of_a_servers_host_keys_the_known_one_is_asked_for(
    make: Make, tmp_path: Path, kind: str
) -> None:
    RUNNER.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(tmp_path / kind)])
    started = openssh.start(tmp_path / "sshd", extra=f"HostKey {tmp_path / kind}")
    try:
        place = Sshd(started)
        words = (tmp_path / f"{kind}.pub").read_text().split()
        known = f"[{place.host.address}]:{place.host.port} {words[0]} {words[1]}\n"
        assert (
            run(make, place, "help", role="manage", config=place.knowing(tmp_path, known)).code == 0
        )
    finally:
        started.stop()


def test_a_command_that_reads_its_input_finds_the_end_of_it(make: Make, server: Place) -> None:
    assert run(make, server, "cat; echo end") == Reply(0, "end\n", "")


class Between(Identities):
    """Does something to the server in the moment in which a login begins."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__(preferred=None, fingerprint="", passphrase=lambda _: None)
        self._act = act

    def offer(self, route: routes.Route) -> Offer:
        found = super().offer(route)
        self._act()
        return found


@pytest.mark.parametrize("act", ["freeze", "kill"])
def test_a_server_that_dies_in_the_login_has_not_refused_the_key(tmp_path: Path, act: str) -> None:
    started = openssh.start(tmp_path / "sshd")
    try:
        route = routes.resolve(Target(started.host, "manage"), config=started.config, runner=RUNNER)
        link = ParamikoClient(Between(getattr(started, act)))
        began = time.monotonic()
        with pytest.raises(UnreachableError):
            link.run(route, "help", limits=Limits(connect=0.7), on_line=None)
        assert time.monotonic() - began < 60
    finally:
        started.stop()


def test_a_server_that_hangs_up_on_many_keys_has_refused_them(tmp_path: Path) -> None:
    started = openssh.start(tmp_path / "sshd", extra="MaxAuthTries 2")
    try:
        config = tmp_path / "config"
        config.write_text(
            f"Host *\n  IdentitiesOnly yes\n  UserKnownHostsFile {tmp_path}/sshd/known_hosts\n"
        )
        for name in "abc":
            RUNNER.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)])
            config.write_text(f"{config.read_text()}  IdentityFile {tmp_path / name}\n")
        with pytest.raises(ApexError) as caught:
            run(paramiko_client, Sshd(started), "help", role="manage", config=config)
        assert caught.value.code == "not_registered"
    finally:
        started.stop()


@pytest.mark.parametrize(
    "error", [SSHException("Channel closed."), EOFError(), OSError("Socket is closed")], ids=repr
)
def test_what_fails_while_a_command_is_sent_leaves_open_whether_it_was_taken(
    server: Place, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Channel, "exec_command", fail)
    with pytest.raises(DroppedError) as caught:
        run(paramiko_client, server, "true")
    assert (caught.value.code, caught.value.exit_code) == ("dropped", 5)


def test_a_server_that_resets_every_connection_hangs_up_and_is_not_slow() -> None:
    """Right after a start that is what a container does; who waits for its sshd goes on waiting."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.recv(256)  # the client's first words
                    connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                    connection.close()

        threading.Thread(target=refuse, daemon=True).start()
        route = routes.Route(
            Target(Host("gpu7", "127.0.0.1", "alice", listener.getsockname()[1]), "container"), {}
        )
        with pytest.raises(UnreachableError) as caught:
            paramiko_client(Path()).run(route, "true", limits=Limits(connect=1), on_line=None)
        listener.shutdown(socket.SHUT_RDWR)
    assert caught.value.code == "closed"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TimeoutError(), "timeout"),
        (socket.gaierror(-2, "Name or service not known"), "no_name"),
        (OSError(errno.ECONNREFUSED, "x"), "connection_refused"),
        (OSError(errno.EHOSTUNREACH, "x"), "no_route"),
        (OSError(errno.ENETUNREACH, "x"), "no_network"),
        (OSError(errno.EADDRNOTAVAIL, "x"), "closed"),
    ],
)
def test_what_a_socket_says_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, error: OSError, code: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(socket, "create_connection", fail)
    route = routes.Route(Target(Host("gpu7", "10.0.0.7", "alice", 22001), "container"), {})
    with pytest.raises(UnreachableError) as caught:
        paramiko_client(Path()).run(route, "true", limits=Limits(connect=1), on_line=None)
    assert caught.value.code == code


def test_a_command_past_its_limit_ends_with_what_was_seen(make: Make, server: Place) -> None:
    with pytest.raises(DroppedError) as caught:
        run(make, server, "echo begun; exec tail -f /dev/null", limits=Limits(connect=5, total=3))
    assert caught.value.code == "timeout"
    assert caught.value.seen == "begun\n"
    assert "last output: begun" in caught.value.message


@pytest.mark.parametrize(
    ("role", "hint"),
    [("manage", "apexgpu doctor gpu7"), ("container", "apexgpu status gpu7")],
)
def test_what_to_do_about_one_that_is_too_slow(role: Role, hint: str) -> None:
    target = Target(Host("gpu7", "10.0.0.7", "alice", 22001), role)
    assert command_timeout_error(target, "").hint == hint


def test_endless_output_ends_at_its_limit(make: Make, server: Place) -> None:
    limits = Limits(connect=60, total=600, output=1 << 20)
    with pytest.raises(TooMuchOutputError, match=r"sent more than 1\.0 MiB"):
        run(make, server, "yes", limits=limits)
    with pytest.raises(TooMuchOutputError):
        run(make, server, "yes >&2", limits=limits)


def test_of_a_command_that_must_not_be_cut_off_the_middle_is_left_out(
    make: Make, server: Place
) -> None:
    limits = Limits(connect=60, total=600, output=1 << 20, keeps_reading=True)
    command = "echo begin; yes | head -c 5000000; echo end; exit 3"
    reply = run(make, server, command, limits=limits)
    assert (reply.code, reply.is_cut) == (3, True)
    assert reply.out.startswith("begin\ny\n")
    assert reply.out.endswith("y\nend\n")
    assert "bytes are left out]" in reply.out
    assert len(reply.out) < (1 << 20) + 100


def test_silence_is_bounded_by_its_own_limit(make: Make, server: Place) -> None:
    limits = Limits(connect=20, total=None, silence=3)
    with pytest.raises(DroppedError):
        run(make, server, "echo begun; exec tail -f /dev/null", limits=limits)


def test_a_connection_lost_in_the_middle_is_told_from_an_end(make: Make, server: Place) -> None:
    with pytest.raises(DroppedError) as caught:
        run(make, server, f"echo begun; {server.waiting()}", on_line=lambda _: server.cut())
    assert caught.value.seen == "begun\n"


def test_a_connection_lost_before_a_word_came_may_have_carried_the_command(
    make: Make, server: Place
) -> None:
    """It must not pass for one that was never sent: what cannot be sent twice would be."""
    path, there = server.file("taken")

    def cut() -> None:
        until(path.exists)
        server.cut()

    cutting = threading.Thread(target=cut, daemon=True)
    cutting.start()
    with pytest.raises(DroppedError) as caught:
        run(make, server, f"touch {there}; {server.waiting()}")
    cutting.join(60)
    path.unlink()
    assert caught.value.code == "dropped"


KILL_ITSELF = "echo out; echo err >&2; kill -KILL $$"


def test_a_command_that_a_signal_ended_is_no_lost_connection(server: Place) -> None:
    with pytest.raises(CommandKilledError) as caught:
        run(paramiko_client, server, KILL_ITSELF)
    assert (caught.value.code, caught.value.seen, caught.value.err) == ("killed", "out\n", "err\n")


class TestControlMasters:
    """Commands over a master, without an ssh process."""

    @pytest.fixture
    def sockets(self) -> Iterator[Path]:
        # A socket's path is short, and pytest's directories are not.
        directory = Path(tempfile.mkdtemp(prefix="m-"))
        yield directory
        shutil.rmtree(directory)

    @pytest.fixture
    def masters(self, server: Place, sockets: Path) -> Iterator[ControlMasters]:
        masters = ControlMasters(server.config, RUNNER, directory=sockets)
        target = Target(server.host, "container")
        path = masters.path(target)
        done = RUNNER.run(master_argv(target, config=server.config, path=path), timeout=60)
        assert done.code == 0, done.err
        yield masters
        RUNNER.run(
            ["ssh", "-F", str(server.config), "-o", f"ControlPath={path}", "-O", "exit", "x"]
        )

    def test_a_command_that_a_signal_ended_is_told_from_a_master_that_is_gone(
        self, masters: ControlMasters, server: Place
    ) -> None:
        target, limits = Target(server.host, "container"), Limits(connect=20, total=60)
        with pytest.raises(CommandKilledError) as caught:
            masters.run(target, KILL_ITSELF, limits=limits)
        assert (caught.value.code, caught.value.seen, caught.value.err) == (
            "killed",
            "out\n",
            "err\n",
        )
        assert masters.run(target, "echo on", limits=limits) == Reply(0, "on\n", "")

    def test_a_master_that_ends_in_the_middle_is_a_lost_connection(
        self, masters: ControlMasters, server: Place
    ) -> None:
        target = Target(server.host, "container")
        path, there = server.file("begun")

        def cut() -> None:
            until(path.exists)
            terminate(masters.path(target))

        cutting = threading.Thread(target=cut, daemon=True)
        cutting.start()
        with pytest.raises(DroppedError) as caught:
            masters.run(
                target, f"echo begun; touch {there}; exec tail -f /dev/null", limits=Limits(20, 60)
            )
        cutting.join(60)
        path.unlink()
        assert caught.value.code == "dropped"
        assert caught.value.seen in {"", "begun\n"}  # as much as had come over

    def test_a_command_over_a_master(self, masters: ControlMasters, server: Place) -> None:
        limits = Limits(connect=20, total=60)
        reply = masters.run(
            Target(server.host, "container"), "echo out; echo err >&2; exit 7", limits=limits
        )
        assert reply == Reply(7, "out\n", "err\n")
        assert (
            masters.run(Target(server.host, "container"), "", limits=limits) is None
        )  # a shell is a new login's
        reply = masters.run(
            Target(server.host, "container"), "head -c 3000000 /dev/zero", limits=limits
        )
        assert reply is not None
        assert len(reply.out) == 3_000_000

    def test_a_slow_command_over_a_master_is_bounded(
        self, masters: ControlMasters, server: Place
    ) -> None:
        with pytest.raises(DroppedError):
            masters.run(
                Target(server.host, "container"),
                "exec tail -f /dev/null",
                limits=Limits(connect=20, total=0.3),
            )

    def test_endless_output_over_a_master_ends_at_its_limit(
        self, masters: ControlMasters, server: Place
    ) -> None:
        target = Target(server.host, "container")
        limits = Limits(60, 600, output=1 << 20)
        with pytest.raises(TooMuchOutputError):
            masters.run(target, "yes", limits=limits)
        reply = masters.run(
            target, "yes | head -c 5000000; echo end", limits=replace(limits, keeps_reading=True)
        )
        assert reply is not None
        assert reply.is_cut
        assert reply.out.endswith("y\nend\n")

    def test_no_master_and_a_dead_socket_are_no_way(self, server: Place, sockets: Path) -> None:
        masters = ControlMasters(server.config, RUNNER, directory=sockets)
        target = Target(server.host, "container")
        assert masters.run(target, "true", limits=Limits()) is None
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(masters.path(target)))
        assert masters.run(target, "true", limits=Limits()) is None
        assert not masters.path(target).exists()

    def test_a_master_is_for_one_account_one_port_and_one_state_of_the_config(
        self, server: Place, tmp_path: Path, sockets: Path
    ) -> None:
        def path(host: Host) -> Path:
            return ControlMasters(config, RUNNER, directory=sockets).path(Target(host, "container"))

        config = tmp_path / "config"
        config.write_text("")
        before = path(server.host)
        others = [
            path(replace(server.host, user="bob")),
            path(replace(server.host, port=1)),
            path(replace(server.host, address="127.0.0.9")),
        ]
        config.write_text("Host *\n")
        assert len({before, *others, path(server.host)}) == 5

    def test_no_master_is_opened_twice_and_not_any_number_of_them(self, sockets: Path) -> None:
        class Spawning(LocalRunner):
            def spawn_reader(self, argv: Sequence[str]) -> int | None:
                processes.append(argv)
                return os.dup(requests)

        processes: list[Sequence[str]] = []
        read_end, requests = os.pipe()
        masters = ControlMasters(Path("/nothing"), Spawning(), directory=sockets)
        targets = [
            Target(Host(f"gpu{number}", "10.0.0.7", "alice", 22001), "manage")
            for number in range(100)
        ]
        masters.path(targets[0]).touch()
        masters.open_in_background(targets[0])
        assert processes == []
        for target in (*targets[1:], *targets[1:]):
            masters.open_in_background(target)
        os.close(requests)
        del masters
        with os.fdopen(read_end, "rb") as stream:
            spawned = [json.loads(line)["argv"] for line in stream]
        assert len(processes) == 1
        assert len(spawned) == 32
        assert {
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "ForwardAgent=no",
            "ClearAllForwardings=yes",
            "PermitLocalCommand=no",
        } <= set(spawned[0])

    def test_the_directory_of_sockets_is_the_users_alone_or_not_used(
        self, sockets: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(sockets))
        made = runtime_directory()
        assert made == sockets / "apexgpu"
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
        made.chmod(0o750)
        assert runtime_directory() is None
        made.chmod(0o700)
        uid = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: uid + 1)
        assert runtime_directory() is None

    def test_a_directory_whose_path_is_too_long_for_a_socket_is_not_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (long := tmp_path / ("x" * 80)).mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
        monkeypatch.delenv("TMPDIR", raising=False)
        assert runtime_directory() == Path("/tmp") / f"apexgpu-{os.getuid()}"

    def test_a_silent_master_is_left_after_its_limit(self, server: Place, sockets: Path) -> None:
        masters = ControlMasters(server.config, RUNNER, directory=sockets)
        target = Target(server.host, "container")
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(masters.path(target)))
            silent.listen()
            assert masters.run(target, "true", limits=Limits(connect=0.2)) is None

    def test_a_question_that_a_master_swallows_is_asked_again_a_command_is_not(
        self, server: Place, sockets: Path
    ) -> None:
        class OpensNone(ControlMasters):
            def open_in_background(self, target: Target) -> None:
                """A master that nobody would end."""

        masters = OpensNone(server.config, RUNNER, directory=sockets)
        link = Connections(server.config, RUNNER, lambda _: paramiko_client(server.config), masters)
        manage, container = Target(server.host, "manage"), Target(server.host, "container")
        with swallowing(masters.path(manage)):
            assert "RUNNING" in link.run(manage, "help", limits=Limits(connect=5)).out
        with swallowing(masters.path(container)), pytest.raises(UnansweredError) as caught:
            link.run(container, "true", limits=Limits(connect=0.2))
        assert caught.value.code == "unanswered"
        assert not masters.path(container).exists()


@contextlib.contextmanager
def swallowing(path: Path) -> Iterator[None]:
    """Something in a master's place that greets, takes a request, and answers nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(struct.pack(">III", 8, 1, 4))
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(60)
        assert not thread.is_alive()


def test_connections_prefer_a_master_and_never_send_once_commands_over_it(server: Place) -> None:
    asked: list[str] = []

    class Open:
        def run(self, target: Target, command: str, *, limits: Limits, **_: object) -> Reply | None:
            asked.append(command)
            return Reply(0, "open")

        def open_in_background(self, target: Target) -> None:
            asked.append("open")

        def socket(self, target: Target) -> Path | None:
            raise AssertionError(target)

        def close(self, target: Target) -> None:
            asked.append("close")

    link = Connections(server.config, RUNNER, lambda _: paramiko_client(server.config), Open())
    target = Target(server.host, "manage")
    assert link.run(target, "help").out == "open"
    assert "RUNNING" in link.run(target, "help", once=True).out
    assert asked == ["help"]
    link.close(target)
    assert asked == ["help", "close"]


def test_how_long_a_connection_may_take_is_the_users_to_say_whatever_the_command_is(
    tmp_path: Path,
) -> None:
    heard: list[Limits] = []

    class Hearing:
        def run(
            self, route: routes.Route, command: str, *, limits: Limits, on_line: object
        ) -> Reply:
            heard.append(limits)
            return Reply(0, "")

    link = Connections(
        tmp_path / "config", RUNNER, lambda _: Hearing(), limits=Limits(connect=3, total=8)
    )
    target = Target(Host("gpu7", "10.0.0.7", "alice", 22001), "container")
    link.run(target, "true", limits=Limits(connect=99, total=120, silence=5))
    link.run(target, "true")
    assert heard == [Limits(3, 120, 5), Limits(3, 8)]


def test_without_a_port_there_is_no_container_to_connect_to(tmp_path: Path) -> None:
    link = Connections(tmp_path / "config", RUNNER, lambda _: paramiko_client(tmp_path))
    with pytest.raises(LoginError, match="IAM has no port for alice yet"):
        link.run(Target(Host("gpu7", "10.0.0.7", "alice", None), "container"), "true")
