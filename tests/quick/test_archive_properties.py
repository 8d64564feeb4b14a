"""Any text as a listing, a check, a manifest, a journal or a reply about archives: a value, or our own error.

The texts are random, or true ones with a part of them exchanged. `APEXGPU_LONG_TESTS=1` tries many more of them.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.longruns import LONG
from tests.openssh import TRANSCRIPTS
from tests.quick.test_journal import RECOVER, SNAPSHOT

from apexgpu.archives import scriptreplies
from apexgpu.archives.catalog import Archive, FileStamp, Manifest, identify, parse_manifest
from apexgpu.archives.journal import Journal
from apexgpu.archives.selection import KeepRules, choose_archive, default_archive, rotate
from apexgpu.errors import ApexError
from apexgpu.manageshell import archivereplies
from apexgpu.models import Reply
from apexgpu.text import safe

EXAMPLES = 20_000 if LONG else 150
HOSTS = ("gpu2", "gpu12", "my-gpu")

many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    # The files of a test's own directory are written anew by each example.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# What programs, people and broken lines put where a number or a word should be.
_ODD = st.sampled_from(
    [
        "", "²", "٣", "-1", "1.2.3", "1e999", "9" * 5000, "NaN", "null", "\x00", "\x1b[31m", "\u202e", "%s",
        "end", "file", "note {}", "[" * 5000, "{}", "\r", "\t", " ", "é", "\ud800",
    ]
)  # fmt: skip
odd_text = st.one_of(_ODD, st.text(max_size=60))

CHECK = (
    "before 100 5\ngzip 0\nlist 0 12 1 1\nsum {sha}\nown gpu2-alice\nown ssh-ed25519 AAAA x\nown \n"
    "said tar: x\nmode 644\nblocks 8 512\nafter 100 5\nend\n"
).format(sha="a" * 64)
MANIFEST = Manifest("gpu2", "x", 1_700_000_000, 100, "b" * 64, 1_700_000_100)
LISTING = (
    "free 1000\nwritable\nfile 100 1700000000 644 own alice.tar.gz\n"
    f"note {MANIFEST.to_line('alice')}\n"
    "file 7 1700000000 600 server alice-gpu2-20231114T221320Z-x.tar.gz\nend\n"
)


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    """A true output in which words are exchanged, lines are lost, doubled or cut."""
    lines = text.split("\n")
    for _ in range(draw(st.integers(0, 4))):
        number = draw(st.integers(0, len(lines) - 1))
        words = lines[number].split(" ")
        words[draw(st.integers(0, len(words) - 1))] = draw(odd_text)
        change = draw(st.sampled_from(["word", "lose", "double", "cut"]))
        if change == "word":
            lines[number] = " ".join(words)
        elif change == "double":
            lines.insert(number, lines[number])
        elif change == "cut":
            lines[number] = lines[number][: draw(st.integers(0, 20))]
        elif len(lines) > 1:
            del lines[number]
    return "\n".join(lines)


def only_our_own(parse: Callable[[], Any]) -> Any:
    """The value; None where our own error was raised, whose message is text that can be shown."""
    try:
        return parse()
    except ApexError as exc:
        message = exc.message
    assert len(message) < 2000
    assert safe(message)
    return None


def listing(text: str) -> Any:
    return scriptreplies.parse_listing(
        Reply(0, text), "gpu2", directory="/NAS", user="alice", hosts=HOSTS
    )


@many
@given(st.one_of(mutated(LISTING), st.text(max_size=300)))
def test_a_listing(text: str) -> None:
    found = only_our_own(lambda: listing(text))
    if found is None:
        return
    created = [one.created for one in found.archives]
    assert created == sorted(created)
    for one in found.archives:
        assert one.path.startswith("/NAS/alice")
        assert one.verified is None or one.damage is None
        assert not (one.verified and one.changed)
        assert safe(one.describe())
        json.dumps(one.to_json())
    for one in found.archives:
        only_our_own(partial(choose_archive, found.archives, one.name))
    chosen = only_our_own(lambda: default_archive(found.archives, "gpu2"))
    assert chosen is None or (chosen.verified and not chosen.made_for_undo)
    for rules in (KeepRules(last=1), KeepRules(daily=1), KeepRules(weekly=1)):
        rotation = rotate(found.archives, rules)
        assert not found.archives or any(each.why for each in rotation)


@many
@given(st.one_of(mutated(CHECK), st.text(max_size=300)))
def test_a_check(text: str) -> None:
    """Only a complete output of a whole archive is good."""
    check = only_our_own(lambda: scriptreplies.parse_check(Reply(0, text), "gpu2", "/NAS/a"))
    if check is not None and check.problem is None:
        assert "\nend" in text
        assert (check.gzip_status, check.tar_status, check.changed) == (0, 0, False)
        assert check.has_rootfs
        assert check.has_system


@many
@given(
    st.one_of(
        mutated("after 5 6\nmode 644\nrenamed\nnoroom 7\narchive 5\ncontainer 6\nend\n"), st.text()
    )
)
def test_the_small_replies(text: str) -> None:
    reply = Reply(0, text)
    for parse in (
        lambda: scriptreplies.parse_stamp(reply, "gpu2"),
        lambda: scriptreplies.parse_mode(reply, "gpu2"),
        lambda: scriptreplies.parse_move(reply, "gpu2"),
        lambda: scriptreplies.parse_ages(reply, "gpu2"),
        lambda: scriptreplies.parse_done(reply, "gpu2"),
        lambda: scriptreplies.parse_removal(reply, "gpu2", "/NAS/a"),
    ):
        only_our_own(parse)
    position = scriptreplies.parse_progress(text)
    assert position is None or position >= 0


def values_of(document: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A true document, some of whose values are of another type, odd, or missing."""
    odd = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), odd_text,
        st.lists(odd_text, max_size=2), st.dictionaries(odd_text, odd_text, max_size=2),
    )  # fmt: skip
    return st.dictionaries(st.sampled_from(sorted(document)), odd, max_size=4).map(
        lambda changes: {**document, **changes}
    )


