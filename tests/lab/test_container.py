"""OpenSSH's own client in the lab's containers: commands, terminals, files, tunnels, stand-in programs."""

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lab.calls import LIMIT, Finished, rootfs_of, ssh, ssh_argv, started, state_of, wait_until

from apexgpu_lab.inprocess import Lab, running
from apexgpu_lab.processes import find_marked

pytestmark = pytest.mark.openssh


@pytest.fixture
def container(lab: Lab) -> Lab:
    """alice's container on gpu2 is running."""
    started(lab)
    return lab


def run(lab: Lab, command: str, stdin: str = "") -> Finished:
    """A command in the container."""
    return ssh(lab, "gpu2", command, stdin=stdin)


def mark_of(lab: Lab) -> str:
    """What every process of the container has in its environment."""
    return f"APEXGPU_LAB_CONTAINER={lab.layout.home / 'hosts' / 'gpu2' / 'alice'}/"


class TestCommands:
    def test_streams_and_status_are_kept_apart(self, container: Lab) -> None:
        assert run(container, "echo out; echo err >&2; exit 7") == Finished(7, "out\n", "err\n")

    def test_the_recorded_words(self, container: Lab) -> None:
        finished = run(container, "id; hostname; exit 7")
        assert finished == Finished(
            7, "uid=1000(alice) gid=1000(alice) groups=1000(alice),27(sudo)\ngpu2-alice\n", ""
        )

    def test_the_environment_is_the_containers(self, container: Lab) -> None:
        finished = run(container, "echo $HOME $USER $LOGNAME; pwd; env")
        assert finished.out.startswith("/home/alice alice alice\n/home/alice\n")
        assert "PYTEST" not in finished.out
        assert re.search(r"^SSH_CONNECTION=127\S+ \d+ 127\S+ 22001$", finished.out, re.MULTILINE)

    def test_stdin_reaches_the_program(self, container: Lab) -> None:
        assert run(container, "tr a-z A-Z", stdin="words\n").out == "WORDS\n"

    def test_a_signal_is_a_signal(self, container: Lab) -> None:
        assert run(container, "kill -TERM $$").code != 0

    def test_bytes_pass_unchanged(self, container: Lab, tmp_path: Path) -> None:
        data = os.urandom(3_000_000)
        argv = ssh_argv(container, "gpu2", "cat > big && cat big")
        done = subprocess.run(argv, input=data, capture_output=True, check=True, timeout=LIMIT)
        assert done.stdout == data

    def test_paths_are_the_containers_own(self, container: Lab) -> None:
        (container.layout.home / "nas" / "mark").write_text("on the NAS\n", encoding="utf-8")
        finished = run(
            container,
            "cat /NAS/mark /newNAS/mark; cat /etc/hostname; touch /home/alice/x '/tmp/y z'; ls /tmp",
        )
        assert finished == Finished(0, "on the NAS\non the NAS\ngpu2-alice\ny z\n", "")
        assert (rootfs_of(container) / "home" / "alice" / "x").exists()
        assert run(container, "cd /NAS/Workspaces && pwd").out == "/NAS/Workspaces\n"
        assert (
            run(container, "cat /NAS/nothing").err
            == "cat: /NAS/nothing: No such file or directory\n"
        )

    def test_a_script_on_stdin_is_translated_too(self, container: Lab) -> None:
        assert (
            run(container, "sh -s", stdin="cat /etc/hostname\nhostname\n").out
            == "gpu2-alice\ngpu2-alice\n"
        )

    def test_sudo_runs_without_a_password_and_changes_nothing_of_ours(self, container: Lab) -> None:
        assert run(container, "sudo -n true").code == 0
        assert run(container, "sudo -H apt-get install -y anything").code == 0
        assert run(container, "sudo chown alice:alice /home/alice").code == 0
        assert run(container, "echo x | sudo tee /etc/profile.d/cuda.sh").out == "x\n"
        assert (rootfs_of(container) / "etc" / "profile.d" / "cuda.sh").read_text(
            encoding="utf-8"
        ) == "x\n"

    def test_only_its_user_has_an_account(self, container: Lab) -> None:
        assert "Permission denied" in ssh(container, "-l", "bob", "gpu2", "true").err


