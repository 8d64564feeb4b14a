"""Logins that fail: each cause has its own class, message and hint, and costs each host as few connections as possible."""

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests import agents, openssh
from tests.real.agreement import Laptop, keygen, logged_in

from apexgpu.errors import (
    AgentRefusedError,
    ApexError,
    ConfigPermissionsError,
    NotRegisteredError,
    PenalizedError,
    ProxyError,
    SlowConfigError,
    WrongPassphraseError,
)
from apexgpu.models import Host, Reply, Target
from apexgpu.process import LocalRunner
from apexgpu.ssh import fanout
from apexgpu.ssh import route as routes
from apexgpu.ssh.confirmation import ConfirmingClient
from apexgpu.ssh.failures import KeyLockedError, UnknownHostKeyError
from apexgpu.ssh.history import FILE_NAME, ConnectionHistory
from apexgpu.ssh.identities import Identities
from apexgpu.ssh.opensshclient import OpenSshClient
from apexgpu.ssh.paramikoclient import ParamikoClient
from apexgpu.ssh.route import Route
from apexgpu.ssh.transport import Limits, OnLogin
from apexgpu_lab.inprocess import running
from apexgpu_lab.labstate import LabState

pytestmark = pytest.mark.openssh

ED25519 = ("-t", "ed25519")
LIMITS = Limits(connect=30, total=30)


class CountingRunner(LocalRunner):
    """Counts the connections of the ssh program, and keeps all that other programs can see of it."""

    def __init__(self) -> None:
        self.connections = 0
        self.visible = ""

    def stream(self, argv: Sequence[str], **options: Any) -> Any:
        """See Runner."""
        self.connections += 1
        self.visible += f"{argv} {options.get('env')}"
        return super().stream(argv, **options)


@dataclass
class Connector:
    """A confirming client, as the program makes it."""

    config: Path
    passphrase: str | None = None
    preferred: Path | None = None
    fingerprint: str = ""
    history_file: Path | None = None
    runner: CountingRunner = field(default_factory=CountingRunner)

    def __post_init__(self) -> None:
        history = ConnectionHistory(self.history_file)
        identities = Identities(
            preferred=self.preferred,
            fingerprint=self.fingerprint,
            passphrase=lambda _file: self.passphrase,
        )

        def make_paramiko(on_login: OnLogin) -> ParamikoClient:
            return ParamikoClient(identities, history=history, on_login=on_login)

        openssh_client = OpenSshClient(
            self.runner,
            self.config,
            preferred=self.preferred,
            history=history,
            passphrase=lambda _file: self.passphrase,
        )
        self.client = ConfirmingClient(make_paramiko, openssh_client, history)

    def run(self, host: Host, command: str = "true", limits: Limits = LIMITS) -> Reply:
        """Run a command on the manage target."""
        route = routes.resolve(Target(host, "manage"), config=self.config, runner=self.runner)
        return self.client.run(route, command, limits=limits, on_line=None)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openssh.OpenSSH]:
    started = openssh.start(tmp_path_factory.mktemp("server"))
    started.answer("help", "07-up-running")
    yield started
    started.stop()


@pytest.fixture
def laptop(server: openssh.OpenSSH, tmp_path: Path) -> Laptop:
    found = Laptop(tmp_path / "laptop", server)
    found.authorize(server.directory / "id_ed25519.pub")
    return found


def failure(laptop: Laptop, connector: Connector | None = None) -> ApexError:
    laptop.write()
    with pytest.raises(ApexError) as caught:
        (connector or Connector(laptop.config)).run(laptop.server.host)
    return caught.value


# The user's side


def test_a_proxy_command_that_is_not_installed_is_quoted(laptop: Laptop) -> None:
    laptop.lines.append("ProxyCommand /usr/bin/no-such-nc %h %p")
    error = failure(laptop)
    assert isinstance(error, ProxyError)
    assert "/usr/bin/no-such-nc" in error.message
    # What the user's shell says: bash and newer versions of dash, and older versions of dash.
    assert re.search("No such file or directory|not found", error.message)


def test_a_jump_host_that_cannot_be_resolved_is_quoted(laptop: Laptop) -> None:
    laptop.lines.append("ProxyJump nobody@no-such-host.invalid")
    error = failure(laptop)
    assert isinstance(error, ProxyError)
    assert "no-such-host.invalid" in error.message


