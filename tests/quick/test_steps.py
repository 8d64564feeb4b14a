"""What steps may call: the words of steps.sh in a real shell, with /etc in the test's own directory."""

import os
import subprocess
from pathlib import Path

import pytest

from apexgpu.remote import programs

STEPS = Path(programs.__file__).parent / "steps.sh"


class Shell:
    """A shell with steps.sh, in a home of its own. `sudo` runs the words; /etc is `root`/etc."""

    def __init__(self, place: Path) -> None:
        self.root = place / "root"
        self.home = place / "home"
        (self.root / "etc").mkdir(parents=True)
        (self.home / "bin").mkdir(parents=True)
        (self.home / "run" / "files").mkdir(parents=True)
        text = STEPS.read_text().replace("/etc/environment", f"{self.root}/etc/environment")
        (self.home / "steps.sh").write_text(text)
        self.program("sudo", 'shift; exec "$@"')

    def program(self, name: str, text: str) -> None:
        path = self.home / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def run(self, text: str, **variables: str) -> tuple[int, str]:
        environment = {
            "HOME": str(self.home),
            "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
            "RUN": str(self.home / "run"),
            "ROOT": str(self.root),
            "PIP": "20.3.4",
            **variables,
        }
        words = ["sh", "-c", f'set -e; . "$HOME/steps.sh"; FILES=$RUN/files; {text}']
        done = subprocess.run(
            words,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def good(self, text: str) -> str:
        code, said = self.run(text)
        assert code == 0, said
        return said


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


DIR = "/usr/local/cuda-9.0/bin"
BARE = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class TestLoginPath:
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (f'PATH="{BARE}:/usr/games"\n', f'PATH="{BARE}:/usr/games:{DIR}"\n'),
            ("PATH=/usr/bin:/bin\n", f"PATH=/usr/bin:/bin:{DIR}\n"),
            ("PATH='/usr/bin'\n", f"PATH='/usr/bin:{DIR}'\n"),
            ('PATH="/usr/bin"', f'PATH="/usr/bin:{DIR}"\n'),
            ('PATH="/usr/bin"  \n', f'PATH="/usr/bin:{DIR}"\n'),
            ('export PATH="/usr/bin"\n', f'export PATH="/usr/bin:{DIR}"\n'),
            ('LANG=C\nPATH="/usr/bin"\n# the end\n', f'LANG=C\nPATH="/usr/bin:{DIR}"\n# the end\n'),
            ('PATH="/a"\nPATH="/b"\n', f'PATH="/a:{DIR}"\nPATH="/b:{DIR}"\n'),
            (f'PATH="/a:{DIR}"\nPATH="/b"\n', f'PATH="/a:{DIR}"\nPATH="/b:{DIR}"\n'),
            (f'PATH="/usr/bin:{DIR}-old"\n', f'PATH="/usr/bin:{DIR}-old:{DIR}"\n'),
            ("LANG=C\n", f'LANG=C\nPATH="{BARE}:{DIR}"\n'),
            ("LANG=C", f'LANG=C\nPATH="{BARE}:{DIR}"\n'),
            ('MYPATH="/x"\n', f'MYPATH="/x"\nPATH="{BARE}:{DIR}"\n'),
            ("", f'PATH="{BARE}:{DIR}"\n'),
        ],
    )
    def test_the_directory_is_added_to_what_is_there_and_once(
        self, shell: Shell, before: str, after: str
    ) -> None:
        file = shell.root / "etc/environment"
        file.write_text(before)
        assert shell.run(f"login_path_has {DIR}")[0] == 1
        shell.good(f"add_to_login_path {DIR}; login_path_has {DIR}")
        assert file.read_text() == after
        assert file.stat().st_mode & 0o777 == 0o644
        stamp = file.stat().st_mtime_ns
        shell.good(f"add_to_login_path {DIR}")
        assert (file.read_text(), file.stat().st_mtime_ns) == (after, stamp)
        assert file.with_name("environment.before-apexgpu").read_text() == before

    def test_a_file_that_is_not_there_is_made(self, shell: Shell) -> None:
        shell.good(f"add_to_login_path {DIR}")
        assert (shell.root / "etc/environment").read_text() == f'PATH="{BARE}:{DIR}"\n'
        assert not (shell.root / "etc/environment.before-apexgpu").exists()

    def test_the_original_is_kept_once_and_not_overwritten(self, shell: Shell) -> None:
        file = shell.root / "etc/environment"
        file.write_text("PATH=/usr/bin\n")
        shell.good(f"add_to_login_path {DIR}; set_login_variable X 1; add_to_login_path /other")
        assert file.with_name("environment.before-apexgpu").read_text() == "PATH=/usr/bin\n"
        assert file.read_text() == f"PATH=/usr/bin:{DIR}:/other\nX=1\n"


