"""Whether a container computes: what was found there and what its runs said -> a chain of verdicts. Pure.

The chain: driver, CUDA, cuDNN, TensorFlow, GPU, convolution, memory, and all of it again as a command without a
terminal. What the files tell is a note at most; the runs judge, and then the file that explains a failure is named.
The one exception is the driver: CUDA's own table says which are too old for it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from apexgpu.errors import ApexError, RefusedError, UnreachableError
from apexgpu.models import Finding
from apexgpu.nvidia.smi import MIB, Report
from apexgpu.recipes import groundwork
from apexgpu.recipes.causes import cause
from apexgpu.recipes.evidence import Card, Python, Run, There
from apexgpu.text import size

TOO_SLOW = 142
"""The exit status of a Python that its alarm has ended (128 + SIGALRM)."""

CHECKS = ("driver", "cuda", "cudnn", "tensorflow", "gpu", "convolution", "memory", "command")
GREEDY = "takes_all"
"""The code of a memory link where TensorFlow takes nearly all of a card."""

_STEPS = {"import": "tensorflow", "device": "gpu", "convolution": "convolution"}
_SLOW = {TOO_SLOW, 124}  # 124: of `timeout`


@dataclass(frozen=True, slots=True)
class Proof:
    """How far a host's chain holds. `error` is why not, None when all of it does."""

    host: str
    links: tuple[Finding, ...] = ()
    driver: str = ""
    there: There = field(default_factory=There)
    python: Python | None = None
    gpu: Card | None = None
    nvcc: bool = False
    login: bool = True

    @property
    def decided(self) -> bool:
        """Whether a link has ended the chain. Too much memory does not: what comes after it is worth knowing too."""
        return any(
            one.verdict in {"problem", "busy", "slow"} and one.code != GREEDY for one in self.links
        )

    @property
    def verdict(self) -> str:
        """`works`, `busy` (others use the GPUs), `slow` (not done in time) or `broken`."""
        found = {one.verdict for one in self.links}
        return (
            "broken"
            if "problem" in found
            else "busy"
            if "busy" in found
            else "slow"
            if "slow" in found
            else "works"
        )

    @property
    def error(self) -> ApexError | None:
        """Why the chain does not hold: exit code 1 broken, 6 busy, 5 too slow."""
        bad = next((one for one in self.links if one.verdict == "problem"), None)
        bad = bad or next((one for one in self.links if one.verdict in {"busy", "slow"}), None)
        if bad is None:
            return None
        kind = {"busy": RefusedError, "slow": UnreachableError}.get(bad.verdict, ApexError)
        word = "computes, but" if bad.code in {GREEDY, "command"} else f"{_WORDS[bad.verdict]}:"
        return kind(f"{self.host} {word} {bad.fact}", hint=bad.hint, code=bad.code)

    def link(self, check: str) -> Finding | None:
        """The link that is called so."""
        return next((one for one in self.links if one.check == check), None)


_WORDS = {"problem": "does not compute", "busy": "is busy", "slow": "is too slow"}


def without_driver(host: str, trouble: ApexError) -> Proof:
    """The chain where nvidia-smi itself says that there is nothing to compute on."""
    return finish(
        Proof(host, (Finding("driver", "problem", trouble.message, trouble.hint, trouble.code),))
    )


def begin(
    host: str, report: Report, found: There, *, named: str | None = None, login: bool = True
) -> Proof:
    """The chain as far as the files tell, and the Python and the GPU to try; `login` is whether one can be tried."""
    able = [one for one in found.pythons if one.name]
    python = able[0] if able else None
    version = python.tensorflow if python else ""
    proof = Proof(host, driver=report.driver, there=found, python=python, login=login)
    links = [groundwork.driver(report.driver, found, version, host)]
    links += [groundwork.cuda(found, version, host), groundwork.cudnn(found, version, host)]
    if python is None:
        links.append(groundwork.no_tensorflow(found, host, named))
    gpu, busy = groundwork.choose(report.gpus, host)
    links += [busy] if busy else []
    return replace(proof, links=tuple(links), gpu=gpu)


def add(proof: Proof, found: Run) -> Proof:
    """The chain with what the first run came to."""
    version = _version(proof, found)
    links = _links(proof, found, version)
    names = {one.check for one in links}
    kept = tuple(one for one in proof.links if one.check not in names)
    python = replace(proof.python, tensorflow=version) if proof.python else None
    return replace(
        proof,
        links=tuple(sorted((*kept, *links), key=_place)),
        gpu=_card(proof, found),
        python=python,
        nvcc=_nvcc(found),
    )


