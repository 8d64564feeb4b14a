"""The samples of output in the pages: what the program prints, filled in by `make screens` at their marks.

A page has `<!-- sample: NAME -->` in front of the block. Pages in docs/zh have what a member with a Chinese system sees.
"""

import io
import re
from collections.abc import Callable
from pathlib import Path

from tests.quick.goldenscreens import fixed_surroundings, plain_lines, terminal
from tests.quick.screensamples import blocks_of, rows_of, view_of

from apexgpu import manyhosts, questions
from apexgpu.containers import ContainerStatus, Statuses
from apexgpu.login import KeyOnHosts, Login
from apexgpu.manageshell.manage import HostStatus
from apexgpu.models import Container, Finding, Host, Outcome, PublicKey
from apexgpu.recipes.verification import ComputeChecks
from apexgpu.render import containers, login, software
from apexgpu.render.screen import Screen
from apexgpu.software import Verification, Verifications
from apexgpu.sshfiles import configblock
from apexgpu.sshfiles.keys import KeyPair

DOCS = Path(__file__).parent.parent.parent / "docs"
WIDTH = 140
MARK = re.compile(r"(<!-- sample: ([a-z-]+) -->\n```(?:console|text)\n)(.*?)(```)", re.DOTALL)

GPU2 = Host("gpu2", "10.77.0.2", "alice")
GPU7 = Host("gpu7", "10.77.0.1", "alice", 22001)


class _Keyboard(io.StringIO):
    """Somebody who types these answers; the terminal shows them."""

    def __init__(self, window: io.StringIO, *answers: str) -> None:
        super().__init__("".join(f"{answer}\n" for answer in answers))
        self._window = window

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
        line = super().readline(-1 if size is None else size)
        self._window.write(line)
        return line


def show_login(screen: Screen) -> None:
    """The questions and answers of the first login."""
    reporter = screen.reporter
    screen.line("$ apexgpu login alice")
    reporter.warn(
        "http://iam.apexlab.org has no TLS: your domain password would be sent unencrypted; anyone on "
        "the network could read it."
    )
    reporter.confirm(questions.SEND_PASSWORD.fill())
    reporter.ask(questions.DOMAIN_PASSWORD.fill(user="alice"))
    reporter.success("IAM now has your key SHA256:4q3v… (/home/alice/.ssh/id_ed25519)")
    reporter.success("password kept in the keyring of this system")


def show_config(screen: Screen) -> None:
    """The difference that is written into the ssh config; the sample has its first lines only."""
    old = b""
    new = configblock.merge(old, [GPU7], identity_file="/home/alice/.ssh/id_ed25519")
    lines = configblock.diff(old, new, "/home/alice/.ssh/config").splitlines()
    shown = [line for line in lines if line.startswith("+") and not line.startswith("+++")]
    screen.reporter.diff("\n".join(shown[:4]))
    screen.line("…")
    screen.reporter.confirm(questions.WRITE_CONFIG.fill(path="/home/alice/.ssh/config"))
    screen.reporter.success("/home/alice/.ssh/config: 17 hosts; `ssh gpu2` works from any program")


def show_host_keys(screen: Screen) -> None:
    """The table of host keys, and the end of the login."""
    reporter = screen.reporter
    reporter.note("These hosts show keys that this laptop has not seen before:")
    rows = [("gpu7-manage", "ssh-ed25519", "SHA256:ViLJ5Q…")]
    reporter.table(manyhosts.HOST_KEY_COLUMNS, rows)
    screen.line("…")
    reporter.confirm(questions.TRUST_HOST_KEYS.fill())
    reporter.success("17 host keys added to /home/alice/.ssh/known_hosts")
    reporter.note("  not registered yet: gpu2, gpu3, gpu7, …")
    key = KeyPair(None, PublicKey("ssh-ed25519", "AAAA"), "agent", encrypted=False)
    hosts = KeyOnHosts([Outcome(GPU2)])
    done = Login("alice", "http://iam.apexlab.org", changed=True, key=key, hosts=hosts)
    view_of(login, done)(screen)


