"""The words of the manage shell that need no state: headings, tips, and the noise of the programs it calls."""

from collections.abc import Iterable, Sequence

GUIDE = "http://apex.sjtu.edu.cn/guides/50"
IAM_SITE = "http://iam.apexlab.org/"
SNAPSHOTS = "/NAS/Workspaces/lxc-snapshot"
TEMPLATE = f"{SNAPSHOTS}/template.tar.gz"
_LXC = "../src/lxc"


# What an ordinary shell prints: to a login without a command, and to `help`.
MESSAGE_OF_THE_DAY = """\
Welcome to Ubuntu 16.04.7 LTS (GNU/Linux 4.4.0-116-generic x86_64)

 * Documentation:  https://help.ubuntu.com
 * Management:     https://landscape.canonical.com

0 packages can be updated.
0 updates are security updates.

"""
BASH_HELP = """\
GNU bash, version 4.3.48(1)-release (x86_64-pc-linux-gnu)
These shell commands are defined internally.  Type `help' to see this list.
Type `help name' to find out more about the function `name'.
Use `info bash' to find out more about the shell in general.
Use `man -k' or `info' to find out more about commands not in this list.

A star (*) next to a name means that the command is disabled.

 job_spec [&]                            history [-c] [-d offset] [n] or hist>
 (( expression ))                        if COMMANDS; then COMMANDS; [ elif C>
"""


def highlight(text: str) -> str:
    """`text` in the shell's highlight colour."""
    return f"\x1b[96;1m{text}\x1b[0m"


def link(text: str) -> str:
    """`text` highlighted and underlined."""
    return f"\x1b[96;1;4m{text}\x1b[0m"


def heading(text: str) -> str:
    """A line of the shell's own."""
    return f"========== {text}\n"


def headings(*lines: str) -> str:
    """Several lines of the shell's own."""
    return "".join(heading(line) for line in lines)


def command_hint(label: str, user: str, address: str, words: str = "", *, width: int = 0) -> str:
    """`label` and the ssh command to type, as the shell prints it."""
    command = f"ssh {user}@{address} {words}".rstrip()
    return f"{label + ':':<{width}} {highlight(command)}\n"


def tips(user: str, address: str, port: int, *, with_port: bool = True) -> str:
    """The block of tips; older shells have no port command."""
    rows = [
        ("Start your container", ""),
        ("Login your container", f"-p{port}"),
        ("Stop your container", "stop"),
        ("Take a snapshot", "snapshot"),
        ("Recover from snapshot", "recover"),
        ("Rebuild from template", "rebuild"),
        ("Port forward", "port"),
    ]
    commands = (
        command_hint(label, user, address, words, width=22)
        for label, words in rows
        if with_port or words != "port"
    )
    return "".join(
        (
            heading("Tips:"),
            *commands,
            f"Use {highlight('scp')} or {highlight('SFTP')} to transfer data to your container\n",
            f"SSD mounted at {highlight('/SSD')}\n",
            f"NAS mounted at {highlight('/newNAS')}\n",
            f"See GPU load: {highlight('nvidia-smi')}\n",
            f"More detailed guide: {link(GUIDE)}\n",
        )
    )


IAM_DOWN = (
    "Failed to get your allocated port.\n"
    "If this problem cannot be solved by retrying, please contact administrators.\n"
)
BYE = heading("Have a good day :-)")
BAD_SCRIPT = (
    "sed: -e expression #2, char 15: unterminated `s' command\n"
    "grep: the -P option only supports a single pattern\n"
)
BAD_IPTABLES = (
    "iptables v1.8.9 (nf_tables): Port `{0}' not valid\n"
    "Try `iptables -h' or 'iptables --help' for more information.\n"
    "iptables v1.8.9 (nf_tables): invalid port/service `{0}' specified\n"
    "Try `iptables -h' or 'iptables --help' for more information.\n"
)


def lines(items: Iterable[str]) -> str:
    """Items as lines."""
    return "".join(f"{item}\n" for item in items)


def not_running(user: str) -> str:
    """What lxc-stop says of a stopped container."""
    return f"lxc-stop: {user}: {_LXC}/tools/lxc_stop.c: main: 168 {user} is not running\n"


