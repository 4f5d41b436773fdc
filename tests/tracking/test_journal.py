from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from redi_lab.errors import UserError
from redi_lab.tracking.journal import MetricsJournal, read_curves, read_records


def test_lines_are_strict_json_and_survive_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = MetricsJournal(path)
    journal.append({"train/loss": torch.tensor(0.5), "a": math.nan, "b": math.inf, "c": -math.inf}, step=3)

    def reject(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    line = json.loads(path.read_text(), parse_constant=reject)  # written before close: nothing is buffered
    assert line["step"] == 3
    assert (line["a"], line["b"], line["c"]) == ("NaN", "Infinity", "-Infinity")
    [record] = read_records(path)
    assert record.metrics["train/loss"] == 0.5
    assert math.isnan(record.metrics["a"])
    assert (record.metrics["b"], record.metrics["c"]) == (math.inf, -math.inf)
    assert record.end == path.stat().st_size
    journal.close()


@pytest.mark.parametrize("name", ["step", "time"])
def test_reserved_names_are_refused(tmp_path: Path, name: str) -> None:
    journal = MetricsJournal(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match=f"cannot be named '{name}'"):
        journal.append({name: 1.0}, step=0)
    journal.close()


def test_a_torn_line_is_not_read_and_cut_off_when_writing_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "time": 1.0, "loss": 2.0}\n{"step": 1, "ti')
    assert [record.step for record in read_records(path)] == [0]
    journal = MetricsJournal(path)
    assert "cut off an incomplete last line of 15 bytes" in caplog.text
    journal.append({"loss": 1.0}, step=1)
    journal.close()
    assert read_curves(path)["loss"].values == [2.0, 1.0]


def test_reading_continues_behind_a_record(tmp_path: Path) -> None:
    journal = MetricsJournal(tmp_path / "metrics.jsonl")
    for step in range(3):
        journal.append({"loss": step}, step)
    journal.close()
    first = next(iter(read_records(journal.path)))
    assert [record.step for record in read_records(journal.path, first.end)] == [1, 2]


def test_a_resumed_run_overwrites_the_steps_it_repeats(tmp_path: Path) -> None:
    journal = MetricsJournal(tmp_path / "metrics.jsonl")
    for step, value in ((0, 5.0), (1, 4.0), (2, 9.0), (1, 3.0), (2, 2.0)):
        journal.append({"loss": value}, step)
    journal.close()
    curve = read_curves(journal.path)["loss"]
    assert (curve.steps, curve.values) == ([0, 1, 2], [5.0, 3.0, 2.0])


def test_a_reopened_journal_is_not_written_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    first = {"loss": 0.1, "entropy": float("nan"), "tokens_per_second": 10.0}
    for number, speed in enumerate((10.0, 20.0)):  # the machine was faster the second time
        journal = MetricsJournal(path)
        for step in range(number, 3):
            journal.append(first | {"tokens_per_second": speed}, step)
        journal.append({"accuracy": float(number)}, 2 + number)  # says more of a known step, or something of a new one
        journal.sync()
        journal.close()
    records = [(record.step, sorted(record.metrics)) for record in read_records(path)]
    assert records == [(step, sorted(first)) for step in range(3)] + [(2, ["accuracy"]), (3, ["accuracy"])]
    assert not caplog.text


def test_a_repeated_step_that_differs_is_told_once_and_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    for shift in (0.0, 1e-9):
        journal = MetricsJournal(path)
        for step in range(3):
            journal.append({"loss": 0.5 + shift * step}, step)
        journal.close()
    assert read_curves(path)["loss"].values == [0.5, 0.500000001, 0.500000002]
    assert len(list(read_records(path))) == 5
    assert caplog.text.count("step 1 was repeated and is not the same: loss was 0.5, is 0.500000001") == 1
    assert "step 2" not in caplog.text


@pytest.mark.parametrize("line", ["[]", "{}", '{"step": 1, "time": 2, "loss": "high"}', "nonsense"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 0, "time": 1.0}}\n{line}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl: the line at byte 25 is not a metrics record"):
        read_curves(path)