def again(proof: Proof, found: Run) -> Proof:
    """The chain with its last link: what the run as a command came to."""
    return replace(proof, links=(*proof.links, _again(proof, found)))


def _version(proof: Proof, found: Run) -> str:
    return str(
        found.steps.get("import", {}).get("tensorflow")
        or (proof.python.tensorflow if proof.python else "")
    )


def _nvcc(found: Run) -> bool:
    return bool(found.steps.get("python", {}).get("nvcc"))


def _place(link: Finding) -> int:
    return CHECKS.index(link.check)


def _links(proof: Proof, found: Run, version: str) -> list[Finding]:
    """The links of one run, up to the first that does not hold."""
    links: list[Finding] = []
    for step, check in _STEPS.items():
        told = found.steps.get(step)
        link = _hold(told, step, proof) if told is not None else None
        if link is None:
            return [*links, *_fall(found, told, check, version, proof)]
        links.append(link)
        if link.verdict == "problem":
            return links
    memory = found.steps.get("memory")
    return [*links, *_loaded(found, proof), _memory(memory, found, proof)] if memory else links


def _hold(told: Mapping[str, Any], step: str, proof: Proof) -> Finding | None:
    """The link of a step that held, or whose numbers speak for themselves; None where a cause has to be found."""
    if "error" in told:
        return None
    if step == "import":
        if not told.get("with_cuda", True):
            fact = f"{_where(told)} is built without CUDA: it never uses a GPU"
            return Finding(
                "tensorflow",
                "problem",
                fact,
                f"apexgpu setup {proof.host} tensorflow",
                "no_cuda_build",
            )
        return Finding("tensorflow", "ok", _where(told))
    if step == "device":
        if not told.get("devices"):
            return None
        card = _described(told["devices"][0])
        return Finding(
            "gpu",
            "ok",
            ", ".join(
                part
                for part in (
                    card.get("name", "?"),
                    f"compute capability {card.get('compute capability', '?')}",
                    f"pci bus id {card.get('pci bus id', '?')}",
                    _memory_of(proof.gpu),
                )
                if part
            ),
        )
    return _right(told, proof)


def _where(told: Mapping[str, Any]) -> str:
    return f"{told.get('tensorflow', '?')} ({told.get('path', '?')})"


def _right(told: Mapping[str, Any], proof: Proof) -> Finding:
    if told.get("right"):
        took = (
            f" in {told['seconds']:.1f} s" if isinstance(told.get("seconds"), int | float) else ""
        )
        return Finding("convolution", "ok", f"all {told.get('numbers')} numbers are right{took}")
    first = told.get("first") or []
    example = f", such as {first[0]} for {first[1]}" if len(first) == 2 else ""
    fact = f"{told.get('wrong') or 'some'} of {told.get('numbers')} numbers are wrong{example}"
    hint = f"take another host: apexgpu gpus   (and tell the administrators: a GPU of {proof.host} computes wrongly)"
    return Finding("convolution", "problem", fact, hint, "wrong_numbers")


def _described(device: Mapping[str, Any]) -> dict[str, str]:
    """`device: 0, name: TITAN V, pci bus id: 0000:02:00.0, compute capability: 7.0` as TensorFlow describes a GPU."""
    about = str(device.get("about", ""))
    return dict(
        re.findall(
            r"(?:^|, )(device|name|pci bus id|compute capability): (.*?)(?=, (?:name|pci bus id|compute "
            r"capability): |$)",
            about,
        )
    )


def _memory_of(card: Card | None) -> str:
    if card is None or card.total is None:
        return ""
    free = f", {size(card.free)} free" if card.free is not None else ""
    return f"{size(card.total)} memory{free}"


def _card(proof: Proof, found: Run) -> Card | None:
    devices = found.steps.get("device", {}).get("devices")
    if not devices or proof.gpu is None:
        return proof.gpu
    told = _described(devices[0])
    return replace(
        proof.gpu,
        name=told.get("name", proof.gpu.name),
        capability=told.get("compute capability", ""),
        bus=told.get("pci bus id", ""),
    )


