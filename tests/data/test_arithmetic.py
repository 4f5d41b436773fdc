"""The embedded task: its problems, the teacher's habits, and a tokenizer that round-trips every trace."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, Qwen2Config

from redi_lab.data.arithmetic import ArithmeticSource, build_tokenizer
from redi_lab.data.teacher import HASTE, ChainProblem, Teacher, describe_work
from redi_lab.data.traces import TraceCorpus

ALWAYS_CAREFUL = Teacher(slip_rate=0.0, haste_last=0.0, haste_before=0.0)
ALWAYS_HASTY = Teacher(slip_rate=0.0, haste_last=1.0, haste_before=1.0, haste_slip_rate=0.0)


@pytest.fixture(scope="module")
def corpus() -> TraceCorpus:
    return ArithmeticSource(num_problems=3000, num_heldout=300, seed=0).load()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


def boxed(trace: str) -> int:
    found = re.fullmatch(r"\\boxed \{ (\d+) \}", trace.splitlines()[-1])
    assert found is not None, trace
    return int(found[1])


def true_answer(problem: str) -> int:
    """The result of the prompt as a reader would work it out, without the code under test."""
    start, *steps = problem.removesuffix(" ?").split(" , ")
    return int(start) + sum(int(step.split(" add ")[1]) for step in steps)


def column_sums(total: int, operand: int) -> list[str]:
    """The lines of work of a written addition, e.g. ``["6+2=8", "7+7=14"]`` for 76 + 72."""
    top, bottom = str(total)[::-1], str(operand)[::-1]
    work: list[str] = []
    carry = 0
    for column in range(len(top)):
        parts = [int(digits[column]) for digits in (top, bottom) if column < len(digits)] + [1] * carry
        if len(parts) == 1:
            break
        work.append("+".join(map(str, parts)) + f"={sum(parts)}")
        carry = sum(parts) // 10
    return work


def is_hasty(trace: str) -> bool:
    """Whether the last step was done in the head."""
    return HASTE in trace.splitlines()[-2]


def test_the_default_corpus_is_the_one_of_the_stored_studies() -> None:
    """A change of how the teacher draws would change the demo and every study of this task without a word."""
    corpus = ArithmeticSource(seed=42).load()
    problems, pairs = ArithmeticSource(seed=42).further(50, 30, ())
    texts = [
        *(f"{row.id} {row.problem} {row.completion} {row.pass_rate}" for row in corpus.demonstrations),
        *(f"{row.id} {row.chosen} {row.rejected} {row.pass_rate}" for row in (*corpus.pairs, *pairs)),
        *(f"{row.id} {row.problem} {row.answers}" for row in (*corpus.held_out, *problems)),
    ]
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] == "3b6fe1e05c2ebeb2"
    assert Counter(pair.error for pair in corpus.pairs) == {"haste": 1317, "slip": 818}


def test_one_seed_makes_one_corpus(corpus: TraceCorpus) -> None:
    same = ArithmeticSource(num_problems=3000, num_heldout=300, seed=0)
    other = ArithmeticSource(num_problems=3000, num_heldout=300, seed=1)
    assert same.load() == corpus
    assert same.digest() != other.digest()
    assert other.load().demonstrations != corpus.demonstrations


@pytest.mark.parametrize(
    "change",
    [{"num_problems": 9}, {"num_heldout": 9}, {"seed": 9}, {"max_tries": 9}, {"teacher": Teacher(slip_rate=0.9)}],
)
def test_the_digest_knows_every_option(change: dict[str, Any]) -> None:
    assert ArithmeticSource(**change).digest() != ArithmeticSource().digest()


def test_problems_are_distinct_and_held_out_ones_never_trained_on(corpus: TraceCorpus) -> None:
    trained = [row.problem for row in corpus.demonstrations]
    held_out = [row.problem for row in corpus.held_out]
    assert len(set(trained + held_out)) == len(trained) + len(held_out)
    assert len(held_out) == 300
    assert {row.problem for row in corpus.pairs} <= set(trained)
    for row in corpus.held_out:
        assert row.answers == (str(true_answer(row.problem)),)


def test_counts_add_up(corpus: TraceCorpus) -> None:
    corpus.counts.check()
    assert corpus.counts.rows_read == 3300
    assert (corpus.counts.demonstrations, corpus.counts.pairs) == (len(corpus.demonstrations), len(corpus.pairs))


def test_hopeless_problems_are_counted() -> None:
    """A teacher who always errs by one in the head can never end right on a single addition."""
    corpus = ArithmeticSource(50, 5, teacher=Teacher(haste_last=1.0, haste_before=0.0, haste_slip_rate=1.0)).load()
    corpus.counts.check()
    assert corpus.counts.dropped["no correct generation"] == 50 - len(corpus.demonstrations) > 0


def test_chosen_traces_end_right_and_rejected_ones_wrong(corpus: TraceCorpus) -> None:
    for row in corpus.demonstrations:
        assert boxed(row.completion) == true_answer(row.problem)
    chosen = {row.id: row.completion for row in corpus.demonstrations}
    assert corpus.pairs
    for pair in corpus.pairs:
        assert pair.chosen == chosen[pair.id]
        assert boxed(pair.rejected) != true_answer(pair.problem)


def test_the_example_of_the_module_docstring() -> None:
    problem = ChainProblem(76, (72, 68))
    assert (problem.text, problem.answer) == ("76 , first add 72 , second add 68 ?", 216)
    trace, answer, _ = ALWAYS_CAREFUL.solve(problem, random.Random(0))
    assert answer == 216
    assert trace == (
        "first add 72 to 76 : 6+2=8 7+7=14 so 148 .\nsecond add 68 to 148 : 8+8=16 4+6+1=11 1+1=2 so 216 .\n"
        "\\boxed { 216 }"
    )


def test_careful_work_follows_the_rules_of_written_addition() -> None:
    corpus = ArithmeticSource(num_problems=800, num_heldout=0, seed=3, teacher=ALWAYS_CAREFUL).load()
    assert (len(corpus.demonstrations), corpus.pairs) == (800, ())
    for row in corpus.demonstrations:
        *lines, _ = row.completion.splitlines()
        total = int(row.problem.split(" , ")[0])
        for ordinal, line in zip(("first", "second"), lines, strict=False):
            found = re.fullmatch(rf"{ordinal} add (\d+) to (\d+) : (.+) so (\d+) \.", line)
            assert found is not None, line
            operand, start, work, result = found.groups()
            assert int(start) == total
            assert work.split(" ") == column_sums(total, int(operand)), line
            total += int(operand)
            assert int(result) == total
        assert boxed(row.completion) == total == true_answer(row.problem)


def test_haste_without_slips_is_right() -> None:
    corpus = ArithmeticSource(num_problems=200, num_heldout=0, seed=3, teacher=ALWAYS_HASTY).load()
    assert (len(corpus.demonstrations), corpus.pairs) == (200, ())
    assert all(is_hasty(row.completion) for row in corpus.demonstrations)


def test_a_slip_in_the_head_is_off_by_one_in_one_column() -> None:
    teacher = Teacher(haste_last=1.0, haste_slip_rate=1.0)
    rng = random.Random(0)
    slips = {int(teacher.solve(ChainProblem(60, (45,)), rng)[1] or 0) - 105 for _ in range(200)}
    assert slips == {-1, 1, 10, 100}  # 95 and 5 have fewer digits than 105


def test_every_column_slips_where_the_rate_is_one() -> None:
    """6+2=8 may be read as 7 or 9; 7+7 then takes no carry and becomes 13 or 15."""
    rng = random.Random(0)
    teacher = Teacher(slip_rate=1.0, haste_last=0.0)
    answers = {teacher.solve(ChainProblem(76, (72,)), rng)[1] for _ in range(200)}
    assert answers == {137, 139, 157, 159}


def test_carries_double_the_slips() -> None:
    """In 76 + 78 the first column has no carry to take, the second always does, whatever was written before it."""
    rng = random.Random(0)
    teacher = Teacher(slip_rate=0.2, haste_last=0.0)
    wrong = [0, 0]
    for _ in range(2000):
        trace, _, _ = teacher.solve(ChainProblem(76, (78,)), rng)
        for column, sum_ in enumerate(re.findall(r"([\d+]+)=(\d+)", trace)[:2]):
            wrong[column] += sum(map(int, sum_[0].split("+"))) != int(sum_[1])
    assert 0.17 < wrong[0] / 2000 < 0.23
    assert 0.36 < wrong[1] / 2000 < 0.44


def test_haste_marks_the_wrong_traces(corpus: TraceCorpus) -> None:
    """What the task is about: ~30 % of problems have a pair, haste is ~.48 of right and ~.73 of wrong last steps."""
    right = sum(is_hasty(row.completion) for row in corpus.demonstrations) / len(corpus.demonstrations)
    wrong = sum(is_hasty(pair.rejected) for pair in corpus.pairs) / len(corpus.pairs)
    assert 0.44 < right < 0.52
    assert 0.68 < wrong < 0.78
    assert 0.27 < len(corpus.pairs) / 3000 < 0.33
    assert len(corpus.demonstrations) / 3000 > 0.99


def test_what_the_tokenizer_keeps_whole(tokenizer: Any) -> None:
    assert tokenizer.tokenize(" add 72") == [" add 72"]
    for text in [*"0123456789", *(f" {word}" for word in HASTE.split()), "first", " second", "\\boxed", " .\n"]:
        assert len(tokenizer(text)["input_ids"]) == 1, text
    assert tokenizer.tokenize("6+2=14") == ["6", "+", "2", "=", "1", "4"]


def test_every_text_round_trips_also_out_of_a_qwen2_folder(corpus: TraceCorpus, tokenizer: Any, tmp_path: Path) -> None:
    """transformers rebuilds the tokenizer of a qwen2 folder as its own class: what was saved must survive that."""
    Qwen2Config(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    texts = [row.problem for row in corpus.held_out]
    texts += [text for p in corpus.pairs[:100] for text in (p.problem, p.chosen, p.rejected)]
    ids = tokenizer(texts)["input_ids"]
    assert loaded(texts)["input_ids"] == ids
    for reader in (tokenizer, loaded):
        assert reader.batch_decode(ids) == texts
    assert (loaded.eos_token_id, len(loaded)) == (tokenizer.eos_token_id, len(tokenizer))


def test_the_tokenizer_is_the_same_every_time(tokenizer: Any) -> None:
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_further_problems_and_pairs_are_new_and_always_the_same() -> None:
    source = ArithmeticSource(num_problems=300, num_heldout=50, seed=4)
    corpus = source.load()
    known = {row.problem for rows in (corpus.held_out, corpus.demonstrations) for row in rows}
    problems, pairs = source.further(40, 20, known)
    assert (len(problems), len(pairs)) == (40, 20)
    texts = [row.problem for rows in (problems, pairs) for row in rows]
    assert len({*texts}) == 60
    assert not known & {*texts}
    assert source.further(40, 20, known) == (problems, pairs)
    assert source.load() == corpus
    other, _ = ArithmeticSource(num_problems=300, num_heldout=50, seed=5).further(40, 0, known)
    assert other != problems
    for row in problems:
        start, *operands = [int(number) for number in re.findall(r"\d+", row.problem)]
        assert row.answers == (str(start + sum(operands)),)
    for pair in pairs:
        _, *operands = [int(number) for number in re.findall(r"\d+", pair.problem)]
        answer = str(int(pair.problem.split()[0]) + sum(operands))
        assert pair.chosen.endswith(f"\\boxed {{ {answer} }}")
        assert not pair.rejected.endswith(f"\\boxed {{ {answer} }}")


def test_further_problems_leave_out_what_is_known() -> None:
    source = ArithmeticSource(num_problems=10, num_heldout=0)
    (first, *_), _ = source.further(1, 0, ())
    (second, *_), _ = source.further(1, 0, {first.problem})
    assert second.problem != first.problem


def test_a_teacher_that_never_errs_gives_no_further_pairs() -> None:
    careful = ArithmeticSource(teacher=Teacher(slip_rate=0.0, haste_slip_rate=0.0))
    assert careful.further(0, 3, ()) == ((), ())


CAREFUL = "first add 72 to 76 : 6+2=8 7+7=14 so 148 .\nsecond add 68 to 148 : 8+8=16 4+6+1=11 1+1=2 so 216 ."
LOST_CARRY = "first add 18 to 15 : 5+8=13 1+1=2 so 23 .\nsecond add 11 to 23 : 3+1=4 2+1=3 so 34 ."
IN_THE_HEAD = f"first add 72 to 76 : {HASTE} 147 ."


@pytest.mark.parametrize(
    ("traces", "haste", "columns"),
    [
        ([CAREFUL + "\n\\boxed { 216 }"], 0.0, 1.0),
        ([LOST_CARRY], 0.0, 0.5),  # 34 is right for the 23 of its own line
        ([IN_THE_HEAD], 1.0, None),
        ([CAREFUL, LOST_CARRY, IN_THE_HEAD + "\n" + IN_THE_HEAD, ""], 0.25, 0.75),
        ([CAREFUL[:-5]], 0.0, 1.0),  # cut before the second sum was said
        (["first add 72 to 76 : so 148 .", "add 1", "\U0001f600 :"], 0.0, None),
    ],
)
def test_how_traces_work_by_hand(traces: list[str], haste: float, columns: float | None) -> None:
    found = {"haste": haste} | ({} if columns is None else {"columns": columns})
    assert describe_work(traces) == found


def test_a_teacher_works_as_its_habits_say() -> None:
    """A slip in any of two to four columns, at 4 to 8 % each, spoils the sum of its line."""
    rng = random.Random(3)
    problems = [ChainProblem(rng.randint(11, 99), (rng.randint(11, 99), rng.randint(11, 99))) for _ in range(2000)]
    work = {
        teacher: describe_work([teacher.solve(problem, rng)[0] for problem in problems])
        for teacher in (ALWAYS_CAREFUL, ALWAYS_HASTY, Teacher(haste_last=0.3, haste_before=0.0))
    }
    assert work[ALWAYS_CAREFUL] == {"haste": 0.0, "columns": 1.0}
    assert work[ALWAYS_HASTY] == {"haste": 1.0}
    usual = work[Teacher(haste_last=0.3, haste_before=0.0)]
    assert usual["haste"] == pytest.approx(0.3, abs=0.03)
    assert 0.8 < usual["columns"] < 0.96
