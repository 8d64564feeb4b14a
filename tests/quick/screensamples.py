"""What the golden screens show: for each of them, what a command would draw, with values that are always the same.

Values are as long as real ones are: a layout that is right for `a` and `b` only is not tested.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from apexgpu import manyhosts, questions
from apexgpu.archives.catalog import Archive
from apexgpu.archives.journal import JournalEntry, Stage, Work
from apexgpu.archives.selection import Rotation
from apexgpu.backups import KeptSnapshots, SnapshotList
from apexgpu.containers import ContainerStatus, Statuses
from apexgpu.detached.containerruns import Run, RunState
from apexgpu.doctor import Diagnosis
from apexgpu.errors import (
    ApexError,
    ConnectTimeoutError,
    DeclinedError,
    HostKeyError,
    LoginError,
    MissingProgramError,
    NotRegisteredError,
    SameCommand,
    StoppedError,
    UnknownHostError,
    UnreachableError,
    UsageError,
)
from apexgpu.explain import CodeList, Explained
from apexgpu.explanations import catalogue
from apexgpu.forwarding.records import Forward, Tunnel, TunnelState
from apexgpu.gpus import FreeGpus, GpuList, HostGpus
from apexgpu.keys import KeyList
from apexgpu.login import Identity
from apexgpu.manageshell.checks import HostFindings
from apexgpu.manageshell.manage import HostStatus
from apexgpu.manageshell.portmaps import CheckedMap
from apexgpu.manageshell.replies import PortMap
from apexgpu.models import Container, Finding, Host, Outcome
from apexgpu.mount import MountList
from apexgpu.nvidia import smi
from apexgpu.nvidia.choice import Fit, Offer
from apexgpu.overview import Overview
from apexgpu.ports import HostPorts, PortList
from apexgpu.questions import QuestionForm
from apexgpu.recipes.planner import StepState
from apexgpu.recipes.verification import ComputeChecks
from apexgpu.remote.disks import Disk
from apexgpu.render import (
    backups,
    containers,
    doctor,
    explain,
    gpus,
    keys,
    lab,
    login,
    mount,
    overview,
    ports,
    runs,
    software,
    sshconfig,
    tunnels,
    x11,
)
from apexgpu.render.screen import Screen
from apexgpu.reporter import CommandLine
from apexgpu.runs import HostRuns, RunList
from apexgpu.session import Session
from apexgpu.settings import Setting, SettingSource
from apexgpu.software import (
    STEP_TITLES,
    Setup,
    SetupStep,
    Verification,
    Verifications,
    list_recipes,
    step_rows,
)
from apexgpu.sshconfig import BackupList, ConfigStatus
from apexgpu.sshfiles.configbackups import Backup
from apexgpu.sshfiles.userkeys import KnownKey
from apexgpu.sshfs.mounts import Mount, MountState
from apexgpu.tunnels import TunnelList
from apexgpu.x11 import WindowCheck
from apexgpu_lab.lab import LabStatus, list_faults

Draw = Callable[[Screen], None]

DATA = Path(__file__).parent.parent / "data"
NOW = 1_764_000_000.0
GIB = 1 << 30
HOSTS = [Host(f"gpu{number}", f"10.0.0.{number}", "alice", 22001) for number in (2, 3, 5, 7, 16)]
GPU2, GPU3, GPU5, GPU7, GPU16 = HOSTS
FINGERPRINTS = (
    "SHA256:Mb2triV2yBXqr3zZtyD4GmalbVfSHrVHmDVuPphOSh4",
    "SHA256:p2QAMXNIC1TJYWeIOttrVc98/R1BUFWu3/LiyKgUfQM",
    "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU",
)
NO_ANSWER = UnreachableError("gpu7 (10.0.0.7): no answer in time")


def rows_of(module: ModuleType, result: Any) -> Draw:
    """What draws the table whose rows arrive host by host."""
    view = module.ROWS[type(result)]
    return rows_in(view, result)


def rows_in(view: Any, result: Any) -> Draw:
    """As `rows_of`, in a certain view."""

    def draw(screen: Screen) -> None:
        rows = [row for outcome in result.outcomes for row in view.rows(outcome, True)]
        screen.table(view.columns, rows, styles=view.styles)

    return draw


def view_of(module: ModuleType, result: Any) -> Draw:
    """What draws a result, or what follows its table."""
    return lambda screen: module.VIEWS[type(result)](result, screen)


def blocks_of(module: ModuleType, result: Any) -> Draw:
    """What draws the lines of each host."""

    def draw(screen: Screen) -> None:
        for outcome in result.outcomes:
            module.ROWS[type(result)].show(outcome, screen, len(result.outcomes) == 1)

    return draw


# Hosts and GPUs


def status() -> Statuses:
    disks = (
        Disk("/SSD", "/dev/sdb1", 960 * GIB, 12 * GIB),
        Disk("/NAS", "nas:/volume1/everyone", 80 << 40, 31 << 40),
    )
    running = Container("RUNNING", 4242, ("10.0.3.5",), 3 * GIB)
    return Statuses(
        [
            Outcome(GPU2, ContainerStatus(HostStatus(True, running, 93784.0, disks))),
            Outcome(GPU3, ContainerStatus(HostStatus(True, Container("STOPPED")))),
            Outcome(GPU5, ContainerStatus(HostStatus(False))),
            Outcome(GPU7, None, NO_ANSWER),
            Outcome(GPU16, ContainerStatus(HostStatus(True, running, 60.0, reachable=False))),
        ],
        {},
    )


def interrupted_status() -> Statuses:
    entry = JournalEntry(
        host="gpu3",
        what=Work.RECOVER,
        stage=Stage.UNPACK,
        began=NOW - 7300,
        directory="/NAS/Workspaces/lxc-snapshot",
        path="/NAS/Workspaces/lxc-snapshot/alice.tar.gz",
        was_running=True,
    )
    return Statuses(
        [Outcome(GPU3, ContainerStatus(HostStatus(True, Container("STOPPED"))))], {"gpu3": entry}
    )


def report(file: str) -> smi.Report:
    return smi.report((DATA / "nvidia-smi" / file).read_text().splitlines(), 0, "gpu2")


def gpu_list() -> GpuList:
    return GpuList(
        [
            Outcome(GPU2, HostGpus((report("q-390.48.txt"),))),
            Outcome(GPU3, HostGpus((), StoppedError("gpu3 is stopped", hint="apexgpu up gpu3"))),
            Outcome(GPU7, None, NO_ANSWER),
        ]
    )


def troubled_gpus() -> GpuList:
    gpu = smi.Gpu(
        0,
        "TITAN V",
        temperature=62,
        utilization=97,
        total=12 * GIB,
        used=9 * GIB,
        free=3 * GIB,
        processes=(),
    )
    locked = smi.Gpu(
        1,
        "TITAN V",
        temperature=30,
        utilization=0,
        total=12 * GIB,
        used=0,
        free=12 * GIB,
        locked_by="wangfang resnet50-batch256",
    )
    reset = smi.Gpu(
        2,
        "TITAN V",
        condition=smi.Condition.NEEDS_RESET,
        reason="GPU requires reset",
    )
    divided = smi.Gpu(
        3,
        "NVIDIA A100-SXM4-40GB",
        temperature=30,
        utilization=None,
        total=40 * GIB,
        used=4 * GIB,
        free=36 * GIB,
        condition=smi.Condition.MIG,
        instances=(smi.MigInstance(0, 7, 0, 5 * GIB, 4 * GIB, GIB),),
    )
    return GpuList(
        [Outcome(GPU2, HostGpus((smi.Report("390.48", (gpu, locked, reset, divided)),)))]
    )


def offer(host: str, *indexes: int, count: int = 2) -> Offer:
    gpu = [smi.Gpu(index, "TITAN V", free=int(11.8 * GIB)) for index in indexes]
    fits = tuple(Fit(each, each.free or 0, 0, 0) for each in gpu)
    return Offer(host, fits, count)


def free_gpus() -> FreeGpus:
    return FreeGpus(
        (offer("gpu2", 1, 3), offer("gpu16", 0, 1, 2, 3)),
        [
            Outcome(GPU3, HostGpus((), StoppedError("gpu3 is stopped"))),
            Outcome(GPU5, HostGpus((), NotRegisteredError("not registered on gpu5"))),
            Outcome(GPU7, None, NO_ANSWER),
        ],
    )


def show_first_screen(screen: Screen) -> None:
    """The picture in the README: an ordinary day."""

    def running(megabytes: int, hours: float) -> ContainerStatus:
        container = Container("RUNNING", 4242, ("10.0.3.5",), megabytes << 20)
        return ContainerStatus(HostStatus(True, container, hours * 3600))

    stopped = ContainerStatus(HostStatus(True, Container("STOPPED")))
    hosts = Statuses(
        [
            Outcome(GPU2, running(6230, 76.5)),
            Outcome(GPU3, stopped),
            Outcome(GPU5, ContainerStatus(HostStatus(False))),
            Outcome(GPU7, running(870, 3.2)),
            Outcome(GPU16, stopped),
        ],
        {},
    )
    on_gpu2 = GpuList([Outcome(GPU2, HostGpus((report("q-390.48.txt"),)))])
    free = FreeGpus((offer("gpu2", 0, count=1), offer("gpu7", 1, 3, count=1)), [])
    screen.line("$ apexgpu status")
    rows_of(containers, hosts)(screen)
    screen.line("")
    screen.line("$ apexgpu gpus gpu2")
    rows_of(gpus, on_gpu2)(screen)
    screen.line("")
    screen.line("$ apexgpu gpus free")
    view_of(gpus, free)(screen)


def run_list() -> RunList:
    def run(name: str, state: RunState, **more: Any) -> Run:
        fields: dict[str, Any] = {"began": int(NOW) - 7300, **more}
        return Run(name, "id", state, "python train.py", "/home/alice", **fields)

    return RunList(
        [
            Outcome(
                GPU2,
                HostRuns(
                    (
                        run(
                            "resnet50-batch256",
                            RunState.RUNNING,
                            gpu=1,
                            cpu=398.0,
                            memory=12 * GIB,
                            gpu_memory=10 * GIB,
                            last_line="epoch 12  loss 0.0431  验证集准确率 0.934  eta 3 h",
                        ),
                        run("short", RunState.DONE, ended=int(NOW) - 60, exit=0, last_line="done"),
                        run("bad", RunState.FAILED, ended=int(NOW) - 90, exit=1, last_line="nan"),
                    )
                ),
            ),
            Outcome(GPU3, HostRuns((), absent=StoppedError("gpu3 is stopped"))),
        ]
    )


# Backups


def archive(name: str, label: str, **more: Any) -> Archive:
    path = f"/NAS/Workspaces/lxc-snapshot/{name}.tar.gz"
    return Archive(name, "gpu2", label, path, 21 * GIB, int(NOW) - 86400, 0o600, **more)


def snapshot_list() -> SnapshotList:
    return SnapshotList(
        archives=[
            archive("alice-gpu2-before-upgrade", "before-upgrade", verified=int(NOW) - 80000),
            archive("alice-gpu2-20251122-181500", "", damage="gzip: unexpected end of file"),
            archive("alice-gpu2-升级前", "升级前"),
        ],
        free=31 << 40,
        writable=True,
        directory="/NAS/Workspaces/lxc-snapshot",
        server_path="/NAS/Workspaces/lxc-snapshot/alice.tar.gz",
        seen_from="gpu2",
    )


def rotation() -> list[Rotation]:
    return [
        Rotation(
            archive("alice-gpu2-20251124T000000Z-before-upgrade", "before-upgrade"), "daily 1"
        ),
        Rotation(archive("alice-gpu2-20251123T000000Z", ""), ""),
        Rotation(archive("alice-gpu2-升级前", "升级前"), "needed by interrupted work"),
    ]


# Ports and files


def tunnel_list() -> TunnelList:
    def tunnel(host: str, port: int, state: TunnelState, **more: Any) -> Tunnel:
        forwards = (Forward(port, str(port)),)
        return Tunnel(
            f"{host}-{port}", host, forwards, 4242, NOW - 9000, True, state, NOW - 90, **more
        )

    return TunnelList(
        [
            tunnel("gpu2", 6006, TunnelState.UP, bytes_carried=123456789),
            tunnel("gpu16", 8888, TunnelState.WAITING, reconnects=3, reason="no answer in time"),
            tunnel("gpu3", 8888, TunnelState.DEAD, reason="its program has ended"),
        ]
    )


def mount_list() -> MountList:
    home = "/home/alice/apexgpu/gpu2"
    chinese = "/home/alice/数据/gpu16"
    reason = "it does not answer within 2 s"
    return MountList(
        (
            Mount("gpu2", home, "/home/alice", False, NOW - 90, 1, MountState.ALIVE),
            Mount("gpu16", chinese, "/SSD/alice", True, NOW - 9000, 2, MountState.STALE, reason),
        )
    )


def port_list() -> PortList:
    maps = (
        CheckedMap(PortMap("10.0.0.2", 22001, 22), True),
        CheckedMap(PortMap("10.0.0.2", 11001, 6006), False),
    )
    return PortList([Outcome(GPU2, HostPorts(maps, ()))])


# Account and settings


def key_list() -> KeyList:
    return KeyList(
        (
            KnownKey(
                FINGERPRINTS[0],
                "ssh-ed25519",
                "alice@laptop",
                ("iam", "laptop", "login"),
                Path("/home/alice/.ssh/id_ed25519"),
            ),
            KnownKey(FINGERPRINTS[1], "ecdsa-sha2-nistp256", "王芳的旧笔记本 2019", ("iam",)),
            KnownKey(FINGERPRINTS[2], "ssh-rsa", "", ("agent",)),
        )
    )


def config_status() -> ConfigStatus:
    vpn = "校外访问请先连接 VPN：https://vpn.apexlab.org，账户与域账户相同"
    settings = {
        "iam_url": Setting("http://iam.apexlab.org", SettingSource.DEFAULT),
        "ssh_config": Setting("~/.ssh/config", SettingSource.DEFAULT),
        "state_dir": Setting("/home/alice/.local/state/apexgpu", SettingSource.DEFAULT),
        "timeout": Setting("5", SettingSource.FILE),
        "user": Setting("alice", SettingSource.LOGIN),
        "vpn": Setting(vpn, SettingSource.FILE),
        "editor": Setting("", SettingSource.DEFAULT),
    }
    return ConfigStatus(
        settings,
        Path("/home/alice/.ssh/config"),
        tuple(HOSTS[:3]),
        ("github.com", "nas"),
        ("gpu16",),
        ("/home/alice/.ssh/config: IdentitiesOnly yes applies to gpu2 and 4 more hosts",),
        (),
    )


def config_copies() -> BackupList:
    return BackupList(
        tuple(
            Backup(
                number,
                Path(f"config-{number}"),
                datetime.fromtimestamp(NOW - 86400 * number, UTC),
                2091 + number,
            )
            for number in (1, 2, 10)
        )
    )


def identity() -> Identity:
    return Identity("alice", "王芳", 22001, "http://iam.apexlab.org", key_list().keys[:1])


def overviews() -> list[Overview]:
    everyday = (
        ("status", "Show every host: registered, running, address, memory."),
        ("snapshot", "Save your container to the NAS, and check the archive."),
        ("doctor", "Find out what is wrong between this laptop and your containers."),
    )
    return [
        Overview(
            "apexgpu login", iam_answers=False, vpn="https://vpn.apexlab.org", everyday=everyday
        ),
        Overview(
            "apexgpu recover gpu3",
            user="alice",
            running=("gpu2",),
            stopped=("gpu3",),
            not_registered=("gpu5", "gpu16"),
            silent=("gpu7",),
            interrupted=("recover of gpu3, 2 h 1 min ago",),
            new=("gpu17",),
            everyday=everyday,
        ),
    ]


# Checks


def diagnosis(*, named: bool) -> Diagnosis:
    machine = (
        Finding.ok("program", "apexgpu 0.1.0 on Linux x86_64, Python 3.11.7"),
        Finding.ok("directories", "/home/alice/.local/state/apexgpu"),
        Finding.problem(
            "key",
            "/home/alice/.ssh/id_ed25519: others may read it, so ssh will not use it",
            "chmod 600 /home/alice/.ssh/id_ed25519",
            code="key_unreadable",
        ),
        Finding.note("password", "no keyring on this system; commands that need it will ask"),
        Finding.unknown("known_hosts", "/home/alice/.ssh/known_hosts: 3 of 4 hosts confirmed"),
    )
    gpu2 = HostFindings(
        GPU2,
        (
            Finding.ok("route", "10.0.0.2 port 22"),
            Finding.ok("manage port", "the manage shell answers"),
            Finding.ok("key", "the key is accepted"),
            Finding.ok("container", "the container is running"),
            Finding.ok("container port", "its port 22001 accepts the key"),
        ),
    )
    gpu7 = HostFindings(
        GPU7,
        (
            Finding.problem(
                "manage port",
                "10.0.0.7 port 22 does not answer within 10 s: the host is off, or a firewall drops packets",
                "apexgpu doctor gpu7",
                code="timeout",
            ),
        ),
    )
    return Diagnosis(machine, (gpu2, gpu7), (), named)


def good_verification() -> Verification:
    return Verification(
        ComputeChecks(
            "gpu2",
            (
                Finding.ok("driver", "390.48 (CUDA 9.0 needs 384.81 or newer)"),
                Finding.ok("cuda", "9.0.176 in /usr/local/cuda-9.0"),
                Finding.ok("cudnn", "7.0.5 (/usr/local/cuda-9.0/include/cudnn.h)"),
                Finding.ok(
                    "tensorflow",
                    "1.10.1 in ~/.virtualenvs/tensorflow-1.10.1-py35/bin/python (Python 3.5)",
                ),
                Finding.ok("gpu", "GPU 1 of 4 (TITAN V): a matrix product is right, 0.4 s"),
                Finding.ok("command", "the same through `ssh gpu2 COMMAND`"),
            ),
        )
    )


def bad_verification() -> Outcome[Verification]:
    fact = (
        "TensorFlow is not installed in any Python; if it is in an environment elsewhere, name that "
        "with --python PATH"
    )
    hint = "apexgpu setup gpu3 tensorflow"
    checks = ComputeChecks(
        "gpu3",
        (
            Finding.ok("driver", "390.48"),
            Finding.note("cuda", "there is none in /usr/local", "apexgpu setup gpu3 cuda"),
            Finding.problem("tensorflow", fact, hint, code="no_tensorflow"),
            Finding("gpu", "skipped", "not tried"),
        ),
    )
    error = ApexError(f"TensorFlow does not work on gpu3: {fact}", hint=hint)
    return Outcome(GPU3, Verification(checks), error)


def window_checks() -> list[WindowCheck]:
    broken = WindowCheck(
        GPU2,
        (
            Finding.broken(
                "DISPLAY",
                "DISPLAY is not set: no X server runs here; after its installation, log in to a graphical "
                "session",
                "sudo apt install xorg",
                code="no_display",
            ),
            Finding("X server", "skipped", "it needs what is broken above"),
        ),
        (Finding("container", "skipped", "it needs what is broken above"),),
    )
    good = WindowCheck(
        None, (Finding.ok("DISPLAY", ":0"), Finding.ok("X server", "XWayland answers")), ()
    )
    return [broken, good]


# Software


def steps() -> list[SetupStep]:
    titles = (
        ("cuda", "gcc and make, which nvcc calls", StepState.DONE),
        ("cuda", "the CUDA 9.0 toolkit in /usr/local/cuda-9.0 (some minutes)", StepState.TO_DO),
        (
            "growth",
            "a hook in the Pythons of older TensorFlows, which does not change a program's own config",
            StepState.TO_DO,
        ),
        (
            "tensorflow",
            "TensorFlow 1.10.1 for Python 3.5 in ~/.virtualenvs/tensorflow-1.10.1-py35 (some minutes)",
            StepState.TO_DO,
        ),
    )
    return [SetupStep(recipe, "step", title, state) for recipe, title, state in titles]


def setup_plan() -> Setup:
    return Setup(GPU2, dry_run=True, steps=steps(), command="apexgpu setup gpu2 tensorflow")


def lab_status() -> LabStatus:
    def host(name: str, *users: str) -> dict[str, Any]:
        names = [{"user": user} for user in users]
        return {"host": name, "address": "127.46.186.2", "port": 2222, "containers": names}

    return LabStatus(
        {
            "iam_url": "http://127.46.186.1:39987",
            "users": [{"name": "alice", "password": "H7sZ7pmZkZ_vkdkm"}, {"name": "bob"}],
            "hosts": [host("gpu2", "alice", "bob"), host("gpu16")],
        }
    )


EXPLAINED = ("agent_refused", "host_key_changed", "no_tensorflow", "not_registered", "stopped")
"""A new code must not change the golden screens, so they show these."""


def few_codes() -> CodeList:
    return CodeList([catalogue()[code] for code in EXPLAINED])


# Errors


ERRORS: Sequence[ApexError] = (
    UsageError("--json needs a command; it cannot be used with an interactive shell"),
    UnknownHostError("there is no host gpu77; did you mean gpu7?", hint="apexgpu status"),
    LoginError(
        "IAM at http://iam.apexlab.org refused the password of alice", hint="apexgpu login alice"
    ),
    HostKeyError(
        f"the host key of gpu7 has changed: it was {FINGERPRINTS[0]}, and is now {FINGERPRINTS[1]}; no "
        "connection was made",
        hint="apexgpu doctor gpu7",
    ),
    ConnectTimeoutError(
        "gpu7 (10.0.0.7): no answer in 10 s; are you on the lab's network or its VPN?",
        hint="apexgpu doctor gpu7",
    ),
    StoppedError("the container on gpu3 is stopped", hint="apexgpu up gpu3"),
    DeclinedError("nothing was changed", hint=SameCommand("the same command with --yes", "--yes")),
    MissingProgramError("sshfs is not installed on this machine", hint="sudo apt install sshfs"),
    ApexError("gpu2: nvidia-smi printed \x1b[31mred\x1b[0m and [bold]more[/bold]"),
)
"""One of each exit code, short and long, with and without a hint, and one with text of a server."""


def show_errors(screen: Screen) -> None:
    """Each error on its own, then those of several hosts."""
    screen.reporter.command_line = CommandLine(("down", "gpu2", "gpu3"), 3)
    for error in ERRORS:
        screen.reporter.error(error)


def show_errors_of_hosts(screen: Screen) -> None:
    """The same error on several hosts, and another on one."""
    screen.reporter.errors(
        [
            Outcome(GPU2, None, StoppedError("gpu2 is stopped", hint="apexgpu up gpu2")),
            Outcome(GPU7, None, NO_ANSWER),
            Outcome(GPU16, None, UnreachableError("gpu16 (10.0.0.16): no answer in time")),
        ]
    )


def show_messages(screen: Screen) -> None:
    """The other lines of a reporter."""
    reporter = screen.reporter
    reporter.success("gpu2 is up. Next: ssh gpu2")
    reporter.note("nothing is mounted; mount a container with: apexgpu mount HOST")
    reporter.warn(
        "anyone on the lab's network can use these addresses, and stopping the container removes them; a "
        "tunnel is open to this laptop only, and reconnects by itself",
        hint="apexgpu tunnel gpu2 6006",
    )
    reporter.diff(" Host *\n+Host gpu2\n+    HostName 10.0.0.2\n-    HostName 10.0.0.22")


def in_chinese(draw: Draw) -> Draw:
    """The same where the language is Chinese."""

    def drawn(screen: Screen) -> None:
        screen.reporter.is_chinese = lambda: True
        draw(screen)

    return drawn


# Questions


VALUES = {
    "user": "alice",
    "path": "/home/alice/.ssh/id_ed25519",
    "key": "/home/alice/.ssh/id_work",
    "server": "github.com",
    "number": 3,
    "host": "gpu7",
    "hosts": "gpu2, gpu3, gpu16",
    "ports": "6006, 8888",
    "busy": "gpu16",
    "runs": "3 runs",
    "count": 3,
    "what": "recover",
    "archive": "alice-gpu2-before-upgrade",
    "source": "alice-gpu2-before-upgrade",
    "effect": "This deletes and replaces all files of your container on gpu7",
    "name": "gpu7",
}


def question_forms() -> dict[str, QuestionForm]:
    """Every question, by its name."""
    return {name: form for name, form in vars(questions).items() if isinstance(form, QuestionForm)}


def show_questions(screen: Screen) -> None:
    """Every question as it is asked, each with its answer."""
    for form in question_forms().values():
        question = form.fill(**VALUES)
        if question.english.endswith("?"):
            screen.reporter.confirm(question)
        else:
            screen.reporter.ask(question)
        screen.line("")


def show_host_keys(screen: Screen) -> None:
    """The table of new host keys, and its question."""
    reporter = screen.reporter
    reporter.note("These hosts show keys that this laptop has not seen before:")
    rows = [
        (f"gpu{number}-manage", "ssh-ed25519", fingerprint)
        for number, fingerprint in zip((2, 3, 16), FINGERPRINTS, strict=True)
    ]
    reporter.table(manyhosts.HOST_KEY_COLUMNS, rows)
    reporter.confirm(questions.TRUST_HOST_KEYS.fill())
    screen.line("")


def show_rotation(screen: Screen) -> None:
    """The table before snapshots are deleted."""
    rows = [(each.archive.name, each.why or "(is deleted)") for each in rotation()]
    screen.reporter.table(("NAME", "WHY IT IS KEPT"), rows)


def show_setup_question(screen: Screen) -> None:
    """The table of steps before they are done."""
    screen.reporter.table(STEP_TITLES, step_rows(steps()))
    screen.reporter.confirm(questions.SET_UP.fill(host="gpu2"))
    screen.line("")


def show_removed_runs(screen: Screen) -> None:
    """The table of runs before their files are removed."""
    rows = [("gpu2", "resnet50-batch256", "done"), ("gpu16", "bad", "failed")]
    screen.reporter.table(("HOST", "NAME", "STATE"), rows)


SCREENS: dict[str, Callable[[], Sequence[Draw]]] = {
    "first-screen": lambda: [show_first_screen],
    "status": lambda: [rows_of(containers, status()), view_of(containers, status())],
    "status-interrupted": lambda: [
        rows_of(containers, interrupted_status()),
        view_of(containers, interrupted_status()),
    ],
    "gpus": lambda: [rows_of(gpus, gpu_list()), view_of(gpus, gpu_list())],
    "gpus-trouble": lambda: [rows_of(gpus, troubled_gpus()), view_of(gpus, troubled_gpus())],
    "gpus-low": lambda: [rows_in(gpus.ROWS[GpuList].compact, gpu_list())],
    "gpus-free": lambda: [view_of(gpus, free_gpus())],
    "runs": lambda: [rows_of(runs, run_list()), view_of(runs, run_list())],
    "runs-clean": lambda: [show_removed_runs],
    "snapshots": lambda: [view_of(backups, snapshot_list())],
    "snapshots-keep": lambda: [
        view_of(backups, KeptSnapshots(rotation(), dry_run=True)),
        show_rotation,
    ],
    "tunnels": lambda: [view_of(tunnels, tunnel_list())],
    "mounts": lambda: [view_of(mount, mount_list())],
    "port": lambda: [view_of(ports, port_list())],
    "keys": lambda: [view_of(keys, key_list())],
    "whoami": lambda: [view_of(login, identity())],
    "login-host-keys": lambda: [show_host_keys],
    "config-status": lambda: [view_of(sshconfig, config_status())],
    "config-restore": lambda: [view_of(sshconfig, config_copies())],
    "overview": lambda: [view_of(overview, each) for each in overviews()],
    "doctor": lambda: [view_of(doctor, diagnosis(named=False))],
    "doctor-host-chinese": lambda: [in_chinese(view_of(doctor, diagnosis(named=True)))],
    "verify": lambda: [
        blocks_of(software, Verifications([Outcome(GPU2, good_verification()), bad_verification()]))
    ],
    "x11-check": lambda: [view_of(x11, each) for each in window_checks()],
    "setup-list": lambda: [view_of(software, list_recipes(Session()))],
    "setup-plan": lambda: [view_of(software, setup_plan()), show_setup_question],
    "lab-faults": lambda: [view_of(lab, list_faults())],
    "lab-status": lambda: [view_of(lab, lab_status())],
    "explain": lambda: [view_of(explain, few_codes())],
    "explain-page": lambda: [
        view_of(explain, Explained(each)) for each in few_codes().explanations[:2]
    ],
    "errors": lambda: [show_errors, show_errors_of_hosts],
    "errors-chinese": lambda: [in_chinese(show_errors), show_errors_of_hosts],
    "messages": lambda: [show_messages],
    "questions": lambda: [show_questions],
    "questions-chinese": lambda: [in_chinese(show_questions)],
}
