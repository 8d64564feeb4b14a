"""The `ssh` program as a client: it has the final say on every login, and takes the routes that paramiko cannot."""

import contextlib
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from apexgpu.boundedoutput import OnOutput, taker_of
from apexgpu.errors import (
    ApexError,
    ConfigError,
    ConnectionClosedError,
    ConnectionLostError,
    ConnectTimeoutError,
    UnreachableError,
)
from apexgpu.models import PublicKey, Reply, Target
from apexgpu.platforms import namedpipes
from apexgpu.process import Readiness, Runner
from apexgpu.ssh import askpass, silentagent, sshlog, sshoptions
from apexgpu.ssh.askpass import Passphrase
from apexgpu.ssh.failures import (
    KeyLockedError,
    SshFailure,
    UnknownHostKeyError,
    agent_refused_error,
    classify,
    command_timeout_error,
    failure_error,
    host_key_changed_error,
    key_locked_error,
    key_refused_error,
    key_unreadable_error,
    nothing_offered_error,
    proxy_error,
    revoked_host_key_error,
    silent_agent_error,
    stalled_login_error,
    too_much_output_error,
    unreachable_error,
    wrong_passphrase_error,
)
from apexgpu.ssh.history import ConnectionHistory
from apexgpu.ssh.hostkeys import known_hosts_name
from apexgpu.ssh.route import Route, config_arguments, target_arguments
from apexgpu.ssh.sshlog import SshLog
from apexgpu.ssh.transport import Limits, OnLogin, SshVerdict, UsedKey
from apexgpu.sshfiles.agentquery import Agents, AgentState
from apexgpu.sshfiles.keyfiles import read_text
from apexgpu.sshfiles.knownhosts import KnownHosts
from apexgpu.sshfiles.privatekeys import parse_private_key
from apexgpu.text import last_line

_SSH_FAILED = 255  # the exit status of ssh for failures of its own; a command may have it too
_CLOSED_BY_SERVER = re.compile(r"^Connection to \S+ closed by remote host\.\r?$", re.MULTILINE)
_MOST_LOG_BYTES = 1 << 20
_LONGEST_COMMAND = 28_000  # characters; ssh's options need some as well
_READ_COMMAND = """exec sh -c 'command=$(cat) && exec "${SHELL:-sh}" -c "$command" </dev/null'"""
_PROXY_FAILURES = {SshFailure.CLOSED, SshFailure.KEY_REFUSED}


def argv(target: Target, command: str, *, config: Path, connect: float) -> list[str]:
    """The command line of ssh, without a terminal. An empty command asks for a shell."""
    words = ["ssh", *config_arguments(config), "-T", *target_arguments(target)]
    options = [
        *sshoptions.UNATTENDED,
        *sshoptions.COMMAND_ONLY,
        *sshoptions.NO_FORWARDING,
        *sshoptions.NOT_SHARED,
        *sshoptions.keep_alive(15, 4),
        sshoptions.connect_timeout(connect),
        "LogLevel=DEBUG1",  # it goes to a file; see `sshlog`
        sshoptions.SESSION_IS_LOGGED,
    ]
    words += [*sshoptions.arguments(options), target.alias]
    if command:
        words.append(command)
    return words


def through_stdin(command: str) -> tuple[str, bytes]:
    """A command that is short enough for a command line, and what ssh gets on stdin for it.

    A command line of Windows takes 32,767 characters, and a program for a container may have more. The login shell
    gets the same text as before, and an empty stdin.
    """
    # Windows needs a backslash before each quote, and may need one before each backslash.
    length = len(command) + command.count('"') + command.count("\\")
    if length <= _LONGEST_COMMAND:
        return command, b""
    return _READ_COMMAND, command.encode("utf-8", "surrogateescape")


