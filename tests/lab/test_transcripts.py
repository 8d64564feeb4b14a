"""The lab says the words of the recordings: every one of them, in the state it was made in."""

import re
from pathlib import Path

import pytest
from tests.lab.situations import TRANSCRIPTS, Answer, replay

_TWO = "running map:8888 map:6006 map:7001 fault:two-addresses"
_STALE = "running map:8888 map:6006 map:7001 halted"

# Recording -> the state to set. Words: see situations.STATES.
STATES = {
    "02-register-unknown": "",
    "03-register": "",
    "04-register-again": "stopped",
    "05-help-stopped": "stopped",
    "06-up-stopped": "stopped",
    "07-up-running": "running",
    "08-snapshot-running": "running",
    "09-recover-running": "running",
    "10-rebuild-running": "running",
    "11-unknown": "running",
    "12-port-running": "running",
    "13-port-6006": "running",
    "14-port-6006-again": "running map:6006",
    "15-port-600": "running map:6006",
    "16-port-invalid": "running map:6006",
    "17-stop-running": "running map:6006",
    "18-stop-stopped": "stopped",
    "19-port-stopped": "stopped",
    "20-snapshot": "stopped",
    "21-snapshot-wrong-token": "stopped",
    "22-snapshot-token": "stopped",
    "23-recover": "stopped",
    "24-recover-wrong-token": "stopped",
    "25-recover-missing-file": "stopped",
    "26-recover-token": "archive:alice.tar.gz",
    "27-up-after-recover": "stopped",
    "28-stop": "running",
    "29-rebuild": "stopped",
    "30-rebuild-recover": "stopped",
    "31-rebuild-recover-user-not-made": "stopped fault:user-not-made",
    "32-snapshot-dropped": "stopped leave-at:Taking_a_snapshot",
    "33-recover-damaged-archive": "archive:cut.tar.gz",
    "34-up-after-damaged-recover": "stopped cut-tree",
    "35-iam-down": "stopped iam:down",
    "36-iam-down-up": "stopped iam:down",
    "37-snapshot-cannot-write": "stopped directory:Workspaces/lxc-snapshot/alice.tar.gz",
    "38-up-driver-mismatch-no-installer": "stopped fault:driver-mismatch",
    "39-up-driver-installed": "stopped fault:driver-install",
    "b01-register-ldap-user-not-in-iam": "",
    "b01-register-no-arg": "",
    "b01-register-no-arg-tt": "",
    "b01-register-unknown-to-iam": "",
    "b02-register-again": "stopped",
    "b02-register-ok": "",
    "b02-register-root": "",
    "b02-register-two-words": "stopped",
    "b03-help-stopped": "stopped",
    "b03-port-8888-when-stopped": "stopped",
    "b03-port-when-stopped": "stopped",
    "b03-stop-when-stopped": "stopped",
    "b03-unknown-stopped": "stopped",
    "b04-help-running": "running",
    "b04-help-running-tt": "running",
    "b04-rebuild-running": "running",
    "b04-recover-running": "running",
    "b04-recover-token-running": "running",
    "b04-snapshot-running": "running",
    "b04-snapshot-running-tt": "running",
    "b04-start-first": "stopped",
    "b04-start-when-running": "running",
    "b04-start-when-running-tt": "running",
    "b04-start-when-running-tt-lastlog": "running last-login",
    "b04-unknown-running": "running",
    "b04-unknown-running-tt": "running",
    "b04-unknown-status-word": "running",
    "b04-unknown-upper": "running",
    "b05-port-0": "running map:8888 map:6006",
    "b05-port-08": "running map:8888 map:6006",
    "b05-port-2-PREFIX-BUG": "running map:8888 map:6006",
    "b05-port-22": "running map:8888 map:6006",
    "b05-port-6006": "running map:8888",
    "b05-port-65536": "running map:8888 map:6006",
    "b05-port-70000": "running map:8888 map:6006",
    "b05-port-88-PREFIX-BUG": "running map:8888 map:6006",
    "b05-port-8888": "running",
    "b05-port-8888-again": "running map:8888",
    "b05-port-8888-tt": "running map:8888",
    "b05-port-GLOB": "running map:8888 map:6006 map:7001",
    "b05-port-QUOTED": "running",
    "b05-port-abc": "running map:8888 map:6006",
    "b05-port-list": "running map:8888 map:6006",
    "b05-port-list-empty": "running",
    "b05-port-list-end": "running map:8888 map:6006 map:7001",
    "b05-port-negative": "running map:8888 map:6006",
    "b05-port-two": "running map:8888 map:6006",
    "b06-port-9000-two-ips": _TWO,
    "b06-port-list-two-ips": _TWO,
    "b06-status-two-ips": _TWO,
    "b06-stop-two-ips": _TWO,
    "b06-start-after": _STALE,
    "b06-port-list-after": f"{_STALE} running",
    "b07-stop-running-tt": f"{_STALE} running",
    "b08-snapshot-dir-missing": "stopped no-directory",
    "b08-snapshot-dir-not-writable-0555": "stopped",
    "b08-snapshot-nas-full": "stopped fault:nas-full",
    "b08-snapshot-nas-readonly": "archive:alice.tar.gz fault:nas-readonly",
    "b08-snapshot-no-token": "stopped",
    "b08-snapshot-no-token-tt": "stopped",
    "b08-snapshot-right-token": "stopped",
    "b08-snapshot-right-token-again": "archive:alice.tar.gz",
    "b08-snapshot-wrong-token": "stopped",
    "b10-rebuild-stopped": "stopped",
    "b10-rebuild-with-token": "stopped",
    "b10-recover-no-token": "stopped",
    "b10-recover-no-token-tt": "stopped",
    "b10-recover-nonexistent-path": "stopped",
    "b10-recover-wrong-token": "stopped",
    "b11-recover-own-snapshot": "archive:alice.tar.gz",
    "b12-recover-template-after-rebuild": "stopped",
    "b12-start-after-rebuild": "stopped",
    "b13-recover-token-NO-PATH": "stopped",
    "b14-recover-directory": "stopped directory:Workspaces/emptydir",
    "b14-recover-garbage": "archive:garbage.tar.gz stopped",
    "b14-recover-template-heals": "no-tree",
    "b14-recover-truncated-snapshot": "archive:truncated.tar.gz",
    "b14-snapshot-no-token-after-garbage": "no-tree",
    "b14-start-after-garbage": "no-tree",
    "b14-start-after-truncated": "cut-tree",
    "b14-status-after-garbage": "no-tree",
    "b15-iam-down-help": "stopped iam:down",
    "b15-iam-down-port": "stopped iam:down",
    "b15-iam-down-register": "iam:down",
    "b15-iam-down-snapshot": "stopped iam:down",
    "b15-iam-down-start": "stopped iam:down",
    "b15-iam-down-start-tt": "stopped last-login iam:down",
    "b15-iam-down-stop": "stopped iam:down",
    "b15-iam-hangs-help": "stopped iam:hang",
    "b16-nvidia-mismatch-no-installer": "stopped fault:driver-mismatch",
    "b16-nvidia-mismatch-no-installer-tt": "stopped last-login fault:driver-mismatch",
    "b20-port-22-after-drop": "unforwarded",
    "b20-port-after-drop": "unforwarded",
    "b20-start-again-after-drop": "unforwarded",
    "b21-start-after-recover-T-dropped": "not-owned",
    "b22-port-no-ip": "running fault:no-address",
    "b22-start-no-dhcp": "stopped fault:no-address",
    "b22-status-no-ip": "running fault:no-address",
    "b23-port-next-is-11112-dicom": "running foreign-map:11111",
    "b23-port-5000-again": "running foreign-map:11111 map:5000",
    "b23-stop-after-dicom": "running foreign-map:11111 map:5000",
    "b24-token-got-just-before-boundary": "stopped",
    "b24-token-used-just-after-boundary": "stopped old-token",
    "b25-register-gpu2": "",
    "b25-start-gpu2": "stopped",
    "b26-bob-can-register-for-alice": "visits-iam:lqchen",
    "b26-bob-recovers-alices-snapshot": "visits-iam:alice archive:alice.tar.gz stopped",
    "b26-bob-register": "",
    "b27-command-extra-spaces": "running",
    "b27-command-newline": "running",
    "b27-command-with-semicolon": "running",
    "b29-register-again-after-drop": "half-made:lqchen",
    "b31-recover-own": "archive:bob.tar.gz",
    "b31-snapshot-with-socket": "stopped socket:sock",
}

