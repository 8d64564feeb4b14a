"""Which keys ssh offers, in which files and agents, and which forms of key files it can use: ssh itself is asked."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from apexgpu.errors import ConfigError
from apexgpu.models import Host
from apexgpu.process import LocalRunner
from apexgpu.sshfiles.keyfiles import why_not_usable
from apexgpu.sshfiles.keys import discover, load, read_public
from apexgpu.sshfiles.offeredkeys import OfferedKeys, find_offered_keys
from apexgpu.sshfiles.sshhome import home
from apexgpu.sshfiles.userkeys import find_keys

pytestmark = pytest.mark.openssh

KEYS = Path(__file__).parent.parent / "data" / "keys"
HOSTS = (Host("gpu2", "10.77.0.1", "alice", 22001), Host("gpu3", "10.77.0.2", "alice", 22001))
RUNNER = LocalRunner()


def offered(directory: Path, *lines: str) -> OfferedKeys:
    config = directory / "config"
    config.write_text("".join(f"{line}\n" for line in lines))
    return find_offered_keys(config, HOSTS, RUNNER)


def keygen(path: Path, *words: str, passphrase: str = "") -> Path:
    options = ["-N", passphrase, "-C", f"c-{path.name}", "-f", str(path)]
    argv = ["ssh-keygen", "-q", *options, *words]
    subprocess.run(argv, check=True)
    return path


class TestFiles:
    def test_without_a_config_ssh_s_defaults(self, tmp_path: Path) -> None:
        found = find_offered_keys(tmp_path / "config", HOSTS, RUNNER)
        assert Path(home()) / ".ssh" / "id_ed25519" in found.files
        assert not found.files_are_configured
        assert found.agents == ("SSH_AUTH_SOCK",)
        assert not found.identities_only

    def test_those_of_the_config_in_its_order_each_once(self, tmp_path: Path) -> None:
        found = offered(
            tmp_path,
            "Host gpu*",
            "  IdentityFile ~/.ssh/keys/work",
            '  IdentityFile "/x/a b"',
            "Host gpu3",
            "  IdentityFile /x/three",
            "Host github.com",
            "  IdentityFile /x/github",
            "Host *",
            "  IdentityFile none",
        )
        assert found.files == (Path(home(), ".ssh/keys/work"), Path("/x/a b"), Path("/x/three"))
        assert found.files_are_configured

    def test_tokens_are_expanded_as_ssh_expands_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KEYS", "/k e")
        found = offered(
            tmp_path,
            "Host gpu2",
            "  IdentityFile ${KEYS}/%n",
            "  IdentityFile %d/.ssh/%r-%h-%p%%",
        )
        # gpu2-manage and gpu3 have ssh's default files.
        expanded = {Path("/k e/gpu2"), Path(home(), ".ssh/alice-10.77.0.1-22001%")}
        assert expanded <= set(found.files)

    def test_the_block_of_an_earlier_login_is_not_the_users_wish(self, tmp_path: Path) -> None:
        from apexgpu.sshfiles.configblock import merge

        config = tmp_path / "config"
        config.write_bytes(merge(b"Host *\n  IdentityFile /x/mine\n", HOSTS, identity_file="/x/p"))
        assert find_offered_keys(config, HOSTS, RUNNER).files == (Path("/x/mine"),)

    def test_match_sees_the_address_of_the_host(self, tmp_path: Path) -> None:
        found = offered(tmp_path, "Match host 10.77.* user alice", "  IdentityFile /x/lab")
        assert found.files == (Path("/x/lab"),)

    def test_a_config_that_ssh_cannot_read_is_an_error_with_its_message(
        self, tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigError, match=r"(?i)bad configuration option: nonsense") as caught:
            offered(tmp_path, "Nonsense yes")
        assert str(tmp_path / "config") in caught.value.message


class TestAgents:
    @pytest.mark.parametrize(
        ("line", "agents"),
        [
            ('IdentityAgent "~/Group Containers/x.sock"', (f"{home()}/Group Containers/x.sock",)),
            ("IdentityAgent none", ("none",)),
            ("IdentityAgent SSH_AUTH_SOCK", ("SSH_AUTH_SOCK",)),
            ("IdentityAgent %d/agent", (f"{home()}/agent",)),
        ],
    )
    def test_what_the_config_names(
        self, tmp_path: Path, line: str, agents: tuple[str, ...]
    ) -> None:
        assert offered(tmp_path, "Host *", f"  {line}").agents == agents

    def test_each_host_may_have_its_own(self, tmp_path: Path) -> None:
        found = offered(tmp_path, "Host gpu3", "  IdentityAgent /x/three")
        assert found.agents == ("SSH_AUTH_SOCK", "/x/three")
        assert found.configured_agents == ("/x/three",)

    @pytest.fixture
    def agent(self, tmp_path: Path) -> Iterator[Path]:
        socket = tmp_path / "an agent"
        argv = ["ssh-agent", "-D", "-a", str(socket)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            yield socket
            process.kill()

    def test_its_keys_count_only_if_ssh_would_offer_them(self, tmp_path: Path, agent: Path) -> None:
        usb = tmp_path / "usb"
        usb.mkdir()
        for name in ("one", "two"):
            keygen(usb / name, "-t", "ed25519")
            environment = {**os.environ, "SSH_AUTH_SOCK": str(agent)}
            subprocess.run(["ssh-add", "-q", usb / name], check=True, env=environment)
            (usb / name).unlink()
        directory = tmp_path / "ssh"
        directory.mkdir()
        lines = ["Host *", f'  IdentityAgent "{agent}"']
        found = find_keys(offered(directory, *lines), directory, RUNNER)
        assert [pair.public.comment for pair in found.offered] == ["c-one", "c-two"]
        lines += [f"  IdentityFile {usb}/two.pub", "  IdentitiesOnly yes"]
        found = find_keys(offered(directory, *lines), directory, RUNNER)
        assert [(pair.path, pair.source, pair.public.comment) for pair in found.offered] == [
            (None, "agent", "c-two")
        ]


@dataclass(frozen=True)
class Form:
    """A form of a private key file: how it is made, and whether a passphrase is asked for."""

    make: Callable[[Path], object]
    encrypted: bool = False


def copied(name: str) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        shutil.copy(KEYS / name, path)
        path.chmod(0o600)

    return make


def openssl(*words: str) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        argv = ["openssl", "genpkey", *words, "-out", str(path)]
        subprocess.run(argv, check=True, capture_output=True)
        path.chmod(0o600)

    return make


def with_certificate(path: Path) -> None:
    keygen(path, "-t", "ed25519")
    authority = keygen(path.parent.parent / "ca", "-t", "ed25519")
    expired = ["-I", "x", "-n", "x", "-V", "-2w:-1w", f"{path}.pub"]
    subprocess.run(["ssh-keygen", "-q", "-s", str(authority), *expired], check=True)


def plain(*words: str, passphrase: str = "") -> Callable[[Path], object]:
    return lambda path: keygen(path, *words, passphrase=passphrase)


FORMS = {
    "ed25519": Form(plain("-t", "ed25519")),
    "ecdsa 256": Form(plain("-t", "ecdsa", "-b", "256")),
    "ecdsa 384": Form(plain("-t", "ecdsa", "-b", "384")),
    "ecdsa 521": Form(plain("-t", "ecdsa", "-b", "521")),
    "ecdsa PKCS#8": Form(plain("-t", "ecdsa", "-m", "PKCS8")),
    "ecdsa PEM": Form(plain("-t", "ecdsa", "-m", "PEM")),
    "rsa OpenSSH": Form(plain("-t", "rsa", "-b", "2048")),
    "rsa PEM": Form(plain("-t", "rsa", "-b", "2048", "-m", "PEM")),
    "rsa PKCS#8": Form(plain("-t", "rsa", "-b", "2048", "-m", "PKCS8")),
    "rsa of openssl": Form(openssl("-algorithm", "rsa")),
    "ecdsa of openssl": Form(openssl("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")),
    "rsa 4096": Form(plain("-t", "rsa", "-b", "4096")),
    "encrypted": Form(plain("-t", "ed25519", passphrase="secret"), encrypted=True),
    "rsa PEM, encrypted": Form(
        plain("-t", "rsa", "-b", "2048", "-m", "PEM", passphrase="secret"), encrypted=True
    ),
    "rsa PKCS#8, encrypted": Form(
        plain("-t", "rsa", "-b", "2048", "-m", "PKCS8", passphrase="secret"), encrypted=True
    ),
    "aes128-cbc": Form(
        plain("-t", "ed25519", "-Z", "aes128-cbc", passphrase="secret"), encrypted=True
    ),
    "3des-cbc": Form(plain("-t", "ed25519", "-Z", "3des-cbc", passphrase="secret"), encrypted=True),
    "chacha20": Form(copied("ed25519-chacha20"), encrypted=True),
    "aes256-gcm": Form(copied("ed25519-aes256-gcm"), encrypted=True),
    "security key": Form(copied("id_ed25519_sk")),
    "expired certificate beside it": Form(with_certificate),
}


class TestForms:
    @pytest.fixture
    def directory(self, isolated: Path) -> Path:
        directory = isolated / ".ssh"
        directory.mkdir(mode=0o700)
        return directory

    @pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
    def test_one_that_ssh_can_use_is_found(self, directory: Path, form: Form) -> None:
        path = directory / "key"
        form.make(path)
        pairs = discover(directory, [], RUNNER)
        assert [(pair.path, pair.encrypted) for pair in pairs] == [(path, form.encrypted)]
        assert load(path, (), RUNNER) == pairs[0]
        assert why_not_usable(path, RUNNER) is None

    def test_an_ed25519_key_in_pkcs8_counts_if_this_ssh_reads_it(self, directory: Path) -> None:
        path = directory / "key"
        openssl("-algorithm", "ed25519")(path)
        argv = ["ssh-keygen", "-y", "-P", "", "-f", str(path)]
        if subprocess.run(argv, check=False, capture_output=True).returncode == 0:
            assert len(discover(directory, [], RUNNER)) == 1
            return
        assert discover(directory, [], RUNNER) == []
        with pytest.raises(ConfigError, match=r"PKCS#8 format") as caught:
            load(path, (), RUNNER)
        subprocess.run(["sh", "-c", caught.value.hint or ""], check=True, capture_output=True)
        converted = load(directory / "key_openssh", (), RUNNER)
        assert converted.public.blob == read_public(path, RUNNER).blob
        assert (directory / "key_openssh").stat().st_mode & 0o777 == 0o600
        argv[-1] += "_openssh"
        subprocess.run(argv, check=True, capture_output=True)

    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (lambda path: path.write_bytes(b""), None),
            (
                lambda path: path.write_bytes(path.read_bytes()[:150]),
                "ssh cannot read|line endings",
            ),
            (lambda path: path.chmod(0o640), "others may read it"),
        ],
    )
    def test_one_that_ssh_cannot_use_is_not_found_and_the_reason_is_known(
        self, directory: Path, spoil: Callable[[Path], object], reason: str | None
    ) -> None:
        path = keygen(directory / "key", "-t", "ed25519")
        spoil(path)
        assert discover(directory, [], RUNNER) == []
        problem = why_not_usable(path, RUNNER)
        if reason is None:
            assert problem is None
        else:
            assert problem is not None
            assert problem.hint
            assert str(path) in problem.message

    def test_a_link_to_a_key_is_a_key(self, directory: Path) -> None:
        elsewhere = directory.parent / "usb"
        elsewhere.mkdir()
        (directory / "link").symlink_to(keygen(elsewhere / "key", "-t", "ed25519"))
        assert [pair.path for pair in discover(directory, [], RUNNER)] == [directory / "link"]

    def test_a_path_that_leads_nowhere_is_no_key(self, directory: Path) -> None:
        path = keygen(directory / "key", "-t", "ed25519")
        os.mkfifo(directory / "fifo")
        places = (path / "below", directory, directory / "fifo", directory / "none")
        assert find_keys(OfferedKeys(places, True), path / "x", RUNNER).offered == ()
