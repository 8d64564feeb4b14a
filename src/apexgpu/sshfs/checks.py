"""What `apexgpu doctor` checks about mounts: the program for them, and each mount."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from apexgpu.errors import MissingProgramError
from apexgpu.models import Finding, Host
from apexgpu.process import Runner
from apexgpu.sshfs import mountprograms, mounts


def check_mount_program(runner: Runner) -> Finding:
    """Check that a program for mounts is installed, and that its version is not known to be bad."""
    try:
        program = mountprograms.find_program(runner)
    except MissingProgramError as error:
        fact = f"{error.message}: files can be copied, but not mounted"
        return Finding.note("programs", fact, error.hint)
    defect = mountprograms.known_problem(program)
    if defect:
        return Finding.note("programs", defect)
    return Finding.ok("programs", f"{program} ({program.path})")


def check_mounts(state_dir: Path, hosts: Sequence[Host]) -> Iterator[Finding]:
    """Check that each mounted directory still answers."""
    for mount in mounts.check_states(mounts.find_mounts(state_dir, hosts)):
        if mount.is_stale:
            yield Finding.problem(
                "mounts",
                f"{mount.directory} ({mount.host}) is stale: {mount.reason}",
                "apexgpu mounts repair",
                code="stale",
            )
        else:
            yield Finding.ok("mounts", f"{mount.directory} shows {mount.host}:{mount.remote}")
