"""Values as text for people (sizes, durations), and text of others made safe to print. Pure."""

import re

# A unit with its length in seconds, and the unit of its remainder.
_DURATION_UNITS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))


# Control characters (C0, DEL, C1); letters that are invisible; marks that change the direction of what follows; line
# separators; lone surrogates, which no encoding can write; tags, which hide text in text.
_HARMFUL = (
    "\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff"
)
_HARMFUL_LETTER = re.compile(f"[{_HARMFUL}]")
_HARMFUL_IN_LINES = re.compile(f"(?![\n\t])[{_HARMFUL}]")


def safe(text: str) -> str:
    """Return `text` with control characters, newlines included, replaced by escapes such as `\\x1b`.

    Text that comes from a server could otherwise control the terminal, or make one line look like another. Safe text
    stays as it is, so this may be done twice.
    """
    if text.isascii() and text.isprintable():
        return text
    return _HARMFUL_LETTER.sub(_escape, text)


def safe_lines(text: str) -> str:
    """As `safe`, for text of several lines: newlines and tabs stay."""
    return _HARMFUL_IN_LINES.sub(_escape, text)


def safe_json(document: str) -> str:
    """Return a JSON document whose strings contain `\\u` escapes instead of control characters and bidi marks.

    It means the same. json.dumps escapes C0 only, or every letter that is not ASCII.
    """
    return _HARMFUL_IN_LINES.sub(_json_escape, document)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _json_escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    # JSON knows 16 bits only: two surrogates.
    rest = code - 0x10000
    return f"\\u{0xD800 + (rest >> 10):04x}\\u{0xDC00 + (rest & 0x3FF):04x}"


def last_line(text: str, otherwise: str) -> str:
    """Return the last line of `text` that is not blank, stripped; `otherwise` if there is none."""
    for line in reversed(text.splitlines()):
        if line.strip():
            return line.strip()
    return otherwise


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 host`, `3 hosts`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size(count: int | None) -> str:
    """Return a number of bytes for people: `2.9 MiB`; a dash if it is not known."""
    if count is None:
        return "-"
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def duration(seconds: float | None) -> str:
    """Return a time in seconds for people: `3 d 4 h`, `12 min`; a dash if it is not known."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    for unit, length, smaller_unit, smaller_length in _DURATION_UNITS:
        if whole >= length:
            text = f"{whole // length} {unit}"
            remainder = whole % length // smaller_length
            return f"{text} {remainder} {smaller_unit}" if remainder else text
    return f"{whole} s"


def local_time(seconds: float) -> str:
    """Return a time in epoch seconds as it is where the user is, with the zone: `2026-11-28 21:36 +01:00`."""
    from datetime import datetime

    moment = datetime.fromtimestamp(seconds).astimezone()
    zone = moment.strftime("%z")
    return f"{moment:%Y-%m-%d %H:%M} {zone[:3]}:{zone[3:5]}"


def width(text: str) -> int:
    """Return how many terminal cells `text` takes: Chinese letters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(_cells(letter) for letter in text)


def _cells(letter: str) -> int:
    from unicodedata import combining, east_asian_width

    if combining(letter):
        return 0
    return 2 if east_asian_width(letter) in "WF" else 1


def start_of(text: str, room: int) -> str:
    """Return the longest start of `text` that takes at most `room` terminal cells."""
    cells = 0
    for index, letter in enumerate(text):
        cells += _cells(letter)
        if cells > room:
            return text[:index]
    return text


# A line may be broken at blanks, and after a Chinese letter with the punctuation that follows it.
_UNBROKEN = re.compile(
    r"\s+|[\u2e80-\uffef][，。；：、！？）」》”]*|[^\s\u2e80-\uffef]+[，。；：、！？）」》”]*"
)


def wrapped(text: str, room: int) -> list[str]:
    """Return the lines of a paragraph of `room` terminal cells, broken between words; long paths at their slashes.

    >>> wrapped("no answer from gpu7 in 10 s", 16)
    ['no answer from', 'gpu7 in 10 s']
    """
    lines: list[str] = []
    line = ""
    for word in _UNBROKEN.findall(text):
        for part in _parts(word, room):
            if line and width(line) + width(part.rstrip()) > room:
                lines.append(line.rstrip())
                line = ""
            if line or not part.isspace():
                line += part
    return [*lines, line.rstrip()]


def _parts(word: str, room: int) -> list[str]:
    """A word, or the parts of one that is longer than a line."""
    parts = []
    while width(word) > room:
        part = start_of(word, room)
        # A path is cut after a slash. Anything else is cut where the line ends.
        slash = part.rfind("/") + 1
        if slash:
            part = part[:slash]
        parts.append(part)
        word = word[len(part) :]
    return [*parts, word]


def split_last_sentence(text: str) -> tuple[str, str]:
    """Return what comes before the last sentence of `text`, "" if there is only one, and that sentence.

    >>> split_last_sentence("It is stopped. Start it?")
    ('It is stopped.', 'Start it?')
    """
    ends = [match.end() for match in re.finditer(r"[.;] |[。；]", text[:-1])]
    if not ends:
        return "", text
    return text[: ends[-1]].rstrip(), text[ends[-1] :]
