"""nvidia-smi in a container: GPUs whose load changes with time. Run as a program, standard library only."""

import hashlib
import json
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

MEMORY = 12066  # MiB of a TITAN V
COUNT = 4
IDLE = {"name": "TITAN V", "total": MEMORY, "mode": "Default", "used": 11, "load": 0, "own": []}
_UNITS = {
    "memory.total": "MiB",
    "memory.used": "MiB",
    "memory.free": "MiB",
    "used_memory": "MiB",
    "used_gpu_memory": "MiB",
    "utilization.gpu": "%",
    "utilization.memory": "%",
    "power.draw": "W",
    "power.limit": "W",
    "fan.speed": "%",
    "clocks.sm": "MHz",
    "clocks.mem": "MHz",
}


# What a fault makes it say, and its exit status.
_TROUBLES = {
    "gpu-mismatch": (18, "Failed to initialize NVML: Driver/library version mismatch"),
    "gpu-lost": (
        15,
        "Unable to determine the device handle for GPU 00000000:03:00.0: GPU is lost.  "
        "Reboot the system to recover this GPU",
    ),
    "gpu-none": (6, "No devices were found"),
    "gpu-no-driver": (127, "sh: 1: nvidia-smi: not found"),
}


def trouble() -> tuple[int, str] | None:
    """The fault that is in force at this host."""
    kind = told_by_the_lab("gpu-fault")
    while kind == "gpu-hang":
        time.sleep(60)
    return _TROUBLES.get(kind)


def driver() -> str:
    """The driver in this container."""
    try:
        return (
            (Path(os.environ["APEXGPU_LAB_CONTAINER"]) / "notes" / "driver")
            .read_text(encoding="utf-8")
            .strip()
        )
    except (KeyError, OSError):
        return "390.48"


def told_by_the_lab(name: str) -> str:
    """What the lab has written for the GPUs of the host that this container is on; empty where nothing."""
    try:
        return (Path(os.environ["APEXGPU_LAB_CONTAINER"]).parent / name).read_text(encoding="utf-8")
    except (KeyError, OSError):
        return ""


def noise(*words: object) -> bytes:
    """Numbers that are the same for the same words on the same host."""
    return hashlib.sha256(
        "/".join([os.environ.get("APEXGPU_LAB_HOST", ""), *map(str, words)]).encode()
    ).digest()


def card(number: int, now: float) -> dict[str, Any]:
    """What goes on on a GPU: MiB held, load in percent, the container's own programs.

    The last one of a host is idle. On the others, jobs come and go; one holds its memory while its load goes up and
    down and pauses now and then. Most are other people's, whose programs a container does not see.
    """
    seed = noise(number)
    length = 60 + seed[0] % 60
    job = noise(number, int(now / length))
    if number == COUNT - 1 or job[0] < 70:
        return {}
    used = 1500 + job[1] * 40
    pause = int(now) % 7 == job[3] % 7
    load = 0 if pause else int(60 + 38 * math.sin(now * (1 + job[2] / 64)))
    return {
        "used": used,
        "load": load,
        "own": [[4000 + 17 * number, "python", used - 11]] if job[4] < 64 else [],
    }


def cards(now: float) -> list[dict[str, Any]]:
    """Every GPU: as the lab was told (see LabState.set_gpus; lists go round, a step a call), else by the clock."""
    told = told_by_the_lab("gpus.json")
    if not told:
        return [{**IDLE, **card(number, now)} for number in range(COUNT)]
    with (Path(os.environ["APEXGPU_LAB_CONTAINER"]).parent / "gpus.calls").open("ab") as calls:
        calls.write(b".")
        step = calls.tell() - 1
    return [
        {
            key: value[step % len(value)] if isinstance(value, list) and key != "own" else value
            for key, value in one.items()
        }
        for one in json.loads(told)
    ]


