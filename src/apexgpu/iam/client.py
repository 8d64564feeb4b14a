"""The IAM web site: every request that protocol.md names, with a limit on time and size. Owns httpx.

What comes back is untrusted: nothing is followed, no cookie is kept, and each answer is checked to be what
was asked for, not a web page of whoever sits in between.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urljoin, urlsplit

from apexgpu.errors import (
    ApexError,
    LoginError,
    PasswordError,
    RefusedError,
    UnreachableError,
    UsageError,
)
from apexgpu.iam.iamhttp import (
    Answer,
    candidate_urls,
    checked_url,
    fetch,
    is_loopback,
    looks_like_html,
)

if TYPE_CHECKING:
    import httpx

CONFIG_LIMIT = 64 * 1024
LOG_LIMIT = 1024 * 1024
_LOG = "/log/push-keys"
_PROBE_LIMIT = 3.0
_USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")
_PORT = re.compile(r"[0-9]{1,5}")


def valid_user(name: str) -> bool:
    """Whether `name` may go into a URL and a remote command: lower case, 32 characters, no others than a name has."""
    return _USER.fullmatch(name) is not None


class IamClient:
    """IAM at one URL. Every method raises UnreachableError (no answer in time) or RefusedError (a strange one)."""

    def __init__(
        self, url: str, *, timeout: float = 10, factory: "Callable[[], httpx.Client] | None" = None
    ) -> None:
        self.url = checked_url(url)
        self.timeout = timeout
        self.log_before_post = ""  # the push log as it stood before the last POST: not yet ours
        self._factory = factory
        self._host = urlsplit(self.url).netloc

    def port(self, user: str) -> int | None:
        """The SSH port allotted to the user; None when IAM does not know them."""
        text = self._user_text(user, "port")
        if text is None:
            return None
        if not _PORT.fullmatch(text.strip()) or not 0 < int(text) < 65536:
            raise self._not_iam(f"{text.strip()[:40]!r} for the port of {user}")
        return int(text)

    def name(self, user: str) -> str | None:
        """The user's display name; None when IAM does not know them."""
        text = self._user_text(user, "name")
        return None if text is None else text.strip()

    def keys_text(self, user: str) -> str | None:
        """The authorized_keys text as it was posted, undecodable bytes as surrogates; None for an unknown user."""
        return self._user_text(user, ".ssh/authorized_keys", errors="surrogateescape")

    def config(self, user: str) -> bytes:
        """The ssh config for any name, unchecked; of a body over 64 KiB, one byte more than that."""
        answer = self._get(_path(user, ".ssh/config"), limit=CONFIG_LIMIT)
        if answer.code == 404:
            raise self._not_iam("404 to what IAM always answers")
        self._expect(answer, 200)
        return answer.body

    def open_page(self, user: str) -> None:
        """Look at the page for the user's keys, which registers them; LoginError if the domain has no such user."""
        answer = self._get(_page(user), limit=LOG_LIMIT)
        if answer.code == 404:
            self.config(user)  # says so if this is no IAM at all
            raise LoginError(
                f"{user} is unknown in the domain", hint="apexgpu login USER", code="unknown_user"
            )
        if (
            answer.code == 500 and self.port(user) is None
        ):  # of a user that it knows, or where all fails, it means less
            raise RefusedError(
                f"IAM at {self._host} cannot register {user}: the account has no display name in the domain,"
                " or it would be the very first user",
                hint=f"ask the administrators to give {user} a display name",
                code="no_display_name",
            )
        self._expect(answer, 200)
        if b"password" not in answer.body or b"keys" not in answer.body:
            raise self._not_iam("another page in place of the form for keys")

    def post_keys(self, user: str, text: str, password: str) -> None:
        """Replace the user's stored keys by `text`, which IAM then pushes to all hosts.

        LoginError "password" when it is empty (and then nothing is sent) or refused; RefusedError "locked"
        when trying again may help.
        """
        path = _page(user)
        if not password or "\0" in password:
            # The directory server may take an empty password as a login without one, and let it pass.
            raise PasswordError("an empty password is never sent", hint="apexgpu login")
        lines = [line.rstrip("\r") for line in text.rstrip("\r\n").split("\n")]
        form = {
            "keys": "".join(f"{line}\n" for line in lines) if text.strip() else "",
            "password": password,
        }
        self.log_before_post = self._log_now()
        self._judge_post(user, self._fetch("POST", path, form=form))

    def push_log_text(self) -> str:
        """The log of the newest push, anyone's; empty while there has been none. See `push.parse_push_log`."""
        answer = self._get(_LOG, limit=LOG_LIMIT)
        if answer.code == 404:
            return ""
        return self._plain(answer, "utf-8", "replace")

    def _judge_post(self, user: str, answer: Answer) -> None:
        if answer.code == 401:
            raise PasswordError(
                f"IAM refused the password of {user} (or the domain's directory is down)",
                hint="apexgpu login",
            )
        if answer.code == 500:
            raise RefusedError(
                f"IAM at {self._host}: its database is locked", hint="apexgpu login", code="locked"
            )
        if answer.code == 400:
            raise RefusedError(f"IAM at {self._host} misses a field of the form", code="bad_form")
        self._expect(answer, 302, 303)
        try:
            path = urlsplit(urljoin(self.url + _page(user), answer.location)).path
        except ValueError:
            path = ""
        if path not in (_LOG, urlsplit(self.url).path + _LOG):
            raise self._not_iam(f"a redirect to {answer.location[:80]!r} in place of the push log")

    def _log_now(self) -> str:
        try:
            return self.push_log_text()
        except ApexError:
            return ""

    def _user_text(self, user: str, what: str, *, errors: str = "replace") -> str | None:
        answer = self._get(_path(user, what), limit=CONFIG_LIMIT)
        return None if answer.code == 404 else self._plain(answer, "utf-8", errors)

    def _plain(self, answer: Answer, encoding: str, errors: str) -> str:
        """The body of a text answer. UTF-8 whatever the header says: IAM does not say, and sends nothing else."""
        self._expect(answer, 200)
        if not answer.whole:
            raise self._not_iam("far more than was asked for")
        if looks_like_html(answer):
            raise self._not_iam("a web page in place of plain text")
        return answer.body.decode(encoding, errors)

    def _expect(self, answer: Answer, *codes: int) -> None:
        if answer.code in codes:
            return
        if answer.code in (502, 503, 504):
            raise UnreachableError(
                f"IAM at {self._host} is not running ({answer.code})", hint=f"curl -I {self.url}/"
            )
        if 300 <= answer.code < 400:
            raise self._redirected(answer.location)
        raise RefusedError(
            f"IAM at {self._host} answered {answer.code}", hint=f"curl -i {self.url}/"
        )

    def _redirected(self, location: str) -> RefusedError:
        safer = self._same_with_tls(location)
        return RefusedError(
            f"IAM at {self._host} redirects to {location[:80]!r}, which is not followed",
            hint=f"apexgpu login --iam-url {safer}" if safer else f"curl -i {self.url}/",
            code="redirect",
        )

    def _same_with_tls(self, location: str) -> str | None:
        """This IAM's https URL where `location` leads from http to the same host: fit to be pasted into a shell."""
        try:
            wanted, ours = urlsplit(location), urlsplit(self.url)
            found = checked_url(f"https://{wanted.netloc}{ours.path}")
        except (ValueError, ApexError):
            return None
        same = wanted.hostname == ours.hostname and (wanted.scheme, ours.scheme) == (
            "https",
            "http",
        )
        return found if same else None

    def _not_iam(self, what: str) -> RefusedError:
        return RefusedError(
            f"{self._host} answered {what}: this is not the lab's IAM, or something stands in between",
            hint=f"curl -i {self.url}/users   # a network's login page? another --iam-url?",
            code="not_iam",
        )

    def _get(self, path: str, *, limit: int) -> Answer:
        return self._fetch("GET", path, limit=limit)

    def _fetch(
        self, method: str, path: str, *, limit: int = LOG_LIMIT, form: dict[str, str] | None = None
    ) -> Answer:
        content = (
            urlencode(form, encoding="utf-8", errors="surrogateescape").encode() if form else None
        )
        return fetch(
            method,
            self.url + path,
            timeout=self.timeout,
            limit=limit,
            content=content,
            factory=self._factory,
        )


