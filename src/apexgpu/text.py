"""Values -> text for people: sizes, durations, columns; and what makes text of others harmless. Pure."""

from collections.abc import Sequence

Row = Sequence[str]


def safe(text: str) -> str:
    """`text` with control characters (and what reorders lines) made visible; newlines too."""
    return "".join(
        letter if _harmless(letter) else letter.encode("unicode_escape").decode() for letter in text
    )


def _harmless(letter: str) -> bool:
    code = ord(letter)
    if code < 0x20 or 0x7F <= code < 0xA0:
        return False
    return not (0x200B <= code <= 0x200F or 0x2028 <= code <= 0x202E or 0x2066 <= code <= 0x2069)


def last_line(text: str, otherwise: str) -> str:
    """The last line that says something, without blanks around it; `otherwise` where none does."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), otherwise)


def size(count: int | None) -> str:
    """Bytes for people: `2.9 MiB`; a dash where nobody tells."""
    if count is None:
        return "-"
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """Seconds for people: `3 d 4 h`, `12 min`; a dash where nobody tells."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    for unit, length, smaller, part in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= length:
            rest = whole % length // part
            return (
                f"{whole // length} {unit} {rest} {smaller}"
                if rest
                else f"{whole // length} {unit}"
            )
    return f"{whole} s"


def width(text: str) -> int:
    """Terminal cells of `text`: Chinese letters take two."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(
        0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in text
    )


def columns(header: Row, rows: Sequence[Row], least: Sequence[int] = ()) -> list[str]:
    """Aligned lines, never cut, nothing trailing; `least` are widths that no column goes below."""
    table = [[safe(cell) for cell in row] for row in [header, *rows]]
    widths = [max(width(row[index]) for row in table) for index in range(len(header))]
    widths = [max(pair) for pair in zip(widths, least, strict=True)] if least else widths
    return [
        "  ".join(
            cell + " " * (widths[index] - width(cell)) for index, cell in enumerate(row)
        ).rstrip()
        for row in table
    ]
