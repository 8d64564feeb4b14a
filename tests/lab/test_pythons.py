"""The Pythons of the lab's containers: what is missing is missing, and pip installs what the real index has."""

import pytest
from tests.lab.calls import Finished, rootfs_of, ssh, started

from apexgpu_lab.inprocess import Lab

pytestmark = pytest.mark.openssh


@pytest.fixture
def container(lab: Lab) -> Lab:
    """alice's container on gpu2 is running."""
    started(lab)
    return lab


def run(lab: Lab, command: str, stdin: str = "") -> Finished:
    """A command in the container."""
    return ssh(lab, "gpu2", command, stdin=stdin)


ENVIRONMENT = "sudo apt-get install -y python3.5-venv >/dev/null && python3.5 -m venv v"


def test_the_versions_are_those_of_the_distribution(container: Lab) -> None:
    asked = (
        "python3 --version; python3.5 -c 'import sys; print(sys.version_info[:3], sys.executable)'"
    )
    assert run(container, asked).out == "Python 3.5.2\n(3, 5, 2) /usr/bin/python3.5\n"
    assert run(container, "python2.7 --version").code == 127
    refused = run(container, "sudo apt-get install -y python3.7")
    assert (refused.code, refused.err) == (100, "E: Unable to locate package python3.7\n")
    assert run(container, "sudo apt-get install -y python2.7 >/dev/null; python2.7 -V").out == (
        "Python 2.7.12\n"
    )


def test_programs_get_their_arguments_input_and_tracebacks(container: Lab) -> None:
    assert run(container, "python3 - a b", stdin="import sys; print(sys.argv[1:])").out == (
        "['a', 'b']\n"
    )
    failed = run(container, "echo 1/0 >x.py; python3 -I x.py one")
    assert failed.code == 1
    assert failed.err.startswith(
        'Traceback (most recent call last):\n  File "x.py", line 1, in <module>'
    )
    assert "tool_python" not in failed.err
    missing = run(container, "python3 -c 'import asyncssh'")
    assert missing.err.endswith("No module named 'asyncssh'\n")


def test_an_environment_needs_the_package_of_the_distribution(container: Lab) -> None:
    refused = run(container, "python3.5 -c 'import ensurepip, venv'; python3.5 -m venv v")
    assert refused.code == 1
    assert "No module named 'ensurepip'" in refused.err
    assert "apt-get install python3.5-venv" in refused.out
    assert run(container, f"rm -r v; {ENVIRONMENT} && v/bin/pip --version").out.startswith(
        "pip 8.1.1 from /home/alice/v/lib/python3.5/site-packages/pip"
    )


@pytest.mark.parametrize(
    ("requirements", "message"),
    [
        ("tensorflow-gpu==1.13.1", "No matching distribution found for tensorflow-gpu==1.13.1"),
        ("no-such-package", "(from versions: )"),
        ("tensorflow-gpu==1.10.1 'numpy>=1.16'", "conflicting dependencies"),
        ("'nonsense ='", "Invalid requirement"),
    ],
)
def test_pip_refuses_what_does_not_exist_or_fit(
    container: Lab, requirements: str, message: str
) -> None:
    refused = run(container, f"{ENVIRONMENT}; v/bin/pip install {requirements}")
    assert refused.code == 1
    assert message in refused.err
    assert run(container, "v/bin/pip freeze").out == ""


def test_pip_installs_what_a_package_requires_and_removes_what_it_replaces(container: Lab) -> None:
    assert run(container, f"{ENVIRONMENT} && v/bin/pip install 'Jinja2<3'").code == 0
    assert run(container, "v/bin/pip freeze").out.startswith("Jinja2==2.11.3\nMarkupSafe==")
    assert run(container, "v/bin/pip install 'jinja2<3'").out.startswith(
        "Requirement already satisfied: jinja2<3"
    )
    assert run(container, "v/bin/pip install pip==20.3.4; v/bin/python -m pip -V").out.endswith(
        "(python 3.5)\n"
    )
    assert len([*rootfs_of(container).glob("home/alice/v/lib/python3.5/site-packages/pip-*")]) == 1


def test_what_etc_environment_adds_to_the_path_is_found_before_this_machines(
    container: Lab,
) -> None:
    program = rootfs_of(container) / "usr/local/cuda-9.0/bin/date"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho the container\n")
    program.chmod(0o755)
    (rootfs_of(container) / "etc/environment").write_text(
        f'PATH="/usr/bin:/bin:{program.parent}"\n'
    )
    assert run(container, "date").out == "the container\n"
    assert run(container, "bash -lc date").out == "the container\n"


def test_tensorflow_needs_its_libraries_and_its_cudnn(container: Lab) -> None:
    assert run(container, f"{ENVIRONMENT} && v/bin/pip install tensorflow-gpu==1.11.0").code == 0
    missing = run(container, "v/bin/python -c 'import tensorflow'")
    assert missing.err.endswith(
        "ImportError: libcublas.so.9.0: cannot open shared object file: No such file or directory\n"
    )


def test_a_python_that_keeps_nothing_writes_at_once(container: Lab) -> None:
    program = "print('listens'); import os; os._exit(0)"
    assert run(container, f'python3 -c "{program}"').out == ""
    assert run(container, f'python3 -u -c "{program}"').out == "listens\n"
