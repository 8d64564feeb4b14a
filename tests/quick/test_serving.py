"""What is sent into a container to serve there: old Pythons can read it, it finds what is there, and says it well."""

import ast
import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest

from apexgpu.errors import ApexError, UnexpectedError
from apexgpu.models import Host, Reply, Target
from apexgpu.remote import remotescript, webservers
from apexgpu.remote.programs import processes, search, serve
from apexgpu.remote.webservers import ServerKind, ServerRequest
from apexgpu.ssh.transport import Limits, OnLine

HOST = Host("gpu7", "10.0.0.7", "alice", 22001)
NEWER = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Match)  # than 3.5


def test_what_is_sent_is_one_program_of_the_standard_library_that_python_3_5_can_read() -> None:
    tree = ast.parse(remotescript.python_text(*webservers.PROGRAMS), feature_version=(3, 5))
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, NEWER)] == []
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names
    assert "secrets" not in names  # of 3.6
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            hints = [node.returns, *(one.annotation for one in node.args.args)]
            assert not [hint for hint in hints if isinstance(hint, ast.Subscript | ast.BinOp)], (
                node.name
            )


def test_the_command_fits_into_one_argument_of_a_shell() -> None:
    assert (
        len(webservers.command("serve", ServerRequest(ServerKind.TENSORBOARD, "runs"))) < 100_000
    )  # Linux takes 131,072


def test_odd_names_come_through_the_shell_whole(tmp_path: Path) -> None:
    name = 'it\'s $HOME "and" 中文\\n; ls'
    (tmp_path / name).mkdir()
    wish = ServerRequest(ServerKind.TENSORBOARD, name, program="/nowhere")
    done = subprocess.run(
        ["sh", "-c", webservers.command("serve", wish)],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1].removeprefix("apexgpu ")) == {
        "directory": f"{tmp_path}/{name}",
        "error": "no_program",
        "said": [],
        "log": "",
    }


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("Currently running servers:\n", []),
        ('{"port": 8888, "token": "abc", "root_dir": "/r"}\n{"port": 8889}\n', [8888, 8889]),
        ('[{"port": 8888}, {"port": 8889}]\n', [8888, 8889]),
        (
            "Currently running servers:\nhttp://localhost:8888/?token=abc :: /home/alice/my work\n",
            [8888],
        ),
        ("http://localhost:8890/base/ :: /home/alice\n", [8890]),
        ("http://0.0.0.0:8891/ :: /\nsomething else\n17\n", [8891]),
    ],
)
def test_every_way_in_which_jupyter_lists_its_servers_is_read(said: str, found: list[int]) -> None:
    assert [one["port"] for one in serve.parse_server_list(said)] == found


def test_an_older_line_tells_the_same_as_json() -> None:
    one = serve.parse_server_list("https://127.0.0.1:8888/base/?token=abc :: /home/alice/my work")[
        0
    ]
    assert one == {
        "secure": True,
        "hostname": "127.0.0.1",
        "port": 8888,
        "base_url": "/base/",
        "token": "abc",
        "root_dir": "/home/alice/my work",
        "pid": 0,
    }


@pytest.mark.parametrize(
    ("words", "is_one"),
    [
        ("/usr/bin/python3 /home/a/venv/bin/tensorboard --logdir runs", True),
        ("python -m tensorboard.main --logdir=runs --port 6006", True),
        ("/opt/tensorboard_data_server/bin/server --logdir=runs --port=0", False),
        ("grep tensorboard", False),
        ("tail -f tensorboard", False),
        ("tail -f tensorboard --logdir runs", False),
        ("bash -c tensorboard --logdir runs", False),
        ("python3 -u /opt/bin/tensorboard --logdir runs", True),
        ("tensorboard --logdir runs", True),
    ],
)
def test_a_tensorboard_is_known_by_its_words(words: str, is_one: bool) -> None:
    assert serve.is_tensorboard(shlex.split(words)) is is_one


