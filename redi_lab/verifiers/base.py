r"""What says whether completions solve their problems: all that evaluation, curation and generation know of verdicts.

with MathVerifier(Limits()) as verifier:
    verifier.check(problems)
    grades = verifier.grade_all([("it is \boxed{2}", problem)])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

from redi_lab.grading.extraction import Answers
from redi_lab.grading.grader import Grade

WITH_TOOLS = "proved with tools"
"""How the reason begins of a verdict wrong on a proof that tools can mend."""


class Posed(Protocol):
    """A problem as it is put to a model: its id, its text, and the accepted answers."""

    @property
    def id(self) -> str:
        """Unique in its source."""

    @property
    def problem(self) -> str:
        """The text."""

    @property
    def answers(self) -> Sequence[str]:
        """Any of which is right."""


class Limits(NamedTuple):
    """Where answers stand (see `extract_answer`), and limits of the processes that look at them."""

    num_workers: int = 2
    timeout_seconds: float = 10.0
    memory_mb: int = 1024
    answers: Answers = "boxed"


class Judge(Protocol):
    """Gives verdicts. What is unclear or fails is unknown, never wrong."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides a verdict, as JSON values: part of a result's protocol."""

    def check(self, problems: Iterable[Posed]) -> None:
        """Look at problems before anything is generated.

        Raises:
            UserError: one of them is not for this verifier.
        """

    def grade_all(self, pairs: Iterable[tuple[str, Posed]]) -> list[Grade]:
        """A verdict, its reason and the answer that was found, for each completion of a problem, in order."""


class Verifier(Judge, Protocol):
    """A context manager that owns its processes."""

    def __enter__(self) -> Self:
        """Itself."""

    def __exit__(self, *_: object) -> None:
        """End its processes."""