def show_register(screen: Screen) -> None:
    """The first container."""
    screen.line("$ apexgpu register gpu7")
    screen.reporter.success("gpu7: registered. Next: apexgpu up gpu7")


def show_up(screen: Screen) -> None:
    """The first start."""
    screen.line("$ apexgpu up gpu7")
    screen.reporter.note("  gpu7: Starting your container...")
    screen.reporter.note("  gpu7: The container is up")
    screen.reporter.success("gpu7 is up. Next: ssh gpu7")


def show_status(screen: Screen) -> None:
    """Two hosts of the lab."""
    running = Container("RUNNING", 4242, ("10.0.3.5",), 3 << 20)
    result = Statuses(
        [
            Outcome(GPU2, ContainerStatus(HostStatus(False))),
            Outcome(GPU7, ContainerStatus(HostStatus(True, running))),
        ],
        {},
    )
    screen.line("$ apexgpu status")
    rows_of(containers, result)(screen)


def show_down(screen: Screen) -> None:
    """A stop, with its question."""
    screen.line("$ apexgpu down gpu7")
    screen.reporter.note("  gpu7: on a GPU: 4017, python")
    screen.reporter.confirm(questions.STOP_IN_USE.fill(hosts="gpu7", busy="gpu7"))
    screen.reporter.success("gpu7 is down. Next: apexgpu up gpu7")


def show_verify(screen: Screen) -> None:
    """A container on which everything is right."""
    tensorflow = "/home/alice/.virtualenvs/tensorflow/lib/python3.5/site-packages/tensorflow"
    gpu = "GeForce GTX TITAN X, compute capability 5.2, pci bus id 0000:02:00.0"
    checks = (
        Finding.ok("driver", "390.48 (CUDA 9.0 needs 384.81 or newer)"),
        Finding.ok("cuda", "9.0.176 in /usr/local/cuda-9.0"),
        Finding.ok("cudnn", "7.0.5 (/usr/local/cuda-9.0/include/cudnn.h)"),
        Finding.ok("tensorflow", f"1.10.1 ({tensorflow})"),
        Finding.ok("gpu", f"{gpu}, 12.0 GiB memory, 11.5 GiB free"),
        Finding.ok("convolution", "all 72 numbers are right in 1.9 s"),
        Finding.ok("memory", "took 412.0 MiB, and more only as needed"),
        Finding.ok("command", "the same through `ssh gpu7 COMMAND`"),
    )
    verified = Verification(ComputeChecks("gpu7", checks))
    blocks_of(software, Verifications([Outcome(GPU7, verified)]))(screen)


SAMPLES: dict[str, tuple[Callable[[Screen], None], tuple[str, ...]]] = {
    "login": (show_login, ("y", "")),
    "config": (show_config, ("y",)),
    "host-keys": (show_host_keys, ("y",)),
    "register": (show_register, ()),
    "up": (show_up, ()),
    "status": (show_status, ()),
    "down": (show_down, ("y",)),
    "verify": (show_verify, ()),
}
"""What draws each sample, and what is typed meanwhile."""


def sample(name: str, *, chinese: bool) -> str:
    """The lines of a sample."""
    draw, answers = SAMPLES[name]
    with fixed_surroundings(WIDTH):
        window = io.StringIO()
        screen = terminal(window, _Keyboard(window, *answers))
        screen.reporter.is_chinese = lambda: chinese
        draw(screen)
    return "\n".join(plain_lines(window.getvalue())) + "\n"


def with_samples(page: Path) -> str:
    """The text of a page, with what the program prints today at its marks."""
    is_chinese = page.parent.name == "zh"

    def filled(match: re.Match[str]) -> str:
        return f"{match[1]}{sample(match[2], chinese=is_chinese)}{match[4]}"

    return MARK.sub(filled, page.read_text(encoding="utf-8"))


def pages() -> list[Path]:
    """The pages that have samples."""
    return [
        page for page in sorted(DOCS.rglob("*.md")) if MARK.search(page.read_text(encoding="utf-8"))
    ]