class TestLoginVariable:
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("LANG=C\n", "LANG=C\nGROW=true\n"),
            ("GROW=false\nLANG=C\n", "LANG=C\nGROW=true\n"),
            ("", "GROW=true\n"),
            ("export GROW=1\nGROW=2\nGROWN=3\n", "GROWN=3\nGROW=true\n"),
        ],
    )
    def test_it_is_set_once(self, shell: Shell, before: str, after: str) -> None:
        file = shell.root / "etc/environment"
        file.write_text(before)
        assert shell.run("login_variable_is GROW true")[0] == 1
        shell.good(
            "set_login_variable GROW true; set_login_variable GROW true; login_variable_is GROW true"
        )
        assert file.read_text() == after

    def test_one_in_quotes_is_the_same(self, shell: Shell) -> None:
        (shell.root / "etc/environment").write_text('GROW="true"\n')
        shell.good("login_variable_is GROW true; set_login_variable GROW true")
        assert (shell.root / "etc/environment").read_text() == 'GROW="true"\n'


class TestPutFile:
    def test_it_is_whole_readable_and_untouched_when_it_is_right(self, shell: Shell) -> None:
        path = shell.root / "etc/profile.d/x.sh"
        shell.good('echo new | put_file "$ROOT/etc/profile.d/x.sh"')
        assert (path.read_text(), path.stat().st_mode & 0o777) == ("new\n", 0o644)
        stamp = path.stat().st_mtime_ns
        shell.good('echo new | put_file "$ROOT/etc/profile.d/x.sh"')
        assert path.stat().st_mtime_ns == stamp
        assert sorted(one.name for one in path.parent.iterdir()) == ["x.sh"]

    def test_a_disk_that_is_full_leaves_the_old_one(self, shell: Shell) -> None:
        path = shell.root / "etc/x"
        path.write_text("old\n")
        shell.program("cp", 'case "$2" in *apexgpu-new) : >"$2"; exit 1 ;; esac; exec /bin/cp "$@"')
        assert shell.run('echo new | put_file "$ROOT/etc/x"')[0] == 1
        assert path.read_text() == "old\n"


class TestPackages:
    def test_what_is_there_is_not_installed_again(self, shell: Shell) -> None:
        shell.program("dpkg-query", "echo 'install ok installed'")
        shell.program("apt-get", "exit 9")
        shell.good("install_packages a b")

    @pytest.mark.parametrize(
        "state",
        ["deinstall ok config-files", "install ok half-configured", "unknown ok not-installed"],
    )
    def test_what_is_half_there_is_installed(self, shell: Shell, state: str) -> None:
        shell.program("dpkg-query", f"echo '{state}'")
        shell.program("dpkg", 'echo "dpkg $*" >>~/log')
        shell.program("apt-get", 'echo "apt-get $*" >>~/log')
        shell.good("install_packages a b")
        log = (shell.home / "log").read_text().splitlines()
        assert log[0] == "dpkg --configure -a"
        assert log[1] == "apt-get -q update"
        assert log[2].endswith("install --no-install-recommends a b")

    def test_lists_that_cannot_be_renewed_are_no_failure_but_an_install_is(
        self, shell: Shell
    ) -> None:
        shell.program("dpkg-query", "exit 1")
        shell.program("dpkg", "exit 0")
        shell.program(
            "apt-get", 'case "$*" in *update*) exit 100 ;; *) exit "$(cat ~/code)" ;; esac'
        )
        (shell.home / "code").write_text("0\n")
        assert "continuing with the old ones" in shell.good("install_packages a")
        (shell.home / "code").write_text("100\n")
        assert shell.run("install_packages a")[0] == 100

    @pytest.mark.parametrize(
        "said",
        [
            "E: Could not get lock /var/lib/dpkg/lock - open (11: Resource temporarily unavailable)",
            "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?",
            "dpkg: error: dpkg frontend is locked by another process",
        ],
    )
    def test_another_apt_is_waited_for_but_not_for_ever(self, shell: Shell, said: str) -> None:
        shell.program("dpkg-query", "exit 1")
        shell.program("dpkg", "exit 0")
        shell.program("sleep", "rm -f ~/locked")
        shell.program("apt-get", f'test ! -e ~/locked || {{ echo "{said}" >&2; exit 100; }}')
        (shell.home / "locked").touch()
        assert "waiting for another apt" in shell.good("install_packages a")
        shell.program("sleep", "echo x >>~/slept")
        (shell.home / "locked").touch()
        assert shell.run("LOCK_LOOKS=3; install_packages a")[0] == 100
        assert (shell.home / "slept").read_text() == "x\n" * 6


