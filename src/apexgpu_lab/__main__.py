"""`python -m apexgpu_lab serve`: the lab in the foreground."""

import argparse
import sys
from pathlib import Path

from apexgpu.errors import ApexError


def main() -> int:
    """Parse the arguments and serve; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m apexgpu_lab")
    serve = parser.add_subparsers(dest="command", required=True).add_parser("serve")
    serve.add_argument("--directory", type=Path, required=True)
    serve.add_argument("--hosts", type=int, default=3)
    serve.add_argument("--registered", action="store_true")
    serve.add_argument("--pace", type=float, default=1)
    chosen = parser.parse_args()
    try:
        from apexgpu_lab import service

        return service.serve(
            chosen.directory, hosts=chosen.hosts, registered=chosen.registered, pace=chosen.pace
        )
    except (ApexError, ImportError) as error:
        sys.stderr.write(f"error: {error}\n")
        return getattr(error, "exit_code", 1)


if __name__ == "__main__":
    sys.exit(main())
