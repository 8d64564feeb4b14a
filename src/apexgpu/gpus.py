"""GPUs: what every GPU does, and which of them are free.

    from apexgpu import gpus
    from apexgpu.session import Session

    result = gpus.free(Session(), memory=8 * gpus.GIB, count=2)
    print(result.offers[0].host, result.offers[0].chosen)

A container sees its own programs only. GPU memory that none of them accounts for belongs to others.
"""

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from apexgpu import manyhosts, readers
from apexgpu.errors import ApexError, NotRegisteredError, RefusedError, StoppedError, UsageError
from apexgpu.models import Host, Outcome
from apexgpu.nvidia import choice, query
from apexgpu.nvidia.choice import GIB, Need, Offer
from apexgpu.nvidia.smi import Gpu, MigInstance, Report
from apexgpu.reporter import HostRows
from apexgpu.results import HostResults, JsonObject, Result, error_json, exit_code_of
from apexgpu.session import Session
from apexgpu.text import size

__all__ = [
    "GIB",
    "FreeGpus",
    "GpuList",
    "HostGpus",
    "NoneFreeError",
    "free",
    "parse_memory",
    "show",
]

LOOKS = 5
"""How often `free` looks at each GPU: one look may fall into a pause between two batches."""


class NoneFreeError(RefusedError):
    """No GPU has what was asked for now."""

    code = "none_free"


@dataclass(frozen=True)
class HostGpus:
    """The GPUs of a host: its reports, oldest first, or the reason why no container runs there."""

    reports: tuple[Report, ...] = ()
    absent: ApexError | None = None

    @property
    def newest(self) -> Report | None:
        """The last report; None where there is none."""
        return self.reports[-1] if self.reports else None

    def to_json(self) -> JsonObject:
        """Its keys in a host's row. Memory in bytes, utilisation in percent, temperature in °C."""
        if self.newest is None:
            state = self.absent.code if self.absent else None
            hint = self.absent.hint if self.absent else None
            return {"state": state, "hint": hint, "driver": None, "gpus": []}
        driver = self.newest.driver
        return {
            "state": "running",
            "hint": None,
            "driver": driver,
            "gpus": [_gpu_json(gpu, driver) for gpu in self.newest.gpus],
        }


def _gpu_json(gpu: Gpu, driver: str) -> JsonObject:
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
            {"pid": process.pid, "name": process.name, "memory": process.memory}
            for process in gpu.processes
        ],
        "others": gpu.others,
        "condition": gpu.condition.value,
        "reason": gpu.reason or None,
        "locked_by": gpu.locked_by or None,
        "instances": [_instance_json(instance) for instance in gpu.instances],
    }


def _instance_json(instance: MigInstance) -> JsonObject:
    return {
        "index": instance.index,
        "gpu_instance": instance.gpu_instance,
        "compute_instance": instance.compute_instance,
        "memory_total": instance.total,
        "memory_used": instance.used,
        "memory_free": instance.free,
    }


@dataclass(frozen=True)
class GpuList(HostResults[HostGpus]):
    """What `show` returns. `error` says that no container runs at all, where that is so."""

    error: ApexError | None = None

    missing = HostGpus().to_json()

    @property
    def exit_code(self) -> int:
        """See HostResults; 6 when no container runs."""
        return self.error.exit_code if self.error else exit_code_of(self.outcomes)

    def to_json(self) -> JsonObject:
        """See HostResults."""
        document = super().to_json()
        if self.error is not None:
            document["error"] = error_json(self.error)
        return document


@dataclass(frozen=True)
class FreeGpus(Result):
    """What `free` returns: the hosts that have what was asked for, best first, or the error that none has.

    `outcomes` are the looks at all hosts.
    """

    offers: tuple[Offer, ...]
    outcomes: Sequence[Outcome[HostGpus]]
    error: ApexError | None = None

    @property
    def exit_code(self) -> int:
        """0 when there is an offer, whatever else failed."""
        if self.error is None:
            return 0
        if all(outcome.error is not None for outcome in self.outcomes):
            return exit_code_of(self.outcomes)
        return self.error.exit_code

    def to_json(self) -> JsonObject:
        """`free` has a row for each host with enough GPUs; `hosts` is as in `gpus`."""
        document: JsonObject = {"ok": self.ok}
        if self.error is not None:
            document["error"] = error_json(self.error)
        document["free"] = [_offer_json(offer) for offer in self.offers]
        document["hosts"] = GpuList(self.outcomes).to_json()["hosts"]
        return document


