"""nvidia-smi in a container: GPUs whose load changes with time. Run as a program, standard library only."""

import hashlib
import math
import os
import re
import sys
import time
from pathlib import Path

MEMORY = 12066  # MiB of a TITAN V
COUNT = 4
_UNITS = {"memory.total": "MiB", "memory.used": "MiB", "memory.free": "MiB", "used_memory": "MiB",
          "used_gpu_memory": "MiB", "utilization.gpu": "%", "utilization.memory": "%", "power.draw": "W",
          "power.limit": "W", "fan.speed": "%", "clocks.sm": "MHz", "clocks.mem": "MHz"}


def driver() -> str:
    """The driver in this container."""
    try:
        return (Path(os.environ["APEXGPU_LAB_CONTAINER"]) / "notes" / "driver").read_text(encoding="utf-8").strip()
    except (KeyError, OSError):
        return "390.48"


def load(number: int, now: float) -> float:
    """How busy a GPU is, from 0 to 1: the last one of a host is idle, the others go up and down."""
    if number == COUNT - 1:
        return 0.0
    seed = hashlib.sha256(f"{os.environ.get('APEXGPU_LAB_HOST', '')}/{number}".encode()).digest()
    period = 20 + seed[0] % 40
    return max(0.0, min(1.0, 0.5 + 0.6 * math.sin(2 * math.pi * now / period + seed[1])))


def gpu(number: int, now: float) -> dict[str, str]:
    """All fields of one GPU."""
    busy = load(number, now)
    name = hashlib.sha256(f"{os.environ.get('APEXGPU_LAB_HOST', '')}-{number}".encode()).hexdigest()
    used = 11 + int(busy * (MEMORY - 600))
    return {
        "index": str(number), "name": "TITAN V", "gpu_name": "TITAN V", "count": str(COUNT),
        "uuid": f"GPU-{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:32]}",
        "gpu_uuid": f"GPU-{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:32]}",
        "pci.bus_id": f"00000000:{2 + number:02X}:00.0", "gpu_bus_id": f"00000000:{2 + number:02X}:00.0",
        "driver_version": driver(), "memory.total": str(MEMORY), "memory.used": str(used),
        "memory.free": str(MEMORY - used), "utilization.gpu": str(int(busy * 100)),
        "utilization.memory": str(int(busy * 60)), "temperature.gpu": str(30 + int(busy * 50)),
        "power.draw": f"{25 + busy * 200:.2f}", "power.limit": "250.00", "fan.speed": str(28 + int(busy * 40)),
        "pstate": "P0" if busy else "P8", "compute_mode": "Default", "persistence_mode": "Disabled",
        "clocks.sm": "1335", "clocks.mem": "850", "compute_cap": "7.0", "display_mode": "Disabled",
        "timestamp": time.strftime("%Y/%m/%d %H:%M:%S.000", time.localtime(now)),
    }


def applications(now: float) -> list[dict[str, str]]:
    """The programs that compute now: one on every busy GPU."""
    found = []
    for number in range(COUNT):
        fields = gpu(number, now)
        if int(fields["memory.used"]) > 11:
            memory = str(int(fields["memory.used"]) - 11)
            found.append({**fields, "pid": str(4000 + 17 * number), "process_name": "python", "name": "python",
                          "used_memory": memory, "used_gpu_memory": memory})
    return found


def table(rows: list[dict[str, str]], fields: list[str], form: str) -> str:
    """Rows as comma separated values, as `--format` asks."""
    options = form.split(",")
    units = "nounits" not in options
    lines = []
    if "noheader" not in options:
        lines.append(", ".join(f"{name} [{_UNITS[name]}]" if name in _UNITS else name for name in fields))
    for row in rows:
        lines.append(", ".join(f"{row[name]} {_UNITS[name]}" if units and name in _UNITS else row[name]
                               for name in fields))
    return "".join(f"{line}\n" for line in lines)


def picture(now: float) -> str:
    """What a bare nvidia-smi draws."""
    bar = "+" + "-" * 29 + "+" + "-" * 22 + "+" + "-" * 22 + "+\n"
    rows = []
    for number in range(COUNT):
        fields = gpu(number, now)
        memory = f"{fields['memory.used']}MiB / {MEMORY}MiB"
        rows.append(f"| {number:>3}  {fields['name']:<17} Off   | {fields['pci.bus_id']} Off |"
                    f"                  N/A |\n"
                    f"| {fields['fan.speed']:>3}%  {fields['temperature.gpu']}C    {fields['pstate']}             "
                    f"  | {memory:>20} | {fields['utilization.gpu']:>6}%      Default |\n{bar}")
    head = f"| NVIDIA-SMI {driver():<10} Driver Version: {driver():<35}|\n"
    return time.strftime("%a %b %d %H:%M:%S %Y\n", time.localtime(now)) + bar + head + bar + "".join(rows)


def query(option: str, wanted: str, form: str, now: float) -> tuple[int, str]:
    """The answer to a `--query-…`: exit status and text."""
    computing = option == "--query-compute-apps"
    known = {*gpu(0, now), *(("pid", "process_name", "used_memory", "used_gpu_memory") if computing else ())}
    fields = [name.strip() for name in wanted.split(",")]
    for name in fields:
        if name not in known:
            return 2, f'Field "{name}" is not a valid field to query.\n\n'
    rows = applications(now) if computing else [gpu(number, now) for number in range(COUNT)]
    return 0, table(rows, fields, form)


def main(arguments: list[str]) -> int:
    """Answer as nvidia-smi does to the few things that are asked of it."""
    now = time.time()
    options = dict(re.split("[= ]", word, maxsplit=1) for word in arguments if "=" in word)
    asked = [name for name in ("--query-gpu", "--query-compute-apps") if name in options]
    if asked:
        code, text = query(asked[0], options[asked[0]], options.get("--format", ""), now)
    elif "-L" in arguments:
        cards = [gpu(number, now) for number in range(COUNT)]
        code, text = 0, "".join(f"GPU {one['index']}: {one['name']} (UUID: {one['uuid']})\n" for one in cards)
    else:
        code, text = 0, picture(now)
    sys.stdout.write(text)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
