"""Every recording of the real servers, judged: they exit 0 on most failures, so the words decide."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from apexgpu.errors import ApexError, DroppedError, HalfMadeError, RefusedError
from apexgpu.manageshell import archivereplies, replies
from apexgpu.models import Container, Host, Reply, Target
from apexgpu.ssh import failures

TRANSCRIPTS = Path(__file__).parent.parent / "data" / "transcripts"
GOOD = "good"

# Recording -> the code of its error, or GOOD. Every file of the directory stands in exactly one list.
VERDICTS: dict[str, str] = {
    "01-manage-before-register": "not_registered",
    "02-register-unknown": "exists",
    "03-register": GOOD,
    "04-register-again": "exists",
    "05-help-stopped": GOOD,
    "06-up-stopped": GOOD,
    "07-up-running": GOOD,
    "08-snapshot-running": "running",
    "09-recover-running": "running",
    "10-rebuild-running": GOOD,
    "11-unknown": "unknown_command",
    "12-port-running": GOOD,
    "13-port-6006": GOOD,
    "14-port-6006-again": GOOD,
    "15-port-600": "not_mapped",
    "16-port-invalid": "port",
    "17-stop-running": GOOD,
    "18-stop-stopped": GOOD,
    "19-port-stopped": "stopped",
    "20-snapshot": GOOD,
    "21-snapshot-wrong-token": "token",
    "22-snapshot-token": GOOD,
    "23-recover": GOOD,
    "24-recover-wrong-token": "token",
    "25-recover-missing-file": "no_snapshot",
    "26-recover-token": GOOD,
    "27-up-after-recover": GOOD,
    "28-stop": GOOD,
    "29-rebuild": GOOD,
    "30-rebuild-recover": GOOD,
    "31-rebuild-recover-user-not-made": "recover_bad",
    "32-snapshot-dropped": "cut",
    "33-recover-damaged-archive": "recover_bad",
    "34-up-after-damaged-recover": "start_failed",
    "35-iam-down": "iam_down",
    "36-iam-down-up": "iam_down",
    "37-snapshot-cannot-write": "snapshot_bad",
    "38-up-driver-mismatch-no-installer": GOOD,
    "39-up-driver-installed": GOOD,
    "b00-container-port-before": "connection_refused",
    "b00-no-account": "not_registered",
    "b00-no-account-stop": "not_registered",
    "b00-register-wrong-key": "register_key",
    "b01-register-ldap-user-not-in-iam": "iam_unknown",
    "b01-register-no-arg": "no_user",
    "b01-register-no-arg-tt": "no_user",
    "b01-register-unknown-to-iam": "iam_unknown",
    "b02-register-again": "exists",
    "b02-register-ok": GOOD,
    "b02-register-root": "exists",
    "b02-register-two-words": "exists",
    "b03-container-ssh-when-stopped": "connection_refused",
    "b03-help-stopped": GOOD,
    "b03-port-8888-when-stopped": "stopped",
    "b03-port-when-stopped": "stopped",
    "b03-stop-when-stopped": GOOD,
    "b03-unknown-stopped": "unknown_command",
    "b04-container-ssh": GOOD,
    "b04-help-running": GOOD,
    "b04-help-running-tt": GOOD,
    "b04-rebuild-running": GOOD,
    "b04-recover-running": "running",
    "b04-recover-token-running": "running",
    "b04-snapshot-running": "running",
    "b04-snapshot-running-tt": "running",
    "b04-start-first": GOOD,
    "b04-start-when-running": GOOD,
    "b04-start-when-running-tt": GOOD,
    "b04-start-when-running-tt-lastlog": GOOD,
    "b04-unknown-running": "unknown_command",
    "b04-unknown-running-tt": "unknown_command",
    "b04-unknown-status-word": "unknown_command",
    "b04-unknown-upper": "unknown_command",
    "b05-port-0": "port",
    "b05-port-08": "port",
    "b05-port-2-PREFIX-BUG": "not_mapped",
    "b05-port-22": GOOD,
    "b05-port-6006": GOOD,
    "b05-port-65536": "not_mapped",
    "b05-port-70000": "port",
    "b05-port-88-PREFIX-BUG": "not_mapped",
    "b05-port-8888": GOOD,
    "b05-port-8888-again": GOOD,
    "b05-port-8888-tt": GOOD,
    "b05-port-GLOB": "port",
    "b05-port-QUOTED": "unknown_command",
    "b05-port-abc": "port",
    "b05-port-list": GOOD,
    "b05-port-list-empty": GOOD,
    "b05-port-list-end": GOOD,
    "b05-port-negative": "port",
    "b05-port-two": GOOD,
    "b06-port-9000-two-ips": "several_addresses",
    "b06-port-list-after": GOOD,
    "b06-port-list-two-ips": "several_addresses",
    "b06-ssh-container-after": GOOD,
    "b06-start-after": GOOD,
    "b06-status-two-ips": GOOD,
    "b06-stop-two-ips": GOOD,
    "b07-stop-running-tt": GOOD,
    "b08-snapshot-dir-missing": "snapshot_bad",
    "b08-snapshot-dir-not-writable-0555": GOOD,
    "b08-snapshot-nas-full": "snapshot_bad",
    "b08-snapshot-nas-readonly": "snapshot_bad",
    "b08-snapshot-no-token": GOOD,
    "b08-snapshot-no-token-tt": GOOD,
    "b08-snapshot-right-token": GOOD,
    "b08-snapshot-right-token-again": GOOD,
    "b08-snapshot-wrong-token": "token",
    "b10-rebuild-stopped": GOOD,
    "b10-rebuild-with-token": GOOD,
    "b10-recover-no-token": GOOD,
    "b10-recover-no-token-tt": GOOD,
    "b10-recover-nonexistent-path": "no_snapshot",
    "b10-recover-wrong-token": "token",
    "b11-after-recover": GOOD,
    "b11-recover-own-snapshot": GOOD,
    "b12-recover-template-after-rebuild": GOOD,
    "b12-ssh-after-rebuild": "no_route",
    "b12-ssh-after-rebuild-stop-start": "no_route",
    "b12-start-after-rebuild": GOOD,
    "b13-recover-token-NO-PATH": "no_snapshot",
    "b14-recover-directory": "recover_bad",
    "b14-recover-garbage": "recover_bad",
    "b14-recover-template-heals": GOOD,
    "b14-recover-truncated-snapshot": "recover_bad",
    "b14-snapshot-no-token-after-garbage": "no_rootfs",
    "b14-start-after-garbage": "start_failed",
    "b14-start-after-truncated": "start_failed",
    "b14-status-after-garbage": GOOD,
    "b15-iam-down-help": "iam_down",
    "b15-iam-down-port": "iam_down",
    "b15-iam-down-register": "iam_unknown",
    "b15-iam-down-snapshot": "iam_down",
    "b15-iam-down-start": "iam_down",
    "b15-iam-down-start-tt": "iam_down",
    "b15-iam-down-stop": "iam_down",
    "b15-iam-hangs-help": "cut",
    "b16-nvidia-mismatch-no-installer": GOOD,
    "b16-nvidia-mismatch-no-installer-tt": GOOD,
    "b20-container-ssh-after-drop": "connection_refused",
    "b20-port-22-after-drop": GOOD,
    "b20-port-after-drop": GOOD,
    "b20-start-again-after-drop": GOOD,
    "b21-start-after-recover-T-dropped": "start_failed",
    "b22-port-no-ip": "no_address",
    "b22-start-no-dhcp": "cut",
    "b22-status-no-ip": GOOD,
    "b23-port-5000-again": "not_mapped",
    "b23-port-next-is-11112-dicom": "not_mapped",
    "b23-stop-after-dicom": GOOD,
    "b24-token-got-just-before-boundary": GOOD,
    "b24-token-used-just-after-boundary": "token",
    "b25-from-inside-gpu1-container-ssh-gpu2": "timeout",
    "b25-inside-gpu1-tcp-tests": GOOD,
    "b25-register-gpu2": GOOD,
    "b25-start-gpu2": GOOD,
    "b26-alice-register-after-bobs-push": "register_key",
    "b26-bob-can-register-for-alice": GOOD,
    "b26-bob-recovers-alices-snapshot": GOOD,
    "b26-bob-register": GOOD,
    "b27-command-extra-spaces": GOOD,
    "b27-command-newline": GOOD,
    "b27-command-with-semicolon": "unknown_command",
    "b29-register-again-after-drop": "exists",
    "b31-recover-own": GOOD,
    "b31-snapshot-with-socket": GOOD,
}
EXIT_CODES = {
    "not_registered": 6,
    "register_key": 6,
    "running": 6,
    "unknown_command": 6,
    "not_mapped": 6,
    "port": 2,
    "stopped": 6,
    "token": 6,
    "no_snapshot": 6,
    "recover_bad": 1,
    "start_failed": 6,
    "iam_down": 6,
    "snapshot_bad": 1,
    "connection_refused": 5,
    "iam_unknown": 6,
    "no_user": 2,
    "several_addresses": 6,
    "no_route": 5,
    "no_rootfs": 6,
    "no_address": 6,
    "timeout": 5,
    "unexpected": 6,
}
HOST = Host("gpu7", "10.77.0.1", "alice", 22001)


def reader(words: Sequence[str]) -> Callable[[Reply, str], object]:
    """Which of the readers answers for a manage command given as words."""
    match list(words):
        case []:
            return replies.parse_start
        case ["help", *_]:
            return replies.parse_status
        case ["stop", *_]:
            return replies.parse_stop
        case ["port"]:
            return replies.parse_port_maps
        case ["port", port, *_]:
            return lambda reply, host: replies.parse_port_map(reply, host, port)
        case ["snapshot"]:
            return archivereplies.parse_snapshot_confirmation
        case ["snapshot", *_]:
            return archivereplies.parse_snapshot
        case ["recover"] | ["rebuild", *_]:
            return archivereplies.parse_recover_confirmation
        case ["recover", *_]:
            return archivereplies.parse_recover
    return replies.parse_status


def recordings() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(TRANSCRIPTS.glob("*.json"))}


def judge(recording: dict[str, Any]) -> str:
    """What the product makes of a recording: GOOD, or the code of the error it raises."""
    words = re.sub(r"^ssh (-tt )?", "", recording["command"]).split()
    where, command = words[0], words[1:]
    reply = Reply(recording["exit"], recording["stdout"], recording.get("stderr") or "")
    user, _, alias = where.rpartition("@")
    role = (
        "register" if user == "register" else "manage" if alias.endswith("-manage") else "container"
    )
    if reply.code == 255:
        failure = failures.classify(reply.err)
        assert failure is not None
        raise failures.failure_error(Target(HOST, role), failure, reply.err)  # type: ignore[arg-type]
    if reply.code == 124:
        raise DroppedError("cut off", hint="apexgpu status gpu7", code="cut", seen=reply.out)
    if role == "register":
        return GOOD if replies.parse_register(reply, "gpu7") else "exists"
    if role == "manage":
        reader(["frobnicate"] if command[:1] == ["'port"] else command)(reply, "gpu7")
    return GOOD


def test_every_recording_has_a_verdict() -> None:
    assert sorted(VERDICTS) == sorted(recordings())


@pytest.mark.parametrize("name", sorted(VERDICTS))
def test_verdict(name: str) -> None:
    wanted = VERDICTS[name]
    if wanted in {GOOD, "exists"}:
        assert judge(recordings()[name]) == wanted
        return
    with pytest.raises(ApexError) as caught:
        judge(recordings()[name])
    assert caught.value.code == wanted
    assert caught.value.exit_code == EXIT_CODES.get(wanted, 5)
    assert caught.value.hint
    assert "gpu7" in caught.value.message or wanted == "cut"


def test_start_tells_the_driver_notice_and_whether_the_install_went_well() -> None:
    found = recordings()
    reply = Reply(0, found["39-up-driver-installed"]["stdout"])
    assert replies.parse_start(reply, "gpu7").driver == replies.DriverMismatch("390.48", "", True)
    reply = Reply(0, found["b16-nvidia-mismatch-no-installer"]["stdout"])
    assert replies.parse_start(reply, "gpu7").driver == replies.DriverMismatch(
        "535.54.03", "390.48", False
    )


def test_status_reads_state_addresses_and_memory() -> None:
    found = recordings()
    container = replies.parse_status(Reply(0, found["07-up-running"]["stdout"]), "gpu7")
    assert (container.state, container.pid, container.addresses) == (
        "RUNNING",
        19442,
        ("10.0.3.9",),
    )
    assert container.memory == round(2.89 * 1024 * 1024)
    two = replies.parse_status(Reply(0, found["b06-status-two-ips"]["stdout"]), "gpu7")
    assert two.addresses == ("10.0.3.159", "172.17.0.1")


def test_stop_tells_what_it_unmapped() -> None:
    found = recordings()
    stopped = replies.parse_stop(Reply(0, found["17-stop-running"]["stdout"]), "gpu7")
    assert stopped.was_running
    assert stopped.unmapped == (
        "10.77.0.1:22001 => container:22",
        "10.77.0.1:11001 => container:6006",
    )
    assert stopped.ports == (6006,)
    assert not replies.parse_stop(Reply(0, found["18-stop-stopped"]["stdout"]), "gpu7").was_running


@pytest.mark.parametrize("state", ["FROZEN", "STOPPING", "RUNNING"])
def test_a_container_that_is_in_another_state_has_not_stopped(state: str) -> None:
    """What comes after a stop deletes its files."""
    said = recordings()["18-stop-stopped"]["stdout"]
    with pytest.raises(RefusedError) as caught:
        replies.parse_stop(Reply(0, re.sub(r"(State: +)STOPPED", rf"\1{state}", said)), "gpu7")
    assert caught.value.code == "not_stopped"


def test_a_start_after_which_it_does_not_run_is_none() -> None:
    said = recordings()["07-up-running"]["stdout"]
    with pytest.raises(RefusedError) as caught:
        replies.parse_start(Reply(0, re.sub(r"(State: +)RUNNING", r"\1STOPPED", said)), "gpu7")
    assert caught.value.code == "start_failed"


def test_of_two_blocks_the_last_is_how_it_is_now() -> None:
    block = "Name: alice\nState: {}\n{}"
    text = block.format("RUNNING", "PID: 7\nIP: 10.0.3.9\n") + block.format("STOPPED", "")
    assert replies.parse_container(text) == Container("STOPPED", None, (), None)


def test_a_register_that_goes_on_after_done_is_not() -> None:
    with pytest.raises(ApexError, match="does not know"):
        replies.parse_register(Reply(0, "Done!\nlxc-create: alice: no space left\n"), "gpu7")


def test_only_an_exact_entry_of_the_list_is_a_map() -> None:
    found = recordings()
    maps = replies.parse_port_maps(Reply(0, found["b06-port-list-after"]["stdout"]), "gpu7")
    assert [(one.port, one.container_port) for one in maps] == [
        (22001, 22),
        (11001, 8888),
        (11002, 6006),
        (11003, 7001),
    ]


def test_offers_carry_token_path_and_size() -> None:
    found = recordings()
    assert archivereplies.parse_snapshot_confirmation(
        Reply(0, found["20-snapshot"]["stdout"]), "gpu7"
    ) == archivereplies.Confirmation("cbf35a63", None, "186M")
    offer = archivereplies.parse_recover_confirmation(
        Reply(0, found["29-rebuild"]["stdout"]), "gpu7"
    )
    assert offer == archivereplies.Confirmation(
        "89019c8a", "/NAS/Workspaces/lxc-snapshot/template.tar.gz"
    )


@pytest.mark.parametrize(
    ("line", "snapshot_bad", "recover_bad"),
    [
        ("tar: rootfs/home/alice/Error.sock: socket ignored", False, False),
        ("tar: rootfs/var/log/syslog: file changed as we read it", True, True),
        ("tar: rootfs/var/log/x: File removed before we read it", True, True),
        ("tar: rootfs/x: 无法 open: 权限不够", True, True),
        ("tar: rootfs/etc/x: time stamp 2026-01-01 00:00:00 is 3.2 s in the future", False, False),
        ("tar: Ignoring unknown extended header keyword 'SCHILY.fflags'", False, False),
        ("tar: rootfs/home/x: Cannot stat: Permission denied", True, True),
        ("tar: rootfs/home/x: File shrank by 4096 bytes; padding with zeros", True, True),
        (
            "tar: rootfs/home/x: Read error at byte 0, while reading 512 bytes: Input/output error",
            True,
            True,
        ),
        ("tar: Exiting with failure status due to previous errors", True, True),
        ("tar (child): /NAS/a.tar.gz: Cannot open: Permission denied", True, True),
        ("gzip: stdout: Disk quota exceeded", True, True),
        ("tar: rootfs/dev/null: Cannot mknod: Operation not permitted", True, True),
        ("tar: something that no rule knows", True, True),
        ("\x1b[31mgzip: stdin: unexpected end of file\x1b[0m", True, True),
        ("lxc-start: alice: The container failed to start", False, True),
        ("tar: Unexpected EOF in archive", True, True),
        ("cat: write error: Disk quota exceeded", True, True),
        ("cat: /NAS/Workspaces/lxc-snapshot: Stale file handle", True, True),
        ("du: cannot read directory 'rootfs/home': Input/output error", True, True),
        ("/bin/snapshot: line 8:  4242 Killed", True, True),
        ("chown: cannot access 'rootfs/home/alice': No such file or directory", False, True),
        ("chmod: cannot access 'rootfs/home/alice': No such file or directory", False, True),
        ("mkdir: cannot create directory 'rootfs/home': Read-only file system", False, True),
    ],
)
def test_which_words_on_stderr_are_trouble(
    line: str, snapshot_bad: bool, recover_bad: bool
) -> None:
    found = recordings()
    for name, read, bad in (
        ("22-snapshot-token", archivereplies.parse_snapshot, snapshot_bad),
        ("26-recover-token", archivereplies.parse_recover, recover_bad),
    ):
        reply = Reply(0, found[name]["stdout"], f"{line}\n")
        if not bad:
            assert read(reply, "gpu7").path
            continue
        with pytest.raises(ApexError) as caught:
            read(reply, "gpu7")
        assert caught.value.code in {"snapshot_bad", "recover_bad"}


@pytest.mark.parametrize(
    ("out", "err", "code", "half_made"),
    [
        ("GNU bash, version 4.3.48(1)-release\nThese shell commands are defined", "", 0, True),
        ("", "bash: help: command not found\n", 127, True),
        ("", "-bash: line 1: stop: command not found\n", 127, True),
        ("", "sh: 1: help: not found\n", 127, True),
        ("", "zsh:1: command not found: help\n", 127, True),
        ("Welcome to Ubuntu 16.04.7 LTS\n", "", 0, False),
        ("", "", 0, False),
        ("Hi, alice\nbash: x: command not found\n", "", 0, False),
    ],
)
def test_an_ordinary_shell_is_a_half_made_account(
    out: str, err: str, code: int, half_made: bool
) -> None:
    with pytest.raises(ApexError) as caught:
        replies.parse_status(Reply(code, out, err), "gpu7")
    assert isinstance(caught.value, HalfMadeError) is half_made


def test_an_offer_of_another_command_is_none() -> None:
    said = recordings()["20-snapshot"]["stdout"]
    with pytest.raises(ApexError, match="does not know"):
        archivereplies.parse_recover_confirmation(Reply(0, said), "gpu7")


def test_a_recover_that_does_not_say_that_it_is_done_is_not() -> None:
    said = recordings()["26-recover-token"]["stdout"]
    assert archivereplies.parse_recover(Reply(0, said), "gpu7")
    with pytest.raises(ApexError, match="does not know"):
        archivereplies.parse_recover(Reply(0, re.sub(r"(?m)^.*Done.*\n", "", said)), "gpu7")


@pytest.mark.parametrize(
    "text", ["", "hello\n", "<html>502</html>", "========== Hi, alice\n", "State:  RUNNING\n"]
)
@pytest.mark.parametrize(
    "words", [[], ["help"], ["stop"], ["port"], ["snapshot"], ["snapshot", "x"], ["recover"]]
)
def test_unknown_text_is_an_error_that_keeps_the_text(words: list[str], text: str) -> None:
    with pytest.raises(ApexError) as caught:
        reader(words)(Reply(0, text), "gpu7")
    assert caught.value.code == "unexpected"
    assert (text.split("\n")[0].lstrip("= ") or "nothing") in caught.value.message


@pytest.mark.parametrize("words", [[], ["help"], ["stop"], ["snapshot"]])
def test_an_ordinary_shell_is_what_a_cut_register_leaves(words: list[str]) -> None:
    with pytest.raises(ApexError) as caught:
        reader(words)(
            Reply(0, "GNU bash, version 4.3.48(1)-release\nThese shell commands are defined\n"),
            "gpu7",
        )
    assert (caught.value.hint or "").startswith("apexgpu register gpu7")


@pytest.mark.parametrize("name", [name for name, wanted in VERDICTS.items() if wanted == GOOD])
def test_a_reply_that_lost_its_end_is_never_good(name: str) -> None:
    """A connection that ends early still may exit 0: half an answer must not pass for a whole one."""
    recording = recordings()[name]
    if "-manage" not in recording["command"] or "register@" in recording["command"]:
        return
    head = recording["stdout"].split("========== Have a good day")[0]
    with pytest.raises(ApexError):
        judge({**recording, "stdout": head})