class OpenSshClient:
    """Runs each command in an `ssh` process of its own.

    `preferred` is the file of the key that login registered: it is offered even where the ssh config does not name it.
    An agent that does not answer is left out, because ssh would wait for it forever. `passphrase` returns that of a key
    file, None if nobody can enter it; it is called when a server would accept the key.
    """

    def __init__(
        self,
        runner: Runner,
        config: Path,
        *,
        preferred: Path | None = None,
        agents: Agents | None = None,
        history: ConnectionHistory | None = None,
        on_login: OnLogin = lambda _route, _key: None,
        passphrase: Callable[[Path], str | None] = lambda _file: None,
    ) -> None:
        self._on_login = on_login
        self._ask_passphrase = passphrase
        self._known_passphrase: Passphrase | None = None
        self._runner = runner
        self._config = config
        self._preferred = preferred
        self._agents = agents or Agents()
        self._history = history or ConnectionHistory()

    def run(
        self,
        route: Route,
        command: str,
        *,
        limits: Limits,
        on_line: OnOutput | None,
        host_key: PublicKey | None = None,
    ) -> Reply:
        """See transport.Client. `host_key` is the key that the target showed before, if it was seen."""
        known = self._known_passphrase
        try:
            return self._run(route, command, limits, on_line, host_key, known)
        except KeyLockedError as exc:
            locked = exc
        if known is not None and known.file == locked.file:
            raise wrong_passphrase_error(route.target, locked.file)
        text = self._ask_passphrase(locked.file) if namedpipes.are_possible() else None
        if text is None:
            raise locked
        known = Passphrase(locked.file, text)
        try:
            reply = self._run(route, command, limits, on_line, host_key, known)
        except KeyLockedError:
            raise wrong_passphrase_error(route.target, locked.file) from None
        # The next host need not be asked first which key it would accept.
        self._known_passphrase = known
        return reply

    def _run(
        self,
        route: Route,
        command: str,
        limits: Limits,
        on_line: OnOutput | None,
        host_key: PublicKey | None,
        passphrase: Passphrase | None,
    ) -> Reply:
        """Run the command in one ssh process; with a `passphrase`, ssh is told that of one key file."""
        target = route.target
        command, stdin = through_stdin(command)
        arguments = argv(target, command, config=self._config, connect=limits.connect)
        arguments[1:1] = self._identity_arguments(route)
        # ssh reads its configuration again, and once more for a jump host.
        login_limit = limits.connect + 3 * route.seconds + 1
        total = None
        if limits.total is not None:
            total = login_limit + limits.total
        taker = taker_of(on_line)
        taker.starting()
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="apexgpu-"))
            env = None
            if passphrase is not None:
                arguments[1:1] = askpass.arguments()
                env = stack.enter_context(askpass.environment(passphrase))
            # ssh's messages go to a file (-E), so that they cannot be confused with the command's stderr.
            file = Path(directory) / "log"
            arguments[1:1] = ["-E", str(file)]
            # A server may accept the login and then open no session.
            has_started = sshlog.is_authenticated
            if command or route.logs_session:
                has_started = sshlog.has_session
            ready = Readiness(lambda: has_started(_read(file)), login_limit)
            completed = self._runner.stream(
                arguments,
                stdin=stdin,
                on_line=taker,
                total=total,
                silence=limits.silence,
                output=limits.output,
                keeps_reading=limits.keeps_reading,
                ready=ready,
                env=env,
            )
            text = _read(file)
            log = sshlog.parse(text)
        err = completed.err.decode("utf-8", "replace")
        reply = Reply(completed.code, completed.text, err, completed.is_cut)
        if log.authenticated:
            self._history.logged_in(route)
            self._on_login(route, used_key(log))
        if completed.timed_out:
            if has_started(text) or reply.out:
                raise command_timeout_error(target, reply.out)
            raise login_timeout_error(target, log)
        if completed.too_much:
            raise too_much_output_error(target, limits.output)
        if reply.code == _SSH_FAILED:
            self._raise_unless_of_command(route, reply, log, limits, host_key)
        return reply

    def explain(self, route: Route, log: str, limits: Limits) -> ApexError | None:
        """See transport.ExplainingClient."""
        parsed = sshlog.parse(log)
        if classify(parsed.messages) is SshFailure.TIMEOUT:
            return login_timeout_error(route.target, parsed)
        if classify(parsed.messages) is SshFailure.HOST_KEY_UNKNOWN:
            # Whoever asks the user has to show the key, and looks at it then.
            self._history.ssh_failed(route, SshVerdict.HOST_KEY_UNKNOWN)
            return None
        try:
            self._raise_unless_of_command(route, Reply(_SSH_FAILED, ""), parsed, limits, None)
        except ApexError as exc:
            return exc
        return None

    def _identity_arguments(self, route: Route) -> list[str]:
        words = []
        if self._preferred is not None and self._preferred not in route.identity_files:
            try:
                exists = self._preferred.is_file()
            except OSError:
                exists = False
            if exists:
                # ssh replaces tokens in this name.
                words += ["-i", str(self._preferred).replace("%", "%%")]
        words += sshoptions.arguments(silentagent.options(route, self._agents))
        return words

    def _agent_is_silent(self, route: Route) -> bool:
        return self._agents.ask(route.agent_socket).state is AgentState.SILENT

    def _raise_unless_of_command(
        self, route: Route, reply: Reply, log: SshLog, limits: Limits, host_key: PublicKey | None
    ) -> None:
        """Raise the failure for which ssh ended with 255; return if it is the command's own status."""
        messages = log.messages
        # ssh writes this message to stderr even with -E.
        if _CLOSED_BY_SERVER.search(reply.err):
            messages += "Connection closed by remote host\n"
        failure = classify(messages)
        if failure is SshFailure.HOST_KEY_CHANGED and _knows_no_key(route, messages):
            # With `UserKnownHostsFile none`, ssh prints only that the verification failed.
            failure = SshFailure.HOST_KEY_UNKNOWN
        if not log.authenticated:
            if log.has_version:
                self._history.ended_early(route, refused=bool(log.offered))
            raise self._connect_error(route, reply, log, messages, failure, limits, host_key)
        if failure in {SshFailure.CLOSED, SshFailure.TIMEOUT}:
            raise _lost_error(route.target, reply.out)

    def _connect_error(
        self,
        route: Route,
        reply: Reply,
        log: SshLog,
        messages: str,
        failure: SshFailure | None,
        limits: Limits,
        host_key: PublicKey | None,
    ) -> ApexError:
        """Why ssh has not logged in. What happened before the server said anything comes first.

        A proxy that fails, and a server that hangs up because it penalises this address, look to ssh like a host that
        cannot be reached.
        """
        if not log.has_version:
            if route.proxy is not None and failure in _PROXY_FAILURES:
                return proxy_error(route.target, route.proxy, reply.err)
            if failure is SshFailure.CLOSED:
                penalty = self._history.penalty(route, log.greeting)
                if penalty is not None:
                    return penalty
        if failure is None:
            reason = last_line(messages + reply.err, f"ssh ended with status {reply.code}")
            return unreachable_error(route.target, f"ssh failed: {reason}", ConnectionClosedError)
        if failure is SshFailure.HOST_KEY_UNKNOWN:
            key = host_key or self._fetch_host_key(route, limits)
            return UnknownHostKeyError(route, key, log.invalid_certificate)
        if failure in {SshFailure.KEY_REFUSED, SshFailure.KEY_TOO_OPEN}:
            return self._login_error(route, log)
        return _failure_error(route, failure, log)

    def _login_error(self, route: Route, log: SshLog) -> ApexError:
        """Why the server did not accept a login: a refusal is only what it answered to a key."""
        target = route.target
        signing = re.search(
            r"^(?:sign_and_send_pubkey|Agent).*agent.*refused.*$", log.messages, re.M
        )
        if signing:
            return agent_refused_error(target, signing[0])
        if log.accepted:
            file = Path(log.accepted)
            if _is_encrypted(file):
                return key_locked_error(target, file)
            reason = "the server would accept it, but its private half cannot be used"
            for failed in log.not_loaded:
                if failed.path == str(file):
                    reason = f"ssh reports: {failed.reason}"
            too_open = "UNPROTECTED PRIVATE KEY FILE" in log.messages
            return key_unreadable_error(target, file, reason, too_open=too_open)
        # What the server answered to other keys says nothing about the registered one, which ssh left out.
        if log.offered and not self._ignores_registered_key(log):
            return key_refused_error(target)
        for failed in log.not_loaded:
            too_open = failed.reason == "bad permissions"
            return key_unreadable_error(
                target, Path(failed.path), f"ssh reports: {failed.reason}", too_open=too_open
            )
        # ssh that may not ask passes over an encrypted file without a public half, and reports nothing.
        if log.tried and _is_encrypted(Path(log.tried)):
            return key_locked_error(target, Path(log.tried))
        if self._agent_is_silent(route):
            return silent_agent_error(target, self._agents.ask(route.agent_socket))
        return nothing_offered_error(target)

    def _ignores_registered_key(self, log: SshLog) -> bool:
        """Whether ssh left out the key of the last login, because others may read its file."""
        for failed in log.not_loaded:
            if failed.reason == "bad permissions" and Path(failed.path) == self._preferred:
                return True
        return False

    def _fetch_host_key(self, route: Route, limits: Limits) -> PublicKey:
        """The key that a target shows.

        ssh is told to accept it into a known_hosts file that is deleted afterwards, so nothing is trusted.
        """
        from apexgpu.iam.publickeys import parse_line

        with tempfile.TemporaryDirectory(prefix="apexgpu-") as directory:
            file = Path(directory) / "known_hosts"
            words = argv(route.target, "exit", config=self._config, connect=limits.connect)
            # One look: no key is offered, so that nothing is refused.
            words[1:1] = sshoptions.arguments(["PubkeyAuthentication=no"])
            words[words.index(sshoptions.KNOWN_HOST_KEY)] = "StrictHostKeyChecking=accept-new"
            files = sshoptions.arguments(
                [f'UserKnownHostsFile="{file}"', "GlobalKnownHostsFile=none"]
            )
            words[1:1] = files
            self._runner.run(words, timeout=limits.connect + 5)
            lines = file.read_text().splitlines() if file.exists() else []
        for line in lines:
            key = parse_line(line.partition(" ")[2])
            if key is not None:
                return key
        raise unreachable_error(route.target, "it shows no host key", ConnectionClosedError)