def start_failed(user: str) -> str:
    """What lxc-start says when the container does not come up."""
    tool = f"lxc-start: {user}: {_LXC}"
    return lines(
        (
            f'{tool}/lxccontainer.c: wait_on_daemonized_start: 878 Received container state "ABORTING" '
            'instead of "RUNNING"',
            f"{tool}/tools/lxc_start.c: main: 306 The container failed to start",
            f"{tool}/tools/lxc_start.c: main: 309 To get more details, run the container in foreground mode",
            f"{tool}/tools/lxc_start.c: main: 311 Additional information can be obtained by setting the --logfile "
            "and --logpriority options",
        )
    )


def attach_failed(user: str, times: int) -> str:
    """What lxc-attach says, once a command, when there is no container to attach to."""
    tool = f"lxc-attach: {user}: {_LXC}/attach.c:"
    return (
        lines(
            (
                f"{tool} get_attach_context: 406 Connection refused - Failed to get init pid",
                f"{tool} lxc_attach: 1470 Connection refused - Failed to get attach context",
            )
        )
        * times
    )


def tree_not_there(rootfs: str, *, gone: bool) -> tuple[str, str]:
    """The complaints about a root file system that was not unpacked: before lxc-start, and at the end."""
    before = [f"chown: cannot access '{rootfs}': No such file or directory"] if gone else []
    before += [f"chmod: cannot access '{rootfs}/tmp': No such file or directory"]
    for bits in ("u+s", "g+s"):
        before += [
            f"chmod: missing operand after ‘{bits}’",
            "Try 'chmod --help' for more information.",
        ]
    after = (
        [
            f"tee: {rootfs}/etc/hostname: No such file or directory",
            f"sed: can't read {rootfs}/etc/hosts: No such file or directory",
            f"tee: {rootfs}/etc/hosts: No such file or directory",
        ]
        if gone
        else []
    )
    return lines(before), lines(after)


def keys_not_written(rootfs: str, user: str) -> str:
    """The complaints when the user's home is not in the container."""
    home = f"{rootfs}/home/{user}/.ssh"
    return lines(
        f"tee: {home}/{name}: No such file or directory" for name in ("authorized_keys", "config")
    )


def user_not_made(user: str) -> str:
    """The complaints of a container without useradd."""
    home = f"/home/{user}/.ssh"
    missing = "No such file or directory"
    return lines(
        (
            f"lxc-attach: {user}: {_LXC}/attach.c: lxc_attach_run_command: 1841 {missing} - "
            'Failed to exec "useradd"',
            f"mkdir: cannot create directory '{home}': {missing}",
            f"touch: cannot touch '{home}/authorized_keys': {missing}",
            f"touch: cannot touch '{home}/config': {missing}",
            f"chown: invalid user: '{user}:{user}'",
            f"chmod: cannot access '{home}': {missing}",
            f"chmod: cannot access '{home}/authorized_keys': {missing}",
            f"chown: invalid user: '{user}:{user}'",
        )
    )


def tar_cannot_open(path: str, reason: str, *, last: str = "Cannot write: Broken pipe") -> str:
    """tar's words when the archive cannot be opened for writing."""
    return lines(
        (
            f"tar (child): {path}: Cannot open: {reason}",
            "tar (child): Error is not recoverable: exiting now",
            f"tar: {path}: {last}",
            "tar: Child returned status 2",
            "tar: Error is not recoverable: exiting now",
        )
    )


def tar_no_space(path: str) -> str:
    """gzip's and tar's words on a full disk."""
    return lines(
        (
            "",
            "gzip: stdout: No space left on device",
            f"tar: {path}: Cannot write: Broken pipe",
            "tar: Child returned status 1",
            "tar: Error is not recoverable: exiting now",
        )
    )


def du_missing(path: str) -> str:
    """What du says of a path that is not there."""
    return f"du: cannot access '{path}': No such file or directory\n"


def du_unreadable(directories: Sequence[str]) -> str:
    """What du says of directories that it may not read."""
    return lines(f"du: cannot read directory '{name}': Permission denied" for name in directories)
