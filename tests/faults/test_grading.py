"""Grading workers that are killed: their answer is asked again, and only one that kills its worker twice is unknown.

This file imports nothing large: the workers import it too, and their memory is limited.
"""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from redi_lab.grading import grader as grading
from redi_lab.grading.grader import Grade, Grader, Verdict


@pytest.fixture
def killed_in_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Grading workers are killed as long as there are files to remove in a folder."""
    monkeypatch.setattr(grading, "_compare_by_algebra", partial(_grade_or_die, tmp_path))
    return tmp_path


def _grade_or_die(lives: Path, task: tuple[str, tuple[str, ...]]) -> Grade | None:
    """In the worker, where nothing is patched."""
    for life in lives.iterdir():
        life.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return grading._compare_by_algebra(task)


@pytest.mark.parametrize(("kills", "verdict"), [(1, Verdict.RIGHT), (2, Verdict.UNKNOWN)])
def test_a_killed_grading_worker_is_asked_once_more(kills: int, verdict: Verdict, killed_in_work: Path) -> None:
    for life in range(kills):
        (killed_in_work / str(life)).touch()
    with Grader(num_workers=1) as grader:
        (first,) = grader.grade_all([(r"\boxed{\sum_{k=1}^{2} k}", "3")])
        (second,) = grader.grade_all([(r"\boxed{\sum_{k=1}^{2} k}", "4")])
    assert first.verdict is verdict
    assert second.verdict is Verdict.WRONG
    if verdict is Verdict.UNKNOWN:
        assert first.reason == "grader crashed"
