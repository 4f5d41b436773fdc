"""Which completions of a problem gave the same answer: for majority votes and for counting distinct answers.

classes = answer_classes(["1/2", "0.5", None, "3"], [False, False, False, True])  # 1, 1, NO_VOTE, 0
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from redi_lab.evaluation.equivalence import Outcome, compare_answers
from redi_lab.evaluation.metrics import NO_VOTE


def answer_classes(answers: Sequence[str | None], correct: Sequence[bool]) -> NDArray[np.int64]:
    """Label the answers of one problem so that equivalent ones share a label.

    All right answers meet the gold answer, so they are one class, and no wrong one joins it. The others are compared
    by the conventions of docs/grading.md with the first answer of each class so far; what those leave undecided counts
    as different.

    Args:
        answers: Final answer of each completion, None where none was stated.
        correct: Whether each was graded right.

    Returns:
        Labels, shape (completions,): 0 for right answers, 1, 2, … in order of appearance, `NO_VOTE` for no answer.
    """
    representatives: dict[str, int] = {}
    known: dict[str, int] = {}
    labels = []
    for answer, is_right in zip(answers, correct, strict=True):
        if is_right:
            labels.append(0)
        elif answer is None:
            labels.append(NO_VOTE)
        else:
            if answer not in known:
                known[answer] = _find(answer, representatives)
            labels.append(known[answer])
    return np.array(labels, dtype=np.int64)


def _find(answer: str, representatives: dict[str, int]) -> int:
    for other, label in representatives.items():
        if compare_answers(answer, other) is Outcome.SAME:
            return label
    representatives[answer] = len(representatives) + 1
    return representatives[answer]
