from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from redi_lab.data.chats import Dialogue
from redi_lab.data.readers import TraceFileSource
from redi_lab.data.traces import Problem
from redi_lab.errors import UserError

GOOD: dict[str, object] = {
    "id": "a",
    "problem": "1+1?",
    "answer": "2",
    "generations": [{"text": "3", "correct": False}, {"text": "2", "correct": True}, {"text": "?", "correct": None}],
    "extra": {"is": "fine"},
}
PAIR: dict[str, object] = {"prompt": "1+1?", "chosen": "2", "rejected": "3"}


def write(folder: Path, *rows: dict[str, object]) -> str:
    file = folder / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def changed(row: dict[str, object], **changes: object) -> dict[str, object]:
    """The row with other values; None in `changes` stays None, ... removes the key."""
    return {key: value for key, value in (row | changes).items() if value is not ...}


def test_problems_with_generations(tmp_path: Path) -> None:
    corpus = TraceFileSource(write(tmp_path, GOOD, changed(GOOD, id=7, answer=None))).load()
    assert [(p.id, p.problem, p.chosen, p.rejected) for p in corpus.pairs] == [
        ("a", "1+1?", "2", "3"),
        ("7", "1+1?", "2", "3"),
    ]
    assert [d.completion for d in corpus.demonstrations] == ["2", "2"]
    assert corpus.source.endswith("mine.jsonl")


def test_parquet_gives_the_same_corpus(tmp_path: Path) -> None:
    rows = [GOOD, changed(GOOD, id="b", answer=None)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "mine.parquet")
    parquet = TraceFileSource(str(tmp_path / "mine.parquet")).load()
    jsonl = TraceFileSource(write(tmp_path, *rows)).load()
    assert (parquet.demonstrations, parquet.pairs) == (jsonl.demonstrations, jsonl.pairs)


def test_ready_pairs_share_demonstrations(tmp_path: Path) -> None:
    corpus = TraceFileSource(write(tmp_path, PAIR, changed(PAIR, rejected="4"), changed(PAIR, prompt="2?"))).load()
    assert [(p.id, p.chosen, p.rejected) for p in corpus.pairs] == [("0", "2", "3"), ("1", "2", "4"), ("2", "2", "3")]
    assert [(d.id, d.problem, d.completion) for d in corpus.demonstrations] == [("0", "1+1?", "2"), ("2", "2?", "2")]


USER = {"role": "user", "content": "1+1?"}


@pytest.mark.parametrize("prompt", ["1+1?", [USER]])
@pytest.mark.parametrize("before", [[], [USER]])
def test_single_turns_are_texts(tmp_path: Path, prompt: object, before: list[object]) -> None:
    chosen, rejected = ([*before, {"role": "assistant", "content": text}] for text in "23")
    row: dict[str, object] = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    assert TraceFileSource(write(tmp_path, row)).load().pairs == TraceFileSource(write(tmp_path, PAIR)).load().pairs


def test_a_prompt_may_be_a_conversation(tmp_path: Path) -> None:
    turns = [USER, {"role": "assistant", "content": "3"}, {"role": "user", "content": "Are you sure?"}]
    rows = (changed(PAIR, prompt=[*first, *turns]) for first in ([], [{"role": "system", "content": "Be brief."}]))
    plain, led = TraceFileSource(write(tmp_path, *rows)).load().pairs
    for pair, system in ((plain, None), (led, "Be brief.")):
        assert isinstance(pair.problem, Dialogue)
        assert (pair.problem.turns, pair.problem.system) == (("1+1?", "3", "Are you sure?"), system)


