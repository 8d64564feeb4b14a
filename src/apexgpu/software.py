"""Software in your containers: set it up in compatible versions, and verify that it computes.

from apexgpu import software
from apexgpu.session import Session

plan = software.setup(Session(), "gpu7", ["tensorflow"], dry_run=True)
for step in plan.steps:
    print(step.state, step.title)
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from apexgpu import containers, manyhosts, questions
from apexgpu.errors import ApexError, StoppedError, UsageError
from apexgpu.iam.publickeys import fingerprint
from apexgpu.manageshell import hostlock, newhostkeys
from apexgpu.models import Host, Outcome, Target
from apexgpu.recipes import computetest, installers, planner, recipe, setuprun
from apexgpu.recipes.computetest import VerifyRequest
from apexgpu.recipes.facts import Facts, query_facts
from apexgpu.recipes.installers import CheckedInstaller, InstallerChecksums, Trust
from apexgpu.recipes.planner import PlannedStep, SetupPlan, StepState
from apexgpu.recipes.recipe import Recipe
from apexgpu.recipes.setuprun import SetupRun, StepFailedError
from apexgpu.recipes.verification import ComputeChecks
from apexgpu.reporter import Reporter
from apexgpu.results import HostResults, JsonObject, Result, error_json, finding_json
from apexgpu.session import Session
from apexgpu.ssh.hostkeys import KnownKeys
from apexgpu.text import counted

_MIB = 1024**2
_START_WAIT = 120.0
"""Seconds that a container may take to answer again after its host keys were renewed."""

RUN_LIMIT = 600.0
"""Seconds that one run of `verify` may take."""


# The recipes


@dataclass(frozen=True)
class RecipeList(Result):
    """What `list_recipes` returns."""

    recipes: Sequence[Recipe]

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "recipes": [_recipe_json(recipe) for recipe in self.recipes]}


def _recipe_json(recipe: Recipe) -> JsonObject:
    return {
        "name": recipe.name,
        "summary": recipe.summary,
        "needs": list(recipe.needs),
        "own": recipe.is_users_own,
        "steps": [step.name for step in recipe.steps],
    }


def list_recipes(session: Session) -> RecipeList:
    """Return the recipes that come with apexgpu, and those in the user's config directory."""
    return RecipeList(list(recipe.load_all(session.settings.config_dir).values()))


# setup


@dataclass(frozen=True)
class SetupStep:
    """A step of a plan, and how far it is.

    `state` is a string too: "done" (before), "did" (now), "failed", "to do".
    """

    recipe: str
    step: str
    title: str
    state: StepState

    def to_json(self) -> JsonObject:
        """Its row in `steps`."""
        return {
            "recipe": self.recipe,
            "step": self.step,
            "title": self.title,
            "state": self.state.replace(" ", "_"),
        }


@dataclass(frozen=True)
class Setup(Result):
    """What `setup` returns: how far it came, and the error that ended it, if one did.

    `facts` is what was found in the container, `versions` what was chosen for it; None if it did
    not come that far. `changed` if any step was done, or begun. `command` is the one that does the
    work of a dry run.
    """

    host: Host
    dry_run: bool
    facts: Facts | None = None
    versions: dict[str, str] | None = None
    steps: Sequence[SetupStep] | None = None
    changed: bool = False
    command: str = ""
    error: ApexError | None = None

    @property
    def exit_code(self) -> int:
        """See Result."""
        return self.error.exit_code if self.error is not None else 0

    def to_json(self) -> JsonObject:
        """One row; `facts`, `versions` and `steps` are there if the setup came that far."""
        row: JsonObject = {
            "host": self.host.name,
            "ok": self.ok,
            "error": error_json(self.error),
            "changed": self.changed,
            "dry_run": self.dry_run,
        }
        if self.facts is not None:
            row["facts"] = _facts_json(self.facts)
        if self.versions is not None:
            row["versions"] = self.versions
        if self.steps is not None:
            row["steps"] = [step.to_json() for step in self.steps]
        return {"ok": self.ok, "hosts": [row]}


def _facts_json(facts: Facts) -> JsonObject:
    return {
        "system": facts.system,
        "machine": facts.machine,
        "driver": facts.driver,
        "cuda": facts.cuda,
        "cudnn": facts.cudnn,
        "cudnn_archives": sorted(facts.cudnn_archives),
        "pythons": [python.version for python in facts.pythons],
        "gpus": [{"name": gpu.name, "memory_total": gpu.memory * _MIB} for gpu in facts.gpus],
    }


