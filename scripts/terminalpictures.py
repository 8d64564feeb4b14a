"""Pictures of a terminal as SVG files: a light and a dark one, with the fonts of the reader's own machine.

Every colour can be read on its background (a contrast of 4.5 or more, `tests/quick/test_screens.py`). Nothing is loaded
from the network: rich's own frame names a font there.
"""

from html import escape

from rich.terminal_theme import TerminalTheme

# The eight colours of a terminal: black, red, green, yellow, blue, magenta, cyan, white.
LIGHT = TerminalTheme(
    (255, 255, 255),
    (31, 35, 40),
    [
        (31, 35, 40),
        (164, 14, 38),
        (17, 99, 41),
        (125, 78, 0),
        (9, 105, 218),
        (130, 80, 223),
        (27, 124, 131),
        (110, 119, 129),
    ],
)
DARK = TerminalTheme(
    (13, 17, 23),
    (230, 237, 243),
    [
        (72, 79, 88),
        (255, 123, 114),
        (63, 185, 80),
        (210, 153, 34),
        (88, 166, 255),
        (188, 140, 255),
        (57, 197, 207),
        (177, 186, 196),
    ],
)
THEMES = {"light": LIGHT, "dark": DARK}

# rich draws letters in cells of this size.
FONT_SIZE = 20
CELL_WIDTH = FONT_SIZE * 0.61
CELL_HEIGHT = FONT_SIZE * 1.22
PADDING = 14
TITLE_HEIGHT = 36
FONTS = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Noto Sans Mono CJK SC',monospace"


def frame(body: str, theme: TerminalTheme, columns: int, rows: int, *, title: str, style: str = "") -> str:
    """A window of a terminal, with `body` in it, whose origin is the top left cell."""
    width = columns * CELL_WIDTH + 2 * PADDING
    height = rows * CELL_HEIGHT + TITLE_HEIGHT + PADDING
    text_colour = theme.foreground_color.hex
    inside = f'width="{columns * CELL_WIDTH:.1f}" height="{rows * CELL_HEIGHT + 4:.1f}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" viewBox="0 0 {width:.1f} {height:.1f}" role="img" aria-label="{escape(title)}">
<style>text{{font-family:{FONTS};font-size:{FONT_SIZE}px;white-space:pre;fill:{text_colour}}}{style}</style>
<rect x="1" y="1" width="{width - 2:.1f}" height="{height - 2:.1f}" rx="8" fill="{theme.background_color.hex}" stroke="#8b949e"/>
<text x="{width / 2:.1f}" y="25" text-anchor="middle" style="font-size:16px">{escape(title)}</text>
<clipPath id="window"><rect {inside}/></clipPath>
<g transform="translate({PADDING},{TITLE_HEIGHT})" clip-path="url(#window)">
{body}
</g>
</svg>
"""


def picture(output: str, theme: TerminalTheme, columns: int, *, title: str) -> str:
    """What a program printed on a terminal, escape codes included, as a picture."""
    from io import StringIO

    from rich.console import Console
    from rich.segment import Segment
    from rich.text import Text

    console = Console(file=StringIO(), width=columns, force_terminal=True, color_system="standard")
    lines = console.render_lines(Text.from_ansi(output, overflow="fold"), pad=False)
    parts = []
    for row, line in enumerate(lines):
        x = 0.0
        for text, style, _ in Segment.simplify(line):
            cells = Segment(text).cell_length
            if text.strip():
                # As wide as its cells, whatever the font is.
                size = f'x="{x:.1f}" y="{(row + 0.75) * CELL_HEIGHT:.1f}" textLength="{cells * CELL_WIDTH:.1f}"'
                parts.append(f"<text {size}{_attributes(style, theme)}>{escape(text)}</text>")
            x += cells * CELL_WIDTH
    return frame("\n".join(parts), theme, columns, len(lines), title=title)


def _attributes(style: object, theme: TerminalTheme) -> str:
    from rich.style import Style

    if not isinstance(style, Style):
        return ""
    attributes = ""
    if style.color is not None and not style.color.is_default:
        attributes += f' style="fill:{style.color.get_truecolor(theme).hex}"'
    if style.bold:
        attributes += ' font-weight="bold"'
    if style.dim:
        attributes += ' opacity="0.65"'
    return attributes