def test_pairs_with_answers_can_be_held_out(tmp_path: Path) -> None:
    path = write(tmp_path, *(changed(PAIR, prompt=f"{i}?", answer=str(i)) for i in range(4)))
    corpus = TraceFileSource(path, num_heldout=1).load()
    assert (len(corpus.pairs), corpus.counts.held_out) == (3, 1)
    with pytest.raises(UserError, match=r"mine\.jsonl: num_heldout=1 .* only 0 different problems have an answer"):
        TraceFileSource(write(tmp_path, PAIR), num_heldout=1).load()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (changed(GOOD, problem=..., question="1+1?"), r'without the key "problem"; the keys are {.*"question".*'),
        (changed(GOOD, generations=...), 'without the key "generations"'),
        (PAIR | {"id": "b"}, 'without the key "problem", "generations"'),
        (changed(GOOD, id=...), 'either all rows have the key "id" or none'),
        (changed(GOOD, id=""), 'key "id": expected a non-empty string or an integer, got ""'),
        (changed(GOOD, id=True), 'key "id": .*got true'),
        (changed(GOOD, id="a"), r'the id "a" is that of .*mine\.jsonl:1'),
        (changed(GOOD, problem=["1"]), r'key "problem": expected a string, got \["1"\]'),
        (changed(GOOD, problem=" "), r'key "problem": the string is empty \(row with id "b"\)'),
        (changed(GOOD, answer=2), 'key "answer": expected a string or null, got 2'),
        (changed(GOOD, generations=None), 'key "generations": expected a list, got null'),
        (changed(GOOD, generations=["2"]), r'key "generations"\[0\]: expected an object .*, got "2"'),
        (changed(GOOD, generations=[{"text": "2"}]), r'key "generations"\[0\]: expected an object .*"correct"'),
        (
            changed(GOOD, generations=[*[{"text": "2", "correct": True}] * 2, {"text": "2", "correct": "yes"}]),
            r'key "generations"\[2\].correct: expected true, false or null, got "yes"',
        ),
        (
            changed(GOOD, generations=[{"text": "2", "correct": 1}]),
            r'key "generations"\[0\].correct: expected true, false or null, got 1',
        ),
        (
            changed(GOOD, generations=[{"text": "", "correct": True}]),
            r'key "generations"\[0\].text: the string is empty \(row with id "b"\)',
        ),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    if row.get("id") == "a" and "is that of" not in message:
        row = row | {"id": "b"}
    with pytest.raises(UserError, match=rf"mine\.jsonl:2: {message}") as caught:
        TraceFileSource(write(tmp_path, GOOD, row)).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (changed(PAIR, chosen=""), r'key "chosen": the string is empty \(row with id "1"\)'),
        (changed(PAIR, rejected=None), 'key "rejected": expected a string, got null'),
        (GOOD, 'without the key "chosen", "rejected"'),
        (
            changed(PAIR, prompt=[USER, {"role": "assistant", "content": "2"}]),
            r'key "prompt": must have the roles \["user", "assistant", "user"\], got \["user", "assistant"\]',
        ),
        (
            changed(PAIR, prompt=[USER, {"role": "system", "content": "s"}, USER]),
            r'key "prompt": must have the roles \["user", "assistant", "user"\], got \["user", "system", "user"\]',
        ),
        (
            changed(PAIR, prompt=[USER, {"role": "assistant", "content": " "}, USER]),
            r'key "prompt"\[1\].content: the string is empty',
        ),
        (changed(PAIR, chosen=[]), r'key "chosen": must have the roles \["assistant"\], got \[\]'),
        (changed(PAIR, chosen=[USER, USER]), r'key "chosen": .* got \["user", "user"\]'),
        (
            changed(PAIR, prompt="2?", chosen=[USER, {"role": "assistant", "content": "2"}]),
            'key "chosen": the message of the user is not the prompt of this row',
        ),
        (changed(PAIR, chosen=[{"role": "assistant"}]), 'key "chosen": expected a string, got null'),
    ],
)
def test_a_bad_pair_is_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=rf"mine\.jsonl:2: {message}"):
        TraceFileSource(write(tmp_path, PAIR, row)).load()


