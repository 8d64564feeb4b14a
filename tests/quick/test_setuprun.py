"""A plan is checked and run by a real shell: done once, resumed, followed, stopped, and never half done."""

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.quick.shelllink import ShellLink

from apexgpu.errors import (
    ApexError,
    ConnectionLostError,
    RefusedError,
    UnreachableError,
)
from apexgpu.models import Host
from apexgpu.recipes import planner, setuprun, setupscript
from apexgpu.recipes.facts import Facts, FreeSpace
from apexgpu.recipes.planner import SetupPlan
from apexgpu.recipes.recipe import Recipe, Source, Step
from apexgpu.recipes.setuprun import SetupRun, StepFailedError
from apexgpu.recipes.setupscript import ScriptMode
from apexgpu.reporter import Progress, Reporter
from apexgpu.ssh.transport import Limits

HOST = Host("gpu7", "10.0.0.7", "alice", 22001)
ROOM = Path("/nonexistent")
FACTS = Facts(
    home="/home/alice", distribution=("ubuntu", "16.04"), free={"/": FreeSpace(1000, "sda")}
)


def touch(name: str, *more: str, title: str = "") -> Step:
    """A step that makes a file in the home."""
    return Step(
        name,
        title or f"the {name}",
        f"test -e ~/{name}",
        "\n".join((*more, f"touch ~/{name}")),
        f"test -e ~/{name}",
    )


def planned(*steps: Step, login: str = "", sources: Sequence[Source] = ()) -> SetupPlan:
    recipe = Recipe("tools", "tools", steps, ROOM, login=login, sources=tuple(sources))
    return planner.make_plan(
        "gpu7", FACTS, {"tools": recipe}, planner.parse_request(["tools"], {"tools": recipe})
    )


