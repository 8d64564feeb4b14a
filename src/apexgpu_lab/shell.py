"""The manage shell, word for word: one coroutine for each login."""

import asyncio
import fnmatch
import re

from apexgpu_lab import rootfs, texts
from apexgpu_lab.console import Console
from apexgpu_lab.containers import Account, Host
from apexgpu_lab.labstate import LabState
from apexgpu_lab.shell_archive import rebuild, recover, snapshot
from apexgpu_lab.shell_call import GARBLE, Call, Command, iam_answers, information
from apexgpu_lab.shell_port import port
from apexgpu_lab.texts import BYE, heading, headings, highlight

_GLOB = re.compile(r"[*?[]")
_SERVER_FILES = ("/etc/host.conf", "/etc/hostname", "/etc/hosts")
OTHER_DRIVER = "396.26"
_INSTALLERS = "/newNAS/Share/GPU_Server/NVIDIA-Linux-x86_64"


async def run_manage_shell(
    lab_state: LabState, host: Host, account: Account, command: str | None, console: Console
) -> int:
    """Answer one login as the manage shell does; return the exit status.

    `command` is the command line, None for a shell request.
    """
    if lab_state.faults.trigger(host.name, "garble"):
        console.out(GARBLE)
        return 0
    if account.half_made or account.container is None:
        return _login_shell(command, console)
    words = split_words(command or "")
    call = Call(lab_state, host, account.user, account.container, words, console)
    answered = await iam_answers(
        lab_state, host
    )  # asked before the first word: a hanging IAM means silence
    console.out(
        headings(
            f"Hi, {highlight(account.user)}", f"Welcome to APEX GPU Server (IP: {host.address})"
        )
    )
    if not answered:
        console.out(texts.IAM_DOWN)
        return 1
    await console.wait(0.1)
    console.out(heading("Your LXC Container Information:") + information(call))
    code = await _find_command(call)(call)
    if code == 0:
        console.out(BYE)
    return code


def split_words(command: str) -> list[str]:
    """Split a command line as the manage shell does: on blanks, with globs expanded, quotes kept."""
    words: list[str] = []
    for word in command.split():
        words += _expand(word)
    return words


async def start(call: Call) -> int:
    """The shell request: start the container if it is stopped, then the tips."""
    if not call.container.running:
        call.console.out(
            headings("It seems that your container is not running", "Starting your container...")
        )
        await call.console.wait(0.15)
        if call.trigger_fault("start-fails") or not call.container.bootable:
            call.console.err(texts.start_failed(call.user))
            call.console.out(heading("Fail. Please contact administrators"))
            return 1
        call.lab_state.boot(call.host, call.container)
        await _wait_for_address(call)
        call.console.out(heading("The container is up"))
        _forward_ssh(call)
        await call.console.wait(0.15)
        _compare_driver(call)
        call.console.out(information(call))
    call.console.out(_tips(call))
    return 0


async def stop(call: Call) -> int:
    """`stop`: remove the port maps, then stop the container."""
    call.console.out(heading("Stopping your container..."))
    if not call.container.running:
        call.console.err(texts.not_running(call.user))
    else:
        if len(call.lab_state.addresses(call.host, call.container)) > 1:
            call.console.err(texts.BAD_SCRIPT)
        else:
            for port_map in call.lab_state.maps(call.host, call.container):
                place = f"{call.host.address}:{port_map.host_port} => container:{port_map.container_port}"
                call.console.out(f"Unmapping port {place}...\n")
                call.lab_state.unforward(call.host, port_map)
        await call.console.wait(0.2)
        call.lab_state.halt(call.host, call.container)
    call.console.out(information(call))
    return 0


async def show_help(call: Call) -> int:
    """`help`: print the tips."""
    call.console.out(_tips(call))
    return 0


async def unknown(call: Call) -> int:
    """Any other command: an error and the tips."""
    call.console.out(heading("Unknown command") + _tips(call))
    return 1


def _find_command(call: Call) -> Command:
    table: dict[str, Command] = {
        "": start,
        "help": show_help,
        "stop": stop,
        "port": port,
        "snapshot": snapshot,
        "recover": recover,
        "rebuild": rebuild,
    }
    verb = call.words[0] if call.words else ""
    if verb == "port" and call.lab_state.faults.is_active(call.host.name, "no-port-command"):
        return unknown
    return table.get(verb, unknown)


def _tips(call: Call) -> str:
    with_port = not call.lab_state.faults.is_active(call.host.name, "no-port-command")
    return texts.tips(
        call.user,
        call.host.address,
        call.lab_state.port_of(call.host, call.user),
        with_port=with_port,
    )


async def _wait_for_address(call: Call) -> None:
    """Wait until the container has an address, without a limit, as the real shell does."""
    polled = call.trigger_fault("no-address")
    while polled and call.lab_state.faults.is_active(call.host.name, "no-address"):
        await asyncio.sleep(0.05)


def _forward_ssh(call: Call) -> None:
    if not call.trigger_fault("no-forward"):
        call.lab_state.forward(
            call.host, call.container, 22, call.lab_state.port_of(call.host, call.user)
        )


def _compare_driver(call: Call) -> None:
    """Compare the host's NVIDIA driver with the container's, as the shell does after a start."""
    if call.trigger_fault("driver-mismatch"):
        rootfs.set_driver(call.container, rootfs.DRIVER)
        call.console.out(
            f"NVIDIA driver version mismatch! Host={highlight(OTHER_DRIVER)} Yours={highlight(rootfs.DRIVER)}\n"
            f"Failed to find the installer at {highlight(f'{_INSTALLERS}-{OTHER_DRIVER}.run')}"
            "You might need to manually install the driver\n"
        )
    elif call.trigger_fault("driver-install"):
        version = highlight(rootfs.DRIVER)
        call.console.out(
            f"NVIDIA driver version mismatch! Host={version} Yours={highlight('')}\n"
            f"Installing the driver from {highlight(f'{_INSTALLERS}-{rootfs.DRIVER}.run')}\n"
        )
        rootfs.set_driver(call.container, rootfs.DRIVER)
        call.console.out(
            f"Done! Trying nvidia-smi:\nNVIDIA-SMI {rootfs.DRIVER}\n"
            f"Successfully installed NVIDIA driver. Host={version}=Yours={version}\n"
        )


def _login_shell(command: str | None, console: Console) -> int:
    """Answer as the ordinary shell of a half-made account, which has none of the manage commands."""
    if command is None or not command.strip():
        console.out(texts.MESSAGE_OF_THE_DAY)
        return 0
    if command.split()[0] == "help":
        console.out(texts.BASH_HELP)
        return 0
    console.err(f"bash: {command.split()[0]}: command not found\n")
    return 127


def _expand(word: str) -> list[str]:
    matches: list[str] = []
    if _GLOB.search(word):
        matches = fnmatch.filter(_SERVER_FILES, word)
    return matches or [word]
