"""Rules that take rows and generations out of a corpus: token limits and duplicates, each under a reason of its own.

    Limits(completion=19_000).exceeded(prompt=80, completion=20_000)      # "completion over 19000 tokens"
    repeated_texts(["a b", "A  b", "c"], "exact", threshold=0.8)          # [None, "duplicate …", None]

Completeness is told by `redi_lab.data.verdicts.truncation`, contamination by `redi_lab.curation.decontamination`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

from redi_lab.curation.duplicates import NearDuplicates, exact_key, signature

Duplicates = Literal["keep", "exact", "near"]
DUPLICATES: tuple[str, ...] = get_args(Duplicates)

SAME_GENERATION = "duplicate of an earlier generation of the problem"
SIMILAR_GENERATION = "near duplicate of an earlier generation of the problem"
SAME_PROBLEM = "duplicate of an earlier problem"
SIMILAR_PROBLEM = "near duplicate of an earlier problem"


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """The most tokens of a prompt, of a completion with its end-of-turn token, and of both; None for no limit."""

    prompt: int | None = None
    completion: int | None = None
    sequence: int | None = None

    @property
    def is_set(self) -> bool:
        """Whether anything is limited, so that tokens must be counted."""
        return (self.prompt, self.completion, self.sequence) != (None, None, None)

    def prompt_exceeded(self, prompt: int) -> str | None:
        """The reason to drop a problem, or None."""
        return _over("prompt", prompt, self.prompt)

    def exceeded(self, prompt: int, completion: int) -> str | None:
        """The reason to drop a generation, or None."""
        return _over("completion", completion, self.completion) or _over("sequence", prompt + completion, self.sequence)


def _over(what: str, number: int, limit: int | None) -> str | None:
    return f"{what} over {limit} tokens" if limit is not None and number > limit else None


def repeated_texts(texts: Sequence[str], how: Duplicates, threshold: float) -> list[str | None]:
    """For each generation of one problem, why it is a repetition of an earlier one, or None.

    Args:
        texts: the generations.
        how: keep (nothing is a repetition), exact (but for case and white space), or near.
        threshold: of `NearDuplicates`.
    """
    if how == "keep":
        return [None] * len(texts)
    near = NearDuplicates(threshold, same_numbers=False) if how == "near" else None
    seen: set[str] = set()
    reasons: list[str | None] = []
    for place, text in enumerate(texts):
        key = exact_key(text)
        if key in seen:
            reasons.append(SAME_GENERATION)
        elif near is not None and near.add(str(place), text) is not None:
            reasons.append(SIMILAR_GENERATION)
        else:
            reasons.append(None)
            seen.add(key)
    return reasons


@final
@dataclass(frozen=True, slots=True)
class ProblemKey:
    """What two problems are compared by; made in worker processes."""

    exact: str
    near: bytes | None


def problem_key(text: str, how: Duplicates) -> ProblemKey | None:
    """The key of a problem's text; None where duplicates are kept."""
    if how == "keep":
        return None
    return ProblemKey(exact_key(text), signature(text) if how == "near" else None)


@final
class SeenProblems:
    """Remembers the problems in use. Memory: a hash (and a signature of 512 bytes) for each."""

    def __init__(self, threshold: float) -> None:
        self._exact: set[str] = set()
        self._near = NearDuplicates(threshold)

    def reason_to_drop(self, key: ProblemKey | None, name: str) -> str | None:
        """Why the problem is a repetition; otherwise it is remembered, and None returned."""
        if key is None:
            return None
        if key.exact in self._exact:
            return SAME_PROBLEM
        if key.near is not None and self._near.add_signature(name, key.near) is not None:
            return SIMILAR_PROBLEM
        self._exact.add(key.exact)
        return None
