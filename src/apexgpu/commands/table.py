"""The table of commands: what `--help` lists, and where each command is. Imports nothing."""

from typing import NamedTuple


class CommandInfo(NamedTuple):
    """The module of `apexgpu.commands` that has the command, its panel in `--help`, and its line there."""

    module: str
    panel: str
    line: str


LAB_PANEL = "No lab at hand"
"""The panel of the commands that need the extra `apexgpu[lab]`."""

COMMANDS: dict[str, CommandInfo] = {
    "login": CommandInfo(
        "account", "First day", "Log in to IAM, send a key, write the ssh config. Start here."
    ),
    "logout": CommandInfo(
        "account", "First day", "Forget the login, and remove its hosts from the ssh config."
    ),
    "whoami": CommandInfo(
        "account", "First day", "Show your account, its port, and where each key is."
    ),
    "keys": CommandInfo(
        "account", "First day", "List, add or remove the ssh keys that IAM stores for you."
    ),
    "config": CommandInfo(
        "config",
        "First day",
        "The hosts in ~/.ssh/config, and your settings.",
    ),
    "register": CommandInfo("hosts", "Hosts", "Make your container on a host, once."),
    "up": CommandInfo("hosts", "Hosts", "Start your container and wait until it answers."),
    "down": CommandInfo("hosts", "Hosts", "Stop your container."),
    "restart": CommandInfo("hosts", "Hosts", "Stop your container, and start it again."),
    "status": CommandInfo(
        "hosts", "Hosts", "Show every host: registered, running, address, memory."
    ),
    "ssh": CommandInfo(
        "work", "Work in a container", "Open a shell, or run a command, in your container."
    ),
    "exec": CommandInfo(
        "work", "Work in a container", "Run a command in your containers on many hosts."
    ),
    "cp": CommandInfo(
        "work", "Work in a container", "Copy files and directories to or from your container."
    ),
    "code": CommandInfo(
        "work", "Work in a container", "Open a directory of your container in VS Code or Cursor."
    ),
    "run": CommandInfo(
        "runs", "Long-running work", "Start a command that keeps running without this laptop."
    ),
    "runs": CommandInfo("runs", "Long-running work", "Your runs: list, logs, wait, stop, clean."),
    "snapshot": CommandInfo(
        "backups", "Backups", "Save your container to the NAS, and check the archive."
    ),
    "snapshots": CommandInfo("backups", "Backups", "Your snapshots: list, verify, remove, keep."),
    "recover": CommandInfo(
        "backups", "Backups", "Restore a saved container, after its archive was checked."
    ),
    "rebuild": CommandInfo(
        "backups", "Backups", "Make your container new from the administrators' template."
    ),
    "tunnel": CommandInfo("ports", "Ports", "Forward ports of your container to this laptop."),
    "tunnels": CommandInfo("ports", "Ports", "The tunnels of this laptop: list, close."),
    "tensorboard": CommandInfo(
        "ports", "Ports", "Show a directory of your container in TensorBoard."
    ),
    "jupyter": CommandInfo("ports", "Ports", "Show your container in Jupyter."),
    "port": CommandInfo("ports", "Ports", "Show or make port maps on the server's own address."),
    "mount": CommandInfo(
        "files", "Files", "Mount the files of your container in a directory of this laptop."
    ),
    "mounts": CommandInfo(
        "files", "Files", "The mounts of this laptop, and whether they answer: list, repair."
    ),
    "unmount": CommandInfo("files", "Files", "Unmount a container's files."),
    "x11": CommandInfo(
        "x11", "X11", "Windows of your container on this screen: check, run, install."
    ),
    "gpus": CommandInfo(
        "gpus", "GPUs", "Show every GPU and who uses it; gpus free: find free ones."
    ),
    "setup": CommandInfo(
        "software", "Software", "CUDA, cuDNN, TensorFlow, Jupyter … in your container; setup list."
    ),
    "verify": CommandInfo(
        "software", "Software", "Test GPU computing in your container, from driver to convolution."
    ),
    "doctor": CommandInfo(
        "troubleshooting",
        "When stuck",
        "Find out what is wrong between this laptop and your containers.",
    ),
    "explain": CommandInfo(
        "troubleshooting", "When stuck", "Show what the code of an error means, and what to do."
    ),
    "uninstall": CommandInfo(
        "troubleshooting",
        "When stuck",
        "Remove all that apexgpu wrote on this machine; your keys stay.",
    ),
    "completion": CommandInfo(
        "completion", "This program", "Print the script for completion in your shell."
    ),
    "demo": CommandInfo("lab", LAB_PANEL, "Show a first day in a lab inside this program."),
    "lab": CommandInfo("lab", LAB_PANEL, "The embedded lab: up, env, status, fault, down."),
}

EVERYDAY = ("status", "up", "ssh", "run", "gpus", "cp", "tunnel", "mount", "snapshot", "doctor")
"""The ten commands that `apexgpu` alone lists."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "start": ("up",),
    "stop": ("down",),
    "shell": ("ssh",),
    "connect": ("ssh",),
    "ls": ("status",),
    "list": ("status",),
    "ps": ("status",),
    "top": ("gpus", "--watch"),
    "nvidia-smi": ("gpus",),
    "scp": ("cp",),
    "rsync": ("cp",),
    "copy": ("cp",),
    "backup": ("snapshot",),
    "backups": ("snapshots",),
    "restore": ("recover",),
    "forward": ("tunnel",),
    "umount": ("unmount",),
    "install": ("setup",),
    "jobs": ("runs",),
    "logs": ("runs", "logs"),
    "settings": ("config",),
}
"""Names of other tools for our commands. They are accepted, but listed nowhere."""

GROUP_SYNONYMS = {
    "rm": "remove",
    "delete": "remove",
    "del": "remove",
    "ls": "list",
    "log": "logs",
    "tail": "logs",
    "kill": "stop",
    "prune": "keep",
    "forget": "keep",
    "check": "verify",
    "start": "up",
    "fix": "repair",
    "update": "sync",
    "show": "list",
}
"""The same for the commands of groups, where a group has the command."""
