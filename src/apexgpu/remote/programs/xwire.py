"""Encodes and decodes the part of the X11 protocol that `x11 check` needs: logging in, showing and finding a window.

Source: X Window System Protocol, X Version 11, appendix B (protocol encoding). The first argument of each `pack` is a
request's layout there, the number behind it is its opcode. Everything is little-endian, as the login requests. Runs on
the laptop and, sent as text, in a container: no sockets here, and nothing newer than Python 3.5.
"""

import struct

COOKIE = "MIT-MAGIC-COOKIE-1"
SECURITY = "SECURITY"
WM_NAME, STRING = 39, 31  # predefined atoms
EXPOSE, DESTROY_NOTIFY = 12, 17  # events
VIEWABLE = 2
SOCKETS = "/tmp/.X11-unix/X"  # noqa: S108 - where X servers create them
# Attributes of a new window (value-mask), and the events that it asks for.
_BACKGROUND_PIXEL, _OVERRIDE_REDIRECT, _EVENT_MASK = 0x2, 0x200, 0x800
_EXPOSURE, _STRUCTURE_NOTIFY = 0x8000, 0x20000


class XServerSetup:
    """What a server reports about itself when it accepts a login.

    `base` is the first resource id that this client may use; `root` is the root window of the first screen, `size` that
    of the screen in pixels.
    """

    def __init__(
        self, base: int, vendor: str, root: int, white: int, black: int, size: "tuple[int, int]"
    ) -> None:
        self.base = base
        self.vendor = vendor
        self.root = root
        self.white = white
        self.black = black
        self.size = size


class Display:
    """The parts of a display name: `path`, a Unix socket, or `host`, which is reached over TCP."""

    def __init__(self, number: int, host: str, path: str) -> None:
        self.number = number
        self.host = host
        self.path = path

    @property
    def port(self) -> int:
        """The TCP port of the display's server."""
        return 6000 + self.number


def parse_display(name: str) -> "Display | None":
    """Parse `:0`, `unix:0.0`, `localhost:10.0`, or `/path/of/a/socket:0` (launchd). None for anything else."""
    host, colon, display_and_screen = name.rpartition(":")
    digits = display_and_screen.partition(".")[0]
    is_number = digits.isdigit() and len(digits) < 6
    if not colon or not is_number:
        return None
    number = int(digits)
    if host.startswith("/"):
        return Display(number, "", name)
    if host in ("", "unix"):
        return Display(number, "", SOCKETS + digits)
    return Display(number, host.strip("[]"), "")


def _padded(data: bytes) -> bytes:
    """`data` filled up to a multiple of four bytes."""
    return data + b"\0" * (-len(data) % 4)


def login_request(name: str, data: bytes) -> bytes:
    """The login with an authorization protocol and its data, such as a cookie; both may be empty."""
    named = name.encode("ascii")
    head = struct.pack("<BxHHHHxx", 0x6C, 11, 0, len(named), len(data))
    return head + _padded(named) + _padded(data)


def parse_refusal(reply: bytes, length: int) -> str:
    """The reason that the server gives for refusing a login."""
    return reply[:length].decode("latin-1").strip()


def parse_setup(reply: bytes) -> XServerSetup:
    """The reply to an accepted login, without its first eight bytes."""
    base, vendor_length = struct.unpack_from("<I8xH", reply, 4)
    format_count = reply[21]
    vendor_end = 32 + vendor_length
    vendor = reply[32:vendor_end].decode("latin-1")
    # The first screen comes after the vendor, filled up to four bytes, and the pixmap formats.
    padding = -vendor_length % 4
    screen = vendor_end + padding + 8 * format_count
    fields = struct.unpack_from("<IIIIIHH", reply, screen)
    root, _, white, black, _, width, height = fields
    return XServerSetup(base, vendor, root, white, black, (width, height))


