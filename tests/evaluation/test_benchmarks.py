from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem, load_hub_benchmark, load_jsonl_benchmark


def write(folder: Path, *rows: object) -> Path:
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_reads_answers_numbers_and_rows_without_id(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"id": "a", "problem": "1+1?", "answer": "2", "answers": ["2", "2.0"]},
        {"problem": "2+2?\u2028", "answer": 4},
    )
    benchmark = load_jsonl_benchmark(path)
    assert benchmark.name == "set"
    assert benchmark.problems == (EvalProblem("a", "1+1?", ("2", "2.0")), EvalProblem("2", "2+2?\u2028", ("4",)))


def test_line_separator_inside_a_string_is_no_new_row(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    path.write_text('\n{"problem": "a\u2028b", "answer": "1"}\n\n', encoding="utf-8")
    assert [problem.problem for problem in load_jsonl_benchmark(path, name="n").problems] == ["a\u2028b"]


def test_digest_follows_content_order_and_nothing_else() -> None:
    one, two = EvalProblem("a", "p", ("1",)), EvalProblem("b", "q", ("2",))
    digest = Benchmark.of("x", [one, two]).digest
    assert digest == Benchmark.of("y", [one, two]).digest
    assert len({digest, Benchmark.of("x", [two, one]).digest, Benchmark.of("x", [one]).digest}) == 3
    assert digest != Benchmark.of("x", [EvalProblem("a", "p", ("1", "one")), two]).digest


def test_limit_keeps_the_first_rows(tmp_path: Path) -> None:
    path = write(tmp_path, *({"problem": f"p{i}", "answer": "1"} for i in range(5)), {"broken": True})
    assert [problem.id for problem in load_jsonl_benchmark(path, limit=2).problems] == ["1", "2"]
    with pytest.raises(UserError, match=r"eval\.limit must be at least 1, got 0"):
        load_jsonl_benchmark(path, limit=0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "1"}, r"set\.jsonl:2:problem: must be a non-empty text, got None"),
        ({"problem": " ", "answer": "1"}, r"set\.jsonl:2:problem"),
        ({"problem": "p"}, r"set\.jsonl:2:answer: must be a non-empty text or number"),
        ({"problem": "p", "answer": None}, r"set\.jsonl:2:answer"),
        ({"problem": "p", "answer": True}, r"set\.jsonl:2:answer"),
        ({"problem": "p", "answers": []}, r"set\.jsonl:2:answers"),
        ({"problem": "p", "answers": ["1", ""]}, r"set\.jsonl:2:answers"),
        ({"problem": "p", "answer": "1", "id": [1]}, r"set\.jsonl:2:id: must be a text or a whole number"),
        ({"problem": "p", "answer": "1", "id": "first"}, r"rows 1 and 2 share the id 'first'"),
        ([1], r"set\.jsonl:2: a row must be a JSON object, got list"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path, {"id": "first", "problem": "p", "answer": "1"}, row)
    with pytest.raises(UserError, match=message):
        load_jsonl_benchmark(path)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.jsonl cannot be read.*eval\.path"):
        load_jsonl_benchmark(tmp_path / "missing.jsonl")
    (tmp_path / "cut.jsonl").write_text('{"problem": "p"')
    with pytest.raises(UserError, match=r"cut\.jsonl:1: not valid JSON"):
        load_jsonl_benchmark(tmp_path / "cut.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="benchmark empty: it holds no problem"):
        load_jsonl_benchmark(tmp_path / "empty.jsonl")


@pytest.mark.parametrize(
    ("name", "count"), [("aime24", 30), ("amc_83_official", 83), ("math500", 500), ("olympiadbench", 675)]
)
def test_reads_the_real_benchmarks(shared_data: Callable[[str], Path], name: str, count: int) -> None:
    benchmark = load_jsonl_benchmark(shared_data(f"eval/{name}.jsonl"))
    assert (benchmark.name, len(benchmark.problems)) == (name, count)


def test_reads_a_hub_table(monkeypatch: pytest.MonkeyPatch) -> None:
    table = datasets.Dataset.from_dict({"question": ["p", "q"], "gold": ["1", "2"]})
    asked: list[Any] = []

    def load(*arguments: Any, **options: Any) -> datasets.Dataset:
        asked.append((arguments, options))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load)
    benchmark = load_hub_benchmark("owner/name", "test", "question", "gold", revision="abc", config="main")
    assert asked == [(("owner/name", "main"), {"split": "test", "revision": "abc"})]
    assert (benchmark.name, [problem.answers for problem in benchmark.problems]) == ("name", [("1",), ("2",)])
    with pytest.raises(UserError, match=r"no column \['answer'\]; its columns are \['question', 'gold'\]"):
        load_hub_benchmark("owner/name", "test", "question", "answer")


def test_hub_failure_says_how_to_go_on_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"owner/name \(split test\).*no route to host.*eval\.path=FILE\.jsonl"):
        load_hub_benchmark("owner/name", "test", "question", "answer")
