"""The study of critiques: its rows, from the embedded task and from marks by people."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from experiments.critique.run import as_generation, champ_rows, critique_rows, table
from redi_lab.data.marked import read_marked
from redi_lab.data.readers import TraceFileSource
from redi_lab.data.teacher import ChainProblem


def test_rows_teach_the_step_and_a_right_trace(tmp_path: Path) -> None:
    rows = critique_rows(6)
    assert len(rows) == 12
    for number, (first, corrected) in enumerate(zip(rows[::2], rows[1::2], strict=True)):
        problem, *lines, asked = first["prompt"].split("\n")
        assert (asked, len(corrected["prompt"])) == (" clearly ?", 3)
        assert (first["completion"] == "\\boxed { 0 }") == bool(number % 2)
        assert corrected["completion"].endswith(f"\\boxed {{ {ChainProblem.read(problem).answer} }}")
        assert (corrected["completion"].split("\n") == lines) == bool(number % 2)
        assert corrected["prompt"][2]["content"] == problem
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(TraceFileSource(str(path)).load().demonstrations) == 12


def test_steps_are_lines_and_the_marked_one_is_wrong() -> None:
    steps = as_generation("a b\n\n c\nd", 6)["steps"]
    assert [(step["start"], step["end"], step["right"]) for step in steps] == [
        (0, 3, True),
        (6, 7, False),
        (8, 9, None),
    ]
    assert [step["right"] for step in as_generation("a\nb", None)["steps"]] == [True, True]


def test_marks_by_people(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    """Each marked character lies in the step that is called wrong."""
    champ = shared_data("champ")
    rows = champ_rows(champ)
    path = tmp_path / "champ.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    traces = list(read_marked(str(path)))
    assert len(traces) == 2 * len(rows) > 200
    marked = [json.loads(line) for line in (champ / "first_wrong_steps.jsonl").read_text().splitlines()]
    firsts = {row["id"]: row for row in reversed(marked) if row["start"] is not None}
    for wrong, right in zip(traces[::2], traces[1::2], strict=True):
        row = firsts[wrong.id.rsplit("/", 1)[0]]
        assert row["first_wrong_step"].split("\n")[0].strip() in wrong.steps[wrong.first_wrong - 1]
        assert (wrong.problem, right.first_wrong) == (row["problem"], 0)


def test_the_table_has_a_column_for_each_run() -> None:
    lines = table({"a": {"gain": [0.5, 0.25, 0.75], "problems": 3}, "b": {"problems": 4}})
    assert lines == ["| | a | b |", "|---|---|---|", "| gain | 0.500 (0.250 to 0.750) | – |", "| problems | 3 | 4 |"]
