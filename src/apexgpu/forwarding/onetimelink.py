"""A URL with a token in it, for a browser whose command line others can read in `ps`: it is told a door, used once.

The door is a random address on loopback that leads on to the URL. Whoever reads it in `ps` comes too late: it is shut
behind the first who goes through.
"""

import secrets
import threading
from collections.abc import Callable

LIMIT = 20.0


def through(url: str, show: Callable[[str], bool], *, limit: float = LIMIT) -> bool:
    """Have `show` open a door to `url`, and wait until somebody went through, `limit` seconds at most.

    False when `show` could not, or nobody came: the user has to be given the URL.
    """
    from http.server import BaseHTTPRequestHandler, HTTPServer

    path = f"/{secrets.token_urlsafe(24)}"
    used = threading.Event()

    class Door(BaseHTTPRequestHandler):
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
            """Nothing on the terminal."""

    with HTTPServer(("127.0.0.1", 0), Door) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        serving.start()
        try:
            return show(f"http://127.0.0.1:{server.server_port}{path}") and used.wait(limit)
        finally:
            server.shutdown()
            serving.join()