class Told(Reporter, Progress):
    """What was reported of a run."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.did: list[str] = []
        self.notes: list[str] = []

    def update(self, text: str) -> None:
        self.said.append(text)

    def success(self, text: str) -> None:
        self.did.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)


def run_of(plan: SetupPlan, told: Told | None = None) -> SetupRun:
    told = told or Told()
    return SetupRun(plan, told, told)


@pytest.fixture
def link(tmp_path: Path) -> ShellLink:
    home = tmp_path / "there"
    (home / "bin").mkdir(parents=True)
    return ShellLink(home)


def execute(link: ShellLink, plan: SetupPlan, told: Told | None = None, **more: object) -> SetupRun:
    """Check and run, as the command does."""
    plan, _ = setuprun.check_plan(link, HOST, plan)
    run = run_of(plan, told)
    setuprun.run_plan(link, HOST, run, published_sources=(), actions={}, pause=lambda _: None)
    return run


def await_end(link: ShellLink) -> None:
    """Wait until the run in the container has ended."""
    pid = int((link.home / ".cache/apexgpu/setup/pid").read_text())
    while Path(f"/proc/{pid}").exists():
        threading.Event().wait(0.02)


class TestCheck:
    def test_it_tells_what_is_done_and_changes_nothing(self, link: ShellLink) -> None:
        (link.home / "two").touch()
        before = sorted(link.home.rglob("*"))
        made, _ = setuprun.check_plan(
            link, HOST, planned(touch("one"), touch("two"), touch("three"))
        )
        assert [one.state for one in made.steps] == ["to do", "done", "to do"]
        assert sorted(link.home.rglob("*")) == before

    def test_any_command_of_a_check_that_fails_means_not_done(self, link: ShellLink) -> None:
        made, _ = setuprun.check_plan(link, HOST, planned(Step("x", "x", "false\ntrue", "true")))
        assert made.steps[0].state == "to do"

    def test_a_check_that_hangs_on_input_or_ends_the_shell_spoils_nothing(
        self, link: ShellLink
    ) -> None:
        steps = [
            Step("a", "a", "read x", "true"),
            Step("b", "b", "exit 0", "true"),
            Step("c", "c", "if then", "true"),
        ]
        made, _ = setuprun.check_plan(link, HOST, planned(*steps))
        assert [one.state for one in made.steps] == ["to do", "done", "to do"]

    def test_files_are_summed_for_steps_that_are_to_do_only(
        self, link: ShellLink, tmp_path: Path
    ) -> None:
        file = tmp_path / "my installer"
        file.write_bytes(b"abc")
        sources = [Source("INSTALLER", str(file)), Source("OTHER", "/nonexistent/file")]
        step = touch("one", 'test -r "$INSTALLER"', 'test ! -r "$OTHER"')
        _, files = setuprun.check_plan(link, HOST, planned(step, sources=sources))
        assert [(one.name, one.path, one.size, one.sha256[:8]) for one in files] == [
            ("INSTALLER", str(file), 3, "ba7816bf"),
            ("OTHER", "/nonexistent/file", 0, ""),
        ]
        (link.home / "one").touch()
        assert setuprun.check_plan(link, HOST, planned(step, sources=sources))[1] == ()

    def test_no_room_is_refused(self, link: ShellLink) -> None:
        with pytest.raises(RefusedError, match="1000 MiB free"):
            setuprun.check_plan(
                link, HOST, planned(Step("x", "x", "false", "true", disk={"/usr": 2000}))
            )

    def test_an_answer_that_was_cut_is_an_error(self, link: ShellLink) -> None:
        (link.home / "bin" / "mktemp").write_text(
            "#!/bin/sh\necho 'mktemp: no space left' >&2\nexit 1\n"
        )
        (link.home / "bin" / "mktemp").chmod(0o755)
        with pytest.raises(ApexError, match="mktemp: no space left"):
            setuprun.check_plan(link, HOST, planned(touch("one")))


class TestRun:
    def test_what_is_to_do_is_done_once(self, link: ShellLink) -> None:
        plan, told = planned(touch("one"), touch("two", "echo once >>~/log")), Told()
        run = execute(link, plan, told)
        assert (run.has_changed_something, told.did) == (True, ["the one", "the two"])
        again = execute(link, plan)
        assert (again.has_changed_something, again.states) == (False, {})
        assert (link.home / "log").read_text() == "once\n"

    def test_variables_and_files_reach_the_scripts_whole(self, link: ShellLink) -> None:
        odd = 'it\'s $HOME "and" `x` \\n 中文'
        step = Step(
            "one", "one", "test -e ~/one", f"cat >~/one <<'END'\n{odd}\nEND\nsay \"$PIP\" >~/pip"
        )
        execute(link, planned(step))
        assert (link.home / "one").read_text() == f"{odd}\n"
        assert (link.home / "pip").read_text() == "20.3.4\n"

    def test_a_step_that_fails_ends_the_run_with_its_last_words(self, link: ShellLink) -> None:
        plan, told = (
            planned(
                touch("one"),
                Step("bad", "the bad", "false", "echo no disk\nfalse\ntouch ~/bad"),
                touch("three"),
            ),
            Told(),
        )
        with pytest.raises(StepFailedError) as caught:
            execute(link, plan, told)
        assert caught.value.message == "gpu7: the bad: failed; last output: no disk"
        assert (caught.value.exit_code, caught.value.last_lines) == (1, ("no disk",))
        assert caught.value.hint == "apexgpu setup gpu7 tools"
        assert (told.did, (link.home / "bad").exists(), (link.home / "three").exists()) == (
            ["the one"],
            False,
            False,
        )

    def test_one_that_says_that_it_worked_and_did_not_is_found_out(self, link: ShellLink) -> None:
        with pytest.raises(StepFailedError, match="the liar: failed"):
            execute(
                link, planned(Step("liar", "the liar", "false", "echo all done", "test -e ~/liar"))
            )

    def test_it_goes_on_where_it_failed(self, link: ShellLink) -> None:
        plan = planned(touch("one", "echo once >>~/log"), touch("two", "test -e ~/cure"))
        with pytest.raises(StepFailedError):
            execute(link, plan)
        (link.home / "cure").touch()
        told = Told()
        execute(link, plan, told)
        assert told.did == ["the two"]
        assert (link.home / "log").read_text() == "once\n"

    def test_a_step_that_hangs_is_ended_at_its_time_limit(self, link: ShellLink) -> None:
        link.variables["APEXGPU_STEP_LIMIT"] = "1"
        with pytest.raises(
            StepFailedError, match="the one: failed; last output: the step reached its time limit"
        ):
            execute(link, planned(touch("one", "sleep 300")))

    def test_a_home_that_takes_no_file_is_told_in_the_shells_words(self, link: ShellLink) -> None:
        (link.home / ".cache").touch()
        with pytest.raises(
            StepFailedError, match=r"the setup could not start; last output: .+setup/lock"
        ):
            execute(link, planned(touch("one")))

    def test_terminal_escapes_of_programs_are_not_passed_on(self, link: ShellLink) -> None:
        told = Told()
        execute(link, planned(touch("one", r"printf '\033[32mgreen\033[0m\r\n'")), told)
        assert "green" in told.said

    def test_a_program_cannot_speak_for_the_run(self, link: ShellLink) -> None:
        told = Told()
        execute(link, planned(touch("one", "echo 'apexgpu@0123 did 2'"), touch("two")), told)
        assert told.did == ["the one", "the two"]

    def test_it_may_take_all_day_but_not_say_nothing(self, link: ShellLink) -> None:
        execute(link, planned(touch("one")))
        assert [one.silence for one in link.limits if one and one.total is None] == [90.0]

    def test_daemons_that_a_step_starts_do_not_hold_the_lock(self, link: ShellLink) -> None:
        plan = planned(touch("one", "sleep 300 >/dev/null 2>&1 & echo $! >~/pid"), touch("two"))
        execute(link, plan)
        pid = int((link.home / "pid").read_text())
        try:
            (link.home / "two").unlink()
            assert execute(link, plan).has_changed_something
        finally:
            os.kill(pid, signal.SIGKILL)


class TestDrop:
    def test_a_lost_connection_is_made_again_while_the_work_goes_on(self, link: ShellLink) -> None:
        told = Told()
        link.drop = lambda line: "halfway" in line
        execute(
            link,
            planned(touch("one"), touch("two", "echo once >>~/log", "echo halfway", "sleep 0.5")),
            told,
        )
        assert told.did == ["the one", "the two"]
        assert (link.home / "log").read_text() == "once\n"
        assert told.notes == [
            "the connection to gpu7 was lost; the work continues in the container, reconnecting"
        ]

    def test_what_has_ended_meanwhile_is_told_as_it_ended(self, link: ShellLink) -> None:
        def ended(_: str) -> None:
            if len(link.commands) == 3:
                await_end(link)

        link.drop, link.before = (lambda line: "halfway" in line), ended
        with pytest.raises(StepFailedError, match="last output: broken"):
            execute(link, planned(touch("one", "echo halfway", "echo broken", "false")))

    def test_a_connection_that_stays_lost_says_what_to_type(self, link: ShellLink) -> None:
        def gone(command: str) -> None:
            if len(link.commands) > 2:
                message = "gpu7 does not answer"
                raise UnreachableError(message)

        link.drop, link.before = (lambda line: "halfway" in line), gone
        with pytest.raises(UnreachableError) as caught:
            execute(link, planned(touch("one", "echo halfway", "sleep 0.3")))
        assert "continues in the container" in caught.value.message
        assert caught.value.hint == "apexgpu setup gpu7 tools"
        assert len(link.commands) == 7

    def test_one_that_was_never_made_is_not_tried_again_and_again(self, link: ShellLink) -> None:
        def refused(_: str) -> None:
            if len(link.commands) > 1:
                message = "connection refused"
                raise UnreachableError(message)

        link.before = refused
        with pytest.raises(UnreachableError, match=r"^connection refused$"):
            execute(link, planned(touch("one")))
        assert len(link.commands) == 2

    def test_a_run_that_was_killed_is_no_success_and_the_same_goes_on(
        self, link: ShellLink
    ) -> None:
        kill = Step(
            "two",
            "the two",
            "test -e ~/two",
            "test -e ~/cure || kill -9 $(cat ~/.cache/apexgpu/setup/pid)\nsleep 0.1\ntouch ~/two",
        )
        plan = planned(touch("one"), kill)
        with pytest.raises(StepFailedError, match="was interrupted: the container was stopped"):
            execute(link, plan)
        (link.home / "cure").touch()
        execute(link, plan)
        assert (link.home / "two").exists()

    @pytest.mark.parametrize("note", ["", "other words"])
    def test_an_end_that_cannot_be_read_is_not_called_an_interruption(
        self, link: ShellLink, note: str
    ) -> None:
        notes = "~/.cache/apexgpu/setup"
        end = Step(
            "two",
            "the two",
            "test -e ~/two",
            f"printf '{note}' >{notes}/ended\nkill -9 $(cat {notes}/pid)\nsleep 0.1",
        )
        with pytest.raises(StepFailedError, match="did not record how"):
            execute(link, planned(touch("one"), end))


class TestTwo:
    def start(self, link: ShellLink, plan: SetupPlan) -> threading.Thread:
        """Another apexgpu's run, which waits for the file `go`."""
        thread = threading.Thread(target=execute, args=(ShellLink(link.home), plan))
        thread.start()
        while not (link.home / "begun").exists():
            threading.Event().wait(0.02)
        return thread

    WAITS = ("touch ~/begun", "while ! test -e ~/go; do sleep 0.05; done", "echo the others words")

    def test_a_second_run_is_refused_while_the_first_goes_on(self, link: ShellLink) -> None:
        first = self.start(link, planned(touch("one", *self.WAITS)))
        try:
            run = run_of(setuprun.check_plan(link, HOST, planned(touch("two")))[0])
            with pytest.raises(
                ApexError, match="another setup is running on gpu7: tools"
            ) as caught:
                setuprun.run_plan(
                    link, HOST, run, published_sources=(), actions={}, pause=lambda _: None
                )
            assert (caught.value.code, caught.value.exit_code) == ("busy", 1)
        finally:
            (link.home / "go").touch()
            first.join(30)
        assert not (link.home / "two").exists()

    def test_one_that_is_under_way_can_be_followed_to_its_end(self, link: ShellLink) -> None:
        first = self.start(link, planned(touch("one", *self.WAITS)))
        said: list[str] = []
        busy = (link.home / ".cache/apexgpu/setup/id").read_text().strip()
        follower = threading.Thread(
            target=setuprun.follow_setup, args=(link, HOST, busy, said.append)
        )
        follower.start()
        (link.home / "go").touch()
        first.join(30)
        follower.join(30)
        assert "the others words" in said
        assert (link.home / "one").exists()

    def test_following_what_has_ended_ends_at_once(self, link: ShellLink) -> None:
        execute(link, planned(touch("one", "echo words")))
        said: list[str] = []
        setuprun.follow_setup(
            link, HOST, (link.home / ".cache/apexgpu/setup/id").read_text().strip(), said.append
        )
        assert said == ["words"]
        assert link.limits[-1] == Limits(10, None, 90)  # a silence is a lost connection


