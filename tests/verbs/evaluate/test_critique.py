"""`evaluate` with critiques of given traces, and with errors that go back, from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.verbs.evaluate.test_conditions import Run, evaluate, scripted, sums

__all__ = ["evaluate", "sums"]  # fixtures


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Four problems, each with a trace that is wrong in its second line and a right one."""
    path = tmp_path / "traces.jsonl"
    rows = []
    for n in range(4):
        wrong, right = f"begin {n}\nend {n + 5}", f"begin {n}\nend {n + 4}"
        steps = [{"start": 0, "end": 8, "right": True}, {"start": 8, "end": len(wrong), "right": False}]
        generations = [
            {"text": wrong, "correct": False, "steps": steps},
            {"text": right, "correct": True, "steps": [step | {"right": True} for step in steps]},
        ]
        rows.append({"id": n, "problem": f"{n} + 4", "answer": str(n + 4), "generations": generations})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def critic(prompt: str, sample: int) -> str:
    """Finds the step on even numbers, calls 1 wrong whatever its trace, and says nothing on 3; mends what it found."""
    number = int(prompt.split(" ")[0])
    if "correctly" in prompt:
        return f"\\boxed{{{number + 4}}}" if number % 2 == 0 else "\\boxed{0}" if number == 1 else "?"
    is_wrong = f"Step 2: end {number + 5}" in prompt
    return {1: "\\boxed{1}", 3: "Well"}.get(number, f"\\boxed{{{2 * is_wrong}}}")


def test_critiques_are_counted_and_what_follows_them(
    evaluate: Run, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Called wrong: both traces of 1, and the wrong ones of 0 and 2; marked: four. Answer F1 2·3/8, step F1 2·2/8."""
    engine = scripted(monkeypatch, critic)
    asked = ["protocol=critique", "eval=jsonl", f"eval.path={traces}", "eval.num_samples=1"]
    summary = evaluate(*asked)
    found = {name: e["value"] for name, e in summary["critiques"]["criticised"].items()}
    assert found == {
        "answer_f1": 0.75, "step_f1": 0.5, "unread": 0.25,
        "chance_answer_f1": pytest.approx(2 / 3), "chance_step_f1": pytest.approx(1 / 3),
    }  # fmt: skip
    assert summary["critiques"]["criticised"]["answer_f1"]["num_problems"] == 4
    criticised, corrected = (
        summary["benchmarks"][name]["metrics"]["pass_at_1"]["value"] for name in summary["benchmarks"]
    )
    assert (criticised, corrected) == (0.5, 0.5)
    assert {name: e["value"] for name, e in summary["changes"]["corrected"].items()} == {
        "wrong_to_right": 0.5, "wrong_to_unknown": 0.25, "right_to_wrong": 0.25, "right_to_unknown": 0.25, "gain": 0.25,
    }  # fmt: skip
    assert summary["comparisons"] == {}
    assert summary["pairs"] == 0
    said = capsys.readouterr().out
    assert "criticised: answer f1 75.0% (95 % CI" in said
    assert "corrected, after criticised: wrong to right 50.0%" in said
    assert "(names" in said  # the step
    drawn = len(engine.requests)
    evaluate(*asked, "eval.offset=2", "eval.limit=4", name="some")
    assert [len(prompts) for prompts, _ in engine.requests[drawn:]] == [4, 4]


def test_critiques_of_embedded_traces(evaluate: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces are wrong and right by turns; the total, which students always answer with, is no step's number."""
    prompts: list[str] = []

    def says(prompt: str, sample: int) -> str:
        prompts.append(prompt)
        return "\\boxed { 216 }"

    scripted(monkeypatch, says)
    summary = evaluate("protocol=embedded_critique", "eval=arithmetic", "eval.limit=4", "eval.num_samples=1")
    assert summary["critiques"]["criticised"]["unread"]["value"] == 1.0
    assert summary["critiques"]["criticised"]["chance_answer_f1"]["value"] == pytest.approx(2 / 3)
    assert summary["critiques"]["criticised"]["answer_f1"]["value"] == 0.0
    [question] = {prompt.split(" ?")[0] for prompt in prompts[:1]}
    assert prompts[0].count(question) == 1
    assert prompts[-1].count(prompts[-1].split(" ?")[0]) == 2  # the problem once more, without the trace


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        ("eval=jsonl", 'the keys are {"problem", "answer", "other"}, expected {"problem", "generations"}'),
        (
            "eval=development",
            "eval.conditions.criticised.steps: eval=development has no traces with steps; give a file",
        ),
        ("eval.offset=9", "eval.offset=9:"),
    ],
)
def test_a_benchmark_without_traces_is_refused(
    evaluate: Run, sums: Path, traces: Path, capsys: pytest.CaptureFixture[str], problems: str, message: str
) -> None:
    more = {"eval=jsonl": [f"eval.path={sums}"], "eval.offset=9": ["eval=jsonl", f"eval.path={traces}"]}
    with pytest.raises(SystemExit) as ended:
        evaluate("protocol=critique", problems, *more.get(problems, []))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1


PROGRAM = """
import json, sys
for line in sys.stdin:
    row = json.loads(line)
    verdict = "unknown" if "?" in row["completion"] else "right" if row["answers"][0] in row["completion"] else "wrong"
    reason = "No subgoal {problem} " + row["answers"][0]
    print(json.dumps({"id": row["id"], "verdict": verdict, "reason": reason}), flush=True)
"""


def test_the_error_goes_back_after_wrong_answers_alone(
    evaluate: Run, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 and 1 are right at once, 2 is unknown; of 3, 4 and 5 a second try gets 3, and the error gets 3 and 4, too."""
    (tmp_path / "verifier.py").write_text(PROGRAM)
    prompts: list[str] = []

    def says(prompt: str, sample: int) -> str:
        prompts.append(prompt)
        number = int(prompt.split(" ")[0])
        is_told, is_again = "subgoal" in prompt, "once more" in prompt
        knows = number < 2 or (number == 3 and is_again) or (number == 4 and is_told)
        return f"It is {number + 4}." if knows else "?" if number == 2 else "It is 1000."

    scripted(monkeypatch, says)
    command = f"verifier.command=[{sys.executable},{tmp_path / 'verifier.py'}]"
    problems = ["eval=jsonl", f"eval.path={sums}", "eval.num_samples=1", "verifier=command", command]
    summary = evaluate("protocol=conjecture_correction", *problems)
    scores = {name: part["metrics"]["pass_at_1"]["value"] for name, part in summary["benchmarks"].items()}
    assert scores == {"first": pytest.approx(2 / 6), "again": 0.5, "told": pytest.approx(4 / 6)}
    assert summary["attempts"] == {"first": 1.0, "again": 1.5, "told": 1.5}
    assert len(prompts) == 6 + 3 + 3
    told = [prompt for prompt in prompts if "subgoal" in prompt]
    assert [int(prompt.split(" ")[0]) for prompt in told] == [3, 4, 5]
    assert "The error is:\nNo subgoal {problem} 7\nPlease" in told[0]  # as the verifier wrote it
    assert summary["comparisons"]["told"]["against"] == "again"
    assert summary["changes"]["told"]["wrong_to_right"]["value"] == pytest.approx(2 / 3)
    assert "right_to_wrong" not in summary["changes"]["told"]  # they were not asked
    assert "told, after first: wrong to right 66.7% (95 % CI" in (said := capsys.readouterr().out)
    assert "1.50 completions a sample so far" in said
