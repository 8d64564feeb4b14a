"""jupyter and tensorboard in a container: they serve a page, and do no more. Standard library only."""

import html
import http.server
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

RUNTIME = Path.home() / ".local" / "share" / "jupyter" / "runtime"


class Page(http.server.BaseHTTPRequestHandler):
    """A page, and a little JSON for those who ask how it is; with a token, only for those who know it."""

    title = ""
    token = ""

    def do_GET(self) -> None:
        """Answer."""
        asked = urlsplit(self.path)
        given = parse_qs(asked.query).get(
            "token", [self.headers.get("Authorization", "").partition(" ")[2]]
        )
        if self.token and asked.path != "/api" and given != [self.token]:
            self._say(403, "application/json", json.dumps({"message": "Forbidden"}))
        elif asked.path.startswith(("/api", "/data")):
            self._say(200, "application/json", json.dumps({"version": "6.4.0", "started": "lab"}))
        else:
            title = html.escape(self.title)
            self._say(200, "text/html", f"<!doctype html><title>{title}</title><h1>{title}</h1>\n")

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def _say(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def option(arguments: list[str], *names: str) -> str | None:
    """The value of `--name VALUE` or `--name=VALUE`."""
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else "".join(arguments[place + 1 : place + 2])
    return None


def listen(port: int, tries: int) -> http.server.ThreadingHTTPServer:
    """A server on the first free port from `port` on."""
    for number in range(port, port + tries):
        try:
            return http.server.ThreadingHTTPServer(("127.0.0.1", number if port else 0), Page)
        except OSError:
            continue
    message = f"no free port from {port} on"
    raise OSError(message)


def servers() -> Iterator[dict[str, object]]:
    """The notebook servers that run."""
    for path in sorted(RUNTIME.glob("*server-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        try:
            os.kill(int(found["pid"]), 0)
        except OSError:
            path.unlink()
        else:
            yield found


def show_servers(arguments: list[str]) -> int:
    """`jupyter notebook list`."""
    as_json = "--json" in arguments or "--jsonlist" in arguments
    if not as_json:
        sys.stdout.write("Currently running servers:\n")
    for one in servers():
        line = (
            json.dumps(one)
            if as_json
            else f"{one['url']}?token={one['token']} :: {one['notebook_dir']}"
        )
        sys.stdout.write(f"{line}\n")
    return 0


def jupyter(arguments: list[str]) -> int:
    """A notebook server: says its address with the token on stderr, and notes it where `list` looks."""
    if "list" in arguments[:2]:
        return show_servers(arguments)
    if "--version" in arguments:
        sys.stdout.write("6.4.0\n")
        return 0
    server = listen(int(option(arguments, "--port", "-p") or 8888), 50)
    port = server.server_address[1]
    token = option(
        arguments, "--NotebookApp.token", "--ServerApp.token", "--IdentityProvider.token"
    )
    given = os.environ.get("JUPYTER_TOKEN") if token is None else token
    Page.title, Page.token = "Jupyter", secrets.token_hex(24) if given is None else given
    shown = "..." if given else Page.token  # what was given is known, and kept out of the log
    directory = option(arguments, "--notebook-dir", "--ServerApp.root_dir") or str(Path.cwd())
    RUNTIME.mkdir(parents=True, exist_ok=True)
    note = RUNTIME / f"nbserver-{os.getpid()}.json"
    url = f"http://localhost:{port}/"
    note.write_text(
        json.dumps(
            {
                "pid": os.getpid(),
                "port": port,
                "url": url,
                "token": Page.token,
                "base_url": "/",
                "hostname": "localhost",
                "notebook_dir": directory,
                "root_dir": directory,
            }
        )
    )
    stamp = time.strftime("[I %H:%M:%S NotebookApp] ")
    sys.stderr.write(
        f"{stamp}Serving notebooks from local directory: {directory}\n"
        f"{stamp}Jupyter Notebook 6.4.0 is running at:\n{stamp}{url}?token={shown}\n"
        f"{stamp} or http://127.0.0.1:{port}/?token={shown}\n"
    )
    sys.stderr.flush()
    try:
        server.serve_forever()
    finally:
        note.unlink(missing_ok=True)
    return 0


def tensorboard(arguments: list[str]) -> int:
    """A TensorBoard: says its address on stderr."""
    logdir = option(arguments, "--logdir")
    if not logdir:
        sys.stderr.write("tensorboard: error: --logdir is missing\n")
        return 2
    server = listen(
        int(option(arguments, "--port") or 6006), 1 if option(arguments, "--port") else 10
    )
    Page.title = "TensorBoard"
    sys.stderr.write(
        f"TensorBoard 1.12.2 at http://localhost:{server.server_address[1]} (Press CTRL+C to quit)\n"
    )
    sys.stderr.flush()
    server.serve_forever()
    return 0


def main(name: str, arguments: list[str]) -> int:
    """Run what we were called as."""
    if name == "tensorboard":
        return tensorboard(arguments)
    if name == "jupyter":
        arguments = [word for word in arguments if word not in ("notebook", "lab", "server")]
    return jupyter(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], sys.argv[2:]))
    except KeyboardInterrupt:
        sys.exit(0)