def used_key(log: SshLog) -> UsedKey:
    """The key of a login that succeeded."""
    if log.tried:
        return UsedKey("", log.tried, log.offered)
    accepted = log.accepted_fingerprint
    refused = [offered for offered in log.offered if offered != accepted]
    return UsedKey(accepted, log.accepted, tuple(refused))


def _failure_error(route: Route, failure: SshFailure, log: SshLog) -> ApexError:
    """The error for a failure that ssh reported, with what known_hosts contains about the host."""
    target = route.target
    known_hosts = KnownHosts(route.known_hosts_files)
    name = known_hosts_name(route)
    if failure is SshFailure.HOST_KEY_REVOKED and log.host_key:
        # Either is enough: the key itself, or the key that signed its certificate.
        for shown in (log.host_key, log.authority):
            place = known_hosts.revoked_by(name, shown)
            if place is not None:
                return revoked_host_key_error(target, shown=shown, place=place)
        return revoked_host_key_error(target, shown=log.host_key, place=None)
    if failure is SshFailure.HOST_KEY_CHANGED and log.host_key:
        from apexgpu.iam.publickeys import fingerprint

        known = [fingerprint(key) for key in known_hosts.keys(name)]
        return host_key_changed_error(
            target,
            shown=log.host_key,
            known=known or ["another one"],
            files=route.known_hosts_files,
            name=name,
        )
    return failure_error(target, failure, log.messages)