def test_ports_and_the_session_of_a_process_are_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        assert number in processes.listening_ports(os.getpid())
        assert processes.session_listens(os.getsid(0), number)
        assert not processes.session_listens(1 if os.getsid(0) != 1 else -1, number)
        assert processes.free_port(number) != number


# The first time it says which port it will take, waits until that one is taken, and ends as servers then do.
ROBBED = """#!{python} -S
import os, socket, sys
port, robbed = int(sys.argv[-1]), {marker!r}
if not os.path.exists(robbed):
    open(robbed, "w").close()
    thief = socket.create_connection(("127.0.0.1", {thief}))
    thief.sendall(b"%d\\n" % port)
    thief.recv(1)
    sys.exit("Address already in use")
server = socket.create_server(("127.0.0.1", port))
while True:
    server.accept()[0].close()
"""


def test_a_port_that_is_lost_before_the_server_has_it_is_another_one(tmp_path: Path) -> None:
    thief = socket.create_server(("127.0.0.1", 0))
    thief.settimeout(60)

    def steal() -> socket.socket:
        with thief, thief.accept()[0] as victim, victim.makefile() as said:
            return socket.create_server(("127.0.0.1", int(said.readline())))

    program = tmp_path / "tensorboard"
    program.write_text(
        ROBBED.format(
            python=sys.executable, marker=str(tmp_path / "robbed"), thief=thief.getsockname()[1]
        )
    )
    program.chmod(0o755)
    wish = ServerRequest(ServerKind.TENSORBOARD, str(tmp_path), program=str(program))

    def asked(do: Literal["serve", "stop"]) -> dict[str, Any]:
        done = subprocess.run(
            ["sh", "-c", webservers.command(do, wish)],
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1].removeprefix("apexgpu "))
        return found

    with ThreadPoolExecutor(1) as pool:
        robbery = pool.submit(steal)
        made = asked("serve")
    with robbery.result() as stolen:
        assert made.get("started"), made
        assert made["port"] != stolen.getsockname()[1]
    assert asked("stop")["stopped"] == [{"pid": made["pid"], "port": made["port"]}]


LISTENER = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"


@contextlib.contextmanager
def listening(program: Path) -> Iterator[tuple[int, int]]:
    """A process that listens: its number and its port. `program` is the name of the script that it runs."""
    program.write_text(LISTENER)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, str(program)], stdin=pipe, stdout=pipe, text=True
    ) as one:
        try:
            assert one.stdout is not None
            yield one.pid, int(one.stdout.readline())
        finally:
            one.kill()


def notebook_that_lists(directory: Path, line: str) -> dict[str, object]:
    """A request to a Jupyter whose `list` prints a line."""
    script = directory / "jupyter-notebook"
    script.write_text(f'#!/bin/sh\n[ "$2" = --json ] && exit 1\necho {shlex.quote(line)}\n')
    script.chmod(0o755)
    return {"what": "jupyter", "program": str(script), "directory": str(directory)}


def test_an_older_notebook_is_stopped_by_its_port(tmp_path: Path) -> None:
    with listening(tmp_path / "my-jupyter.py") as (pid, port):
        assert serve.listener(port) == pid
        wish = notebook_that_lists(tmp_path, f"http://localhost:{port}/ :: {tmp_path}")
        assert serve.stop_servers(wish, str(tmp_path)) == {"stopped": [{"pid": pid, "port": port}]}
        assert serve.stop_servers(wish, str(tmp_path)) == {"stopped": []}


def test_another_program_on_the_port_of_an_old_note_is_neither_shown_nor_stopped(
    tmp_path: Path,
) -> None:
    with listening(tmp_path / "train.py") as (pid, port):
        wish = notebook_that_lists(tmp_path, f"http://localhost:{port}/ :: {tmp_path}")
        assert serve.running_jupyters([str(wish["program"])]) == []
        assert serve.stop_servers(wish, str(tmp_path)) == {"stopped": []}
        assert not processes.has_ended(pid)


