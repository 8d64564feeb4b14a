"""tunnel and tunnels against a real sshd, with the limits that users have: what fails, is killed, comes back."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pexpect
import pytest
from tests import openssh
from tests.real.member import DAEMON, SEVEN, Member, Said, member
from tests.real.webserver import Wire, serving
from tests.terminals import spawn
from tests.waiting import until

from apexgpu.forwarding import records

pytestmark = [pytest.mark.openssh, pytest.mark.timeout(180)]
LIMIT = 60.0


@dataclass
class Laptop:
    """The program in processes of its own, before a host gpu7 whose container is a real sshd."""

    server: openssh.OpenSSH
    state: Path

    def start(self, *words: str, **more: Any) -> "subprocess.Popen[str]":
        argv = [sys.executable, "-m", "apexgpu", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, **more
        )

    def run(self, *words: str, **more: Any) -> "subprocess.CompletedProcess[str]":
        process = self.start(*words, **more)
        out, err = process.communicate(timeout=LIMIT)
        assert "Traceback" not in err
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def json(self, *words: str, code: int = 0, **more: Any) -> dict[str, Any]:
        done = self.run(*words, "--json", **more)
        assert done.returncode == code, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        assert document["schema"] == 1
        return document

    def opened(self, *words: str, **more: Any) -> dict[str, Any]:
        """Open one in the background: what its JSON says."""
        found: dict[str, Any] = self.json("tunnel", "gpu7", *words, "--background", **more)[
            "tunnels"
        ][0]
        return found

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.json("tunnels")["tunnels"]
        return found

    def is_at(self, port: int) -> None:
        """Let gpu7 be reached on another port of this machine."""
        openssh.remember(replace(self.server.host, port=port))
        known = self.server.directory / "known_hosts"
        known.write_text(
            known.read_text() + known.read_text().replace(f"]:{self.server.host.port}", f"]:{port}")
        )


@contextlib.contextmanager
def before(directory: Path, monkeypatch: pytest.MonkeyPatch, extra: str = "") -> Iterator[Laptop]:
    server = openssh.start(directory / "server", extra=extra)
    openssh.remember(server.host)
    monkeypatch.setenv("APEXGPU_SSH_CONFIG", str(server.config))
    laptop = Laptop(server, Path(os.environ["APEXGPU_STATE_DIR"]))
    try:
        yield laptop
    finally:
        laptop.run("tunnels", "close", "--all")
        server.stop()


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Laptop]:
    with before(tmp_path, monkeypatch) as found:
        yield found


def get(url: str, timeout: float = 30) -> bytes:
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        data: bytes = answer.read()
        return data


def get_soon(url: str, limit: float) -> None:
    """Press reload until the page is there, `limit` seconds at most."""
    end = time.monotonic() + limit
    while True:
        try:
            assert get(url, timeout=max(0.1, end - time.monotonic())) == b"training"
        except OSError:
            assert time.monotonic() < end, "not within the limit"
            threading.Event().wait(0.01)
        else:
            return


def ssh_of(made: dict[str, Any]) -> int:
    """The ssh that carries a tunnel now."""
    children: list[str] = []

    def there() -> bool:
        children[:] = Path(f"/proc/{made['pid']}/task/{made['pid']}/children").read_text().split()
        return len(children) == 1

    until(there)
    return int(children[0])


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def state_of(laptop: Laptop, made: dict[str, Any]) -> str:
    return next(
        (one.state for one in records.list_tunnels(laptop.state) if one.id == made["id"]), ""
    )


def nobody() -> int:
    """A port of this machine on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.serial
