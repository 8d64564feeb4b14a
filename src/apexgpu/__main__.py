"""The entry: answers `--version` and shell completion before anything heavy is imported."""

import os
import sys


def main() -> int:
    """Run apexgpu with the process's arguments; the exit code."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from apexgpu import __version__

        sys.stdout.write(f"apexgpu {__version__}\n")
        return 0
    if "_APEXGPU_COMPLETE" in os.environ:
        from apexgpu import completion

        return completion.answer(os.environ)
    from apexgpu import cli

    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
