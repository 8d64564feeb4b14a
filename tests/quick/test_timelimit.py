"""The time limit for calls that cannot be interrupted."""

import threading
import time

import pytest

from apexgpu.timelimit import run_with_limit, start


def test_the_value_and_the_error_of_the_work_come_back() -> None:
    def fail() -> None:
        raise KeyError("no")

    assert run_with_limit(lambda: 7, 60, name="work") == 7
    with pytest.raises(KeyError):
        run_with_limit(fail, 60, name="work")


def test_work_that_hangs_is_left_behind_by_a_thread_that_does_not_delay_the_exit() -> None:
    never = threading.Event()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        run_with_limit(never.wait, 0.1, name="hanging work")
    assert time.monotonic() - began < 30
    [thread] = [thread for thread in threading.enumerate() if thread.name == "hanging work"]
    assert thread.daemon
    never.set()


def test_several_works_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=60)
    first = start(both.wait, name="first")
    second = start(both.wait, name="second")
    assert {first.result(), second.result()} == {0, 1}
