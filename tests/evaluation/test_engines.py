from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from redi_lab.errors import UserError
from redi_lab.evaluation.engines import Completion, SamplingParams, TransformersEngine

PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5], [8, 9], [7, 9, 3, 2, 3]]
STOPS = (22, 23)


def sampling(**changes: Any) -> SamplingParams:
    return SamplingParams(
        **({"temperature": 0.8, "top_p": 0.9, "max_new_tokens": 40, "num_samples": 3, "seed": 7} | changes)
    )


def by_row(completions: list[Completion]) -> dict[tuple[int, int], tuple[int, ...]]:
    return {(made.problem_index, made.sample_index): made.token_ids for made in completions}


def greedy_by_hand(folder: Path, prompt: list[int], count: int) -> tuple[int, ...]:
    """Full forwards, one row, no cache, no padding."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokens = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] in STOPS:
            break
    return tuple(tokens[len(prompt) :])


def test_greedy_equals_a_plain_loop_over_the_model(checkpoint: Path) -> None:
    """So padding, batching, the cache and the checkpoint's own generation settings change nothing."""
    completions = TransformersEngine().generate(checkpoint, PROMPTS, sampling(temperature=0.0, num_samples=1))
    assert [made.token_ids for made in completions] == [greedy_by_hand(checkpoint, prompt, 40) for prompt in PROMPTS]


def test_completions_are_cut_described_and_ordered(checkpoint: Path) -> None:
    completions = TransformersEngine().generate(checkpoint, PROMPTS, sampling())
    assert [(made.problem_index, made.sample_index) for made in completions] == [
        (p, s) for p in range(5) for s in range(3)
    ]
    assert {made.finish_reason for made in completions} == {"stop", "length"}
    for made in completions:
        assert not set(made.token_ids[:-1]) & set(STOPS)
        assert (made.token_ids[-1] in STOPS) == (made.finish_reason == "stop")
        assert len(made.token_ids) == 40 or made.finish_reason == "stop"
        assert made.text == " ".join(str(token) for token in made.token_ids if token < 21)


def test_more_samples_and_other_orders_change_no_completion(checkpoint: Path) -> None:
    engine = TransformersEngine()
    few = by_row(engine.generate(checkpoint, PROMPTS, sampling(num_samples=2)))
    many = by_row(engine.generate(checkpoint, PROMPTS, sampling(num_samples=5)))
    assert few.items() <= many.items()
    turned = by_row(engine.generate(checkpoint, PROMPTS[::-1], sampling(num_samples=2)))
    assert {(4 - problem, sample): tokens for (problem, sample), tokens in turned.items()} == few
    assert by_row(engine.generate(checkpoint, PROMPTS, sampling(num_samples=2, seed=8))) != few
    assert few[0, 0] != few[0, 1]


def test_batch_budget_changes_memory_alone(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = TransformersEngine._generate_batch

    def record(self: TransformersEngine, model: Any, batch: Any, *rest: Any) -> list[list[int]]:
        sizes.append(len(batch) * (max(len(row.prompt) for row in batch) + 40))
        return original(self, model, batch, *rest)

    monkeypatch.setattr(TransformersEngine, "_generate_batch", record)
    whole = TransformersEngine().generate(checkpoint, PROMPTS, sampling())
    assert len(sizes) == 1
    assert TransformersEngine(max_batch_tokens=100).generate(checkpoint, PROMPTS, sampling()) == whole
    assert len(sizes) > 5
    assert max(sizes[1:]) <= 100


def test_progress_and_global_random_state(checkpoint: Path) -> None:
    seen: list[tuple[int, int]] = []
    before = torch.get_rng_state()
    TransformersEngine(max_batch_tokens=100).generate(
        checkpoint, PROMPTS, sampling(), lambda done, total: seen.append((done, total))
    )
    assert torch.equal(before, torch.get_rng_state())
    assert seen[-1] == (15, 15)
    assert seen == sorted(set(seen))


def test_too_long_requests_name_both_numbers(checkpoint: Path) -> None:
    with pytest.raises(
        UserError, match=r"prompt 2 has 7 tokens and sampling\.max_new_tokens is 58: together 65.* 64 pos"
    ):
        TransformersEngine().generate(checkpoint, PROMPTS, sampling(max_new_tokens=58))
    with pytest.raises(UserError, match=r"together 47, more than engine\.max_batch_tokens=45"):
        TransformersEngine(max_batch_tokens=45).generate(checkpoint, PROMPTS, sampling())
    with pytest.raises(UserError, match="prompt 1 is empty"):
        TransformersEngine().generate(checkpoint, [[1], []], sampling())


def test_unusable_folders_are_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is no Hugging Face folder that can be loaded"):
        TransformersEngine().generate(tmp_path / "nowhere", PROMPTS, sampling())
    mute = shutil.copytree(checkpoint, tmp_path / "mute")
    for name, key in (("config.json", "eos_token_id"), ("tokenizer_config.json", "eos_token")):
        content = json.loads((mute / name).read_text())
        (mute / name).write_text(json.dumps({k: v for k, v in content.items() if k != key}))
    (mute / "generation_config.json").unlink()
    with pytest.raises(UserError, match="mute names no end token"):
        TransformersEngine().generate(mute, PROMPTS, sampling())


def test_settings_speak_for_the_numbers() -> None:
    engine = TransformersEngine(max_batch_tokens=99, dtype="bfloat16", device="cpu")
    assert engine.settings == {"dtype": "bfloat16", "device": "cpu", "max_batch_tokens": 99}
    assert engine.versions["torch"].startswith(torch.__version__.split("+")[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -1.0}, r"sampling\.temperature must be not negative, got -1"),
        ({"temperature": float("nan")}, r"sampling\.temperature"),
        ({"top_p": 0.0}, r"sampling\.top_p must be in \(0, 1\], got 0"),
        ({"max_new_tokens": 0}, r"sampling\.max_new_tokens must be at least 1"),
        ({"num_samples": 0}, r"sampling\.num_samples must be at least 1"),
        ({"seed": -1}, r"sampling\.seed must be not negative"),
    ],
)
def test_bad_sampling_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampling(**changes)


def test_bad_engine_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="max_batch_tokens must be at least 1, got 0"):
        TransformersEngine(max_batch_tokens=0)
    with pytest.raises(ValueError, match="dtype must be float32, bfloat16 or auto, got int8"):
        TransformersEngine(dtype="int8")
