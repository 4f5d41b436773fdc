"""The model card: what the record says and nothing else, in the form of the hub, without places of this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from redi_lab.cli import main
from redi_lab.run.model_card import model_card
from redi_lab.run.record import read_summary
from redi_lab.run.training_record import TrainingRecord, read_record
from tests.conftest import TINY_TASK


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of both stages, with a best checkpoint."""
    folder = tmp_path_factory.mktemp("card")
    best = ["callbacks.checkpoints.every_n_steps=1", "callbacks.accuracy.every_n_steps=1"]
    best += ["callbacks.checkpoints.monitor=val/pass_at_1", "callbacks.checkpoints.mode=max"]
    places = [f"paths.outputs_dir={folder}", f"paths.output_dir={folder / 'run'}", "logger=none"]
    main([*TINY_TASK, *best, *places, "seed=5", "init_overrides=['trainer.max_steps=2']"])
    return folder / "run"


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    """Front matter as the hub's library reads it, and the whole text."""
    card = ModelCard.load(folder / "README.md")
    return card.data.to_dict(), card.content


def test_the_last_checkpoint_says_what_the_record_says(trained: Path) -> None:
    summary = read_summary(trained)
    data, text = card_of(trained / "checkpoints" / "last")
    score = summary["metrics"]["pass_at_1"]
    assert data["library_name"] == "transformers"
    assert data["tags"] == ["redi-lab", "redi"]
    [result] = data["model-index"][0]["results"]
    assert result["dataset"]["name"] == "heldout"
    assert result["metrics"][0]["value"] == round(score["value"], 4)
    assert "base_model" not in data
    for said in (
        "trained from scratch with redi-lab: redi α.5 lr 2e-4 s5",
        f"{summary['data']['selection']['rows_read']:,} rows",
        f"{summary['data']['batches']['train']:,} examples",
        "| demo_sft | sft | 0.002 | 2 | 16 | 5 |",
        "| demo | redi α.5 | 0.0002 | 1 | 16 | 5 |",  # 13 pairs
        "heldout: 6 problems × 2 samples, temperature 0.6, top-p 0.95, up to 24 tokens",
        f"{score['value']:.3f} ({score['ci_low']:.3f} to {score['ci_high']:.3f})",
        "python -m redi_lab data.source.num_problems=48",
        "seed=5",
        str(summary["commit"]),
    ):
        assert said in text
    assert str(trained.parent) not in text
    assert "outputs_dir" not in text


def test_a_state_that_was_not_evaluated_says_so_and_the_best_has_its_own_score(trained: Path) -> None:
    data, text = card_of(trained / "checkpoints" / "step-1")
    assert "model-index" not in data
    assert "This state was not evaluated." in text
    assert "at step 1" in text
    summary = read_summary(trained)
    data, text = card_of(trained / "checkpoints" / "best")
    best = summary["best"]["metrics"]["pass_at_1"]
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == round(best["value"], 4)
    assert f"val/pass_at_1 {summary['best']['chosen']['val/pass_at_1']:g}" in text


def test_an_earlier_stage_has_its_own_card_and_command(trained: Path) -> None:
    earlier = Path(read_summary(trained)["stages"][0]["checkpoint"])
    data, text = card_of(earlier)
    assert data["tags"] == ["redi-lab", "sft"]
    assert "python -m redi_lab +experiment=demo_sft" in text
    assert "trainer.max_steps=2" in text
    assert "| demo |" not in text


def test_a_card_changes_no_hash_of_its_checkpoint(trained: Path) -> None:
    from redi_lab.evaluation.results import checkpoint_hash

    note = json.loads((trained / "trained.json").read_text())
    assert checkpoint_hash(trained / "checkpoints" / "last") == note["checkpoint_hash"]


def rewritten(trained: Path, change: Callable[[dict[str, Any]], None], **record: Any) -> tuple[dict[str, Any], str]:
    """Front matter and text of the last checkpoint after a change to its summary and record."""
    summary = json.loads((trained / "summary.json").read_text())
    change(summary)
    known = read_record(trained / "checkpoints" / "last")
    assert known is not None
    text = model_card([summary], TrainingRecord(**known.model_dump() | record), "last")
    data: dict[str, Any] = ModelCard(text).data.to_dict()  # type: ignore[no-untyped-call]
    return data, text


def test_hub_ids_are_named_in_full_and_paths_by_their_last_part(trained: Path) -> None:
    def change(summary: dict[str, Any]) -> None:
        summary["overrides"] = [
            "model.path=/home/me/models/Qwen 2.5",
            "data.path='~/private/traces.jsonl'",
            "init_overrides=['data.path=/home/me/x.jsonl','optimizer.lr=1e-5']",
            "paths.cache_dir=/home/me/cache",
            "logger.tracking_uri=http://host:5000",
            'data.prompt_template="a/b {problem}"',
        ]

    data, text = rewritten(trained, change, base_model="Qwen/Qwen2.5-Math-1.5B", data="open-r1/OpenR1-Math-220k")
    assert data["base_model"] == "Qwen/Qwen2.5-Math-1.5B"
    assert data["datasets"] == ["open-r1/OpenR1-Math-220k"]
    for private in ("/home", "me/", "private", "host:5000", "cache_dir"):
        assert private not in text
    for said in ("PATH/Qwen 2.5", "PATH/traces.jsonl", "PATH/x.jsonl", "optimizer.lr=1e-5", "a/b {problem}"):
        assert said in text
    data, text = rewritten(trained, lambda _: None, base_model="/home/me/SmolLM2", data="/home/me/mine.jsonl")
    assert not {"base_model", "datasets"} & data.keys()
    assert "`SmolLM2`" in text
    assert "`mine.jsonl`" in text
    assert "/home" not in text


def test_missing_facts_are_left_out_and_bad_ends_are_said(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_TOKEN", "s3cr3t-value")

    def change(summary: dict[str, Any]) -> None:
        summary |= {"metrics": {}, "evaluation": None, "commit": None, "best": None}
        summary |= {"stopped": {"by": "collapse", "step": 2, "reason": "fell with s3cr3t-value"}}
        summary |= {"collapse": {"state": "collapsed", "step": 2, "reason": "fell"}}

    data, text = rewritten(trained, change)
    assert "model-index" not in data
    assert "This state was not evaluated." in text
    assert "commit" not in text
    assert "None" not in text
    assert "Training was ended early, after step 2" in text
    assert "The collapse rule was met at step 2: fell." in text
    assert "s3cr3t" not in text
