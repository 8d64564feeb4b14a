"""The login on this laptop: log in, log out, and who you are.

    from apexgpu import login
    from apexgpu.session import Session

    result = login.login(Session(), "alice")
    print(result.user, result.key.path)

"Log in" means: IAM knows the laptop's public key and pushes it to the hosts, the ssh config has the
lab's hosts, and the account is remembered. Nothing stays logged in anywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import ClassVar

from apexgpu import account as accounts
from apexgpu import containers, credentials, keys, manyhosts, questions, sshconfig
from apexgpu.credentials import NO_OPTIONS, PasswordOptions
from apexgpu.errors import ConfigError, DeclinedError, LoginError, UnreachableError, UsageError
from apexgpu.iam.client import IamClient, valid_user
from apexgpu.iam.passwordsource import PasswordSource
from apexgpu.iam.publickeys import add_key, fingerprint
from apexgpu.iam.publish import KeyPublisher
from apexgpu.iam.pushlog import PushLog
from apexgpu.manageshell import manage
from apexgpu.models import Host, Outcome, Target
from apexgpu.results import HostResults, JsonObject, Result
from apexgpu.secret import Secret
from apexgpu.session import Session
from apexgpu.ssh.failures import UnknownHostKeyError
from apexgpu.ssh.transport import UsedKey
from apexgpu.sshfiles import configfile, pinnedkeys
from apexgpu.sshfiles.agent import add_to_agent
from apexgpu.sshfiles.agentquery import DEFAULT_AGENT
from apexgpu.sshfiles.keyfiles import why_not_usable
from apexgpu.sshfiles.keys import KeyPair, generate, load
from apexgpu.sshfiles.offeredkeys import OfferedKeys, find_keys_of_others
from apexgpu.sshfiles.userkeys import FoundKeys, KnownKey, ask_agents, find_keys
from apexgpu.text import counted


@dataclass(frozen=True)
class KeyOnHost:
    """Whether a host accepts the laptop's key; None if neither the host nor IAM's log says so.

    `other_key`: the host accepted another key of the user's, so the user is registered there.
    """

    accepted: bool | None
    other_key: bool = False

    def to_json(self) -> JsonObject:
        """Its keys in a host's row."""
        return {"key_accepted": self.accepted}


@dataclass(frozen=True)
class KeyOnHosts(HostResults[KeyOnHost]):
    """Which hosts accept the laptop's key."""

    missing: ClassVar[JsonObject] = {"key_accepted": None}


@dataclass(frozen=True)
class Login(Result):
    """What `login` returns.

    `changed` is whether IAM or the ssh config had to be changed. `registered` are the hosts of
    `--register`, None if there were none.
    """

    user: str
    iam_url: str
    changed: bool
    key: KeyPair
    hosts: KeyOnHosts
    registered: containers.Registrations | None = None

    @property
    def exit_code(self) -> int:
        """That of the registrations. A host that cannot be reached does not make a login fail."""
        return self.registered.exit_code if self.registered else 0

    def to_json(self) -> JsonObject:
        """A host's row says whether it accepts the key and, after `--register`, how that went."""
        rows: dict[str, JsonObject] = {}
        for outcome in self.hosts.outcomes:
            rows[outcome.host.name] = self.hosts.row(outcome)
        if self.registered is not None:
            for made in self.registered.outcomes:
                rows[made.host.name] |= self.registered.row(made)
        return {
            "ok": self.ok,
            "user": self.user,
            "iam_url": self.iam_url,
            "changed": self.changed,
            "key": {
                "fingerprint": fingerprint(self.key.public),
                "path": str(self.key.path) if self.key.path else None,
            },
            "hosts": list(rows.values()),
        }


@dataclass(frozen=True)
class Logout(Result):
    """What `logout` returns: whether there was anything to end, forget or remove."""

    changed: bool

    def to_json(self) -> JsonObject:
        """`changed`."""
        return {"ok": True, "changed": self.changed}


@dataclass(frozen=True)
class Identity(Result):
    """What `whoami` returns. `port` is the SSH port of the user's containers on every host."""

    user: str
    name: str | None
    port: int
    iam_url: str
    keys: tuple[KnownKey, ...]

    def to_json(self) -> JsonObject:
        """All of it, with a row for each key."""
        return {
            "ok": True,
            "user": self.user,
            "name": self.name,
            "port": self.port,
            "iam_url": self.iam_url,
            "keys": [key.to_json() for key in self.keys],
        }