def test_a_jump_host_that_refuses_the_key_is_not_the_host_that_refuses_it(laptop: Laptop) -> None:
    host = laptop.server.host
    laptop.lines += [
        f"IdentityFile {keygen(laptop.directory / 'other', *ED25519)}",
        f"ProxyCommand ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile="
        f"{laptop.directory}/known_hosts -i {laptop.directory}/other -p {host.manage_port} "
        f"-W %h:%p {host.address}",
    ]
    error = failure(laptop)
    assert isinstance(error, ProxyError)
    assert "Permission denied" in error.message


def test_a_config_that_others_may_write_is_named_with_the_command_that_repairs_it(
    laptop: Laptop,
) -> None:
    laptop.write()
    laptop.config.chmod(0o666)
    # With -F, ssh does not check that file itself, but it checks every file that is included.
    own = laptop.directory / "own"
    own.write_text(f"Include {laptop.config}\n")
    with pytest.raises(ConfigPermissionsError) as caught:
        Connector(own).run(laptop.server.host)
    assert caught.value.hint == f"chmod 600 {laptop.config}"


def test_a_slow_match_exec_is_waited_for(laptop: Laptop) -> None:
    laptop.lines.append(f"IdentityFile {laptop.server.directory}/id_ed25519")
    laptop.lines.append('Match exec "sleep 2; false"\n  User nobody')
    laptop.write()
    assert Connector(laptop.config).run(laptop.server.host, limits=Limits(connect=10)).code == 0


