"""The manage shell's snapshot, recover and rebuild.

The archives are real. As the real shell does, this one ignores every exit status and continues.
"""

import asyncio
import os
import tempfile
from pathlib import Path, PurePosixPath

from apexgpu_lab import rootfs, texts, trees
from apexgpu_lab.containers import size_du
from apexgpu_lab.shell_call import Call
from apexgpu_lab.texts import SNAPSHOTS, TEMPLATE, heading, headings, highlight

_STEPS = 8
_UNREADABLE = (
    "etc/ssl/private",
    "root",
    "var/log/private",
    "var/cache/private",
    "var/cache/ldconfig",
    "var/lib/private",
    "home/{}/.ssh",
    "run/sudo",
)


async def snapshot(call: Call) -> int:
    """`snapshot` shows the size and a token, `snapshot TOKEN` writes the archive."""
    if call.container.running:
        return _stop_first(call)
    if not call.argument:
        return _offer_snapshot(call)
    if call.argument != call.lab_state.token():
        return _reject_token(call, "snapshot")
    path = f"{SNAPSHOTS}/{call.user}.tar.gz"
    call.console.out(heading("Taking a snapshot..."))
    await _write_snapshot(call, path)
    call.console.out(f"Saved to: {highlight(path)}\n")
    _print_size(call, path)
    call.console.out(call.command_hint("Start your container"))
    return 0


async def recover(call: Call) -> int:
    """`recover` shows a token, `recover TOKEN PATH` deletes the tree and unpacks another."""
    if call.container.running:
        return _stop_first(call)
    if not call.argument:
        return _offer_recover(call, f"{SNAPSHOTS}/{call.user}.tar.gz")
    if call.argument != call.lab_state.token():
        return _reject_token(call, "recover")
    call.console.out(heading("Recover from a snapshot..."))
    path = call.words[2] if len(call.words) > 2 else ""
    if not path:
        _measure_home(call)
    elif _print_size(call, path):
        await _replace(call, path)
        return 0
    call.console.out(heading("Snapshot does not exists."))
    return 0


async def rebuild(call: Call) -> int:
    """`rebuild` shows how to recover from the template; it checks nothing."""
    return _offer_recover(call, TEMPLATE)


def _stop_first(call: Call) -> int:
    call.console.out(
        headings("It seems that your container is running", "You need to first stop your container")
        + call.command_hint("Manually stop your container", "stop")
    )
    return 0


def _reject_token(call: Call, command: str) -> int:
    call.console.out(
        headings("Invalid token", f"Maybe you want to run the {command} command again?")
        + call.command_hint("Take a snapshot", command)
    )
    return 0


def _offer_snapshot(call: Call) -> int:
    call.console.out(heading("Calculating the size of rootfs..."))
    shown = f"{_shown_rootfs(call)}/"
    if call.container.rootfs.is_dir():
        call.console.out(f"{size_du(trees.tree_size(call.container.rootfs))}\t{shown}\n")
    else:
        call.console.err(texts.du_missing(shown))
    call.console.out(
        headings(
            "If you are sure to take a snapshot and save it to NAS,",
            "please run the following command in 5 minutes",
        )
        + call.command_hint(
            "Confirm snapshot", f"snapshot {call.lab_state.token_to_print(call.host)}"
        )
    )
    return 0


def _offer_recover(call: Call, path: str) -> int:
    token = call.lab_state.token_to_print(call.host)
    call.console.out(
        headings(
            "The whole rootfs will be replaced after recovery.",
            "If you are sure to recover a snapshot from NAS,",
            "please run the following command in 5 minutes",
        )
        + call.command_hint("Confirm recover", f"recover {token} {path}")
    )
    return 0


async def _write_snapshot(call: Call, path: str) -> None:
    """Write the archive in place, slowly, with the errors that tar prints."""
    target = _on_server(call, path)
    if call.trigger_fault("nas-readonly"):
        call.console.err(texts.tar_cannot_open(path, "Read-only file system"))
    elif target.is_dir():
        last = "Wrote only 2048 of 10240 bytes"
        call.console.err(texts.tar_cannot_open(path, "Is a directory", last=last))
    elif not target.parent.is_dir():
        call.console.err(texts.tar_cannot_open(path, "No such file or directory"))
    elif call.container.rootfs.is_dir():
        call.console.err(
            texts.lines(
                f"tar: {name}: socket ignored" for name in trees.sockets(call.container.rootfs)
            )
        )
        await _write_archive(call, target, path)


async def _write_archive(call: Call, target: Path, path: str) -> None:
    handle, name = tempfile.mkstemp(prefix=".pack-", dir=call.container.directory)
    os.close(handle)
    packed = Path(name)
    try:
        await asyncio.to_thread(trees.pack, call.container.rootfs, packed)
        full = call.trigger_fault("nas-full")
        if full or call.trigger_fault("damaged-archive"):
            trees.cut_short(packed)
        await _copy_slowly(call, packed, target)
    finally:
        packed.unlink(missing_ok=True)
    if full:
        call.console.err(texts.tar_no_space(path))


