"""Opens URLs in the user's browser; one that contains a token without showing the token in `ps`.

For such a URL the browser gets a random address on loopback, which redirects to the URL. It works
once, so whoever copies it from the browser's command line comes too late.
"""

import os
import threading
from pathlib import Path

from apexgpu.platforms.system import System, current

_TEXT_BROWSERS = {"www-browser", "links", "links2", "elinks", "lynx", "w3m", "browsh"}
LIMIT = 20.0
"""Seconds that a browser may take to follow a one-time link."""


def open_url(url: str, *, secret: bool = False) -> bool:
    """Open `url` in the user's browser, a `secret` one through a one-time link.

    Returns False if no browser could be started, or if it did not follow the link.
    """
    if not _has_window_for_browser():
        return False
    if secret:
        return _open_once(url)
    return _start_browser(url)


def _has_window_for_browser() -> bool:
    """Tell whether a browser would open a window. A text browser would take over this terminal."""
    chosen = os.environ.get("BROWSER", "")
    if chosen:
        first = chosen.split(os.pathsep)[0].split()
        return not first or Path(first[0]).name not in _TEXT_BROWSERS
    if current() is not System.LINUX:
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _start_browser(url: str) -> bool:
    import webbrowser

    # Python offers text browsers after the others, wherever TERM is set at its first look.
    terminal = os.environ.pop("TERM", None)
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    finally:
        if terminal is not None:
            os.environ["TERM"] = terminal
    return webbrowser.open(url)


def _open_once(url: str, *, limit: float = LIMIT) -> bool:
    import secrets
    from http.server import BaseHTTPRequestHandler, HTTPServer

    path = f"/{secrets.token_urlsafe(24)}"
    used = threading.Event()

    class RedirectOnce(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            if used.is_set() or self.path != path:
                self.send_error(404)
                return
            used.set()
            self.send_response(302)
            self.send_header("Location", url)
            self.send_header("Cache-Control", "no-store")
            self.send_header("Referrer-Policy", "no-referrer")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing on the terminal."""

    with HTTPServer(("127.0.0.1", 0), RedirectOnce) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            if not _start_browser(f"http://127.0.0.1:{server.server_port}{path}"):
                return False
            return used.wait(limit)
        finally:
            server.shutdown()
            thread.join()
