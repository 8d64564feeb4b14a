"""The same work for many hosts at once. An error is one host's result; it neither stops nor delays the others."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from apexgpu import uncaught
from apexgpu.errors import ApexError, UnexpectedError
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

    `on_done` is called with each outcome as it arrives, in the caller's thread. Any exception of `work` is that host's
    error: one host must not cost the others their results, not even by a bug of ours (then it is a BugError).
    """
    if len(hosts) == 1:
        outcome = _raise_interruption(_attempt(hosts[0], work))
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
    done: queue.SimpleQueue[Outcome[T] | _Interruption] = queue.SimpleQueue()
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
        yield _raise_interruption(_next(done))


class _Interruption:
    """A KeyboardInterrupt or SystemExit in a worker thread, on its way to the caller's thread."""

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception


def _attempt(host: Host, work: Callable[[Host], T]) -> Outcome[T] | _Interruption:
    try:
        return Outcome(host, work(host))
    except UnexpectedError as exc:
        return Outcome(host, None, _about(host, exc))
    except ApexError as exc:
        return Outcome(host, None, exc)
    except Exception as exc:
        return Outcome(host, None, uncaught.as_apex_error(exc))
    except BaseException as exc:
        return _Interruption(exc)


def _about(host: Host, error: UnexpectedError) -> UnexpectedError:
    """The error of a parser with the host's name. A parser knows the text only, not who sent it."""
    if error.hint is not None:
        return error
    hint = f"apexgpu doctor {host.name}"
    return error.with_message(f"the answer of {host.name}: {error.message}", hint=hint)


def _raise_interruption(result: Outcome[T] | _Interruption) -> Outcome[T]:
    if isinstance(result, _Interruption):
        raise result.exception
    return result


def _next(results: queue.SimpleQueue[T]) -> T:
    # With a timeout, because on Windows Ctrl-C does not interrupt a wait without one.
    while True:
        with contextlib.suppress(queue.Empty):
            return results.get(timeout=1)
