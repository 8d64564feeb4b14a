"""Values as text for people (sizes, durations), and text of others made safe to print. Pure."""

# A unit with its length in seconds, and the unit of its remainder.
_DURATION_UNITS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))


def safe(text: str) -> str:
    """Return `text` with control characters, newlines included, replaced by escapes such as `\\x1b`.

    Text that comes from a server could otherwise control the terminal, or make one line look like another.
    """
    if text.isascii() and text.isprintable():
        return text
    letters = []
    for letter in text:
        if not _is_harmless(letter):
            letter = letter.encode("unicode_escape").decode()
        letters.append(letter)
    return "".join(letters)


def _is_harmless(letter: str) -> bool:
    code = ord(letter)
    if code < 0x20 or 0x7F <= code < 0xA0:
        return False
    # Invisible letters, line separators, and marks that change the direction of what follows.
    return not (0x200B <= code <= 0x200F or 0x2028 <= code <= 0x202E or 0x2066 <= code <= 0x2069)


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


def width(text: str) -> int:
    """Return how many terminal cells `text` takes: Chinese letters take two, combining marks none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    cells = 0
    for letter in text:
        if combining(letter):
            continue
        cells += 2 if east_asian_width(letter) in "WF" else 1
    return cells
