"""What a code means: `apexgpu explain CODE`, in English and in Chinese.

from apexgpu import explain

print(explain.explain("stopped").explanation.english.what_to_do)
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from apexgpu.errors import UsageError
from apexgpu.explanations import Explanation, catalogue
from apexgpu.results import JsonObject, Result


@dataclass(frozen=True)
class Explained(Result):
    """What `explain` returns: the entry of one code. The JSON document is English only."""

    explanation: Explanation

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, **_entry_json(self.explanation)}


@dataclass(frozen=True)
class CodeList(Result):
    """What `list_codes` returns: every code, in alphabetical order."""

    explanations: Sequence[Explanation]

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "codes": [_entry_json(each) for each in self.explanations]}


def explain(code: str) -> Explained:
    """Return the entry of a code, as `--json` documents have it. UsageError names the nearest codes."""
    entries = catalogue()
    name = code.strip().lower().replace("-", "_")
    if name in entries:
        return Explained(entries[name])
    near = difflib.get_close_matches(name, entries, n=1, cutoff=0.5)
    message = f"there is no code {code}"
    if near:
        message = f"{message}; did you mean {near[0]}?"
        raise UsageError(message, hint=f"apexgpu explain {near[0]}")
    raise UsageError(message, hint="apexgpu explain")


def list_codes() -> CodeList:
    """Return all codes."""
    return CodeList([entry for _, entry in sorted(catalogue().items())])


def _entry_json(explanation: Explanation) -> JsonObject:
    text = explanation.english
    return {
        "code": explanation.code,
        "meaning": text.meaning,
        "why": text.why,
        "what_to_do": text.what_to_do,
    }
