from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redi_lab.grading.extraction import Answers, extract_answer
from redi_lab.grading.grader import Grade, Grader, Verdict


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(num_workers=2, timeout_seconds=60.0, memory_mb=1024) as shared:
        yield shared


def read(path: Path, step: int = 1) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line][::step]


@pytest.mark.parametrize(
    ("prediction", "gold", "verdict"),
    [
        (r"\boxed{18}", "18", Verdict.RIGHT),
        (r"\boxed{19}", "18", Verdict.WRONG),
        (r"\boxed{\frac{1}{2}}", "0.5", Verdict.RIGHT),
        (r"\boxed{x^2+2x+1}", "(x+1)^2", Verdict.RIGHT),
        (r"\boxed{(1, 2)}", "(2, 1)", Verdict.WRONG),
        (r"\boxed{4}", ["3", "4"], Verdict.RIGHT),
        (r"\boxed{\sqrt{4}}", ["3", "2"], Verdict.RIGHT),
        (r"\boxed{5}", ["3", "4"], Verdict.WRONG),
        (r"\boxed{5} or \boxed{7}", "7", Verdict.WRONG),
        (r"\boxed{eighteen}", "18", Verdict.UNKNOWN),
        (r"\boxed{\sum_{k=1}^{3} k}", ["5", "6"], Verdict.RIGHT),
        (r"\boxed{\sum_{k=1}^{3} k}", "7", Verdict.WRONG),
        ("The answer, after a long walk through the woods, is eighteen", "18", Verdict.UNKNOWN),
        ("The answer is 42.", "42", Verdict.RIGHT),
        ("**42**", "42", Verdict.RIGHT),
        (r"The polynomial \( x^4+x^2+1 \) is irreducible.", "(x^2+x+1)(x^2-x+1)", Verdict.UNKNOWN),
        (r"\boxed{e^{-40}}", "e^{-50}", Verdict.WRONG),
        (r"\boxed{\frac{6.6\times10^{-34}}{2\pi}}", r"9.9\times10^{-34}", Verdict.WRONG),
        (r"\boxed{K/(2L)}", "k/(2L)", Verdict.UNKNOWN),
        (r"\boxed{\lfloor\frac{n+1}{100}\rfloor}", r"\lfloor\frac n{100}\rfloor", Verdict.UNKNOWN),
        (r"\boxed{\sin 30^\circ}", "0.5", Verdict.RIGHT),
        (r"\boxed{x^2+y^2=1}", "1-x^2-y^2=0", Verdict.RIGHT),
        (r"\boxed{x^2+y^2=2}", "x^2+y^2=1", Verdict.WRONG),
        (r"\boxed{(2,3)\cup(0,1)}", r"(0,1)\cup(2,3)", Verdict.RIGHT),
        (r"\boxed{x > 5}", "x < 5", Verdict.WRONG),
        (r"\boxed{k < -5}", r"(-\infty,-5)", Verdict.RIGHT),
        (r"\boxed{0.6054}", r"\cos^{10}(\frac{\pi}{10})", Verdict.RIGHT),
        (r"\boxed{\begin{pmatrix}1&\frac12\end{pmatrix}}", r"\begin{bmatrix}1 & 0.5\end{bmatrix}", Verdict.RIGHT),
        (r"\boxed{\sqrt{x^2}}", "x", Verdict.UNKNOWN),
    ],
)
def test_grade(prediction: str, gold: str | list[str], verdict: Verdict, grader: Grader) -> None:
    assert grader.grade_all([(prediction, gold)])[0].verdict is verdict


def test_grades_say_why_and_what_was_found(grader: Grader) -> None:
    def grade(prediction: str, gold: str | list[str]) -> Grade:
        return grader.grade_all([(prediction, gold)])[0]

    assert grade("It is 18, I think", "18") == Grade(Verdict.UNKNOWN, "no final answer", None)
    assert grade(r"\boxed{7.0}", "7") == Grade(Verdict.RIGHT, "same answer", "7.0")
    assert grade(r"\boxed{" + "9" * 5000 + "}", "7").reason == "answer longer than 2000 characters"
    with pytest.raises(ValueError, match="no gold answer"):
        grade(r"\boxed{7}", [])
    assert grade(r"\boxed{7}", "8" * 3000).reason == "gold answer longer than 2000 characters"
    assert grade(r"\boxed{\text{none at all}}", "7") == Grade(
        Verdict.UNKNOWN, "a text against a value", r"\text{none at all}"
    )


def test_one_unclear_gold_among_several_is_not_wrong(grader: Grader) -> None:
    """Of the first pair algebra tells the other gold apart."""
    pairs = [(r"\boxed{\sum_{k=1}^{3} k}", ["5", "k \\pmod{]"]), (r"\boxed{x=3}", ["y=3", "4"])]
    assert [made.verdict for made in grader.grade_all(pairs)] == [Verdict.UNKNOWN] * 2


