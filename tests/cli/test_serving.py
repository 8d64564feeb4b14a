"""tensorboard and jupyter against the embedded lab, whose containers have stand-ins of both that really serve."""

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apexgpu import webapps
from apexgpu.session import Session
from apexgpu_lab.inprocess import running
from tests.cli.product import Product, product_of

pytestmark = pytest.mark.openssh


@pytest.fixture
def product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """Two hosts; alice's container on gpu2 runs and has a directory `runs`. What stays open is closed."""
    with running(tmp_path / "lab", hosts=2, registered=True) as lab:
        found = product_of(lab, monkeypatch, capsys)
        assert found("up", "gpu2") == 0, found.err
        (home(found) / "runs").mkdir()
        yield found
        found("tunnels", "close", "--all")
        found("down", "gpu2", "--yes")


def home(product: Product) -> Path:
    """alice's home in her container on gpu2, as it lies on this machine."""
    container = product.lab.call(
        lambda lab_state: lab_state.host("gpu2").accounts["alice"].container
    )
    assert container is not None
    return container.home


def shown(product: Product, *words: str) -> dict[str, Any]:
    """Show one in the background; what its JSON says."""
    document = product.json(*words, "--background")
    assert document["ok"], product.err
    found: dict[str, Any] = document["tunnels"][0]
    return found


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def words_of_all() -> str:
    """The words of every process of this machine, which is the lab's too."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode("utf-8", "replace"))
        except OSError:
            continue
    return "\n".join(found)


class TestTensorBoard:
    def test_it_is_started_shown_found_again_and_stopped(self, product: Product) -> None:
        made = shown(product, "tensorboard", "gpu2", "runs")
        assert "<h1>TensorBoard</h1>" in get(made["url"])
        assert made["server"]["started"]
        assert made["server"]["directory"] == "/home/alice/runs"
        assert "apexgpu tensorboard gpu2 /home/alice/runs --stop" in product.err
        again = shown(product, "tensorboard", "gpu2", "~/runs")
        assert (again["id"], again["server"]["pid"], again["server"]["started"]) == (
            made["id"],
            made["server"]["pid"],
            False,
        )
        assert product.hosts("tensorboard", "gpu2", "runs", "--stop")["gpu2"]["stopped"] == [
            made["remote_port"]
        ]
        assert product.json("tunnels")["tunnels"] == []
        with pytest.raises(urllib.error.URLError):
            get(made["url"])
        assert product.hosts("tensorboard", "gpu2", "runs", "--stop")["gpu2"]["changed"] is False

    def test_the_python_api_shows_and_stops_it(self, product: Product) -> None:
        session = Session(environment=os.environ)
        shown = webapps.show(session, "gpu2", webapps.TENSORBOARD, "runs")
        assert shown.server.started
        assert "<h1>TensorBoard</h1>" in get(shown.url)
        stopped = webapps.stop(session, "gpu2", webapps.TENSORBOARD, "runs")
        assert stopped.to_json()["hosts"][0]["stopped"] == [shown.server.port]

    def test_two_directories_have_one_each(self, product: Product) -> None:
        (home(product) / "other").mkdir()
        first, second = (shown(product, "tensorboard", "gpu2", name) for name in ("runs", "other"))
        assert first["remote_port"] != second["remote_port"]

    def test_a_tilde_that_the_laptops_shell_has_replaced_is_understood(
        self, product: Product
    ) -> None:
        made = shown(product, "tensorboard", "gpu2", f"{Path.home()}/runs")
        assert made["server"]["directory"] == "/home/alice/runs"

    def test_a_directory_that_is_not_there_is_named(self, product: Product) -> None:
        assert product("tensorboard", "gpu2", "rnus") == 6
        assert "there is no directory /home/alice/rnus in the container on gpu2" in product.err

    def test_one_that_does_not_start_is_explained_with_its_last_words(
        self, product: Product
    ) -> None:
        program = home(product) / "tensorboard"
        said = ("Traceback (most recent call last):", "ImportError: numpy is too new")
        program.write_text(
            "#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in said) + "exit 1\n"
        )
        program.chmod(0o755)
        assert product("tensorboard", "gpu2", "runs", "--program", "~/tensorboard") == 6
        assert "does not start: ImportError: numpy is too new" in product.err
        assert "  Traceback (most recent call last):" in product.err
        assert "tail -n 50 /home/alice/.cache/apexgpu/tensorboard-" in product.err

    def test_one_that_never_answers_is_left_to_start_and_that_is_said(
        self, product: Product
    ) -> None:
        program = home(product) / "tensorboard"
        program.write_text("#!/bin/sh\necho loading\nexec sleep 600\n")
        program.chmod(0o755)
        assert (
            product("tensorboard", "gpu2", "runs", "--program", "~/tensorboard", "--wait", "1") == 5
        )
        assert "does not answer after 1 s" in product.err
        assert "run the same command again to keep waiting" in product.err

    def test_none_to_be_found_says_how_to_get_one(self, product: Product) -> None:
        assert product("tensorboard", "gpu2", "runs", "--program", "/nowhere/tensorboard") == 6
        assert "there is no /nowhere/tensorboard in the container on gpu2" in product.err
        assert "apexgpu setup gpu2 tensorboard" in product.err

    def test_nothing_is_started_for_a_stop(self, product: Product) -> None:
        assert product("tensorboard", "gpu3", "runs", "--stop") == 0
        assert "no TensorBoard is running on gpu3" in product.err
        assert product.hosts("status")["gpu3"]["state"] == "stopped"


class TestJupyter:
    def test_the_token_is_in_the_url_and_nowhere_else(self, product: Product) -> None:
        made = shown(product, "jupyter", "gpu2")
        token = re.search(r"/\?token=([0-9a-f]{48})$", made["url"])
        assert token is not None
        assert token[1] not in words_of_all()
        assert "<h1>Jupyter</h1>" in get(made["url"])
        with pytest.raises(urllib.error.HTTPError, match="403"):
            get(made["url"].partition("?")[0])
        assert token[1] not in product.err
        assert (
            token[1]
            not in (home(product) / ".cache/apexgpu" / Path(made["server"]["log"]).name).read_text()
        )
        for path in Path(os.environ["APEXGPU_STATE_DIR"]).rglob("*"):
            assert not path.is_file() or token[1].encode() not in path.read_bytes()

    def test_the_one_that_runs_is_found_and_its_directory_counts(self, product: Product) -> None:
        made = shown(product, "jupyter", "gpu2", "runs")
        assert (
            shown(product, "jupyter", "gpu2")["url"] == made["url"]
        )  # no directory named: whatever runs
        other = shown(product, "jupyter", "gpu2", "~")
        assert other["server"]["started"]
        assert other["url"] != made["url"]
        assert product("jupyter", "gpu2", "runs", "--stop") == 0
        assert [one["id"] for one in product.json("tunnels")["tunnels"]] == [other["id"]]

    def test_the_browser_comes_to_the_page_and_its_command_line_has_no_token(
        self, product: Product, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[str] = []
        pages: list[str] = []

        def browser(url: str) -> bool:
            told.append(url)
            pages.append(get(url))
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(url)
            return True

        monkeypatch.setattr("webbrowser.open", browser)
        monkeypatch.setenv("BROWSER", "true")
        made = shown(product, "jupyter", "gpu2")
        assert told == []
        assert shown(product, "jupyter", "gpu2", "--open")["url"] == made["url"]
        assert "<h1>Jupyter</h1>" in pages[0]
        assert made["url"].partition("token=")[2] not in told[0]

    def test_without_a_browser_the_url_is_there_to_be_opened(
        self, product: Product, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("webbrowser.open", lambda _: False)
        monkeypatch.setenv("BROWSER", "true")
        assert shown(product, "jupyter", "gpu2", "--open")["url"] in product.err

    def test_the_json_is_one_document_also_when_it_fails(self, product: Product) -> None:
        assert product("jupyter", "gpu2", "nowhere", "--json") == 6
        assert json.loads(product.out)["error"]["code"] == "no_directory"