class TestInterrupt:
    def test_the_step_under_way_ends_and_no_other_begins(self, link: ShellLink) -> None:
        told = Told()
        link.interrupt = lambda line: "halfway" in line
        stopped = "~/.cache/apexgpu/setup/stop-*"
        plan = planned(
            touch("one", "echo halfway", f"while ! test -e {stopped}; do sleep 0.02; done"),
            touch("two"),
        )
        with pytest.raises(KeyboardInterrupt):
            execute(link, plan, told)
        await_end(link)
        assert (link.home / "one").exists()
        assert not (link.home / "two").exists()
        assert told.notes[-1] == "to resume: apexgpu setup gpu7 tools"
        after = Told()
        execute(link, plan, after)
        assert after.did == ["the two"]

    def test_a_host_that_does_not_answer_any_more_does_not_hold_the_interrupt_up(
        self, link: ShellLink
    ) -> None:
        def gone(command: str) -> None:
            if command.startswith("touch "):
                message = "gone"
                raise ConnectionLostError(message)

        link.interrupt, link.before = (lambda line: "halfway" in line), gone
        with pytest.raises(KeyboardInterrupt):
            execute(link, planned(touch("one", "echo halfway")))
        assert link.limits[-1] == Limits(connect=5, total=10)


class TestLogin:
    def test_what_every_login_is_promised_is_proved_over_another_one(self, link: ShellLink) -> None:
        execute(link, planned(touch("one"), login='test -e ~/one\ntest "$PIP" = 20.3.4'))
        assert len(link.commands) == 3
        assert link.once[1:] == [True, True]  # neither over a connection that was there before

    def test_a_promise_that_is_not_kept_is_a_failure(self, link: ShellLink) -> None:
        with pytest.raises(StepFailedError) as caught:
            execute(link, planned(touch("one"), login="echo nvcc: not found\nfalse\ntrue"))
        assert caught.value.message == "tools is set up on gpu7, but a new login does not find it"
        assert caught.value.last_lines == ("nvcc: not found",)