def test_a_note_whose_number_belongs_to_another_program_is_no_server(tmp_path: Path) -> None:
    with (
        listening(tmp_path / "jupyter-lab") as (server, port),
        listening(tmp_path / "train.py") as (other, other_port),
    ):
        notes = [
            {"pid": other, "port": port, "root_dir": str(tmp_path)},  # the number was reused
            {"pid": server, "port": other_port, "root_dir": str(tmp_path)},
            {"pid": 1 << 30, "port": port, "root_dir": str(tmp_path)},
            {"pid": str(server), "port": port, "root_dir": str(tmp_path)},
            {"pid": server, "port": str(port), "root_dir": str(tmp_path)},
        ]
        for note in notes:
            wish = notebook_that_lists(tmp_path, json.dumps(note))
            assert serve.stop_servers(wish, str(tmp_path)) == {"stopped": []}, note
        assert not processes.has_ended(other)
        assert not processes.has_ended(server)
        good = {"pid": server, "port": port, "root_dir": str(tmp_path)}
        wish = notebook_that_lists(tmp_path, json.dumps(good))
        assert serve.stop_servers(wish, str(tmp_path))["stopped"] == [{"pid": server, "port": port}]


def test_a_number_that_is_reused_while_we_wait_is_not_signalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(tmp_path / "train.py") as (pid, _):
        times = iter(["1", "2", "2"])
        monkeypatch.setattr(processes, "start_time", lambda _: next(times))
        processes.stop_processes([pid], 0.1)
        assert not processes.has_ended(pid)