def test_the_form_is_told_by_the_keys_of_the_first_row(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r'mine\.jsonl:1: the keys are {"question".* expected {"problem", "generations"}'
    ):
        TraceFileSource(write(tmp_path, {"question": "1+1?", "generations": []})).load()
    both = write(tmp_path, GOOD | PAIR)
    with pytest.raises(
        UserError, match=r"the keys fit several forms: set data\.source\.format to generations or pairs"
    ):
        TraceFileSource(both).load()
    assert len(TraceFileSource(both, format="pairs").load().pairs) == 1


def test_the_digest_follows_content_and_options(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    source = TraceFileSource(path)
    digests = {source.digest(), TraceFileSource(path, seed=1).digest(), TraceFileSource(path, num_heldout=1).digest()}
    assert len(digests) == 3
    assert source.digest() == TraceFileSource(path).digest()
    write(tmp_path, changed(GOOD, problem="other"))
    assert TraceFileSource(path).digest() not in digests


def test_real_gsm8k_solutions(shared_data: Callable[[str], Path]) -> None:
    """1,319 problems with four solutions each, of which 731 have right and wrong ones (counted by its publisher)."""
    path = str(shared_data("gsm8k/gsm8k_model_solutions.jsonl"))
    corpus = TraceFileSource(path).load()
    assert corpus.counts.rows_read == 1319
    assert (len(corpus.demonstrations), len(corpus.pairs)) == (887, 731)
    raw = {row["id"]: row for row in map(json.loads, Path(path).read_text(encoding="utf-8").split("\n")[:-1])}
    for pair in corpus.pairs:
        texts = {
            flag: [g["text"] for g in raw[pair.id]["generations"] if g["correct"] is flag] for flag in (True, False)
        }
        assert (pair.chosen, pair.rejected) == (texts[True][0], texts[False][0])
    held = TraceFileSource(path, num_heldout=100, seed=5).load()
    assert len(held.held_out) == 100
    assert not {h.problem for h in held.held_out} & {d.problem for d in held.demonstrations}


def test_real_math_traces(shared_data: Callable[[str], Path]) -> None:
    corpus = TraceFileSource(str(shared_data("traces/nemo_math_train_50.jsonl"))).load()
    assert (corpus.counts.rows_read, len(corpus.demonstrations), len(corpus.pairs)) == (25, 24, 12)


def chat(prompt: str, completion: str, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}], **more}


CHATS = [
    chat("1+1?", "3", correct=False, answer="2"),
    chat("2+2?", "4", correct=True),
    chat("1+1?", "2", correct=True),
    chat("2+2?", "?", correct=None),
]
COMPLETIONS: list[dict[str, object]] = [
    {"prompt": [USER], "completion": [{"role": "assistant", "content": "3"}], "label": False, "answer": "2"},
    {"prompt": "2+2?", "completion": "4", "label": True},
    {"prompt": "1+1?", "completion": [USER, {"role": "assistant", "content": "2"}], "label": True},
    {"prompt": "2+2?", "completion": "?", "label": None},
]


