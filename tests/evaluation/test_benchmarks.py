from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from redi_lab.config.compose import load_config
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem, Keys, load_file_benchmark, load_hub_benchmark
from redi_lab.grading.extraction import gold_answer
from redi_lab.grading.grader import Grader, Verdict


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
    benchmark = load_file_benchmark(path)
    assert benchmark.name == "set"
    assert benchmark.problems == (EvalProblem("a", "1+1?", ("2", "2.0")), EvalProblem("2", "2+2?\u2028", ("4",)))


def test_line_separator_inside_a_string_is_no_new_row(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl"
    path.write_text('\n{"problem": "a\u2028b", "answer": "1"}\n\n', encoding="utf-8")
    assert [problem.problem for problem in load_file_benchmark(path, name="n").problems] == ["a\u2028b"]


def test_digest_follows_content_order_and_nothing_else() -> None:
    one, two = EvalProblem("a", "p", ("1",)), EvalProblem("b", "q", ("2",))
    digest = Benchmark.of("x", [one, two]).digest
    assert digest == Benchmark.of("y", [one, two]).digest
    assert len({digest, Benchmark.of("x", [two, one]).digest, Benchmark.of("x", [one]).digest}) == 3
    assert digest != Benchmark.of("x", [EvalProblem("a", "p", ("1", "one")), two]).digest


def test_limit_keeps_the_first_rows(tmp_path: Path) -> None:
    path = write(tmp_path, *({"problem": f"p{i}", "answer": "1"} for i in range(5)), {"broken": True})
    assert [problem.id for problem in load_file_benchmark(path, limit=2).problems] == ["1", "2"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "1"}, r"set\.jsonl:2:problem: .* got None"),
        ({"problem": " ", "answer": "1"}, r"set\.jsonl:2:problem"),
        ({"problem": "p"}, r"set\.jsonl:2:answer: .* got None"),
        ({"problem": "p", "answer": None}, r"set\.jsonl:2:answer"),
        ({"problem": "p", "answer": True}, r"set\.jsonl:2:answer"),
        ({"problem": "p", "answers": []}, r"set\.jsonl:2:answers"),
        ({"problem": "p", "answers": ["1", ""]}, r"set\.jsonl:2:answers"),
        ({"problem": "p", "answer": "1", "id": [1]}, r"set\.jsonl:2:id: .* got \[1\]"),
        ({"problem": "p", "answer": "1", "id": "first"}, r"rows 1 and 2 share the id 'first'"),
        ([1], r"set\.jsonl:2: expected a JSON object on each line, got \[1\]"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path, {"id": "first", "problem": "p", "answer": "1"}, row)
    with pytest.raises(UserError, match=message):
        load_file_benchmark(path)


CHOICES = Keys("Question", "Right", ("Wrong 1", "Wrong 2"))


