"""What the command line has said so far: the parser fills it in, and the command takes its session from it."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from apexgpu.session import Session

if TYPE_CHECKING:
    from apexgpu.render.screen import Screen


@dataclass
class Invocation:
    """One run of the command line. `base` is the session without its options, `screen` where its result goes."""

    base: Session
    screen: "Screen"
    flags: dict[str, str] = field(default_factory=dict)
    yes: bool = False
    accept_new: bool = False
    debug: bool = False

    @cached_property
    def session(self) -> Session:
        """The session for the command. Ask for it when all options are read."""
        return replace(
            self.base,
            flags={**self.base.flags, **self.flags},
            yes=self.base.yes or self.yes,
            accept_new=self.base.accept_new or self.accept_new,
        )
