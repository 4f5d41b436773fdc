"""`curate revthink`: from a file or an embedded task to what `data=jsonl` trains on, with exact weights."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from redi_lab.backbone.hub import load_tokenizer
from redi_lab.cli import main
from redi_lab.config.compose import load_config
from redi_lab.curation.revthink import TASKS
from redi_lab.data.arithmetic import build_tokenizer
from redi_lab.data.examples import encode_examples
from redi_lab.data.readers import TraceFileSource
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.run.build import make_source

ROW = {
    "problem": "What is 3 + 4?",
    "completion": "It is \\boxed{7}.",
    "answer": "7",
    "backward_problem": "What and 4 is 7?",
    "backward_completion": "7 - 4 is \\boxed{3}.",
    "consistent": True,
}
WRONG = ROW | {"completion": "It is \\boxed{8}."}
INCONSISTENT = ROW | {"backward_completion": "7 + 4 is \\boxed{11}.", "consistent": False}
ALONE = ROW | {"problem": "What is 3 + 5?", "completion": "Long is the way to \\boxed{8}.", "answer": "8"}
ALONE |= dict.fromkeys(("backward_problem", "backward_completion", "consistent"))


def sort(tmp_path: Path, *arguments: str, rows: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows or [ROW, WRONG, INCONSISTENT, ALONE]))
    given = [f"data.path={file}"] if {"data=jsonl", "data=openr1_math"} & set(arguments) else []
    main(["curate", "revthink", *given, f"paths.output_dir={tmp_path / 'out'}", *arguments])
    summary: dict[str, Any] = json.loads((tmp_path / "out" / "summary.json").read_text())
    return summary


def lines(tmp_path: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out" / name).read_text().splitlines()]


def test_rows_are_graded_filtered_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = sort(tmp_path, "data=jsonl", "backward_prompt=Backward: {problem}")["metrics"]
    assert found == {
        "rows": 4,
        "rows_with_three_tasks": 1,
        "forward_alone": {"inconsistent backward trace": 1, "no backward question or trace": 1},
        "dropped": {"wrong forward trace": 1},
        "consistent_share": 0.5,
        "backward_problems_with_both": 1,
    }
    assert "dropped, wrong forward trace: 1" in capsys.readouterr().out
    made = [(row["task"], row["problem"], row["generations"][0]["text"]) for row in lines(tmp_path, "sft.jsonl")]
    question = load_words("backward_question_prompt").replace("{problem}", str(ROW["problem"]))
    assert made == [
        ("forward", ROW["problem"], ROW["completion"]),
        ("forward", ALONE["problem"], ALONE["completion"]),
        ("backward_question", question, ROW["backward_problem"]),
        ("backward", "Backward: What and 4 is 7?", ROW["backward_completion"]),
    ]


def load_words(name: str) -> str:
    from redi_lab.config.schema.words import RevThinkWords

    return str(getattr(RevThinkWords(), name))


def test_without_our_grader_the_file_is_believed(tmp_path: Path) -> None:
    found = sort(tmp_path, "data=jsonl", "curation.grader=never")["metrics"]
    assert found["dropped"] == {}
    assert found["rows_with_three_tasks"] == 2


def test_without_a_tokenizer_characters_are_counted(tmp_path: Path) -> None:
    tasks = sort(tmp_path, "data=jsonl")["tasks"]
    assert tasks["forward"]["characters"] == len(str(ROW["completion"])) + len(str(ALONE["completion"]))
    assert sum(one["weight"] * one["characters"] for one in tasks.values()) == pytest.approx(
        sum(one["characters"] for one in tasks.values())
    )


@pytest.mark.parametrize("task", ["arithmetic", "chains"])
def test_training_gives_each_task_a_third_of_its_tokens_weight(tmp_path: Path, task: str) -> None:
    """As training reads the file: chains bring rows without a backward part, so that tasks differ in rows, too."""
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    sort(tmp_path, f"data={task}", "data.source.num_problems=40", f"curation.tokenizer={tmp_path / 'tokenizer'}")
    corpus = TraceFileSource(str(tmp_path / "out" / "sft.jsonl")).load()
    names = [row["task"] for row in lines(tmp_path, "sft.jsonl")]
    assert len(corpus.demonstrations) == len(names)
    examples = encode_examples(corpus, TraceEncoder(load_tokenizer(str(tmp_path / "tokenizer"))), "demonstrations")
    totals = dict.fromkeys(TASKS, Fraction(0))
    for name, (sequence,) in zip(names, examples, strict=True):
        totals[name] += Fraction(sequence.weight) * sequence.completion_length
    third = Fraction(sum(sequence.completion_length for (sequence,) in examples), 3)
    assert len(set(map(names.count, TASKS))) == (1 if task == "arithmetic" else 2)
    assert all(abs(total / third - 1) < Fraction(1, 10**12) for total in totals.values())


def test_redi_reads_the_other_file_as_pairs(tmp_path: Path) -> None:
    sort(tmp_path, "data=arithmetic", "data.source.num_problems=40", "backward_question_prompt={problem} so")
    corpus = TraceFileSource(str(tmp_path / "out" / "backward.jsonl"), negatives="nearest").load()
    assert len(corpus.pairs) == len(lines(tmp_path, "backward.jsonl")) > 5
    for pair in corpus.pairs:
        assert pair.error == "inconsistent"
        assert pair.chosen.endswith("}")
        assert pair.rejected.endswith("}")
        assert pair.chosen.split()[-2] != pair.rejected.split()[-2]
    config = load_config(
        "train", ["+experiment=demo", "data=jsonl", f"data.path={tmp_path / 'out' / 'backward.jsonl'}"]
    )
    assert isinstance(make_source(config), TraceFileSource)


def test_a_file_gives_what_the_task_itself_gives(tmp_path: Path) -> None:
    from redi_lab.data.arithmetic import ArithmeticSource
    from redi_lab.data.backward import backward_rows

    rows = list(backward_rows(ArithmeticSource(num_problems=20, num_heldout=600, seed=42)))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    sort(tmp_path / "a", "data=jsonl", rows=rows)
    sort(tmp_path / "b", "data=arithmetic", "data.source.num_problems=20")
    for name in ("sft.jsonl", "backward.jsonl"):
        assert lines(tmp_path / "a", name) == lines(tmp_path / "b", name)


@pytest.mark.parametrize(
    ("arguments", "rows", "message"),
    [
        (["data=jsonl"], [ROW, ROW | {"consistent": "maybe"}], "rows.jsonl:2: key consistent: expected true, false or"),
        (["data=jsonl"], [{"problem": "1"}], "rows.jsonl:1: without the key completion; the row has problem"),
        (["data=jsonl"], [INCONSISTENT, ALONE], "no row has a right forward and a consistent backward trace"),
        (["data=jsonl", "backward_prompt=turn"], [ROW], "backward_prompt=turn: must be a string with {problem} in it"),
        (["data=openr1_math"], [ROW], "choose data=jsonl, arithmetic or chains"),
        (["data=jsonl", "curation.tokenizer=nowhere"], [ROW], "nowhere"),
    ],
)
def test_bad_input_is_a_line(
    tmp_path: Path,
    arguments: list[str],
    rows: list[dict[str, Any]],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        sort(tmp_path, *arguments, rows=rows)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
