"""Calls to a running lab as its users make them: OpenSSH's client, and plain HTTP."""

import http.client
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from apexgpu_lab.inprocess import Lab
from apexgpu_lab.labstate import LabState

LIMIT = 60
TEMPLATE = "/NAS/Workspaces/lxc-snapshot/template.tar.gz"


@dataclass(frozen=True)
class Finished:
    """A finished program: its exit status and its output."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Page:
    """The response of a web server."""

    status: int
    headers: dict[str, str]
    body: str


def ssh_argv(lab: Lab, *words: str, program: str = "ssh") -> list[str]:
    """A call of OpenSSH with the lab's config, which asks nothing."""
    return [
        program,
        "-F",
        str(lab.layout.ssh_config),
        "-o",
        "BatchMode=yes",
        "-o",
        "LogLevel=ERROR",
        *words,
    ]


def ssh(lab: Lab, *words: str, program: str = "ssh", stdin: str = "") -> Finished:
    """Run it to its end."""
    done = subprocess.run(
        ssh_argv(lab, *words, program=program),
        input=stdin.encode(),
        capture_output=True,
        timeout=LIMIT,
        check=False,
        env={**os.environ, "TERM": "dumb"},
    )
    return Finished(
        done.returncode,
        done.stdout.decode("utf-8", "replace"),
        done.stderr.decode("utf-8", "replace"),
    )


def fetch(url: str, path: str, form: dict[str, str] | None = None, timeout: float = LIMIT) -> Page:
    """GET, or POST a form; redirects are not followed."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if form is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, urlencode(form), headers)
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Page(answer.status, names, answer.read().decode("utf-8", "replace"))
    finally:
        connection.close()


def post_keys(lab: Lab, user: str, keys: str) -> Page:
    """Visit the manage page, then store keys."""
    fetch(lab.iam_url, f"/manage/ssh-key/{user}")
    return fetch(
        lab.iam_url, f"/manage/ssh-key/{user}", {"keys": keys, "password": lab.password(user)}
    )


def started(lab: Lab, host: str = "gpu2", user: str = "alice") -> None:
    """A running container with its port forwarded, without an ssh login."""

    def start(lab_state: LabState) -> None:
        place = lab_state.hosts[host]
        container = place.accounts[user].container
        assert container
        lab_state.boot(place, container)
        lab_state.forward(place, container, 22, lab_state.port_of(place, user))

    lab.call(start)


def state_of(lab: Lab, host: str = "gpu2") -> str:
    """The state of the first container of a host."""
    containers = next(one for one in lab.status()["hosts"] if one["host"] == host)["containers"]
    return str(containers[0]["state"])


def rootfs_of(lab: Lab, host: str = "gpu2", user: str = "alice") -> Path:
    """Where a container's tree lies."""
    return lab.layout.home / "hosts" / host / user / "rootfs"


def token_of(lab: Lab) -> str:
    """The token of now."""
    return lab.call(lambda lab_state: lab_state.token())


def wait_until(condition: Callable[[], bool], lab: Lab) -> None:
    """Let the lab's loop turn until something is so."""
    import time

    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it never came to be"
        lab.call(_one_turn)  # type: ignore[arg-type]  # a coroutine is awaited there


async def _one_turn(_world: LabState) -> None:
    import asyncio

    await asyncio.sleep(0.005)
