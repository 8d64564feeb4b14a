"""The servers that the transport contract runs against: OpenSSH's sshd, and the embedded lab's hosts."""

from abc import abstractmethod
from pathlib import Path

from tests import openssh
from tests.lab.calls import rootfs_of, started

from apexgpu.models import Host
from apexgpu_lab.inprocess import Lab
from apexgpu_lab.labstate import LabState


class Place:
    """A host with a manage shell and a running container, and the ssh config that leads to both."""

    host: Host
    config: Path
    known_hosts: Path

    @property
    def host_key(self) -> str:
        """The base64 blob of the manage host's key."""
        name = f"[{self.host.address}]:{self.host.manage_port}"
        lines = [line.split() for line in self.known_hosts.read_text().splitlines()]
        return next(line[2] for line in lines if line[0] == name)

    def knowing(self, directory: Path, text: str | None) -> Path:
        """An ssh config whose only known_hosts file has `text`, or is not there."""
        known, config = directory / "known_hosts", directory / "config"
        if text is not None:
            known.write_text(text)
        config.write_text(self.config.read_text().replace(str(self.known_hosts), str(known)))
        return config

    @abstractmethod
    def stopped(self) -> Host:
        """A host whose container is stopped."""

    @abstractmethod
    def file(self, name: str) -> tuple[Path, str]:
        """A file that the container can see: where it is, and what a command there calls it."""

    @abstractmethod
    def waiting(self) -> str:
        """A command that never ends, and whose connection `cut` may end."""

    @abstractmethod
    def cut(self) -> None:
        """End connections that are in the middle of `waiting`."""


class Sshd(Place):
    """Manage shell and container are one server, which says what was recorded."""

    def __init__(self, server: openssh.OpenSSH) -> None:
        self.host, self.config = server.host, server.config
        self.known_hosts = server.directory / "known_hosts"
        server.answer("help", "07-up-running")
        server.answer("", "06-up-stopped")
        server.answer("stop", "18-stop-stopped")
        self._directory = server.directory

    def stopped(self) -> Host:
        """The words of its manage shell are the same always."""
        return self.host

    def file(self, name: str) -> tuple[Path, str]:
        """There is one file system."""
        path = self._directory / name
        return path, str(path)

    def waiting(self) -> str:
        """It kills its own sshd, which is called sshd-session since OpenSSH 9.8."""
        return (
            'p=$$; until case "$(ps -o comm= -p $p)" in sshd*) true;; *) false;; esac; '
            'do p=$(ps -o ppid= -p $p | tr -d " "); done; kill -9 $p; exec tail -f /dev/null'
        )

    def cut(self) -> None:
        """The command does it."""


class LabHosts(Place):
    """gpu2 runs, gpu3 is stopped."""

    def __init__(self, lab: Lab) -> None:
        started(lab)
        self._lab = lab
        self.config, self.known_hosts = lab.layout.ssh_config, lab.layout.known_hosts
        self.host = self._host("gpu2")

    def _host(self, name: str) -> Host:
        def find(lab_state: LabState) -> Host:
            host = lab_state.host(name)
            return Host(
                name, host.address, "alice", lab_state.port_of(host, "alice"), host.manage_port
            )

        return self._lab.call(find)

    def stopped(self) -> Host:
        """Earlier tests may have started it."""

        def halt(lab_state: LabState) -> None:
            host = lab_state.host("gpu3")
            container = host.accounts["alice"].container
            assert container
            for mapping in lab_state.maps(host, container):
                lab_state.unforward(host, mapping)
            lab_state.halt(host, container)

        self._lab.call(halt)
        return self._host("gpu3")

    def file(self, name: str) -> tuple[Path, str]:
        """In the home directory."""
        return rootfs_of(self._lab) / "home" / "alice" / name, f"/home/alice/{name}"

    def waiting(self) -> str:
        """The cut comes from outside."""
        return "exec tail -f /dev/null"

    def cut(self) -> None:
        """The host dies, and is there again."""
        self._lab.fault("gpu2", "dead")
        self._lab.clear("gpu2", "dead")