class TestComesBack:
    """Requests succeed again within 10 s, on the same local port, with the limits that users have."""

    def test_a_server_that_was_killed(self, laptop: Laptop) -> None:
        with serving() as port:
            made = laptop.opened(str(port))
            assert get(made["url"]) == b"training"
            laptop.server.kill()
            until(lambda: state_of(laptop, made) == "waiting")
            laptop.server.again()
            get_soon(made["url"], 10)
        now = laptop.listed()[0]
        assert (now["id"], now["local_port"], now["reconnects"]) == (
            made["id"],
            made["local_port"],
            1,
        )

    def test_a_network_that_swallowed_everything(self, laptop: Laptop) -> None:
        wire = Wire(laptop.server.host.port or 0)
        laptop.is_at(wire.port)
        with serving() as port:
            made = laptop.opened(str(port))
            assert get(made["url"]) == b"training"
            wire.cut()
            cut = time.monotonic()
            until(lambda: state_of(laptop, made) != "up")
            assert time.monotonic() - cut < 10
            wire.heal()
            get_soon(made["url"], 10)
        assert laptop.listed()[0]["local_port"] == made["local_port"]
        laptop.run("tunnels", "close", "--all")
        wire.close()

    def test_an_ssh_that_stood_still(self, laptop: Laptop) -> None:
        with serving() as port:
            made = laptop.opened(str(port))
            asleep = ssh_of(made)
            os.kill(asleep, signal.SIGSTOP)
            get_soon(made["url"], 15)  # found out, and replaced, without being woken up
            assert gone(asleep)

    def test_an_ssh_that_was_killed(self, laptop: Laptop) -> None:
        with serving() as port:
            made = laptop.opened(str(port))
            os.kill(ssh_of(made), signal.SIGKILL)
            get_soon(made["url"], 10)
            until(lambda: state_of(laptop, made) == "up")
        assert laptop.listed()[0]["reconnects"] == 1

    def test_a_laptop_that_slept_until_the_server_had_given_it_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        impatient = "ClientAliveInterval 1\nClientAliveCountMax 2"
        with before(tmp_path, monkeypatch, impatient) as laptop, serving() as port:
            made = laptop.opened(str(port))
            assert get(made["url"]) == b"training"
            sleepers = (made["pid"], ssh_of(made))
            sessions = openssh.family(laptop.server.process.pid)[1:]
            for pid in sleepers:
                os.kill(pid, signal.SIGSTOP)
            until(lambda: all(gone(pid) for pid in sessions))
            for pid in sleepers:
                os.kill(pid, signal.SIGCONT)
            get_soon(made["url"], 10)


