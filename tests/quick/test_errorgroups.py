"""The same problem on many hosts is one line that names them; a check has its Chinese line; paths are cut at a slash."""

import io

import pytest

from apexgpu.errors import ApexError, ConnectTimeoutError, PortRefusedError
from apexgpu.models import Finding, Host, Outcome
from apexgpu.render.screen import Screen
from apexgpu.tables import shorten_path


def failed(number: int, error: type[ApexError], message: str) -> Outcome[str]:
    name = f"gpu{number}"
    host = Host(name, f"10.0.0.{number}", "alice")
    text = message.format(name=name, address=host.address)
    return Outcome(host, None, error(text, hint=f"apexgpu doctor {name}"))


def shown(*outcomes: Outcome[str]) -> str:
    err = io.StringIO()
    Screen(out=io.StringIO(), err=err).errors(outcomes)
    return err.getvalue()


def test_the_same_problem_is_one_line_and_others_stay_their_own() -> None:
    silent = "{name}-manage ({address}): no answer within 10 s"
    assert shown(
        failed(2, ConnectTimeoutError, silent),
        failed(3, PortRefusedError, "{name}-manage ({address}:22): connection refused"),
        failed(12, ConnectTimeoutError, silent),
        Outcome(Host("gpu5", "10.0.0.5", "alice"), "fine"),
    ) == (
        "error: gpu2, gpu12: no answer within 10 s\n hint: apexgpu doctor gpu2\n"
        "error: gpu3-manage (10.0.0.3:22): connection refused\n hint: apexgpu doctor gpu3\n"
    )


def test_a_host_inside_the_message_is_replaced_too() -> None:
    assert (
        shown(
            failed(2, ApexError, "the container on {name} has no address"),
            failed(20, ApexError, "the container on {name} has no address"),
        )
        == "error: gpu2, gpu20: the container on each has no address\n hint: apexgpu doctor gpu2\n"
    )


def test_messages_that_differ_are_not_joined() -> None:
    text = shown(
        failed(2, ApexError, "{name}: one line"), failed(3, ApexError, "{name}: another line")
    )
    assert text.count("error: ") == 2


def test_a_check_that_failed_has_its_chinese_line_and_a_good_one_none() -> None:
    out = io.StringIO()
    screen = Screen(out=out, err=io.StringIO())
    screen.reporter.is_chinese = lambda: True
    screen.finding(Finding.problem("container", "it is stopped", "apexgpu up gpu7", code="stopped"))
    screen.finding(Finding("container", "ok", "it runs", code="stopped"))
    assert out.getvalue() == (
        "problem container      it is stopped\n"
        "        说明:          容器已停止。\n"
        "        hint:          apexgpu up gpu7\n"
        "ok      container      it runs\n"
    )


@pytest.mark.parametrize(
    ("path", "room", "shown"),
    [
        ("/home/alice/experiments/run-7", 40, "/home/alice/experiments/run-7"),
        ("/home/alice/experiments/run-7", 20, "…/experiments/run-7"),
        ("/home/alice/experiments/run-7", 10, "…/run-7"),
        ("/home/王芳/实验", 7, "…/实验"),
        ("/home/alice/a-very-long-name", 10, "/home/alice/a-very-long-name"),
        ("no-slash-at-all", 5, "no-slash-at-all"),
    ],
)
def test_a_path_loses_whole_directories_at_its_start(path: str, room: int, shown: str) -> None:
    assert shorten_path(path, room) == shown