def _fall(
    found: Run, told: Mapping[str, Any] | None, check: str, version: str, proof: Proof
) -> list[Finding]:
    """The link at which the chain ended, and the one that is to blame where that is another."""
    if found.code in _SLOW and told is None:
        fact = f"{check} was not done in time; CUDA may have been compiling for this GPU, which it does once"
        return [Finding(check, "slow", fact, f"apexgpu verify {proof.host} --wait 3600", "slow")]
    text = f"{found.words}\n{told.get('said', '') if told else ''}"
    why = cause(text, check=check, code=found.code, version=version, host=proof.host)
    if check == "gpu" and told is not None and "error" not in told and why.code == "broken":
        why = Finding(
            "gpu",
            "problem",
            f"TensorFlow {version} lists no GPU, and does not say why",
            why.hint,
            "no_gpu",
        )
    known = proof.link("cudnn")
    if check == "convolution" and why.code == "broken" and known and known.code == "cudnn_mismatch":
        why = replace(known, verdict="problem")
    return (
        [why]
        if why.check == check
        else [why, Finding(check, "skipped", f"see {why.check}", code="skipped")]
    )


def _loaded(found: Run, proof: Proof) -> list[Finding]:
    """CUDA and cuDNN as the program itself had loaded them, where the files told something else or nothing."""
    links = []
    loaded = found.steps.get("convolution", {}).get("libraries") or {}
    for check, name in (("cuda", "cudart"), ("cudnn", "cudnn")):
        known, library = proof.link(check), loaded.get(name)
        if library and known and known.verdict == "note":
            number = library.get("version")
            fact = _number(number, name) if number else "loaded"
            links.append(Finding(check, "ok", f"{fact} ({library.get('path')})"))
    return links


def _number(number: int, name: str) -> str:
    """7005 -> 7.0.5 of cuDNN (8 on: 90100 -> 9.1.0), 9020 -> 9.2 of CUDA."""
    if name == "cudart":
        return f"{number // 1000}.{number % 1000 // 10}"
    big = 10000 if number >= 90000 else 1000
    return f"{number // big}.{number % big // 100}.{number % 100}"


def _memory(told: Mapping[str, Any], found: Run, proof: Proof) -> Finding:
    """What the session took: by the lesser of what came with it and what went with it, since others come and go."""
    before, after = told.get("before"), told.get("after")
    if not isinstance(before, int) or not isinstance(after, int):
        return Finding("memory", "note", "nvidia-smi does not tell what is used")
    left = found.left.get(proof.gpu.index, before) if proof.gpu else before
    took, free = max(0, after - max(before, left)), proof.gpu.free if proof.gpu else None
    if took > min(2048 * MIB, (free if free is not None else 4096 * MIB) // 2):
        fact = f"TensorFlow takes {size(took)} at once: nothing is left for others"
        return Finding("memory", "problem", fact, f"apexgpu setup {proof.host} growth", GREEDY)
    return Finding("memory", "ok", f"took {size(took)}, and more only as needed")


def _again(proof: Proof, found: Run) -> Finding:
    """The run as a command as one link."""
    links = _links(proof, found, _version(proof, found))
    command = f"ssh {proof.host} COMMAND"
    known = {one.code for one in proof.links if one.code == GREEDY}
    bad = next((one for one in links if one.verdict in _WORDS and one.code not in known), None)
    if bad is None:
        if proof.nvcc and not _nvcc(found):
            fact = f"the same through `{command}`, but nvcc is on PATH after a login only"
            return Finding("command", "note", fact, f"apexgpu setup {proof.host} cuda", "no_path")
        return Finding("command", "ok", f"the same through `{command}`")
    if bad.verdict in {"busy", "slow"}:
        return replace(bad, check="command")
    fact = f"not through `{command}`: {bad.fact}"
    hint = f"apexgpu setup {proof.host} cuda   (lines in ~/.bashrc do not reach commands)"
    return Finding("command", "problem", fact, bad.hint if bad.code == GREEDY else hint, "command")


def finish(proof: Proof) -> Proof:
    """The whole chain: what was not reached is told as skipped."""
    known = {one.check for one in proof.links}
    if not proof.login and "convolution" in known and "command" not in known and not proof.decided:
        fact = f"tried as `ssh {proof.host} COMMAND` alone: a login's files (~/.bashrc …) hand over to another program"
        return finish(
            replace(proof, links=(*proof.links, Finding("command", "note", fact, code="no_login")))
        )
    rest = tuple(
        Finding(check, "skipped", "not tried", code="skipped")
        for check in CHECKS
        if check not in known
    )
    return replace(proof, links=tuple(sorted((*proof.links, *rest), key=_place)))
