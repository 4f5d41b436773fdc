"""`curate steps`: rollouts of prefixes, what is marked in traces, and trainings that read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from redi_lab.backbone.hub import load_tokenizer
from redi_lab.cli import main
from tests.evaluation.scripted_engine import ScriptedEngine

PROBLEM = "What is 1 + 2 + 3 + 4?"
LINES = ["1 + 2 is 3 .\n", "3 + 3 is 6 .\n", "6 + 4 is 11 .\n", "so it is 11 .\n", "\\boxed{11}"]
"""The third line is wrong."""
RIGHT = "1 + 2 + 3 + 4 is 10 .\n\\boxed{10}"
HOPELESS = "What is nowhere?"

Run = Callable[..., dict[str, Any]]


def row(name: str, problem: str, *texts: tuple[str, bool | None], answer: str | None = "10") -> dict[str, Any]:
    generations = [{"text": text, "correct": correct} for text, correct in texts]
    return {"id": name, "problem": problem, "answer": answer, "generations": generations}


ROWS = [
    row("a", PROBLEM, (RIGHT, True), ("".join(LINES), False)),
    row("b", HOPELESS, (RIGHT, True), ("I think it is 5 .\n\\boxed{5}", False)),
    row("c", PROBLEM, ("Who knows?", None), ("<think> it is", False), ("\\boxed{12}", False)),
    row("d", PROBLEM, ("\\boxed{12}", False), answer=None),
]


@pytest.fixture
def engine(qwen_folder: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    """Is right in three of four rollouts as long as nothing wrong was said, and never says anything in the fourth."""
    tokenizer = load_tokenizer(str(qwen_folder))

    def says(prompt: tuple[int, ...], sample: int) -> str:
        text = tokenizer.decode(prompt)
        if sample % 4 == 3:
            return "well, who knows"
        is_lost = "nowhere" in text or "11" in text
        return "and so \\boxed{11}" if is_lost else "and so \\boxed{10}"

    scripted = ScriptedEngine(says)
    monkeypatch.setattr("redi_lab.verbs.curate.steps.make_engine", lambda config: scripted)
    return scripted


@pytest.fixture
def look(qwen_folder: Path, tmp_path: Path, engine: ScriptedEngine) -> Run:
    """Runs the verb on rows and returns its summary."""

    def run(*overrides: str, rows: list[dict[str, Any]] = ROWS, folder: str = "steps") -> dict[str, Any]:
        file = tmp_path / "traces.jsonl"
        file.write_text("".join(json.dumps(one) + "\n" for one in rows))
        places = [f"paths.outputs_dir={tmp_path}", f"paths.output_dir={tmp_path / folder}"]
        given = [f"checkpoint={qwen_folder}", f"data.path={file}", "eval.max_new_tokens=16"]
        main(["curate", "steps", *given, *places, *overrides])
        summary: dict[str, Any] = json.loads((tmp_path / folder / "summary.json").read_text())
        return summary

    return run


def read(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "steps.parquet").to_pylist()
    return rows, [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]


def test_the_wrong_step_is_found_and_unknown_rollouts_count_for_neither_side(
    look: Run, tmp_path: Path, engine: ScriptedEngine
) -> None:
    metrics = look()["metrics"]
    assert {name: metrics[name] for name in list(metrics)[:6]} == {
        "wrong_traces": 5, "located": 2, "hopeless": 1, "uncertain": 0, "cut_off": 1, "without_answer": 1,
    }  # fmt: skip
    assert metrics["of_one_step"] == 1
    # Of `a` five prefixes, of `b` two, of `c` the problem alone; eight of each.
    assert (metrics["rollouts"], metrics["unknown"]) == (64, 16)
    rows, traces = read(tmp_path / "steps")
    mine = [one for one in rows if one["id"] == "a"]
    assert [one["step"] for one in mine] == [0, 1, 2, 3, 4, 5]
    assert [(one["rollouts"], one["right"], one["unknown"]) for one in mine] == [
        *[(8, 6, 2)] * 3, *[(8, 0, 2)] * 2, (0, 0, 0),
    ]  # fmt: skip
    assert [one["chance"] for one in mine] == [1, 1, 1, 0, 0, 0]
    assert [one["advantage"] for one in mine] == [None, 0, 0, -1, 0, 0]
    assert sum(one["first_wrong"] for one in mine) == pytest.approx(1)
    assert max(mine, key=lambda one: one["first_wrong"])["step"] == 3
    text = "".join(LINES)
    assert [text[one["start"] : one["end"]] for one in mine] == ["", *LINES]
    [right, wrong] = traces[0]["generations"]
    assert right["steps"] == [{"start": 0, "end": len(RIGHT), "right": None, "advantage": 1.0}]
    assert [step["right"] for step in wrong["steps"]] == [True, True, False, None, None]
    assert wrong["spans"] == [{"start": len("".join(LINES[:3])), "end": len(text), "weight": 0.0}]
    assert [len(one["generations"]) for one in traces] == [2, 1, 2, 0]
    said = json.loads(pq.read_schema(tmp_path / "steps" / "steps.parquet").metadata[b"redi_lab"])
    assert said["steps"]["search"] == "all"
    assert said["checkpoint_hash"]


def test_prefixes_are_those_of_the_whole_traces_tokens(look: Run, qwen_folder: Path, engine: ScriptedEngine) -> None:
    look()
    tokenizer = load_tokenizer(str(qwen_folder))
    asked = {prompt for prompts, _ in engine.requests for prompt in prompts}
    whole = tokenizer(f"{PROBLEM}\n")["input_ids"] + tokenizer("".join(LINES))["input_ids"]
    mine = [prompt for prompt in asked if list(prompt) == whole[: len(prompt)] and PROBLEM in tokenizer.decode(prompt)]
    beginnings = ["".join(LINES[:n]) for n in range(5)]
    assert sorted(tokenizer.decode(prompt) for prompt in mine) == sorted(f"{PROBLEM}\n{text}" for text in beginnings)


def test_the_same_command_draws_nothing_again_and_more_rollouts_find_the_earlier(
    look: Run, tmp_path: Path, engine: ScriptedEngine
) -> None:
    first = look(folder="first")
    engine.requests.clear()
    assert look(folder="again")["metrics"] == first["metrics"]
    assert engine.requests == []
    assert read(tmp_path / "again") == read(tmp_path / "first")
    look("eval.num_samples=12", folder="more")
    assert {indices for _, indices in engine.requests} == {range(8, 12)}


def test_a_binary_search_asks_less_and_finds_the_same(look: Run, tmp_path: Path, engine: ScriptedEngine) -> None:
    metrics = look("steps.search=binary", "steps.confidence=0.7")["metrics"]
    assert metrics["rollouts"] < 64
    assert metrics["located"] == 2
    rows, traces = read(tmp_path / "steps")
    mine = [one for one in rows if one["id"] == "a"]
    assert max(mine, key=lambda one: one["first_wrong"])["step"] == 3
    assert None in {one["chance"] for one in mine[:-1]}
    [_, wrong] = traces[0]["generations"]
    assert [step["right"] for step in wrong["steps"]] == [True, True, False, None, None]


def test_a_budget_leaves_traces_uncertain(look: Run, tmp_path: Path) -> None:
    budget = ["steps.search=binary", "steps.max_rollouts=8", "steps.confidence=0.9"]
    metrics = look(*budget)["metrics"]
    assert metrics["uncertain"] == 2  # `a` and `b`; of `c` one place is all there is
    rows, traces = read(tmp_path / "steps")
    assert sum(one["rollouts"] for one in rows if one["id"] == "a") == 8
    assert [len(one["generations"]) for one in traces] == [1, 1, 2, 0]


def test_a_rollout_is_read_behind_its_prefix(look: Run, engine: ScriptedEngine) -> None:
    """What is said before `</think>` does not count, also where the prefix said it."""
    engine.says = lambda prompt, sample: "\\boxed{10}"
    text = "<think> so \\boxed{10}\n</think> no ,\n\\boxed{12}"
    found = look("eval.grader.require_closed_thought=true", rows=[row("a", PROBLEM, (text, False))])["metrics"]
    assert (found["right"], found["wrong"]) == (8, 16)  # of the problem alone, and of the first line, none closes


SLOW_RULES = [pytest.param(rule, marks=pytest.mark.slow) for rule in ("after_first_error", "step_advantages")]


@pytest.mark.parametrize("rule", ["spans", *SLOW_RULES])
def test_a_training_reads_what_was_found(rule: str, look: Run, qwen_folder: Path, tmp_path: Path) -> None:
    look()
    places = [f"paths.outputs_dir={tmp_path}", f"paths.output_dir={tmp_path / 'curated'}"]
    traces = f"data.path={tmp_path / 'steps' / 'traces.jsonl'}"
    main(["curate", "data=jsonl", traces, "curation=strict", "curation.num_workers=0", *places])
    main(
        [
            *("name=own", "data=curated", f"data.path={tmp_path / 'curated'}", f"data.token_weights={rule}"),
            *(f"init_from={qwen_folder}", "loss=redi", "data.source.num_heldout=0", "data.batch_size=1"),
            *("trainer.max_steps=1", "eval=none", "logger=none", f"paths.outputs_dir={tmp_path}"),
            *(f"paths.output_dir={tmp_path / rule}", "callbacks.probes=null"),
        ]
    )
    steps = [json.loads(line) for line in (tmp_path / rule / "metrics.jsonl").read_text().splitlines()]
    assert any("train/loss" in step for step in steps)


@pytest.mark.parametrize(
    ("overrides", "rows", "message"),
    [
        ([], [row("a", PROBLEM, ("\\boxed{11}", False), answer=None)], "no wrong trace to look into; rows need an"),
        ([], [row("a", PROBLEM, (RIGHT, True))], "no wrong trace to look into"),
        (["steps.max_rollouts=8"], ROWS, "steps.max_rollouts=8: must be at least 8, with steps.search=binary"),
        (
            ["steps.search=binary", "steps.max_rollouts=4"],
            ROWS,
            "steps.max_rollouts=4: must be at least 8",
        ),
        (["steps.split=words"], ROWS, "steps.split=words: must be lines, paragraphs or sentences"),
        (["eval=gsm8k"], ROWS, "eval=gsm8k: problems are those of the traces"),
        (["data=arithmetic"], ROWS, "data.source._target_="),
        (["checkpoint=/nowhere"], ROWS, "checkpoint=/nowhere"),
    ],
)
def test_bad_input_is_a_line(
    overrides: list[str], rows: list[dict[str, Any]], message: str, look: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        look(*overrides, rows=rows)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_model_without_chat_template_is_asked_with_the_template(
    look: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    look()
    assert "has no chat template: the prompt is '{problem}\\n' as it is" in capsys.readouterr().out
