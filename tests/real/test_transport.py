"""One contract for every way to a server, against a real OpenSSH server on loopback and the embedded lab."""

import contextlib
import os
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests import openssh
from tests.real.places import LabHosts, Place, Sshd

from apexgpu.errors import ApexError, DroppedError, HostKeyError, UnreachableError
from apexgpu.lab.inprocess import running
from apexgpu.models import Host, Reply, Role, Target
from apexgpu.process import LocalRunner
from apexgpu.ssh import route as routes
from apexgpu.ssh.identities import Identities
from apexgpu.ssh.mux import OpenMasters, master_argv
from apexgpu.ssh.openssh_link import OpenSSHLink
from apexgpu.ssh.paramiko_link import ParamikoLink
from apexgpu.ssh.transport import KILLED, UNANSWERED, Connections, Limits, Link, UnknownHostKeyError, too_slow

pytestmark = pytest.mark.openssh

RUNNER = LocalRunner()
Make = Callable[[Path], Link]


def paramiko_link(_config: Path) -> Link:
    return ParamikoLink(Identities(preferred=None, fingerprint="", passphrase=lambda _: None))


def openssh_client(config: Path) -> Link:
    return OpenSSHLink(RUNNER, config)


@pytest.fixture(scope="module", params=["sshd", "lab"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("server")
    if request.param == "lab":
        with running(directory / "lab", hosts=2, registered=True) as lab:
            yield LabHosts(lab)
            assert lab.troubles == []
        return
    found = openssh.start(directory)
    yield Sshd(found)
    found.stop()


@pytest.fixture(params=[paramiko_link, openssh_client], ids=["paramiko", "openssh"])
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
    config, limits = config or server.config, limits or Limits(connect=10, total=10)
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
    reply = run(make, server, "head -c 5000000 /dev/zero | tr '\\0' x; head -c 3000000 /dev/zero | tr '\\0' y >&2")
    assert (len(reply.out), len(reply.err)) == (5_000_000, 3_000_000)


def test_lines_are_passed_on_as_they_come(make: Make, server: Place, tmp_path: Path) -> None:
    gate, name = server.file(f"gate-{tmp_path.name}")
    seen: list[str] = []

    def line(text: str) -> None:
        seen.append(text)
        gate.touch()

    reply = run(make, server, f"echo one; while [ ! -e {name} ]; do :; done; printf two", on_line=line)
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


@pytest.mark.parametrize("speak", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["silent", "not-ssh"])
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
            run(paramiko_link, server, "help", role="manage", host=host)


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


def test_a_command_past_its_limit_ends_with_what_was_seen(make: Make, server: Place) -> None:
    with pytest.raises(DroppedError) as caught:
        run(make, server, "echo begun; exec tail -f /dev/null", limits=Limits(connect=1, total=0.5))
    assert caught.value.code == "timeout"
    assert caught.value.seen == "begun\n"
    assert "last seen: begun" in caught.value.message


@pytest.mark.parametrize(("role", "hint"), [("manage", "apexgpu doctor gpu7   (does IAM answer?)"),
                                            ("container", "apexgpu status gpu7")])  # fmt: skip
def test_what_to_do_about_one_that_is_too_slow(role: Role, hint: str) -> None:
    assert too_slow(Target(Host("gpu7", "10.0.0.7", "alice", 22001), role), "").hint == hint


def test_silence_is_bounded_by_its_own_limit(make: Make, server: Place) -> None:
    limits = Limits(connect=5, total=None, silence=0.4)
    with pytest.raises(DroppedError):
        run(make, server, "echo begun; exec tail -f /dev/null", limits=limits)


def test_a_connection_lost_in_the_middle_is_told_from_an_end(make: Make, server: Place) -> None:
    with pytest.raises(DroppedError) as caught:
        run(make, server, f"echo begun; {server.waiting()}", on_line=lambda _: server.cut())
    assert caught.value.seen == "begun\n"


def test_a_connection_lost_before_a_word_came_may_have_carried_the_command(make: Make, server: Place) -> None:
    """It must not pass for one that was never sent: what cannot be sent twice would be."""
    path, there = server.file("taken")

    def cut() -> None:
        end = time.monotonic() + 30
        while not path.exists() and time.monotonic() < end:
            os.sched_yield()
        server.cut()

    cutting = threading.Thread(target=cut, daemon=True)
    cutting.start()
    with pytest.raises(DroppedError) as caught:
        run(make, server, f"touch {there}; {server.waiting()}")
    cutting.join(30)
    path.unlink()
    assert caught.value.code == "dropped"


KILL_ITSELF = "echo out; echo err >&2; kill -KILL $$"


def test_a_command_that_a_signal_ended_is_no_lost_connection(server: Place) -> None:
    with pytest.raises(DroppedError) as caught:
        run(paramiko_link, server, KILL_ITSELF)
    assert (caught.value.code, caught.value.seen, caught.value.err) == (KILLED, "out\n", "err\n")


class TestOpenMasters:
    """The warm way: commands over a master, without an ssh process."""

    @pytest.fixture
    def sockets(self) -> Iterator[Path]:
        # A socket's path is short, and pytest's directories are not.
        directory = Path(tempfile.mkdtemp(prefix="m-"))
        yield directory
        shutil.rmtree(directory)

    @pytest.fixture
    def masters(self, server: Place, sockets: Path) -> Iterator[OpenMasters]:
        warm = OpenMasters(server.config, RUNNER, directory=sockets)
        target = Target(server.host, "container")
        path = warm.path(target)
        done = RUNNER.run(master_argv(target, config=server.config, path=path), timeout=20)
        assert done.code == 0, done.err
        yield warm
        RUNNER.run(["ssh", "-F", str(server.config), "-o", f"ControlPath={path}", "-O", "exit", "x"])

    def test_a_command_that_a_signal_ended_is_told_from_a_master_that_is_gone(
        self, masters: OpenMasters, server: Place
    ) -> None:
        target, limits = Target(server.host, "container"), Limits(connect=5, total=10)
        with pytest.raises(DroppedError) as caught:
            masters.run(target, KILL_ITSELF, limits=limits)
        assert (caught.value.code, caught.value.seen, caught.value.err) == (KILLED, "out\n", "err\n")
        assert masters.run(target, "echo on", limits=limits) == Reply(0, "on\n", "")

    def test_a_command_over_a_master(self, masters: OpenMasters, server: Place) -> None:
        limits = Limits(connect=5, total=10)
        reply = masters.run(Target(server.host, "container"), "echo out; echo err >&2; exit 7", limits=limits)
        assert reply == Reply(7, "out\n", "err\n")
        reply = masters.run(Target(server.host, "container"), "head -c 3000000 /dev/zero", limits=limits)
        assert reply is not None
        assert len(reply.out) == 3_000_000

    def test_a_slow_command_over_a_master_is_bounded(self, masters: OpenMasters, server: Place) -> None:
        with pytest.raises(DroppedError):
            masters.run(Target(server.host, "container"), "exec tail -f /dev/null", limits=Limits(connect=5, total=0.3))

    def test_no_master_and_a_dead_socket_are_no_way(self, server: Place, sockets: Path) -> None:
        warm = OpenMasters(server.config, RUNNER, directory=sockets)
        target = Target(server.host, "container")
        assert warm.run(target, "true", limits=Limits()) is None
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(warm.path(target)))
        assert warm.run(target, "true", limits=Limits()) is None
        assert not warm.path(target).exists()

    def test_a_silent_master_is_left_after_its_limit(self, server: Place, sockets: Path) -> None:
        warm = OpenMasters(server.config, RUNNER, directory=sockets)
        target = Target(server.host, "container")
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(warm.path(target)))
            silent.listen()
            assert warm.run(target, "true", limits=Limits(connect=0.2)) is None

    def test_a_question_that_a_master_swallows_is_asked_again_a_command_is_not(
        self, server: Place, sockets: Path
    ) -> None:
        class KeepsNone(OpenMasters):
            def keep(self, target: Target) -> None:
                """A master that nobody would end."""

        warm = KeepsNone(server.config, RUNNER, directory=sockets)
        link = Connections(server.config, RUNNER, lambda _: paramiko_link(server.config), warm)
        manage, container = Target(server.host, "manage"), Target(server.host, "container")
        with swallowing(warm.path(manage)):
            assert "RUNNING" in link.run(manage, "help", limits=Limits(connect=1)).out
        with swallowing(warm.path(container)), pytest.raises(DroppedError) as caught:
            link.run(container, "true", limits=Limits(connect=0.2))
        assert caught.value.code == UNANSWERED
        assert not warm.path(container).exists()


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
        thread.join(10)
        assert not thread.is_alive()


def test_connections_prefer_a_master_and_never_send_once_commands_over_it(server: Place) -> None:
    asked: list[str] = []

    class Warm:
        def run(self, target: Target, command: str, *, limits: Limits) -> Reply | None:
            asked.append(command)
            return Reply(0, "warm")

        def keep(self, target: Target) -> None:
            asked.append("keep")

        def forget(self, target: Target) -> None:
            asked.append("forget")

    link = Connections(server.config, RUNNER, lambda _: paramiko_link(server.config), Warm())
    target = Target(server.host, "manage")
    assert link.run(target, "help").out == "warm"
    assert "RUNNING" in link.run(target, "help", once=True).out
    assert asked == ["help"]
    link.forget(target)
    assert asked == ["help", "forget"]
