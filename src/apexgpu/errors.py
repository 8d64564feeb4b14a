"""Every failure that a user may see: a tree of exceptions, each with a code for JSON and an exit code.

Exit codes are decided by the branches below ApexError, and every class below a branch inherits it:

    ApexError                  1    failed
    ├── UsageError             2    wrong use or configuration
    ├── LoginError             4    login needed or refused
    ├── UnreachableError       5    unreachable or too slow
    │   └── DroppedError            … after the connection was open and the command was sent
    ├── RefusedError           6    the server refused, or a precondition is missing
    ├── DeclinedError          7    a prompt was declined, or could not be shown
    └── MissingProgramError  127    a local program is missing

Code branches on the class of an exception, never on its `code`. A class belongs here if several packages raise or
catch it, otherwise next to the code that raises it. A failure that no code distinguishes needs no class: it is a
RefusedError (or whichever branch fits) with its own `code`.

The message states one fact and names the thing it is about. The hint is one command to paste. Neither contains a
secret. Nothing here prints or exits: `apexgpu.cli` alone turns an error into text and an exit code.
"""

import shlex
from collections.abc import Sequence
from typing import ClassVar, Self


class SameCommand(str):
    """A hint: the command that was run, once more, with `options`.

    Its text is for callers that have no command line. Whoever knows one prints `with_options` of it.
    """

    __slots__ = ("options",)
    options: tuple[str, ...]

    def __new__(cls, text: str, *options: str) -> Self:
        """Make the hint; `text` describes it."""
        hint = super().__new__(cls, text)
        hint.options = options
        return hint

    def with_options(self, words: Sequence[str], position: int) -> str:
        """The command to paste: `words` (after `apexgpu`) with the options at `position`.

        Values of variables (`run --env TOKEN=…`) may be secrets, so a command with any is not repeated.
        """
        if any(word.partition("=")[0] == "--env" for word in words):
            return shlex.join(["apexgpu", *words[:position], "--help"])
        missing = [option for option in self.options if option not in words]
        return shlex.join(["apexgpu", *words[:position], *missing, *words[position:]])


class ApexError(Exception):
    """A failure with a message, an optional hint, a stable `code` for JSON, and an exit code."""

    exit_code: ClassVar[int] = 1
    code: str = "failed"

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def with_message(self, message: str, *, hint: str | None) -> Self:
        """The same failure (class, code, all other attributes) with another message and hint."""
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.args = (message,)
        copy.message = message
        copy.hint = hint
        return copy


# Exit code 2: wrong use or configuration


class UsageError(ApexError):
    """The command line or a setting makes no sense."""

    exit_code = 2
    code = "usage"


class UnknownHostError(UsageError):
    """A host name or glob that matches no host that IAM lists."""

    code = "unknown_host"


class ConfigError(UsageError):
    """A settings or ssh config file, or a reply that would be written into one, is not usable."""

    code = "config"


class ConfigPermissionsError(ConfigError):
    """ssh does not read a config file, because of its owner or its permissions."""

    code = "config_permissions"


class NoLocalUserError(UsageError):
    """The account that apexgpu runs under is unknown to this machine, and ssh does not run without one."""

    code = "no_local_user"


# Exit code 4: login needed or refused


class LoginError(ApexError):
    """A login is needed, or was refused."""

    exit_code = 4
    code = "login"


class UnknownUserError(LoginError):
    """The lab's domain has no user of this name."""

    code = "unknown_user"


class PasswordError(LoginError):
    """IAM refused the domain password, or the password is empty."""

    code = "password"


class HostKeyError(LoginError):
    """A server showed a host key that differs from the known one. No connection was made."""

    code = "host_key_changed"


class RevokedHostKeyError(HostKeyError):
    """A server showed a host key that is marked as revoked. No connection was made."""

    code = "host_key_revoked"


class TooManyKeysError(LoginError):
    """The server disconnected after too many keys of the ssh-agent, before it saw the right one."""

    code = "too_many_keys"


class LocalKeyError(LoginError):
    """A login failed because of the user's own key or agent: the server did not refuse anything."""


class NothingOfferedError(LocalKeyError):
    """No key was offered to the server, so that it could not accept one."""

    code = "no_key"


class KeyUnreadableError(LocalKeyError):
    """ssh cannot use the file of the key: no permission, too open, or not a key."""

    code = "key_unreadable"


class AgentRefusedError(LocalKeyError):
    """The server would accept a key of the ssh-agent, but the agent did not sign with it."""

    code = "agent_refused"


# Exit code 5: unreachable or too slow


class UnreachableError(ApexError):
    """No reply, or none in time."""

    exit_code = 5
    code = "unreachable"
    may_be_network: ClassVar[bool] = False
    """Whether a laptop that is not on the lab's network sees this error."""


class PortRefusedError(UnreachableError):
    """The machine answers, but nothing listens on the port (ECONNREFUSED)."""

    code = "connection_refused"


