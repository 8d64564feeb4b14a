"""Which requests go through a proxy: the rows of a table, and the same rows asked of curl itself."""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests import website
from tests.website import Website, page

from apexgpu.errors import ConfigError, RefusedError
from apexgpu.iam.client import IamClient
from apexgpu.iam.proxies import Proxy, find_proxy, matches_no_proxy

NAME = "http://iam.apexlab.org/"
LONG = "http://iam.gpu.apexlab.org:8080/"
IPV4 = "http://10.1.2.3/"
IPV6 = "http://[fd00:1::7]/"
TLS = "https://iam.apexlab.org/"

# URL, no_proxy, whether the request goes directly.
ROWS = [
    (NAME, "", False),
    (NAME, "*", True),
    (IPV4, "*", True),
    (IPV6, "*", True),
    (NAME, "iam.apexlab.org", True),
    (NAME, "IAM.ApexLab.ORG", True),
    (NAME, "apexlab.org", True),
    (NAME, ".apexlab.org", True),
    (NAME, "org", True),
    (NAME, "lab.org", False),
    (NAME, "exlab.org", False),
    (NAME, "apexlab.com", False),
    (NAME, "www.iam.apexlab.org", False),
    (NAME, "iam", False),
    (NAME, "iam.apexlab.org.", True),
    ("http://iam.apexlab.org./", "iam.apexlab.org", True),
    (NAME, ".iam.apexlab.org", True),
    (NAME, "other.org,iam.apexlab.org", True),
    (NAME, "other.org, iam.apexlab.org", True),
    (NAME, "  iam.apexlab.org  ", True),
    (NAME, "other.org,,iam.apexlab.org,", True),
    (NAME, "other.org", False),
    (NAME, ".", False),
    (NAME, ",", False),
    (NAME, "10.0.0.0/8", False),
    (LONG, "apexlab.org", True),
    (LONG, "gpu.apexlab.org", True),
    (LONG, "iam.apexlab.org", False),
    (TLS, "apexlab.org", True),
    (TLS, "example.org", False),
    (IPV4, "10.1.2.3", True),
    (IPV4, "10.1.2.4", False),
    (IPV4, "10.0.0.0/8", True),
    (IPV4, "10.1.2.0/24", True),
    (IPV4, "10.1.2.3/32", True),
    (IPV4, "10.1.2.9/8", True),
    (IPV4, "10.1.3.0/24", False),
    (IPV4, "192.168.0.0/16,10.0.0.0/8", True),
    (IPV4, "10.1.2.2/31", True),
    (IPV4, "10.1.2.4/31", False),
    (IPV4, "10.0.0.0/33", False),
    (IPV4, "10.0.0.0/0", False),
    (IPV4, "10.", False),
    (IPV4, "2.3", False),
    (IPV4, "localhost,127.0.0.1,10.0.0.0/8", True),
    (IPV4, "fd00::/8", False),
    (IPV6, "fd00:1::7", True),
    (IPV6, "FD00:1::7", True),
    (IPV6, "fd00:2::/32", False),
    (IPV6, "fd00:1::8", False),
    (IPV6, "10.0.0.0/8", False),
]
# curl 7.88 knows none of these forms, later versions and other programs do. A request that they
# exclude goes directly.
BEYOND_CURL = [
    (IPV6, "fd00:1:0:0:0:0:0:7", True),
    (IPV6, "fd00::/8", True),
    (IPV6, "fd00:1::/32", True),
    (NAME, "*.apexlab.org", True),
    (NAME, "*apexlab.org", True),
    (NAME, "*.example.org", False),
    (NAME, "iam.apexlab.org:80", True),
    (NAME, "iam.apexlab.org:443", False),
    (TLS, "iam.apexlab.org:443", True),
    (LONG, "apexlab.org:8080", True),
    (LONG, "apexlab.org:80", False),
    (IPV4, "10.1.2.3:80", True),
    (IPV4, "10.1.2.3:81", False),
    (IPV6, "[fd00:1::7]", True),
    (IPV6, "[fd00:1::7]:80", True),
    (IPV6, "[fd00:1::7]:81", False),
    (IPV6, "[fd00:1::8]", False),
    (NAME, "other.org iam.apexlab.org", True),
    (NAME, "other.org\tapexlab.org\n", True),
    (NAME, "other.org,*", True),
    (NAME, "iam.apexlab.org:99999999", False),
    (IPV4, "10.0.0.0/8/8", False),
    (IPV4, "10.0.0.0/x", False),
]


