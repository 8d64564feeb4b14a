"""A real TensorBoard and a real JupyterLab behind a real sshd, shown by a real browser through the tunnel."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import openssh

from apexgpu import cli
from apexgpu.session import Session

pytestmark = [pytest.mark.openssh, pytest.mark.timeout(300)]
WEB = Path(__file__).parent.parent.parent / ".venv" / "web"


@dataclass
class Laptop:
    """The command line in this process; `home` is that of the account on the server."""

    home: Path
    capsys: pytest.CaptureFixture[str]

    def json(self, *words: str) -> dict[str, Any]:
        self.capsys.readouterr()
        code = cli.main([*words, "--json"], Session(environment=os.environ))
        out, err = self.capsys.readouterr()
        assert code == 0, err
        document: dict[str, Any] = json.loads(out)
        return document


@pytest.fixture
def laptop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Laptop]:
    """A laptop before a host gpu7, where the environment of both programs is ~/.virtualenvs/web."""
    assert (WEB / "installed").exists(), "run: make setup-tests"
    home = tmp_path / "account"
    (home / ".virtualenvs").mkdir(parents=True)
    (home / ".virtualenvs" / "web").symlink_to(WEB.resolve())
    (home / "runs").mkdir()
    server = openssh.start(tmp_path / "server", home=home)
    openssh.remember(server.host)
    monkeypatch.setenv("APEXGPU_SSH_CONFIG", str(server.config))
    found = Laptop(home, capsys)
    try:
        yield found
    finally:
        found.json("tensorboard", "gpu7", "runs", "--stop")
        found.json("jupyter", "gpu7", "runs", "--stop")
        found.json("tunnels", "close", "--all")
        server.stop()


def seen(url: str, directory: Path) -> str:
    """What a browser makes of a page, its scripts run: the document as it stands in the end."""
    browser = shutil.which("chromium")
    assert browser is not None, "run: make setup-tests"
    words = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--virtual-time-budget=20000",
    ]
    done = subprocess.run(
        [browser, *words, f"--user-data-dir={directory}", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def words_of_all() -> str:
    """What `ps` shows of every process."""
    return subprocess.run(
        ["ps", "axww", "-o", "args="], capture_output=True, text=True, check=True
    ).stdout


def test_tensorboard_is_found_started_and_seen(laptop: Laptop, tmp_path: Path) -> None:
    made = laptop.json("tensorboard", "gpu7", "runs", "--background", "--wait", "180")["tunnels"][0]
    assert made["server"]["program"] == str(laptop.home / ".virtualenvs/web/bin/tensorboard")
    assert "No dashboards are active" in seen(made["url"], tmp_path / "browser")
    again = laptop.json("tensorboard", "gpu7", str(laptop.home / "runs"), "--background")[
        "tunnels"
    ][0]
    assert (again["id"], again["server"]["pid"]) == (made["id"], made["server"]["pid"])
    stopped = laptop.json("tensorboard", "gpu7", "runs", "--stop")["hosts"][0]
    assert stopped["stopped"] == [made["remote_port"]]
    assert not Path(f"/proc/{made['server']['pid']}/root").exists()


def test_jupyterlab_is_found_started_and_seen_and_its_token_is_in_the_url_alone(
    laptop: Laptop, tmp_path: Path
) -> None:
    made = laptop.json("jupyter", "gpu7", "runs", "--background", "--wait", "180")["tunnels"][0]
    before, _, token = made["url"].partition("/?token=")
    assert before == f"http://127.0.0.1:{made['local_port']}"
    assert len(token) == 48
    assert token not in words_of_all()
    assert token not in Path(made["server"]["log"]).read_text()
    assert "jp-LabShell" in seen(made["url"], tmp_path / "browser")
    assert "jp-LabShell" not in seen(before, tmp_path / "stranger")
    again = laptop.json("jupyter", "gpu7", "--background")["tunnels"][0]
    assert (again["url"], again["server"]["started"]) == (made["url"], False)
    assert laptop.json("jupyter", "gpu7", "runs", "--stop")["hosts"][0]["stopped"] == [
        made["remote_port"]
    ]
