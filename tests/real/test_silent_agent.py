"""An ssh-agent that accepts connections and never answers: everything works without it, and it is named once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import agents
from tests.real.member import SEVEN, Member, member

pytestmark = pytest.mark.sshfs

LIMIT = 20.0  # seconds: the agent is given three of them, and ssh alone would wait forever


@pytest.fixture(params=["SSH_AUTH_SOCK", "IdentityAgent"])
def laptop(request: pytest.FixtureRequest) -> Iterator[Member]:
    """A laptop whose key is a file without a passphrase, and whose vault is locked."""
    with member() as found, agents.short_directory() as directory:
        found.servers[0].answer("help", "07-up-running")
        with agents.hanging(directory / "agent") as socket:
            Path(socket).chmod(0o777)  # the member is another user
            if request.param == "SSH_AUTH_SOCK":
                found.environment["SSH_AUTH_SOCK"] = socket
            else:
                config = found.directory / "ssh_config"
                config.write_text(f"{config.read_text()}  IdentityAgent {socket}\n")
            found.socket = socket
            yield found


def runs(laptop: Member, *words: str) -> str:
    """The command works in time, and names the agent once; what it prints."""
    said = laptop(*words)
    assert said.code == 0, said.err
    assert said.seconds < LIMIT
    assert said.err.count(f"the ssh-agent at {laptop.socket} does not answer") <= 1
    return said.out + said.err


def test_every_program_that_logs_in_does_so_without_the_agent(laptop: Member) -> None:
    (laptop.files / "file").write_text("what is in it")
    fact = f"the ssh-agent at {laptop.socket} does not answer within 3 s"
    output = runs(laptop, "ssh", SEVEN, "--", "echo hi")
    assert "hi\n" in output
    assert fact in output
    runs(laptop, "exec", SEVEN, "--", "echo hi")
    assert fact in runs(laptop, "cp", f"{SEVEN}:{laptop.files}/file", f"{laptop.home}/copy")
    assert (laptop.home / "copy").read_text() == "what is in it"
    assert fact in runs(laptop, "mount", SEVEN, "--remote", str(laptop.files))
    read = "import sys; print(open(sys.argv[1]).read())"
    mounted = laptop.home / "apexgpu" / SEVEN / "file"
    assert laptop.result(read, str(mounted)) == "what is in it\n"
    assert fact in runs(laptop, "tunnel", SEVEN, "9", "--background")
    runs(laptop, "tunnels", "close", "--all")
