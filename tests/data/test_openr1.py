from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from redi_lab.data.openr1 import OpenR1Source
from redi_lab.data.selection import shuffled
from redi_lab.data.traces import Demonstration, Dropped, Problem, SelectionCounts, TraceCorpus
from redi_lab.errors import UserError


def raw_row(**changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "problem": "1+1?",
        "answer": "2",
        "problem_is_valid": "Yes",
        "source": "olympiads",
        "generations": ["right", "wrong"],
        "correctness": {"llama_verification": [True, False], "math_verify_reparsed_answer": [True, True]},
    }
    return row | changes


def outcome(**changes: object) -> Problem | Dropped:
    return OpenR1Source().problem(raw_row(**changes), 5)


def reason(**changes: object) -> str:
    row = outcome(**changes)
    assert isinstance(row, Dropped)
    return row.reason


def write(folder: Path, rows: list[dict[str, object]]) -> str:
    file = folder / "raw.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def load_jsonl(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def test_every_row_of_the_published_rules(shared_data: Callable[[str], Path]) -> None:
    """20 rows that a second implementation of the rules has selected, one by one."""
    path = shared_data("openr1/SYNTHETIC_openr1_math_raw.jsonl")
    rows = load_jsonl(path)
    expected_rows = load_jsonl(shared_data("openr1/SYNTHETIC_openr1_math_raw_expected.jsonl"))
    corpus = OpenR1Source(str(path)).load()
    demonstrations = {d.id: d for d in corpus.demonstrations}
    pairs = {p.id: p for p in corpus.pairs}
    assert len(rows) == len(expected_rows) == corpus.counts.rows_read == 20
    for index, (row, expected) in enumerate(zip(rows, expected_rows, strict=True)):
        parsed = OpenR1Source().problem(row, index)
        assert (parsed.reason if isinstance(parsed, Dropped) else None) == expected["reason"], expected
        texts = row["generations"]
        assert isinstance(texts, list)
        right, pair = expected["sft_landmv_idx"], expected["pair_landmv"]
        demonstration = demonstrations.pop(str(index), None)
        assert (demonstration and demonstration.completion) == (None if right is None else texts[int(str(right))])
        chosen_and_rejected = pairs.pop(str(index), None)
        if pair is None:
            assert chosen_and_rejected is None
        else:
            assert isinstance(pair, list)
            assert chosen_and_rejected is not None
            assert [chosen_and_rejected.chosen, chosen_and_rejected.rejected] == [texts[i] for i in pair]
    assert not demonstrations
    assert not pairs
    reasons = [str(row["reason"]) for row in expected_rows if row["reason"]]
    assert corpus.counts.dropped == {name: reasons.count(name) for name in reasons} | {"no correct generation": 3}


