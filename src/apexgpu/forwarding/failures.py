"""What a tunnel's ssh reports when it fails, as an error, and whether connecting again can help."""

from apexgpu.errors import ApexError, UnreachableError
from apexgpu.models import Host, Target
from apexgpu.ssh import failures


def is_final(reason: str) -> bool:
    """Tell whether connecting again cannot help after ssh failed with `reason`."""
    failure = failures.classify(reason)
    return failure is not None and failure.is_permanent


def tunnel_error(host: Host, reason: str) -> ApexError:
    """Return the error for a tunnel to `host` whose ssh failed with `reason`, its last message."""
    failure = failures.classify(reason)
    if failure is not None:
        return failures.failure_error(Target(host, "container"), failure, reason)
    message = f"no tunnel to {host.name}: {reason or 'ssh ended'}"
    return UnreachableError(message, hint=f"apexgpu doctor {host.name}")
