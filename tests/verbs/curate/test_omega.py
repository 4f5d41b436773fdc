"""`curate omega`: from verdicts to a token reward model, to weights of tokens, to a training that reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from redi_lab.backbone.causal_lm import REWARD_HEAD
from redi_lab.backbone.hub import load_tokenizer
from redi_lab.cli import main
from redi_lab.curation.omega import score_traces
from redi_lab.data.examples import encode_examples
from redi_lab.data.readers import TraceFileSource
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.losses.token_reward import omega
from redi_lab.verbs.curate.omega import load_reward_model
from tests.verbs.train.conftest import undrawn

Run = Callable[..., dict[str, Any]]


def row(number: int, *texts: tuple[str, bool | None], **more: Any) -> dict[str, Any]:
    generations = [{"text": text, "correct": correct} | more for text, correct in texts]
    return {
        "id": f"r{number}",
        "problem": f"What is {number} + 4?",
        "answer": str(number + 4),
        "generations": generations,
    }


ROWS = [
    row(n, (f"So the value is {n + 4}.", True), (f"The value, I think, is {n + 5}.", False), ("Who knows?", None))
    for n in range(6)
]


@pytest.fixture(scope="module")
def reward_folder(qwen_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token reward model that the command trains on ROWS."""
    folder = tmp_path_factory.mktemp("reward")
    (folder / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in ROWS))
    overrides = ["data=jsonl", f"data.path={folder / 'rows.jsonl'}", "data.source.num_heldout=0", "data.batch_size=6"]
    places = [f"paths.outputs_dir={folder}", f"paths.output_dir={folder / 'run'}", "logger=none"]
    steps = ["trainer.max_steps=12", "trainer.max_epochs=-1", "optimizer.lr=0.01", f"init_from={qwen_folder}"]
    with undrawn():
        main(["+experiment=token_reward", "name=reward", *overrides, *steps, *places])
    return folder / "run" / "checkpoints" / "last"


@pytest.fixture
def weigh(reward_folder: Path, tmp_path: Path) -> Run:
    """Runs the verb on rows and returns its summary."""

    def run(*overrides: str, rows: list[dict[str, Any]] = ROWS, folder: str = "omega") -> dict[str, Any]:
        file = tmp_path / "traces.jsonl"
        file.write_text("".join(json.dumps(one) + "\n" for one in rows))
        places = [f"paths.outputs_dir={tmp_path}", f"paths.output_dir={tmp_path / folder}"]
        main(["curate", "omega", f"checkpoint={reward_folder}", f"data.path={file}", *places, *overrides])
        summary: dict[str, Any] = json.loads((tmp_path / folder / "summary.json").read_text())
        return summary

    return run


def test_training_says_what_it_did(reward_folder: Path) -> None:
    steps = [json.loads(line) for line in (reward_folder.parents[1] / "metrics.jsonl").read_text().splitlines()]
    losses = [step["train/loss"] for step in steps if "train/loss" in step]
    assert losses[0] == pytest.approx(0.693147, rel=1e-5)
    assert losses[-1] < 0.6
    assert (reward_folder / REWARD_HEAD).is_file()
    assert "scores tokens" in (reward_folder / "README.md").read_text()


@pytest.mark.parametrize("top_share", [None, 0.25])
def test_a_training_reads_omega_for_every_token(
    top_share: float | None, weigh: Run, reward_folder: Path, tmp_path: Path
) -> None:
    """But for the end-of-turn token, which shares the last character of the text."""
    metrics = weigh(f"omega.top_share={'null' if top_share is None else top_share}")["metrics"]
    assert (metrics["right"], metrics["wrong"], metrics["unknown"]) == (6, 6, 6)
    model, encoder = load_reward_model(reward_folder), TraceEncoder(load_tokenizer(str(reward_folder)), "{problem}\n")
    corpus = TraceFileSource(str(tmp_path / "omega" / "traces.jsonl")).load()
    sequences = [s for (s,) in encode_examples(corpus, encoder, "unpaired", "spans")]
    assert len(sequences) == 12
    assert [sequence.pass_rate for sequence in sequences] == [0.5] * 12
    assert metrics["without_weight"] == sum(sequence.weight == 0 for sequence in sequences)
    for sequence, scores in zip(sequences, score_traces(model, sequences, 1000), strict=True):
        expected = omega(scores, is_right=sequence.is_chosen, top_share=top_share)[:-1]
        if sequence.weight == 0:
            assert not expected.any()
        else:
            assert sequence.token_weights is not None
            torch.testing.assert_close(torch.tensor(list(sequence.token_weights))[:-1].double(), expected)


