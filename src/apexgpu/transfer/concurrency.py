"""Many pieces of work at the same time, in one event loop."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar, cast

T = TypeVar("T")
First = TypeVar("First")
Second = TypeVar("Second")


async def run_together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at the same time; the first error cancels the others and is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run_both(
    first: Coroutine[Any, Any, First], second: Coroutine[Any, Any, Second]
) -> tuple[First, Second]:
    """Run two at the same time; an error cancels the other one and is raised."""
    one, other = await run_together((first, second))
    return cast("First", one), cast("Second", other)


async def for_each(
    items: Sequence[bytes],
    work: Callable[[bytes], Coroutine[Any, Any, None]],
    *,
    at_once: int,
) -> None:
    """Call `work` with every item, in order, `at_once` at a time."""
    remaining = iter(items)

    async def worker() -> None:
        for item in remaining:
            await work(item)

    await run_together(worker() for _ in range(min(at_once, len(items))))