def test_the_files_of_the_users_directory_are_not_imported(tmp_path: Path) -> None:
    for module in ("json", "os", "re", "socket", "sitecustomize"):
        (tmp_path / f"{module}.py").write_text(f"open('{tmp_path}/executed', 'w')\n")
    wish = ServerRequest(ServerKind.JUPYTER, "nowhere")
    done = subprocess.run(
        ["sh", "-c", webservers.command("serve", wish)],
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"error": "no_directory"' in done.stdout
    assert not (tmp_path / "executed").exists()


def test_a_token_in_a_log_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("at http://localhost:8888/lab?token=0123abcd&x=1\n\nbye\n")
    assert processes.last_log_lines(str(tmp_path / "log")) == [
        "at http://localhost:8888/lab?token=...&x=1",
        "bye",
    ]


class TestSearch:
    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """An empty home, and a PATH with nothing of use on it."""
        for module in (processes, search, serve):
            if hasattr(module, "HOME"):
                monkeypatch.setattr(module, "HOME", str(tmp_path))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        monkeypatch.setattr(
            search, "ENVIRONMENTS", [one for one in search.ENVIRONMENTS if one.startswith("~")]
        )
        return tmp_path

    def put(self, path: Path, text: str = "#!/bin/sh\n") -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    @pytest.mark.parametrize(
        "room",
        [
            "bin",
            ".virtualenvs/tf",
            "venv",
            "venv3",
            ".venv",
            "project/.venv",
            "miniconda3/envs/tf",
            "anaconda3",
            ".conda/envs/tf",
            ".local",
        ],
    )
    def test_it_is_found_wherever_people_put_it(self, home: Path, room: str) -> None:
        wanted = self.put(
            home / ("bin/tensorboard" if room == "bin" else f"{room}/bin/tensorboard")
        )
        assert search.find_programs(serve.TENSORBOARD, str(home)) == [[wanted]]

    def test_the_environment_beside_the_directory_comes_before_others(self, home: Path) -> None:
        self.put(home / "venv/bin/tensorboard")
        near = self.put(home / "deep/project/.venv/bin/tensorboard")
        assert search.find_programs(serve.TENSORBOARD, str(home / "deep/project/runs"))[0] == [near]

    def test_an_environment_that_conda_noted_elsewhere_is_known(self, home: Path) -> None:
        wanted = self.put(home / "ssd/big/bin/tensorboard")
        self.put(home / ".conda/environments.txt", f"{home}/ssd/big\n")
        assert search.find_programs(serve.TENSORBOARD, str(home)) == [[wanted]]

    def test_a_module_without_a_script_is_run_as_one(self, home: Path) -> None:
        front = f"PYTHONPATH={home}/packages exec {sys.executable}"
        python = self.put(home / "venv/bin/python3", f'#!/bin/sh\n{front} "$@"\n')
        assert search.find_programs(serve.TENSORBOARD, str(home)) == []
        self.put(home / "packages/tensorboard/main.py")
        assert search.find_programs(serve.TENSORBOARD, str(home)) == [
            [python, "-m", "tensorboard.main"]
        ]

    def test_a_module_does_not_import_the_files_of_the_directory_it_shows(self, home: Path) -> None:
        project = home / "project"
        self.put(project / "json.py", "raise SystemExit('the file of the user was run')\n")
        self.put(home / "packages/jupyterlab/__init__.py", "")
        self.put(
            home / "packages/jupyterlab/__main__.py",
            "import json, os, sys\nprint(json.dumps([os.getcwd(), *sys.argv[1:]]))\n",
        )
        self.put(
            home / "venv/bin/python3",
            f'#!/bin/sh\nPYTHONPATH={home}/packages exec {sys.executable} "$@"\n',
        )
        (argv,) = search.find_programs(serve.JUPYTER, str(project))
        start = serve.start_directory(argv, str(project))
        done = subprocess.run([*argv, "--x"], cwd=start, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == ["/", "--x"]
        assert f"--notebook-dir={project}" in serve.jupyter_options(8888, str(project), start)
        assert serve.start_directory(["/usr/bin/jupyter-lab"], str(project)) == str(project)

    def test_lab_is_taken_before_notebook(self, home: Path) -> None:
        notebook, lab = (
            self.put(home / "venv/bin" / name) for name in ("jupyter-notebook", "jupyter-lab")
        )
        assert search.find_programs(serve.JUPYTER, str(home)) == [[lab], [notebook]]


class Said:
    """A transport that answers with what is given, the lines first."""

    def __init__(self, out: str, err: str = "", code: int = 0) -> None:
        self.reply = Reply(code, out, err)
        self.limits: Limits | None = None

    def run(
        self,
        target: Target,
        command: str,
        *,
        limits: Limits | None = None,
        on_line: OnLine | None = None,
        once: bool = False,
    ) -> Reply:
        self.limits = limits
        for line in self.reply.out.splitlines() if on_line else ():
            on_line(line)  # type: ignore[misc]  # it is there
        return self.reply


def answer(**values: Any) -> str:
    return "apexgpu " + json.dumps({"directory": "/home/alice", **values})


class TestAnswer:
    def test_a_server_is_read_and_its_token_is_not_shown_as_progress(self) -> None:
        heard: list[str] = []
        said = Said(
            "looking\n"
            + answer(port=8888, path="/base/", token="abc", pid=7, started=True, host="0.0.0.0")
        )
        found = webservers.serve(
            said, HOST, ServerRequest(ServerKind.JUPYTER, None), on_line=heard.append
        )
        assert (found.port, found.path, found.host, found.pid) == (
            8888,
            "/base/?token=abc",
            "localhost",
            7,
        )
        assert heard == ["looking"]

    def test_tokens_and_paths_are_quoted_in_the_url(self) -> None:
        said = Said(
            answer(port=8888, path="/my base/?x#y", token="a+b#c%20d", pid=7, started=False)
        )
        found = webservers.serve(
            said, HOST, ServerRequest(ServerKind.JUPYTER, None), on_line=lambda _: None
        )
        assert found.path == "/my%20base/%3Fx%23y?token=a%2Bb%23c%2520d"

    @pytest.mark.parametrize(
        "values",
        [
            {"port": "8888²"},
            {"port": 0},
            {"port": 65536},
            {"pid": "7"},
            {"pid": True},
            {"started": "yes"},
            {"host": "-oProxyCommand=x"},
            {"host": "a b"},
            {"token": 7},
            {"path": "/\0"},
        ],
    )
    def test_an_answer_of_another_form_is_our_error(self, values: dict[str, Any]) -> None:
        fields = {"port": 8888, "path": "/", "token": "", "pid": 7, "started": False} | values
        with pytest.raises(UnexpectedError):
            webservers.serve(
                Said(answer(**fields)),
                HOST,
                ServerRequest(ServerKind.JUPYTER, None),
                on_line=lambda _: None,
            )

    @pytest.mark.parametrize(
        ("name", "reached"),
        [
            ("0.0.0.0", "localhost"),
            ("::", "localhost"),
            ("*", "localhost"),
            ("", "localhost"),
            ("127.0.0.1", "localhost"),
            ("10.0.3.7", "10.0.3.7"),
        ],
    )
    def test_a_server_is_reached_by_the_name_on_which_it_listens(
        self, name: str, reached: str
    ) -> None:
        said = Said(answer(port=1, path="/", pid=7, started=False, host=name))
        assert (
            webservers.serve(
                said, HOST, ServerRequest(ServerKind.JUPYTER, None), on_line=lambda _: None
            ).host
            == reached
        )

    def test_its_own_wait_is_not_cut_and_the_last_answer_counts(self) -> None:
        said = Said("\n".join(answer(port=port, path="/", pid=7, started=True) for port in (1, 2)))
        assert (
            webservers.serve(
                said,
                HOST,
                ServerRequest(ServerKind.JUPYTER, None, wait=900),
                on_line=lambda _: None,
            ).port
            == 2
        )
        assert said.limits is not None
        assert said.limits.total is not None
        assert said.limits.total > 900

    @pytest.mark.parametrize(
        ("said", "code", "words"),
        [
            (
                Said(answer(error="no_program")),
                "no_program",
                "there is no Jupyter in the container on gpu7",
            ),
            (Said('apexgpu {"error": "no_python"}'), "no_python", "there is no Jupyter"),
            (
                Said(answer(error="slow", said=["importing"], log="/l")),
                "slow",
                "does not answer after 60 s",
            ),
            (Said(answer(error="failed", said=[], log="/l")), "server_failed", "it prints nothing"),
            (Said("", "sh: syntax error\n", 2), "unexpected", "sh: syntax error"),
            (Said("apexgpu [1]"), "unexpected", "unknown answer"),
            (Said("apexgpu {"), "unexpected", "unknown answer"),
        ],
    )
    def test_what_stands_in_the_way_is_one_line_that_names_it(
        self, said: Said, code: str, words: str
    ) -> None:
        with pytest.raises(ApexError) as caught:
            webservers.serve(
                said, HOST, ServerRequest(ServerKind.JUPYTER, None), on_line=lambda _: None
            )
        assert caught.value.code == code
        assert words in caught.value.message


@pytest.mark.parametrize("knows_json", [True, False])
def test_an_older_notebook_is_asked_in_its_own_way(tmp_path: Path, knows_json: bool) -> None:
    """It has no `jupyter-server` beside it, and the oldest refuse `--json`."""
    old = (
        "echo 'Currently running servers:'; echo 'http://localhost:8888/?token=abc :: /home/alice'"
    )
    json_line = (
        'echo \'{"port": 8888, "token": "abc", "notebook_dir": "/home/alice", "base_url": "/"}\''
    )
    said = f'[ "$2" = --json ] && {{ {json_line if knows_json else "exit 1"}; exit; }}; {old}'
    (tmp_path / "jupyter-notebook").write_text(f'#!/bin/sh\n[ "$1" = list ] || exit 9\n{said}\n')
    (tmp_path / "jupyter-notebook").chmod(0o755)
    found = serve.listed_jupyters([str(tmp_path / "jupyter-notebook")])
    shown = [serve.describe_jupyter(one, started=False) for one in found]
    assert [(one["port"], one["token"], one["directory"], one["path"]) for one in shown] == [
        (8888, "abc", "/home/alice", "/")
    ]
