"""The name that was meant by a word that is no command: measured so that typical slips find their way."""

from collections.abc import Iterable

_SWAP = 0.8
"""Two letters in the wrong order are a smaller slip than two wrong letters, or than one."""

_LEAST_PREFIX = 3
_PREFIX_SIMILARITY = 0.95


def nearest(word: str, names: Iterable[str], *, cutoff: float = 0.55) -> str | None:
    """Return the most similar of `names`, the first of several; None if none is at least `cutoff` similar."""
    best = None
    best_similarity = cutoff
    for name in names:
        found = similarity(word, name)
        if found > best_similarity or (best is None and found >= cutoff):
            best = name
            best_similarity = found
    return best


def similarity(word: str, name: str) -> float:
    """Return how similar a typed word is to a name, from 0 to 1.

    The slips are counted in proportion to the length: `sotre` is nearer to `restore` than to `set`. The
    first letters of a name, three or more, are an abbreviation of it.
    """
    typed = word.lower()
    if len(typed) >= _LEAST_PREFIX and name.startswith(typed):
        return _PREFIX_SIMILARITY
    longest = max(len(typed), len(name))
    return 1 - _distance(typed, name) / longest


def _distance(word: str, name: str) -> float:
    """The slips between two words: letters missing, too many, wrong, or swapped with their neighbour."""
    before: list[float] = []
    last = [float(column) for column in range(len(name) + 1)]
    for row, letter in enumerate(word, 1):
        current = [float(row)]
        for column, other in enumerate(name, 1):
            wrong = last[column - 1] + (letter != other)
            cost = min(last[column] + 1, current[column - 1] + 1, wrong)
            is_swap = (
                row > 1 and column > 1 and word[row - 2] == other and name[column - 2] == letter
            )
            if is_swap:
                cost = min(cost, before[column - 2] + _SWAP)
            current.append(cost)
        before, last = last, current
    return last[-1]