def gpu(number: int, told: dict[str, Any], now: float) -> dict[str, str]:
    """All fields of one GPU."""
    name = noise(number, "uuid").hex()
    uuid = f"GPU-{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:32]}"
    busy, used, total = int(told["load"]), int(told["used"]), int(told["total"])
    return {
        "index": str(number),
        "name": told["name"],
        "gpu_name": told["name"],
        "count": str(COUNT),
        "uuid": uuid,
        "gpu_uuid": uuid,
        "pci.bus_id": f"00000000:{2 + number:02X}:00.0",
        "gpu_bus_id": f"00000000:{2 + number:02X}:00.0",
        "driver_version": driver(),
        "memory.total": str(total),
        "memory.used": str(used),
        "memory.free": str(total - used),
        "utilization.gpu": str(busy),
        "utilization.memory": str(busy * 6 // 10),
        "temperature.gpu": str(30 + busy // 2),
        "power.draw": f"{25 + busy * 2:.2f}",
        "power.limit": "250.00",
        "fan.speed": str(28 + busy * 4 // 10),
        "pstate": "P2" if busy else "P8",
        "compute_mode": told["mode"],
        "persistence_mode": "Disabled",
        "clocks.sm": "1335",
        "clocks.mem": "850",
        "compute_cap": "7.0",
        "display_mode": "Disabled",
        "timestamp": time.strftime("%Y/%m/%d %H:%M:%S.000", time.localtime(now)),
    }


def gpus(now: float) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """Every GPU: what goes on there, and its fields."""
    found = cards(now)
    for note in held():
        number = int(note["gpu"])
        if number < len(found):
            told = found[number] = dict(found[number])
            told["used"] = min(int(told["used"]) + int(note["memory"]), int(told["total"]))
            if note["own"]:
                told["own"] = [*told["own"], [note["pid"], "python", note["memory"]]]
    return [(told, gpu(number, told, now)) for number, told in enumerate(found)]


def held() -> list[dict[str, Any]]:
    """What programs of the host's containers hold (the stand-in of TensorFlow notes it); a dead one holds nothing."""
    container = Path(os.environ.get("APEXGPU_LAB_CONTAINER", "."))
    found = []
    for path in sorted(container.parent.glob("*/notes/gpu-*.json")):
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
            os.kill(int(note["pid"]), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except (OSError, ValueError):
            continue
        else:
            found.append({**note, "own": path.parent.parent == container})
    return found


def applications(now: float) -> list[dict[str, str]]:
    """The container's own programs that compute now."""
    return [
        {
            **fields,
            "pid": str(pid),
            "process_name": name,
            "name": name,
            "used_memory": str(memory),
            "used_gpu_memory": str(memory),
        }
        for told, fields in gpus(now)
        for pid, name, memory in told["own"]
    ]


def report(now: float) -> str:
    """What `nvidia-smi -q` prints, as far as anybody asks: sections, and fields under them."""
    found = gpus(now)
    lines = [
        "",
        "==============NVSMI LOG==============",
        "",
        field(0, "Timestamp", time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(now))),
        field(0, "Driver Version", driver()),
        "",
        field(0, "Attached GPUs", str(len(found))),
    ]
    for told, values in found:
        lines += [f"GPU {values['pci.bus_id']}", *block(values), *programs(told["own"]), ""]
    return "".join(f"{line}\n" for line in lines)


def field(depth: int, name: str, value: str) -> str:
    """A line of the report: names are padded to one column."""
    return f"{'    ' * depth + name:<36}: {value}"


def block(values: dict[str, str]) -> list[str]:
    """The sections of one GPU but its programs."""
    memory = {name: f"{values[f'memory.{name.lower()}']} MiB" for name in ("Total", "Used", "Free")}
    sections = {
        "FB Memory Usage": memory,
        "BAR1 Memory Usage": {"Total": "256 MiB", "Used": "2 MiB", "Free": "254 MiB"},
        "Utilization": {
            "Gpu": f"{values['utilization.gpu']} %",
            "Memory": f"{values['utilization.memory']} %",
            "Encoder": "0 %",
            "Decoder": "0 %",
        },
        "Ecc Mode": {"Current": "N/A", "Pending": "N/A"},
        "Temperature": {
            "GPU Current Temp": f"{values['temperature.gpu']} C",
            "GPU Shutdown Temp": "100 C",
        },
        "Power Readings": {
            "Power Draw": f"{values['power.draw']} W",
            "Power Limit": f"{values['power.limit']} W",
        },
    }
    lines = [
        field(1, "Product Name", values["name"]),
        field(1, "Product Brand", "Titan"),
        field(1, "Serial Number", "N/A"),
        field(1, "GPU UUID", values["uuid"]),
        field(1, "Minor Number", values["index"]),
        field(1, "Fan Speed", f"{values['fan.speed']} %"),
        field(1, "Performance State", values["pstate"]),
        field(1, "Compute Mode", values["compute_mode"]),
    ]
    for name, rows in sections.items():
        lines += [f"    {name}", *(field(2, key, value) for key, value in rows.items())]
    return lines


def programs(own: list[tuple[int, str, int]]) -> list[str]:
    """The section of a GPU's programs."""
    if not own:
        return [field(1, "Processes", "None")]
    lines = ["    Processes"]
    for pid, name, memory in own:
        lines += [
            field(2, "Process ID", str(pid)),
            field(3, "Type", "C"),
            field(3, "Name", name),
            field(3, "Used GPU Memory", f"{memory} MiB"),
        ]
    return lines


def table(rows: list[dict[str, str]], fields: list[str], form: str) -> str:
    """Rows as comma separated values, as `--format` asks."""
    options = form.split(",")
    units = "nounits" not in options
    lines = []
    if "noheader" not in options:
        lines.append(
            ", ".join(f"{name} [{_UNITS[name]}]" if name in _UNITS else name for name in fields)
        )
    for row in rows:
        lines.append(
            ", ".join(
                f"{row[name]} {_UNITS[name]}" if units and name in _UNITS else row[name]
                for name in fields
            )
        )
    return "".join(f"{line}\n" for line in lines)


def picture(now: float) -> str:
    """What a bare nvidia-smi draws."""
    bar = "+" + "-" * 29 + "+" + "-" * 22 + "+" + "-" * 22 + "+\n"
    rows = []
    for _, fields in gpus(now):
        memory = f"{fields['memory.used']}MiB / {fields['memory.total']}MiB"
        rows.append(
            f"| {fields['index']:>3}  {fields['name']:<17} Off   | {fields['pci.bus_id']} Off |"
            f"                  N/A |\n"
            f"| {fields['fan.speed']:>3}%  {fields['temperature.gpu']}C    {fields['pstate']}             "
            f"  | {memory:>20} | {fields['utilization.gpu']:>6}%      Default |\n{bar}"
        )
    head = f"| NVIDIA-SMI {driver():<10} Driver Version: {driver():<35}|\n"
    return (
        time.strftime("%a %b %d %H:%M:%S %Y\n", time.localtime(now))
        + bar
        + head
        + bar
        + "".join(rows)
    )


def query(option: str, wanted: str, form: str, now: float) -> tuple[int, str]:
    """The answer to a `--query-…`: exit status and text."""
    computing = option == "--query-compute-apps"
    rows = applications(now) if computing else [fields for _, fields in gpus(now)]
    known = {
        *gpu(0, IDLE, now),
        *(("pid", "process_name", "used_memory", "used_gpu_memory") if computing else ()),
    }
    fields = [name.strip() for name in wanted.split(",")]
    for name in fields:
        if name not in known:
            return 2, f'Field "{name}" is not a valid field to query.\n\n'
    return 0, table(rows, fields, form)


def main(arguments: list[str]) -> int:
    """Answer as nvidia-smi does to the few things that are asked of it."""
    now = time.time()
    broken = trouble()
    if broken:
        sys.stdout.write(f"{broken[1]}\n")
        return broken[0]
    options = dict(re.split("[= ]", word, maxsplit=1) for word in arguments if "=" in word)
    asked = [name for name in ("--query-gpu", "--query-compute-apps") if name in options]
    if asked:
        code, text = query(asked[0], options[asked[0]], options.get("--format", ""), now)
    elif "-L" in arguments:
        code, text = (
            0,
            "".join(
                f"GPU {one['index']}: {one['name']} (UUID: {one['uuid']})\n" for _, one in gpus(now)
            ),
        )
    elif "-q" in arguments:
        code, text = 0, report(now)
    else:
        code, text = 0, picture(now)
    sys.stdout.write(text)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