class TestEnvironments:
    """Environments of a stand-in Python, whose `-m venv` and `-m pip` note what is asked."""

    @pytest.fixture
    def shell(self, tmp_path: Path) -> Shell:
        made = Shell(tmp_path)
        made.program(
            "python3.5",
            """case "$*" in
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo "venv $3" >>~/log ;;
  "-m pip "*) shift 2; echo "pip $*" >>~/log; test ! -e ~/broken ;;
  *) exit 0 ;;
esac""",
        )
        (made.home / "pins.txt").write_text("a==1\n")
        return made

    MAKE = (
        'CONSTRAINTS=$HOME/pins.txt; begin_environment "$HOME/env" python3.5; into_environment "$HOME/env" tool; '
        'finish_environment "$HOME/env" "tool 1" tool'
    )

    def test_it_is_made_with_the_pinned_pip_and_marked_in_the_end(self, shell: Shell) -> None:
        (shell.home / ".virtualenvs").mkdir()
        shell.good(self.MAKE.replace("$HOME/env", "$HOME/.virtualenvs/tool-1"))
        room = shell.home / ".virtualenvs/tool-1"
        pins = f"-c {shell.home}/pins.txt"
        assert (shell.home / "log").read_text().splitlines() == [
            f"venv {room}",
            "pip install pip==20.3.4",
            f"pip install {pins} setuptools wheel",
            f"pip install --prefer-binary {pins} tool",
        ]
        assert (room / ".apexgpu-ready").read_text() == "tool 1\n"
        assert not (room / ".apexgpu-making").exists()
        assert (shell.home / ".virtualenvs/tool").readlink() == Path("tool-1")
        shell.good('environment_ready "$HOME/.virtualenvs/tool-1" "tool 1" "import tool"')
        assert (
            shell.run('environment_ready "$HOME/.virtualenvs/tool-1" "tool 2" "import tool"')[0]
            == 1
        )

    def test_one_that_was_begun_and_not_finished_is_made_anew(self, shell: Shell) -> None:
        (shell.home / "broken").touch()
        assert shell.run(self.MAKE)[0] == 1
        (shell.home / "env/half").touch()
        assert shell.run('environment_ready "$HOME/env" "tool 1" "import tool"')[0] == 1
        (shell.home / "broken").unlink()
        shell.run(self.MAKE)
        assert not (shell.home / "env/half").exists()
        assert (shell.home / "env/.apexgpu-ready").exists()

    def test_a_finished_one_keeps_what_the_user_put_into_it(self, shell: Shell) -> None:
        shell.run(self.MAKE)
        (shell.home / "env/mine").touch()
        shell.run(self.MAKE)
        assert (shell.home / "env/mine").exists()

    def test_a_directory_of_the_users_own_is_never_touched(self, shell: Shell) -> None:
        (shell.home / "env").mkdir()
        (shell.home / "env/mine").touch()
        code, said = shell.run(self.MAKE)
        assert (code, "was not made by apexgpu" in said) == (1, True)
        assert (shell.home / "env/mine").exists()

    def test_the_name_of_something_else_is_not_taken(self, shell: Shell) -> None:
        (shell.home / ".virtualenvs/tool").mkdir(parents=True)
        code, said = shell.run('point_to "$HOME/.virtualenvs/tool-1" "$HOME/.virtualenvs/tool"')
        assert (code, "was not made by apexgpu" in said) == (1, True)

    def test_a_link_is_moved_in_one_move(self, shell: Shell) -> None:
        (shell.home / ".virtualenvs").mkdir()
        shell.good(
            'for n in 1 2; do point_to "$HOME/.virtualenvs/tool-$n" "$HOME/.virtualenvs/tool"; done'
        )
        shell.good('points_to "$HOME/.virtualenvs/tool-2" "$HOME/.virtualenvs/tool"')
        assert shell.run('points_to "$HOME/.virtualenvs/tool-1" "$HOME/.virtualenvs/tool"')[0] == 1

    def test_without_pins_pip_is_left_as_it_is(self, shell: Shell) -> None:
        make = 'begin_environment "$HOME/env" python3.5; into_environment "$HOME/env" t'
        shell.good(f"CONSTRAINTS=$RUN/files/none; {make}")
        assert (shell.home / "log").read_text().splitlines() == [
            f"venv {shell.home}/env",
            "pip install t",
        ]