# Logging in


def login(
    session: Session,
    user: str | None = None,
    *,
    iam_url: str | None = None,
    key: Path | None = None,
    register: Sequence[str] = (),
    register_all: bool = False,
    password: PasswordOptions = NO_OPTIONS,
) -> Login:
    """Send a public key to IAM, write the lab's hosts into the ssh config, and try the key on each host.

    A second call changes nothing. Without `user`, the settings name the account, or the user is
    asked. `key` is a key file to use instead of the best one found. `register` are host names or
    globs to register on afterwards (`register_all`: every host).

    Raises LoginError (unknown user, refused password), RefusedError or UnreachableError (IAM),
    DeclinedError (a question was declined), ConfigError (the ssh config or the key is unusable).
    """
    session = _settle_user(session, user, iam_url)
    session, client = credentials.password_client(session, password)
    # Whatever can fail without the password comes first: nothing has been made or sent then.
    with session.reporter.working("asking IAM for the hosts"):
        client.open_page(session.user)
        hosts = sshconfig.fetch_hosts(session, client)
        stored = client.stored_keys(session.user)
    session = session.with_hosts(hosts)
    to_register = _hosts_to_register(session, register, register_all)
    configfile.read_config(session.settings.ssh_config)  # raises if it cannot be used

    pair = _choose_key(session, hosts, key, stored)
    passwords = credentials.password_source(session, password)
    publisher = credentials.key_publisher(
        session, client, lambda keys: add_key(keys, pair.public), passwords
    )
    iam = _Iam(client, publisher, passwords)
    with session.reporter.working("talking to IAM"):
        sent = credentials.publish(publisher, passwords)
    if sent:
        session.reporter.note_done("IAM has your key")
    session = _remember_login(session, pair)
    declined: DeclinedError | None = None
    written = False
    try:
        session, written = sshconfig.merge_hosts(session, hosts)
    except DeclinedError as error:
        declined = error  # the key is in IAM already, and its push has to be followed
    pushed: dict[str, bool | None] = {}
    if sent:
        pushed = _confirm_key(session, iam, hosts)
    _report_key_in_iam(session, pair, sent=sent)
    if declined is not None:
        raise _partly_declined(session, declined)
    try:
        trial = _try_key_and_send_again(session, iam, hosts, pushed, sent=sent)
    except UnknownHostKeyError as error:
        config = session.settings.ssh_config
        raise error.with_message(
            f"the host keys were not accepted, so nothing was sent to the hosts; IAM has your key,"
            f" and {config} has the hosts",
            hint="apexgpu login",
        ) from None
    session = _remember_hosts(session, trial.on_hosts, trial.sent_again_for)
    key_on_hosts = _report_key(session, trial.on_hosts.outcomes, trial.pushed)
    registered = None
    if to_register:
        registered = containers.register_on(session, to_register)
    has_changed = sent or written or bool(trial.sent_again_for)
    return Login(session.user, client.url, has_changed, pair, key_on_hosts, registered)


@dataclass(frozen=True)
class _Iam:
    """What sending a key takes: the client, the publisher of this login's key, and the password."""

    client: IamClient
    publisher: KeyPublisher
    passwords: PasswordSource


def _partly_declined(session: Session, error: DeclinedError) -> DeclinedError:
    """The error for a user who did not want the ssh config changed, after the key was sent."""
    config = session.settings.ssh_config
    done = f"IAM has your key and this laptop remembers the login, but {config} was not changed"
    hint = "apexgpu config sync"
    if not session.reporter.can_ask:
        done = f"{done}: {error.message}"
        hint = "apexgpu config sync --yes"
    return error.with_message(done, hint=hint)


def _settle_user(session: Session, user: str | None, iam_url: str | None) -> Session:
    """Return the session of the account that the argument, the settings or the user names."""
    if iam_url:
        session = session.with_flags(iam_url=iam_url)
    if user:
        session = session.with_flags(user=user)
    given = session.settings.user
    if not given:
        if not session.reporter.can_ask:
            message = "your domain account is needed, and there is no terminal to ask at"
            raise DeclinedError(message, hint="apexgpu login --help", code="no_terminal")
        given = session.reporter.ask(questions.ACCOUNT.fill())
    name = given.strip().lower()
    if name != given:
        # IAM would register `Alice` as a user of her own.
        session.reporter.note(f"Using {name}: for IAM, {given} is another user.")
    if not valid_user(name):
        message = f"{given!r} is not an account name: letters, digits, '_', '.', '-' only"
        raise UsageError(message, hint="apexgpu login --help")
    return session.with_flags(user=name)