async def _copy_slowly(call: Call, source: Path, target: Path) -> None:
    """Copy in steps over a second of the server's time. An interrupted copy stays incomplete."""
    step = -(-source.stat().st_size // _STEPS)
    with source.open("rb") as reading, target.open("wb", buffering=0) as writing:
        while (chunk := reading.read(step)) and not call.console.interrupted.is_set():
            await asyncio.to_thread(writing.write, chunk)
            await call.console.wait(1 / _STEPS)
    target.chmod(0o644)


async def _replace(call: Call, path: str) -> None:
    """Delete the files, unpack the archive, and take all later steps whether that worked or not."""
    container = call.container
    archive = _on_server(call, path)
    container.owned = container.intact = False
    container.address = ""
    call.lab_state.network.container_down(call.host, container)
    trouble = await _unpack(call, archive)
    if trouble:
        call.console.err(_tar_errors(trouble, path))
    call.console.out(heading("Fixing filesystem permission..."))
    await call.console.wait(0.1)
    container.owned = True
    container.intact = trouble is None
    if trouble:
        _print_failures(call, gone=trouble != "cut")
    elif not container.home.is_dir():
        _make_user(call)
    call.console.out(heading("Configuring..."))
    if trouble is None:
        rootfs.configure(container.rootfs, call.host.name, call.user)
        if container.home.is_dir():
            rootfs.write_keys(container.home, call.lab_state.users.keys.get(call.user, ""))
    call.console.out(heading("Done") + call.command_hint("Start your container"))


async def _unpack(call: Call, archive: Path) -> str | None:
    await call.console.wait(0.3)
    return await asyncio.to_thread(
        trees.unpack, archive, call.container.rootfs, call.console.interrupted.is_set
    )


def _make_user(call: Call) -> None:
    call.console.out(heading("Adding user in the container..."))
    if call.trigger_fault("user-not-made"):
        call.console.err(
            texts.user_not_made(call.user) + texts.keys_not_written(_shown_rootfs(call), call.user)
        )
    else:
        rootfs.add_user(call.container.rootfs, call.user)


def _print_failures(call: Call, *, gone: bool) -> None:
    """Print what every later step reports when the files are missing or incomplete."""
    before, after = texts.tree_not_there(_shown_rootfs(call), gone=gone)
    call.console.err(before + texts.start_failed(call.user))
    call.console.out(heading("Adding user in the container..."))
    call.console.err(
        texts.attach_failed(call.user, 8)
        + texts.not_running(call.user)
        + after
        + texts.keys_not_written(_shown_rootfs(call), call.user)
    )


def _tar_errors(trouble: str, path: str) -> str:
    end = "tar: Error is not recoverable: exiting now\n"
    if trouble == "directory":
        return f"tar: {path}: Cannot read: Is a directory\ntar: At beginning of tape, quitting now\n{end}"
    if trouble == "garbage":
        return f"\ngzip: stdin: not in gzip format\ntar: Child returned status 1\n{end}"
    cut = "tar: Unexpected EOF in archive\n"
    return f"\ngzip: stdin: unexpected end of file\n{cut}{cut}{end}"


def _print_size(call: Call, path: str) -> bool:
    """Print the size of a path as `du -sh` does; return False, after its error, if there is none."""
    target = _on_server(call, path)
    if not target.exists():
        call.console.err(texts.du_missing(path))
        return False
    call.console.out(f"{size_du(trees.tree_size(target))}\t{path}\n")
    return True


def _measure_home(call: Call) -> None:
    """Print what du reports if no path is given: it measures the home on the server, and fails at
    directories that it cannot read.
    """
    size = trees.tree_size(call.container.rootfs) if call.container.rootfs.is_dir() else 4096
    call.console.out(f"{size_du(size)}\t.\n")
    inside = f"./.local/share/lxc/{call.user}/rootfs"
    call.console.err(
        texts.du_unreadable([f"{inside}/{name.format(call.user)}" for name in _UNREADABLE])
    )


def _shown_rootfs(call: Call) -> str:
    return f"/home/{call.user}/.local/share/lxc/{call.user}/rootfs"


def _on_server(call: Call, path: str) -> Path:
    """Return where a path on the server is in the lab; only the NAS exists."""
    parts = PurePosixPath(path).parts
    if len(parts) > 1 and parts[0] == "/" and parts[1] in ("NAS", "newNAS") and ".." not in parts:
        return call.lab_state.nas.joinpath(*parts[2:])
    return call.lab_state.directory / "nowhere"