def test_a_match_exec_that_does_not_end_is_too_slow_and_named_with_its_line(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_TIME_LIMIT", 1)
    laptop.lines.append('Match exec "sleep 600"\n  User nobody')
    error = failure(laptop)
    assert isinstance(error, SlowConfigError)
    assert f'line 4 of {laptop.config} runs a program: Match exec "sleep 600"' in error.message


def test_a_wrong_passphrase_is_not_a_refusal(laptop: Laptop) -> None:
    key = keygen(laptop.directory / "id", *ED25519, passphrase="secret")
    laptop.lines.append(f"IdentityFile {key}")
    error = failure(laptop, Connector(laptop.config, passphrase="wrong", preferred=key))
    assert isinstance(error, WrongPassphraseError)
    assert error.hint == f"ssh-add {key}"


ONLY_OPENSSH = {
    "chacha20": (*ED25519, "-Z", "chacha20-poly1305@openssh.com"),
    "aes256-gcm": (*ED25519, "-Z", "aes256-gcm@openssh.com"),
    "aes128-ctr": ("-t", "ecdsa", "-Z", "aes128-ctr"),
    "pkcs8": ("-t", "rsa", "-m", "PKCS8"),
}


@pytest.mark.parametrize("form", ONLY_OPENSSH)
def test_a_passphrase_that_is_typed_opens_keys_that_only_openssh_reads(
    laptop: Laptop, form: str
) -> None:
    secret = 'it\'s a "secret" $HOME'
    key = keygen(laptop.directory / "a key", *ONLY_OPENSSH[form], passphrase=secret)
    laptop.authorize(Path(f"{key}.pub"))
    laptop.lines.append(f'IdentityFile "{key}"')
    laptop.write()
    connector = Connector(laptop.config, passphrase=secret)
    assert connector.run(laptop.server.host).code == 0
    # It was refused once without the passphrase; the next host gets it at once.
    assert connector.runner.connections == 2
    assert connector.run(laptop.server.host).code == 0
    assert connector.runner.connections == 3
    assert secret not in connector.runner.visible
    assert repr(secret) not in connector.runner.visible
    wrong = failure(laptop, Connector(laptop.config, passphrase="wrong"))
    assert isinstance(wrong, WrongPassphraseError)
    locked = failure(laptop, Connector(laptop.config))
    assert isinstance(locked, KeyLockedError)
    assert str(key) in locked.message


def test_an_encrypted_file_without_a_public_half_is_opened_too(laptop: Laptop) -> None:
    key = keygen(laptop.directory / "id", *ONLY_OPENSSH["pkcs8"], passphrase="secret")
    laptop.authorize(Path(f"{key}.pub"))
    Path(f"{key}.pub").unlink()
    laptop.lines.append(f"IdentityFile {key}")
    laptop.write()
    assert Connector(laptop.config, passphrase="secret").run(laptop.server.host).code == 0
    assert isinstance(failure(laptop, Connector(laptop.config)), KeyLockedError)


def test_an_agent_that_does_not_sign_is_not_a_refusal(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keygen(laptop.directory / "id", *ED25519)
    laptop.authorize(Path(f"{key}.pub"))
    with agents.short_directory() as short, agents.running(short / "agent") as path:
        # -c asks for each signature; without a display, the agent refuses.
        agents.add(path, key, confirm=True)
        key.unlink()
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        error = failure(laptop)
    assert isinstance(error, AgentRefusedError)


def test_a_directory_without_search_permission_has_no_key(laptop: Laptop) -> None:
    closed = laptop.directory / "closed"
    closed.mkdir()
    hidden = keygen(closed / "id", *ED25519)
    laptop.lines.append(f"IdentityFile {hidden}")
    laptop.lines.append(f"IdentityFile {laptop.server.directory}/id_ed25519")
    laptop.write()
    target = Target(laptop.server.host, "manage")
    route = routes.resolve(target, config=laptop.config, runner=LocalRunner())

    def offer() -> tuple[int, int]:
        identities = Identities(preferred=None, fingerprint="", passphrase=lambda _file: None)
        found = identities.offer(route)
        return len(found.keys), len(found.skipped)

    assert offer() == (2, 0)  # and everything is imported
    laptop.directory.chmod(0o755)
    for part in (laptop.server.directory, *laptop.server.directory.parents):
        with contextlib.suppress(PermissionError):
            part.chmod(part.stat().st_mode | 0o011)
    (laptop.server.directory / "id_ed25519").chmod(0o600)
    closed.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.chown(laptop.server.directory / "id_ed25519", 65534, -1)
            os.seteuid(65534)
        keys, skipped = offer()
    finally:
        os.seteuid(user)
        closed.chmod(0o700)
    assert (keys, skipped) == (1, 0)


# What is remembered


def test_openssh_is_chosen_until_its_cause_is_gone(laptop: Laptop, tmp_path: Path) -> None:
    key = keygen(laptop.directory / "id", "-t", "rsa", "-m", "PKCS8")
    laptop.authorize(Path(f"{key}.pub"))
    laptop.lines.append(f"IdentityFile {key}")
    laptop.write()
    file = tmp_path / FILE_NAME
    connector = Connector(laptop.config, history_file=file)
    assert connector.run(laptop.server.host).code == 0
    assert connector.runner.connections == 1
    assert file.exists()
    route = routes.resolve(
        Target(laptop.server.host, "manage"), config=laptop.config, runner=LocalRunner()
    )
    assert ConnectionHistory(file).prefers_openssh(route)
    again = Connector(laptop.config, history_file=file)
    assert again.run(laptop.server.host).code == 0
    key.touch()
    assert not ConnectionHistory(file).prefers_openssh(route)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"openssh": [{"cause": 1}]}', "\0" * 99])
def test_a_damaged_history_is_none(laptop: Laptop, tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    route = Route(Target(laptop.server.host, "manage"), {})
    history = ConnectionHistory(tmp_path / FILE_NAME)
    assert not history.prefers_openssh(route)
    history.remember_openssh(route, everywhere=True)
    assert ConnectionHistory(tmp_path / FILE_NAME).prefers_openssh(route)


# The number of connections


class Relay:
    """A port before the real server that counts connections, and hangs up at once after the first `most`.

    It stands for an sshd with PerSourcePenalties, which is stricter: no time brings it back.
    """

    def __init__(self, host: Host, most: int = 1 << 30, greeting: bytes = b"") -> None:
        self.count = 0
        self._host = host
        self._most = most
        self._greeting = greeting
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server((host.address, 0))
        self.host = replace(host, manage_port=self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.count += 1
                if self.count > self._most:
                    connection.sendall(self._greeting)
                    connection.close()
                    continue
                there = socket.create_connection((self._host.address, self._host.manage_port))
                self._sockets += [connection, there]
                for pair in ((connection, there), (there, connection)):
                    self._threads.append(threading.Thread(target=_pour, args=pair, daemon=True))
                    self._threads[-1].start()

    def close(self) -> None:
        """End every connection, and the threads with them."""
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
        for one in (self._listener, *self._sockets):
            one.close()


def _pour(origin: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := origin.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def relay(laptop: Laptop, most: int = 1 << 30, greeting: bytes = b"") -> Iterator[Relay]:
    """A relay whose host key is known."""
    found = Relay(laptop.server.host, most, greeting)
    key = laptop.known_hosts.split(" ", 1)[1]
    laptop.known_hosts = f"[{found.host.address}]:{found.host.manage_port} {key}"
    laptop.write()
    yield found
    found.close()


def test_a_refused_key_costs_each_way_one_connection(laptop: Laptop) -> None:
    laptop.lines.append(f"IdentityFile {keygen(laptop.directory / 'other', *ED25519)}")
    with relay(laptop) as port, pytest.raises(NotRegisteredError):
        Connector(laptop.config).run(port.host)
    assert port.count == 2


def test_an_unknown_host_key_costs_each_way_one_connection(laptop: Laptop) -> None:
    laptop.lines.append(f"IdentityFile {laptop.server.directory}/id_ed25519")
    with relay(laptop) as port:
        (laptop.directory / "known_hosts").write_text("")
        with pytest.raises(UnknownHostKeyError):
            Connector(laptop.config).run(port.host)
    assert port.count == 2


def test_a_server_that_answered_and_now_hangs_up_refuses_this_address(laptop: Laptop) -> None:
    laptop.lines.append(f"IdentityFile {keygen(laptop.directory / 'other', *ED25519)}")
    with relay(laptop, most=2) as port:
        connector = Connector(laptop.config)
        with pytest.raises(NotRegisteredError):
            connector.run(port.host)
        with pytest.raises(PenalizedError) as caught:
            connector.run(port.host)
    assert port.count == 3  # not tried again
    assert "wait 17 s" in caught.value.message
    assert caught.value.hint == f"sleep 17; apexgpu status {port.host.name}"


@pytest.mark.parametrize("line", ["", "ProxyJump none", "BindAddress 127.0.0.1"])
def test_a_server_that_reports_a_penalty_is_not_tried_again(laptop: Laptop, line: str) -> None:
    laptop.lines += [f"IdentityFile {laptop.server.directory}/id_ed25519", line]
    with (
        relay(laptop, most=0, greeting=b"Not allowed at this time\r\n") as port,
        pytest.raises(PenalizedError),
    ):
        Connector(laptop.config).run(port.host)
    assert port.count == 1


def test_a_real_server_with_penalties_is_recognised(tmp_path: Path) -> None:
    """OpenSSH 9.8 and newer. Before that, the relay above stands for it."""
    has_penalties = openssh.version() >= (9, 8)
    extra = "PerSourcePenalties authfail:60s noauth:60s min:1s\n" if has_penalties else ""
    server = openssh.start(tmp_path / "server", extra=extra, penalties=True)
    try:
        laptop = Laptop(tmp_path / "laptop", server)
        laptop.lines.append(f"IdentityFile {keygen(laptop.directory / 'other', *ED25519)}")
        most = 1 << 30 if has_penalties else 2
        with relay(laptop, most=most) as port:
            connector = Connector(laptop.config)
            # The first connection may already be punished when the second one comes.
            with pytest.raises((NotRegisteredError, PenalizedError)):
                connector.run(port.host)
            with pytest.raises(PenalizedError):
                connector.run(port.host)
    finally:
        server.stop()


def test_status_of_18_hosts_with_three_accounts_costs_one_more_connection(tmp_path: Path) -> None:
    with running(tmp_path / "lab", hosts=18, registered=True) as lab:
        names = [f"gpu{number}" for number in range(2, 20)]

        def forget(lab_state: LabState) -> list[Host]:
            hosts = []
            for name in names:
                host = lab_state.host(name)
                port = lab_state.port_of(host, "alice")
                hosts.append(Host(name, host.address, "alice", port, host.manage_port))
                if name not in names[:3]:
                    del host.accounts["alice"]
            return hosts

        hosts = lab.call(forget)
        connector = Connector(lab.layout.ssh_config)
        outcomes = fanout.each(hosts, lambda host: connector.run(host, "help"))
    registered = [outcome.host.name for outcome in outcomes if outcome.ok]
    refused = [type(outcome.error) for outcome in outcomes if not outcome.ok]
    assert registered == names[:3]
    assert refused == [NotRegisteredError] * 15
    assert connector.runner.connections <= 1


def test_the_second_key_of_the_account_is_tried_where_the_first_is_refused(
    laptop: Laptop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop.lines += [
        f"IdentityFile {keygen(laptop.directory / 'other', *ED25519)}",
        f"IdentityFile {laptop.server.directory}/id_ed25519",
    ]
    assert logged_in(laptop.status(capsys, monkeypatch))