class TestRefused:
    @pytest.mark.parametrize("more", [(), ("--background",)], ids=["foreground", "background"])
    def test_an_sshd_that_forbids_forwarding(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
    ) -> None:
        with before(tmp_path, monkeypatch, "AllowTcpForwarding no") as laptop, serving() as port:
            error = laptop.json("tunnel", "gpu7", str(port), *more, code=6)["error"]
            assert error["code"] == "forwarding_forbidden"
            assert error["message"] == "the container on gpu7 forbids ssh to forward ports"
            assert error["hint"].startswith("apexgpu ssh gpu7 -- grep ")
            assert laptop.listed() == []

    def test_an_sshd_that_allows_this_port_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with (
            serving() as port,
            before(tmp_path, monkeypatch, f"PermitOpen localhost:{port}") as laptop,
        ):
            assert get(laptop.opened(str(port))["url"]) == b"training"

    def test_a_server_that_serves_once_does_not_lose_that_to_us(self, laptop: Laptop) -> None:
        with socket.create_server(("127.0.0.1", 0)) as once:
            made = laptop.opened(str(once.getsockname()[1]))
            with socket.create_connection(("127.0.0.1", made["local_port"])) as caller:
                caller.sendall(b"mine")
                first, _ = once.accept()
                with first:
                    assert first.recv(4) == b"mine"

    def test_a_port_on_which_nobody_listens_there_yet(self, laptop: Laptop) -> None:
        there, here = nobody(), nobody()
        said = laptop.run("tunnel", "gpu7", str(there), "--local", str(here), "--background")
        assert said.returncode == 0
        assert f"nothing listens on port {there} of gpu7 yet" in said.stderr
        made = laptop.listed()[0]
        with pytest.raises(OSError, match=r"closed|reset"):
            get(made["url"])
        until(lambda: any(one.reason for one in records.list_tunnels(laptop.state)))
        said = laptop.run("tunnels")
        assert f"{made['id']}: the container answered: Connection refused" in said.stderr
        assert laptop.listed()[0]["state"] == "up"

    @pytest.mark.parametrize("more", [(), ("--background",)], ids=["foreground", "background"])
    def test_a_key_that_is_not_taken(self, laptop: Laptop, more: tuple[str, ...]) -> None:
        (laptop.server.directory / "authorized_keys").write_text("")
        error = laptop.json("tunnel", "gpu7", "6006", *more, code=4)["error"]
        assert (error["code"], error["hint"].split("  ")[0]) == ("key_refused", "apexgpu login")

    @pytest.mark.parametrize("more", [(), ("--background",)], ids=["foreground", "background"])
    def test_a_host_key_that_has_changed(self, laptop: Laptop, more: tuple[str, ...]) -> None:
        new_key(laptop.server)
        laptop.server.kill()
        laptop.server.again()
        assert (
            laptop.json("tunnel", "gpu7", "6006", *more, code=4)["error"]["code"]
            == "host_key_changed"
        )
        assert laptop.listed() == []

    def test_a_host_key_that_changes_meanwhile_ends_it(self, laptop: Laptop) -> None:
        with serving() as port, laptop.start("tunnel", "gpu7", str(port)) as process:
            assert process.stdout is not None
            assert "→  gpu7" in process.stdout.readline()
            new_key(laptop.server)
            laptop.server.kill()
            laptop.server.again()
            _, err = process.communicate(timeout=LIMIT)
            assert process.returncode == 4
            assert "the host key of gpu7 has changed" in err

    @pytest.mark.parametrize("more", [(), ("--background",)], ids=["foreground", "background"])
    def test_no_ssh_on_this_laptop(
        self, laptop: Laptop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
    ) -> None:
        (tmp_path / "bin").mkdir()
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        error = laptop.json("tunnel", "gpu7", "6006", *more, code=127)["error"]
        assert "ssh is not installed" in error["message"]
        assert error["hint"]

    @pytest.mark.parametrize("more", [(), ("--background",)], ids=["foreground", "background"])
    def test_an_ssh_that_fails_where_the_check_before_it_did_not(
        self, laptop: Laptop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
    ) -> None:
        """A start in the background is told as it went."""
        (tmp_path / "bin").mkdir()
        real = shutil.which("ssh")
        script = f'#!/bin/sh\ncase "$*" in *-G*) exec {real} "$@";; esac\necho "ssh: Connection reset" >&2\nexit 255\n'
        (tmp_path / "bin" / "ssh").write_text(script)
        (tmp_path / "bin" / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
        error = laptop.json("tunnel", "gpu7", "6006", *more, code=5)["error"]
        assert error["code"] == "closed"
        assert laptop.listed() == []

    def test_once_ends_with_its_connection(self, laptop: Laptop) -> None:
        with serving() as port, laptop.start("tunnel", "gpu7", str(port), "--once") as process:
            assert process.stdout is not None
            assert get(process.stdout.readline().split()[0]) == b"training"
            laptop.server.kill()
            _, err = process.communicate(timeout=LIMIT)
            assert process.returncode == 5
            assert "the connection to gpu7 ended" in err
            laptop.server.again()


class TestForeground:
    def test_the_living_line_and_what_is_said_of_a_loss(
        self, laptop: Laptop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TERM", "xterm")
        with serving(b"x" * 50_000) as port:
            words = ["-m", "apexgpu", "tunnel", "gpu7", str(port)]
            child = spawn(
                sys.executable,
                words,
                encoding="utf-8",
                timeout=LIMIT,
                dimensions=(24, 200),
                env=dict(os.environ),
            )
            child.expect(r"(http://127\.0\.0\.1:\d+)  →  gpu7")
            url = str(child.match.group(1)) if isinstance(child.match, re.Match) else ""
            assert get(url) == b"x" * 50_000
            child.expect(rf"{url} → gpu7 · up \d+ s · (49|5\d)\.\d KiB")
            laptop.server.kill()
            child.expect(r"gpu7: [^\r\n]*; connecting again")
            child.expect(r"waiting \d+ s · (49|5\d)\.\d KiB")  # the count outlives ssh
            laptop.server.again()
            assert get(url) == b"x" * 50_000
            child.expect("connected again after")
            child.expect(r"up \d+ s · (9[89]|1\d\d)\.\d KiB · 1 reconnect")
            child.sendintr()
            child.expect(pexpect.EOF)
            child.close()
            assert child.exitstatus == 130


class TestKilled:
    def test_a_killed_tunnel_takes_its_ssh_with_it_and_frees_its_port(self, laptop: Laptop) -> None:
        with serving() as port:
            made = laptop.opened(str(port))
            ssh = ssh_of(made)
            os.kill(made["pid"], signal.SIGKILL)
            until(lambda: gone(ssh))
            socket.create_server(("127.0.0.1", made["local_port"])).close()
            dead = laptop.listed()[0]
            assert (dead["id"], dead["state"], dead["reason"]) == (
                made["id"],
                "dead",
                "its process is gone",
            )
            assert laptop.listed() == []
            assert list((laptop.state / "tunnels").iterdir()) == []

    def test_files_from_before_a_reboot_harm_nobody_who_has_their_number_now(
        self, laptop: Laptop
    ) -> None:
        with serving() as port:
            made = laptop.opened(str(port))
            file = laptop.state / "tunnels" / f"{made['id']}.json"
            old = file.read_text()
            assert laptop.run("tunnels", "close", made["id"]).returncode == 0
            alive = laptop.opened(str(port), "--local", str(nobody()))
            file.write_text(old.replace(f'"pid": {made["pid"]}', f'"pid": {alive["pid"]}'))
            assert {one["id"]: one["state"] for one in laptop.listed()} == {
                made["id"]: "dead",
                alive["id"]: "up",
            }
            assert get(alive["url"]) == b"training"
            assert [one["reconnects"] for one in laptop.listed()] == [0]

    def test_one_whose_state_directory_is_deleted_ends_and_does_not_make_it_again(
        self, laptop: Laptop
    ) -> None:
        with serving() as port:
            made = laptop.opened(str(port))
            shutil.rmtree(laptop.state / "tunnels")
            until(lambda: gone(made["pid"]))
            assert not (laptop.state / "tunnels").exists()

    def test_closed_twice_there_is_nothing_to_do(self, laptop: Laptop) -> None:
        with serving() as port:
            made = laptop.opened(str(port))
            assert laptop.json("tunnels", "close", made["id"])["tunnels"][0]["state"] == "closed"
            for names in ([made["id"]], ["gpu7"], ["--all"]):
                assert laptop.json("tunnels", "close", *names)["tunnels"] == []
        assert (
            laptop.json("tunnels", "close", "nonsense", code=2)["error"]["code"] == "unknown_host"
        )

    def test_ctrl_c_before_it_is_up(self, laptop: Laptop) -> None:
        """The line is dead: whatever is waited for, Ctrl-C ends it at once, and nothing stays."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            laptop.is_at(silent.getsockname()[1])
            for more in ((), ("--background",)):
                with laptop.start("tunnel", "gpu7", "6006", *more, "--timeout", "60") as process:
                    caller, _ = silent.accept()
                    process.send_signal(signal.SIGINT)
                    process.communicate(timeout=60)
                    assert process.returncode == 130
                    caller.close()
        assert laptop.listed() == []

    def test_a_start_that_nobody_waits_for_any_more_ends_itself(self, laptop: Laptop) -> None:
        from apexgpu.errors import UnreachableError
        from apexgpu.forwarding import background
        from apexgpu.forwarding.ports import Destination
        from apexgpu.forwarding.request import TunnelRequest
        from apexgpu.models import Target
        from apexgpu.process import LocalRunner
        from apexgpu.ssh.route import config_arguments, target_arguments

        wire = Wire(laptop.server.host.port or 0)
        laptop.is_at(wire.port)
        host = replace(laptop.server.host, port=wire.port)
        where = (
            *config_arguments(laptop.server.config),
            *target_arguments(Target(host, "container")),
            "gpu7",
        )
        plan = TunnelRequest("gpu7", where, (Destination(6006),), (nobody(),), background=True)
        wire.cut()
        for limit in (0, 3):  # before it has begun, and while it connects
            with pytest.raises(UnreachableError, match=f"did not come up within {limit} s"):
                background.start(laptop.state, plan, LocalRunner(), limit=limit)
        wire.heal()
        until(lambda: not any(str(laptop.state) in words for words in words_of_all()))
        assert laptop.listed() == []
        wire.close()


class TestPlaces:
    def test_long_paths_of_sockets(
        self, laptop: Laptop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        long = tmp_path / ("x" * 60) / ("y" * 60)
        long.mkdir(parents=True)
        monkeypatch.setenv("TMPDIR", str(long))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
        with serving() as port:
            assert get(laptop.opened(str(port))["url"]) == b"training"

    def test_a_runtime_directory_that_is_not_there(
        self, laptop: Laptop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/nobody")
        with serving() as port:
            assert get(laptop.opened(str(port))["url"]) == b"training"

    def test_a_program_there_that_listens_on_ipv6_alone(self, laptop: Laptop) -> None:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as six:
            six.settimeout(LIMIT)
            number = six.getsockname()[1]
            said = laptop.run(
                "tunnel", "gpu7", str(number), "--local", str(nobody()), "--background"
            ).stderr
            assert f"apexgpu tunnel gpu7 '[::1]:{number}'" in said
            made = laptop.opened(f"[::1]:{number}", "--local", str(nobody()))
            with socket.create_connection(("127.0.0.1", made["local_port"])) as caller:
                caller.sendall(b"six")
                first, _ = six.accept()
                with first:
                    assert first.recv(3) == b"six"

    def test_a_plain_locale_and_a_directory_full_of_traps(
        self, laptop: Laptop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "json.py").write_text("raise SystemExit('a file of the user was imported')\n")
        for name, value in {
            "LANG": "C",
            "LC_ALL": "C",
            "PYTHONIOENCODING": "ascii",
            "PYTHONUTF8": "0",
        }.items():
            monkeypatch.setenv(name, value)
        with serving() as port:
            script = Path(sysconfig.get_path("scripts"), "apexgpu")
            done = subprocess.run(
                [script, "tunnel", "gpu7", str(port), "-b"],
                capture_output=True,
                cwd=tmp_path,
                timeout=LIMIT,
                check=True,
            )
            assert get(done.stdout.decode().split()[0]) == b"training"

    @pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
    def test_closed_standard_streams(self, laptop: Laptop, closed: str) -> None:
        with serving() as port:
            words = [sys.executable, "-m", "apexgpu", "tunnel", "gpu7", str(port), "--background"]
            done = subprocess.run(
                ["sh", "-c", f'exec "$@" {closed}', "sh", *words],
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=True,
            )
            assert get(done.stdout.split()[0]) == b"training"

    @pytest.mark.parametrize("more", [(), ("--background",)], ids=["foreground", "background"])
    def test_a_state_directory_that_cannot_be_used(
        self, laptop: Laptop, more: tuple[str, ...]
    ) -> None:
        (laptop.state / "tunnels").write_text("in the way")
        error = laptop.json("tunnel", "gpu7", "6006", *more, code=1)["error"]
        assert error["code"] == "file"
        assert error["message"].startswith(f"cannot use {laptop.state / 'tunnels'}")
        (laptop.state / "tunnels").unlink()

    def test_more_connections_than_a_shell_allows_open_files(self, laptop: Laptop) -> None:
        with (
            socket.create_server(("127.0.0.1", 0), backlog=200) as server,
            contextlib.ExitStack() as stack,
        ):
            server.settimeout(LIMIT)
            words = [
                sys.executable,
                "-m",
                "apexgpu",
                "tunnel",
                "gpu7",
                str(server.getsockname()[1]),
                "--background",
            ]
            done = subprocess.run(
                ["sh", "-c", 'ulimit -Sn 100; exec "$@"', "sh", *words],
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=True,
            )
            here = int(done.stdout.split()[0].rpartition(":")[2])
            callers = [
                stack.enter_context(socket.create_connection(("127.0.0.1", here)))
                for _ in range(150)
            ]
            for number, caller in enumerate(callers):
                caller.sendall(b"%3d" % number)
            heard = {stack.enter_context(server.accept()[0]).recv(3) for _ in callers}
            assert len(heard) == 150

    def test_a_config_of_the_users_that_would_take_the_forwards_away(self, laptop: Laptop) -> None:
        with serving() as port, socket.create_server(("127.0.0.1", 0)) as other:
            taken = other.getsockname()[1]
            config = laptop.server.config
            mine = [
                "ClearAllForwardings yes",
                f"LocalForward {taken} localhost:{port}",
                "RemoteCommand sleep 1",
                "LogLevel QUIET",
                "ControlMaster auto",
                f"ControlPath {config.parent}/%C",
                "GatewayPorts yes",
                "ServerAliveInterval 0",
                "RequestTTY force",
            ]
            config.write_text(config.read_text() + "".join(f"  {line}\n" for line in mine))
            made = laptop.opened(str(port))
            assert get(made["url"]) == b"training"
            assert (
                f"0100007F:{made['local_port']:04X} 00000000:0000 0A"
                in Path("/proc/net/tcp").read_text()
            )
            assert (
                f"00000000:{made['local_port']:04X} 00000000:0000 0A"
                not in Path("/proc/net/tcp").read_text()
            )

    def test_what_json_tells(self, laptop: Laptop) -> None:
        with serving() as port:
            made = laptop.opened(str(port))
        assert made == laptop.listed()[0] | {"bytes": made["bytes"]}
        assert {name: type(value) for name, value in made.items()} == {
            "id": str,
            "host": str,
            "pid": int,
            "started": str,
            "background": bool,
            "state": str,
            "since": str,
            "reconnects": int,
            "reason": str,
            "local_port": int,
            "remote": str,
            "remote_port": int,
            "url": str,
            "forwards": list,
            "bytes": int,
        }
        assert made["started"].endswith("+00:00")

    def test_it_is_small(self, laptop: Laptop) -> None:
        with serving() as port:
            made = laptop.opened(str(port))
            assert get(made["url"]) == b"training"
            status = Path(f"/proc/{made['pid']}/status").read_text()
            assert int(status.split("VmHWM:")[1].split()[0]) < 40 * 1024


def new_key(server: openssh.OpenSSH) -> None:
    """Another host key, which nobody knows."""
    key = server.directory / "host_key"
    key.unlink()
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, input=b"y\n"
    )


def words_of_all() -> list[str]:
    return subprocess.run(
        ["ps", "axww", "-o", "args="], capture_output=True, text=True, check=True
    ).stdout.splitlines()


class TestTwoUsers:
    """Two accounts of one laptop: neither sees, takes or ends what is the other's."""

    @pytest.fixture
    def two(self) -> Iterator[tuple[Member, Member]]:
        with member() as first:
            second = Member(first.directory.parent / "second", first.servers, DAEMON)
            try:
                yield first, second
            finally:
                for one in (first, second):
                    one("tunnels", "close", "--all")

    def test_each_has_a_port_and_its_own_list(self, two: tuple[Member, Member]) -> None:
        with serving() as port:
            here, there = [
                well(one("tunnel", SEVEN, str(port), "--background", "--json")) for one in two
            ]
            assert here["local_port"] != there["local_port"]
            assert get(here["url"]) == get(there["url"]) == b"training"
            listed = [json.loads(one("tunnels", "--json").out)["tunnels"] for one in two]
            assert [[made["pid"] for made in rows] for rows in listed] == [
                [here["pid"]],
                [there["pid"]],
            ]
            assert two[1]("tunnels", "close", "--all").code == 0
            assert get(here["url"]) == b"training"
            with pytest.raises(OSError, match="refused"):
                get(there["url"])

    def test_a_port_that_the_other_has_is_named_as_taken(self, two: tuple[Member, Member]) -> None:
        with serving() as port:
            made = well(two[0]("tunnel", SEVEN, str(port), "--background", "--json"))
            wanted = str(made["local_port"])
            said = two[1]("tunnel", SEVEN, str(port), "--local", wanted, "--background")
            assert said.code == 6, said.err
            assert f"port {wanted}" in said.err
            assert get(made["url"]) == b"training"


def well(said: Said) -> dict[str, Any]:
    """The one tunnel that a command tells of."""
    assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)["tunnels"][0]
    return found