def _hosts_to_register(session: Session, patterns: Sequence[str], every_host: bool) -> list[Host]:
    if every_host:
        return list(session.known_hosts)
    if patterns:
        return session.hosts(patterns)
    return []


def _choose_key(
    session: Session, hosts: Sequence[Host], wanted: Path | None, stored: str
) -> KeyPair:
    """Return the key `wanted`, that of the last login, the best one there is, or a new one.

    `stored` are the keys that IAM has, as authorized_keys text.
    """
    offered = keys.offered_keys(session, hosts)
    if wanted is not None:
        agent_keys, _silent = ask_agents(offered)
        # The path is remembered, so it must not depend on the working directory.
        return load(wanted.expanduser().absolute(), agent_keys, session.runner)
    pair = _key_of_last_login(session, offered)
    if pair is not None:
        return pair
    directory = keys.directory(session)
    found = find_keys(offered, directory, session.runner)
    for agent in found.silent_agents:
        session.reporter.warn(
            f"{_describe_agent(agent)} does not answer, so its keys are not considered"
        )
    found = found.without_keys_of_others(
        find_keys_of_others(session.settings.ssh_config, hosts, offered, session.runner),
        configured=offered.files,
        stored=stored,
    )
    pair = found.best(stored) or _ask_for_assigned_key(session, found)
    if pair is not None:
        return pair
    _report_unusable_files(session, offered)
    _check_no_vault(session, offered)
    return _make_key(session, directory / "id_ed25519")


def _ask_for_assigned_key(session: Session, found: FoundKeys) -> KeyPair | None:
    """Return a key that the ssh config has for another server, if the user agrees to use it for the lab."""
    if not found.assigned:
        return None
    pair, server = found.assigned[0]
    name = pair.path or fingerprint(pair.public)
    fact = f"your ssh config uses the key {name} for {server}"
    if session.reporter.can_ask and not session.yes:
        if session.reporter.confirm(questions.USE_KEY_OF_OTHERS.fill(key=name, server=server)):
            return pair
        return None
    session.reporter.warn(
        f"{fact}, so it is not used for the lab", hint=f"apexgpu login --key {name}"
    )
    return None


def _key_of_last_login(session: Session, offered: OfferedKeys) -> KeyPair | None:
    """Return the key that the last login of this account used, None if it cannot be used any more.

    Raises UnreachableError if an agent has it that does not answer.
    """
    account = session.account
    if account.user != session.user or not account.fingerprint:
        return None
    agent_keys, silent = ask_agents(offered)
    if account.identity_file:
        problem = f"{account.identity_file} contains another key now"
        try:
            pair = load(Path(account.identity_file), agent_keys, session.runner)
        except ConfigError as error:
            problem = error.message
        else:
            if fingerprint(pair.public) == account.fingerprint:
                return pair
    else:
        for key in agent_keys:
            if fingerprint(key) == account.fingerprint:
                return KeyPair(None, key, "agent", encrypted=False)
        if silent:
            raise UnreachableError(
                f"{_describe_agent(silent[0])} does not answer; it has the key"
                f" {account.fingerprint} of your last login (unlock it, and log in again)",
                hint="ssh-add -l",
            )
        problem = "ssh-agent does not have it any more"
    session.reporter.warn(
        f"the key of your last login, {account.fingerprint}, cannot be used: {problem}"
    )
    return None


def _describe_agent(agent: str) -> str:
    if agent == DEFAULT_AGENT:
        return "ssh-agent"
    return f"the agent {agent} (IdentityAgent in your ssh config)"


def _report_unusable_files(session: Session, offered: OfferedKeys) -> None:
    """Say why the key files that ssh would offer cannot be used, before a new key is made."""
    for path in offered.files:
        if path.is_file():
            reason = why_not_usable(path, session.runner)
            if reason is not None:
                session.reporter.warn(reason.message, hint=reason.hint)