@pytest.mark.parametrize(("url", "no_proxy", "direct"), [*ROWS, *BEYOND_CURL])
def test_no_proxy(url: str, no_proxy: str, direct: bool) -> None:
    assert matches_no_proxy(url, no_proxy) is direct


@pytest.fixture
def closed_proxy() -> Iterator[int]:
    """A port that is bound and does not listen: who tries the proxy is refused at once."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.openssh  # curl is installed with the test programs
def test_the_table_is_what_curl_does(closed_proxy: int) -> None:
    def goes_directly(row: tuple[str, str, bool]) -> bool:
        url, no_proxy, _ = row
        done = subprocess.run(
            # For a direct request, the name and the address lead to a port where nobody listens.
            ["curl", "-sv", "--max-time", "5", "--connect-to", "::127.0.0.1:1", url],
            env={
                "PATH": os.environ["PATH"],
                "http_proxy": f"http://127.0.0.1:{closed_proxy}",
                "https_proxy": f"http://127.0.0.1:{closed_proxy}",
                "no_proxy": no_proxy,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        # Newer versions of curl also print the port from which they connect.
        log = re.sub(r" from 127\.0\.0\.1 port \d+", "", done.stderr)
        tried = set(re.findall(r"127\.0\.0\.1:(\d+)|127\.0\.0\.1 port (\d+)", log))
        ports = {port for pair in tried for port in pair if port}
        assert ports in ({str(closed_proxy)}, {"1"}), done.stderr
        return ports == {"1"}

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(goes_directly, ROWS))
    wrong = [row for row, direct in zip(ROWS, answers, strict=True) if direct is not row[2]]
    assert wrong == []


@pytest.fixture
def site() -> Iterator[Website]:
    with website.serving() as found:
        yield found


@pytest.fixture
def proxied(site: Website, monkeypatch: pytest.MonkeyPatch) -> Website:
    """The site as the proxy for every http request."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, site.url.replace("://", "://me:s3cret@"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    return site


@pytest.mark.parametrize(
    ("status", "words"),
    [(403, "answered 403"), (407, "answered 407"), (302, "redirects to"), (503, "is not running")],
)
def test_an_answer_that_may_be_the_proxys_names_the_proxy(
    proxied: Website, status: int, words: str
) -> None:
    url = "http://iam.apexlab.org/user/alice/port"
    proxied.pages[f"GET {url}"] = page(status, b"", "Location: http://portal.example.org/")
    with pytest.raises(Exception, match=words) as caught:
        IamClient("http://iam.apexlab.org").port("alice")
    assert f"(through the proxy {proxied.url})" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_without_a_proxy_none_is_named(site: Website) -> None:
    site.pages["GET /user/alice/port"] = page(403)
    with pytest.raises(RefusedError) as caught:
        IamClient(site.url).port("alice")
    assert "proxy" not in caught.value.message


def test_an_excluded_iam_is_not_requested_from_the_proxy(
    proxied: Website, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "10.0.0.0/8")
    assert find_proxy("http://10.1.2.3") is None
    assert find_proxy("http://11.1.2.3") == Proxy(
        proxied.url.replace("://", "://me:s3cret@"), proxied.url
    )


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://[", "http://127.0.0.1:x"])
def test_a_proxy_that_cannot_be_used_is_2_with_the_way_around_it(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ConfigError) as caught:
        IamClient("http://iam.apexlab.org").port("alice")
    assert caught.value.hint == "export no_proxy=iam.apexlab.org"
