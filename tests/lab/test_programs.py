"""Programs of the lab's containers, without a network between."""

import asyncio
import sys
from pathlib import Path

import pytest

from apexgpu_lab.programs import RunningProgram, start_with_terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")


async def printed(directory: Path, command: str) -> RunningProgram:
    """A program that has come to its end on its terminal, of which nothing has been read yet."""
    program = await start_with_terminal(
        ["/bin/sh", "-c", command], {"PATH": "/usr/bin:/bin"}, directory, (80, 24, 0, 0)
    )
    assert program.stdout
    await asyncio.wait_for(program.process.wait(), 20)
    for _ in range(100):  # turns of the loop, in which it takes what there is, and the end
        await asyncio.sleep(0)
    return program


@pytest.mark.parametrize("count", [1, 500])
def test_what_a_terminal_showed_is_kept_when_its_program_has_ended(
    tmp_path: Path, count: int
) -> None:
    async def story() -> bytes:
        program = await printed(tmp_path, f"for n in $(seq {count}); do echo $n; done")
        assert program.stdout
        try:
            return await asyncio.wait_for(program.stdout.read(), 20)
        finally:
            await program.close()

    assert asyncio.run(story()) == b"".join(b"%d\r\n" % n for n in range(1, count + 1))