def _check_no_vault(session: Session, offered: OfferedKeys) -> None:
    """Ask before a new key file is made where the user keeps the keys in a vault.

    Raises DeclinedError if the user does not agree. `--yes` does not agree to that.
    """
    if not offered.configured_agents:
        return
    message = (
        f"{_describe_agent(offered.configured_agents[0])} has no key that can be used"
        " (is it locked?), so no key was made and nothing was sent"
    )
    hint = "ssh-keygen -t ed25519"
    if session.yes or not session.reporter.can_ask:
        raise DeclinedError(message, hint=hint, code="no_key")
    session.reporter.warn(message.removesuffix(", so no key was made and nothing was sent"))
    if not session.reporter.confirm(questions.MAKE_KEY.fill()):
        raise DeclinedError(message, hint=hint, code="no_key")


def _make_key(session: Session, path: Path) -> KeyPair:
    """Make a key pair and add it to the agent. The user is asked for a passphrase, which may be empty."""
    import socket

    passphrase: str | None = None
    if session.reporter.can_ask and not session.yes:
        session.reporter.note("You have no ssh key yet; making one (ed25519).")
        passphrase = session.reporter.secret(questions.NEW_PASSPHRASE.fill()) or None
        again = questions.SAME_PASSPHRASE.fill()
        if passphrase and session.reporter.secret(again) != passphrase:
            raise UsageError("the two passphrases differ; no key was made", hint="apexgpu login")
    comment = f"{session.user}@{socket.gethostname()}"
    pair = generate(path, comment=comment, passphrase=passphrase)
    session.reporter.success(f"made a new key: {pair.path}")
    if pair.path is not None:
        # On Windows, a file may inherit rights with which ssh refuses it. Nothing has been sent yet.
        unusable = why_not_usable(pair.path, session.runner)
        if unusable is not None:
            raise unusable
        if passphrase:
            session.passphrases.remember(pair.path, Secret(passphrase))
        add_to_agent(pair.path, session.runner, passphrase)
    return pair


def _remember_login(session: Session, pair: KeyPair) -> Session:
    """Remember the account and its key, and return the session that knows them."""
    chosen = fingerprint(pair.public)
    account = session.account
    if account.user != session.user:
        account = replace(account, registered=())
    if account.user != session.user or account.fingerprint != chosen:
        account = replace(account, without_key=())
    account = replace(
        account,
        user=session.user,
        iam_url=session.settings.iam_url,
        fingerprint=chosen,
        identity_file=str(pair.path) if pair.path else "",
        public_key=replace(pair.public, options="").line,
    )
    return session.remember(account)


def _confirm_key(session: Session, iam: _Iam, hosts: Sequence[Host]) -> dict[str, bool | None]:
    """Follow IAM's push to its end, and make sure that IAM still has the key then.

    Returns for each host whether it accepted the key; None where the log does not say.
    """
    logs: list[PushLog] = []
    iam.publisher.confirm(lambda: logs.append(credentials.follow_own_push(session, iam.client)))
    if not logs[-1].done:
        session.reporter.note("The hosts are asked one by one.")
    accepted = {pushed.address: pushed.account_ok for pushed in logs[-1].hosts}
    return {host.name: accepted.get(host.address) for host in hosts}


def _report_key_in_iam(session: Session, pair: KeyPair, *, sent: bool) -> None:
    has = "now has" if sent else "had"
    session.reporter.success(
        f"IAM {has} your key {fingerprint(pair.public)} ({pair.path or 'ssh agent'})"
    )


@dataclass(frozen=True)
class _KeyTrial:
    """What trying the key on every host showed.

    `pushed` is what the log of IAM's last push says of each host (None: nothing). `sent_again_for` are the hosts that
    had missed a push, so that the keys were sent once more.
    """

    on_hosts: KeyOnHosts
    pushed: Mapping[str, bool | None]
    sent_again_for: Sequence[Host] = ()


def _try_key_and_send_again(
    session: Session,
    iam: _Iam,
    hosts: Sequence[Host],
    pushed: Mapping[str, bool | None],
    *,
    sent: bool,
) -> _KeyTrial:
    """Try the key on every host, and have IAM push it once more if some have missed it.

    Where this login has just sent the key (`sent`), a second push would not reach more hosts than the first.
    """
    on_hosts = _try_key(session, hosts)
    missed = _hosts_that_missed_a_push(session, on_hosts)
    if sent or not missed:
        return _KeyTrial(on_hosts, pushed)
    pushed_again = _send_again(session, iam, hosts, missed)
    if not pushed_again:
        return _KeyTrial(on_hosts, pushed_again)
    return _KeyTrial(_tried_again(session, on_hosts, missed), pushed_again, missed)


