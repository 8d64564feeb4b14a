"""gpus and gpus free: what every GPU does, and which of them are free."""

from typing import Annotated, Any

import typer

from apexgpu.commands import fleet, gpurows
from apexgpu.commands.gpurows import Seen
from apexgpu.commands.options import Group, HostsArgument, ListByDefault, session_of
from apexgpu.errors import ApexError, RefusedError, StoppedError
from apexgpu.livetable import Board, fits
from apexgpu.models import Host, Outcome
from apexgpu.nvidia import choice
from apexgpu.nvidia import query as looking
from apexgpu.nvidia.choice import GIB, Need, Offer
from apexgpu.nvidia.monitor import Page, Reading
from apexgpu.nvidia.smi import Report
from apexgpu.render import error_value
from apexgpu.session import Session
from apexgpu.ssh import fanout
from apexgpu.text import size

app = Group()
gpus = Group(cls=ListByDefault)
app.add_typer(gpus, name="gpus", help="What every GPU does, and which of them are free.")

_EVERY = 5.0
_LOOKS = 5
_ABSENT = {"stopped", "not_registered"}


@gpus.command("list")
def show(
    ctx: typer.Context,
    hosts: HostsArgument = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")
    ] = False,
) -> None:
    """Show every GPU: load, memory, who uses it.

    Of all hosts, or of those that are named, where your container runs. A container shows your own programs only:
    memory that none of them accounts for is `others`.

    Examples: apexgpu gpus · apexgpu gpus gpu7 --watch
    """
    session = session_of(ctx)
    chosen = session.hosts(hosts or [])
    page = _page(session)
    live = watch and session.screen.draws
    board = Board(
        session.screen,
        gpurows.HEADER,
        {host.name: gpurows.waiting(host.name) for host in chosen},
        styles=gpurows.colour,
        least=gpurows.LEAST,
    )

    def done(outcome: Outcome[Seen]) -> None:
        board.put(outcome.host.name, *gpurows.rows(outcome, _told(page), session))

    outcomes = fleet.run(
        session,
        chosen,
        lambda host: _look(session, host, named=bool(hosts), once=live),
        on_done=done,
    )
    if live:
        _watch(session, outcomes, page, board)
    board.end()
    raise typer.Exit(_finish(session, outcomes, page))


def _look(
    session: Session,
    host: Host,
    *,
    named: bool,
    once: bool = False,
    looks: int = 1,
    seconds: float = 0,
) -> Seen:
    """Reports of a host; one that is not up is no failure where nobody named it."""
    try:
        found = looking.look(
            session.transport,
            host,
            looks=looks,
            seconds=seconds,
            connect=session.settings.timeout,
            once=once,
        )
    except RefusedError as exc:
        if named or exc.code not in _ABSENT:
            raise
        return Seen(absent=exc)
    return Seen(found)


def _page(session: Session) -> Reading | None:
    """The lab's monitor page, under way, where there is one."""
    url = session.settings.monitor_url
    if url is None:
        return None
    from apexgpu.nvidia import monitor

    names = [host.name for host in session.known_hosts]
    return Reading(lambda: monitor.read(url, names, timeout=min(session.settings.timeout, 10)))


def _told(page: Reading | None) -> Page:
    return page.page() if page else Page()


def _watch(
    session: Session, first: list[Outcome[Seen]], page: Reading | None, board: Board
) -> None:
    """Follow every host over a connection of its own, each row as it comes, until Ctrl-C."""
    rows = gpurows.rows
    if not fits(sum(len(rows(outcome, Page(), session)) for outcome in first)):
        board = Board(
            session.screen,
            gpurows.SHORT_HEADER,
            {one.host.name: gpurows.short(one)[0] for one in first},
            styles=gpurows.colour,
            least=(),
        )

        def rows(outcome: Outcome[Seen], page: Page, session: Session) -> list[gpurows.Row]:
            return gpurows.short(outcome)

    def put(outcome: Outcome[Seen]) -> None:
        board.put(outcome.host.name, *rows(outcome, _told(page), session))

    def follow(host: Host) -> None:
        while True:
            try:
                looking.follow(
                    session.transport,
                    host,
                    lambda report: put(Outcome(host, Seen((report,)))),
                    seconds=_EVERY,
                    connect=session.settings.timeout,
                )
            except ApexError as exc:
                put(Outcome(host, None, exc))
                session.pause(_EVERY)

    with board.living():
        fanout.each([outcome.host for outcome in first], follow, width=len(first))


def _finish(session: Session, outcomes: list[Outcome[Seen]], page: Reading | None) -> int:
    """What stands under the table, the JSON document, and the exit code."""
    seen = [outcome.value for outcome in outcomes if outcome.value is not None]
    told = _told(page)
    if (
        any(gpu.others for one in seen for report in one.reports for gpu in report.gpus)
        and not session.screen.as_json
    ):
        session.screen.note(
            "others: memory that no program of your container accounts for; theirs cannot be seen from it"
        )
    _say_trouble(session, outcomes, page)
    error, code = None, fanout.exit_code(outcomes)
    if seen and all(one.absent for one in seen) and code in {0, 3}:
        absent = outcomes[0].host.name if len(outcomes) == 1 else "HOST"
        error = StoppedError("no container of yours is running", hint=f"apexgpu up {absent}")
        session.screen.error(error)
        code = error.exit_code
    hosts = [
        {**row, **gpurows.value(outcome, told)}
        for row, outcome in zip(fleet.rows(outcomes, lambda _: {}), outcomes, strict=True)
    ]
    session.screen.document(
        {"ok": code == 0, **({"error": error_value(error)} if error else {}), "hosts": hosts}
    )
    return code


