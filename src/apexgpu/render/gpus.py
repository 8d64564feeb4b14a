"""How the results of `apexgpu.gpus` look."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from apexgpu.errorgroups import joined
from apexgpu.errors import NotRegisteredError, StoppedError
from apexgpu.gpus import FreeGpus, GpuList, HostGpus, command_for, names_of_absent
from apexgpu.models import Host, Outcome
from apexgpu.nvidia.choice import Offer
from apexgpu.nvidia.smi import Condition, Gpu, MigInstance
from apexgpu.platforms.console import symbols
from apexgpu.platforms.system import current
from apexgpu.render.livetable import RowsView
from apexgpu.render.screen import Screen
from apexgpu.tables import Column, Row
from apexgpu.text import counted, size

# Who looks for a GPU wants to know where memory is free and who holds the rest: these go last.
_COLUMNS = (
    Column("HOST"),
    Column("GPU"),
    Column("MODEL", least=len("unreachable"), keep=4),
    Column("TEMP", keep=1),
    Column("LOAD", keep=5),
    Column("USED", keep=2),
    Column("FREE", is_coloured=True),
    Column("DRIVER", keep=0),
    Column("USED BY", least=len("you 9.2 GiB…")),
)
_LATE_WIDTHS = (0, 0, len("GeForce GTX 1080 Ti"), 4, 5, 9, 9, len("390.48"), 0)
_COMPACT_COLUMNS = (
    Column("HOST"),
    Column("MODEL", least=len("unreachable")),
    Column("DRIVER", keep=0),
    Column("GPU: LOAD, FREE MEMORY", least=60),
)
_FREE_COLUMNS = (
    Column("HOST"),
    Column("GPUS"),
    Column("MODEL", least=8, keep=2),
    Column("FREE ON EACH", keep=3),
    Column("LOAD", keep=1),
    Column("PUT BEFORE YOUR COMMAND", keep=0),  # of use only as a whole
)
_BAR_CELLS = 6


def _waiting(host: Host) -> Row:
    return (host.name, "…", *("" for _ in _COLUMNS[2:]))


def _style(row: Row) -> str:
    """Green for a GPU that nobody uses, red for trouble."""
    if row[1] == "-":
        return "dim" if row[2] in {"stopped", "not registered"} else "red"
    is_gpu = len(row) == len(_COLUMNS) and row[1] != "…"
    if is_gpu and row[-1].startswith(tuple(_CONDITIONS.values())):
        return "red"
    return "green" if is_gpu and not row[-1] else ""


_CONDITIONS = {
    Condition.NEEDS_RESET: "needs a reset",
    Condition.BROKEN: "broken",
    Condition.LOST: "lost",
    Condition.HIDDEN: "hidden from this container",
    Condition.UNEXPECTED: "unknown values",
}
"""What the table calls a GPU that is not offered because of its condition."""


def _rows(outcome: Outcome[HostGpus], draws: bool) -> list[Row]:
    """A row for each GPU, or one that says why there is none, with what to type at its end."""
    report = outcome.value.newest if outcome.value else None
    if report is None:
        word, hint = _trouble(outcome)
        return [(outcome.host.name, "-", word, "", "", "", "", "", hint)]
    rows = []
    for gpu in report.gpus:
        rows.append(_row(outcome.host.name, gpu, report.driver, draws))
        rows += [_instance_row(outcome.host.name, gpu, instance) for instance in gpu.instances]
    return rows


def _instance_row(host: str, gpu: Gpu, instance: MigInstance) -> Row:
    """The row of a part of a GPU. Its text at the end keeps it from being drawn as a free GPU."""
    return (
        host,
        f"{gpu.index}/{instance.index}",
        "MIG instance",
        "-",
        "-",
        size(instance.used),
        size(instance.free),
        "",
        "part of the GPU above",
    )


def _trouble(outcome: Outcome[HostGpus]) -> tuple[str, str]:
    """Why there is no report, in a word or two, and the command that helps."""
    error = outcome.error
    if error is None and outcome.value is not None:
        error = outcome.value.absent
    if error is None:
        return "no answer", ""
    return error.code.replace("_", " "), (error.hint or "").split("   (")[0]


def _row(host: str, gpu: Gpu, driver: str, draws: bool) -> Row:
    used_percent = None
    if gpu.used is not None and gpu.total:
        used_percent = 100 * gpu.used // gpu.total
    temperature = "-" if gpu.temperature is None else f"{gpu.temperature}°C"
    load = "-" if gpu.utilization is None else f"{gpu.utilization:>3}%"
    used = size(gpu.used)
    if draws:
        # Something to see at a glance; in a pipe a number alone is better.
        load = f"{_bar(gpu.utilization)} {load}"
        used = f"{_bar(used_percent)} {used}"
    return (
        host,
        str(gpu.index),
        # Of two names that are cut, nobody wants to read the maker's twice.
        gpu.name.removeprefix("NVIDIA ") if draws else gpu.name,
        temperature,
        load,
        used,
        size(gpu.free),
        driver,
        used_by(gpu),
    )


def _bar(percent: int | None) -> str:
    # Rounded up: a GPU that does anything has one cell at least.
    full = 0 if percent is None else min(_BAR_CELLS, -(-percent * _BAR_CELLS // 100))
    drawn = symbols(current())
    return drawn.full * full + drawn.empty * (_BAR_CELLS - full)


def used_by(gpu: Gpu) -> str:
    """Who holds the memory: your programs with their names, and others."""
    parts = []
    if gpu.condition is Condition.MIG:
        parts.append("divided into MIG instances")
    elif gpu.condition is not Condition.HEALTHY:
        parts.append(_CONDITIONS[gpu.condition])
    if gpu.locked_by:
        user, _, run = gpu.locked_by.partition(" ")
        parts.append(f"run {run} of {user}")
    if gpu.processes:
        names = {PurePosixPath(process.name).name or process.name for process in gpu.processes}
        parts.append(f"you {size(gpu.own)} ({', '.join(sorted(names))})")
    others_unknown = gpu.others is None and gpu.used
    if gpu.others or others_unknown:
        parts.append(f"others {size(gpu.others)}")
    return ", ".join(parts)


def _compact_waiting(host: Host) -> Row:
    return (host.name, "…", "", "")


def _compact_rows(outcome: Outcome[HostGpus], draws: bool) -> list[Row]:
    """A host in one row, for a terminal that is too low for all GPUs."""
    report = outcome.value.newest if outcome.value else None
    if report is None:
        word, hint = _trouble(outcome)
        return [(outcome.host.name, word, "", hint)]
    models = sorted({gpu.name for gpu in report.gpus})
    cells = []
    for gpu in report.gpus:
        load = "-" if gpu.utilization is None else f"{gpu.utilization}%"
        cells.append(f"{gpu.index}: {load:>4} {size(gpu.free):>9}")
    model = f"{len(report.gpus)} × {', '.join(models)}"
    return [(outcome.host.name, model, report.driver, "   ".join(cells))]


def show_gpus(result: GpuList, screen: Screen) -> None:
    """What follows the table: what `others` means, and the hosts' errors."""
    reports = [
        outcome.value.newest
        for outcome in result.outcomes
        if outcome.value is not None and outcome.value.newest is not None
    ]
    if any(gpu.others for report in reports for gpu in report.gpus):
        screen.reporter.note(
            "others: GPU memory used outside your container; whose it is cannot be seen"
        )
    _warn_of_conditions(result.outcomes, screen)
    screen.reporter.errors(result.outcomes)
    if result.error is not None:
        screen.reporter.error(result.error)


