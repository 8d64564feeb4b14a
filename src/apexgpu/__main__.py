"""The entry: answers `--version` and shell completion before anything heavy is imported."""

import gc
import os
import sys

from apexgpu.platforms.searchpath import never_from_current_directory


def main() -> int:
    """Run apexgpu with the process's arguments; the exit code."""
    never_from_current_directory()
    # Python looks for unused cycles after every 700 new objects, and importing a module makes thousands that stay.
    gc.set_threshold(50_000, 20, 20)
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _open_closed()
    code = _run(sys.argv[1:])
    # The process ends here: looking through all objects once more would take as long as importing a library.
    gc.freeze()
    return code if _flushed() else code or 1


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        from apexgpu import __version__

        try:
            sys.stdout.write(f"apexgpu {__version__}\n")
        except OSError:  # a full disk
            return 1
        return 0
    if "_APEXGPU_COMPLETE" in os.environ:
        from apexgpu import completion

        return completion.answer(os.environ)
    from apexgpu import cli

    return cli.main(arguments)


def _flushed() -> bool:
    """Whether stdout took everything (a full disk does not); Python would say so with a trace, and end in 120."""
    took = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as exc:
            took = took and (stream is sys.stderr or isinstance(exc, BrokenPipeError))
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return took


def _open_closed() -> None:
    """A standard stream that was closed (`<&-`) becomes the null device, before a socket gets its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            lowest_free = os.open(os.devnull, os.O_RDWR)
            if lowest_free != number:
                os.dup2(lowest_free, number)
                os.close(lowest_free)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