@pytest.mark.parametrize("rows", [CHATS, COMPLETIONS], ids=["messages", "completions"])
def test_completions_of_one_prompt_become_one_problem(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    source = TraceFileSource(write(tmp_path, *rows))
    first, second = source.problems()
    assert isinstance(first, Problem)
    assert (first.id, first.answer, [(g.text, g.correct) for g in first.generations]) == (
        "0",
        "2",
        [("3", False), ("2", True)],
    )
    assert isinstance(second, Problem)
    assert [g.correct for g in second.generations] == [True, None]
    corpus = source.load()
    assert [(p.problem, p.chosen, p.rejected) for p in corpus.pairs] == [("1+1?", "2", "3")]
    assert [(d.problem, d.completion) for d in corpus.demonstrations] == [("1+1?", "2"), ("2+2?", "4")]


def test_ids_of_completions_are_those_of_their_problems(tmp_path: Path) -> None:
    rows = [chat("1+1?", "2", correct=True, id="a"), chat("1+1?", "3", correct=False, id="a")]
    (problem,) = TraceFileSource(write(tmp_path, *rows)).problems()
    assert (problem.id, isinstance(problem, Problem) and len(problem.generations)) == ("a", 2)


def test_pairs_that_bring_their_prompt_need_no_other(tmp_path: Path) -> None:
    sides = {key: chat("1+1?", text)["messages"] for key, text in (("chosen", "2"), ("rejected", "3"))}
    corpus = TraceFileSource(write(tmp_path, sides)).load()
    assert [(p.problem, p.chosen, p.rejected) for p in corpus.pairs] == [("1+1?", "2", "3")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([CHATS[0], chat("2?", "2")], r'2: without the key "correct"'),
        ([CHATS[0], chat("2?", "2", correct="yes")], r'2: key "correct": expected true, false or null, got "yes"'),
        ([CHATS[0], chat("2?", " ", correct=True)], r'2: key "messages": the string is empty \(row with id "1"\)'),
        ([{"messages": "hello", "correct": True}], r'1: key "messages": expected a list, got "hello"'),
        (
            [{"messages": [{"role": "system", "content": "s"}, *CHATS[0]["messages"]], "correct": True}],  # type: ignore[misc]
            r'1: key "messages": must have the roles .* got \["system", "user", "assistant"\]',
        ),
        ([{"messages": [USER], "correct": True}], r'1: key "messages": .* got \["user"\]'),
        ([{"messages": [USER, "2"], "correct": True}], r'1: key "messages": .* got \["user", null\]'),
        (
            [{"messages": [USER, {"role": "assistant", "content": [{"text": "2"}]}], "correct": True}],
            r'1: key "messages": expected a string, got \[\{',
        ),
        ([CHATS[0], chat("1+1?", "2", correct=True, answer="3")], r'2: key "answer": "3", but an earlier row .* "2"'),
        (
            [chat("1?", "1", correct=True, id="a"), chat("2?", "2", correct=True, id="a")],
            r'2: the id "a" is that of another prompt',
        ),
        ([COMPLETIONS[0], COMPLETIONS[1] | {"label": 1}], r'2: key "label": expected true, false or null, got 1'),
        ([{"chosen": "2", "rejected": "3"}], r'1: without the key "prompt": add it'),
        (
            [{"chosen": CHATS[0]["messages"], "rejected": CHATS[1]["messages"]}],
            r'1: key "rejected": the message of the user is not the prompt of this row',
        ),
        ([{"messages": []}], r'1: the keys are {"messages"}, expected .* or {"messages", "correct"} or'),
        ([COMPLETIONS[1] | PAIR], r"1: the keys fit several forms: set data\.source\.format to pairs or completions"),
    ],
)
def test_a_bad_chat_is_named(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    with pytest.raises(UserError, match=rf"mine\.jsonl:{message}"):
        TraceFileSource(write(tmp_path, *rows)).load()


def test_the_kind_of_error_is_read_from_every_form(tmp_path: Path) -> None:
    generations = [{"text": "3", "correct": False, "error": "slip"}, {"text": "2", "correct": True}]
    one = {"prompt": "1+1?", "completion": "3", "label": False, "error": "slip"}
    rows: list[list[dict[str, object]]] = [
        [changed(GOOD, generations=generations)],
        [PAIR | {"error": "slip"}],
        [one, one | {"completion": "2", "label": True, "error": None}],
    ]
    for form in rows:
        (pair,) = TraceFileSource(write(tmp_path, *form)).load().pairs
        assert (pair.rejected, pair.error) == ("3", "slip")
    (pair,) = TraceFileSource(write(tmp_path, PAIR | {"error": 7})).load().pairs
    assert pair.error is None


def test_the_setting_chooses_among_wrong_traces(tmp_path: Path) -> None:
    texts = [("one two three", True), ("six", False), ("one two thee", False)]
    generations = [{"text": text, "correct": correct} for text, correct in texts]
    path = write(tmp_path, changed(GOOD, generations=generations))
    sources = [TraceFileSource(path), TraceFileSource(path, negatives="nearest")]
    assert [source.load().pairs[0].rejected for source in sources] == ["six", "one two thee"]
    assert sources[0].digest() != sources[1].digest()
