"""The few words of the X11 protocol that a check needs: a login, a window, a look at the windows there are.

Source: X Window System Protocol, X Version 11, appendix B (protocol encoding). Bytes in, values out, or the other
way round: no socket here. All is little-endian, as the login says.
"""

import struct

COOKIE = "MIT-MAGIC-COOKIE-1"
SECURITY = "SECURITY"
WM_NAME, STRING = 39, 31  # predefined atoms
EXPOSE, DESTROYED = 12, 17  # events
VIEWABLE = 2
SOCKETS = "/tmp/.X11-unix/X"  # noqa: S108 - where X servers have them
_OVERRIDE = 0x200
_EXPOSURE_AND_STRUCTURE = 0x8000 | 0x20000


class Setup:
    """What a server says of itself when it lets somebody in."""

    def __init__(
        self, base: int, vendor: str, root: int, white: int, black: int, size: "tuple[int, int]"
    ) -> None:
        self.base, self.vendor, self.root, self.white, self.black, self.size = (
            base,
            vendor,
            root,
            white,
            black,
            size,
        )


class Display:
    """A display's name, taken apart. `path` is a socket of this machine; else `host` and a TCP `port`."""

    def __init__(self, number: int, host: str, path: str) -> None:
        self.number, self.host, self.path = number, host, path

    @property
    def port(self) -> int:
        """Where the server of a display listens on TCP."""
        return 6000 + self.number


def parse_display(name: str) -> "Display | None":
    """`:0`, `unix:0.0`, `localhost:10.0`, or a socket's path and `:0` as launchd gives it; None for anything else."""
    host, colon, rest = name.rpartition(":")
    number = rest.partition(".")[0]
    if not colon or not (number.isdigit() and len(number) < 6):
        return None
    if host.startswith("/"):
        return Display(int(number), "", name)
    if host in ("", "unix"):
        return Display(int(number), "", SOCKETS + number)
    return Display(int(number), host.strip("[]"), "")


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def hello(name: str, data: bytes) -> bytes:
    """The login: the name of a way to prove oneself, and the proof; both empty where there is none."""
    named = name.encode("ascii")
    head = struct.pack("<BxHHHHxx", 0x6C, 11, 0, len(named), len(data))
    return head + _padded(named) + _padded(data)


def refusal(rest: bytes, length: int) -> str:
    """Why a login was refused, in the server's own words."""
    return rest[:length].decode("latin-1").strip()


def setup_of(rest: bytes) -> Setup:
    """The answer to a login, after its first eight bytes."""
    base, vendor_length = struct.unpack_from("<I8xH", rest, 4)
    formats = rest[21]
    vendor = rest[32 : 32 + vendor_length].decode("latin-1")
    screen = 32 + vendor_length + (-vendor_length % 4) + 8 * formats
    root, _, white, black, _, width, height = struct.unpack_from("<IIIIIHH", rest, screen)
    return Setup(base, vendor, root, white, black, (width, height))


def query_extension(name: str) -> bytes:
    """Ask whether the server has an extension."""
    named = _padded(name.encode("ascii"))
    return struct.pack("<BxHHxx", 98, 2 + len(named) // 4, len(name)) + named


def create_window(window: int, server: Setup, title: str, size: "tuple[int, int]") -> bytes:
    """A black window that no window manager touches, with its title, and to be shown at once."""
    values = struct.pack("<III", server.black, 1, _EXPOSURE_AND_STRUCTURE)
    mask = 0x2 | _OVERRIDE | 0x800
    made = struct.pack(
        "<BBHIIhhHHHHII", 1, 0, 11, window, server.root, 40, 40, size[0], size[1], 0, 1, 0, mask
    )
    named = title.encode("latin-1")
    text = _padded(named)
    name = (
        struct.pack(
            "<BBHIIIB3xI", 18, 0, 6 + len(text) // 4, window, WM_NAME, STRING, 8, len(named)
        )
        + text
    )
    return made + values + name + struct.pack("<BxHI", 8, 2, window)


def fill(window: int, context: int, server: Setup, size: "tuple[int, int]") -> bytes:
    """Paint all of a window white."""
    made = struct.pack("<BxHIIII", 55, 5, context, window, 0x4, server.white)
    return made + struct.pack("<BxHIIhhHH", 70, 5, window, context, 0, 0, size[0], size[1])


def get_input_focus() -> bytes:
    """A question that is only asked to hear that all before it was done."""
    return struct.pack("<BxH", 43, 1)


def query_tree(window: int) -> bytes:
    """Ask for the windows in a window."""
    return struct.pack("<BxHI", 15, 2, window)


def children_of(reply: bytes) -> "list[int]":
    """The answer to `query_tree`."""
    return list(struct.unpack_from("<%dI" % struct.unpack_from("<H", reply, 16)[0], reply, 32))


def get_name(window: int) -> bytes:
    """Ask for a window's title."""
    return struct.pack("<BBHIIIII", 20, 0, 6, window, WM_NAME, STRING, 0, 64)


def name_of(reply: bytes) -> str:
    """The answer to `get_name`."""
    return reply[32 : 32 + struct.unpack_from("<I", reply, 16)[0]].decode("latin-1")


def get_attributes(window: int) -> bytes:
    """Ask for what a window is."""
    return struct.pack("<BxHI", 3, 2, window)


def is_viewable(reply: bytes) -> bool:
    """The answer to `get_attributes`: whether the window, and all that it is in, are shown."""
    return reply[26] == VIEWABLE


def get_pixel(window: int) -> bytes:
    """Ask for one pixel of a window."""
    return struct.pack("<BBHIhhHHI", 73, 2, 5, window, 5, 5, 1, 1, 0xFFFFFFFF)


def pixel_of(reply: bytes) -> int:
    """The answer to `get_pixel`; the unused bits of it are whatever they are."""
    return int(struct.unpack_from("<I", reply, 32)[0])


def destroy_window(window: int) -> bytes:
    """Take a window away."""
    return struct.pack("<BxHI", 4, 2, window)


def cookie_for(file: bytes, number: int) -> "bytes | None":
    """The cookie for a display in an authority file (Xau(3)), None where there is none."""
    place = 0
    fields = []  # type: list[bytes]
    while place + 2 <= len(file):
        if len(fields) % 5 == 0:
            place += 2  # the family; four counted fields follow
            fields.append(b"")
            continue
        length = struct.unpack_from(">H", file, place)[0]
        fields.append(file[place + 2 : place + 2 + length])
        place += 2 + length
    for start in range(0, len(fields) - 4, 5):
        _, _, shown, kind, data = fields[start : start + 5]
        if shown in (str(number).encode(), b"") and kind == COOKIE.encode():
            return data
    return None
