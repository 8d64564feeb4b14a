"""Blocking calls in a thread: several at once, or one with a time limit that cannot be interrupted (a name lookup)."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")


def start(work: Callable[[], T], *, name: str) -> "Future[T]":
    """Run `work` in a thread, and return the future of what it returns or raises.

    The thread is a daemon, so it does not keep the program from ending. `name` is its name, for
    debuggers.
    """
    from concurrent.futures import Future  # imports logging; many commands never need it

    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # passed on to the waiting thread
            future.set_exception(error)

    # Not a ThreadPoolExecutor: Python joins the threads of an executor at exit.
    threading.Thread(target=call, name=name, daemon=True).start()
    return future


def run_with_limit(work: Callable[[], T], seconds: float, *, name: str) -> T:
    """Return what `work()` returns, or raise what it raises.

    Raises TimeoutError after `seconds`. The thread that runs `work` is left behind then, because
    Python cannot stop a thread. `name` is as in `start`.
    """
    return start(work, name=name).result(timeout=seconds)