def test_oreal_trains_on_it(weigh: Run, qwen_folder: Path, tmp_path: Path) -> None:
    weigh("omega.top_share=0.5")
    traces = [f"data.path={tmp_path / 'omega' / 'traces.jsonl'}", "data.token_weights=spans", "data.batch_size=6"]
    off = [f"callbacks.{name}=null" for name in ("probes", "accuracy", "collapse", "gradient_conflict")]
    places = [f"paths.outputs_dir={tmp_path}", f"paths.output_dir={tmp_path / 'run'}", "logger=none", "eval=none"]
    own = ["name=own", "loss=oreal", "data=jsonl", "data.source.num_heldout=0", f"init_from={qwen_folder}"]
    with undrawn():
        main([*own, *traces, *off, *places, "trainer.max_steps=1"])
    batches = json.loads((tmp_path / "run" / "summary.json").read_text())["data"]["batches"]
    assert batches["train"] == 12
    assert batches["unused_columns"] == []


def test_verdicts_and_what_else_a_row_says_stay(weigh: Run, tmp_path: Path) -> None:
    steps = [{"start": 0, "end": 3, "right": False}]
    more = {"weight": 3.0, "steps": steps, "error": "slip", "finish_reason": "length"}
    weigh("omega.top_share=1", rows=[row(1, ("It is 6.", False), **more), *ROWS[2:]])
    first, second = (json.loads(line) for line in (tmp_path / "omega" / "traces.jsonl").read_text().splitlines()[:2])
    (found,) = first["generations"]
    assert {name: found[name] for name in ("text", "correct", "weight", "error", "finish_reason")} == {
        "text": "It is 6.", "correct": False, "weight": 3.0, "error": "slip", "finish_reason": "length"
    }  # fmt: skip
    assert found["steps"] == [{**steps[0], "advantage": None}]
    assert found["spans"][0]["start"] == 0
    assert found["spans"][-1]["end"] == len("It is 6.")
    assert {key: second[key] for key in ("id", "problem", "answer", "source")} == {
        "id": "r2", "problem": "What is 2 + 4?", "answer": "6", "source": None
    }  # fmt: skip
    assert [one["correct"] for one in second["generations"]] == [True, False, None]
    assert second["generations"][2]["spans"] == []


def refused(run: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("rows", "overrides", "message"),
    [
        ([row(1, ("6", None)), row(2, ("6", None))], [], "no trace has a verdict"),
        ([row(1, ("six", True), spans=[{"start": 0, "end": 1, "weight": 0.5}])], [], "r1: has spans already"),
        (ROWS, ["data.micro_batch_tokens=8"], "data.micro_batch_tokens=8 is less than"),
        (ROWS, ["data=arithmetic"], "data.source._target_="),
        (
            [{"prompt": [{"role": r, "content": "a"} for r in ("user", "assistant", "user")], "completion": "b",
              "label": True}],
            [],
            "has several turns",
        ),
    ],
)  # fmt: skip
def test_bad_rows_are_a_line(
    rows: list[dict[str, Any]], overrides: list[str], message: str, weigh: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(lambda: weigh(*overrides, rows=rows), capsys)


def test_a_folder_without_the_head_or_with_anothers_is_a_line(
    weigh: Run, qwen_folder: Path, reward_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(lambda: weigh(f"checkpoint={qwen_folder}"), capsys)
    assert f"checkpoint={qwen_folder}: no token reward model ({REWARD_HEAD} is missing)" in said
    other = tmp_path / "other"
    other.mkdir()
    for file in reward_folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    save_file({"weight": torch.zeros(1, 8)}, other / REWARD_HEAD)
    assert f"{REWARD_HEAD} has shape (1, 8), the model takes (1, 16)" in refused(
        lambda: weigh(f"checkpoint={other}"), capsys
    )


def test_one_kind_of_verdict_trains_nothing(
    qwen_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row(n, (f"It is {n + 4}.", True))) + "\n" for n in range(4)))
    overrides = [
        "+experiment=token_reward",
        "name=reward",
        "data=jsonl",
        f"data.path={file}",
        f"init_from={qwen_folder}",
    ]
    places = ["data.source.num_heldout=0", f"paths.outputs_dir={tmp_path}", "logger=none"]
    assert "4 chosen and 0 rejected completions" in refused(lambda: main([*overrides, *places]), capsys)
