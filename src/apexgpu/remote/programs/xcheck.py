"""Tests X11 forwarding from inside a container: reports what windows need there, and shows a window on the laptop.

argv[1] is a JSON object: the window's `title`, and `wait`, the seconds that each step may take. Each answer is a line
`apexgpu ` and a JSON object. The window stays until the laptop, which looks for its title, has destroyed it.
"""

import glob
import json
import os
import re
import shutil
import subprocess
import sys

from apexgpu.remote.programs.xdisplay import Connection, NotLetInError, NotThereError, XError
from apexgpu.remote.programs.xwire import (
    DESTROY_NOTIFY,
    EXPOSE,
    cookie_for,
    create_window,
    fill,
    get_input_focus,
    parse_display,
)

SIZE = (160, 60)
SSHD_CONFIG = "/etc/ssh/sshd_config"
SSHD_OPTIONS = ("x11forwarding", "x11uselocalhost", "xauthlocation", "addressfamily")


def sshd_options() -> "dict[str, str]":
    """The sshd's options for X11: from `sshd -T` if sudo permits it, else from its config files."""
    sudo = shutil.which("sudo") or "sudo"
    try:
        text = subprocess.check_output(
            [sudo, "-n", "/usr/sbin/sshd", "-T", "-f", SSHD_CONFIG],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=5,
        ).decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        text = sshd_config_text()
    options = {}  # type: dict[str, str]
    for line in text.splitlines():
        words = re.split(r"[\s=]+", line.strip(), maxsplit=1)
        if len(words) == 2 and words[0].lower() in SSHD_OPTIONS:
            options.setdefault(words[0].lower(), words[1].strip())  # the first value counts
    return options


def sshd_config_text() -> str:
    """The text of all config files of sshd that can be read; Debian includes the directory first."""
    text = ""
    for path in [*sorted(glob.glob("/etc/ssh/sshd_config.d/*.conf")), SSHD_CONFIG]:
        try:
            with open(path, "rb") as file:
                text += file.read().decode("utf-8", "replace") + "\n"
        except OSError:
            pass
    return text


def authority_file() -> str:
    """The file in which X clients look for a cookie."""
    return os.environ.get("XAUTHORITY") or os.path.expanduser("~/.Xauthority")


def own_cookie(number: int) -> "bytes | None":
    """The cookie that sshd has stored for display `number`."""
    try:
        with open(authority_file(), "rb") as file:
            return cookie_for(file.read(), number)
    except OSError:
        return None


def facts() -> "dict[str, object]":
    """What windows need and what may prevent them, for xserver/containerchecks.py."""
    name = os.environ.get("DISPLAY", "")
    display = parse_display(name)
    authority = authority_file()
    search_path = os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin"
    locks = (authority + "-c", authority + "-l")
    rc_files = (os.path.expanduser("~/.ssh/rc"), "/etc/ssh/sshrc")
    written = authority if os.path.exists(authority) else os.path.dirname(authority)
    return {
        "display": name,
        "xauth": shutil.which("xauth", path=search_path) or "",
        "sshd": sshd_options(),
        "cookie": bool(display and own_cookie(display.number)),
        "authority": authority,
        "locks": [path for path in locks if os.path.exists(path)],
        "writable": os.access(written, os.W_OK),
        "rc": [path for path in rc_files if os.path.exists(path)],
        "ipv6": os.path.exists("/proc/net/if_inet6"),
    }


def say(answer: "dict[str, object]") -> None:
    """Print an answer."""
    sys.stdout.write("apexgpu " + json.dumps(answer) + "\n")
    sys.stdout.flush()


def draw(title: str, wait: float) -> "dict[str, object]":
    """Show a window until the laptop destroys it; the answer says whether it did."""
    display = parse_display(os.environ["DISPLAY"])
    if display is None:
        return {"error": "display"}
    connection = Connection(display, own_cookie(display.number), wait)
    try:
        window, context = connection.server.base, connection.server.base + 1
        connection.send(create_window(window, connection.server, title, SIZE))
        if not connection.event(EXPOSE, wait):
            return {"error": "not_shown"}
        connection.send(fill(window, context, connection.server, SIZE))
        connection.ask(get_input_focus())
        say({"drawn": window, "vendor": connection.server.vendor})
        return {"seen": connection.event(DESTROY_NOTIFY, wait)}
    finally:
        connection.close()


def main(request: "dict[str, object]") -> None:
    """Print the facts, then draw."""
    say(facts())
    if not os.environ.get("DISPLAY"):
        return
    try:
        say(draw(str(request["title"]), float(str(request["wait"]))))
    except NotThereError as exc:
        say({"error": "not_there", "said": str(exc)})
    except NotLetInError as exc:
        say({"error": "not_let_in", "said": str(exc)})
    except XError as exc:
        say({"error": "refused", "said": str(exc)})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
