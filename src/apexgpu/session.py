"""What one run of the program needs, each part made when it is first asked for."""

import contextlib
import fnmatch
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from apexgpu import account as accounts
from apexgpu import questions
from apexgpu import settings as all_settings
from apexgpu.account import Account
from apexgpu.errors import (
    ApexError,
    DeclinedError,
    LoginError,
    SameCommand,
    UnknownHostError,
    UsageError,
)
from apexgpu.models import Host, Target
from apexgpu.platforms.system import current, is_windows
from apexgpu.process import LocalRunner, Runner
from apexgpu.questions import Question
from apexgpu.reporter import Reporter, with_ordinary_letters
from apexgpu.settings import Settings

if TYPE_CHECKING:
    from apexgpu.iam.hostlist import Network
    from apexgpu.models import Reply
    from apexgpu.secret import Secret
    from apexgpu.ssh.route import Route
    from apexgpu.ssh.transport import Client, Connections, OnLogin, UsedKey
    from apexgpu.sshfiles.agentquery import AgentReply, Agents


_KEYCHAIN_LIMIT = 5.0  # seconds


@dataclass
class Passphrases:
    """The passphrases of key files that this run has been told, so that nobody is asked twice. In memory only."""

    by_path: "dict[Path, Secret]" = field(default_factory=dict)

    def remember(self, path: Path, passphrase: "Secret") -> None:
        """Keep the passphrase of the key file `path` until the program ends."""
        self.by_path[path] = passphrase

    def get(self, path: Path) -> str | None:
        """The passphrase of the key file `path`; None if nobody has typed it yet."""
        known = self.by_path.get(path)
        return known.reveal() if known is not None else None


