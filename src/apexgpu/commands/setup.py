"""setup: software in a container, planned before anything is changed."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from apexgpu import manyhosts
from apexgpu.commands import reach
from apexgpu.commands.options import Group, session_of
from apexgpu.errors import ApexError, StoppedError, UsageError
from apexgpu.manageshell import hostkeys, hostlock
from apexgpu.models import Host, Target
from apexgpu.recipes import installers, planner, provision, recipe
from apexgpu.recipes.facts import Facts, survey
from apexgpu.recipes.installers import Judged, Memory
from apexgpu.recipes.planner import DONE, Order, Plan, Planned
from apexgpu.recipes.provision import Run, StepFailedError, Teller
from apexgpu.recipes.recipe import Recipe
from apexgpu.results import error_json
from apexgpu.session import Session
from apexgpu.text import columns

app = Group()
_MIB = 1024**2
_HEADER = ("#", "RECIPE", "STATE", "WHAT")


@app.command("setup")
def setup(
    ctx: typer.Context,
    host: Annotated[
        str,
        typer.Argument(
            metavar="HOST",
            help="A host name; or the word list, for all recipes.",
            show_default=False,
        ),
    ],
    recipes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE...",
            help="Recipes, with a version where you want one: tensorflow==1.8.0.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "--plan", help="Show the plan and change nothing.")
    ] = False,
    python: Annotated[
        int,
        typer.Option(
            "--python", metavar="2|3", min=2, max=3, help="The Python of TensorFlow and PyTorch."
        ),
    ] = 3,
    accept_files: Annotated[
        bool,
        typer.Option(
            "--accept-files",
            help="Take installers on the NAS that have been replaced since the last time.",
        ),
    ] = False,
) -> None:
    """Set up software in your container on HOST: versions that go together, or a reason why none do.

    The plan is shown before anything is changed. The work goes on when the connection drops; the same command follows
    it, goes on where it stopped, and changes nothing when all is there.

    Examples: apexgpu setup list · apexgpu setup gpu7 tensorflow jupyter · apexgpu setup gpu7 cuda --plan
    """
    session = session_of(ctx)
    known = recipe.load_all(session.settings.config_dir)
    if host == "list":
        return _list(session, known)
    if not recipes:
        message = "no recipe was named"
        raise UsageError(
            message, hint=f"apexgpu setup {host} RECIPE   (one of: {', '.join(known)})"
        )
    order = planner.order(recipes, known, python)
    chosen = reach.one_host(
        session, host, several=f"apexgpu setup HOST {' '.join(recipes)}, with one of them"
    )
    raise typer.Exit(
        _Setup(session, chosen, known, order).run(dry_run=dry_run, accept_files=accept_files)
    )


def _list(session: Session, known: dict[str, Recipe]) -> None:
    session.screen.table(
        ("RECIPE", "NEEDS", "WHAT"),
        [(one.name, ", ".join(one.needs) or "-", one.summary) for one in known.values()],
    )
    values = [
        {
            "name": one.name,
            "summary": one.summary,
            "needs": list(one.needs),
            "own": one.own,
            "steps": [step.name for step in one.steps],
        }
        for one in known.values()
    ]
    session.screen.document({"ok": True, "recipes": values})


class _Setup:
    """One setup of one host, and what JSON tells of it so far."""

    def __init__(
        self, session: Session, host: Host, known: dict[str, Recipe], order: Order
    ) -> None:
        self._session = session
        self._host = host
        self._known = known
        self._order = order
        self._connect = session.settings.timeout
        self._told: dict[str, Any] = {"changed": False}

    def run(self, *, dry_run: bool, accept_files: bool) -> int:
        """All of it; the exit code."""
        error: ApexError | None = None
        self._told["dry_run"] = dry_run
        try:
            self._go(dry_run=dry_run, accept_files=accept_files)
        except ApexError as exc:
            error = exc
            if isinstance(exc, StepFailedError) and exc.said:
                for line in exc.said:
                    self._session.screen.note(f"  {line}")
                log = f"apexgpu ssh {self._host.name} -- cat .cache/apexgpu/setup/log"
                self._session.screen.note(f"  (all of it: {log})")
            manyhosts.show_error(self._session, self._host, exc)
        row = {
            "host": self._host.name,
            "ok": error is None,
            "error": error_json(error),
            **self._told,
        }
        self._session.screen.document({"ok": error is None, "hosts": [row]})
        return error.exit_code if error is not None else 0

    def _go(self, *, dry_run: bool, accept_files: bool) -> None:
        session, host = self._session, self._host
        plan = planner.plan(host.name, self._facts(), self._known, self._order)
        self._told |= {"facts": _facts_value(plan.facts), "versions": _versions(plan)}
        with session.screen.working(f"looking at what is set up on {host.name}"):
            plan, files = provision.check(session.transport, host, plan, connect=self._connect)
        self._told["steps"] = [_step_value(one, one.state) for one in plan.steps]
        judged = installers.judge(plan, files, Memory(session.state_dir).read())
        self._show(plan, judged)
        if not accept_files:
            installers.refuse_changed(plan, judged)
        if not plan.todo:
            with session.screen.working(f"proving it over a new login to {host.name}"):
                provision.prove_logins(session.transport, host, plan, connect=self._connect)
            session.screen.good(f"{host.name}: nothing to do, {_named(plan)} {_are(plan)} set up")
        elif dry_run:
            session.screen.note(f"nothing was changed; to do it: {plan.again}")
        else:
            session.confirm(f"Set this up on {host.name}?")
            self._execute(plan, judged)

    def _facts(self) -> Facts:
        """What is there; a stopped container is offered to be started, and what is under way there awaited."""
        session, host = self._session, self._host
        with session.screen.working(f"looking at {host.name}"):
            outcome = manyhosts.run(
                session, [host], lambda one: survey(session.transport, one, connect=self._connect)
            )[0]
        if isinstance(outcome.error, StoppedError):
            reach.offer_start(session, host)
            return survey(session.transport, host, connect=self._connect)
        if outcome.error is not None:
            raise outcome.error
        assert outcome.value is not None  # noqa: S101 - a value or an error
        return outcome.value if outcome.value.busy is None else self._followed(outcome.value.busy)

    def _followed(self, busy: str) -> Facts:
        session, host = self._session, self._host
        session.screen.note(
            f"a setup is under way on {host.name} already ({busy.partition(' ')[2] or busy}): following it"
        )
        with session.screen.working(f"following it on {host.name}") as progress:
            provision.follow(session.transport, host, busy, progress.update, connect=self._connect)
        found = survey(session.transport, host, connect=self._connect)
        if found.busy is not None:
            message = f"another setup is still under way on {host.name}"
            raise ApexError(message, hint="run the same line again in some minutes", code="busy")
        return found

    def _show(self, plan: Plan, judged: Sequence[Judged]) -> None:
        """What is there, what was chosen, and every step, before anything is asked."""
        screen = self._session.screen
        screen.note(f"{plan.where}: {_facts_words(plan.facts)}")
        if versions := _versions(plan):
            told = [
                f"{title} {versions[name]}" for name, title in _TITLES.items() if name in versions
            ]
            screen.note(f"chosen: {' · '.join(told)}")
        rows = [
            (str(number), one.recipe.name, one.state, one.title)
            for number, one in enumerate(plan.steps, 1)
        ]
        if screen.as_json:
            screen.block("\n".join(columns(_HEADER, rows)))
        screen.table(_HEADER, rows, styles=lambda row: "dim" if row[2] == DONE else "")
        for one in judged:
            what = f"{one.file.path} (SHA-256 {one.file.sha256[:16]}…)"
            if one.trust == "new":
                screen.warn(
                    f"{what} is not the file that its maker published; it is remembered once it has worked"
                )
            elif one.trust == "known":
                screen.note(f"{what} is the file that its maker published")

    def _execute(self, plan: Plan, judged: Sequence[Judged]) -> None:
        session, host = self._session, self._host
        with (
            hostlock.only_one(session.state_dir, host),
            session.screen.working(f"setting up on {host.name}") as progress,
        ):
            teller = Teller(
                say=progress.update,
                step=lambda one: session.screen.good(one.title),
                note=lambda text: session.screen.note(text),
            )
            run = Run(plan, teller, self._connect)
            try:
                provision.execute(
                    session.transport,
                    host,
                    run,
                    pause=session.pause,
                    known=[one.file.name for one in judged if one.trust == "known"],
                    actions={"renew_host_keys": lambda: _renew_host_keys(session, host, teller)},
                )
            finally:
                session.transport.close(Target(host, "container"))  # it has the variables of before
                self._told |= {"changed": run.changed, "steps": _ran(plan, run)}
        Memory(session.state_dir).keep([one.file for one in judged])
        session.screen.good(f"{host.name}: {_named(plan)} {_are(plan)} set up")
        for one in plan.recipes:
            if one.use:
                session.screen.note(
                    f"  {one.name}, in the container: {one.use.format_map(plan.variables)}"
                )
        if plan.choice.tensorflow:
            session.screen.note(f"whether it computes: apexgpu verify {host.name}")


def _renew_host_keys(session: Session, host: Host, teller: Teller) -> None:
    """New host keys for the container, and the same in known_hosts."""
    from apexgpu.commands.interrupted import place_of
    from apexgpu.iam.publickeys import fingerprint

    where = place_of(session, host)
    change = hostkeys.renew(
        session.transport, host, where, wait=120, pause=session.pause, say=teller.say
    )
    old = ", ".join(fingerprint(key) for key in change.old)
    teller.note(
        f"  the host key of {host.name} in known_hosts: was {old}, is {fingerprint(change.new)}"
    )


_TITLES = {
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "tensorflow": "TensorFlow",
    "pytorch": "PyTorch",
    "python": "Python",
    "python3": "Python for tools",
}


def _versions(plan: Plan) -> dict[str, str]:
    return {name: version for name, version in asdict(plan.choice).items() if version}


def _named(plan: Plan) -> str:
    return ", ".join(one.name for one in plan.recipes)


def _are(plan: Plan) -> str:
    return "is" if len(plan.recipes) == 1 else "are"


def _facts_words(facts: Facts) -> str:
    cards = {
        card.name: sum(card.name == other.name for other in facts.cards) for card in facts.cards
    }
    gpus = ", ".join(f"{count} × {name}" for name, count in cards.items()) or "no GPU"
    pythons = ", ".join(python.version for python in facts.pythons) or "-"
    return (
        f"{facts.system or facts.machine}, driver {facts.driver or '-'}, {gpus}, CUDA {facts.cuda or '-'}, "
        f"cuDNN {facts.cudnn or '-'}, Python {pythons}"
    )


def _facts_value(facts: Facts) -> dict[str, Any]:
    return {
        "system": facts.system,
        "machine": facts.machine,
        "driver": facts.driver,
        "cuda": facts.cuda,
        "cudnn": facts.cudnn,
        "cudnn_archives": sorted(facts.archives),
        "pythons": [python.version for python in facts.pythons],
        "gpus": [{"name": card.name, "memory_total": card.memory * _MIB} for card in facts.cards],
    }


def _step_value(one: Planned, state: str) -> dict[str, Any]:
    return {
        "recipe": one.recipe.name,
        "step": one.step.name,
        "title": one.title,
        "state": state.replace(" ", "_"),
    }


def _ran(plan: Plan, run: Run) -> list[dict[str, Any]]:
    """Each step as it is now: `done` before, `did` now, `failed`, `to_do`."""
    states = {
        number: "done" if state == "skipped" else state for number, state in run.states.items()
    }
    return [
        _step_value(one, states.get(number, one.state)) for number, one in enumerate(plan.steps, 1)
    ]
