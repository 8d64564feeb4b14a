"""Many hosts at once: a failure is data, one host's trouble never ends or delays the others."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from apexgpu.errors import ApexError
from apexgpu.models import Host, Outcome, T

WIDTH = 64


def each(
    hosts: Sequence[Host],
    work: Callable[[Host], T],
    *,
    on_done: Callable[[Outcome[T]], None] = lambda _: None,
    width: int = WIDTH,
) -> list[Outcome[T]]:
    """Run `work` for every host, `width` at once, and return the outcomes in the hosts' order.

    `on_done` is called in the caller's thread as answers arrive. The threads are daemons: Ctrl-C ends the
    program without waiting for a dead host. Anything but an ApexError is a bug of ours and is raised.
    """
    if len(hosts) == 1:
        outcome = _attempt(hosts[0], work)
        on_done(_checked(outcome))
        return [_checked(outcome)]
    found: dict[str, Outcome[T]] = {}
    for outcome in arriving(hosts, work, width=width):
        found[outcome.host.name] = outcome
        on_done(outcome)
    return [found[host.name] for host in hosts]


def arriving(
    hosts: Sequence[Host], work: Callable[[Host], T], *, width: int = WIDTH
) -> Iterator[Outcome[T]]:
    """As `each`, but the outcomes as they come, in the caller's thread: who has heard enough may stop listening."""
    waiting: queue.SimpleQueue[Host] = queue.SimpleQueue()
    done: queue.SimpleQueue[Outcome[T] | tuple[Host, BaseException]] = queue.SimpleQueue()
    for host in hosts:
        waiting.put(host)

    def worker() -> None:
        while True:
            try:
                host = waiting.get_nowait()
            except queue.Empty:
                return
            done.put(_attempt(host, work))

    for _ in range(min(width, len(hosts))):
        threading.Thread(target=worker, daemon=True).start()
    for _ in hosts:
        yield _checked(_next(done))


def _next(done: queue.SimpleQueue[T]) -> T:
    """The next one to come; on Windows, a wait without an end would not hear Ctrl-C."""
    while True:
        with contextlib.suppress(queue.Empty):
            return done.get(timeout=1)


def _attempt(host: Host, work: Callable[[Host], T]) -> Outcome[T] | tuple[Host, BaseException]:
    try:
        return Outcome(host, work(host))
    except ApexError as exc:
        return Outcome(host, None, exc)
    except BaseException as exc:  # carried to the caller's thread, where it is raised
        return host, exc


def _checked(outcome: Outcome[T] | tuple[Host, BaseException]) -> Outcome[T]:
    if isinstance(outcome, tuple):
        raise outcome[1]
    return outcome


def exit_code(outcomes: Sequence[Outcome[T]]) -> int:
    """0 when all did well, the common code when all failed alike, else 3 (1 when all failed differently)."""
    codes = [outcome.error.exit_code for outcome in outcomes if outcome.error is not None]
    if not codes:
        return 0
    if len(codes) < len(outcomes):
        return 3
    return codes[0] if len(set(codes)) == 1 else 1
