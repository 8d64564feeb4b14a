"""The same problem on many hosts is one line that names them; a check has its Chinese line; paths are cut at a slash."""

import io
import re
from pathlib import Path

import pytest
from tests.waiting import until

from apexgpu import errorgroups
from apexgpu.errorgroups import joined_hint
from apexgpu.errors import ApexError, ConnectTimeoutError, PortRefusedError, SameCommand
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
    Screen(out=io.StringIO(), err=err).reporter.errors(outcomes)
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


HOSTS = [Host("gpu2", "10.0.0.2", "alice"), Host("gpu12", "10.0.0.12", "alice")]


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("apexgpu up {}", "apexgpu up gpu2 gpu12"),
        ("apexgpu up {} --yes", "apexgpu up gpu2 gpu12 --yes"),
        ("apexgpu doctor {}", "apexgpu doctor gpu2"),  # it takes one host
        ("apexgpu ssh {} -- df -h", "apexgpu ssh gpu2 -- df -h"),
        ("ssh -v {} true", "ssh -v gpu2 true"),
        ("apexgpu login", "apexgpu login"),
    ],
)
def test_the_hint_names_all_hosts_where_its_command_takes_several(
    template: str, shown: str
) -> None:
    hints = [template.format(host.name) for host in HOSTS]
    assert joined_hint(hints, HOSTS) == shown


def test_hints_that_differ_stay_the_first_one_and_the_same_command_stays_one() -> None:
    assert joined_hint(["apexgpu up gpu2", "apexgpu down gpu12"], HOSTS) == "apexgpu up gpu2"
    again = SameCommand("run it again", "--yes")
    assert joined_hint([again, again], HOSTS) is again
    assert joined_hint([None, "apexgpu up gpu12"], HOSTS) is None


def test_errors_that_arrive_within_a_moment_are_joined_and_shown_before_the_work_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(errorgroups, "WAIT", 0.05)
    err = io.StringIO()
    screen = Screen(out=io.StringIO(), err=err)
    with screen.reporter.errors_as_they_come() as errors:
        errors.put(failed(2, ApexError, "{name}: no answer"))
        errors.put(failed(3, ApexError, "{name}: no answer"))
        until(lambda: err.getvalue().endswith("hint: apexgpu doctor gpu2\n"))
        errors.put(failed(4, ApexError, "{name}: no answer"))
    assert err.getvalue() == (
        "error: gpu2, gpu3: no answer\n hint: apexgpu doctor gpu2\n"
        "error: gpu4: no answer\n hint: apexgpu doctor gpu4\n"
    )


def test_every_command_for_several_hosts_joins_their_errors() -> None:
    alone = {
        "render/outputs.py": 1,  # the only host
        "ports.py": 1,  # the only host
        "render/software.py": 1,  # the verdict below the checks of a host
    }
    found = {}
    source = Path(errorgroups.__file__).parent
    for path in source.rglob("*.py"):
        count = len(
            re.findall(r"reporter\.error\(\s*(?:outcome|result)\.error\b.*host", path.read_text())
        )
        count += len(re.findall(r"reporter\.error\(outcome\.error\)", path.read_text()))
        if count:
            found[path.relative_to(source).as_posix()] = count
    assert found == alone
