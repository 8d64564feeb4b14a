"""The lab's monitor page -> who holds what on which GPU. Pure, and tolerant: nobody promises how the page looks.

Any table counts that has a column for users, and tells the host in a column, a caption, a heading before it or a row
of its own. What cannot be understood is left out; nothing here fails.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from apexgpu.nvidia.htmltables import Table, tables

STALE = timedelta(minutes=10)
"""A row that is older than this is marked."""

_ANY_HOUR = timedelta(hours=27)  # how far two clocks can be apart by their time zones alone


@dataclass(frozen=True, slots=True)
class Claim:
    """What the page says of one user on a GPU (None: somewhere on the host). Memory in bytes, None where not told.

    `refreshed` is when the host wrote it, in the page's words; `stale` whether that is long ago.
    """

    host: str
    gpu: int | None
    user: str
    group: str
    memory: int | None
    refreshed: str
    stale: bool


@dataclass(frozen=True, slots=True)
class _Row:
    host: str
    cells: dict[str, str]
    refreshed: str


# What a column is about, by the words over it; the first that fits.
_COLUMNS = (
    (
        "refreshed",
        re.compile(r"\b((last )?(updated?|refresh(ed)?|seen)|time)\b|更新|刷新|时间", re.I),
    ),
    ("memory", re.compile(r"\bmem(ory)?\b|显存|内存", re.I)),
    ("user", re.compile(r"\b(user|owner|account)(s|name)?\b|\bwho\b|用户|使用者|所有者", re.I)),
    ("group", re.compile(r"\b(group|team)s?\b|组", re.I)),
    ("host", re.compile(r"\b(host|server|node|machine)(s|name)?\b|主机|服务器|机器", re.I)),
    (
        "gpu",
        re.compile(
            r"(gpu|card|index|device|id|no\.?|#|显卡|卡号|编号)s?( ?(id|index|no\.?|number|#|号))?",
            re.I,
        ),
    ),
)


def claims(page: str, hosts: Sequence[str], now: datetime) -> tuple[Claim, ...]:
    """Every claim that the page makes about one of `hosts`; `now` has a zone."""
    rows = [row for table in tables(page) for row in _rows(table, hosts)]
    times = {row.refreshed: _time(row.refreshed, now) for row in rows}
    newest = max((time for time, _ in times.values() if time is not None), default=now)
    return tuple(
        claim
        for row in rows
        for claim in _claims(row, stale=_is_stale(*times[row.refreshed], newest, now))
    )


def _rows(table: Table, hosts: Sequence[str]) -> Iterable[_Row]:
    columns: dict[int, str] = {}
    above = _host_in(table.heading, hosts)
    refreshed = _stamp_in(table.heading)
    for cells in table.rows:
        found = _heading_row(cells)
        if found:
            columns = found
            continue
        if len(set(cells)) == 1 and re.search(
            r"[A-Za-z_-]+\d", cells[0]
        ):  # one cell over the whole width
            above, refreshed = _host_in(cells[0], hosts), _stamp_in(cells[0]) or refreshed
            continue
        named = {name: cells[place] for place, name in columns.items() if place < len(cells)}
        host = _host_in(named.get("host", ""), hosts) or above
        if host and "user" in named:
            yield _Row(
                host,
                named | {"unit": _unit(table, columns)},
                named.get("refreshed", "") or refreshed,
            )


def _heading_row(cells: Sequence[str]) -> dict[int, str]:
    """The columns that a row of words names; nothing where it is no such row."""
    found: dict[int, str] = {}
    for place, text in enumerate(cells):
        name = next((name for name, words in _COLUMNS if _names(name, words, text)), "")
        if name and name not in found.values():
            found[place] = name
    return found if "user" in found.values() and len(found) > 1 else {}


def _names(name: str, words: re.Pattern[str], text: str) -> bool:
    bare = re.sub(r"[(\[（].*", "", text).strip()
    if len(bare) > 30 or re.search(r"\d", bare):
        return False
    return bool(words.fullmatch(bare) if name == "gpu" else words.search(bare))


def _unit(table: Table, columns: dict[int, str]) -> str:
    """The unit that stands over the memory column, MiB where none does."""
    place = next((place for place, name in columns.items() if name == "memory"), None)
    head = next(
        (cells[place] for cells in table.rows if place is not None and _heading_row(cells)), ""
    )
    match = re.search(r"\b([KMGT]i?B)\b", head)
    return match[1] if match else "MiB"


def _host_in(text: str, hosts: Sequence[str]) -> str:
    words = set(re.findall(r"[A-Za-z0-9_-]+", text))
    return next((name for name in hosts if {name, f"{name}-manage"} & words), "")


def _claims(row: _Row, *, stale: bool) -> Iterable[Claim]:
    """One claim for each user in the cell; a memory column of as many parts goes with them."""
    people = _parts(row.cells["user"])
    shares = _parts(row.cells.get("memory", ""))
    groups = _parts(row.cells.get("group", ""))
    number = re.search(r"\d+", row.cells.get("gpu", ""))
    for place, text in enumerate(people):
        name, group, memory = _person(text, row.cells["unit"])
        if not name:
            continue
        if memory is None and len(shares) == len(people):
            memory = _bytes(shares[place], row.cells["unit"])
        if not group and groups:
            group = (
                groups[place]
                if len(groups) == len(people)
                else groups[0]
                if len(groups) == 1
                else ""
            )
        yield Claim(
            row.host, int(number[0]) if number else None, name, group, memory, row.refreshed, stale
        )


def _parts(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"[,;\n、，；]", text) if part.strip(" -—/")]


_PERSON = re.compile(r"([^\s(:=（：/]+)\s*(?:[(（]([^)）]*)[)）]|/(\w+))?\s*[:=：]?\s*(.*)")
_NOBODY = {"none", "idle", "free", "n/a", "空闲", "无", "-", "null"}


def _person(text: str, unit: str) -> tuple[str, str, int | None]:
    """`alice (DM): 8886 MiB` and its shorter forms -> name, group, memory; what is in brackets may be the memory."""
    match = _PERSON.fullmatch(text)
    if match is None or match[1].lower() in _NOBODY:
        return "", "", None
    bracket, memory = match[2] or match[3] or "", _bytes(match[4], unit)
    if memory is None and re.match(r"\d", bracket):
        return match[1], "", _bytes(bracket, unit)
    return match[1], bracket.strip(), memory


_SIZES = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def _bytes(text: str, unit: str) -> int | None:
    """`8886 MiB`, `8.7G`, `8886`, `8886 / 12066 MiB` -> bytes of the first number."""
    match = re.match(r"(\d{1,9}(?:\.\d{1,6})?)\s*([KMGT]?)", text.strip(), re.I)
    if match is None or "%" in text:
        return None
    later = re.search(r"\d\s*([KMGT])i?B?\b", text, re.I)
    size = match[2] or (later[1] if later else unit[0])
    return int(float(match[1]) * _SIZES[size.lower()])


_STAMP = re.compile(
    r"\d{4}[-/]\d\d?[-/]\d\d?[ T]+\d\d?:\d\d(?::\d\d)?(?:\.\d+)?(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?"
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} {1,2}\d\d? \d\d:\d\d:\d\d \d{4}"
    r"|\d+ ?(?:s|sec|seconds?|min|minutes?|h|hours?|d|days?|秒|分钟|小时|天) ?(?:ago|前)"
    r"|\b1\d{9}\b"
)
_UNITS = {"s": 1, "秒": 1, "m": 60, "分": 60, "h": 3600, "小": 3600, "d": 86400, "天": 86400}


def _stamp_in(text: str) -> str:
    match = _STAMP.search(text)
    return match[0] if match else ""


def _time(text: str, now: datetime) -> tuple[datetime | None, bool]:
    """The time that a text tells, and whether it is certain; one without a zone could be any zone's."""
    stamp = _stamp_in(text)
    ago = re.match(r"(\d{1,9}) ?(\D)", stamp) if re.search("ago|前", stamp) else None
    try:
        if ago:
            return now - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]]), True
        if re.fullmatch(r"\d{10}", stamp):
            return datetime.fromtimestamp(int(stamp), now.tzinfo), True
        if stamp[:3].isalpha():
            return datetime.strptime(stamp, "%a %b %d %H:%M:%S %Y").replace(
                tzinfo=now.tzinfo
            ), False
        found = datetime.fromisoformat(_iso(stamp))
    except (ValueError, OverflowError, OSError):
        return None, False
    return (found, True) if found.tzinfo else (found.replace(tzinfo=now.tzinfo), False)


def _iso(stamp: str) -> str:
    """The same time in the form that Python reads: `2018/4/9 8:05` has too few digits."""
    match = re.fullmatch(r"(\d{4})\D(\d+)\D(\d+)[ T]+(\d+):(\d+)(?::(\d+))?(?:\.\d+)? ?(.*)", stamp)
    if match is None:
        return stamp
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    zone = "+00:00" if match[7] in {"Z", "UTC"} else match[7]
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{zone}"


def _is_stale(time: datetime | None, certain: bool, newest: datetime, now: datetime) -> bool:
    """Old by its own time; one without a zone is held against the newest of the page, and against the day."""
    if time is None:
        return False
    if certain:
        return now - time > STALE
    return newest - time > STALE or now - time > _ANY_HOUR
