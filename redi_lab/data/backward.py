r"""Backward problems of the embedded tasks, by construction and in their words: what was the start, given the result?

    next(backward_rows(ArithmeticSource()))

The backward problem of `76 , first add 72 , second add 68 ?` is `second add 68 , first add 72 , so 216 ?`. The teacher
undoes the additions by columns, or in the head, with the same habits as forward, and each column is an addition::

    second add 68 so 216 : 8+8=16 4+6+1=11 1+1=2 so 148 .
    first add 72 so 148 : 6+2=8 7+7=14 so 76 .
    \boxed { 76 }

A trace that does not come to the start is inconsistent with its forward problem, so the teacher's errors are the share
of these.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from redi_lab.data.rows import Values
from redi_lab.data.simulated import SimulatedSource
from redi_lab.data.teacher import ChainProblem


def backward_rows(source: SimulatedSource) -> Iterator[Values]:
    """The corpus of an embedded task as rows of `curate revthink`, one for each try at a backward problem.

    The teacher tries until it gets to the start, at most `source.max_tries` times. Problems that take away have no
    backward one.
    """
    rng = random.Random(f"{source.seed}/backward")
    for one in source.load().demonstrations:
        problem = ChainProblem.of_text(one.problem)
        row: Values = {"problem": one.problem, "completion": one.completion, "answer": str(problem.answer)}
        if problem.takes:
            yield row | dict.fromkeys(("backward_problem", "backward_completion", "consistent"))
            continue
        turned = problem.turned_round()
        for _ in range(source.max_tries):
            attempt = source.teacher.solve(turned, rng)
            is_consistent = attempt.answer == turned.answer
            yield row | {
                "backward_problem": turned.text,
                "backward_completion": attempt.text,
                "consistent": is_consistent,
            }
            if is_consistent:
                break
