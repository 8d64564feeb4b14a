"""Every test gets an empty HOME and state of its own, so that none can touch the developer's."""

import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

_FOREIGN = (
    "SSH_AUTH_SOCK",
    "DISPLAY",
    "DBUS_SESSION_BUS_ADDRESS",
    "NO_COLOR",
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
    # The same for `nohup make test`.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's; it may be absent
def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers `-n auto` starts.

    A test waits for servers, programs and time limits more often than it computes: with one worker
    for each core, the cores are idle half of the time.
    """
    cores = os.cpu_count() or 1
    return max(cores, min(2 * cores, 8))


@pytest.fixture
def runtime() -> Iterator[Path]:
    """The directory in XDG_RUNTIME_DIR. A socket's path is short, and pytest's directories are not."""
    directory = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp" if Path("/tmp").is_dir() else None))
    yield directory
    if any(directory.iterdir()):
        _end_connections(directory)
    shutil.rmtree(directory, ignore_errors=True)


def _end_connections(runtime: Path) -> None:
    """End the masters that a test has left open, as they would by themselves minutes later."""
    from apexgpu import ownprocesses

    left = []
    for process in ownprocesses.list_processes():
        if any(f"{runtime}/" in word for word in process.argv):
            left.append(process)
    assert ownprocesses.end(left, grace=2) == []


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    # An uninstall in a test must not end connections of the developer's.
    monkeypatch.setattr("apexgpu.ssh.controlmaster._ELSEWHERE", ())
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
