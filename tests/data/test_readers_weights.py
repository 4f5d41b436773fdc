"""Weights, spans and steps of rows in every form; what is refused: tests/bad_input/rows.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from redi_lab.data.readers import TraceFileSource
from redi_lab.data.traces import Problem, Span, Step, TraceWeights, pass_rate

SPANS: list[dict[str, Any]] = [{"start": 0, "end": 2, "weight": -1}, {"start": 2, "end": 3, "weight": 0.5}]
STEPS: list[dict[str, Any]] = [{"start": 0, "end": 3, "right": False, "advantage": None}, {"start": 4, "end": 5}]
MARKS = (Span(0, 2, -1.0), Span(2, 3, 0.5)), (Step(0, 3, False), Step(4, 5))
OWN: dict[str, Any] = {"weight": 2, "spans": SPANS, "steps": STEPS}
ONE = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "1+1=3"}]
PLAIN = TraceWeights()
FORMS: dict[str, tuple[dict[str, Any], list[TraceWeights]]] = {
    "generations": (
        {
            "problem": "1+1?",
            "weight": 0.25,
            "generations": [{"text": "1+1=3", "correct": False, **OWN}, {"text": "2", "correct": True, "weight": None}],
        },
        [TraceWeights(2.0, *MARKS), TraceWeights(0.25)],
    ),
    "messages": ({"messages": ONE, "correct": False, **OWN}, [TraceWeights(2.0, *MARKS)]),
    "completions": (
        {"prompt": "1+1?", "completion": ONE[1:], "label": False, "steps": STEPS, "spans": None},
        [TraceWeights(steps=MARKS[1])],
    ),
    "pairs": (
        {"prompt": "1+1?", "chosen": "2", "rejected": "1+1=3", "rejected_spans": SPANS, "weight": 0},
        [TraceWeights(0.0), TraceWeights(0.0, MARKS[0])],
    ),
    "unweighted": ({"prompt": "1+1?", "completion": "2", "label": True}, [PLAIN]),
}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_weights(tmp_path: Path, form: str, ending: str) -> None:
    row, expected = FORMS[form]
    path = tmp_path / f"mine.{ending}"
    if ending == "jsonl":
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    (problem,) = TraceFileSource(str(path)).problems()
    assert isinstance(problem, Problem)
    assert [generation.weights for generation in problem.generations] == expected


def test_a_corpus_has_weights_and_pass_rates(tmp_path: Path) -> None:
    """Unknown traces count neither way; ready pairs say nothing of their problem; an equal demonstration comes once."""
    row = FORMS["generations"][0]
    path = tmp_path / "mine.jsonl"
    texts = [*row["generations"], {"text": "?", "correct": None}, {"text": "4", "correct": False}]
    path.write_text(json.dumps(row | {"generations": texts}) + "\n")
    corpus = TraceFileSource(str(path)).load()
    ((demonstration,), (pair,), (negative,)) = (corpus.demonstrations, corpus.pairs, corpus.negatives)
    assert demonstration.weights == pair.chosen_weights == TraceWeights(0.25)
    assert negative.weights == pair.rejected_weights == TraceWeights(2.0, *MARKS)
    assert pair.weight == (0.25 + 2.0) / 2
    assert [record.pass_rate for record in (demonstration, pair, negative)] == [1 / 3] * 3
    ready = FORMS["pairs"][0]
    path.write_text(json.dumps(ready | {"weight": 3}) + "\n" + json.dumps(ready | {"rejected": "1+1=4"}) + "\n")
    corpus = TraceFileSource(str(path)).load()
    assert [(pair.weight, pair.pass_rate) for pair in corpus.pairs] == [(3.0, None), (0.0, None)]
    assert [(d.weights.weight, d.pass_rate) for d in corpus.demonstrations] == [(3.0, None)]


def test_a_pass_rate_is_of_the_judged() -> None:
    assert [pass_rate(words) for words in ([], [None], [True], [False, None], [True, False, None])] == [
        None, None, 1.0, 0.0, 0.5
    ]  # fmt: skip


def test_columns_keep_weights() -> None:
    for side in ("", "chosen_"):
        for weights in (PLAIN, TraceWeights(2.0, *MARKS)):
            assert TraceWeights.of_columns(weights.as_columns(side), side) == weights