# What no manage shell says: the answer is sshd's or the network's (test_login.py has these states) …
NOT_THE_SHELL = {
    "01-manage-before-register",
    "b00-no-account",
    "b00-no-account-stop",
    "b00-register-wrong-key",
    "b26-alice-register-after-bobs-push",
    # … or a command's in a container (test_container.py), or routing between real hosts.
    "b00-container-port-before",
    "b03-container-ssh-when-stopped",
    "b04-container-ssh",
    "b06-ssh-container-after",
    "b11-after-recover",
    "b12-ssh-after-rebuild",
    "b12-ssh-after-rebuild-stop-start",
    "b20-container-ssh-after-drop",
    "b25-from-inside-gpu1-container-ssh-gpu2",
    "b25-inside-gpu1-tcp-tests",
}

# Noise of programs that differs from host to host; of these stderrs only the lines of these programs count.
ESSENCE = {
    "03-register": (),  # a host without GPUs
    "33-recover-damaged-archive": ("gzip:", "tar:", "lxc-start:", "lxc-stop:", "tee:"),
    "b14-recover-truncated-snapshot": ("gzip:", "tar:", "lxc-start:", "lxc-stop:", "tee:"),
}

_VARIABLE = (
    (r"\b(?:10\.7[78]|127\.77)\.0\.\d+", "ADDRESS"),
    (r"(?m)^(?:Memory use|KMem use): .*\n", ""),
    (r"(?m)^PID: .*", "PID"),
    (r"\b10\.0\.3\.\d+", "IP"),
    (r"(?m)^Link: .*", "LINK"),
    (r"(?m)^ (TX|RX|Total) bytes: .*", r" \1"),
    (r"\b(snapshot|recover) (?!deadbeef)[0-9a-f]{8}\b", r"\1 TOKEN"),
    (r"(?m)^[\d.]+[KMG]?\t", "SIZE\t"),
    (r"535\.54\.03|396\.26", "NEWER"),
    (r"Last login: [^\r\n]*", "LAST"),
)


