"""The OpenSSH client as a child: for what paramiko cannot do, by the same protocol and the same errors."""

import re
import tempfile
from pathlib import Path

from apexgpu.errors import ApexError, DroppedError, LoginError, RefusedError
from apexgpu.models import PublicKey, Reply, Target
from apexgpu.process import Completed, Runner
from apexgpu.ssh import sshoptions
from apexgpu.ssh.route import Route, config_arguments, target_arguments
from apexgpu.ssh.transport import (
    Limits,
    OnLine,
    UnknownHostKeyError,
    changed_key,
    refused_key,
    too_slow,
    unreachable,
)

# ssh's own words for a failure of its own (exit 255), in the order in which they decide.
_FAILURES = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED", "changed"),
    (r"No \S+ host key is known for|authenticity of host", "unknown"),
    (r"Host key verification failed", "changed"),
    (r"Too many authentication failures", "too_many_keys"),
    (r"Permission denied \(", "refused"),
    (r"Connection refused", "connection_refused"),
    (r"No route to host", "no_route"),
    (r"timed out|Timeout, server", "timeout"),
    (r"Could not resolve|Name or service not known", "no_name"),
    (r"Network is unreachable", "no_network"),
    (
        r"Connection closed|Connection reset|kex_exchange_identification|Broken pipe|banner exchange|"
        r"client_loop|lost connection|disconnect",
        "closed",
    ),
    (r"administratively prohibited", "forbidden"),
)
FINAL = {"changed", "unknown", "forbidden"}  # failures that trying again does not cure
_WORDS = {
    "connection_refused": "connection refused",
    "no_route": "no route to host",
    "timeout": "no answer in time",
    "no_name": "its name cannot be resolved",
    "unknown": "its host key is not known",
    "no_network": "the network is unreachable (VPN?)",
    "closed": "it closed the connection",
}


def argv(target: Target, command: str, *, config: Path, connect: float) -> list[str]:
    """The whole command line. No terminal; a shell request where `command` is empty."""
    words = ["ssh", *config_arguments(config), "-T", *target_arguments(target)]
    words += sshoptions.words(
        [
            *sshoptions.UNATTENDED,
            *sshoptions.PLAIN,
            *sshoptions.BARE,
            *sshoptions.ALONE,
            *sshoptions.alive(15, 4),
            sshoptions.connect_limit(connect),
            "LogLevel=INFO",
        ]
    )
    words.append(target.alias)
    return [*words, command] if command else words


def failure(err: str) -> str | None:
    """Which failure of ssh's own `err` tells of: a code, or None when these are not its words."""
    last = [line for line in err.replace("\r", "").splitlines() if line.strip()]
    for pattern, code in _FAILURES:
        if any(re.search(pattern, line) for line in last):
            return code
    return None


def logged_in(err: str) -> bool:
    """Whether ssh lost a connection over which it had logged in already: nobody can tell if the command was taken."""
    return (
        re.search(
            r"^(?:Connection to \S+ closed|client_loop|Read from remote host|Timeout, server|Write failed)",
            err,
            re.MULTILINE,
        )
        is not None
    )


def error_of(target: Target, code: str, err: str) -> ApexError:
    """Our error for one of ssh's own failures."""
    if code == "refused":
        return refused_key(target)
    if code == "too_many_keys":
        message = f"{target.alias} hung up on too many keys: the agent's came first, and yours was not among them"
        hint = "ssh-add -d KEY   (take out what you do not use: ssh-add -l)"
        return LoginError(message, hint=hint, code="too_many_keys")
    if code == "changed":
        shown = re.search(r"SHA256:\S+", err)
        return changed_key(
            target,
            shown=shown[0].rstrip(".") if shown else "another key",
            known=["another one"],
            files=[],
        )
    if code == "forbidden":
        name = target.host.name
        message = f"the container on {name} forbids ssh to forward ports"
        hint = f"apexgpu ssh {name} -- grep -iE 'forwarding|permitopen' /etc/ssh/sshd_config"
        return RefusedError(message, hint=hint, code="forwarding_forbidden")
    return unreachable(target, _WORDS[code], code=code)


class OpenSSHLink:
    """Runs commands through `ssh`."""

    def __init__(self, runner: Runner, config: Path) -> None:
        self._runner = runner
        self._config = config

    def run(self, route: Route, command: str, *, limits: Limits, on_line: OnLine | None) -> Reply:
        """See transport.Link."""
        target = route.target
        words = argv(target, command, config=self._config, connect=limits.connect)
        total = None if limits.total is None else limits.connect + limits.total
        with tempfile.TemporaryDirectory(prefix="apexgpu-") as directory:
            # ssh's own words go to a file, so that they cannot be mistaken for the command's.
            log = Path(directory) / "log"
            words[1:1] = ["-E", str(log)]
            done = self._runner.stream(words, on_line=on_line, total=total, silence=limits.silence)
            said = log.read_text(errors="replace") if log.exists() else ""
        reply = Reply(done.code, done.text, done.err.decode("utf-8", "replace"))
        self._check(route, done, reply, said, limits)
        return reply

    def _check(
        self, route: Route, done: Completed, reply: Reply, said: str, limits: Limits
    ) -> None:
        target = route.target
        if done.timed_out:
            raise too_slow(target, reply.out)
        # This one sentence ssh writes to stderr, whatever -E says.
        if reply.code == 255 and re.search(
            r"^Connection to \S+ closed by remote host\.\r?$", reply.err, re.MULTILINE
        ):
            said += "Connection closed by remote host\n"
        code = failure(said) if reply.code == 255 else None
        if code is None:
            return
        if code == "unknown":
            raise UnknownHostKeyError(route, self.first_key(route, limits))
        if code in {"closed", "timeout"} and (reply.out or logged_in(said + reply.err)):
            raise DroppedError(
                f"the connection to {target.alias} was lost",
                seen=reply.out,
                hint=f"apexgpu status {target.host.name}",
            )
        raise error_of(target, code, said)

    def first_key(self, route: Route, limits: Limits) -> PublicKey:
        """The key that a target shows, fetched with a known_hosts file of its own so that nothing is trusted."""
        from apexgpu.iam.publickeys import parse_line

        with tempfile.TemporaryDirectory(prefix="apexgpu-") as directory:
            file = Path(directory) / "known_hosts"
            words = argv(route.target, "exit", config=self._config, connect=limits.connect)
            for option in (f"UserKnownHostsFile={file}", "GlobalKnownHostsFile=none"):
                words[1:1] = ["-o", option]
            words[words.index(sshoptions.KNOWN_KEY)] = "StrictHostKeyChecking=accept-new"
            self._runner.run(words, timeout=limits.connect + 5)
            text = file.read_text() if file.exists() else ""
        for line in text.splitlines():
            key = parse_line(line.partition(" ")[2])
            if key is not None:
                return key
        raise unreachable(route.target, "it shows no host key", code="closed")
