"""The lab as a program: serves until it is told to stop, and leaves no process behind."""

import asyncio
import signal
import sys
from pathlib import Path

from apexgpu.files import locked
from apexgpu.platforms.system import is_windows
from apexgpu_lab.labserver import LabServer
from apexgpu_lab.layout import Layout


def serve(directory: Path, *, hosts: int, registered: bool, pace: float) -> int:
    """Serve a lab in `directory` until SIGTERM, Ctrl-C or the control's stop; the exit status."""
    with locked(Layout(directory).lock, what=f"the lab in {directory}", timeout=5):
        asyncio.run(_serve(directory, hosts=hosts, registered=registered, pace=pace))
    return 0


async def _serve(directory: Path, *, hosts: int, registered: bool, pace: float) -> None:
    lab_server = LabServer(directory, hosts=hosts, registered=registered, pace=pace)
    _stop_on_signals(lab_server.stopping)
    try:
        await lab_server.start()
        await lab_server.stopping.wait()
    finally:
        await asyncio.sleep(0.05)  # the answer to the stop that was asked for is still on its way
        await lab_server.stop()
        for trouble in lab_server.troubles:
            sys.stderr.write(f"{trouble}\n")


def _stop_on_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if is_windows():
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopping.set))
        else:
            loop.add_signal_handler(number, stopping.set)