@dataclass(frozen=True)
class Session:
    """What one run of the program needs: settings, account, hosts, connections, and the reporter.

    A session's settings never change. The `with_...` methods return a changed copy, for the commands that settle
    something for the work after them, such as `login`. Whatever costs time is made when it is first asked for.
    What happens during the run (`passphrases`, `used_keys`, `_chosen`, `_agents`) is recorded in objects that all
    copies share.

    `flags` are the settings from the command line, by their names in `settings.Settings`. `yes` and `accept_new` are
    the options of these names. `pause` waits some seconds between two looks at something that takes its time.
    `make_transport` connects to the hosts. `used_keys` are the keys with which new connections of this run logged in.
    Tests put their own parts in.
    """

    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    reporter: Reporter = field(default_factory=Reporter)
    runner: Runner = field(default_factory=LocalRunner)
    flags: Mapping[str, str] = field(default_factory=dict)
    yes: bool = False
    accept_new: bool = False
    passphrases: Passphrases = field(default_factory=Passphrases)
    pause: Callable[[float], None] = time.sleep
    make_transport: "Callable[[Session], Connections]" = field(default_factory=lambda: connections)
    settled_account: Account | None = None
    settled_hosts: tuple[Host, ...] | None = None
    settled_iam_url: str | None = None
    used_keys: "dict[Target, UsedKey]" = field(default_factory=dict)
    _chosen: list[Host] = field(default_factory=list)
    _agents: "list[Agents]" = field(default_factory=list)

    def with_flags(self, **flags: str) -> "Session":
        """A session with these settings, as if they had been given on the command line."""
        return replace(self, flags={**self.flags, **flags})

    def with_hosts(self, hosts: Sequence[Host]) -> "Session":
        """A session that knows `hosts`, as IAM has just listed them."""
        return replace(self, settled_hosts=tuple(hosts))

    def with_iam_url(self, url: str) -> "Session":
        """A session for which IAM answers at `url`."""
        return replace(self, settled_iam_url=url)

    def remember(self, account: Account) -> "Session":
        """Save what a login has settled; a session that knows it."""
        accounts.save(self.state_dir, account)
        return replace(self, settled_account=account)

    @cached_property
    def account(self) -> Account:
        """What the last login settled."""
        if self.settled_account is not None:
            return self.settled_account
        return accounts.load(all_settings.state_directory(self.flags, self.environment))

    @cached_property
    def settings(self) -> Settings:
        """Every setting with its source."""
        return all_settings.load(self.flags, self.environment, self.account.as_settings())

    @property
    def is_chinese(self) -> bool:
        """Whether errors and questions have a Chinese line."""
        try:
            language = self.settings.language
        except Exception:
            # The error that is about to be shown is this one: it must not be replaced by another.
            language = "auto"
        return all_settings.is_chinese(language, self.environment)

    @property
    def state_dir(self) -> Path:
        """Where apexgpu remembers things."""
        return self.settings.state_dir

    @property
    def chosen(self) -> tuple[Host, ...]:
        """The hosts that the command line named, as far as they have been looked up."""
        return tuple(self._chosen)

    @property
    def user(self) -> str:
        """The account name; LoginError while there is none."""
        if not self.settings.user:
            raise LoginError("apexgpu does not know who you are yet", hint="apexgpu login")
        return self.settings.user

    @cached_property
    def known_hosts(self) -> tuple[Host, ...]:
        """Every host: as the last login saved them, or from IAM where none has."""
        if self.settled_hosts is not None:
            return self.settled_hosts
        found = self.account
        if found.hosts and found.user == self.user:
            return found.hosts
        from apexgpu.iam import hostlist
        from apexgpu.iam.client import IamClient

        with self.reporter.working("asking IAM for the hosts"):
            body = IamClient(self.iam_url, timeout=self.settings.timeout).config(self.user)
        return hostlist.parse(body, user=self.user, networks=self.networks)

    @property
    def networks(self) -> "Sequence[Network]":
        """Where the lab's addresses may be."""
        from apexgpu.iam.hostlist import NETWORKS

        return self.settings.networks or NETWORKS

    @cached_property
    def iam_url(self) -> str:
        """Where IAM answers. Consent to plain http is asked for in `credentials` only."""
        if self.settled_iam_url is not None:
            return self.settled_iam_url
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
        hosts = [host for host in known if host.name in chosen]
        self._chosen[:] = hosts
        return hosts

    def one_host(self, name: str, *, several: str) -> Host:
        """The host called `name`. UsageError for a glob that matches more than one.

        `several` is the hint then: a command, in which HOST stands for the first of them.
        """
        hosts = self.hosts([name])
        if len(hosts) > 1:
            message = f"{name} matches {len(hosts)} hosts, and this needs one"
            raise UsageError(message, hint=several.replace("HOST", hosts[0].name))
        return hosts[0]

    def some_hosts(self, patterns: Sequence[str], everything: bool) -> list[Host]:
        """As `hosts`, for commands that change something: none named is an error, not all."""
        if not patterns and not everything:
            raise UsageError(
                "no host was named: name hosts, a glob such as 'gpu1?', or --all",
                hint="apexgpu status",
            )
        return self.hosts(patterns, everything=everything)

    @cached_property
    def transport(self) -> "Connections":
        """The way to the hosts."""
        return self.make_transport(self)

    @property
    def agents(self) -> "Agents":
        """The ssh-agents, each asked once in this run. One that does not answer is reported once."""
        if not self._agents:
            from apexgpu.sshfiles.agentquery import Agents

            self._agents.append(
                Agents(on_silent=self._report_silent_agent, load_keys=self._load_keychain)
            )
        return self._agents[0]

    def _load_keychain(self) -> bool:
        """Add the keys whose passphrases macOS keeps to its agent, as after a restart; whether that was tried."""
        from apexgpu.platforms import keychain

        command = keychain.load_command(current())
        if not command:
            return False
        with contextlib.suppress(ApexError):
            self.runner.run(command, timeout=_KEYCHAIN_LIMIT)
        return True

    def _report_silent_agent(self, reply: "AgentReply") -> None:
        from apexgpu.sshfiles.agentquery import silent_agent_fact

        message = f"{silent_agent_fact(reply)}; continuing without it"
        self.reporter.warn(message, hint="ssh-add -l")

    @property
    def hosts_known_so_far(self) -> tuple[Host, ...]:
        """The hosts that can be listed without asking IAM; maybe none."""
        return self.settled_hosts or self.account.hosts or self.__dict__.get("known_hosts", ())

    def confirm(self, question: Question, *, option: str = "--yes") -> None:
        """Go on only when the user, or --yes, says so; DeclinedError otherwise."""
        if self.yes:
            return
        asked = question.english.rstrip("?")
        if not self.reporter.can_ask:
            message = f"{asked}: this needs an answer, and there is no terminal to ask at"
            raise DeclinedError(
                message, hint=SameCommand(f"add {option}", option), code="no_terminal"
            )
        if not self.reporter.confirm(question):
            raise DeclinedError(
                self.declined(asked),
                hint=SameCommand(f"to go ahead without being asked, add {option}", option),
            )

    def declined(self, asked: str) -> str:
        """The message after a "no": what was done until then, and what was not."""
        if not self.reporter.completed:
            return "nothing was changed"
        return f"not done: {asked[:1].lower()}{asked[1:]}; {self.reporter.outcome_so_far()}"

    def confirm_name(self, name: str, effect: Question) -> None:
        """Go on only when the user types `name`, or --yes stands for it; DeclinedError otherwise."""
        if self.yes:
            return
        if not self.reporter.can_ask:
            message = (
                f"{effect.english}: this needs {name} to be typed, and there is no terminal to type "
                "it at; --yes stands for it"
            )
            # Not with --yes: what cannot be undone is not one paste away.
            hint = SameCommand("run it again in a terminal, or add --yes", "--help")
            raise DeclinedError(message, hint=hint, code="no_terminal")
        question = Question(
            questions.TYPE_NAME.fill(effect=effect.english, name=name).english,
            questions.TYPE_NAME.fill(effect=effect.chinese, name=name).chinese,
        )
        typed = self.reporter.ask(question)
        if with_ordinary_letters(typed) != name:
            outcome = self.reporter.outcome_so_far()
            message = f"{typed!r} was typed, not {name}: {outcome}" if typed else outcome
            hint = SameCommand(f"to go ahead, run it again and type {name}")
            raise DeclinedError(message, hint=hint)


