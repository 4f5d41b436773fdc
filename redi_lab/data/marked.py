r"""Traces whose first wrong step is known, to be criticised: of a file, and of the embedded tasks by construction.

next(read_marked("traces.jsonl"))  # rows of `redi_lab.data.readers` with steps
trace = planted("a", "76 , first add 72 ?", ("148",), is_wrong=True)  # its one slip is the truth
trace.shown("Step {number}: {text}")  # "76 , first add 72 ?\nStep 1: first add …"
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from redi_lab.data.readers import TraceFileSource
from redi_lab.data.teacher import ChainProblem, Teacher
from redi_lab.data.traces import Generation, Problem
from redi_lab.errors import UserError


@final
@dataclass(frozen=True, slots=True)
class MarkedTrace:
    """A trace of a problem.

    Attributes:
        id: unique in its source.
        problem: the text.
        answers: any of which is right.
        steps: their texts.
        first_wrong: the number, from 1, of the first one that is wrong; 0 where none is.
    """

    id: str
    problem: str
    answers: tuple[str, ...]
    steps: tuple[str, ...]
    first_wrong: int

    def shown(self, form: str) -> str:
        """The problem and the steps, each on a line of its own, with `{number}` and `{text}` filled in."""
        numbered = (form.replace("{number}", str(n)).partition("{text}") for n, _ in enumerate(self.steps, start=1))
        steps = (f"{before}{text}{behind}" for (before, _, behind), text in zip(numbered, self.steps, strict=True))
        return "\n".join([self.problem, *steps])


def read_marked(path: str) -> Iterator[MarkedTrace]:
    """Every generation of a file of traces, with the steps that it has.

    Raises:
        UserError: as `TraceFileSource.problems`; a row has no answer; or a generation has no steps, or none that is
            marked as wrong although it is not known to be right.
    """
    for problem in TraceFileSource(path).problems():
        assert isinstance(problem, Problem)  # this source drops nothing
        if problem.answer is None:
            raise UserError(f"{path}: id {problem.id}: has no answer, which a correction must come to; add it")
        for number, generation in enumerate(problem.generations):
            place = f"{path}: id {problem.id}: trace {number + 1}"
            steps = tuple(generation.text[step.start : step.end].strip() for step in generation.weights.steps)
            first_wrong = _first_wrong(generation, place)
            yield MarkedTrace(f"{problem.id}/{number}", problem.problem, (problem.answer,), steps, first_wrong)


def _first_wrong(generation: Generation, place: str) -> int:
    verdicts = [step.right for step in generation.weights.steps]
    if not verdicts:
        raise UserError(f'{place}: has no steps; give [{{"start", "end", "right"}}, …] beside its text')
    if False in verdicts:
        return 1 + verdicts.index(False)
    if generation.correct is not True:
        raise UserError(f'{place}: is not known to be right, and no step of it has "right": false; mark the wrong one')
    return 0


def planted(name: str, problem: str, answers: tuple[str, ...], *, is_wrong: bool) -> MarkedTrace:
    """A teacher's trace of a problem of an embedded task, with one error or with none; the same at each call."""
    rng, teacher, chain = random.Random(problem), Teacher(errs_once=True), ChainProblem.read(problem)
    while ((attempt := teacher.solve(chain, rng)).error is not None) != is_wrong:
        pass
    steps = tuple(attempt.text.split("\n"))
    return MarkedTrace(name, problem, answers, steps, _erring_line(chain, steps) if is_wrong else 0)


def _erring_line(chain: ChainProblem, lines: Sequence[str]) -> int:
    """The number of the line whose result does not follow from the one before it."""
    total = chain.start
    for number, (operand, line) in enumerate(zip(chain.operands, lines, strict=False), start=1):
        expected, total = total + (-operand if chain.takes else operand), int(line.split()[-2])
        if total != expected:
            return number
    raise ValueError(f"no line of {lines} errs")
