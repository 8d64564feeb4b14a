"""Every parser of external text, on recordings with hostile parts: only our errors, in linear time and memory.

CI tries some dozens of texts for each parser, always the same. A long run tries others; this one takes an hour:

    APEXGPU_FUZZ_SECONDS=3600 .venv/bin/pytest -n auto tests/quick/test_properties.py
"""

import contextlib
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.openssh import TRANSCRIPTS

from apexgpu import account, ownprocesses, readers
from apexgpu.boundedoutput import BoundedOutput, LineSplitter
from apexgpu.errors import ApexError
from apexgpu.forwarding import listeners, portowners
from apexgpu.forwarding.records import Tunnel
from apexgpu.gpus import HostGpus
from apexgpu.iam import pushlog
from apexgpu.manageshell import portmaps, replies, startrecords
from apexgpu.models import Host, Reply
from apexgpu.nvidia import smi
from apexgpu.nvidia.choice import Need, offers
from apexgpu.recipes import computeoutput, facts, setupscript
from apexgpu.remote import disks, remotescript
from apexgpu.remote.programs import serve
from apexgpu.ssh import failures, muxclient, route
from apexgpu.sshfs import mountprocesses, mountrecords, mounttable, sshfscommand
from apexgpu.text import safe
from apexgpu.transfer import rsync
from apexgpu.transfer.sftppackets import PacketReader, SftpError

SECONDS = float(os.environ.get("APEXGPU_FUZZ_SECONDS", "0"))
EXAMPLES = 40
HOST = Host("gpu7", "10.0.0.7", "alice", 22001)
DATA = Path(__file__).parent.parent / "data"

pytestmark = pytest.mark.timeout(max(120, 2 * SECONDS))


@dataclass(frozen=True)
class Parser:
    """A parser of text, and texts that it understands."""

    name: str
    parse: Callable[[str], object]
    samples: tuple[str, ...]


def recordings() -> tuple[str, ...]:
    """What manage shells have printed."""
    found = []
    for path in sorted(TRANSCRIPTS.glob("*.json")):
        found.append(json.loads(path.read_text())["stdout"])
    return tuple(found)


def reports() -> tuple[str, ...]:
    """What nvidia-smi has printed."""
    return tuple(
        f"{path.read_text()}\n@@ 0" for path in sorted((DATA / "nvidia-smi").glob("*.txt"))
    )


def manage_reply(text: str) -> None:
    """Every parser of a manage reply; some refuse it."""
    for parse in (
        replies.parse_status,
        replies.parse_start,
        replies.parse_stop,
        replies.parse_port_maps,
        replies.parse_register,
    ):
        for reply in (Reply(0, text), Reply(1, "", text)):
            with contextlib.suppress(ApexError):
                parse(reply, "gpu7")
    replies.is_manage_shell(Reply(0, text))


def gpu_report(text: str) -> None:
    """nvidia-smi's report, and the decisions that depend on it."""
    found = smi.reports(text, "gpu7")
    offers({"gpu7": found}, Need())
    json.dumps(HostGpus(found).to_json())


def sent_files(text: str) -> None:
    mark = setupscript.parse_mark(text)
    if mark is not None:
        assert mark.step >= 0
        setupscript.source_file(mark)


DF = (DATA / "df-h.txt").read_text()
TUNNEL = Tunnel.from_json(
    readers.json_object(
        '{"id": "gpu7-6006", "host": "gpu7", "forwards": [{"local": 6006, "remote": "localhost:6006"}],'
        ' "pid": 1, "started": 1.5, "background": true, "state": "up", "since": 2.5,'
        ' "reconnects": 3, "carried": 4, "reason": ""}',
        "the record",
    )
)
SERVERS = 'http://localhost:8888/?token=abc :: /home/alice\n{"port": 8888, "pid": 17, "root_dir": "/home"}'
PUSH = "[2026-01-02 03:04:05]task started by alice\n[2026-01-02 03:04:06]10.0.0.1\nalice [user OK] [lxc FAIL]\n"
PS = "  17 1000 Mon Sep  1 10:00:00 2025 sshfs alice@gpu7:/ /home/alice/gpu7 -o Port=22001,HostName=10.0.0.7"
FACTS = "apexgpu gpu 390.48, TITAN V, 12066\napexgpu free /usr/local 77715 64769\napexgpu python 3.5.2 1 /usr/bin/python3"
COMPUTE = 'apexgpu {"step": "convolution", "right": true, "numbers": 7, "seconds": 0.5}\napexgpu-left 0, 12\napexgpu-end 0'