class TestGrowth:
    def test_the_hook_goes_where_an_older_tensorflow_is_and_nowhere_else(
        self, shell: Shell
    ) -> None:
        for name, info in (
            ("a", "tensorflow_gpu-1.8.0.dist-info"),
            ("b", "tensorflow_gpu-1.12.3.dist-info"),
            ("c", "tensorflow-1.11.0-py3.6.egg-info"),
            ("d", "numpy-1.1.0.dist-info"),
        ):
            (shell.home / f".virtualenvs/{name}/lib/python3.6/site-packages/{info}").mkdir(
                parents=True
            )
        (
            shell.home / "project/venv/lib/python2.7/site-packages/tensorflow_gpu-1.5.0.dist-info"
        ).mkdir(parents=True)
        found = [
            line.removeprefix(f"{shell.home}/")
            for line in shell.good("growth_places").splitlines()
            if line.startswith(str(shell.home))
        ]
        assert sorted(found) == [
            ".virtualenvs/a/lib/python3.6/site-packages",
            ".virtualenvs/c/lib/python3.6/site-packages",
            "project/venv/lib/python2.7/site-packages",
        ]

    def test_it_is_put_there_whole_and_known_again(self, shell: Shell) -> None:
        (shell.home / "run/files/apexgpu_growth.py").write_text("x = 1\n")
        place = shell.home / "site packages"
        assert shell.run('grows "$HOME/site packages"')[0] != 0
        shell.good('make_grow "$HOME/site packages"; grows "$HOME/site packages"')
        assert sorted(one.name for one in place.iterdir()) == [
            "apexgpu_growth.pth",
            "apexgpu_growth.py",
        ]
        (place / "apexgpu_growth.py").write_text("x =")
        assert shell.run('grows "$HOME/site packages"')[0] == 1


class TestKernels:
    def test_without_jupyter_or_the_environment_there_is_nothing_to_offer(
        self, shell: Shell
    ) -> None:
        shell.good("offers_kernel tensorflow")
        (shell.home / ".virtualenvs/jupyter").mkdir(parents=True)
        (shell.home / ".virtualenvs/jupyter/.apexgpu-ready").touch()
        shell.good("offers_kernel tensorflow")

    def test_with_both_it_is_offered_once(self, shell: Shell) -> None:
        for name in ("jupyter", "tensorflow"):
            (shell.home / f".virtualenvs/{name}/bin").mkdir(parents=True)
            (shell.home / f".virtualenvs/{name}/.apexgpu-ready").touch()
        python = shell.home / ".virtualenvs/tensorflow/bin/python"
        kernel = "~/.virtualenvs/jupyter/share/jupyter/kernels/tensorflow"
        python.write_text(
            f'#!/bin/sh\necho "$*" >>~/log\nmkdir -p {kernel}\necho "{{}}" >{kernel}/kernel.json\n'
        )
        python.chmod(0o755)
        assert shell.run("offers_kernel tensorflow")[0] == 1
        shell.good("offer_kernel tensorflow; offer_kernel tensorflow; offers_kernel tensorflow")
        assert (shell.home / "log").read_text().count("ipykernel install") == 1
