"""The same work for many hosts at once. An error is one host's result; it neither stops nor delays the others."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from apexgpu.errors import ApexError
from apexgpu.models import Host, Outcome, T

WIDTH = 64
"""How many hosts are worked on at once."""


def each(
    hosts: Sequence[Host],
    work: Callable[[Host], T],
    *,
    on_done: Callable[[Outcome[T]], None] = lambda _: None,
    width: int = WIDTH,
) -> list[Outcome[T]]:
    """Call `work` for every host, `width` at once, and return the outcomes in the order of `hosts`.

    `on_done` is called with each outcome as it arrives, in the caller's thread. Exceptions other than ApexError are
    bugs: they are raised here.
    """
    if len(hosts) == 1:
        outcome = _raise_bug(_attempt(hosts[0], work))
        on_done(outcome)
        return [outcome]
    outcomes: dict[str, Outcome[T]] = {}
    for outcome in arriving(hosts, work, width=width):
        outcomes[outcome.host.name] = outcome
        on_done(outcome)
    return [outcomes[host.name] for host in hosts]


def arriving(
    hosts: Sequence[Host], work: Callable[[Host], T], *, width: int = WIDTH
) -> Iterator[Outcome[T]]:
    """As `each`, but yield the outcomes as they arrive. The caller may stop before the last one."""
    waiting: queue.SimpleQueue[Host] = queue.SimpleQueue()
    done: queue.SimpleQueue[Outcome[T] | _Bug] = queue.SimpleQueue()
    for host in hosts:
        waiting.put(host)

    def worker() -> None:
        while True:
            try:
                host = waiting.get_nowait()
            except queue.Empty:
                return
            done.put(_attempt(host, work))

    # Daemon threads: after a Ctrl-C the program ends without waiting for a host that hangs.
    for _ in range(min(width, len(hosts))):
        threading.Thread(target=worker, daemon=True).start()
    for _ in hosts:
        yield _raise_bug(_next(done))


class _Bug:
    """An exception in a worker thread, on its way to the caller's thread."""

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception


def _attempt(host: Host, work: Callable[[Host], T]) -> Outcome[T] | _Bug:
    try:
        return Outcome(host, work(host))
    except ApexError as exc:
        return Outcome(host, None, exc)
    except BaseException as exc:
        return _Bug(exc)


def _raise_bug(result: Outcome[T] | _Bug) -> Outcome[T]:
    if isinstance(result, _Bug):
        raise result.exception
    return result


def _next(results: queue.SimpleQueue[T]) -> T:
    # With a timeout, because on Windows Ctrl-C does not interrupt a wait without one.
    while True:
        with contextlib.suppress(queue.Empty):
            return results.get(timeout=1)