def _warn_of_conditions(outcomes: Sequence[Outcome[HostGpus]], screen: Screen) -> None:
    """Warn of every GPU on which nothing can run, with what it printed."""
    for outcome in outcomes:
        report = outcome.value.newest if outcome.value else None
        if report is None:
            continue
        host = outcome.host.name
        hint = f"apexgpu ssh {host} -- nvidia-smi -q"
        for gpu in report.gpus:
            if gpu.condition in _CONDITIONS:
                state = _CONDITIONS[gpu.condition]
                reason = f" ({gpu.reason})" if gpu.reason else ""
                message = f"GPU {gpu.index} of {host}: {state}{reason}"
                screen.reporter.warn(message, hint=hint)
        if report.missing:
            missing = counted(report.missing, "attached GPU")
            screen.reporter.warn(f"nvidia-smi on {host} does not list {missing}", hint=hint)


def show_free(result: FreeGpus, screen: Screen) -> None:
    """The hosts with free GPUs and a command to paste; then what could not be looked at."""
    if result.offers:
        screen.table(_FREE_COLUMNS, [_offer_row(offer) for offer in result.offers])
        screen.result(f"\n{command_for(result.offers[0])}")
        # The question has its answer, so the failure of a host is worth a warning only.
        for error, _ in joined(result.outcomes):
            screen.reporter.warn(error.message, hint=error.hint)
        _warn_of_conditions(result.outcomes, screen)
    else:
        _warn_of_conditions(result.outcomes, screen)
        screen.reporter.errors(result.outcomes)
    _warn_of_absent(result.outcomes, screen)
    if result.error is not None:
        screen.reporter.error(result.error)


def _offer_row(offer: Offer) -> Row:
    numbers = ",".join(str(number) for number in sorted(fit.gpu.index for fit in offer.fits))
    model = offer.fits[0].gpu.name
    load = "unknown" if offer.load is None else f"{offer.load}%"
    return (offer.host, numbers, model, size(offer.free), load, offer.variables)


def _warn_of_absent(outcomes: Sequence[Outcome[HostGpus]], screen: Screen) -> None:
    for reason, why, command in (
        (StoppedError, "container stopped", "up"),
        (NotRegisteredError, "not registered", "register"),
    ):
        names = names_of_absent(outcomes, reason)
        if names:
            listed = ", ".join(names)
            hint = f"apexgpu {command} {' '.join(names)}"
            screen.reporter.warn(f"not checked ({why}): {listed}", hint=hint)


ROWS: Mapping[type, RowsView] = {
    GpuList: RowsView(
        columns=_COLUMNS,
        waiting=_waiting,
        rows=_rows,
        styles=_style,
        late_widths=_LATE_WIDTHS,
        compact=RowsView(
            columns=_COMPACT_COLUMNS,
            waiting=_compact_waiting,
            rows=_compact_rows,
            styles=_style,
            late_widths=(0, 0, 0, 0),
        ),
    )
}

VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {GpuList: show_gpus, FreeGpus: show_free}