def login_timeout_error(target: Target, log: SshLog) -> UnreachableError:
    """The error for an ssh that had no session within its limit. Too slow is not refused."""
    if log.authenticated:
        return stalled_login_error(target, logged_in=True)
    detail = ""
    last = last_line(log.messages, "")
    if last:
        detail = f" (ssh: {last[:120]})"
    if log.exchanged_keys:
        return stalled_login_error(target, detail=detail)
    reason = "no answer in time"
    if log.connected:
        reason = "it accepts the connection but does not answer"
    return unreachable_error(target, reason + detail, ConnectTimeoutError)


def _knows_no_key(route: Route, messages: str) -> bool:
    if "IDENTIFICATION HAS CHANGED" in messages:
        return False
    return not KnownHosts(route.known_hosts_files).keys(known_hosts_name(route))


def _is_encrypted(file: Path) -> bool:
    try:
        key = parse_private_key(read_text(file).encode("utf-8", "surrogateescape"))
    except ConfigError:
        return False
    return key is not None and key.encrypted


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(_MOST_LOG_BYTES).decode("utf-8", "replace")
    except OSError:  # ssh has not created it yet
        return ""


def _lost_error(target: Target, seen: str) -> ApexError:
    message = f"the connection to {target.alias} was lost"
    return ConnectionLostError(message, hint=f"apexgpu status {target.host.name}", seen=seen)
