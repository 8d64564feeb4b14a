"""How GPUs look in a table and in JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from apexgpu.errors import ApexError
from apexgpu.models import Outcome
from apexgpu.nvidia.choice import Offer
from apexgpu.nvidia.monitor import Page
from apexgpu.nvidia.monitorpage import Claim
from apexgpu.nvidia.smi import Gpu, Report
from apexgpu.session import Session
from apexgpu.text import size

Row = tuple[str, ...]
HEADER = ("HOST", "GPU", "MODEL", "TEMP", "LOAD", "USED", "FREE", "DRIVER", "USED BY")
LEAST = (0, 0, len("GeForce GTX 1080 Ti"), 4, 5, 9, 9, len("390.48"), 0)
SHORT_HEADER = ("HOST", "MODEL", "DRIVER", "GPU: LOAD, FREE MEMORY")
FREE_HEADER = ("HOST", "GPUS", "MODEL", "FREE ON EACH", "LOAD", "PUT BEFORE YOUR COMMAND")
_CELLS = 6


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a host: its reports, or why there is nothing to see (no container runs there)."""

    reports: tuple[Report, ...] = ()
    absent: ApexError | None = None


def waiting(name: str) -> Row:
    """What stands there until a host has answered."""
    return (name, "…", *("" for _ in HEADER[2:]))


def colour(row: Sequence[str]) -> str:
    """Of a row on a terminal: green for a GPU that nobody uses, red for trouble."""
    if row[1] == "-":
        return "dim" if row[2] in {"stopped", "not registered"} else "red"
    return "green" if len(row) == len(HEADER) and not row[-1] and row[1] != "…" else ""


def rows(outcome: Outcome[Seen], page: Page, session: Session) -> list[Row]:
    """A row for each GPU, or one that says why there is none, with what to type at its end."""
    report, trouble = _newest(outcome)
    if report is None:
        word, cure = _words(trouble)
        return [(outcome.host.name, "-", word, "", "", "", "", "", cure)]
    claims = [claim for claim in page.claims if claim.host == outcome.host.name]
    return [_row(outcome.host.name, gpu, report.driver, claims, session) for gpu in report.gpus]


def _newest(outcome: Outcome[Seen]) -> tuple[Report | None, ApexError | None]:
    seen = outcome.value
    if seen is None or not seen.reports:
        return None, outcome.error or (seen.absent if seen else None)
    return seen.reports[-1], None


def _words(trouble: ApexError | None) -> tuple[str, str]:
    if trouble is None:
        return "no answer", ""
    return trouble.code.replace("_", " "), (trouble.hint or "").split("   (")[0]


def _row(host: str, gpu: Gpu, driver: str, claims: Sequence[Claim], session: Session) -> Row:
    draws = session.screen.draws
    used = None if gpu.used is None or not gpu.total else 100 * gpu.used // gpu.total
    return (
        host,
        str(gpu.index),
        gpu.name,
        "-" if gpu.temperature is None else f"{gpu.temperature}°C",
        _bar(gpu.utilization, draws)
        + ("-" if gpu.utilization is None else f"{gpu.utilization:>3}%"),
        _bar(used, draws) + size(gpu.used),
        size(gpu.free),
        driver,
        used_by(gpu, claims, session.settings.user or ""),
    )


def _bar(percent: int | None, draws: bool) -> str:
    """Something to see at a glance on a terminal; in a pipe a number is better alone."""
    if not draws:
        return ""
    full = 0 if percent is None else min(_CELLS, -(-percent * _CELLS // 100))
    return "█" * full + "░" * (_CELLS - full) + " "


def used_by(gpu: Gpu, claims: Sequence[Claim], user: str) -> str:
    """Who holds the memory: the own programs, and the rest, with the names that the lab's page tells."""
    parts = []
    if gpu.processes:
        names = sorted({PurePosixPath(one.name).name or one.name for one in gpu.processes})
        parts.append(f"you {size(gpu.own)} ({', '.join(names)})")
    told = [
        claim
        for claim in claims
        if claim.gpu in {gpu.index, None} and (claim.user != user or not gpu.processes)
    ]
    owners = ", ".join(_claim(claim) for claim in told)
    if gpu.others or (gpu.others is None and gpu.used):
        parts.append(f"others {size(gpu.others)}{f': {owners}' if owners else ''}")
    elif owners:
        parts.append(f"the page: {owners}")
    return ", ".join(parts)


def _claim(claim: Claim) -> str:
    group = f" ({claim.group})" if claim.group else ""
    memory = f" {size(claim.memory)}" if claim.memory is not None else ""
    where = " somewhere" if claim.gpu is None else ""
    old = f" [old: {claim.refreshed}]" if claim.stale else ""
    return f"{claim.user}{group}{memory}{where}{old}"


def short(outcome: Outcome[Seen]) -> list[Row]:
    """A host in one row, for a terminal that is too low for all GPUs."""
    report, trouble = _newest(outcome)
    if report is None:
        word, cure = _words(trouble)
        return [(outcome.host.name, "-", word, cure)]
    models = sorted({gpu.name for gpu in report.gpus})
    cells = [
        f"{gpu.index}: {'-' if gpu.utilization is None else f'{gpu.utilization}%':>4} {size(gpu.free):>9}"
        for gpu in report.gpus
    ]
    return [
        (
            outcome.host.name,
            f"{len(report.gpus)} × {', '.join(models)}",
            report.driver,
            "   ".join(cells),
        )
    ]


def offer(one: Offer) -> Row:
    """A host with free GPUs: all that fit, and the variables for the first of them."""
    numbers = ",".join(str(number) for number in sorted(fit.gpu.index for fit in one.fits))
    return (one.host, numbers, one.fits[0].gpu.name, size(one.free), f"{one.load}%", one.variables)


def value(outcome: Outcome[Seen], page: Page) -> dict[str, Any]:
    """What JSON adds to a host: its newest report."""
    report, trouble = _newest(outcome)
    if report is None:
        absent = outcome.error is None
        state = trouble.code if trouble and absent else None
        return {
            "state": state,
            "hint": trouble.hint if trouble and absent else None,
            "driver": None,
            "gpus": [],
        }
    claims = [claim for claim in page.claims if claim.host == outcome.host.name]
    return {
        "state": "running",
        "hint": None,
        "driver": report.driver,
        "gpus": [_gpu(gpu, report.driver, claims) for gpu in report.gpus],
    }


def _gpu(gpu: Gpu, driver: str, claims: Sequence[Claim]) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "name": gpu.name,
        "uuid": gpu.uuid or None,
        "driver": driver,
        "temperature": gpu.temperature,
        "utilization": gpu.utilization,
        "memory_total": gpu.total,
        "memory_used": gpu.used,
        "memory_free": gpu.free,
        "compute_mode": gpu.compute_mode,
        "processes": [
            {"pid": one.pid, "name": one.name, "memory": one.memory} for one in gpu.processes
        ],
        "others": gpu.others,
        "page": [
            {
                "user": one.user,
                "group": one.group or None,
                "memory": one.memory,
                "gpu": one.gpu,
                "refreshed": one.refreshed or None,
                "stale": one.stale,
            }
            for one in claims
            if one.gpu in {gpu.index, None}
        ],
    }