class TestAction:
    STEP = Step("keys", "the keys", "test -e ~/keys", action="renew_host_keys")

    def test_it_is_done_here_and_checked_there(self, link: ShellLink) -> None:
        told = Told()
        plan, _ = setuprun.check_plan(link, HOST, planned(touch("one"), self.STEP))
        run = run_of(plan, told)
        setuprun.run_plan(
            link,
            HOST,
            run,
            published_sources=(),
            pause=lambda _: None,
            actions={"renew_host_keys": (link.home / "keys").touch},
        )
        assert told.did == ["the one", "the keys"]

    def test_one_that_is_done_already_is_not_done_again(self, link: ShellLink) -> None:
        (link.home / "keys").touch()
        plan, _ = setuprun.check_plan(link, HOST, planned(touch("one"), self.STEP))
        setuprun.run_plan(
            link,
            HOST,
            run_of(plan),
            published_sources=(),
            pause=lambda _: None,
            actions={"renew_host_keys": lambda: pytest.fail("it was")},
        )

    def test_one_that_had_no_effect_is_found_out(self, link: ShellLink) -> None:
        plan, _ = setuprun.check_plan(link, HOST, planned(self.STEP))
        with pytest.raises(StepFailedError, match="the check afterwards fails"):
            setuprun.run_plan(
                link,
                HOST,
                run_of(plan),
                published_sources=(),
                pause=lambda _: None,
                actions={"renew_host_keys": lambda: None},
            )