def _try_key(session: Session, hosts: Sequence[Host]) -> KeyOnHosts:
    """Log in to each host to see whether it accepts the key of this login.

    This is the first connection to every host, so the one question about all host keys comes here.
    """
    # Over connections of its own: an open one was made with the key of an earlier login.
    trial = session.with_flags(keep_connections="false")

    def try_host(host: Host) -> KeyOnHost:
        if not manage.status(trial.transport, host).registered:
            return KeyOnHost(accepted=False)
        # ssh may offer other keys of the user's too: what counts is which one the host accepted.
        return judge(session.account, trial.used_keys.get(Target(host, "manage")))

    with session.reporter.working(f"trying the key on {counted(len(hosts), 'host')}"):
        return KeyOnHosts(manyhosts.run(trial, hosts, try_host))


def judge(account: accounts.Account, used: UsedKey | None) -> KeyOnHost:
    """What a login with the key `used` proves about the key of `account`."""
    if used is None or not (used.fingerprint or used.path):
        return KeyOnHost(accepted=None)
    is_own = used.fingerprint == account.fingerprint
    if not used.fingerprint:
        # For a private key file without a public half, ssh reports only its path.
        is_own = used.path != "" and used.path == account.identity_file
    if is_own:
        return KeyOnHost(accepted=True)
    if account.fingerprint in used.refused or account.identity_file in used.refused:
        return KeyOnHost(accepted=False, other_key=True)
    # Another key came first, or this one could not be offered: nobody asked the host about it.
    return KeyOnHost(accepted=None, other_key=True)


def _hosts_that_missed_a_push(session: Session, tried: KeyOnHosts) -> list[Host]:
    """The hosts where the user is registered, but without this key: they were down when IAM sent it."""
    missed = []
    for outcome in tried.outcomes:
        key = outcome.value
        if key is None or key.accepted is not False:
            continue
        name = outcome.host.name
        is_registered = key.other_key or name in session.account.registered
        if is_registered and name not in session.account.without_key:
            missed.append(outcome.host)
    return missed


def _send_again(
    session: Session, iam: _Iam, hosts: Sequence[Host], missed: Sequence[Host]
) -> dict[str, bool | None]:
    """Send the keys to IAM once more, for the hosts that missed a push; {} if they were not sent."""
    names = ", ".join(host.name for host in missed)
    session.reporter.note(
        f"You are registered on {names}, but your key is not there (down during IAM's push?);"
        " sending your keys to IAM again, once."
    )
    try:
        iam.passwords.retry(lambda: iam.publisher.publish(even_if_unchanged=True))
    except DeclinedError as error:
        session.reporter.warn(
            f"the keys were not sent again: {error.message}", hint="apexgpu login"
        )
        return {}
    iam.passwords.keep()
    return _confirm_key(session, iam, hosts)


def _tried_again(session: Session, tried: KeyOnHosts, missed: Sequence[Host]) -> KeyOnHosts:
    """The same outcomes, with the `missed` hosts tried once more."""
    again = {outcome.host: outcome for outcome in _try_key(session, missed).outcomes}
    return KeyOnHosts([again.get(outcome.host, outcome) for outcome in tried.outcomes])


def _remember_hosts(session: Session, tried: KeyOnHosts, pushed_again: Sequence[Host]) -> Session:
    """Remember where the user is registered, and which hosts a second push did not help."""
    registered = set()
    without_key = set(session.account.without_key)
    for outcome in tried.outcomes:
        key, name = outcome.value, outcome.host.name
        if key is None:
            continue
        if key.accepted or key.other_key:
            registered.add(name)
        if key.accepted:
            without_key.discard(name)
        elif outcome.host in pushed_again:
            without_key.add(name)
    account = session.account.with_registered(registered)
    return session.remember(replace(account, without_key=tuple(sorted(without_key))))


def _report_key(
    session: Session, tried: Sequence[Outcome[KeyOnHost]], pushed: Mapping[str, bool | None]
) -> KeyOnHosts:
    """Report which hosts accept the key.

    For a host whose host key is not confirmed, IAM's log (`pushed`) is the answer.
    """
    unconfirmed = 0
    outcomes: list[Outcome[KeyOnHost]] = []
    for outcome in tried:
        name = outcome.host.name
        if isinstance(outcome.error, UnknownHostKeyError):
            unconfirmed += 1
            if pushed.get(name) is not None:
                outcome = Outcome(outcome.host, KeyOnHost(pushed[name]))
        elif outcome.error is not None:
            session.reporter.warn(outcome.error.message, hint=outcome.error.hint)
        outcomes.append(outcome)
    if unconfirmed:
        session.reporter.warn(
            f"the host keys of {counted(unconfirmed, 'host')} are not confirmed yet, so nothing"
            " was sent to them (in a terminal, apexgpu login shows the keys and asks)",
            hint="apexgpu login --accept-new",
        )
    _report_answers(session, outcomes, pushed)
    return KeyOnHosts(outcomes)