def _say_trouble(session: Session, outcomes: list[Outcome[Any]], page: Reading | None) -> None:
    for outcome in outcomes:
        if outcome.error is not None:
            fleet.show_error(session, outcome.host, outcome.error)
    if page is None:
        return
    found = page.page()
    if page.late():
        session.screen.warn("the lab's monitor page has not come in time, so owners are not shown")
    elif found.error is not None:
        session.screen.warn(
            f"{found.error.message}, so owners are not shown", hint=found.error.hint
        )


@gpus.command("free")
def free(
    ctx: typer.Context,
    hosts: HostsArgument = None,
    memory: Annotated[
        float | None,
        typer.Option(metavar="GIB", min=0.001, help="GiB free on each; without it, empty ones."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many GPUs, all on one host.")] = 1,
    over: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, max=3600, help="How long to look.")
    ] = 5,
) -> None:
    """Show the free GPUs, best first, with the line to paste.

    Each is looked at several times: a pause between two batches does not count as free.

    Example: apexgpu gpus free --memory 8 --count 2
    """
    session = session_of(ctx)
    chosen = session.hosts(hosts or [])
    need = Need(None if memory is None else int(memory * GIB), count)
    with session.screen.working(
        f"looking at {len(chosen)} host{'s' if len(chosen) > 1 else ''} for {over:g} s"
    ):
        outcomes = fleet.run(
            session,
            chosen,
            lambda host: _look(
                session, host, named=False, looks=_LOOKS, seconds=over / (_LOOKS - 1)
            ),
        )
    seen: dict[str, tuple[Report, ...]] = {
        one.host.name: one.value.reports for one in outcomes if one.value is not None
    }
    found = choice.offers(seen, need)
    raise typer.Exit(_answer(session, outcomes, found, need))


def _answer(
    session: Session, outcomes: list[Outcome[Seen]], found: tuple[Offer, ...], need: Need
) -> int:
    """The table and its line to paste, what was not looked at, JSON; 0 when there is one, whatever else failed."""
    if found:
        session.screen.table(gpurows.FREE_HEADER, [gpurows.offer(one) for one in found])
        session.screen.result(f"\n{_paste(found[0])}")
    for outcome in outcomes:
        if found and outcome.error is not None:  # the question has its answer all the same
            session.screen.warn(outcome.error.message, hint=outcome.error.hint)
    if not found:
        _say_trouble(session, outcomes, None)
    stopped = _say_absent(session, outcomes)
    error, code = None, 0
    if not found:
        error = _none(need, stopped)
        session.screen.error(error)
        code = fanout.exit_code(outcomes) if all(one.error for one in outcomes) else error.exit_code
    rows = zip(fleet.rows(outcomes, lambda _: {}), outcomes, strict=True)
    session.screen.document(
        {
            "ok": code == 0,
            **({"error": error_value(error)} if error else {}),
            "free": [_value(one) for one in found],
            "hosts": [{**row, **gpurows.value(outcome, Page())} for row, outcome in rows],
        }
    )
    return code


def _say_absent(session: Session, outcomes: list[Outcome[Seen]]) -> list[str]:
    """Name the hosts that could not be looked at, with what it takes; the stopped ones are given back."""
    stopped: list[str] = []
    for word, why, command in (
        ("stopped", "the container there is stopped", "up"),
        ("not_registered", "you are not registered there", "register"),
    ):
        names = [
            one.host.name
            for one in outcomes
            if one.value and one.value.absent and one.value.absent.code == word
        ]
        stopped = stopped or (names if word == "stopped" else [])
        if names:
            listed = " ".join(names)
            session.screen.warn(
                f"not looked at, for {why}: {listed}", hint=f"apexgpu {command} {listed}"
            )
    return stopped


def _paste(offer: Offer) -> str:
    return f'apexgpu ssh {offer.host} -- "{offer.variables} python train.py"'


def _value(offer: Offer) -> dict[str, Any]:
    return {
        "host": offer.host,
        "gpus": list(offer.chosen),
        "fitting": sorted(fit.gpu.index for fit in offer.fits),
        "name": offer.fits[0].gpu.name,
        "memory_free": offer.free,
        "utilization": offer.load,
        "command": _paste(offer),
        "environment": dict(part.split("=", 1) for part in offer.variables.split()),
    }


def _none(need: Need, stopped: list[str]) -> ApexError:
    what = "a free GPU" if need.count == 1 else f"{need.count} free GPUs"
    room = f" with {size(need.memory)}" if need.memory is not None else ""
    hint = (
        f"apexgpu up {stopped[0]}   (its GPUs have not been looked at)"
        if stopped
        else "apexgpu gpus --watch"
    )
    return RefusedError(
        f"no host that runs your container has {what}{room} now", hint=hint, code="none_free"
    )