class TestTerminals:
    def test_a_command_gets_one(self, container: Lab) -> None:
        finished = ssh(container, "-tt", "gpu2", "tty; who; stty size; exit 3")
        assert finished.code == 3
        assert re.search(r"^/dev/(pts/|tty)", finished.out)
        assert re.search(r"alice +pts/0 +\d{4}-\d\d-\d\d \d\d:\d\d \(127\.0\.0\.1\)", finished.out)

    def test_a_shell_is_one(self, container: Lab) -> None:
        finished = ssh(container, "-tt", "gpu2", stdin="echo here-$((20+2))\nexit 4\n")
        assert finished.code == 4
        assert "here-22" in finished.out

    def test_who_shows_nobody_without(self, container: Lab) -> None:
        assert run(container, "who").out == ""


class TestLeaving:
    def test_a_program_ends_with_its_client(self, container: Lab) -> None:
        with subprocess.Popen(
            ssh_argv(container, "gpu2", "echo on; sleep 1000"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        ) as client:
            assert client.stdout
            assert client.stdout.readline() == b"on\n"
            assert find_marked(mark_of(container))
            client.kill()
        wait_until(lambda: not find_marked(mark_of(container)), container)

    def test_one_that_does_not_listen_is_ended_all_the_same(self, container: Lab) -> None:
        command = "trap '' HUP TERM; echo on; while :; do sleep 1; done"
        with subprocess.Popen(
            ssh_argv(container, "gpu2", command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as client:
            assert client.stdout
            assert client.stdout.readline() == b"on\n"
            client.kill()
        wait_until(lambda: not find_marked(mark_of(container)), container)

    def test_a_detached_program_stays_until_the_container_stops(self, container: Lab) -> None:
        assert run(container, "nohup sleep 1000 >/dev/null 2>&1 </dev/null & echo $!").code == 0
        assert len(find_marked(mark_of(container))) == 1
        assert ssh(container, "gpu2-manage", "stop").code == 0
        wait_until(lambda: not find_marked(mark_of(container)), container)

    def test_a_stop_cuts_sessions(self, container: Lab) -> None:
        with subprocess.Popen(
            ssh_argv(container, "gpu2", "echo on; sleep 1000"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as client:
            assert client.stdout
            client.stdout.readline()
            ssh(container, "gpu2-manage", "stop")
            assert client.wait(LIMIT) != 0
        assert state_of(container) == "STOPPED"

    @pytest.mark.parametrize(
        "command", ["echo on; sleep 1000", "trap '' HUP TERM; echo on; while :; do sleep 1; done"]
    )
    def test_a_lab_that_ends_waits_for_its_sessions(self, tmp_path: Path, command: str) -> None:
        with running(tmp_path / "lab", hosts=1, registered=True) as lab:
            started(lab)
            argv = ssh_argv(lab, "gpu2", command)
            clients = [
                subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
                for _ in range(3)
            ]
            first = clients[0]
            assert first.stdout
            assert first.stdout.readline() == b"on\n"
            first.kill()
        for client in clients:
            with client:
                assert client.wait(LIMIT) != 0
        assert not find_marked(mark_of(lab))
        assert lab.troubles == []
        # Collected here, a task that was left over would fail this test instead of a later one.
        del lab
        gc.collect()

    def test_a_dropped_command_is_cut(self, container: Lab) -> None:
        container.fault("gpu2", "drop", 1)
        assert run(container, "sleep 1000").code == 255
        assert run(container, "true").code == 0
        wait_until(lambda: not find_marked(mark_of(container)), container)


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="elsewhere ps tells the environment"
)
def test_a_process_that_becomes_another_program_over_and_over_is_always_found() -> None:
    again = 'i=$1; [ $i -gt 0 ] && exec sh -c "$2" x $((i-1)) "$2"; exec cat'
    with subprocess.Popen(
        ["sh", "-c", again, "x", "300", again],
        stdin=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "LAB_TEST_MARK": str(os.getpid())},
    ) as process:
        name = Path(f"/proc/{process.pid}/comm")
        while name.read_text() != "cat\n":
            assert find_marked(f"LAB_TEST_MARK={os.getpid()}") == [process.pid]
        process.communicate(timeout=LIMIT)


class TestFiles:
    def batch(self, lab: Lab, *lines: str) -> Finished:
        return ssh(lab, "-b", "-", "gpu2", program="sftp", stdin="\n".join(lines) + "\n")

    def test_sftp_begins_at_home_and_sees_the_containers_root(
        self, container: Lab, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("text", encoding="utf-8")
        finished = self.batch(
            container, "pwd", f"put {tmp_path}/file", "ls -1 /", "rename file other", "ls -1"
        )
        assert finished.code == 0
        assert "Remote working directory: /home/alice\n" in finished.out
        assert "/NAS" in finished.out
        assert (rootfs_of(container) / "home" / "alice" / "other").read_text(
            encoding="utf-8"
        ) == "text"

    def test_sftp_reaches_the_nas_and_nothing_outside(self, container: Lab, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("text", encoding="utf-8")
        assert (
            self.batch(
                container, f"put {tmp_path}/file /NAS/file", f"get /../../NAS/file {tmp_path}/back"
            ).code
            == 0
        )
        assert (container.layout.home / "nas" / "file").exists()
        assert (tmp_path / "back").read_text(encoding="utf-8") == "text"
        assert self.batch(container, f"get {tmp_path}/file {tmp_path}/stolen").code == 1

    @pytest.mark.parametrize("protocol", [(), ("-O",)])
    def test_scp_both_ways(self, container: Lab, tmp_path: Path, protocol: tuple[str, ...]) -> None:
        (tmp_path / "file").write_text("text", encoding="utf-8")
        assert (
            ssh(container, *protocol, str(tmp_path / "file"), "gpu2:copy", program="scp").code == 0
        )
        assert (
            ssh(container, *protocol, "gpu2:copy", str(tmp_path / "back"), program="scp").code == 0
        )
        assert (tmp_path / "back").read_text(encoding="utf-8") == "text"


@pytest.fixture
def echo() -> Iterator[int]:
    """A server on loopback that answers in capitals, as a program in the container would be; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    while data := client.recv(65536):
                        client.sendall(data.upper())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(LIMIT)


class TestForwarding:
    def test_a_tunnel_carries_bytes(self, container: Lab, echo: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            local = probe.getsockname()[1]
        argv = ssh_argv(
            container,
            "-N",
            "-o",
            "ExitOnForwardFailure=yes",
            "-L",
            f"{local}:localhost:{echo}",
            "gpu2",
        )
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as tunnel:
            wait_until(lambda: _answers("127.0.0.1", local), container)
            tunnel.terminate()

    def test_a_refused_port_is_refused(self, container: Lab) -> None:
        finished = ssh(container, "-W", "localhost:1", "gpu2")
        assert finished.code == 255

    @pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
    @pytest.mark.parametrize("destination", ["localhost", "gpu2-alice"])
    def test_a_tunnel_whose_ends_have_one_number_never_leads_to_itself(
        self, container: Lab, destination: str
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        # ssh opens the tunnel before it starts the command, so nothing has to be waited for.
        use_tunnel = (
            f'exec python3 -c \'import socket; client = socket.create_connection(("127.0.0.1", {port})); '
            'client.sendall(b"words"); print(client.recv(9))\''
        )
        forward = f"127.0.0.1:{port}:{destination}:{port}"
        options = ("-v", "-o", "LogLevel=DEBUG1", "-o", "ExitOnForwardFailure=yes")
        argv = ["ssh", "-o", "LogLevel=DEBUG1", *ssh_argv(container, *options, "-L", forward)[1:]]
        done = subprocess.run(
            [*argv, "gpu2", use_tunnel],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT,
            check=False,
            text=True,
        )
        # The one connection was refused, and none came back to the listening port.
        assert done.stderr.count("open failed: connect failed") == 1
        assert done.stderr.count(f"Connection to port {port} forwarding to") == 1
        assert "words" not in done.stdout

    @pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
    def test_a_tunnel_of_the_program_that_started_ssh_never_leads_to_itself(
        self, container: Lab
    ) -> None:
        """As apexgpu does it: the local port is that of the program that started ssh."""
        relay = (
            "import socket, subprocess, sys\n"
            "server = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
            "sys.exit(subprocess.call(sys.argv[2:], stdin=subprocess.DEVNULL))\n"
        )
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        argv = ssh_argv(container, "-W", f"localhost:{port}", "gpu2")
        done = subprocess.run(
            [sys.executable, "-c", relay, str(port), *argv],
            capture_output=True,
            timeout=LIMIT,
            check=False,
            text=True,
        )
        assert done.returncode == 255
        assert "stdio forwarding failed" in done.stderr

    def test_other_machines_are_out_of_reach(self, container: Lab, echo: int) -> None:
        assert ssh(container, "-W", f"127.0.0.2:{echo}", "gpu2", stdin="x").code == 255

    def test_a_mapped_port_leads_to_the_container(self, container: Lab, echo: int) -> None:
        finished = ssh(container, "gpu2-manage", f"port {echo}")
        address = container.status()["hosts"][0]["address"]
        assert f"{address}:11001 => container:{echo}" in finished.out
        assert _answers(address, 11001)
        ssh(container, "gpu2-manage", "stop")
        assert not _answers(address, 11001)


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=LIMIT) as client:
            client.sendall(b"words")
            return client.recv(100) == b"WORDS"
    except OSError:
        return False


class TestHostKeys:
    def test_every_container_shows_the_templates_key_until_it_makes_its_own(
        self, container: Lab
    ) -> None:
        script = "sudo rm -f /etc/ssh/ssh_host_*; sudo ssh-keygen -A; sudo service ssh restart"
        assert run(container, script).code == 0
        assert (
            "REMOTE HOST IDENTIFICATION HAS CHANGED"
            in ssh(container, "-o", "LogLevel=INFO", "gpu2", "true").err
        )
        ssh(container, "gpu2-manage", "stop")
        token = container.call(lambda lab_state: lab_state.token())
        ssh(
            container,
            "gpu2-manage",
            f"recover {token} /NAS/Workspaces/lxc-snapshot/template.tar.gz",
        )
        ssh(container, "gpu2-manage")
        assert run(container, "true").code == 0


class TestPrograms:
    def test_ps_and_uptime_tell_of_the_container_not_of_this_machine(self, container: Lab) -> None:
        age = run(container, "ps -o etimes= -p 1").out
        assert 0 <= int(age) < LIMIT
        (rootfs_of(container).parent / "notes" / "started").write_text(
            str(time.time() - 3 * 86400 - 7200)
        )
        assert int(run(container, "ps -o etimes= -p 1").out) // 60 == (3 * 1440) + 120
        assert (
            run(container, "ps -p 1 -o pid,etime,comm")
            .out.splitlines()[1]
            .startswith("1   3-02:00:")
        )
        assert " up 3 days, 2:00,  0 users,  load average: " in run(container, "uptime").out

    def test_ps_lists_the_containers_processes_only(self, container: Lab) -> None:
        finished = run(
            container,
            "sleep 1000 & ps -eo pid,ppid,user,args; ps aux; ps -C sleep -o pid=; echo $!; kill $!",
        )
        lines = finished.out.splitlines()
        assert lines[0].split() == ["PID", "PPID", "USER", "COMMAND"]
        assert lines[1].split() == ["1", "0", "root", "/sbin/init"]
        assert any(line.split()[2:] == ["alice", "sleep", "1000"] for line in lines)
        assert "pytest" not in finished.out
        assert lines[-2].strip() == lines[-1]
        assert run(container, f"ps -p {os.getpid()}").code == 1

    def test_gpus_in_the_forms_that_scripts_ask_for(self, container: Lab) -> None:
        finished = run(
            container,
            "nvidia-smi --query-gpu=index,memory.used,memory.total,utilization.gpu --format=csv",
        )
        header, *rows = finished.out.splitlines()
        assert header == "index, memory.used [MiB], memory.total [MiB], utilization.gpu [%]"
        assert re.fullmatch(r"0, \d+ MiB, 12066 MiB, \d+ %", rows[0])
        finished = run(
            container, "nvidia-smi --query-gpu=uuid,driver_version --format=csv,noheader,nounits"
        )
        assert len(finished.out.splitlines()) == 4
        assert finished.out.splitlines()[0].endswith(", 390.48")

    def test_what_computes_is_on_the_busy_gpus(self, container: Lab) -> None:
        finished = run(
            container,
            "nvidia-smi --query-compute-apps=gpu_uuid,pid,process_name,used_memory"
            " --format=csv,noheader,nounits",
        )
        assert all(
            re.fullmatch(r"GPU-\S+, \d+, python, \d+", line) for line in finished.out.splitlines()
        )

    def test_the_long_report_has_a_block_for_every_gpu(self, container: Lab) -> None:
        blocks = run(container, "nvidia-smi -q").out.split("\nGPU 0000")
        assert len(blocks) == 5
        for block in blocks[1:]:
            assert re.search(r"\n    Product Name {20,}: TITAN V\n", block)
            memory = re.search(
                r"\n    FB Memory Usage\n        Total +: 12066 MiB\n        Used +: (\d+) MiB\n"
                r"        Free +: (\d+) MiB\n",
                block,
            )
            assert memory
            assert int(memory[1]) + int(memory[2]) == 12066
            assert re.search(r"\n    Utilization\n        Gpu +: \d+ %\n", block)

    def test_gpus_do_what_the_lab_is_told(self, container: Lab) -> None:
        card = {
            "name": "Tesla P4",
            "total": 7606,
            "mode": "Default",
            "own": [[7, "python3", 100]],
            "used": [500, 900],
        }
        container.call(
            lambda lab_state: lab_state.set_gpus(
                lab_state.host("gpu2"), [{**card, "load": [0, 90, 40]}]
            )
        )
        asked = "nvidia-smi --query-gpu=memory.used,utilization.gpu --format=csv,noheader,nounits"
        finished = [run(container, asked).out for _ in range(4)]
        assert finished == ["500, 0\n", "900, 90\n", "500, 40\n", "900, 0\n"]
        assert "Process ID                  : 7\n" in run(container, "nvidia-smi -q").out

    def test_a_fault_of_the_gpus_is_said_as_nvidia_smi_says_it(self, container: Lab) -> None:
        container.fault("gpu2", "gpu-mismatch")
        finished = run(container, "nvidia-smi -q")
        assert finished == Finished(
            18, "Failed to initialize NVML: Driver/library version mismatch\n", ""
        )
        container.clear("gpu2", "gpu-mismatch")
        assert run(container, "nvidia-smi -q").code == 0

    def test_an_unknown_field_is_said_to_be_one(self, container: Lab) -> None:
        finished = run(container, "nvidia-smi --query-gpu=colour --format=csv")
        assert finished == Finished(2, 'Field "colour" is not a valid field to query.\n\n', "")

    def test_the_picture_and_the_list(self, container: Lab) -> None:
        assert "TITAN V" in run(container, "nvidia-smi").out
        assert run(container, "nvidia-smi -L").out.startswith("GPU 0: TITAN V (UUID: GPU-")

    def test_a_notebook_server_serves_with_its_token(self, container: Lab) -> None:
        command = "nohup jupyter notebook --no-browser --port=0 >log 2>&1 </dev/null & echo started"
        run(container, command)
        wait_until(lambda: "token=" in run(container, "jupyter notebook list").out, container)
        note = json.loads(run(container, "jupyter notebook list --json").out)

        def answer(path: str) -> str:
            # From within the container: `ssh -W` waits for both ends of a connection that only one has closed.
            program = (
                f"from http.client import HTTPConnection as C; c = C('localhost', {note['port']}); "
                f"c.request('GET', '{path}'); print(c.getresponse().status)"
            )
            return run(container, f'python3 -c "{program}"').out

        assert answer(f"/?token={note['token']}") == "200\n"
        assert answer("/") == "403\n"
        os.kill(note["pid"], signal.SIGTERM)
        wait_until(lambda: "token=" not in run(container, "jupyter notebook list").out, container)