@pytest.mark.parametrize(
    ("answers", "verdict"), [("boxed", "unknown"), ("marker", "unknown"), ("last_number", "right")]
)
def test_where_the_answer_stands_is_part_of_the_protocol(answers: Answers, verdict: str) -> None:
    with Grader(answers=answers) as fresh:
        assert fresh.settings["answers"] == answers
        assert fresh.grade_all([("She has 4 + 5 = 9 left", "9")])[0].verdict == verdict


def test_equal_pairs_are_compared_once_and_grades_keep_their_order(
    grader: Grader, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    schedule = Grader._schedule

    def counted(self: Grader, task: Any) -> Any:
        asked.append(task)
        return schedule(self, task)

    monkeypatch.setattr(Grader, "_schedule", counted)
    hard = (r"\boxed{\sum_{k=1}^{3} k}", "6")
    grades = grader.grade_all([hard, (r"\boxed{3}", "3"), ("I have no idea at all", "3"), hard])
    assert [made.verdict for made in grades] == [Verdict.RIGHT, Verdict.RIGHT, Verdict.UNKNOWN, Verdict.RIGHT]
    assert asked == [(r"\sum_{k=1}^{3} k", ("6",))]


def test_plain_answers_start_no_worker() -> None:
    answers = [*map(str, range(10)), r"\frac{14}{2}", "(1, 2)", "x=8", r"7\text{ cm}"]
    with Grader() as fresh:
        grades = fresh.grade_all([(rf"\boxed{{{answer}}}", "7") for answer in answers])
        assert not fresh.has_workers
    assert [made.verdict for made in grades].count(Verdict.RIGHT) == 3


def test_stream_reads_only_a_window_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redi_lab.grading.grader.WINDOW", 2)
    read_so_far = []

    def pairs() -> Iterator[tuple[str, str]]:
        for number in range(20):
            read_so_far.append(number)
            yield rf"\boxed{{\sum_{{k=1}}^{{3}} {number}k}}", "6"

    with Grader(num_workers=1) as fresh:
        stream = fresh.grade_stream(pairs())
        first = next(stream)
        assert len(read_so_far) == 2
        assert [first.verdict, *(made.verdict for made in stream)].count(Verdict.RIGHT) == 1


@pytest.mark.parametrize(("step", "fewest"), [(3, 52), pytest.param(1, 151, marks=pytest.mark.slow)])
def test_agrees_with_published_grading_cases(
    step: int, fewest: int, shared_data: Callable[[str], Path], grader: Grader
) -> None:
    """Bare math-verify agrees with 151 of the 161; docs/grading.md says why not all can be met."""
    cases = read(shared_data("grading/grading_cases.jsonl"), step)
    # Many cases are bare answers: box what states none, as a completion would.
    texts = [
        case["prediction"] if extract_answer(case["prediction"]) else rf"\boxed{{{case['prediction']}}}"
        for case in cases
    ]
    grades = grader.grade_all(list(zip(texts, (case["gold"] for case in cases), strict=True)))
    agreed = sum((made.verdict is Verdict.RIGHT) == case["expected"] for made, case in zip(grades, cases, strict=True))
    assert agreed >= fewest


def test_hunted_wrong_answers_are_not_called_right(shared_data: Callable[[str], Path], grader: Grader) -> None:
    cases = read(shared_data("grading/hunted_cases.jsonl"))
    grades = grader.grade_all([(case["prediction"], case["gold"]) for case in cases])
    pairs = list(zip(cases, grades, strict=True))
    assert sum(made.verdict is Verdict.RIGHT for case, made in pairs if not case["expected"]) <= 1
    assert sum(made.verdict is Verdict.RIGHT for case, made in pairs if case["expected"]) >= 50
    assert not [case["id"] for case, made in pairs if case["expected"] and made.verdict is Verdict.WRONG]


@pytest.mark.parametrize(("step", "share"), [(16, 0.93), pytest.param(1, 0.947, marks=pytest.mark.slow)])
def test_agrees_with_real_verdicts(step: int, share: float, shared_data: Callable[[str], Path], grader: Grader) -> None:
    """Another grader's machine verdicts, not the truth: where we differ, docs/grading.md shows who is right."""
    cases = read(shared_data("grading/real_verdict_pairs.jsonl"), step)
    grades = grader.grade_all([(rf"\boxed{{{case['prediction']}}}", case["gold"]) for case in cases])
    agreed = sum((made.verdict is Verdict.RIGHT) == case["verdict"] for made, case in zip(grades, cases, strict=True))
    assert agreed / len(cases) >= share
    called_wrong = [
        case for made, case in zip(grades, cases, strict=True) if case["verdict"] and made.verdict is Verdict.WRONG
    ]
    assert len(called_wrong) <= 16  # those of docs/grading.md: there the published verdict is the wrong one


HOSTILE = {
    "tower": r"\boxed{9^{9^{9^9}}}",
    "factorial": r"\boxed{(10^{10})!}",
    "expanding power": r"\boxed{(x+y+z)^{3000}}",
    "braces": r"\boxed{" + "{" * 100_000 + "1" + "}" * 100_000 + "}",
    "nested boxes": r"\boxed{" * 100_000 + "1" + "}" * 100_000,
    "open boxes": r"\boxed{1" * 100_000,
    "fractions": r"\boxed{" + r"\frac{1}{" * 150 + "2" + "}" * 150 + "}",
    "digits tower": r"\boxed{10**10**10}",
    "factorial tower": r"\boxed{((9!)!)!}",
    "ten megabytes": "x" * 10_000_000,
    "ten megabytes boxed": r"\boxed{" + "x+" * 5_000_000 + "1}",
    "surrogates": "\\boxed{" + "\udfff\ud800" * 500 + "}",
    "lambda": r"\boxed{(lambda: open('HACKED','w'))()}",
    "matrices": r"\boxed{" + r"\begin{pmatrix}" * 100 + "}",
    "plus or minus": r"\boxed{" + r"\pm1" * 400 + "}",
    "digits": r"\boxed{" + "7" * 1_000_000 + "}",
    "unboxed digits": "7" * 1_000_000,
    "spaces": "final answer" + " " * 1_000_000,
    "unclosed": r"\boxed{12",
    "digits against a decimal": r"\boxed{" + "9" * 400 + "}",
    "digits of a fraction": r"\boxed{\frac{" + "9" * 900 + "}{" + "7" * 900 + "}}",
    "exponent": r"\boxed{1e9999}",
    "empty set": r"\boxed{\{\}}",
    "tuples": r"\boxed{" + "(1,2,3,4)" * 40 + "x}",
    "unary minus": r"\boxed{" + "-" * 1900 + "1}",
    "powers": r"\boxed{" + "2^" * 900 + "2}",
    "parentheses": r"\boxed{" + "(" * 900 + "1" + ")" * 900 + "}",
    "null bytes": "\\boxed{1\x002\x00}",
    "surrogate": "\\boxed{\ud800}",
    "import": r"\boxed{__import__('os').system('touch HACKED')}",
    "exec": "#### exec(\"open('HACKED','w')\")",
}


COSTLY = ("unary minus", "fractions")  # seconds each; test_algebra.py has such a text by default, and less time for it


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in COSTLY else ()) for name in HOSTILE]
)
def test_hostile_text_costs_one_answer(
    name: str, grader: Grader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile, sane = grader.grade_all([(HOSTILE[name], "1.75"), (r"\boxed{\sum_{k=1}^{2} k}", "3")])
    assert hostile.verdict is not Verdict.RIGHT
    assert sane.verdict is Verdict.RIGHT
    assert not list(tmp_path.iterdir())


def _die(task: tuple[str, tuple[str, ...]]) -> Grade:
    os._exit(1)


def _hang(task: tuple[str, tuple[str, ...]]) -> Grade:
    time.sleep(60)
    raise AssertionError


def _hoard(task: tuple[str, tuple[str, ...]]) -> Grade:
    return Grade(Verdict.RIGHT, "allocated", str(len(bytearray(2**31))))


@pytest.mark.parametrize(("work", "reason"), [(_die, "grader crashed"), (_hang, "timeout"), (_hoard, "out of memory")])
def test_a_lost_worker_is_an_unknown_verdict(
    work: Callable[[tuple[str, tuple[str, ...]]], Grade], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redi_lab.grading.grader._compare_by_algebra", work)
    with Grader(num_workers=1, timeout_seconds=0.5, memory_mb=512) as small:
        assert small.grade_all([(r"\boxed{\int x}", "y")]) == [Grade(Verdict.UNKNOWN, reason, r"\int x")]


@pytest.mark.slow
def test_libraries_of_the_calling_script_do_not_count(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        "import transformers, torch\nfrom redi_lab.grading.grader import Grader\n"
        "if __name__ == '__main__':\n    with Grader(1, memory_mb=512) as grader:\n"
        r"        print(grader.grade_all([(r'\boxed{\sum_{k=1}^{2} k}', '3')])[0].reason)"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert run.stdout == "equivalent by math-verify\n"


def test_workers_import_neither_torch_nor_transformers() -> None:
    code = "import sys, redi_lab.grading.grader, math_verify; print({'torch', 'transformers'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
