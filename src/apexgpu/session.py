"""What a command may reach for, each built when it is first asked for. Tests put their own parts in."""

import fnmatch
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from apexgpu import account as accounts
from apexgpu import settings as all_settings
from apexgpu.account import Account
from apexgpu.errors import DeclinedError, LoginError, UnknownHostError, UsageError
from apexgpu.models import Host
from apexgpu.process import LocalRunner, Runner
from apexgpu.render import Screen
from apexgpu.settings import Settings

if TYPE_CHECKING:
    from apexgpu.iam.hostlist import Network
    from apexgpu.secret import Secret
    from apexgpu.ssh.route import Route
    from apexgpu.ssh.transport import Connections, Link


@dataclass
class Session:
    """One run of the program: its flags, settings, screen, and ways into the world.

    `passphrases` are those of key files that this run has been told: nobody is asked twice. `chosen` are the hosts
    that its words stood for.
    """

    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    screen: Screen = field(default_factory=Screen)
    runner: Runner = field(default_factory=LocalRunner)
    flags: dict[str, str] = field(default_factory=dict)
    yes: bool = False
    debug: bool = False
    accept_new: bool = False
    passphrases: "dict[Path, Secret]" = field(default_factory=dict)
    pause: Callable[[float], None] = time.sleep
    chosen: tuple[Host, ...] = ()
    _choosing: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def account(self) -> Account:
        """What the last login left behind."""
        return accounts.load(all_settings.state_directory(self.flags, self.environment))

    @cached_property
    def settings(self) -> Settings:
        """Every setting with its source."""
        return all_settings.load(self.flags, self.environment, self.account.remembered())

    @property
    def state_dir(self) -> Path:
        """Where apexgpu remembers things."""
        return self.settings.state_dir

    def remember(self, account: Account) -> None:
        """Keep what a login found out."""
        accounts.save(self.state_dir, account)
        self.__dict__["account"] = account

    @property
    def user(self) -> str:
        """The account name; LoginError while there is none."""
        if not self.settings.user:
            raise LoginError("apexgpu does not know who you are yet", hint="apexgpu login")
        return self.settings.user

    @cached_property
    def known_hosts(self) -> tuple[Host, ...]:
        """Every host: as remembered, or from IAM when there is no memory yet."""
        found = self.account
        if found.hosts and found.user == self.user:
            return found.hosts
        from apexgpu.iam import hostlist
        from apexgpu.iam.client import IamClient

        with self.screen.working("asking IAM for the hosts"):
            body = IamClient(self.iam_url, timeout=self.settings.timeout).config(self.user)
        return hostlist.parse(body, user=self.user, networks=self.networks)

    @property
    def networks(self) -> "Sequence[Network]":
        """Where the lab's addresses may be."""
        from apexgpu.iam.hostlist import NETWORKS

        return self.settings.networks or NETWORKS

    @cached_property
    def iam_url(self) -> str:
        """Where IAM answers. Only a request with a password in it asks about plain http (see commands.account)."""
        from apexgpu.iam.finding import find_iam

        return find_iam(self.settings.iam_url, lambda _url: True, timeout=self.settings.timeout)

    def hosts(self, patterns: Sequence[str], *, everything: bool = False) -> list[Host]:
        """The hosts that names and globs stand for, in IAM's order, each once."""
        known = self.known_hosts
        if everything or (not patterns):
            return list(known)
        chosen: dict[str, Host] = {}
        for pattern in patterns:
            matches = [host for host in known if fnmatch.fnmatchcase(host.name, pattern)]
            if not matches:
                raise _unknown(pattern, [host.name for host in known])
            chosen |= {host.name: host for host in matches}
        self.chosen = tuple(host for host in known if host.name in chosen)
        return list(self.chosen)

    def some_hosts(self, patterns: Sequence[str], everything: bool) -> list[Host]:
        """As `hosts`, for commands that change something: none named is an error, not all."""
        if not patterns and not everything:
            raise UsageError(
                "no host was named", hint="name hosts, a glob such as 'gpu1?', or --all"
            )
        return self.hosts(patterns, everything=everything)

    @cached_property
    def transport(self) -> "Connections":
        """The way to the servers."""
        from apexgpu.ssh.transport import Connections, Limits

        config = self.settings.ssh_config
        timeout = self.settings.timeout
        warm = None
        if self.settings.keep_connections and sys.platform != "win32":
            from apexgpu.ssh.mux import OpenMasters

            warm = OpenMasters(config, self.runner)
        return Connections(
            config, self.runner, self._link, warm, Limits(connect=timeout, total=max(timeout, 10))
        )

    def _link(self, route: "Route") -> "Link":
        """paramiko, or OpenSSH where only that can go: imported when the first cold connection is made."""
        with self._choosing:
            return self._openssh if route.needs_openssh else self._paramiko

    @cached_property
    def _openssh(self) -> "Link":
        from apexgpu.ssh.openssh_link import OpenSSHLink

        return OpenSSHLink(self.runner, self.settings.ssh_config)

    @cached_property
    def _paramiko(self) -> "Link":
        from apexgpu.ssh.identities import Identities
        from apexgpu.ssh.paramiko_link import ParamikoLink

        identity = self.account.identity_file
        identities = Identities(
            preferred=Path(identity) if identity else None,
            fingerprint=self.account.fingerprint,
            passphrase=self._passphrase,
        )
        return ParamikoLink(identities)

    def _passphrase(self, path: Path) -> str | None:
        if path in self.passphrases:
            return self.passphrases[path].reveal()
        if not self.screen.can_ask:
            return None
        return (
            self.screen.secret(f"Passphrase for {path} (ssh-add {path} would spare you this)")
            or None
        )

    def open_page(self, url: str, *, secret: bool = False) -> None:
        """Show `url` in the user's browser; where there is none, say so. A `secret` one stays out of its argv."""
        import webbrowser

        from apexgpu.forwarding import onetimelink

        if not (onetimelink.open_once(url, webbrowser.open) if secret else webbrowser.open(url)):
            self.screen.note(f"no browser could be started; open it yourself: {url}")

    def confirm(self, question: str, *, option: str = "--yes") -> None:
        """Go on only when the user, or --yes, says so; DeclinedError otherwise."""
        if self.yes:
            return
        if not self.screen.can_ask:
            message = (
                f"{question.rstrip('?')}: this needs an answer, and there is no terminal to ask at"
            )
            raise DeclinedError(message, hint=f"add {option}", code="no_terminal")
        if not self.screen.confirm(question):
            raise DeclinedError(
                "nothing was changed", hint=f"to go ahead without being asked, add {option}"
            )

    def confirm_name(self, name: str, question: str) -> None:
        """Go on only when the user types `name`, or --yes stands for it; DeclinedError otherwise."""
        if self.yes:
            return
        if not self.screen.can_ask:
            message = (
                f"{question}: this needs {name} to be typed, and there is no terminal to type it at"
            )
            raise DeclinedError(message, hint="add --yes", code="no_terminal")
        if (typed := self.screen.ask(f"{question}. Type {name} to go ahead")) != name:
            message = (
                f"{typed!r} was typed, not {name}: nothing was changed"
                if typed
                else "nothing was changed"
            )
            raise DeclinedError(message, hint=f"to go ahead, run it again and type {name}")


def _unknown(pattern: str, names: Sequence[str]) -> UnknownHostError:
    import difflib

    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5) or list(names[:3])
    what = "no host matches" if set(pattern) & set("*?[") else "there is no host"
    hint = f"did you mean {', '.join(near)}?" if near else "apexgpu config sync"
    return UnknownHostError(
        f"{what} {pattern}", hint=f"{hint}   (all of them: apexgpu status)" if near else hint
    )
