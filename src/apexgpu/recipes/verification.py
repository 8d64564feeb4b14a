"""Judges whether a container computes, from its files and its runs: a finding per check. Pure.

The checks are driver, CUDA, cuDNN, TensorFlow, GPU, convolution, memory, and all of it again as a
command without a terminal. What the files report is only a note: conda, for example, brings its own
CUDA. The runs decide, and if one fails, the note that explains it becomes the problem. The one
exception is the driver: NVIDIA's table says which are too old.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from apexgpu.errors import ApexError, RefusedError, UnreachableError
from apexgpu.models import Finding
from apexgpu.nvidia.smi import MIB, Report
from apexgpu.recipes import filechecks
from apexgpu.recipes.causes import find_cause
from apexgpu.recipes.checks import CHECKS, CauseCode, Check
from apexgpu.recipes.computeoutput import (
    ComputeRun,
    ConvolutionStep,
    DeviceStep,
    FailedStep,
    ImportStep,
    InstalledSoftware,
    LoadedLibrary,
    MemoryStep,
    PythonInstallation,
)
from apexgpu.recipes.filechecks import ChosenGpu
from apexgpu.text import size

ALARM_EXIT_CODE = 142
"""The exit code of a Python that its own alarm has ended (128 + SIGALRM)."""

_TIMEOUT_EXIT_CODE = 124
"""The exit code of the program `timeout` at its limit."""

_MOST_MEMORY = 2048 * MIB
"""A session that takes more than this (or than half of what was free) leaves nothing for others."""


class Verdict(StrEnum):
    """What the checks of a container come to."""

    WORKS = "works"
    BUSY = "busy"
    """Others use the GPUs."""

    SLOW = "slow"
    """Not done in time."""

    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class ComputeChecks:
    """The findings about one container so far, and what is tested there.

    `nvcc_on_path` is whether a login finds nvcc. `with_login` is False if its login files start
    another program, so that only a command can be tested.
    """

    host: str
    findings: tuple[Finding, ...] = ()
    driver: str = ""
    python: PythonInstallation | None = None
    gpu: ChosenGpu | None = None
    nvcc_on_path: bool = False
    with_login: bool = True

    @property
    def failure(self) -> Finding | None:
        """The finding that is to blame for a failure: a problem rather than busy or slow."""
        for verdicts in ({"problem"}, {"busy", "slow"}):
            for finding in self.findings:
                if finding.verdict in verdicts:
                    return finding
        return None

    @property
    def is_decided(self) -> bool:
        """Whether a finding ends the checks."""
        return any(_ends_checks(finding) for finding in self.findings)

    @property
    def verdict(self) -> Verdict:
        """What the findings come to."""
        verdicts = {finding.verdict for finding in self.findings}
        if "problem" in verdicts:
            return Verdict.BROKEN
        if "busy" in verdicts:
            return Verdict.BUSY
        if "slow" in verdicts:
            return Verdict.SLOW
        return Verdict.WORKS

    @property
    def error(self) -> ApexError | None:
        """The failure as an error: exit code 1 for broken, 6 for busy, 5 for too slow."""
        failure = self.failure
        if failure is None:
            return None
        message = f"TensorFlow does not work on {self.host}: {failure.fact}"
        if failure.code in {CauseCode.TAKES_ALL_MEMORY, CauseCode.COMMAND}:
            message = f"TensorFlow works on {self.host}, but {failure.fact}"
        kind = ApexError
        if failure.verdict == "busy":
            kind = RefusedError
            message = f"{self.host} is busy: {failure.fact}"
        elif failure.verdict == "slow":
            kind = UnreachableError
            message = f"{self.host} is too slow: {failure.fact}"
        return kind(message, hint=failure.hint, code=failure.code)

    def finding(self, check: Check) -> Finding | None:
        """The finding of one check; None if it is not there yet."""
        for finding in self.findings:
            if finding.check == check:
                return finding
        return None


def _has_failed(finding: Finding) -> bool:
    return finding.verdict in {"problem", "busy", "slow"}


def _ends_checks(finding: Finding) -> bool:
    # If TensorFlow takes all memory, the later checks are still worth doing.
    return _has_failed(finding) and finding.code != CauseCode.TAKES_ALL_MEMORY


def _in_order(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    def position(finding: Finding) -> int:
        return CHECKS.index(Check(finding.check))

    return tuple(sorted(findings, key=position))


# The four parts of a verification, in this order


def without_driver(host: str, error: ApexError) -> ComputeChecks:
    """The result if nvidia-smi itself reports that there is nothing to compute on."""
    finding = Finding.problem(Check.DRIVER, error.message, error.hint, code=error.code)
    return complete(ComputeChecks(host, (finding,)))


def check_files(
    host: str,
    report: Report,
    software: InstalledSoftware,
    *,
    named: str | None = None,
    with_login: bool = True,
) -> ComputeChecks:
    """Check what files and nvidia-smi report, and choose the Python and the GPU to test.

    `named` is the Python that the user named, None if the first one with TensorFlow is to be used.
    """
    python = None
    for installation in software.pythons:
        if installation.package:
            python = installation
            break
    version = python.tensorflow if python else ""
    findings = [
        filechecks.check_driver(report.driver, software, version),
        filechecks.check_cuda(software, version, host),
        filechecks.check_cudnn(software, version, host),
    ]
    if python is None:
        findings.append(filechecks.missing_tensorflow(software, host, named))
    gpu, gpu_finding = filechecks.choose_gpu(report.gpus, host)
    if gpu_finding:
        findings.append(gpu_finding)
    return ComputeChecks(
        host,
        tuple(findings),
        driver=report.driver,
        python=python,
        gpu=gpu,
        with_login=with_login,
    )


def add_run(checks: ComputeChecks, run: ComputeRun) -> ComputeChecks:
    """Add what the first run came to; its findings replace those about files."""
    findings = _judge_run(checks, run)
    names = {finding.check for finding in findings}
    kept = [finding for finding in checks.findings if finding.check not in names]
    python = checks.python
    if python is not None:
        python = replace(python, tensorflow=_tensorflow_version(checks, run))
    return replace(
        checks,
        findings=_in_order((*kept, *findings)),
        gpu=_describe_gpu(checks.gpu, run),
        python=python,
        nvcc_on_path=run.nvcc_on_path,
    )


def add_command_run(checks: ComputeChecks, run: ComputeRun) -> ComputeChecks:
    """Add what the second run, as a command without a terminal, came to: one finding."""
    finding = _judge_command_run(checks, run)
    return replace(checks, findings=(*checks.findings, finding))


def complete(checks: ComputeChecks) -> ComputeChecks:
    """Add a finding for each check that was not reached, and return all of them in order."""
    findings = list(checks.findings)
    names = {finding.check for finding in findings}
    only_as_command = (
        not checks.with_login
        and Check.CONVOLUTION in names
        and Check.COMMAND not in names
        and not checks.is_decided
    )
    if only_as_command:
        fact = (
            f"tested as `ssh {checks.host} COMMAND` only: the files of a login (~/.bashrc …) start another"
            " program"
        )
        findings.append(Finding.note(Check.COMMAND, fact, code="no_login"))
        names.add(Check.COMMAND)
    for check in CHECKS:
        if check not in names:
            findings.append(Finding(check, "skipped", "not tried", code="skipped"))
    return replace(checks, findings=_in_order(tuple(findings)))


# One run


def _tensorflow_version(checks: ComputeChecks, run: ComputeRun) -> str:
    """As TensorFlow itself reports it, else as its package does."""
    if run.tensorflow:
        return run.tensorflow
    return checks.python.tensorflow if checks.python else ""


def _describe_gpu(gpu: ChosenGpu | None, run: ComputeRun) -> ChosenGpu | None:
    """The GPU with what TensorFlow reports about it."""
    if gpu is None or not isinstance(run.device, DeviceStep) or not run.device.gpus:
        return gpu
    visible = run.device.gpus[0]
    return replace(
        gpu,
        name=visible.name or gpu.name,
        compute_capability=visible.compute_capability,
        pci_bus_id=visible.pci_bus_id,
    )


def _judge_run(checks: ComputeChecks, run: ComputeRun) -> list[Finding]:
    """The findings of one run, up to the first check that fails."""
    findings: list[Finding] = []
    for check, step in (
        (Check.TENSORFLOW, run.imported),
        (Check.GPU, run.device),
        (Check.CONVOLUTION, run.convolution),
    ):
        finding = _judge_step(step, checks)
        if finding is None:
            return findings + _explain_failure(checks, run, check, step)
        findings.append(finding)
        if finding.verdict == "problem":
            return findings
    if run.memory is not None:
        findings += _judge_libraries(checks, run)
        findings.append(_judge_memory(checks, run, run.memory))
    return findings


_Step = ImportStep | DeviceStep | ConvolutionStep | FailedStep | None


def _judge_step(step: _Step, checks: ComputeChecks) -> Finding | None:
    """The finding of a step; None if it failed, or was not reached."""
    if isinstance(step, ImportStep):
        return _judge_import(step, checks.host)
    if isinstance(step, DeviceStep) and step.gpus:
        return _judge_devices(step, checks.gpu)
    if isinstance(step, ConvolutionStep):
        return _judge_numbers(step, checks.host)
    return None


def _judge_import(step: ImportStep, host: str) -> Finding:
    place = f"{step.version or '?'} ({step.path or '?'})"
    if step.with_cuda:
        return Finding.ok(Check.TENSORFLOW, place)
    fact = f"{place} is built without CUDA: it never uses a GPU"
    hint = f"apexgpu setup {host} tensorflow"
    return Finding.problem(Check.TENSORFLOW, fact, hint, code="no_cuda_build")


def _judge_devices(step: DeviceStep, gpu: ChosenGpu | None) -> Finding:
    visible = step.gpus[0]
    parts = [
        visible.name or "?",
        f"compute capability {visible.compute_capability or '?'}",
        f"pci bus id {visible.pci_bus_id or '?'}",
    ]
    if gpu is not None and gpu.memory_total is not None:
        parts.append(f"{size(gpu.memory_total)} memory")
        if gpu.memory_free is not None:
            parts.append(f"{size(gpu.memory_free)} free")
    return Finding.ok(Check.GPU, ", ".join(parts))


def _judge_numbers(step: ConvolutionStep, host: str) -> Finding:
    if step.is_right:
        fact = f"all {step.numbers} numbers are right"
        if step.seconds is not None:
            fact += f" in {step.seconds:.1f} s"
        return Finding.ok(Check.CONVOLUTION, fact)
    example = ""
    if len(step.example) == 2:
        example = f", such as {step.example[0]} for {step.example[1]}"
    fact = (
        f"{step.wrong_numbers or 'some'} of {step.numbers} numbers are wrong{example}; use another host, and tell"
        f" the administrators that a GPU of {host} computes wrongly"
    )
    return Finding.problem(Check.CONVOLUTION, fact, "apexgpu gpus", code="wrong_numbers")


def _explain_failure(
    checks: ComputeChecks, run: ComputeRun, check: Check, step: _Step
) -> list[Finding]:
    """The finding of the check that failed; and, if another check is to blame, of that one."""
    if step is None and run.exit_code in {ALARM_EXIT_CODE, _TIMEOUT_EXIT_CODE}:
        fact = f"{check} was not done in time; CUDA may have been compiling for this GPU, which it does once"
        return [Finding(check, "slow", fact, f"apexgpu verify {checks.host} --wait 3600", "slow")]
    output = run.output
    if isinstance(step, FailedStep):
        output = f"{output}\n{step.message}"
    version = _tensorflow_version(checks, run)
    cause = find_cause(
        output, check=check, exit_code=run.exit_code, version=version, host=checks.host
    )
    if cause.code == CauseCode.BROKEN:
        cause = _better_explanation(cause, checks, check, step, version)
    if cause.check == check:
        return [cause]
    return [cause, Finding(check, "skipped", f"see {cause.check}", code="skipped")]


def _better_explanation(
    cause: Finding, checks: ComputeChecks, check: Check, step: _Step, version: str
) -> Finding:
    """What explains a failure better than the last line of output, if anything does."""
    if isinstance(step, DeviceStep):
        fact = f"TensorFlow {version} lists no GPU, and prints no reason"
        return Finding.problem(Check.GPU, fact, cause.hint, code="no_gpu")
    # A cuDNN that is not compatible fails at the first convolution, often without a message.
    cudnn = checks.finding(Check.CUDNN)
    if check == Check.CONVOLUTION and cudnn and cudnn.code == CauseCode.CUDNN_MISMATCH:
        return replace(cudnn, verdict="problem")
    return cause


def _judge_libraries(checks: ComputeChecks, run: ComputeRun) -> list[Finding]:
    """CUDA and cuDNN as the program had loaded them, if there is only a note about the files."""
    if not isinstance(run.convolution, ConvolutionStep):
        return []
    findings = []
    for check, name in ((Check.CUDA, "cudart"), (Check.CUDNN, "cudnn")):
        about_files = checks.finding(check)
        library = run.convolution.libraries.get(name)
        if library and about_files and about_files.verdict == "note":
            fact = f"{_library_version(library, name)} ({library.path})"
            findings.append(Finding.ok(check, fact))
    return findings


def _library_version(library: LoadedLibrary, name: str) -> str:
    if not library.version:
        return "loaded"
    return cuda_version(library.version) if name == "cudart" else cudnn_version(library.version)


def cuda_version(number: int) -> str:
    """The version behind the number of cudaRuntimeGetVersion: 9020 is 9.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def cudnn_version(number: int) -> str:
    """The version behind the number of cudnnGetVersion: 7005 is 7.0.5, but 90100 is 9.1.0."""
    major = 10000 if number >= 90000 else 1000
    return f"{number // major}.{number % major // 100}.{number % 100}"


