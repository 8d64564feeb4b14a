"""The same problem on many hosts is one line that names them."""

import io

from apexgpu.errors import ApexError, ConnectTimeoutError, PortRefusedError
from apexgpu.models import Host, Outcome
from apexgpu.render.screen import Screen


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