def test_a_whole_setup_fits_into_one_argument_of_a_shell() -> None:
    from apexgpu.recipes import recipe
    from apexgpu.recipes.compatibility import PythonVersion

    recipes = recipe.load_all(ROOM)
    facts = Facts(
        distribution=("ubuntu", "16.04"),
        driver="390.48",
        cudnn_archives={"7.0.5": "/newNAS/x.tgz"},
        pythons=(PythonVersion("3.5.2"), PythonVersion("2.7.12")),
    )
    made = planner.make_plan("gpu7", facts, recipes, planner.parse_request(list(recipes), recipes))
    assert (
        len(setupscript.script_command(ScriptMode.RUN, "0123456789abcdef", made)) < 100_000
    )  # Linux takes 131,072


@pytest.mark.parametrize(
    "line", ["", "apexgpu@ did 1", "xapexgpu@ab did 1", "apexgpu@AB did 1", "apexgpu did 1"]
)
def test_what_is_no_mark_is_a_programs_word(line: str) -> None:
    assert setupscript.parse_mark(line) is None


@pytest.mark.parametrize(
    "words", ["begin 0", "begin 3", "did 99", "failed -1", "begin x", "begin ²"]
)
def test_a_mark_of_a_step_that_is_none_changes_nothing(words: str) -> None:
    told = Told()
    run = run_of(planned(touch("one"), touch("two")), told)
    run.handle_line(f"apexgpu@{run.id} {words}")
    assert (run.current_step, run.states, told.said, told.did) == (0, {}, [], [])
