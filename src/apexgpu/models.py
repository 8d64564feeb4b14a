"""The values that the packages pass to each other: frozen data, without input or output."""

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from apexgpu.errors import ApexError

T = TypeVar("T")

Role = Literal["manage", "container", "register"]
"""The three logins of a host: the manage shell, the user's container, and the account that registers users."""

Verdict = Literal["ok", "note", "problem", "broken", "busy", "slow", "unknown", "skipped"]


@dataclass(frozen=True, slots=True)
class Host:
    """A GPU server, as IAM lists it.

    `port` is the SSH port of the user's container, None until IAM assigns one. `manage_port` is the SSH port of the
    physical host.
    """

    name: str
    address: str
    user: str
    port: int | None = None
    manage_port: int = 22

    @property
    def manage_name(self) -> str:
        """The ssh name of the physical host."""
        return f"{self.name}-manage"


@dataclass(frozen=True, slots=True)
class Target:
    """One login: a host and the role that it is used in."""

    host: Host
    role: Role

    @property
    def alias(self) -> str:
        """The name that `ssh` is called with."""
        return self.host.name if self.role == "container" else self.host.manage_name

    @property
    def user(self) -> str:
        """The account to log in as."""
        return "register" if self.role == "register" else self.host.user

    @property
    def port(self) -> int:
        """The TCP port; 0 for a container that has none yet."""
        if self.role == "container":
            return self.host.port or 0
        return self.host.manage_port


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of a remote command: exit status, stdout and stderr as text.

    `is_cut`: it printed more than is kept, and a line in its output says how much is left out.
    """

    code: int
    out: str
    err: str = ""
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    """A container, as the manage shell's `lxc-info` describes it. Memory in bytes, None if it is not known.

    `unread` are the lines of the description that are not understood.
    """

    state: str
    pid: int | None = None
    addresses: tuple[str, ...] = ()
    memory: int | None = None
    unread: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        """Whether the container is up."""
        return self.state == "RUNNING"


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """The result of one host among many: a value, or the error that prevented it."""

    host: Host
    value: T | None = None
    error: ApexError | None = None

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return self.error is None


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: a verdict, the fact behind it, a command to paste, and a code for scripts."""

    check: str
    verdict: Verdict
    fact: str
    hint: str | None = None
    code: str | None = None

    @classmethod
    def ok(cls, check: str, fact: str) -> "Finding":
        """Return the finding that all is well."""
        return cls(check, "ok", fact)

    @classmethod
    def note(
        cls, check: str, fact: str, hint: str | None = None, *, code: str | None = None
    ) -> "Finding":
        """Return a finding that the user may want to know, but that breaks nothing."""
        return cls(check, "note", fact, hint, code)

    @classmethod
    def problem(
        cls, check: str, fact: str, hint: str | None = None, *, code: str | None = None
    ) -> "Finding":
        """Return a finding that something is broken; `hint` is the command that repairs it."""
        return cls(check, "problem", fact, hint, code)

    @classmethod
    def broken(
        cls, check: str, fact: str, hint: str | None = None, *, code: str | None = None
    ) -> "Finding":
        """Return a finding that a link of a chain is broken, so that all after it fail."""
        return cls(check, "broken", fact, hint, code)

    @classmethod
    def unknown(
        cls, check: str, fact: str, hint: str | None = None, *, code: str | None = None
    ) -> "Finding":
        """Return a finding that the check could not be made."""
        return cls(check, "unknown", fact, hint, code)

    @classmethod
    def skipped(cls, check: str) -> "Finding":
        """Return a finding for a link of a chain that comes after a broken one."""
        return cls(check, "skipped", "it needs what is broken above")

    @classmethod
    def from_error(cls, check: str, error: ApexError) -> "Finding":
        """Return the problem that `error` describes."""
        return cls(check, "problem", error.message, error.hint, error.code)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key of an authorized_keys line: type, base64 blob, comment, and the options before it."""

    kind: str
    blob: str
    comment: str = ""
    options: str = ""

    @property
    def line(self) -> str:
        """The line of an authorized_keys file."""
        parts = (self.options, self.kind, self.blob, self.comment)
        return " ".join(part for part in parts if part)