class NoRouteError(UnreachableError):
    """A router reports that it cannot reach the address (EHOSTUNREACH)."""

    code = "no_route"
    may_be_network = True


class NoNetworkError(UnreachableError):
    """This machine has no route to the network (ENETUNREACH), for example because the VPN is down."""

    code = "no_network"
    may_be_network = True


class UnknownNameError(UnreachableError):
    """A host name cannot be resolved."""

    code = "no_name"
    may_be_network = True


class ConnectTimeoutError(UnreachableError):
    """The server did not accept the connection and the login in time."""

    code = "timeout"
    may_be_network = True


class StalledLoginError(ConnectTimeoutError):
    """The server answered, and then did not finish the login, or did not open the session after it, in time."""

    may_be_network = False


class IamUnreachableError(UnreachableError):
    """IAM does not answer, or its address leads nowhere."""

    may_be_network = True


class SlowConfigError(UnreachableError):
    """ssh takes too long to read its configuration: a `Match exec` runs a program."""

    code = "config_slow"


class SilentAgentError(UnreachableError):
    """The ssh-agent does not answer, and no other key is accepted."""

    code = "agent_silent"


class ProxyError(UnreachableError):
    """The proxy command or the jump host failed, so that the server was never reached."""

    code = "proxy"


class PenalizedError(UnreachableError):
    """The server refuses connections from this address for a while, because of earlier ones."""

    code = "penalized"


class ConnectionClosedError(UnreachableError):
    """The server closed the connection before the command was sent."""

    code = "closed"


class ProgramTimeoutError(UnreachableError):
    """A local program did not end in time."""

    code = "timeout"


class DroppedError(UnreachableError):
    """A command was sent and no exit status came back; it may still be running.

    `seen` is its output until then, `err` its stderr where that is known.
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


class ConnectionLostError(DroppedError):
    """The connection ended while the command ran."""


class CommandTimeoutError(DroppedError):
    """The command did not finish in time."""

    code = "timeout"


class UnansweredError(DroppedError):
    """An open connection took the command and never confirmed it, so it may not have started."""

    code = "unanswered"


class CommandKilledError(DroppedError):
    """A signal ended the command in the container; the connection stayed open."""

    code = "killed"


class CommandLeftError(ApexError):
    """Processes of a command in a container did not end when they were told to."""

    code = "still_running"


# Exit code 6: the server refused, or a precondition is missing


class RefusedError(ApexError):
    """The server refused, or something that is needed first is missing."""

    exit_code = 6
    code = "refused"


class UnexpectedError(RefusedError):
    """A reply, a file or a part of one is not understood. The message quotes what was not."""

    code = "unexpected"


class TooMuchOutputError(RefusedError):
    """A reply is larger than any reply of its kind can be. Reading it was stopped."""

    code = "too_much_output"


class NotRegisteredError(RefusedError):
    """The user has no account on this host, or the public key has not arrived there yet."""

    code = "not_registered"


class RegisterKeyError(RefusedError):
    """The shared `register` account does not accept our key: another user's login replaced it."""

    code = "register_key"


class UnknownCommandError(RefusedError):
    """The manage shell of this host does not know the command (an older host)."""

    code = "unknown_command"


class UnsafeArgumentError(RefusedError):
    """An argument contains characters that are not safe to send to a manage shell. Nothing was sent."""

    code = "word"


class IamDownError(RefusedError):
    """The host cannot ask IAM for the user's port, and therefore refuses every command."""

    code = "iam_down"


class StoppedError(RefusedError):
    """The container is stopped."""

    code = "stopped"


class HalfMadeError(RefusedError):
    """A registration was interrupted: the account has an ordinary shell, and no manage shell."""

    code = "half_made"


class RunningError(RefusedError):
    """The container is running, and the command needs a stopped one."""

    code = "running"


class NoRootfsError(RefusedError):
    """The container has no root file system."""

    code = "no_rootfs"


class StartFailedError(RefusedError):
    """The container does not start."""

    code = "start_failed"


class NoForwardError(RefusedError):
    """The container runs, but the host does not forward its SSH port."""

    code = "no_forward"


class TokenError(RefusedError):
    """The confirmation token of a manage command is not valid any more."""

    code = "token"


class NoSnapshotError(RefusedError):
    """There is no snapshot at this path, or none at all."""

    code = "no_snapshot"


# Exit code 1: everything else


class BugError(ApexError):
    """A failure that no module expected: a bug of apexgpu. `__cause__` is the exception behind it."""

    code = "bug"


class BadSnapshotError(ApexError):
    """A snapshot was written, but it is incomplete or damaged."""

    code = "snapshot_bad"


# Exit codes 7 and 127


class DeclinedError(ApexError):
    """The user declined a prompt, or there was no terminal to ask on."""

    exit_code = 7
    code = "declined"


class WrongPassphraseError(DeclinedError):
    """The passphrase that was entered does not open the key file."""

    code = "passphrase"


class MissingProgramError(ApexError):
    """A program that must be installed on this machine is missing."""

    exit_code = 127
    code = "missing_program"
