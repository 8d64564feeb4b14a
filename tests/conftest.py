"""Every test gets an empty HOME and state of its own, so that none can touch the developer's."""

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

_FOREIGN = (
    "SSH_AUTH_SOCK",
    "DISPLAY",
    "DBUS_SESSION_BUS_ADDRESS",
    "NO_COLOR",
    "XDG_RUNTIME_DIR",
    "LINES",
    "COLUMNS",
)


def pytest_configure() -> None:
    """Let Ctrl-C work in what the tests start, in a run in the background too.

    A shell starts `make test &` with SIGINT ignored, and every program below inherits that: a
    test that interrupts one would wait for an end that never comes.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary HOME; nothing of the machine's agent, keyring, display or apexgpu settings."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name, directory in {
        "XDG_CONFIG_HOME": "config",
        "XDG_STATE_HOME": "state",
        "XDG_DATA_HOME": "data",
        "XDG_CACHE_HOME": "cache",
        "APEXGPU_CONFIG_DIR": "apexgpu-config",
        "APEXGPU_STATE_DIR": "apexgpu-state",
    }.items():
        monkeypatch.setenv(name, str(tmp_path / directory))
    for name in (
        *_FOREIGN,
        "APEXGPU_IAM_URL",
        "APEXGPU_USER",
        "APEXGPU_SSH_CONFIG",
        "APEXGPU_TIMEOUT",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    return home


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI=true, a skipped test has failed: what CI lacks, its set-up must install."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        reason = call.excinfo.value if call.excinfo else ""
        report.longrepr = f"skipped in CI: {reason}"
    return report