def test_parquet_and_saved_folders_give_the_same(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    path = shared_data("openr1/SYNTHETIC_openr1_math_raw.jsonl")
    table = pyarrow.Table.from_pylist(load_jsonl(path))
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet")
    datasets.Dataset(table).save_to_disk(tmp_path / "saved")
    jsonl, parquet, saved = (OpenR1Source(str(p)).load() for p in (path, tmp_path, tmp_path / "saved"))
    assert jsonl.demonstrations == parquet.demonstrations == saved.demonstrations
    assert jsonl.pairs == parquet.pairs == saved.pairs
    assert jsonl.counts == parquet.counts == saved.counts


def test_the_order_is_that_of_the_datasets_shuffle(tmp_path: Path) -> None:
    """Also with rows that are dropped in between: the permutation is over all rows read."""
    rows = [raw_row(problem=f"p{i}", source="cn_k12" if i % 7 == 0 else "amc") for i in range(100)]
    expected = datasets.Dataset.from_list(rows).shuffle(seed=42)["problem"]
    corpus = OpenR1Source(write(tmp_path, rows)).load()
    kept = [text for text in expected if int(text[1:]) % 7]
    assert [d.problem for d in corpus.demonstrations] == kept
    assert [p.problem for p in corpus.pairs] == kept
    assert [d.id for d in corpus.demonstrations] == [text[1:] for text in kept]


def test_shuffled_is_the_numpy_permutation() -> None:
    records = tuple(Demonstration(str(i), "p", "c") for i in range(30))
    counts = SelectionCounts(30, {}, 30, 0, {"none": 30}, 0)
    ids = [int(d.id) for d in shuffled(TraceCorpus("s", records, (), (), counts), 7).demonstrations]
    assert ids == np.random.default_rng(7).permutation(30).tolist()


@pytest.mark.parametrize("value", [None, "No", "Incomplete", "", True])
def test_problems_must_be_valid(value: object) -> None:
    assert reason(problem_is_valid=value) == "problem_is_valid"


def test_a_null_source_is_kept() -> None:
    assert isinstance(outcome(source=None), Problem)


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_problem_is_dropped(value: object) -> None:
    assert reason(problem=value) == "no problem"


@pytest.mark.parametrize("value", [None, []])
def test_missing_generations_are_dropped(value: object) -> None:
    assert reason(generations=value) == "no generations"


@pytest.mark.parametrize("name", ["llama_verification", "math_verify_reparsed_answer"])
@pytest.mark.parametrize("value", [None, [True], [True] * 3, "yes", ["yes", "no"], ...])
def test_verdict_lists_must_match(name: str, value: object) -> None:
    correctness = {"llama_verification": [True, False], "math_verify_reparsed_answer": [True, False], name: value}
    if value is ...:
        del correctness[name]
    assert reason(correctness=correctness) == "verdict lists do not match the generations"
    assert reason(correctness=None) == "verdict lists do not match the generations"


@pytest.mark.parametrize("value", [None, "", "\n"])
def test_an_empty_generation_drops_its_row(value: object) -> None:
    assert reason(generations=["right", value]) == "empty generation"


@pytest.mark.parametrize(
    ("llama", "reparsed", "correct"),
    [(True, True, True), (True, False, False), (False, True, False), (None, True, False), (None, None, False)],
)
def test_both_verifiers_must_agree(llama: bool | None, reparsed: bool | None, correct: bool) -> None:
    correctness = {"llama_verification": [llama], "math_verify_reparsed_answer": [reparsed]}
    row = outcome(generations=["x"], correctness=correctness)
    assert isinstance(row, Problem)
    assert row.generations[0].correct is correct


@pytest.mark.parametrize("answer", ["proof", "NotFound", "", None])
def test_answers_that_cannot_be_graded_are_not_held_out(tmp_path: Path, answer: str | None) -> None:
    rows = [raw_row(problem="a", answer=answer), raw_row(problem="b"), raw_row(problem="c", source="cn_k12")]
    corpus = OpenR1Source(write(tmp_path, rows), num_heldout=1).load()
    assert [(h.problem, h.answers) for h in corpus.held_out] == [("b", ("2",))]
    assert [d.problem for d in corpus.demonstrations] == ["a"]


def test_excluded_sources_are_an_option(tmp_path: Path) -> None:
    path = write(tmp_path, [raw_row(source="cn_k12"), raw_row(source="amc")])
    source = OpenR1Source(path, excluded_sources=["amc"])
    assert source.load().counts.dropped == {"source amc": 1}
    assert source.digest() != OpenR1Source(path).digest()


def test_other_columns_are_refused(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("openr1/SYNTHETIC_openr1_math_220k.jsonl")
    with pytest.raises(UserError, match=r":1: not a row of OpenR1-Math-Raw: without .*columns of OpenR1-Math-220k"):
        OpenR1Source(str(path)).load()


def test_progress_is_reported(tmp_path: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    path = write(tmp_path, [raw_row(problem=str(i)) for i in range(3)])
    OpenR1Source(path, num_heldout=1).load(lambda *call: calls.append(call))
    assert calls == [(3, None)]  # held-out problems are chosen in the same pass