PARSERS = [
    Parser("manage replies", manage_reply, recordings()),
    Parser("nvidia-smi", gpu_report, reports()),
    Parser("nvidia-smi, short", smi.brief, ("390.48, 0, TITAN V, 12066, 66",)),
    Parser("df", disks.parse_disks, (DF, "@disk /SSD\nx 1 2 3 4% /SSD", "a b  100 50 50 50% /NAS/a b")),
    Parser("ssh -G", route.parse, ("hostname 10.0.0.7\nport 22001\nidentityfile ~/.ssh/id",)),
    Parser("ssh's messages", failures.classify, ("Permission denied (publickey).\nConnection closed",)),
    Parser("push log", pushlog.parse_push_log, (PUSH,)),
    Parser("answers", remotescript.json_answers, ('apexgpu {"port": 8888}', "motd\napexgpu []")),
    Parser("Jupyter's list", serve.parse_server_list, (SERVERS,)),
    Parser("listeners", listeners.parse, ("apexgpu 0100007F:1776 31337",)),
    Parser("ps", lambda text: ownprocesses.parse_ps(text, 1000), (PS,)),
    Parser("ps, sshfs", lambda text: mountprocesses.parse_darwin(text, 1000), (PS,)),
    Parser("lsof", portowners.lsof_processes, ("p17\ncpython\nf3",)),
    Parser("/proc/net/tcp", lambda text: portowners.linux_inodes(text, 6006), ("0: 0100007F:1776 00000000:0000 0A 0 0 0 0 0 31337",)),
    Parser("PowerShell", sshfscommand.parse_windows_processes, ('[{"ProcessId": 7, "CommandLine": "sshfs a b"}]',)),
    Parser("mounts", mounttable.parse_linux, ("36 35 98:0 / /mnt rw - fuse.sshfs alice@gpu7:/ rw,user_id=1000",)),
    Parser("facts", lambda text: facts.read_facts(Reply(0, text), "gpu7"), (FACTS,)),
    Parser("compute", lambda text: computeoutput.read_run(text, text), (COMPUTE,)),
    Parser("setup", sent_files, ("apexgpu@0a done 1", "apexgpu@0a file cuda 17 abc /x y", "apexgpu@0a file")),
    Parser("rsync", lambda text: (rsync.parse_progress(text.encode("utf-8", "replace")), rsync.parse_bytes_sent(text), rsync.is_usable(text)), ("  1,234  56%  1MB/s\nLiteral data: 1,234 bytes", "rsync  version 3.2.7")),
]  # fmt: skip

HOSTILE = [
    "²",
    "9" * 5000,
    "-9",
    "1.2.3",
    "1e999",
    "NaN",
    "{" * 40,
    "[" * 20_000,
    "\x1b[31m",
    "\x00",
    "\x85",
    "\u2028",
    "\u202e",
    "\udc80",
    " " * 500,
    ":",
    ": ",
    '"',
    "Unknown Error",
    "apexgpu ",
    "@@ 0",
    "../../x",
    "-oProxyCommand=x",
]


def texts(parser: Parser) -> st.SearchStrategy[str]:
    """Lines of the samples in any order, some of them changed, between lines of any text."""
    lines = sorted({line for sample in parser.samples for line in sample.split("\n")})
    good = st.sampled_from(lines)
    changed = st.builds(with_hostile_word, good, st.sampled_from(HOSTILE), st.integers(0, 40))
    any_line = st.one_of(good, good, changed, changed, st.text(max_size=60))
    shuffled = st.lists(any_line, max_size=30).map("\n".join)
    whole = st.builds(
        with_hostile_line, st.sampled_from(parser.samples), any_line, st.integers(0, 400)
    )
    return st.one_of(shuffled, whole)


def with_hostile_word(line: str, word: str, place: int) -> str:
    """The line with one of its words replaced."""
    words = line.split(" ")
    words[place % len(words)] = word
    return " ".join(words)


def with_hostile_line(text: str, line: str, place: int) -> str:
    """The text with one of its lines replaced."""
    lines = text.split("\n")
    lines[place % len(lines)] = line
    return "\n".join(lines)


def try_many(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], parts: int) -> None:
    """Try some values; in a long run, for its share of the time."""
    end = time.monotonic() + SECONDS / parts
    chosen = settings(
        max_examples=1000 if SECONDS else EXAMPLES,
        derandomize=not SECONDS,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )

    def property_of(value: Any) -> None:
        check(value)

    while True:
        chosen(given(strategy)(property_of))()
        if time.monotonic() >= end:
            return


PARTS = len(PARSERS) + 5


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_a_parser_raises_our_errors_only(parser: Parser) -> None:
    def check(text: str) -> None:
        message = ""
        try:
            parser.parse(text)
        except ApexError as exc:
            message = exc.message
        assert len(message) < 1000
        assert "\x1b" not in safe(message)

    try_many(texts(parser), check, PARTS)


