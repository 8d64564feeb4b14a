"""A key in each form, with every command that logs in: the same key works in all of them.

CI takes two of the forms, the longer run all; see tests/longruns.py. What ssh and `status` do with many more forms is in
tests/real/test_key_forms.py.
"""

import contextlib
import subprocess
from pathlib import Path

import pytest

from apexgpu_lab.labstate import LabState
from tests import agents
from tests.cli.newcomer import Newcomer
from tests.longruns import one_in

pytestmark = [pytest.mark.openssh, pytest.mark.sshfs]

FORMS = {
    "pkcs8": ("-t", "rsa", "-m", "PKCS8"),
    "pem": ("-t", "rsa", "-m", "PEM"),
    "ecdsa 521": ("-t", "ecdsa", "-b", "521"),
    "encrypted, in the agent": ("-t", "ed25519", "-Z", "chacha20-poly1305@openssh.com"),
    "only in the agent": ("-t", "ed25519"),
}
ENCRYPTED = {"encrypted, in the agent"}
WITHOUT_FILE = {"only in the agent"}


@pytest.mark.parametrize("form", one_in(4, list(FORMS)))
def test_a_key_works_in_every_command(
    new: Newcomer, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new.ssh.mkdir(mode=0o700)
    path = new.ssh / "id_own"
    words = ["ssh-keygen", "-q", *FORMS[form], "-N", "", "-f", str(path)]
    subprocess.run(words, check=True)
    new.configure(f"IdentityFile {path}\n")
    with contextlib.ExitStack() as ends:
        if form in ENCRYPTED | WITHOUT_FILE:
            directory = ends.enter_context(agents.short_directory())
            socket = ends.enter_context(agents.running(directory / "agent", path))
            monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        if form in ENCRYPTED:
            lock = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", *FORMS[form][2:]]
            subprocess.run([*lock, "-f", str(path)], check=True, capture_output=True)
        if form in WITHOUT_FILE:
            path.unlink()
        if form in WITHOUT_FILE:
            Path(f"{path}.pub").unlink()
        _use_everywhere(new, tmp_path)


def _use_everywhere(new: Newcomer, tmp_path: Path) -> None:
    def register(state: LabState) -> None:
        for host in state.hosts.values():
            state.register(host, "alice")

    new.lab.call(register)
    said = new.log_in()
    assert "the key works on gpu2, gpu3" in said.err
    assert [host["registered"] for host in new.run("status", "--json").json["hosts"]] == [True] * 2
    file = tmp_path / "file"
    file.write_text("content\n")
    try:
        for words in (
            ("up", "gpu2", "--accept-new"),
            ("exec", "gpu2", "--", "true"),
            ("cp", str(file), "gpu2:copy"),
            ("cp", "gpu2:copy", str(tmp_path / "back")),
            ("mount", "gpu2", str(tmp_path / "mounted")),
            ("tunnel", "gpu2", "6006", "--background"),
            ("unmount", "--all"),
            ("tunnels", "close", "--all"),
            ("snapshot", "gpu2", "--yes"),
        ):
            said = new.run(*words)
            assert said.code == 0, f"{words}: {said.err}"
    finally:
        new.run("unmount", "--all", "--force")
        new.run("tunnels", "close", "--all")
    assert (tmp_path / "back").read_text() == "content\n"
