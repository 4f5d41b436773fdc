"""Compares final answers with the accepted ones, by the rules of docs/grading.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self, final

from redi_lab.grading.grader import Grade, Grader
from redi_lab.verifiers.base import Limits, Posed


@final
class MathVerifier:
    """See `Verifier`.

    Args:
        limits: of the grader.
    """

    def __init__(self, limits: Limits) -> None:
        self._grader = Grader(*limits)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides a verdict."""
        return self._grader.settings

    def check(self, problems: Iterable[Posed]) -> None:
        """Any answer can be compared."""

    def grade_all(self, pairs: Iterable[tuple[str, Posed]]) -> list[Grade]:
        """A verdict for each completion of a problem, in order."""
        return self._grader.grade_all((text, problem.answers) for text, problem in pairs)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the grader's workers."""
        self._grader.__exit__(None, None, None)