def _judge_memory(checks: ComputeChecks, run: ComputeRun, memory: MemoryStep) -> Finding:
    """How much memory the session took.

    Programs of others start and end meanwhile, so the smaller of two differences counts: what
    appeared with our program, and what disappeared with it.
    """
    before, after = memory.before, memory.after
    if before is None or after is None:
        return Finding.note(Check.MEMORY, "nvidia-smi does not report what is in use")
    left, free = before, None
    if checks.gpu is not None:
        left = run.memory_left.get(checks.gpu.index, before)
        free = checks.gpu.memory_free
    taken = max(0, after - max(before, left))
    limit = _MOST_MEMORY
    if free is not None:
        limit = min(limit, free // 2)
    if taken > limit:
        fact = f"TensorFlow takes {size(taken)} at once: nothing is left for others"
        hint = f"apexgpu setup {checks.host} growth"
        return Finding.problem(Check.MEMORY, fact, hint, code=CauseCode.TAKES_ALL_MEMORY)
    return Finding.ok(Check.MEMORY, f"took {size(taken)}, and more only as needed")


def _judge_command_run(checks: ComputeChecks, run: ComputeRun) -> Finding:
    """The run as a command as one finding: how it differs from the run as after a login."""
    command = f"ssh {checks.host} COMMAND"
    failure = _new_failure(checks, _judge_run(checks, run))
    if failure is None:
        if checks.nvcc_on_path and not run.nvcc_on_path:
            fact = f"the same through `{command}`, but nvcc is on PATH only after a login"
            return Finding.note(
                Check.COMMAND, fact, f"apexgpu setup {checks.host} cuda", code="no_path"
            )
        return Finding.ok(Check.COMMAND, f"the same through `{command}`")
    if failure.verdict != "problem":
        return replace(failure, check=Check.COMMAND)
    fact = f"not through `{command}`: {failure.fact}"
    hint = failure.hint
    if failure.code != CauseCode.TAKES_ALL_MEMORY:
        fact += " (commands do not read ~/.bashrc)"
        hint = f"apexgpu setup {checks.host} cuda"
    return Finding.problem(Check.COMMAND, fact, hint, code=CauseCode.COMMAND)


def _new_failure(checks: ComputeChecks, findings: list[Finding]) -> Finding | None:
    """The first failure, without one that the first run had too: TensorFlow takes all memory."""
    memory = checks.finding(Check.MEMORY)
    is_known = memory is not None and memory.code == CauseCode.TAKES_ALL_MEMORY
    for finding in findings:
        if finding.code == CauseCode.TAKES_ALL_MEMORY and is_known:
            continue
        if _has_failed(finding):
            return finding
    return None