class _Answer(Enum):
    """What the try of the key on a host showed; the value is what a person reads."""

    ACCEPTED = "the key works"
    OTHER_KEY = "another key of yours logs in, but this one does not yet"
    NOT_TRIED = "you can log in, but not with this key, so whether it works is not known"
    NOT_REGISTERED = "not registered yet"
    NOT_ARRIVED = "the key has not arrived, or not registered yet"
    NONE = "no answer"


def _answer_of(outcome: Outcome[KeyOnHost], pushed: Mapping[str, bool | None]) -> _Answer:
    key, name = outcome.value, outcome.host.name
    if key is None:
        return _Answer.NONE
    if key.accepted:
        return _Answer.ACCEPTED
    if key.accepted is None:
        return _Answer.NOT_TRIED
    if key.other_key:
        return _Answer.OTHER_KEY
    if name in pushed and pushed[name] is None:
        # Nobody saw IAM send the key there, so the refusal may only mean that it is on its way.
        return _Answer.NOT_ARRIVED
    return _Answer.NOT_REGISTERED


def _report_answers(
    session: Session, outcomes: Sequence[Outcome[KeyOnHost]], pushed: Mapping[str, bool | None]
) -> None:
    names: dict[_Answer, list[str]] = {answer: [] for answer in _Answer}
    for outcome in outcomes:
        names[_answer_of(outcome, pushed)].append(outcome.host.name)
    for answer in _Answer:
        if not names[answer]:
            continue
        hosts = ", ".join(names[answer])
        if answer is _Answer.ACCEPTED:
            session.reporter.success(f"the key works on {hosts}")
        elif answer in {_Answer.OTHER_KEY, _Answer.NOT_TRIED}:
            session.reporter.warn(f"{answer.value}: {hosts}", hint="apexgpu keys list")
        else:
            session.reporter.note(f"  {answer.value}: {hosts}")


# Logging out


def logout(session: Session, *, keep_config: bool = False) -> Logout:
    """Forget the login: unmount, close tunnels and connections, delete the password and the account.

    Our part of the ssh config is removed too, unless `keep_config`. Keys stay, on the laptop and in
    IAM. Raises RefusedError, with nothing changed, if a mount is in use.
    """
    # Imported here, because only a logout needs them and they take a tenth of a command's start-up.
    from apexgpu.forwarding import records
    from apexgpu.ssh import controlmaster
    from apexgpu.sshfs import unmounting

    # Mounts come first: one that is in use stops the logout before anything is gone.
    unmounted = unmounting.unmount_own(session.state_dir)
    for mount in unmounted:
        session.reporter.success(f"unmounted {mount.directory}")
    open_tunnels = records.list_open(session.state_dir)
    for tunnel in open_tunnels:
        records.close(session.state_dir, tunnel)
        session.reporter.success(f"closed {tunnel.id}")
    controlmaster.close_all()
    forgot_password = False
    if session.settings.user:
        forgot_password = credentials.forget_password(session)
    forgot_account = accounts.forget(session.state_dir)
    removed_block = False
    if not keep_config:
        removed_block = sshconfig.remove_block(session)
        pinnedkeys.forget(session.state_dir)  # only the block names these files
    if removed_block:
        path = session.settings.ssh_config
        session.reporter.success(f"removed apexgpu's part of {path}; the rest is unchanged")
    return Logout(
        bool(unmounted or open_tunnels or forgot_password or forgot_account or removed_block)
    )


# Who and which keys


def whoami(session: Session) -> Identity:
    """Return the account as IAM knows it, and every key that IAM, this laptop or the agent has.

    Raises LoginError if IAM does not know the user.
    """
    with session.reporter.working("asking IAM"):
        client = credentials.read_client(session)
        port = client.port(session.user)
        if port is None:
            raise LoginError(
                f"IAM does not know {session.user} yet", hint=f"apexgpu login {session.user}"
            )
        name = client.name(session.user)
        known = keys.known_keys(session, client)
    return Identity(session.user, name, port, session.iam_url, known)