def connections(session: Session) -> "Connections":
    """Connections to the hosts, as the session's settings say."""
    from apexgpu.ssh.transport import Connections, Limits

    config = session.settings.ssh_config
    timeout = session.settings.timeout
    open_connections = None
    if session.settings.keep_connections and not is_windows():
        from apexgpu.ssh.controlmaster import ControlMasters

        def agent_options(target: Target) -> Sequence[str]:
            from apexgpu.ssh import (
                silentagent,
            )  # a command over an open connection does not need it

            return silentagent.options(session.transport.route(target), session.agents)

        open_connections = ControlMasters(config, session.runner, agent_options=agent_options)

    def is_manage_reply(reply: "Reply") -> bool:
        from apexgpu.manageshell.replies import is_manage_shell  # `ssh` does not need it

        return is_manage_shell(reply)

    limits = Limits(connect=timeout, total=max(timeout, 10))
    return Connections(
        config,
        session.runner,
        _Clients(session).client_for,
        open_connections,
        limits,
        is_manage_reply,
    )


class _Clients:
    """The client for new connections. It is imported with the first of them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()  # many threads ask at once, and the client is made once
        self._asking = threading.Lock()
        self._declined: set[Path] = set()

    def client_for(self, _route: "Route") -> "Client":
        """The client for a route."""
        with self._lock:
            return self._client

    @cached_property
    def _client(self) -> "Client":
        from apexgpu.ssh.confirmation import ConfirmingClient
        from apexgpu.ssh.history import FILE_NAME, ConnectionHistory
        from apexgpu.ssh.identities import Identities
        from apexgpu.ssh.opensshclient import OpenSshClient
        from apexgpu.ssh.paramikoclient import ParamikoClient

        session = self._session
        account = session.account
        preferred = Path(account.identity_file) if account.identity_file else None
        identity = f"{account.identity_file}\0{account.fingerprint}"
        history = ConnectionHistory(session.state_dir / FILE_NAME, identity)
        identities = Identities(
            preferred=preferred,
            fingerprint=account.fingerprint,
            passphrase=self._passphrase,
            agents=session.agents,
        )
        openssh = OpenSshClient(
            session.runner,
            session.settings.ssh_config,
            preferred=preferred,
            agents=session.agents,
            history=history,
            on_login=self._note_login,
            passphrase=self._passphrase,
        )

        def make_paramiko(on_login: "OnLogin") -> ParamikoClient:
            return ParamikoClient(identities, history=history, on_login=on_login)

        return ConfirmingClient(
            make_paramiko, openssh, history, identity=identity, on_login=self._note_login
        )

    def _note_login(self, route: "Route", key: "UsedKey") -> None:
        self._session.used_keys[route.target] = key

    def _passphrase(self, path: Path) -> str | None:
        """The passphrase of a key file. Many threads ask at once, and the user is asked once in this run."""
        from apexgpu.secret import Secret

        with self._asking:
            known = self._session.passphrases.get(path)
            if known is not None or path in self._declined or not self._session.reporter.can_ask:
                return known
            entered = self._session.reporter.secret(questions.PASSPHRASE.fill(path=path))
            if not entered:
                self._declined.add(path)
                return None
            self._session.passphrases.remember(path, Secret(entered))
            return entered


def _unknown(pattern: str, names: Sequence[str]) -> UnknownHostError:
    import difflib

    message = f"there is no host {pattern}"
    if set(pattern) & set("*?["):
        message = f"no host matches {pattern}"
    if not names:
        return UnknownHostError(message, hint="apexgpu config sync")
    similar = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5) or names[:3]
    suggestions = ", ".join(similar)
    return UnknownHostError(f"{message}; did you mean {suggestions}?", hint="apexgpu status")