def _plain(text: str) -> str:
    for pattern, replacement in _VARIABLE:
        text = re.sub(pattern, replacement, text.replace("\r\n", "\n"))
    return text


def _lines(answer: Answer, programs: tuple[str, ...] | None) -> list[str]:
    """Stderr in an order of its own: two programs at the ends of a pipe complain as it happens."""
    lines = sorted(_plain(answer.err).splitlines())
    return lines if programs is None else [line for line in lines if line.startswith(programs)]


def test_every_recording_is_accounted_for() -> None:
    recordings = {path.stem for path in TRANSCRIPTS.glob("*.json")}
    assert recordings == set(STATES) | NOT_THE_SHELL
    assert not set(STATES) & NOT_THE_SHELL


@pytest.mark.parametrize("name", sorted(STATES))
def test_the_lab_says_the_recorded_words(name: str, tmp_path: Path) -> None:
    recorded, answer = replay(tmp_path, name, STATES[name])
    assert _plain(answer.out) == _plain(recorded.out)
    assert _lines(answer, ESSENCE.get(name)) == _lines(recorded, ESSENCE.get(name))
    assert answer.exit == recorded.exit


def test_a_terminal_ends_its_lines_as_terminals_do(tmp_path: Path) -> None:
    recorded, answer = replay(tmp_path, "b04-help-running-tt", "running")
    assert answer.out.count("\r\n") == answer.out.count("\n") > 20
    assert recorded.out.count("\r\n") == recorded.out.count("\n")
