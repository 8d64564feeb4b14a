"""A time limit for blocking calls that cannot be interrupted: a name lookup, a request over D-Bus."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def run_with_limit(work: Callable[[], T], seconds: float, *, name: str) -> T:
    """Return what `work()` returns, or raise what it raises.

    Raises TimeoutError after `seconds`. The thread that runs `work` is left behind then, because
    Python cannot stop a thread; it is a daemon, so it does not keep the program from ending.
    `name` is the thread's name, for debuggers.
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
    return future.result(timeout=seconds)
