"""The IAM web site: one method for each request that IAM answers.

The answers are untrusted. No redirect is followed, and each answer is checked to be what was
requested, not the web page of something in between (a captive portal, a proxy).
"""

import re
from urllib.parse import urlencode, urljoin, urlsplit

from apexgpu.errors import (
    ApexError,
    PasswordError,
    RefusedError,
    UnknownUserError,
    UnreachableError,
    UsageError,
)
from apexgpu.iam.httpfetch import HttpResponse, fetch, server_name
from apexgpu.iam.urls import normalize_url
from apexgpu.platforms import hints

CONFIG_LIMIT = 64 * 1024  # bytes
PAGE_LIMIT = 1024 * 1024  # bytes
_PUSH_LOG = "/log/push-keys"
_USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")
_PORT = re.compile(r"[0-9]{1,5}")


class DatabaseLockedError(RefusedError):
    """IAM's database was locked by another request; the same request may succeed a second later."""

    code = "locked"


def valid_user(name: str) -> bool:
    """Return whether `name` can be an account: it is safe in a URL and in a remote command."""
    return _USER.fullmatch(name) is not None


class IamClient:
    """IAM at one URL.

    Besides the errors that a method names, each method raises UnreachableError (no answer in time),
    RefusedError (an unexpected answer) and UsageError (the user name cannot be an account).

    >>> IamClient("http://iam.apexlab.org").port("alice")  # doctest: +SKIP
    22001
    """

    def __init__(self, url: str, *, timeout: float = 10) -> None:
        """`timeout` is in seconds, see `httpfetch.fetch`. Raises ConfigError for an unusable URL."""
        self.url = normalize_url(url)
        self.timeout = timeout
        # The push log as `note_push_log` saw it. It is about an earlier push, perhaps ours too.
        self.log_before_post = ""
        self._host = urlsplit(self.url).netloc

    def port(self, user: str) -> int | None:
        """Return the SSH port of the user's containers, or None if IAM does not know the user."""
        text = self._user_text(user, "port")
        if text is None:
            return None
        port = text.strip()
        if not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
            raise self._not_iam(f"{port[:40]!r} for the port of {user}")
        return int(port)

    def name(self, user: str) -> str | None:
        """Return the user's display name, or None if IAM does not know the user."""
        text = self._user_text(user, "name")
        return None if text is None else text.strip()

    def keys_text(self, user: str) -> str | None:
        """Return the stored authorized_keys text, or None if IAM does not know the user.

        Bytes that are not UTF-8 become surrogates, so that `post_keys` can send them back unchanged.
        """
        text = self._user_text(user, ".ssh/authorized_keys", errors="surrogateescape")
        if text is None and self.port(user) is not None:
            raise self._no_keys_page(user)
        return text

    def stored_keys(self, user: str) -> str:
        """Return the stored authorized_keys text of a user whose page IAM has opened.

        Whoever posts keys replaces all of them, so "404" must never be read as "no keys".
        """
        text = self._user_text(user, ".ssh/authorized_keys", errors="surrogateescape")
        if text is None:
            raise self._no_keys_page(user)
        return text

    def config(self, user: str) -> bytes:
        """Return the ssh config that IAM offers; parse it with `hostlist.parse`.

        IAM answers this for any name. Of a body over 64 KiB, 64 KiB and one byte are returned.
        """
        response = self._get(_user_path(user, ".ssh/config"), limit=CONFIG_LIMIT)
        if response.status == 404:
            raise self._not_iam("404 for a file that IAM has for everybody")
        self._expect(response, 200)
        return response.body

    def open_page(self, user: str) -> None:
        """Request the page with the user's keys. IAM registers a new user when it serves this page.

        Raises UnknownUserError if the domain has no such user.
        """
        response = self._get(_keys_page(user), limit=PAGE_LIMIT)
        if response.status == 404:
            self.config(user)  # raises a better error if this server is not an IAM
            raise UnknownUserError(f"{user} is unknown in the domain", hint="apexgpu login --help")
        # A 500 for a user whom IAM knows, or when every request fails, has another cause.
        if response.status == 500 and self.port(user) is None:
            raise RefusedError(
                f"IAM at {self._host} cannot register {user}: the account has no display name in the"
                " domain (an administrator can set it), or it would be the very first user",
                hint="apexgpu doctor --report report.txt",
                code="no_display_name",
            )
        self._expect(response, 200)
        if b"password" not in response.body or b"keys" not in response.body:
            raise self._not_iam("another page instead of the form for keys")

    def post_keys(self, user: str, text: str, password: str) -> None:
        """Replace the stored keys by `text` (authorized_keys lines). IAM then pushes them to all hosts.

        Raises PasswordError if the password is empty (then nothing is sent) or refused, and
        DatabaseLockedError if a second attempt may succeed.
        """
        path = _keys_page(user)
        if not password or "\0" in password:
            # A directory server may accept an empty password as an anonymous login (RFC 4513).
            raise PasswordError("an empty password is never sent", hint="apexgpu login")
        form = {"keys": _with_line_ends(text), "password": password}
        self._check_post(user, self._fetch("POST", path, form=form))

    def note_push_log(self) -> None:
        """Remember the push log as it is now, so that `follow_push` can tell the next push from it."""
        try:
            self.log_before_post = self.push_log_text()
        except ApexError:
            self.log_before_post = ""

    def push_log_text(self) -> str:
        """Return the log of the newest push (of any user), or "" if there has been none.

        See `pushlog.parse_push_log`.
        """
        response = self._get(_PUSH_LOG, limit=PAGE_LIMIT)
        if response.status == 404:
            return ""
        return self._plain_text(response, errors="replace")

    def _check_post(self, user: str, response: HttpResponse) -> None:
        if response.status == 401:
            raise PasswordError(
                f"IAM refused the password of {user} (or the domain's directory is down)",
                hint="apexgpu login",
            )
        if response.status == 500:
            message = f"IAM at {self._host}: its database is locked"
            raise DatabaseLockedError(message, hint="apexgpu login")
        if response.status == 400:
            message = f"IAM at {self._host} reports a missing field in the form"
            raise RefusedError(message, hint="apexgpu doctor --report report.txt", code="bad_form")
        self._expect(response, 302, 303)
        # IAM answers an accepted form with a redirect to the push log.
        try:
            target = urlsplit(urljoin(self.url + _keys_page(user), response.location)).path
        except ValueError:
            target = ""
        if target not in (_PUSH_LOG, urlsplit(self.url).path + _PUSH_LOG):
            shown = repr(response.location[:80])
            raise self._not_iam(f"a redirect to {shown} instead of the push log")

    def _user_text(self, user: str, what: str, *, errors: str = "replace") -> str | None:
        response = self._get(_user_path(user, what), limit=CONFIG_LIMIT)
        if response.status == 404:
            return None
        return self._plain_text(response, errors=errors)

    def _plain_text(self, response: HttpResponse, *, errors: str) -> str:
        """Return the body of a text answer as UTF-8: IAM names no encoding, and uses no other."""
        self._expect(response, 200)
        if not response.complete:
            raise self._not_iam("far more than was requested")
        if response.is_html:
            raise self._not_iam("a web page instead of plain text")
        return response.body.decode("utf-8", errors)

    def _expect(self, response: HttpResponse, *statuses: int) -> None:
        status = response.status
        if status in statuses:
            return
        if status in (502, 503, 504):  # a proxy in front of IAM
            message = f"{server_name(self.url)} is not running ({status})"
            raise UnreachableError(message, hint=hints.http_head(f"{self.url}/"))
        if 300 <= status < 400:
            raise self._redirected(response.location)
        raise RefusedError(
            f"{server_name(self.url)} answered {status}", hint=hints.http_get(f"{self.url}/")
        )

    def _redirected(self, location: str) -> RefusedError:
        hint = hints.http_get(f"{self.url}/")
        https_url = self._https_url(location)
        if https_url:
            hint = f"apexgpu login --iam-url {https_url}"
        return RefusedError(
            f"{server_name(self.url)} redirects to {location[:80]!r}, which is not followed",
            hint=hint,
            code="redirect",
        )

    def _https_url(self, location: str) -> str | None:
        """Return this IAM's https URL if `location` is https on the same host and ours is http.

        The result becomes part of a command to paste, so it is a normalized URL or nothing.
        """
        try:
            target = urlsplit(location)
            ours = urlsplit(self.url)
            url = normalize_url(f"https://{target.netloc}{ours.path}")
        except (ValueError, ApexError):
            return None
        if target.hostname != ours.hostname:
            return None
        if (target.scheme, ours.scheme) != ("https", "http"):
            return None
        return url

    def _not_iam(self, what: str) -> RefusedError:
        return RefusedError(
            f"{server_name(self.url)} answered {what}: this is not the lab's IAM, or something in between"
            " answered (a network's login page?)",
            hint=hints.http_get(f"{self.url}/users"),
            code="not_iam",
        )

    def _no_keys_page(self, user: str) -> RefusedError:
        return RefusedError(
            f"{server_name(self.url)} knows {user}, but answered 404 for the stored keys; without them,"
            " nothing can be changed",
            hint=hints.http_get(f"{self.url}{_user_path(user, '.ssh/authorized_keys')}"),
            code="no_keys_page",
        )

    def _get(self, path: str, *, limit: int) -> HttpResponse:
        return self._fetch("GET", path, limit=limit)

    def _fetch(
        self, method: str, path: str, *, limit: int = PAGE_LIMIT, form: dict[str, str] | None = None
    ) -> HttpResponse:
        url = self.url + path
        content = None
        if form is not None:
            # As a browser does; bytes that are not UTF-8 stay what they are.
            content = urlencode(form, encoding="utf-8", errors="surrogateescape").encode()
        return fetch(method, url, timeout=self.timeout, limit=limit, content=content)


def _with_line_ends(text: str) -> str:
    """Return the lines of `text`, each with one LF at its end; "" for blank text."""
    if not text.strip():
        return ""
    lines = text.rstrip("\r\n").split("\n")
    return "".join(line.rstrip("\r") + "\n" for line in lines)


def _user_path(user: str, what: str) -> str:
    return f"/user/{_checked(user)}/{what}"


def _keys_page(user: str) -> str:
    return f"/manage/ssh-key/{_checked(user)}"


def _checked(user: str) -> str:
    if not valid_user(user):
        raise UsageError(
            f"{user[:40]!r} is not an account name: lower-case letters, digits, '_', '.', '-'",
            hint="apexgpu login --help",
        )
    return user