@dataclass(frozen=True, slots=True)
class _Tried:
    """A URL that did not turn out to be IAM, and why."""

    url: str
    error: ApexError


def reach(
    text: str,
    allow_http: Callable[[str], bool],
    *,
    timeout: float = 10,
    factory: "Callable[[], httpx.Client] | None" = None,
) -> str:
    """The URL that `text` (a URL, or a bare host name) stands for.

    Of a bare name, https is tried first. Plain http beyond this machine needs `allow_http(url)` to be true;
    DeclinedError otherwise. UnreachableError when a bare name answers neither way.
    """
    candidates = candidate_urls(text)
    url = candidates[0] if len(candidates) == 1 else _first_answering(candidates, timeout, factory)
    if url.startswith("http://") and not is_loopback(url) and not allow_http(url):
        from apexgpu.errors import DeclinedError

        raise DeclinedError(
            f"{url} is plain http: the domain password would travel readable",
            hint="add --allow-http if you trust the network in between",
            code="plain_http",
        )
    return url


def _first_answering(
    candidates: list[str], timeout: float, factory: "Callable[[], httpx.Client] | None"
) -> str:
    tried: list[_Tried] = []
    for url in candidates:
        client = IamClient(url, timeout=min(timeout, _PROBE_LIMIT), factory=factory)
        try:
            # Of all that IAM serves, this is answered for any name, registers nobody, and is short.
            body = client.config("nobody")
        except ApexError as error:
            tried.append(_Tried(url, error))
            continue
        if not looks_like_html(Answer(200, body=body)):
            return url
        tried.append(_Tried(url, RefusedError(f"{url} is a web site, but not IAM", code="not_iam")))
    why = "; ".join(f"{one.url.partition(':')[0]}: {one.error.message}" for one in tried)
    raise UnreachableError(
        f"no IAM answers ({why})", hint=f"curl -I {candidates[-1]}/", code="no_iam"
    )


def _path(user: str, what: str) -> str:
    return f"/user/{_checked(user)}/{what}"


def _page(user: str) -> str:
    return f"/manage/ssh-key/{_checked(user)}"


def _checked(user: str) -> str:
    if not valid_user(user):
        raise UsageError(
            f"{user[:40]!r} is no account name: lower-case letters, digits, '_', '.', '-'",
            hint="apexgpu login USER",
        )
    return user
