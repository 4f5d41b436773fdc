"""OpenR1-Math-220k: nulls where a verifier was not asked, and no confusion with OpenR1-Math-Raw."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from redi_lab.data.openr1_220k import OpenR1Math220kSource
from redi_lab.data.traces import Dropped, Problem
from redi_lab.errors import UserError


def raw_row(**changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "problem": "1+1?",
        "answer": "2",
        "source": "olympiads",
        "uuid": "u-1",
        "generations": ["<think>a</think> 2", "<think>b</think> 3"],
        "correctness_math_verify": [True, False],
        "correctness_llama": None,
        "finish_reasons": None,
    }
    return row | changes


def verdicts(**changes: object) -> list[bool | None]:
    problem = OpenR1Math220kSource().problem(raw_row(**changes), 5)
    assert isinstance(problem, Problem)
    return [generation.correct for generation in problem.generations]


def reason(**changes: object) -> str:
    row = OpenR1Math220kSource(excluded_sources=("cn_k12",)).problem(raw_row(**changes), 5)
    assert isinstance(row, Dropped)
    assert row.num_generations == (len(changes["generations"]) if "generations" in changes else 2)  # type: ignore[arg-type]
    return row.reason


def test_a_verifier_that_was_not_asked_has_no_say() -> None:
    assert verdicts() == [True, False]
    assert verdicts(correctness_llama=[True, True]) == [True, None]
    assert verdicts(correctness_llama=[None, False]) == [None, False]
    assert verdicts(correctness_math_verify=[False, False], correctness_llama=[True, False]) == [None, False]


def test_a_cut_trace_is_no_negative() -> None:
    assert verdicts(finish_reasons=["stop", "length"]) == [True, None]
    assert verdicts(generations=["<think>a</think> 2", "<think>b"]) == [True, None]


def test_rows_that_are_refused() -> None:
    assert reason(source="cn_k12") == "source cn_k12"
    assert reason(problem=" ") == "no problem"
    assert reason(generations=[]) == "no generations"
    assert reason(correctness_math_verify=[True]) == "verdict lists do not match the generations"
    assert reason(correctness_math_verify=None) == "verdict lists do not match the generations"
    assert reason(correctness_llama=[True]) == "verdict lists do not match the generations"
    assert reason(generations=["a", ""]) == "empty generation"


def test_ids_are_uuids_where_there_are_any() -> None:
    assert OpenR1Math220kSource().problem(raw_row(), 5).id == "u-1"
    assert OpenR1Math220kSource().problem(raw_row(uuid=None), 5).id == "5"


def test_every_synthetic_row_is_read(shared_data: Callable[[str], Path]) -> None:
    source = OpenR1Math220kSource(str(shared_data("openr1/SYNTHETIC_openr1_math_220k.jsonl")))
    corpus = source.load()
    assert corpus.counts.rows_read == 20
    assert corpus.demonstrations[0].id == "synthetic-0001"
    assert len(list(source.problems())) == 20
    assert source.digest() != OpenR1Math220kSource(source.path, num_heldout=1).digest()
    assert corpus.pairs


def test_the_other_data_set_is_told_apart(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a row of OpenR1-Math-220k: .*columns of OpenR1-Math-Raw"):
        OpenR1Math220kSource(str(shared_data("openr1/SYNTHETIC_openr1_math_raw.jsonl"))).load()
    other = tmp_path / "x.jsonl"
    other.write_text(json.dumps({"problem": "1"}) + "\n")
    with pytest.raises(UserError, match="without source, uuid, generations"):
        list(OpenR1Math220kSource(str(other)).problems())
