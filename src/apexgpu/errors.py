"""The error tree: every failure a user may see, its stable code for JSON and its exit code.

ApexError                        1    failed
├── UsageError                   2    wrong use or configuration
│   ├── UnknownHostError         2    a host that IAM does not know
│   └── ConfigError              2    a settings or ssh config file that cannot be used
├── LoginError                   4    login needed or refused
│   └── HostKeyError             4    a host key that is not the one known
├── UnreachableError             5    unreachable or too slow
│   └── DroppedError             5    the connection ended before the work did
├── RefusedError                 6    the server refused, or a precondition is missing
├── DeclinedError                7    a prompt was declined, or could not be shown
└── MissingProgramError        127    a local program is missing

A message is one fact that names the thing; a hint is a command to paste. Nothing secret in either.
Nothing here prints or exits: `apexgpu.cli` is the one place where an error becomes text and a number.
"""

from typing import ClassVar


class ApexError(Exception):
    """A failure with a message, an optional hint, a stable `code` and an exit code."""

    exit_code: ClassVar[int] = 1
    code: str = "failed"

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code


class UsageError(ApexError):
    """The command line or a setting makes no sense."""

    exit_code = 2
    code = "usage"


class UnknownHostError(UsageError):
    """A host name or glob that matches nothing IAM told us of."""

    code = "unknown_host"


class ConfigError(UsageError):
    """A file of the user's, or an answer that would go into one, cannot be used as it is."""

    code = "config"


class LoginError(ApexError):
    """A login is needed, or was refused."""

    exit_code = 4
    code = "login"


class HostKeyError(LoginError):
    """A server showed another host key than the one known: no connection was made."""

    code = "host_key_changed"


class UnreachableError(ApexError):
    """No answer, or none in time."""

    exit_code = 5
    code = "unreachable"


class DroppedError(UnreachableError):
    """The connection was there and ended before the work did; `seen` is the output until then, `err` what was on
    stderr, where it is known.
    """

    code = "dropped"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        code: str | None = None,
        seen: str = "",
        err: str = "",
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.seen = seen
        self.err = err


class RefusedError(ApexError):
    """The server said no, or something that must be there first is not."""

    exit_code = 6
    code = "refused"


class DeclinedError(ApexError):
    """The user said no, or there was no terminal to ask at."""

    exit_code = 7
    code = "declined"


class MissingProgramError(ApexError):
    """A program that must be installed on this machine is not."""

    exit_code = 127
    code = "missing_program"