def as_json(document: object) -> str:
    # Python writes NaN and half pairs too, as whoever edits a file may.
    return json.dumps(document)


@many
@given(
    st.one_of(
        st.text(max_size=200),
        mutated(MANIFEST.to_line("alice")),
        values_of({**json.loads(MANIFEST.to_line("alice")), "damage": None}).map(as_json),
        st.sampled_from(["[" * 100_000, "9" * 100_000, '{"schema": ' + "1" * 5000 + "}"]),
    )
)
def test_a_manifest(text: str) -> None:
    manifest = parse_manifest(text, "alice")
    if manifest is None:
        return
    assert manifest.size >= 0
    assert (manifest.verified is None) == (manifest.damage is not None)
    assert "/" not in manifest.host + manifest.label
    assert parse_manifest(manifest.to_line("alice"), "alice") is not None
    stamp = FileStamp(manifest.size, manifest.created)
    found = identify("alice", HOSTS, "/NAS/alice.tar.gz", stamp, mode=0o644, manifest_text=text)
    assert isinstance(found, Archive)
    assert found.verified == manifest.verified


@many
@given(
    st.one_of(
        st.binary(max_size=200),
        st.sampled_from([b"[" * 100_000, b"9" * 100_000, b"\xff\xfe", b"{}" * 1000]),
        st.sampled_from([SNAPSHOT, RECOVER]).flatmap(
            lambda entry: values_of(entry_document(entry)).map(lambda one: as_json(one).encode())
        ),
    )
)
def test_a_journal(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "journal" / "gpu2.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    journal = Journal(tmp_path)
    entry = only_our_own(lambda: journal.find("gpu2"))
    if entry is not None:
        assert all(isinstance(path, str) for path in entry.archives_needed)
        assert safe(entry.describe())
        assert entry.resume_command.startswith("apexgpu ")
        json.dumps(entry.to_json())


def entry_document(entry: Any) -> dict[str, Any]:
    return {"version": 2, **json.loads(json.dumps(asdict(entry)))}


RECORDED = {
    name: json.loads((TRANSCRIPTS / f"{name}.json").read_text())["stdout"]
    for name in ("20-snapshot", "22-snapshot-token", "26-recover-token")
}
PARSERS: dict[str, Callable[[Reply, str], object]] = {
    "20-snapshot": archivereplies.parse_snapshot_confirmation,
    "22-snapshot-token": archivereplies.parse_snapshot,
    "26-recover-token": archivereplies.parse_recover,
}


@pytest.mark.parametrize("name", sorted(PARSERS))
@many
@given(data=st.data())
def test_a_reply(name: str, data: st.DataObject) -> None:
    out = data.draw(st.one_of(mutated(RECORDED[name]), st.text(max_size=200)))
    err = data.draw(st.one_of(st.just(""), odd_text))
    only_our_own(lambda: PARSERS[name](Reply(0, out, err), "gpu2"))


@many
@given(odd_text.filter(lambda text: "tar" not in text))
def test_a_line_of_tar_that_no_rule_knows_is_never_good(text: str) -> None:
    words = "".join(letter for letter in text if letter.isprintable())
    reply = Reply(0, RECORDED["22-snapshot-token"], f"tar: x{words}\n")
    with pytest.raises(ApexError):
        archivereplies.parse_snapshot(reply, "gpu2")


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    only_our_own(work)
    return time.process_time() - began


BIG: dict[str, Callable[[int], Callable[[], object]]] = {
    "listing": lambda n: lambda: listing("free 1\n" + "x 100 1700000000 644 own y\n" * n + "end\n"),
    "one long line": lambda n: lambda: listing("file " + "1 " * n + "\nend\n"),
    "check": lambda n: (
        lambda: scriptreplies.parse_check(Reply(0, "said tar: x\n" * n + CHECK), "gpu2", "/NAS/a")
    ),
    "manifest": lambda n: lambda: parse_manifest('{"host": "' + "x" * n * 10 + '"}', "alice"),
    "reply": lambda n: (
        lambda: archivereplies.parse_snapshot(
            Reply(0, RECORDED["22-snapshot-token"] + "1.2G\tx\n" * n, "x\n" * n), "gpu2"
        )
    ),
    "spaces": lambda n: (
        lambda: archivereplies.parse_snapshot(
            Reply(0, RECORDED["22-snapshot-token"] + "=" * n * 10, "tar: " + " " * n * 10), "gpu2"
        )
    ),
}


@pytest.mark.parametrize("kind", sorted(BIG))
def test_the_time_grows_with_the_input_and_not_faster(kind: str) -> None:
    """Ten times the input takes about ten times as long: far less than a hundred times."""
    small, large = 4000, 40_000
    for _ in range(3):
        if seconds(BIG[kind](large)) < 30 * seconds(BIG[kind](small)) + 0.05:
            return
    pytest.fail(f"{kind}: the time grows faster than the input")
