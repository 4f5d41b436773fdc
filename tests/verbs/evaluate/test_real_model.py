"""A real small chat model is doubted: what its template makes of three turns, and that nothing is drawn twice."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from redi_lab.backbone.hub import load_tokenizer
from redi_lab.cli import main
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.run.conditions import ask_all


@pytest.mark.slow
def test_a_real_chat_model_is_doubted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.environ.get("REDI_LAB_TEST_MODEL")
    if folder is None:
        pytest.skip("set REDI_LAB_TEST_MODEL to the folder of a small chat model")
    path = tmp_path / "sums.jsonl"
    rows = [{"problem": f"What is {n} + 4?", "answer": n + 4} for n in range(2, 6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen: list[Any] = []

    def asking(*arguments: Any) -> Any:
        made = ask_all(*arguments)
        seen.append(made[0])
        return made

    monkeypatch.setattr("redi_lab.verbs.evaluate.conditions.ask_all", asking)
    overrides = [
        "eval.temperature=0",
        "eval.num_samples=1",
        "eval.max_new_tokens=24",
        "eval.grader.answers=last_number",
    ]
    for name in ("first", "second"):
        places = [f"paths.outputs_dir={tmp_path}", f"paths.output_dir={tmp_path / name}", "logger=none"]
        problems = ["protocol=are_you_sure", "eval=jsonl", f"eval.path={path}"]
        main(["evaluate", f"checkpoint={folder}", *problems, *overrides, *places])
    one, again = seen
    assert one["doubted"].result == again["doubted"].result
    first, doubted = one["asked"].result.rows[0], one["doubted"]
    assert first.text.strip()
    assert doubted.result.rows[0].text.strip()
    tokenizer = load_tokenizer(folder, key="checkpoint")
    prompt = tokenizer.decode(TraceEncoder(tokenizer).prompt_ids(doubted.prompts[0]))
    places = [prompt.index(text) for text in ("What is 2 + 4?", first.text.strip(), "Are you sure?")]
    assert places == sorted(places)