def setup(
    session: Session,
    name: str,
    recipes: Sequence[str],
    *,
    python: int = 3,
    dry_run: bool = False,
    accept_files: bool = False,
) -> Setup:
    """Set up `recipes` ("tensorflow", "tensorflow==1.8.0") in the container on the host `name`.

    Compatible versions are chosen for what the container has, or the setup is refused with the
    reason. The plan is shown, and the user is asked, before anything is changed; `dry_run` ends
    there. `python` (2 or 3) is the Python of TensorFlow and PyTorch. `accept_files` accepts
    installers on the NAS that have changed since they worked.

    The work continues in the container if the connection is lost. The same call follows it then,
    resumes it, and changes nothing when all is done. UsageError for unknown recipes; other errors
    are in the result.
    """
    known = recipe.load_all(session.settings.config_dir)
    if not recipes:
        message = f"no recipe was named; the recipes are: {', '.join(known)}"
        raise UsageError(message, hint="apexgpu setup list")
    request = planner.parse_request(recipes, known, python)
    several = f"apexgpu setup HOST {' '.join(recipes)}"
    host = containers.one_host(session, name, several=several)
    work = _Setup(session, Setup(host, dry_run))
    try:
        facts = _find_facts(session, host)
        plan = planner.make_plan(host.name, facts, known, request)
        work.run(plan, accept_files=accept_files)
    except ApexError as exc:
        if isinstance(exc, StepFailedError):
            _report_last_lines(session.reporter, host, exc)
        session.reporter.error(exc, host=host.name)
        return replace(work.result, error=exc)
    return work.result


def _report_last_lines(reporter: Reporter, host: Host, error: StepFailedError) -> None:
    """Show what a failed step printed last, and where the rest is."""
    if not error.last_lines:
        return
    for line in error.last_lines:
        reporter.note(f"  {line}")
    log = f"apexgpu ssh {host.name} -- cat .cache/apexgpu/setup/log"
    reporter.note(f"  (the whole log: {log})")


def _find_facts(session: Session, host: Host) -> Facts:
    """What the container has.

    A stopped one is started if the user agrees; a setup that is running is awaited.
    """
    connect_timeout = session.settings.timeout

    def query_host(host: Host) -> Facts:
        return query_facts(session.transport, host, connect_timeout=connect_timeout)

    with session.reporter.working(f"checking {host.name}"):
        (outcome,) = manyhosts.run(session, [host], query_host)
    if isinstance(outcome.error, StoppedError):
        containers.offer_start(session, host)
        return query_host(host)
    if outcome.error is not None or outcome.value is None:
        raise outcome.error or ApexError(f"{host.name} was not asked")
    if outcome.value.running_setup is None:
        return outcome.value
    _follow_running_setup(session, host, outcome.value.running_setup)
    facts = query_host(host)
    if facts.running_setup is not None:
        message = f"another setup is still running on {host.name}; try again in some minutes"
        raise ApexError(message, hint=f"apexgpu status {host.name}", code="busy")
    return facts


def _follow_running_setup(session: Session, host: Host, running_setup: str) -> None:
    """Show the setup that is running already until it ends.

    `running_setup` is its id and what it sets up.
    """
    what = running_setup.partition(" ")[2] or running_setup
    session.reporter.note(f"a setup is running on {host.name} already ({what}): following it")
    with session.reporter.working(f"following it on {host.name}") as progress:
        setuprun.follow_setup(
            session.transport,
            host,
            running_setup,
            progress.update,
            connect_timeout=session.settings.timeout,
        )