REPEATED = (" ", "a", "9", "\x1b[", "[", "{", ": ", "=", "a ", "\n", "GPU 0:", "/", ",", '"', "a:")
LENGTH = 200_000


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_a_parser_takes_linear_time_and_memory(parser: Parser) -> None:
    first = parser.samples[0].split("\n")[0]
    for repeated in REPEATED:
        text = first + " " + repeated * (LENGTH // len(repeated)) + "x\n@@ 0"
        began = time.process_time()
        tracemalloc.start()
        try:
            parser.parse(text)
        except ApexError:
            pass
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        # A quadratic parser needs minutes for this.
        assert time.process_time() - began < 10, repr(repeated)
        assert peak < 1000 * LENGTH, repr(repeated)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["gpu7", "10.0.0.7", "alice", 22001, 1e308, 1 << 70, -1, "\0"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)  # fmt: skip
STATE_FILES: dict[str, tuple[str, Callable[[Path], object], object]] = {
    "account": (
        "account.json",
        account.load,
        {
            "user": "alice",
            "iam_url": "http://iam",
            "fingerprint": "",
            "identity_file": "",
            "hosts": [{"name": "gpu7", "address": "10.0.0.7", "user": "alice", "port": 22001}],
        },
    ),
    "port maps": ("ports.json", lambda path: portmaps.remembered(path, HOST), {"gpu7": [6006]}),
    "mounts": (
        "mounts.json",
        mountrecords.load,
        [
            {
                "directory": "/x",
                "host": {"name": "gpu7", "address": "10.0.0.7", "user": "alice"},
                "remote": "/",
                "options": [],
                "made": [],
            }
        ],
    ),
    "starts": ("starts/gpu7.json", lambda path: startrecords.find(path, HOST), {"began": 1.0}),
}


def edited(document: object) -> st.SearchStrategy[object]:
    """The document with any value in the place of one of its fields, or any other document."""
    if not isinstance(document, dict):
        return JSON
    names = sorted(document)
    return st.one_of(
        JSON, st.builds(lambda name, value: {**document, name: value}, st.sampled_from(names), JSON)
    )


@pytest.mark.parametrize("kind", STATE_FILES)
def test_an_edited_state_file_counts_as_none_or_is_read(kind: str, tmp_path: Path) -> None:
    name, load, document = STATE_FILES[kind]
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    if isinstance(document, list):
        changes = st.one_of(JSON, edited(document[0]).map(lambda row: [row]))
    else:
        changes = edited(document)

    def check(value: object) -> None:
        file.write_text(json.dumps(value))
        load(tmp_path)

    try_many(changes, check, PARTS)
    for raw in (b"", b"\xff", b"[" * 100_000, b"9" * 5000):
        file.write_bytes(raw)
        load(tmp_path)


def test_an_edited_record_of_a_tunnel_is_our_error_or_is_read() -> None:
    def check(value: object) -> None:
        try:
            tunnel = Tunnel.from_json(readers.json_object(json.dumps(value), "the record"))
        except ApexError:
            return
        assert tunnel.pid > 0
        tunnel.describe()

    try_many(edited(TUNNEL.to_json()), check, PARTS)


def test_a_packet_of_sftp_is_read_or_refused() -> None:
    good = b"\0\0\0\1" + b"\0\0\0\1a" * 2 + b"\0\0\0\0"

    def check(body: bytes) -> None:
        for read in (
            lambda: PacketReader(body).names(),
            lambda: PacketReader(body).attributes(b"x"),
            lambda: PacketReader(body).string(),
        ):
            try:
                read()
            except SftpError:
                continue

    check(b"\xff" * 8)
    check(b"\x80\0\0\0\xff\xff\xff\xff" * 1000)
    pieces = st.sampled_from([good, b"\xff\xff\xff\xff", b"\0\0\0\1", b"\x80\0\0\0"])
    try_many(st.lists(st.one_of(pieces, st.binary(max_size=12))).map(b"".join), check, PARTS)


def test_messages_of_a_controlmaster_have_a_status_or_none() -> None:
    message = b"\0\0\0\x0c\x80\0\0\4\0\0\0\0\0\0\0\3"
    assert muxclient._exit_status(message) == 3

    def check(data: bytes) -> None:
        status = muxclient._exit_status(data)
        assert status is None or 0 <= status < 1 << 32

    check(b"\0" * 1_000_000)
    pieces = st.sampled_from([message, message[:-2], b"\xff\xff\xff\xff", b"\0\0\0\0"])
    try_many(st.lists(st.one_of(pieces, st.binary(max_size=12))).map(b"".join), check, PARTS)


def test_lines_and_bounded_output_do_not_depend_on_the_parts() -> None:
    def check(parts: list[bytes]) -> None:
        lines: list[str] = []
        splitter = LineSplitter(lines.append)
        output = BoundedOutput(16)
        for part in parts:
            splitter.feed(part)
            output.add_out(part)
        splitter.end()
        whole = b"".join(parts)
        expected = whole.decode("utf-8", "replace").split("\n")
        assert "\n".join(lines) == "\n".join(expected).removesuffix("\n")
        assert output.is_full == (len(whole) > 16)
        if not output.is_full:
            assert output.out == whole

    part = st.one_of(st.sampled_from([b"\n", b"a", b"\xe4\xb8\xad"]), st.binary(max_size=6))
    try_many(st.lists(part, max_size=12), check, PARTS)
