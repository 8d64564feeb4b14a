"""IAM's web site: its pages and texts, and the push that starts when keys are posted."""

import asyncio
import html
from collections.abc import Callable

from apexgpu_lab.faults import IAM
from apexgpu_lab.labstate import LabState
from apexgpu_lab.pusher import LOG_PATH, Pusher
from apexgpu_lab.web import Request, Response, text_response

_GARBLED = (
    "Host *\n    ProxyCommand touch /tmp/owned\nHost gpu2-manage gpu3\n"
    "    HostName = evil.example\n    User \x1b[2J\n"
)
_PAGE = (
    '<!doctype html>\n<html lang="en">\n<title>{title}</title>\n<h1>{title}</h1>\n{body}\n</html>\n'
)
_USER_TEXTS: dict[str, Callable[[LabState, str], str]] = {
    "name": lambda lab_state, name: lab_state.users.registered[name].display_name,
    "port": lambda lab_state, name: str(lab_state.users.registered[name].port),
    "subuid": lambda lab_state, name: str(lab_state.users.registered[name].subuid),
    ".ssh/authorized_keys": lambda lab_state, name: lab_state.users.keys.get(name, ""),
}


class IamSite:
    """The handler of IAM's requests."""

    def __init__(self, lab_state: LabState, pusher: Pusher) -> None:
        self.lab_state = lab_state
        self.pusher = pusher

    async def answer(self, request: Request) -> Response:
        """Return the response to a request, after applying the faults of IAM."""
        faults = self.lab_state.faults
        if faults.trigger(IAM, "hang"):
            await asyncio.Event().wait()
        if faults.trigger(IAM, "slow"):
            await asyncio.sleep(self.lab_state.slow_seconds)
        parts = request.path.strip("/").split("/", 2)
        if request.method == "POST":
            return self._post(request, parts)
        if request.method != "GET":
            return html_page(405, "Method Not Allowed")
        return self._get(parts)

    def _get(self, parts: list[str]) -> Response:
        match parts:
            case [""]:
                return self._front_page()
            case ["users"]:
                return text_response(self._users())
            case ["log", "push-keys"]:
                return text_response(
                    self.pusher.log,
                    **({"Refresh": f"1; url={LOG_PATH}"} if self.pusher.running else {}),
                )
            case ["manage", "ssh-key", name]:
                return self._manage_page(name)
        return self._user_page(parts)

    def _user_page(self, parts: list[str]) -> Response:
        match parts:
            case ["user", name, ".ssh/config"]:
                return self._config(name)
            case ["user", name, what] if (
                what in _USER_TEXTS and name in self.lab_state.users.registered
            ):
                return text_response(_USER_TEXTS[what](self.lab_state, name))
        return html_page(404, "Not Found")

    def _post(self, request: Request, parts: list[str]) -> Response:
        match parts:
            case ["manage", "ssh-key"]:
                name = request.form.get("username")
                return (
                    html_page(400, "Bad Request")
                    if name is None
                    else _redirect(request, f"/manage/ssh-key/{name}")
                )
            case ["manage", "ssh-key", name]:
                return self._store_keys(request, name)
        return html_page(404, "Not Found")

    def _store_keys(self, request: Request, name: str) -> Response:
        """Replace a user's keys and start a push. As on the real site, the user may have no port."""
        form = request.form
        if "keys" not in form or "password" not in form:
            return html_page(400, "Bad Request")
        password = form["password"]
        empty_accepted = not password and self.lab_state.faults.trigger(IAM, "empty-password")
        users = self.lab_state.users
        if not users.accepts_password(name, password, empty_accepted=empty_accepted):
            return html_page(401, "Unauthorized")
        if self.lab_state.faults.trigger(IAM, "db-locked"):
            return html_page(500, "Internal Server Error")
        self.lab_state.users.keys[name] = form["keys"]
        self.pusher.start(name)
        return _redirect(request, LOG_PATH)

    def _manage_page(self, name: str) -> Response:
        """Return the form for a user's keys. As on the real site, a GET registers the user."""
        person = self.lab_state.users.find(name)
        if person is None:
            return html_page(404, "Not Found")
        if person.display_name is None:
            return html_page(500, "Internal Server Error")
        self.lab_state.users.ensure_registered(name)
        keys = html.escape(self.lab_state.users.keys.get(name, ""))
        form = (
            f'<form method="post"><textarea name="keys" rows="10" cols="80">{keys}</textarea>'
            '<input type="password" name="password"><input type="submit" value="Apply"></form>'
        )
        return html_page(200, f"SSH keys of {html.escape(person.display_name)}", form)

    def _users(self) -> str:
        rows = self.lab_state.users.registered.values()
        return "".join(
            f"{entry.name},{entry.display_name},{entry.port},{entry.subuid}\n" for entry in rows
        )

    def _front_page(self) -> Response:
        rows = "".join(
            f"<tr><td>{html.escape(entry.name)}<td>{html.escape(entry.display_name)}<td>{entry.port}"
            f'<td><a href="/user/{entry.name}/.ssh/config">(.ssh/config)</a>'
            for entry in self.lab_state.users.registered.values()
        )
        form = (
            '<form method="post" action="/manage/ssh-key"><input name="username">'
            '<input type="submit" value="Manage"></form>'
        )
        return html_page(200, "IAM", f"{form}<table>{rows}</table>")

    def _config(self, name: str) -> Response:
        if self.lab_state.faults.trigger(IAM, "html"):
            return html_page(200, "Welcome to the network", "<p>Please log in.</p>")
        if self.lab_state.faults.trigger(IAM, "garbled-config"):
            return text_response(_GARBLED)
        return text_response(ssh_config(self.lab_state, name))


def ssh_config(lab_state: LabState, name: str) -> str:
    """Return the ssh config for any user name; container blocks only for entry that is registered.

    It differs from the real site's in one point: the -manage blocks have a `Port`, which is 22 there.
    """
    manage = "".join(
        f"Host {host.name}-manage\n    HostName {host.address}\n    User {name}\n"
        f"    Port {host.manage_port}\n"
        for host in lab_state.hosts.values()
    )
    if name not in lab_state.users.registered:
        return manage
    return manage + "".join(
        f"Host {host.name}\n    HostName {host.address}\n    User {name}\n"
        f"    Port {lab_state.port_of(host, name)}\n"
        for host in lab_state.hosts.values()
    )


def html_page(status: int, title: str, body: str = "") -> Response:
    """Return a response with an HTML page."""
    return Response(status, _PAGE.format(title=title, body=body))


def _redirect(request: Request, path: str) -> Response:
    target = f"http://{request.headers.get('host', 'localhost')}{path}"
    answer = html_page(302, "Redirecting", f'<a href="{html.escape(target)}">here</a>')
    return Response(302, answer.body, answer.kind, {"Location": target})
