"""What doctor reports about real ssh-agents, and about one that accepts connections and never answers."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import agents

from apexgpu.iam.publickeys import fingerprint
from apexgpu.models import Finding
from apexgpu.sshfiles.agentquery import Agents, agent_socket, ask_agent
from apexgpu.sshfiles.checks import check_agent, check_key
from apexgpu.sshfiles.keys import generate

pytestmark = pytest.mark.openssh

CONFIG = Path("/home/me/.ssh/config")


@pytest.fixture
def directory() -> Iterator[Path]:
    with agents.short_directory() as found:
        yield found


def check(path: str, registered: str = "", *, needed: bool = False) -> Finding:
    return check_agent(ask_agent(path), registered=registered, needed=needed, config=CONFIG)


def new_key(directory: Path, name: str = "key") -> tuple[Path, str]:
    """A key file, and the fingerprint of its key."""
    pair = generate(directory / name, comment="", passphrase="")
    assert pair.path is not None
    return pair.path, fingerprint(pair.public)


def test_no_agent(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check("") == Finding.ok("agent", "no ssh-agent is running")
    path = str(directory / "none")
    found = check(path)
    assert (found.verdict, found.fact) == ("note", f"no ssh-agent is running at {path}")
    assert found.hint == f"grep -in identityagent {CONFIG}"
    monkeypatch.setenv("SSH_AUTH_SOCK", path)
    assert check(path).hint == "unset SSH_AUTH_SOCK"
    needed = check(path, "SHA256:x", needed=True)
    assert needed.verdict == "problem"
    assert needed.fact == f"no ssh-agent is running at {path}, and only an agent has SHA256:x"


def test_an_agent_that_does_not_answer(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with agents.hanging(directory / "agent") as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        found = check(path)
    assert found.verdict == "problem"
    assert f"the ssh-agent at {path} does not answer within 3 s" in found.fact
    assert "ssh waits for it forever" in found.fact
    assert found.hint == "unset SSH_AUTH_SOCK"


def test_something_else_than_an_agent(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "agent"))
        listener.listen()

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        found = check(str(directory / "agent"))
        thread.join(60)
    assert found.verdict == "problem"
    assert "does not understand the agent protocol" in found.fact


def test_an_agent_without_keys(directory: Path) -> None:
    with agents.running(directory / "agent") as path:
        found = check(path)
        assert (found.verdict, found.fact) == ("ok", f"the ssh-agent at {path} has no keys")
        needed = check(path, "SHA256:x", needed=True)
    assert (needed.verdict, needed.hint) == ("problem", "ssh-add")
    assert needed.fact == f"the ssh-agent at {path} has no keys; it needs SHA256:x"


def test_an_agent_with_other_keys(directory: Path) -> None:
    other, _ = new_key(directory, "other")
    _, mark = new_key(directory)
    with agents.running(directory / "agent", other) as path:
        in_a_file = check(path, mark)
        needed = check(path, mark, needed=True)
    assert in_a_file.verdict == "ok"
    assert in_a_file.fact == "it has 1 key, but not the key of the last login, which is in a file"
    assert needed.verdict == "problem"
    assert needed.fact == f"the ssh-agent at {path} does not have {mark}, but 1 other key"


def test_an_agent_with_the_key(directory: Path) -> None:
    file, mark = new_key(directory)
    with agents.running(directory / "agent", file) as path:
        assert check(path, mark, needed=True) == Finding.ok("agent", "it has 1 key")
        for number in range(5):
            agents.add(path, new_key(directory, f"more{number}")[0])
        many = check(path, mark, needed=True)
    assert many.verdict == "note"
    assert many.fact.startswith("the agent has 6 keys, and a server disconnects after six")


def test_a_key_in_an_agent_that_does_not_answer_is_not_called_lost() -> None:
    class NoPrograms:
        """Nothing is run for this check."""

    (finding,) = check_key("", "SHA256:x", (), NoPrograms(), agents_answer=False)  # type: ignore[arg-type]
    assert finding.verdict == "problem"
    assert finding.fact == "only an agent has SHA256:x, and it does not answer"


def test_an_agent_is_asked_once_in_a_run_and_named_once(directory: Path) -> None:
    named = []
    with agents.hanging(directory / "agent") as path:
        asked = Agents(limit=0.2, on_silent=lambda reply: named.append(reply.socket))
        sockets = {agent_socket(path, {}), agent_socket("$VAULT", {"VAULT": path})}
        for socket_path in [*sockets, *sockets]:
            asked.ask(socket_path)
    assert named == [path]
