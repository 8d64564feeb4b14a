"""From inside a container, in an ssh session that was to bring windows to the laptop: what is there, and a window.

argv[1] is a JSON object: `title` of the window, `wait` in seconds. Each line said is `apexgpu ` and a JSON object.
The window stays until the laptop, which looks for it, has taken it away.
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
    DESTROYED,
    EXPOSE,
    cookie_for,
    create_window,
    fill,
    get_input_focus,
    parse_display,
)

SIZE = (160, 60)


def sshd_says() -> "dict[str, str]":
    """What the sshd here is told of X11: by itself where sudo lets us ask, else by its file."""
    wanted = ("x11forwarding", "x11uselocalhost", "xauthlocation", "addressfamily")
    try:
        words = [
            shutil.which("sudo") or "sudo",
            "-n",
            "/usr/sbin/sshd",
            "-T",
            "-f",
            "/etc/ssh/sshd_config",
        ]
        text = subprocess.check_output(
            words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=5
        ).decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        text = ""
        for path in [*sorted(glob.glob("/etc/ssh/sshd_config.d/*.conf")), "/etc/ssh/sshd_config"]:
            try:
                with open(path, "rb") as file:
                    text += file.read().decode("utf-8", "replace") + "\n"
            except OSError:
                pass
    found = {}  # type: dict[str, str]
    for line in text.splitlines():
        words = re.split(r"[\s=]+", line.strip(), maxsplit=1)
        if len(words) == 2 and words[0].lower() in wanted:
            found.setdefault(words[0].lower(), words[1].strip())
    return found


def authority() -> str:
    """The file in which X clients look for a cookie."""
    return os.environ.get("XAUTHORITY") or os.path.expanduser("~/.Xauthority")


def own_cookie(number: int) -> "bytes | None":
    """The cookie that sshd has left for a display."""
    try:
        with open(authority(), "rb") as file:
            return cookie_for(file.read(), number)
    except OSError:
        return None


def facts() -> "dict[str, object]":
    """What is there for windows."""
    name = os.environ.get("DISPLAY", "")
    place = parse_display(name)
    path = authority()
    return {
        "display": name,
        "xauth": shutil.which("xauth", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin")
        or "",
        "sshd": sshd_says(),
        "cookie": bool(place and own_cookie(place.number)),
        "authority": path,
        "locks": [lock for lock in (path + "-c", path + "-l") if os.path.exists(lock)],
        "writable": os.access(path if os.path.exists(path) else os.path.dirname(path), os.W_OK),
        "rc": [
            rc for rc in (os.path.expanduser("~/.ssh/rc"), "/etc/ssh/sshrc") if os.path.exists(rc)
        ],
        "ipv6": os.path.exists("/proc/net/if_inet6"),
    }


def draw(order: "dict[str, object]", say: "object") -> "dict[str, object]":
    """Show a window until somebody takes it away; what came of it."""
    place = parse_display(os.environ["DISPLAY"])
    if place is None:
        return {"error": "display"}
    wait = float(str(order["wait"]))
    link = Connection(place, own_cookie(place.number), wait)
    try:
        window, context = link.server.base, link.server.base + 1
        link.send(create_window(window, link.server, str(order["title"]), SIZE))
        if not link.event(EXPOSE, wait):
            return {"error": "not_shown"}
        link.send(fill(window, context, link.server, SIZE))
        link.ask(get_input_focus())
        say({"drawn": window, "vendor": link.server.vendor})  # type: ignore[operator]  # it is a function
        return {"seen": link.event(DESTROYED, wait)}
    finally:
        link.close()


def main(order: "dict[str, object]") -> None:
    """Say the facts, then draw."""

    def say(what: "dict[str, object]") -> None:
        sys.stdout.write("apexgpu " + json.dumps(what) + "\n")
        sys.stdout.flush()

    say(facts())
    if not os.environ.get("DISPLAY"):
        return
    try:
        say(draw(order, say))
    except NotThereError as exc:
        say({"error": "not_there", "said": str(exc)})
    except NotLetInError as exc:
        say({"error": "not_let_in", "said": str(exc)})
    except XError as exc:
        say({"error": "refused", "said": str(exc)})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