def _offer_json(offer: Offer) -> JsonObject:
    variables = dict(part.split("=", 1) for part in offer.variables.split())
    return {
        "host": offer.host,
        "gpus": list(offer.chosen),
        "fitting": sorted(fit.gpu.index for fit in offer.fits),
        "name": offer.fits[0].gpu.name,
        "memory_free": offer.free,
        "utilization": offer.load,
        "command": command_for(offer),
        "environment": variables,
    }


def command_for(offer: Offer) -> str:
    """A command line that runs a program on the GPUs of an offer."""
    return f'apexgpu ssh {offer.host} -- "{offer.variables} python train.py"'


_UNITS = {
    "": GIB,
    **dict.fromkeys(("G", "GB", "GIB"), GIB),
    **dict.fromkeys(("M", "MB", "MIB"), GIB // 1024),
    **dict.fromkeys(("T", "TB", "TIB"), GIB * 1024),
}
"""The bytes of a unit of memory: GPUs have powers of two, whatever people call them."""


def parse_memory(text: str) -> int:
    """The bytes of a size on a command line: `8`, `8G`, `8GB` and `8GiB` are all 8 GiB, `500M` is 500 MiB.

    UsageError for anything else, and for nothing.
    """
    match = re.fullmatch(r"([0-9.]+) ?([A-Za-z]*)", text.strip())
    count = readers.decimal(match[1]) if match is not None else None
    unit = _UNITS.get(match[2].upper()) if match is not None else None
    if not count or unit is None:
        message = f"{text} is not a size of memory: write 8, 8G or 8GiB"
        raise UsageError(message, hint="apexgpu gpus free --memory 8G")
    return round(count * unit)


def show(session: Session, patterns: Sequence[str], *, watch: float | None = None) -> GpuList:
    """Look at the GPUs of the hosts that `patterns` name, or of all hosts where your container runs.

    A host without a running container is a failure only if it is named. With `watch`, every host
    reports anew each so many seconds, as long as the user looks at it. The errors of hosts are in the result.
    """
    hosts = session.hosts(patterns)
    with session.reporter.host_rows(GpuList, hosts, watch=watch) as rows:

        def look(host: Host) -> HostGpus:
            # A connection that stays open between runs is of no use to `follow`: it needs one that this run has made.
            keep_connection = not rows.is_watched
            return _look(session, host, named=bool(patterns), keep_connection=keep_connection)

        def look_at_all() -> GpuList:
            outcomes = manyhosts.run(session, hosts, look, on_done=rows.put)
            return GpuList(outcomes, _none_running(outcomes))

        result = look_at_all()
        if rows.is_watched and watch is not None:
            return _follow_all(session, hosts, result, rows, watch)
        while rows.another_round(result):
            result = look_at_all()
    return result


def _follow_all(
    session: Session, hosts: Sequence[Host], result: GpuList, rows: HostRows, seconds: float
) -> GpuList:
    """Follow every host over a connection of its own, as long as the user looks at it; what came last."""
    newest = {outcome.host.name: outcome for outcome in result.outcomes}

    def put(outcome: Outcome[HostGpus]) -> None:
        newest[outcome.host.name] = outcome
        rows.put(outcome)

    for host in hosts:
        arguments = (session, host, put, seconds)
        threading.Thread(target=_follow, args=arguments, daemon=True).start()
    while rows.another_round(result):
        pass
    outcomes = [newest[host.name] for host in hosts]
    return GpuList(outcomes, _none_running(outcomes))


def _look(
    session: Session,
    host: Host,
    *,
    named: bool,
    keep_connection: bool = True,
    looks: int = 1,
    seconds: float = 0,
) -> HostGpus:
    """`looks` reports of a host, `seconds` apart. That nothing runs there is an error only if it was `named`."""
    try:
        reports = query.look(
            session.transport,
            host,
            looks=looks,
            seconds=seconds,
            connect=session.settings.timeout,
            once=not keep_connection,
        )
    except (StoppedError, NotRegisteredError) as exc:
        if named:
            raise
        return HostGpus(absent=exc)
    return HostGpus(reports)


def _follow(
    session: Session, host: Host, put: Callable[[Outcome[HostGpus]], None], seconds: float
) -> None:
    """Hand over one report after the other; a host that fails is asked again after a while."""
    while True:
        try:
            query.follow(
                session.transport,
                host,
                lambda report: put(Outcome(host, HostGpus((report,)))),
                seconds=seconds,
                connect=session.settings.timeout,
            )
        except ApexError as exc:
            put(Outcome(host, None, exc))
            session.pause(seconds)


def _none_running(outcomes: Sequence[Outcome[HostGpus]]) -> ApexError | None:
    """The error that no container runs: every host that answered said so."""
    has_answer = False
    for outcome in outcomes:
        if outcome.value is None:
            continue
        has_answer = True
        if outcome.value.absent is None:
            return None  # this container runs
    if not has_answer or exit_code_of(outcomes) not in {0, 3}:
        return None
    host = "HOST"
    if len(outcomes) == 1:
        host = outcomes[0].host.name
    return StoppedError("no container of yours is running", hint=f"apexgpu up {host}")


def free(
    session: Session,
    patterns: Sequence[str] = (),
    *,
    memory: int | None = None,
    count: int = 1,
    seconds: float = 5,
) -> FreeGpus:
    """Find hosts with `count` free GPUs, best first.

    `memory` is how many bytes must be free on each; None asks for empty GPUs. Each GPU is looked at `LOOKS` times in
    `seconds` seconds, because a pause between two batches is not free.
    """
    hosts = session.hosts(patterns)
    need = Need(memory, count)
    pause = seconds / (LOOKS - 1)

    def look(host: Host) -> HostGpus:
        return _look(session, host, named=False, looks=LOOKS, seconds=pause)

    plural = "s" if len(hosts) > 1 else ""
    with session.reporter.working(f"looking at {len(hosts)} host{plural} for {seconds:g} s"):
        outcomes = manyhosts.run(session, hosts, look)
    reports = {
        outcome.host.name: outcome.value.reports
        for outcome in outcomes
        if outcome.value is not None
    }
    offers = choice.offers(reports, need)
    error = None
    if not offers:
        stopped = names_of_absent(outcomes, StoppedError)
        error = _none_free(need, stopped, _roomiest(outcomes))
    return FreeGpus(offers, outcomes, error)


def names_of_absent(outcomes: Sequence[Outcome[HostGpus]], reason: type[RefusedError]) -> list[str]:
    """The hosts without a running container because of a StoppedError or a NotRegisteredError."""
    names = []
    for outcome in outcomes:
        absent = outcome.value.absent if outcome.value is not None else None
        if isinstance(absent, reason):
            names.append(outcome.host.name)
    return names


def _roomiest(outcomes: Sequence[Outcome[HostGpus]]) -> tuple[str, Gpu] | None:
    """The GPU with the most free memory, and its host: the one to look at when none is free."""
    best: tuple[str, Gpu] | None = None
    for outcome in outcomes:
        report = outcome.value.newest if outcome.value is not None else None
        for gpu in report.gpus if report is not None else ():
            if gpu.free is not None and (best is None or gpu.free > (best[1].free or 0)):
                best = outcome.host.name, gpu
    return best


def _none_free(
    need: Need, stopped: Sequence[str], roomiest: tuple[str, Gpu] | None
) -> NoneFreeError:
    what = "a free GPU" if need.count == 1 else f"{need.count} free GPUs"
    room = f" with {size(need.memory)}" if need.memory is not None else ""
    message = f"no host that runs your container has {what}{room} now"
    hint = "apexgpu gpus --watch"
    if roomiest is not None:
        host, gpu = roomiest
        load = "unknown" if gpu.utilization is None else f"{gpu.utilization} %"
        message += f"; GPU {gpu.index} of {host} has most: {size(gpu.free)} free, load {load}"
        if gpu.locked_by:
            message += f", taken by a run ({gpu.locked_by})"
    if stopped:
        message += f"; the GPUs of {stopped[0]} were not checked, because your container is stopped"
        hint = f"apexgpu up {stopped[0]}"
    return NoneFreeError(message, hint=hint)
