"""Opens a URL that contains a token in a browser, without showing the token in `ps`.

The browser gets a random address on loopback, which redirects to the URL. It works once, so
whoever copies it from the browser's command line comes too late.
"""

import secrets
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

LIMIT = 20.0


def open_once(url: str, open_url: Callable[[str], bool], *, limit: float = LIMIT) -> bool:
    """Have `open_url` open a one-time link to `url`, and wait until a browser has followed it.

    Returns False if `open_url` failed, or if nobody followed the link within `limit` seconds.
    """
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
            if not open_url(f"http://127.0.0.1:{server.server_port}{path}"):
                return False
            return used.wait(limit)
        finally:
            server.shutdown()
            thread.join()