def test_choices_stand_below_the_problem_in_an_order_of_their_own(tmp_path: Path) -> None:
    rows = [{"Question": f"{n}?\n", "Right": f"{n} ", "Wrong 1": f"-{n}", "Wrong 2": "none"} for n in range(1, 40)]
    problems = load_file_benchmark(write(tmp_path, *rows), keys=CHOICES).problems
    for row, one in zip(rows, problems, strict=True):
        text, choices = one.problem.split("\n\n")
        lettered = dict(line.split(") ") for line in choices.split("\n"))
        assert text == row["Question"].strip()
        assert sorted(lettered) == ["A", "B", "C"]
        assert lettered[one.answers[0]] == row["Right"].strip()
    assert {one.answers for one in problems} == {("A",), ("B",), ("C",)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Wrong 2": " "}, "set.jsonl:1:Wrong 2: must be a non-empty string"),
        ({"Wrong 2": "1"}, "two of its choices are the same"),
        ({"answers": ["1", "one"]}, "2 accepted answers beside wrong choices"),
    ],
)
def test_bad_choices_are_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    row = {"Question": "1?", "Right": "1", "Wrong 1": "2", "Wrong 2": "3"}
    with pytest.raises(UserError, match=said):
        load_file_benchmark(write(tmp_path, row | change), keys=CHOICES)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.jsonl: cannot be read: No such file or directory; give"):
        load_file_benchmark(tmp_path / "missing.jsonl")
    (tmp_path / "cut.jsonl").write_text('{"problem": "p"')
    with pytest.raises(UserError, match=r"cut\.jsonl:1: not valid JSON"):
        load_file_benchmark(tmp_path / "cut.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="benchmark empty: "):
        load_file_benchmark(tmp_path / "empty.jsonl")


def test_reads_a_list_of_rows_and_the_keys_of_its_source(tmp_path: Path) -> None:
    path = tmp_path / "minerva.json"
    path.write_text(
        json.dumps([{"question": "1+1?", "answer": ["2", "two\n"], "idx": 9}, {"question": "p", "gold": 3.0}])
    )
    benchmark = load_file_benchmark(path, keys=Keys("question", "gold"))
    assert benchmark.problems == (EvalProblem("1", "1+1?", ("2", "two\n")), EvalProblem("2", "p", ("3.0",)))
    with pytest.raises(UserError, match=r"minerva\.json: row 1:problem: .* got None"):
        load_file_benchmark(path)
    for content, message in (("{}", r"minerva\.json: .* got dict"), ("[1]", r"minerva\.json: row 1: .* got int")):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            load_file_benchmark(path)


REAL = {
    "eval/aime24": 30,
    "eval/amc23_40_qwen": 40,
    "eval/amc_83_official": 83,
    "eval/math500": 500,
    "eval/minerva_official_golds": 272,
    "eval/minerva_solution_golds": 272,
    "eval/olympiadbench": 675,
    "gsm8k/gsm8k_test": 1319,
}


@pytest.mark.parametrize(("file", "count"), REAL.items())
def test_every_gold_of_the_real_benchmarks_is_right_by_itself(
    shared_data: Callable[[str], Path], file: str, count: int
) -> None:
    benchmark = load_file_benchmark(shared_data(f"{file}.jsonl"))
    assert len(benchmark.problems) == count
    pairs = [(f"\\boxed{{{answer}}}", answer) for problem in benchmark.problems for answer in problem.answers]
    with Grader() as grader:
        grades = grader.grade_all(pairs)
    assert [pair[1] for pair, grade in zip(pairs, grades, strict=True) if grade.verdict is not Verdict.RIGHT] == []


# One row in the format of each source of conf/eval, with the answers that must be accepted.
SOURCES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "math500": ({"problem": "p", "solution": "s", "answer": "5", "subject": "a", "level": 2, "unique_id": "u"}, ("5",)),
    "aime24": ({"id": 60, "problem": "p", "solution": "s", "answer": "025", "url": "u", "year": "2024"}, ("025",)),
    "aime25": ({"problem": "p", "answer": "70", "id": "0"}, ("70",)),
    "amc23": ({"id": 0, "question": "p", "answer": "27", "url": "u"}, ("27",)),
    "amc23_paper": ({"id": 1, "problem": "p", "answer": 142.0, "url": "u"}, ("142.0",)),
    "minerva": ({"question": "p", "answer": "1.6"}, ("1.6",)),
    "minerva_paper": (
        {"problem": "p", "solution": "s", "type": "t", "idx": 1, "answer": ["9.6\n", "1"]},
        ("9.6\n", "1"),
    ),
    "olympiadbench": ({"id": 1606, "question": "p", "solution": ["s"], "final_answer": ["2"], "unit": None}, ("2",)),
    "olympiadbench_paper": ({"id": 1606, "problem": "p", "context": None, "answer": ["2"], "unit": None}, ("2",)),
    "gsm8k": ({"question": "p", "answer": "16 - 3 = <<16-3=13>>13\n#### 13"}, ("16 - 3 = <<16-3=13>>13\n#### 13",)),
    "gpqa_diamond": (
        {
            "Question": "p",
            "Correct Answer": "4 pm\n",
            **{f"Incorrect Answer {n}": f"{n} pm" for n in (1, 2, 3)},
            "x": 0,
        },
        ("A",),
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_shipped_source_is_read_in_its_own_format(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    row, accepted = SOURCES[name]
    settings = load_config("evaluate", ["checkpoint=.", f"eval={name}"], check_paths=False).eval
    asked: list[Any] = []

    def load(*arguments: Any, **options: Any) -> datasets.Dataset:
        asked.append((arguments, options))
        return datasets.Dataset.from_list([row])

    monkeypatch.setattr(datasets, "load_dataset", load)
    keys = Keys(settings.problem_key, settings.answer_key, tuple(settings.wrong_keys))
    split, revision, config = (settings.get(key) for key in ("split", "revision", "config"))
    [of_hub] = load_hub_benchmark(settings.path, split, keys, name, revision, config).problems
    is_url = "://" in settings.path
    expected = (("json",), {"data_files": settings.path, "split": "train"})
    assert asked == [expected if is_url else ((settings.path, config), {"split": split, "revision": revision})]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    [of_file] = load_file_benchmark(path, name, keys=keys).problems
    for problem in (of_hub, of_file):
        assert (problem.problem.split("\n\n")[0], problem.answers) == ("p", accepted)
    with Grader(num_workers=1) as grader:
        (made,) = grader.grade_all([(f"\\boxed{{{gold_answer(accepted[0])}}}", accepted)])
    assert made.verdict is Verdict.RIGHT


def test_a_url_is_read_as_a_list_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "minerva.json"
    path.write_text(json.dumps([{"problem": "p", "answer": ["9.6\n"]}, {"problem": "q", "answer": ["a", "b"]}]))
    benchmark = load_hub_benchmark(path.as_uri(), "test")
    assert (benchmark.name, [problem.answers for problem in benchmark.problems]) == (
        "minerva",
        [("9.6\n",), ("a", "b")],
    )


def test_a_missing_column_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    table = datasets.Dataset.from_dict({"question": ["p"], "gold": ["1"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **options: table)
    assert load_hub_benchmark("owner/name", "test", Keys("question", "gold")).name == "name"
    with pytest.raises(UserError, match=r"no column \['answer'\]; its columns are \['question', 'gold'\]"):
        load_hub_benchmark("owner/name", "test", Keys("question", "answer"))


def test_hub_failure_says_how_to_go_on_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"owner/name \(split test\).*no route to host.*eval\.path=FILE\.jsonl"):
        load_hub_benchmark("owner/name", "test")
