"""The second embedded task: what is trained on, what is kept for evaluation, and its tokenizer."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from redi_lab.data.chains import LENGTHS, LONG, ChainsSource, build_tokenizer
from redi_lab.data.teacher import WAIT, Teacher, describe_work
from redi_lab.data.traces import TraceCorpus

TEACHER = Teacher(slip_rate=0.05, haste_last=0.0, haste_before=0.0, correction_rate=0.5, errs_once=True)


def make(**changes: Any) -> ChainsSource:
    options: dict[str, Any] = {"num_problems": 800, "num_heldout": 150, "seed": 3, "teacher": TEACHER}
    return ChainsSource(**options | changes)


@pytest.fixture(scope="module")
def corpus() -> TraceCorpus:
    return make().load()


def true_answer(problem: str) -> str:
    """As a reader would work it out, without the code under test."""
    start = int(re.findall(r"so (\d+) \?", problem)[0])
    added, taken = (sum(map(int, re.findall(rf"{verb} (\d+)", problem))) for verb in ("add", "take"))
    return str(start + added - taken)


def test_the_first_domain_has_pairs_and_the_second_none(corpus: TraceCorpus) -> None:
    corpus.counts.check()
    taking = [row for row in corpus.demonstrations if " take " in row.problem]
    assert 0.15 < len(taking) / len(corpus.demonstrations) < 0.25
    assert not [pair for pair in corpus.pairs if "take" in pair.problem]
    assert 0.25 < len(corpus.pairs) / len(corpus.demonstrations) < 0.4
    for row in corpus.demonstrations:
        assert row.completion.endswith(f"\\boxed {{ {true_answer(row.problem)} }}")
    assert {pair.error for pair in corpus.pairs} == {"slip"}


def test_a_wrong_trace_has_one_wrong_column(corpus: TraceCorpus) -> None:
    for pair in corpus.pairs:
        work = re.findall(rf"([\d+]+)=(\d+)(?! {WAIT})(?!\d)", pair.rejected)
        assert sum(sum(map(int, columns.split("+"))) != int(value) for columns, value in work) == 1
        assert describe_work([pair.chosen], [pair.problem])["columns"] == 1.0


def test_lengths_and_corrections(corpus: TraceCorpus, tokenizer: Any) -> None:
    tokens = [len(tokenizer(row.completion)["input_ids"]) for row in corpus.demonstrations]
    assert 150 < sum(tokens) / len(tokens) < 200
    steps = Counter((row.problem.count(" , "), "take" in row.problem) for row in corpus.demonstrations)
    assert set(steps) == {(n, takes) for n in (*LENGTHS, LONG) for takes in (False, True)} - {(LONG, False)}
    assert 0.2 < sum(WAIT in row.completion for row in corpus.demonstrations) / len(corpus.demonstrations) < 0.5


def test_no_benchmark_shares_a_problem_with_training_or_another(corpus: TraceCorpus) -> None:
    source = make()
    parts = [corpus.held_out, source.taking(), source.longer()]
    further, pairs = source.further(50, 20, {row.problem for row in corpus.demonstrations})
    texts = [row.problem for part in (*parts, further) for row in part]
    texts += [row.problem for row in corpus.demonstrations]
    assert len(texts) == len({*texts}) == 150 + 2 * 600 + 50 + len(corpus.demonstrations)
    assert all(row.answers == (true_answer(row.problem),) for part in (*parts, further) for row in part)
    assert not [row for row in (*corpus.held_out, *further) if "take" in row.problem]
    assert not [pair for pair in pairs if "take" in pair.problem]
    assert all(row.problem.count(" take ") in LENGTHS for row in source.taking())
    assert {row.problem.count(" add ") for row in source.longer()} == {LONG}
    assert make(num_problems=0).load().held_out == corpus.held_out


@pytest.mark.parametrize("change", [{"seed": 4}, {"take_share": 0.1}, {"negatives": "nearest"}, {"teacher": Teacher()}])
def test_the_digest_knows_every_option(change: dict[str, Any]) -> None:
    assert make(**change).digest() != make().digest() == make().digest()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


def test_every_text_round_trips(corpus: TraceCorpus, tokenizer: Any) -> None:
    texts = [text for pair in corpus.pairs for text in (pair.problem, pair.chosen, pair.rejected)]
    assert tokenizer.batch_decode(tokenizer(texts)["input_ids"]) == texts
    for word in (" Wait", " sixth", " take", " so", " .\n", *"0123456789"):
        assert len(tokenizer(word)["input_ids"]) == 1, word
