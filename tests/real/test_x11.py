"""Windows through a real sshd onto a real X server; each link of the chain broken in its turn."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pexpect
import pytest
from tests import openssh
from tests.real.screen import LIMIT, Screen, screen

from apexgpu import cli
from apexgpu.session import Session

pytestmark = pytest.mark.openssh
LINKS = ["container", "ssh", "xauth there", "sshd", "DISPLAY there", "cookie there", "window"]


@dataclass
class Laptop:
    """The command line in this process, before a host gpu7. `home` is that of the account on the server."""

    screen: Screen
    home: Path
    capsys: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""
    servers: list[openssh.OpenSSH] = field(default_factory=list)

    def __call__(self, *words: str) -> int:
        self.capsys.readouterr()
        code = cli.main(words, Session(environment=os.environ))
        self.out, self.err = self.capsys.readouterr()
        return code

    def checked(self, *words: str) -> tuple[int, dict[str, Any]]:
        """The exit code of `x11 check`, and its probes by their names."""
        code = self("x11", "check", *words, "--json")
        document = json.loads(self.out)
        assert document["schema"] == 1
        assert document["ok"] is (code == 0)
        probes = [
            *document["checks"],
            *(probe for row in document["hosts"] for probe in row["checks"]),
        ]
        return code, {probe["check"]: probe for probe in probes}

    def serve(self, directory: Path, extra: str = "X11Forwarding yes") -> openssh.OpenSSH:
        """Let gpu7 be a new sshd."""
        server = openssh.start(directory, home=self.home, extra=extra)
        self.servers.append(server)
        openssh.remember(server.host)
        os.environ["APEXGPU_SSH_CONFIG"] = str(server.config)
        return server


@pytest.fixture
def laptop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Laptop]:
    """A laptop with a screen."""
    home = tmp_path / "account"
    home.mkdir()
    monkeypatch.setenv("APEXGPU_SSH_CONFIG", "")
    with screen(tmp_path) as shown:
        for name, value in shown.environment.items():
            monkeypatch.setenv(name, value)
        found = Laptop(shown, home, capsys)
        found.serve(tmp_path / "server")
        yield found
        for server in found.servers:
            server.stop()


def broken(probes: dict[str, Any]) -> tuple[str, str]:
    """The one broken link: its name and its code. All before it are well, all after it were not looked at."""
    verdicts = [probe["verdict"] for probe in probes.values()]
    at = verdicts.index("broken")
    assert set(verdicts[:at]) <= {"ok"}
    assert set(verdicts[at + 1 :]) <= {"skipped"}
    probe = list(probes.values())[at]
    assert probe["hint"]
    return probe["check"], probe["code"]


class TestCheck:
    @pytest.mark.parametrize("more", [[], ["--trusted"]])
    def test_every_link_is_well_and_a_window_was_drawn_there_and_seen_here(
        self, laptop: Laptop, more: list[str]
    ) -> None:
        code, probes = laptop.checked("gpu7", *more)
        assert (code, {probe["verdict"] for probe in probes.values()}) == (0, {"ok"}), laptop.out
        assert list(probes) == ["DISPLAY", "X server", "xauth", "cookie", "permission", *LINKS]
        assert (
            probes["window"]["fact"]
            == "drawn in the container, shown on this screen, with its pixels"
        )
        assert "apexgpu" not in laptop.screen.windows()  # it is taken away again

    def test_without_a_host_only_this_machine_is_looked_at(self, laptop: Laptop) -> None:
        code, probes = laptop.checked()
        assert (code, list(probes)) == (0, ["DISPLAY", "X server", "xauth", "cookie", "permission"])

    def test_the_report_for_people_has_a_line_a_link(self, laptop: Laptop) -> None:
        assert laptop("x11", "check", "gpu7") == 0
        assert len(laptop.out.splitlines()) == 13
        assert laptop.out.endswith("All well.\n")

    def test_no_cookie_is_in_any_output(self, laptop: Laptop) -> None:
        listed = subprocess.run(
            ["xauth", "list"], capture_output=True, text=True, check=True
        ).stdout
        secret = listed.split()[-1]
        laptop("x11", "check", "gpu7", "--json", "--debug")
        assert len(secret) == 32
        assert secret not in laptop.out + laptop.err

    def test_no_display(self, laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DISPLAY")
        code, probes = laptop.checked("gpu7")
        assert (code, broken(probes)) == (6, ("DISPLAY", "no_display"))
        assert probes["DISPLAY"]["hint"].startswith(
            "export DISPLAY=:"
        )  # of this screen, or of another test's

    def test_a_dead_socket(self, laptop: Laptop) -> None:
        laptop.screen.kill()
        assert laptop.screen.socket.exists()
        code, probes = laptop.checked("gpu7")
        assert (code, broken(probes)) == (6, ("X server", "no_server"))
        assert "connection refused" in probes["X server"]["fact"]

    def test_no_xauth(
        self, laptop: Laptop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = laptop.servers[0].config
        config.write_text(config.read_text() + "  XAuthLocation /nowhere/xauth\n")
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "ssh").symlink_to("/usr/bin/ssh")
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        code, probes = laptop.checked("gpu7")
        assert (code, broken(probes)) == (127, ("xauth", "no_xauth"))
        assert probes["xauth"]["hint"] == "sudo apt install xauth"

    def test_a_bad_cookie_and_where_the_right_one_is(
        self, laptop: Laptop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "other"
        other.touch()
        subprocess.run(
            ["xauth", "-q", "-f", other, "add", laptop.screen.display, ".", "0" * 32], check=True
        )
        monkeypatch.setenv("XAUTHORITY", str(other))
        code, probes = laptop.checked("gpu7")
        assert (code, broken(probes)) == (6, ("cookie", "bad_cookie"))
        assert "xhost" in probes["cookie"]["hint"]
        right = Path(os.environ["HOME"]) / ".Xauthority"
        right.write_bytes(laptop.screen.authority.read_bytes())
        _, probes = laptop.checked()
        assert probes["cookie"]["hint"] == f"export XAUTHORITY={right}"

    def test_x11forwarding_no(self, laptop: Laptop, tmp_path: Path) -> None:
        # The sshd of this test has a configuration of its own: `sudo sshd -T` is led to it.
        (tmp_path / "bin").mkdir()
        sudo = tmp_path / "bin" / "sudo"
        sudo.write_text(f"#!/bin/sh\nexec /usr/sbin/sshd -T -f {tmp_path}/refusing/sshd_config\n")
        sudo.chmod(0o755)
        path = f"PATH={tmp_path}/bin:/usr/bin:/bin"
        laptop.serve(tmp_path / "refusing", extra="X11Forwarding no")
        config = tmp_path / "refusing" / "sshd_config"
        config.write_text(config.read_text().replace("SetEnv ", f"SetEnv {path} "))
        laptop.servers[-1].stop()
        laptop.servers[-1].again()
        code, probes = laptop.checked("gpu7")
        assert (code, broken(probes)) == (6, ("sshd", "sshd_refuses"))
        assert "X11Forwarding yes" in probes["sshd"]["hint"]

    def test_no_xauth_in_the_container(self, laptop: Laptop, tmp_path: Path) -> None:
        laptop.serve(tmp_path / "bare", extra="X11Forwarding yes\nXAuthLocation /nowhere/xauth")
        code, probes = laptop.checked("gpu7")
        assert (code, broken(probes)) == (6, ("xauth there", "no_xauth_there"))
        assert probes["xauth there"]["hint"] == "apexgpu x11 install gpu7"

    def test_a_key_that_may_not(self, laptop: Laptop) -> None:
        keys = laptop.servers[0].directory / "authorized_keys"
        keys.write_text(f"no-X11-forwarding {keys.read_text()}")
        code, probes = laptop.checked("gpu7")
        assert (code, broken(probes)) == (6, ("sshd", "key_option"))

    def test_a_lock_that_somebody_left_in_the_container(self, laptop: Laptop) -> None:
        for letter in "cl":
            (laptop.home / f".Xauthority-{letter}").touch()
        code, probes = laptop.checked("gpu7")  # sshd waits 20 s for its xauth
        assert (code, broken(probes)) == (6, ("cookie there", "cookie_locked"))
        subprocess.run(
            ["sh", "-c", probes["cookie there"]["hint"].partition(" -- ")[2]], check=True
        )
        assert laptop.checked("gpu7")[0] == 0

    def test_a_client_that_dies(self, laptop: Laptop, tmp_path: Path) -> None:
        (laptop.home / "miniconda3" / "bin").mkdir(parents=True)
        laptop.serve(tmp_path / "killing")
        config = tmp_path / "killing" / "sshd_config"
        path = f"PATH={laptop.home}/miniconda3/bin:/usr/bin:/bin"
        config.write_text(config.read_text().replace("SetEnv ", f"SetEnv {path} "))
        facts = r"{\"display\": \"$DISPLAY\", \"xauth\": \"/usr/bin/xauth\", \"cookie\": true, \"authority\": \"x\"}"
        dying = laptop.home / "miniconda3" / "bin" / "python3"
        dying.write_text(f'#!/bin/sh\necho "apexgpu {facts}"\necho Killed >&2\nkill -9 $$\n')
        dying.chmod(0o755)
        laptop.servers[-1].stop()
        laptop.servers[-1].again()
        code, probes = laptop.checked("gpu7")
        assert (code, broken(probes)) == (6, ("window", "client_died"))
        assert "Killed" in probes["window"]["fact"]

    def test_a_container_without_python_leaves_the_window_unknown(
        self, laptop: Laptop, tmp_path: Path
    ) -> None:
        (tmp_path / "bare").mkdir()
        for name in ("env", "sh"):
            (tmp_path / "bare" / name).symlink_to(f"/usr/bin/{name}")
        laptop.serve(tmp_path / "poor")
        config = tmp_path / "poor" / "sshd_config"
        config.write_text(config.read_text().replace("SetEnv ", f"SetEnv PATH={tmp_path}/bare "))
        laptop.servers[-1].stop()
        laptop.servers[-1].again()
        code, probes = laptop.checked("gpu7")
        assert (code, probes["sshd"]["verdict"]) == (0, "ok")
        assert (probes["window"]["verdict"], probes["window"]["code"]) == ("unknown", "no_python")
        assert laptop("x11", "check", "gpu7") == 0
        assert laptop.out.endswith(
            "Nothing is broken, but not checked: DISPLAY there, cookie there, window\n"
        )

    def test_a_host_that_is_down_has_its_own_code(self, laptop: Laptop) -> None:
        laptop.servers[0].kill()
        code, probes = laptop.checked("gpu7")
        assert code in {5, 6}
        assert broken(probes)[0] == "container"
        laptop.servers[0].again()


class TestPermission:
    def test_a_screen_that_cannot_restrict_programs_wants_them_trusted(
        self, tmp_path: Path, laptop: Laptop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "plain").mkdir()
        with screen(tmp_path / "plain", "-extension", "SECURITY") as shown:
            for name, value in shown.environment.items():
                monkeypatch.setenv(name, value)
            code, probes = laptop.checked("gpu7")
            assert (code, broken(probes)) == (6, ("permission", "no_security"))
            assert probes["permission"]["hint"] == "apexgpu x11 check --trusted gpu7"
            assert laptop("x11", "run", "gpu7", "xeyes") == 6
            assert " hint: apexgpu x11 run --trusted gpu7 xeyes" in laptop.err
            assert laptop.checked("gpu7", "--trusted")[0] == 0
            assert (
                laptop("x11", "run", "gpu7", "--trusted", "xwininfo -root > /dev/null; exit 4") == 4
            )

    def test_what_is_untrusted_cannot_read_the_screen(self, laptop: Laptop) -> None:
        assert laptop("x11", "run", "gpu7", "xwd -root -silent > /dev/null") == 1
        assert " hint: apexgpu x11 run --trusted gpu7 'xwd -root" in laptop.err
        assert laptop("x11", "run", "--trusted", "gpu7", "xwd -root -silent > /dev/null") == 0


@pytest.fixture
def program(laptop: Laptop) -> Iterator[list[subprocess.Popen[str]]]:
    """Programs of the command line that run by themselves; what is left of them is ended."""
    running: list[subprocess.Popen[str]] = []
    yield running
    for one in running:
        one.kill()
        one.communicate(timeout=LIMIT)


class TestRun:
    def start(self, program: list[subprocess.Popen[str]], *words: str) -> "subprocess.Popen[str]":
        child = subprocess.Popen(
            [sys.executable, "-m", "apexgpu", "x11", "run", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        program.append(child)
        return child

    @pytest.mark.parametrize("more", [[], ["--trusted"], ["--compress"]])
    def test_xeyes_is_on_the_screen_and_ctrl_c_takes_it_away(
        self, laptop: Laptop, program: list[subprocess.Popen[str]], more: list[str]
    ) -> None:
        child = self.start(program, *more, "gpu7", "xeyes")
        assert '("xeyes" "XEyes")  150x100' in laptop.screen.await_window("xeyes")
        os.killpg(child.pid, signal.SIGINT)
        out, err = child.communicate(timeout=LIMIT)
        assert (child.returncode, out) == (130, ""), err
        assert "Traceback" not in err
        laptop.screen.await_window("xeyes", there=False)

    def test_at_a_terminal_ctrl_c_is_the_programs(self, laptop: Laptop) -> None:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "apexgpu", "x11", "run", "gpu7", "xeyes"],
            timeout=LIMIT,
            encoding="utf-8",
            dimensions=(50, 200),
            env=dict(os.environ),
        )
        laptop.screen.await_window("xeyes")
        child.sendintr()
        child.expect(pexpect.EOF)
        child.close()
        assert (child.exitstatus, child.signalstatus) == (130, None), child.before
        assert "was ended by a signal" in (child.before or "")
        assert "hint" not in (child.before or "")
        laptop.screen.await_window("xeyes", there=False)

    def test_in_the_background_of_a_shell_it_is_not_stopped(self, laptop: Laptop) -> None:
        shell = pexpect.spawn(
            "bash",
            ["--norc", "-i"],
            timeout=LIMIT,
            encoding="utf-8",
            dimensions=(50, 200),
            env={**os.environ, "PS1": "$ "},
        )
        shell.sendline(f"{sys.executable} -m apexgpu x11 run gpu7 xeyes &")
        laptop.screen.await_window("xeyes")
        shell.sendline("jobs; kill -TERM %1; wait %1; echo ended $?")
        shell.expect(r"ended \d+")
        assert "Running" in (shell.before or "")
        assert "Stopped" not in (shell.before or "")
        shell.close(force=True)

    def test_a_connection_that_is_lost_is_said(
        self, laptop: Laptop, program: list[subprocess.Popen[str]]
    ) -> None:
        child = self.start(program, "gpu7", "xeyes")
        laptop.screen.await_window("xeyes")
        laptop.servers[0].kill()
        _, err = child.communicate(timeout=LIMIT)
        assert child.returncode == 5
        assert "error: the connection to gpu7 was lost, and the windows with it" in err
        laptop.servers[0].again()

    def test_a_server_that_ends_is_said(
        self, laptop: Laptop, program: list[subprocess.Popen[str]]
    ) -> None:
        child = self.start(program, "gpu7", "xeyes")
        laptop.screen.await_window("xeyes")
        laptop.screen.kill()
        _, err = child.communicate(timeout=LIMIT)
        assert child.returncode == 1  # xeyes' own
        assert "the program on gpu7 ended with 1" in err

    def test_the_status_and_both_streams_are_the_programs(
        self, program: list[subprocess.Popen[str]]
    ) -> None:
        child = self.start(
            program, "gpu7", "echo out; echo err >&2; xwininfo -root | grep -c Width; exit 7"
        )
        out, err = child.communicate(timeout=LIMIT)
        assert (child.returncode, out) == (7, "out\n1\n")
        assert "\nerr\n" in f"\n{err}"
        assert "debug1" not in err

    def test_words_reach_the_program_as_they_are(self, laptop: Laptop) -> None:
        assert laptop("x11", "run", "--json", "gpu7", "printf", "%s|", "a b", "$HOME", "*") == 0
        assert json.loads(laptop.out)["hosts"][0]["stdout"] == "a b|$HOME|*|"

    def test_a_program_that_is_killed_is_told_with_its_signal(self, laptop: Laptop) -> None:
        assert laptop("x11", "run", "gpu7", "xeyes & kill -9 $!; wait $!") == 137
        assert "was ended by signal 9" in laptop.err

    def test_a_program_that_is_not_there(self, laptop: Laptop) -> None:
        assert laptop("x11", "run", "gpu7", "no-such-program") == 127
        assert "the container on gpu7 has no such program" in laptop.err
        assert " hint: apexgpu x11 install gpu7" in laptop.err

    def test_a_broken_link_there_is_named_by_the_chain(
        self, laptop: Laptop, tmp_path: Path
    ) -> None:
        laptop.serve(tmp_path / "bare", extra="X11Forwarding yes\nXAuthLocation /nowhere/xauth")
        assert laptop("x11", "run", "gpu7", "xeyes") == 1  # its own status
        assert "has no xauth, so sshd sets no DISPLAY" in laptop.err
        assert " hint: apexgpu x11 install gpu7" in laptop.err

    def test_a_broken_link_here_is_named_before_anything_is_started(self, laptop: Laptop) -> None:
        laptop.screen.kill()
        assert laptop("x11", "run", "gpu7", "touch ~/started") == 6
        assert not (laptop.home / "started").exists()
        assert "no X server answers at" in laptop.err

    def test_no_program_is_a_matter_of_usage(self, laptop: Laptop) -> None:
        assert laptop("x11", "run", "gpu7") == 2
        assert laptop("x11", "run", "gpu7", "--nothing", "xeyes") == 2
        assert "there is no option --nothing" in laptop.err