class _Setup:
    """One setup under way; `result` is how far it has come."""

    def __init__(self, session: Session, result: Setup) -> None:
        self._session = session
        self._host = result.host
        self._reporter = session.reporter
        self._connect_timeout = session.settings.timeout
        self.result = result

    def run(self, plan: SetupPlan, *, accept_files: bool) -> None:
        """Check which steps are done, show the plan, and do the rest."""
        host, transport = self._host, self._session.transport
        self.result = replace(
            self.result, facts=plan.facts, versions=_versions(plan), command=plan.command
        )
        with self._reporter.working(f"checking what is set up on {host.name}"):
            plan, files = setuprun.check_plan(
                transport, host, plan, connect_timeout=self._connect_timeout
            )
        self.result = replace(self.result, steps=_setup_steps(plan))
        remembered = InstallerChecksums(self._session.state_dir).read()
        checked_files = installers.check_installers(plan, files, remembered)
        self._show(plan, checked_files)
        if not accept_files:
            installers.refuse_changed(plan, checked_files)
        if not plan.steps_to_do:
            with self._reporter.working(f"testing a new login to {host.name}"):
                setuprun.verify_new_logins(
                    transport, host, plan, connect_timeout=self._connect_timeout
                )
            self._reporter.success(f"{host.name}: nothing to do, {_is_set_up(plan)}")
        elif not self.result.dry_run:
            self._session.confirm(questions.SET_UP.fill(host=host.name))
            self._execute(plan, checked_files)

    def _show(self, plan: SetupPlan, checked_files: Sequence[CheckedInstaller]) -> None:
        """Show what the container has, what was chosen for it, and every step."""
        self._reporter.note(f"{plan.host}: {describe_facts(plan.facts)}")
        versions = _versions(plan)
        if versions:
            self._reporter.note(f"chosen: {describe_versions(versions)}")
        if not self.result.dry_run:
            # The result of a dry run is this table, so it is printed as such.
            rows = step_rows(_setup_steps(plan))
            self._reporter.table(STEP_TITLES, rows)
        for checked in checked_files:
            file = f"{checked.file.path} (SHA-256 {checked.file.sha256[:16]}…)"
            if checked.trust is Trust.NEW:
                self._reporter.warn(
                    f"{file} has another checksum than the published file; if the installation succeeds, this"
                    " checksum is accepted from then on"
                )
            elif checked.trust is Trust.PUBLISHED:
                self._reporter.note(f"{file} is the published file")

    def _execute(self, plan: SetupPlan, checked_files: Sequence[CheckedInstaller]) -> None:
        session, host = self._session, self._host
        published_sources = []
        for checked in checked_files:
            if checked.trust is Trust.PUBLISHED:
                published_sources.append(checked.file.name)
        with (
            hostlock.only_one(session.state_dir, host),
            self._reporter.working(f"setting up on {host.name}") as progress,
        ):
            run = SetupRun(plan, self._reporter, progress, self._connect_timeout)
            try:
                setuprun.run_plan(
                    session.transport,
                    host,
                    run,
                    pause=session.pause,
                    published_sources=published_sources,
                    actions={"renew_host_keys": lambda: self._renew_host_keys(run)},
                )
            finally:
                # An open connection has the environment variables of before.
                session.transport.drop(host)
                self.result = replace(
                    self.result, changed=run.has_changed_something, steps=_setup_steps(plan, run)
                )
        InstallerChecksums(session.state_dir).remember([checked.file for checked in checked_files])
        self._reporter.success(f"{host.name}: {_is_set_up(plan)}")
        self._report_use(plan)

    def _renew_host_keys(self, run: SetupRun) -> None:
        """Make new host keys for the container, and replace the old ones in known_hosts."""
        session, host = self._session, self._host
        route = session.transport.route(Target(host, "container"))
        change = newhostkeys.renew(
            session.transport,
            host,
            KnownKeys.of(route, session.state_dir),
            wait=_START_WAIT,
            pause=session.pause,
            say=run.progress.update,
        )
        old = ", ".join(fingerprint(key) for key in change.old)
        new = fingerprint(change.new)
        self._reporter.note(f"  the host key of {host.name} in known_hosts: was {old}, is {new}")

    def _report_use(self, plan: SetupPlan) -> None:
        for recipe_ in plan.recipes:
            if recipe_.use:
                use = recipe_.use.format_map(plan.variables)
                self._reporter.note(f"  {recipe_.name}, in the container: {use}")
        if plan.versions.tensorflow:
            self._reporter.note(f"to verify that it works: apexgpu verify {self._host.name}")


STEP_TITLES = ("#", "RECIPE", "STATE", "WHAT")


def step_rows(steps: Sequence[SetupStep]) -> list[tuple[str, ...]]:
    """The rows of a table of steps."""
    return [
        (str(number), step.recipe, step.state, step.title) for number, step in enumerate(steps, 1)
    ]


def _setup_steps(plan: SetupPlan, run: SetupRun | None = None) -> list[SetupStep]:
    """The steps as the plan has them, or as they are after a run."""
    steps = []
    for number, planned in enumerate(plan.steps, 1):
        state = planned.state
        if run is not None:
            state = run.states.get(number, state)
        steps.append(_setup_step(planned, state))
    return steps


