from __future__ import annotations

import json
from pathlib import Path

import pytest

from redi_lab.cli import main
from redi_lab.errors import UserError
from redi_lab.grading.grader import Grader
from redi_lab.verbs.grade import check_rows, grade_file

ROWS: list[dict[str, object]] = [
    {"prediction": r"so \boxed{\frac12}", "gold": "0.5", "id": "a"},
    {"prediction": "4", "gold": [3, 4]},
    {"prediction": r"\boxed{5}", "gold": 6.5},
    {"prediction": "I cannot say what it is", "gold": "7"},
]


def write(folder: Path, rows: list[dict[str, object]]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_every_row_keeps_its_keys_and_gets_a_verdict(tmp_path: Path) -> None:
    destination = tmp_path / "g.jsonl"
    with Grader() as grader:
        tally = grade_file(write(tmp_path, ROWS), destination, grader, prediction="prediction", gold="gold")
    graded = [json.loads(line) for line in destination.read_text(encoding="utf-8").splitlines()]
    assert [{k: row[k] for k in row if k not in ("verdict", "reason")} for row in graded] == ROWS
    assert [row["verdict"] for row in graded] == ["right", "right", "wrong", "unknown"]
    assert graded[3]["reason"] == "no final answer"
    assert tally == {
        ("right", "same answer"): 2,
        ("wrong", "different answer"): 1,
        ("unknown", "no final answer"): 1,
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.jsonl", "rows.jsonl"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prediction": "1"}, r"rows.jsonl:2:gold: missing; the row has prediction \(name it by gold=KEY\)"),
        ({"gold": "1"}, r"rows.jsonl:2:prediction: missing"),
        ({"prediction": 1, "gold": "1"}, "rows.jsonl:2:prediction: expected a string, got the number 1"),
        (
            {"prediction": "1", "gold": None},
            "rows.jsonl:2:gold: expected a string, a number or a list of them, got null",
        ),
        ({"prediction": "1", "gold": []}, "rows.jsonl:2:gold: the list is empty"),
        ({"prediction": "1", "gold": " "}, "rows.jsonl:2:gold: is empty"),
        ({"prediction": "1", "gold": [True]}, "rows.jsonl:2:gold: expected .* got true or false"),
        ({"prediction": "1", "gold": "1", "verdict": "right"}, "rows.jsonl:2:verdict: is there already"),
    ],
)
def test_bad_rows_are_refused_with_their_place(row: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        check_rows(write(tmp_path, [ROWS[0], row]), prediction="prediction", gold="gold")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no rows"):
        check_rows(write(tmp_path, []), prediction="prediction", gold="gold")


def test_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, object]] = [{"output": r"\boxed{7}", "answer": "7"}, {"output": r"\boxed{8}", "answer": "7"}]
    file = write(tmp_path, rows)
    main(["grade", str(file), "prediction=output", "gold=answer", f"paths.output_dir={tmp_path / 'out'}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["Graded:     2 rows: 1 right, 1 wrong, 0 unknown", f"Results:    {tmp_path / 'out'}"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["verdicts"] == {"right": 1, "wrong": 1, "unknown": 0}
    assert (summary["num_rows"], sum(summary["reasons"].values())) == (2, 2)
    assert summary["grader"]["timeout_seconds"] == 10.0
    assert len((tmp_path / "out" / "graded.jsonl").read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize(
    "arguments", [[], ["a.jsonl", "b.jsonl"], ["a.jsonl", "workers=0"], ["a.jsonl", "answers=first"], ["absent.jsonl"]]
)
def test_verb_refuses_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["grade", *arguments, f"paths.output_dir={tmp_path / 'out'}"])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("answers", "verdict"), [("boxed", "unknown"), ("last_number", "right")])
def test_verb_takes_where_the_answer_stands(answers: str, verdict: str, tmp_path: Path) -> None:
    file = write(tmp_path, [{"prediction": "She has 4 + 5 = 9 left", "gold": "9"}])
    main(["grade", str(file), f"answers={answers}", f"paths.output_dir={tmp_path / 'out'}"])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["verdicts"][verdict] == 1
    assert summary["grader"]["answers"] == answers
