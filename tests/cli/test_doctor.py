"""doctor: every trouble between a laptop and a container has a line of its own, and nothing is changed."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apexgpu import doctor
from apexgpu.manageshell.checks import HostFindings
from apexgpu.models import Finding, Host
from apexgpu.ssh.checks import check_version
from apexgpu_lab.inprocess import running
from tests.cli.product import Line, Product, product_of

pytestmark = pytest.mark.openssh


@pytest.fixture
def lab3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """Three hosts; alice is registered on all of them, gpu2 runs; she never logged in from here."""
    with running(tmp_path / "lab", hosts=3, registered=True) as lab:
        product = product_of(lab, monkeypatch, capsys)
        assert product("up", "gpu2") == 0, product.err
        yield product


@pytest.fixture
def laptop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """Two hosts; alice has logged in and is registered on gpu2."""
    with running(tmp_path / "lab", hosts=2) as lab:
        product = product_of(lab, monkeypatch, capsys)
        monkeypatch.setattr("sys.stdin", Line(lab.password("alice")))
        assert product("login", "--password-stdin", "--yes", "--register", "gpu2") == 0, product.err
        yield product


def config_of(product: Product) -> Path:
    return Path(product.lab.environment["APEXGPU_SSH_CONFIG"])


def problems(rows: list[dict[str, Any]]) -> dict[str, tuple[str, str | None]]:
    """check -> fact and hint of what is wrong."""
    return {row["check"]: (row["fact"], row["hint"]) for row in rows if row["verdict"] == "problem"}


class TestAllWell:
    def test_says_so_and_changes_nothing(self, lab3: Product) -> None:
        def everything() -> dict[Path, bytes]:
            home = lab3.lab.layout.home
            return {
                path: path.read_bytes()
                for part in ("ssh", "state", "config")
                for path in (home / part).rglob("*")
                if path.is_file()
            }

        before = everything()
        assert lab3("doctor") == 0, lab3.out
        assert lab3.out.splitlines()[-1].startswith("All well. ")
        assert "ok      gpu2           " in lab3.out
        assert "its port 22001 accepts the key" in lab3.out
        assert everything() == before

    def test_a_report_has_every_check_and_setting_and_no_secret(
        self, lab3: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        report = tmp_path / "new directory" / "report.txt"
        assert lab3.json("doctor", "--report", str(report))["report"] == str(report)
        text = report.read_text()
        for part in ("iam_url", "gpu2", "accepts the key", "This machine", "apexgpu  "):
            assert part in text, part
        assert report.stat().st_mode & 0o077 == 0
        assert lab3("doctor", "--report", "/proc/report") == 2
        assert "/proc/report cannot be written" in lab3.err

        monkeypatch.setenv("APEXGPU_IAM_URL", "http://alice:hunter2@iam.example.org")
        assert lab3("doctor", "--report", str(report)) == 1
        assert str(report) in lab3.err
        assert "hunter2" not in report.read_text()
        assert "http://***@iam.example.org" in report.read_text()

    def test_as_json_every_check_has_a_verdict_a_fact_and_a_hint(self, lab3: Product) -> None:
        document = lab3.json("doctor")
        assert document["ok"]
        rows = [*document["checks"], *(row for host in document["hosts"] for row in host["checks"])]
        assert all(set(row) == {"check", "verdict", "fact", "hint", "code"} for row in rows)
        assert {row["verdict"] for row in rows} <= {"ok", "note"}
        assert {
            "program",
            "settings",
            "directories",
            "programs",
            "agent",
            "key",
            "IAM",
            "ssh config",
            "known_hosts",
            "password",
        } <= {row["check"] for row in document["checks"]}
        assert [(host["host"], host["ok"], host["error"]) for host in document["hosts"]] == [
            ("gpu2", True, None),
            ("gpu3", True, None),
            ("gpu4", True, None),
        ]

    def test_one_host_is_told_line_by_line(self, lab3: Product) -> None:
        assert lab3("doctor", "gpu2") == 0
        assert [line.split()[2] for line in lab3.out.splitlines() if line.split()[1] == "gpu2"] == [
            "route:",
            "manage",
            "key:",
            "container:",
            "container",
        ]
        assert "gpu3" not in lab3.out.partition("gpu2 ")[2]

    def test_a_host_that_nobody_knows_is_a_usage_error(self, lab3: Product) -> None:
        assert lab3("doctor", "gpu99") == 2


class TestHosts:
    @pytest.mark.parametrize(
        ("fault", "check", "code", "words"),
        [
            ("refuse", "manage port", "connection_refused", "connection refused"),
            ("silent", "manage port", "timeout", "does not answer"),
            ("garble", "manage port", "", "something apexgpu does not know"),
            ("iam-down", "manage port", "", "cannot ask IAM"),
            ("host-key-changed", "host key", "host_key_changed", "SHA256:"),
            ("no-address", "container", "no_address", "without an address"),
            ("no-forward", "container port", "no_forward", "is not forwarded"),
        ],
    )
    def test_a_trouble_is_one_problem_of_one_host(
        self, lab3: Product, fault: str, check: str, code: str, words: str
    ) -> None:
        lab3.lab.fault("gpu2", fault)
        assert lab3("doctor", "--timeout", "5", "--json") == 1
        document = json.loads(lab3.out)
        assert not document["ok"]
        assert problems(document["checks"]) == {}
        bad, *good = document["hosts"]
        assert not bad["ok"]
        assert all(host["ok"] for host in good)
        ((found, (fact, hint)),) = problems(bad["checks"]).items()
        assert found == check
        assert words in fact
        assert bad["error"]["code"].startswith(code)
        assert hint
        assert "doctor" not in hint

    def test_not_registered_is_a_problem_only_where_it_was_asked_about(
        self, laptop: Product
    ) -> None:
        assert laptop("doctor") == 0, laptop.out
        assert "note    gpu3" in laptop.out
        assert "hint:          apexgpu register gpu3" in laptop.out
        assert laptop("doctor", "gpu3") == 1

    def test_a_new_host_key_is_said_and_not_trusted(self, lab3: Product) -> None:
        known = lab3.lab.layout.known_hosts
        known.write_text("")
        document = lab3.json("doctor", "--accept-new")
        assert document["ok"]
        seen = {row["check"]: row["hint"] for row in document["hosts"][0]["checks"]}
        assert seen["host key"] == "apexgpu status gpu2"
        assert "0 of 3" in next(
            row["fact"] for row in document["checks"] if row["check"] == "known_hosts"
        )
        assert known.read_text() == ""

    def test_when_nobody_answers_it_is_the_network(self, lab3: Product) -> None:
        for host in ("gpu2", "gpu3", "gpu4"):
            lab3.lab.fault(host, "silent")
        document = lab3.json("doctor", "--timeout", "3")
        assert "VPN" in str(problems(document["checks"])["network"])


class TestThisMachine:
    def test_a_settings_file_that_cannot_be_read_ends_the_look(self, lab3: Product) -> None:
        (Path(lab3.lab.environment["APEXGPU_CONFIG_DIR"]) / "config.toml").write_text(
            "timeout = \n"
        )
        document = lab3.json("doctor")
        assert set(problems(document["checks"])) == {"settings"}
        assert document["hosts"] == []

    def test_nobody_is_logged_in(self, lab3: Product, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("APEXGPU_USER")
        document = lab3.json("doctor")
        assert problems(document["checks"])["settings"][1] == "apexgpu login"
        assert document["hosts"] == []

    def test_iam_is_down_and_the_hosts_are_remembered(self, laptop: Product) -> None:
        laptop.lab.fault("iam", "down")
        document = laptop.json("doctor", "--timeout", "5")
        assert "IAM" in problems(document["checks"])
        assert [host["host"] for host in document["hosts"]] == ["gpu2", "gpu3"]

    def test_iam_is_down_and_nobody_knows_the_hosts(self, lab3: Product) -> None:
        lab3.lab.fault("iam", "hang")
        document = lab3.json("doctor", "--timeout", "0.5")
        assert set(problems(document["checks"])) == {"IAM"}
        assert document["hosts"] == []

    def test_the_key_is_gone_from_here(self, laptop: Product) -> None:
        laptop.lab.layout.identity.rename(laptop.lab.layout.identity.with_name("elsewhere"))
        fact, hint = problems(laptop.json("doctor")["checks"])["key"]
        assert "no such file" in fact
        assert hint

    def test_the_key_is_gone_from_iam(self, laptop: Product) -> None:
        laptop.lab.call(lambda lab_state: lab_state.users.keys.update(alice=""))
        fact, hint = problems(laptop.json("doctor")["checks"])["IAM"]
        assert "does not have your key SHA256:" in fact
        assert hint == "apexgpu login"

    def test_a_directory_that_others_can_look_into(self, lab3: Product) -> None:
        state = Path(lab3.lab.environment["APEXGPU_STATE_DIR"])
        state.chmod(0o755)
        found = [row for row in lab3.json("doctor")["checks"] if row["check"] == "directories"]
        assert [row["verdict"] for row in found] == ["ok", "note"]
        assert found[1]["hint"] == f"chmod 700 {state}"

    @pytest.mark.parametrize(
        ("said", "verdict"),
        [
            ("OpenSSH_9.2p1 Debian-2, OpenSSL 3", "ok"),
            ("OpenSSH_7.2p2 Ubuntu-4", "note"),
            ("OpenSSH_for_Windows_8.1p1, LibreSSL 2", "ok"),
            ("something else", "ok"),
        ],
    )
    def test_an_old_ssh_is_noted(self, said: str, verdict: str) -> None:
        assert check_version(said, "/usr/bin/ssh").verdict == verdict


class TestSshConfig:
    def test_there_is_none(self, laptop: Product) -> None:
        config_of(laptop).unlink()
        assert problems(laptop.json("doctor")["checks"])["ssh config"][1] == "apexgpu config sync"

    def test_the_block_is_damaged(self, laptop: Product) -> None:
        path = config_of(laptop)
        path.write_bytes(path.read_bytes().replace(b"# <<< apexgpu <<<\n", b""))
        fact, hint = problems(laptop.json("doctor")["checks"])["ssh config"]
        assert "line 1 opens" in fact
        assert hint
        assert "config restore" in hint

    def test_the_hosts_are_not_in_it(self, laptop: Product) -> None:
        assert laptop("config", "remove") == 0
        assert problems(laptop.json("doctor")["checks"])["ssh config"][1] == "apexgpu config sync"

    def test_others_may_write_it(self, laptop: Product) -> None:
        config_of(laptop).chmod(0o666)
        assert (
            problems(laptop.json("doctor")["checks"])["ssh config"][1]
            == f"chmod go-w {config_of(laptop)}"
        )

    @pytest.mark.parametrize(
        ("line", "verdict", "cure"),
        [
            ("ControlPath /tmp/%r@%h", "problem", "ControlPath ~/.ssh/control-%C"),
            ("ControlPath /tmp/%C", None, ""),
            ("RemoteCommand tmux", "problem", "RemoteCommand none"),
            ("ProxyJump nowhere.invalid", "note", "ProxyJump none"),
            # Our block has this line itself since it names the key in all cases.
            ("IdentitiesOnly yes", None, ""),
        ],
    )
    def test_what_reaches_the_labs_hosts_from_the_users_own_lines(
        self, laptop: Product, line: str, verdict: str | None, cure: str
    ) -> None:
        path = config_of(laptop)
        path.write_text(path.read_text().replace("IdentitiesOnly yes", line))
        found = [
            row
            for row in laptop.json("doctor", "--timeout", "5")["checks"]
            if row["check"] == "ssh settings"
        ]
        assert [row["verdict"] for row in found] == ([verdict] if verdict else [])
        assert all(row["fact"].endswith(f"{path}: {cure}") for row in found)
        assert all(row["hint"].startswith("ssh -G gpu2-manage") for row in found)

    def test_host_keys_that_are_never_looked_at(self, laptop: Product) -> None:
        path = config_of(laptop)
        path.write_text(
            path.read_text().replace("StrictHostKeyChecking yes", "StrictHostKeyChecking no")
        )
        notes = [row["fact"] for row in laptop.json("doctor")["checks"] if row["verdict"] == "note"]
        assert any("StrictHostKeyChecking is off" in fact for fact in notes)


def test_a_host_behind_a_jump_host_has_its_route_told(lab3: Product) -> None:
    path = config_of(lab3)
    path.write_text(f"Host gpu3-manage\n  ProxyJump gpu2\n{path.read_text()}")
    checks = next(host["checks"] for host in lab3.json("doctor")["hosts"] if host["host"] == "gpu3")
    assert checks[0]["fact"].endswith(" through gpu2")


def test_server_text_is_escaped(lab3: Product) -> None:
    lab3.lab.fault("gpu2", "garble")
    assert lab3("doctor") == 1
    assert "\x1b" not in lab3.out


def test_one_silent_host_alone_is_not_called_the_network() -> None:
    host = Host("gpu2", "10.77.0.2", "alice")
    silent = HostFindings(host, (Finding.problem("manage port", "no answer"),), silent=True)
    answering = HostFindings(host, (Finding.ok("key", ""),))
    assert list(doctor.check_network([silent])) == []
    assert list(doctor.check_network([silent, answering])) == []
    assert [finding.check for finding in doctor.check_network([silent, silent])] == ["network"]


def test_a_port_that_is_closed_by_now_is_one_problem(lab3: Product) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        gone = Host("gpu9", "127.0.0.1", "alice", 1, probe.getsockname()[1])
        from apexgpu.session import Session

        found = doctor.check_host(Session(environment=os.environ), gone, named=True)
    assert [finding.verdict for finding in found.findings] == ["ok", "problem"]
