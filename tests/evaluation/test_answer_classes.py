from __future__ import annotations

from redi_lab.evaluation.metrics import NO_VOTE
from redi_lab.evaluation.scoring import answer_classes


def test_equivalent_answers_share_a_label() -> None:
    answers = ["1/2", "3", None, "0.5", "\\frac{1}{2}", "4", "4.0"]
    correct = [False, True, False, False, False, False, False]
    assert answer_classes(answers, correct).tolist() == [1, 0, NO_VOTE, 1, 1, 2, 2]


def test_all_right_answers_are_one_class_and_no_wrong_one_joins_it() -> None:
    """A grader may call "x=3" right and "3" wrong; a vote for one is no vote for the other."""
    assert answer_classes(["3", "three", "3"], [True, True, False]).tolist() == [0, 0, 1]


def test_what_cannot_be_compared_counts_as_different() -> None:
    assert answer_classes(["\\odd{1}{", "\\odd{2}{", "\\odd{1}{"], [False] * 3).tolist() == [1, 2, 1]
