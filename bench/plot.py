"""Draws `docs/speed.svg`: `status` against the number of hosts, and commands against their peers, at 0 and 50 ms.

python -m bench.plot              draw what plot.json has
python -m bench.plot --measure    measure first (some minutes), and write plot.json
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.distance import copies, mounts, single_commands, statuses
from bench.figure import Figure

DATA = Path(__file__).with_name("plot.json")
DRAWING = Path(__file__).parent.parent / "docs" / "speed.svg"
RTTS = (0.0, 0.05)
HOSTS = (1, 4, 18)
_RUNS = 3

_WIDTH = 860
_PANEL_HEIGHT = 260
_OURS, _PEER, _TEXT, _GRID = "#1f6feb", "#9a6700", "#24292f", "#d0d7de"


def measure() -> dict[str, Any]:
    """Measure everything that is drawn, in seconds."""
    status = []
    commands = []
    for rtt in RTTS:
        for count in HOSTS:
            status += [
                {"rtt": rtt, "hosts": count, **_row(one)}
                for one in statuses(rtt, count, runs=_RUNS)
            ]
        for group in (single_commands, mounts, copies):
            commands += [{"rtt": rtt, **_row(one)} for one in group(rtt, runs=_RUNS) if one.seconds]
    return {"status": status, "commands": commands}


def _row(figure: Figure) -> dict[str, Any]:
    assert figure.seconds is not None
    ours, peer = figure.seconds
    return {
        "what": figure.what,
        "against": figure.against,
        "ours": round(ours, 4),
        "peer": round(peer, 4),
    }


@dataclass(frozen=True)
class _Box:
    """Where a panel is, and the scale of seconds in it: logarithmic, from `least` to `most`."""

    left: float
    top: float
    width: float
    height: float
    least: float
    most: float

    def share(self, seconds: float) -> float:
        """How far a time is on the scale, from 0 to 1."""
        span = math.log(self.most) - math.log(self.least)
        return (math.log(seconds) - math.log(self.least)) / span


def draw(data: dict[str, Any]) -> str:
    """The drawing of the measured data."""
    height = _PANEL_HEIGHT + 90 + 2 * 22 * len({row["what"] for row in data["commands"]}) + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    for number, rtt in enumerate(RTTS):
        box = _Box(60 + number * 420, 50, 340, _PANEL_HEIGHT - 60, 0.01, 10)
        rows = [row for row in data["status"] if row["rtt"] == rtt]
        parts += _draw_status(box, rtt, rows)
    parts += _draw_commands(_Box(300, _PANEL_HEIGHT + 100, 300, 0, 0.01, 10), data["commands"])
    return "\n".join([*parts, "</svg>", ""])


def _draw_status(box: _Box, rtt: float, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines of seconds against hosts: apexgpu's and the peer's, cold and repeated."""
    yield _text(
        box.left, box.top - 22, f"status, RTT {rtt * 1000:.0f} ms: seconds against hosts", bold=True
    )
    bottom = box.top + box.height
    for seconds in (0.01, 0.1, 1, 10):
        y = bottom - box.share(seconds) * box.height
        yield _line(box.left, y, box.left + box.width, y, _GRID)
        yield _text(box.left - 8, y + 4, f"{seconds:g} s", anchor="end")
    places = {
        count: box.left + 20 + (box.width - 150) * number / (len(HOSTS) - 1)
        for number, count in enumerate(HOSTS)
    }
    for count, x in places.items():
        yield _text(x, bottom + 16, str(count), anchor="middle")
    for kind, dash in (("cold", ""), ("repeated", "5 3")):
        chosen = [row for row in rows if row["what"].endswith(kind)]
        if not chosen:
            continue
        peer = chosen[0]["against"].split()[0]
        for who, colour, name in (("ours", _OURS, "apexgpu"), ("peer", _PEER, peer)):
            points = [
                (places[row["hosts"]], bottom - box.share(row[who]) * box.height) for row in chosen
            ]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            yield (
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
                f'stroke-dasharray="{dash}"/>'
            )
            # Above and below, where the two lines are close.
            x, y = points[-1]
            is_upper = (who == "ours") == (chosen[-1]["ours"] >= chosen[-1]["peer"])
            yield _text(x + 8, y + (-2 if is_upper else 11), f"{name}, {kind}", colour=colour)


def _draw_commands(box: _Box, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Two bars for each command and RTT: apexgpu's and its peer's."""
    yield _text(20, box.top - 40, "Commands and their peers: seconds (logarithmic)", bold=True)
    yield _text(box.left + 90, box.top - 40, "apexgpu", colour=_OURS)
    yield _text(box.left + 160, box.top - 40, "its peer", colour=_PEER)
    names = list(dict.fromkeys(row["what"] for row in rows))
    bottom = box.top + 44 * len(names)
    for seconds in (0.01, 0.1, 1, 10):
        x = box.left + box.share(seconds) * box.width
        yield _line(x, box.top - 14, x, bottom, _GRID)
        yield _text(x, box.top - 18, f"{seconds:g} s", anchor="middle")
    for number, name in enumerate(names):
        top = box.top + 44 * number
        yield _text(20, top + 16, name)
        for row in [row for row in rows if row["what"] == name]:
            offset = 20 * RTTS.index(row["rtt"])
            yield _text(
                box.left - 8, top + offset + 12, f"{row['rtt'] * 1000:.0f} ms", anchor="end"
            )
            for line, (who, colour) in enumerate((("ours", _OURS), ("peer", _PEER))):
                width = max(1.0, box.share(row[who]) * box.width)
                y = top + offset + 8 * line
                yield (
                    f'<rect x="{box.left}" y="{y}" width="{width:.1f}" height="7" fill="{colour}"/>'
                )
            yield _text(
                box.left + box.share(max(row["ours"], row["peer"])) * box.width + 6,
                top + offset + 12,
                f"{row['ours']:.2f} against {row['peer']:.2f} ({row['against']})",
            )


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = _TEXT, bold: bool = False
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>'
        f"{escaped}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="Draw docs/speed.svg.")
    parser.add_argument("--measure", action="store_true", help="measure anew")
    if parser.parse_args().measure:
        DATA.write_text(json.dumps(measure(), indent=1) + "\n")
    DRAWING.write_text(draw(json.loads(DATA.read_text())))


if __name__ == "__main__":
    main()