def _setup_step(planned: PlannedStep, state: StepState) -> SetupStep:
    return SetupStep(planned.recipe.name, planned.step.name, planned.title, state)


def _versions(plan: SetupPlan) -> dict[str, str]:
    """The versions that were chosen, without those of parts that are not needed."""
    return {name: version for name, version in asdict(plan.versions).items() if version}


_VERSION_TITLES = {
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "tensorflow": "TensorFlow",
    "pytorch": "PyTorch",
    "python": "Python",
    "python3": "Python for tools",
}


def describe_versions(versions: dict[str, str]) -> str:
    """The chosen versions in one line."""
    parts = []
    for name, title in _VERSION_TITLES.items():
        if name in versions:
            parts.append(f"{title} {versions[name]}")
    return " · ".join(parts)


def describe_facts(facts: Facts) -> str:
    """What a container has in one line."""
    counts: dict[str, int] = {}
    for gpu in facts.gpus:
        counts[gpu.name] = counts.get(gpu.name, 0) + 1
    gpus = ", ".join(f"{count} × {name}" for name, count in counts.items())
    pythons = ", ".join(python.version for python in facts.pythons)
    parts = [
        facts.system or facts.machine,
        f"driver {facts.driver or '-'}",
        gpus or "no GPU",
        f"CUDA {facts.cuda or '-'}",
        f"cuDNN {facts.cudnn or '-'}",
        f"Python {pythons or '-'}",
    ]
    return ", ".join(parts)


def _is_set_up(plan: SetupPlan) -> str:
    names = ", ".join(recipe.name for recipe in plan.recipes)
    return f"{names} {'is' if len(plan.recipes) == 1 else 'are'} set up"


# verify


@dataclass(frozen=True)
class Verification:
    """What was found about one container: a finding for each check, and the verdict."""

    checks: ComputeChecks

    def to_json(self) -> JsonObject:
        """Its keys in a row of `verify`; memory in bytes."""
        gpu, python = self.checks.gpu, self.checks.python
        gpu_json = None
        if gpu is not None:
            gpu_json = {
                "index": gpu.index,
                "name": gpu.name,
                "compute_capability": gpu.compute_capability or None,
                "pci_bus_id": gpu.pci_bus_id or None,
                "memory_total": gpu.memory_total,
                "memory_free": gpu.memory_free,
            }
        python_json = None
        if python is not None:
            python_json = {"path": python.path, "version": python.version}
        return {
            "verdict": self.checks.verdict,
            "driver": self.checks.driver or None,
            "python": python_json,
            "tensorflow": python.tensorflow if python is not None else None,
            "gpu": gpu_json,
            "checks": [finding_json(finding) for finding in self.checks.findings],
        }


class Verifications(HostResults[Verification]):
    """What `verify` returns.

    A container that does not compute has both a value and the error that says why.
    """


def verify(
    session: Session,
    pattern: str,
    *,
    python: str | None = None,
    wait: float = RUN_LIMIT,
) -> Verifications:
    """Test that containers compute on a GPU, from the driver to a convolution.

    `pattern` is the name of a host or a glob. The GPU with most free memory is used, first as after
    a login and then as a plain command. Nothing is changed. `python` is a Python or an environment
    in the container; None finds one with TensorFlow. `wait` is how many seconds one run may take.
    """
    hosts = session.hosts([pattern])
    # The laptop's shell may have expanded a `~` in the path.
    request = VerifyRequest(python, wait, str(Path.home()))
    what = hosts[0].name if len(hosts) == 1 else counted(len(hosts), "host")
    with (
        session.reporter.working(f"computing on {what}") as progress,
        session.reporter.host_rows(Verifications, hosts) as rows,
    ):

        def work(host: Host) -> Verification:
            def show_line(line: str) -> None:
                progress.update(line if len(hosts) == 1 else f"{host.name}: {line}")

            checks = computetest.verify_container(
                session.transport,
                host,
                request,
                connect_timeout=session.settings.timeout,
                on_line=show_line,
            )
            return Verification(checks)

        outcomes = manyhosts.run(
            session, hosts, work, on_done=lambda outcome: rows.put(_with_error(outcome))
        )
    return Verifications([_with_error(outcome) for outcome in outcomes])


def _with_error(outcome: Outcome[Verification]) -> Outcome[Verification]:
    """The outcome with the error of what was found: a container that does not compute has
    failed."""
    if outcome.value is None:
        return outcome
    return replace(outcome, error=outcome.value.checks.error)