def query_extension(name: str) -> bytes:
    """Request whether the server has an extension."""
    named = _padded(name.encode("ascii"))
    return struct.pack("<BxHHxx", 98, 2 + len(named) // 4, len(name)) + named


def create_window(window: int, server: XServerSetup, title: str, size: "tuple[int, int]") -> bytes:
    """Requests that create a black window with a title and show it; no window manager handles it."""
    values = struct.pack("<III", server.black, 1, _EXPOSURE | _STRUCTURE_NOTIFY)
    mask = _BACKGROUND_PIXEL | _OVERRIDE_REDIRECT | _EVENT_MASK
    create = struct.pack(
        "<BBHIIhhHHHHII", 1, 0, 11, window, server.root, 40, 40, size[0], size[1], 0, 1, 0, mask
    )
    name = title.encode("latin-1")
    text = _padded(name)
    length = 6 + len(text) // 4
    set_name = (
        struct.pack("<BBHIIIB3xI", 18, 0, length, window, WM_NAME, STRING, 8, len(name)) + text
    )
    show = struct.pack("<BxHI", 8, 2, window)
    return create + values + set_name + show


def fill(window: int, context: int, server: XServerSetup, size: "tuple[int, int]") -> bytes:
    """Requests that paint a whole window white."""
    create_context = struct.pack("<BxHIIII", 55, 5, context, window, 0x4, server.white)
    return create_context + struct.pack(
        "<BxHIIhhHH", 70, 5, window, context, 0, 0, size[0], size[1]
    )


def get_input_focus() -> bytes:
    """A request for its reply alone: when that arrives, all requests before it have been carried out."""
    return struct.pack("<BxH", 43, 1)


def query_tree(window: int) -> bytes:
    """Request the windows inside a window."""
    return struct.pack("<BxHI", 15, 2, window)


def parse_children(reply: bytes) -> "list[int]":
    """The window ids in the reply to `query_tree`."""
    (count,) = struct.unpack_from("<H", reply, 16)
    return list(struct.unpack_from("<%dI" % count, reply, 32))


def get_name(window: int) -> bytes:
    """Request a window's title."""
    return struct.pack("<BBHIIIII", 20, 0, 6, window, WM_NAME, STRING, 0, 64)


def parse_name(reply: bytes) -> str:
    """The title in the reply to `get_name`."""
    (length,) = struct.unpack_from("<I", reply, 16)
    return reply[32 : 32 + length].decode("latin-1")


def get_attributes(window: int) -> bytes:
    """Request a window's attributes."""
    return struct.pack("<BxHI", 3, 2, window)


def is_viewable(reply: bytes) -> bool:
    """Whether the reply to `get_attributes` says that the window, and each one that contains it, is shown."""
    return reply[26] == VIEWABLE


def get_pixel(window: int) -> bytes:
    """Request one pixel of a window."""
    return struct.pack("<BBHIhhHHI", 73, 2, 5, window, 5, 5, 1, 1, 0xFFFFFFFF)


def parse_pixel(reply: bytes) -> int:
    """The colour in the reply to `get_pixel`; bits that the display does not use may be set."""
    return int(struct.unpack_from("<I", reply, 32)[0])


def destroy_window(window: int) -> bytes:
    """Request that a window is destroyed."""
    return struct.pack("<BxHI", 4, 2, window)


def cookie_for(file: bytes, number: int) -> "bytes | None":
    """The cookie for a display in an authority file (Xau(3)); None if it contains none."""
    position = 0
    while position + 2 <= len(file):
        position += 2  # the address family
        fields = []  # type: list[bytes]
        for _ in range(4):
            if position + 2 > len(file):
                return None
            (length,) = struct.unpack_from(">H", file, position)
            fields.append(file[position + 2 : position + 2 + length])
            position += 2 + length
        _, display, protocol, data = fields  # the first is the address
        if display in (str(number).encode(), b"") and protocol == COOKIE.encode():
            return data
    return None
