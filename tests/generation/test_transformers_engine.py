from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from redi_lab.errors import UserError
from redi_lab.generation.engines import Completion, SamplingParams
from redi_lab.generation.transformers_engine import TransformersEngine
from tests.generation.conftest import build_checkpoint
from tests.generation.drawing import generate

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
    completions = generate(TransformersEngine(), checkpoint, PROMPTS, sampling(temperature=0.0, num_samples=1))
    assert [made.token_ids for made in completions] == [greedy_by_hand(checkpoint, prompt, 40) for prompt in PROMPTS]


def test_completions_are_cut_described_and_ordered(checkpoint: Path) -> None:
    completions = generate(TransformersEngine(), checkpoint, PROMPTS, sampling())
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
    few = by_row(generate(engine, checkpoint, PROMPTS, sampling(num_samples=2)))
    many = by_row(generate(engine, checkpoint, PROMPTS, sampling(num_samples=5)))
    assert few.items() <= many.items()
    later = by_row(generate(engine, checkpoint, PROMPTS, sampling(num_samples=3, first_sample=2)))
    assert few | later == many
    turned = by_row(generate(engine, checkpoint, PROMPTS[::-1], sampling(num_samples=2)))
    assert {(4 - problem, sample): tokens for (problem, sample), tokens in turned.items()} == few
    assert by_row(generate(engine, checkpoint, PROMPTS, sampling(num_samples=2, seed=8))) != few
    assert few[0, 0] != few[0, 1]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_log_probs_are_the_models_own(checkpoint: Path, temperature: float) -> None:
    """By a full forward over prompt and completion, without cache and padding; other completions stay without."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    scored = sampling(temperature=temperature, wants_token_logps=True)
    made = generate(TransformersEngine(), checkpoint, PROMPTS, scored)
    for completion in made:
        tokens = torch.tensor([[*PROMPTS[completion.problem_index], *completion.token_ids]])
        with torch.no_grad():
            logps = model(tokens).logits[0, :-1].log_softmax(dim=-1).gather(-1, tokens[0, 1:, None]).squeeze(-1)
        assert completion.token_logps == pytest.approx(logps[-len(completion.token_ids) :].tolist(), abs=1e-4)
    plain = generate(TransformersEngine(), checkpoint, PROMPTS, sampling(temperature=temperature))
    assert by_row(plain) == by_row(made)
    assert {completion.token_logps for completion in plain} == {None}


def test_the_model_stays_loaded_until_it_changes(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []
    original = AutoModelForCausalLM.from_pretrained

    def load(path: Path, **arguments: Any) -> Any:
        loaded.append(path)
        return original(path, **arguments)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    engine, greedy = TransformersEngine(), sampling(temperature=0.0, num_samples=1)
    before = generate(engine, folder, PROMPTS, greedy)
    assert generate(engine, folder, PROMPTS, greedy) == before
    assert loaded == [folder]
    shutil.copy(build_checkpoint(tmp_path / "other", seed=1) / "model.safetensors", folder)
    assert generate(engine, folder, PROMPTS, greedy) != before
    engine.close()
    generate(engine, folder, PROMPTS, greedy)
    assert loaded == [folder] * 3


def test_batch_budget_changes_memory_alone(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = TransformersEngine._generate_batch

    def record(self: TransformersEngine, model: Any, batch: Any, *rest: Any) -> Any:
        sizes.append(len(batch) * (max(len(row.prompt) for row in batch) + 40))
        return original(self, model, batch, *rest)

    monkeypatch.setattr(TransformersEngine, "_generate_batch", record)
    whole = generate(TransformersEngine(), checkpoint, PROMPTS, sampling())
    assert len(sizes) == 1
    assert generate(TransformersEngine(max_batch_tokens=100), checkpoint, PROMPTS, sampling()) == whole
    assert len(sizes) > 5
    assert max(sizes[1:]) <= 100


def test_progress_and_global_random_state(checkpoint: Path) -> None:
    seen: list[tuple[int, int]] = []
    before = torch.get_rng_state()
    generate(
        TransformersEngine(max_batch_tokens=100),
        checkpoint,
        PROMPTS,
        sampling(),
        lambda done, total: seen.append((done, total)),
    )
    assert torch.equal(before, torch.get_rng_state())
    assert seen[-1] == (15, 15)
    assert seen == sorted(set(seen))


def test_progress_moves_as_completions_of_a_batch_finish(checkpoint: Path) -> None:
    """Short ones are reported before the batch that they share with long ones is done."""
    seen: list[tuple[int, int]] = []
    made = generate(
        TransformersEngine(), checkpoint, PROMPTS, sampling(), lambda done, total: seen.append((done, total))
    )
    lengths = [len(completion.token_ids) for completion in made]
    assert min(lengths) <= 16 < max(lengths)  # the first look is after 16 tokens
    assert seen[0] == (sum(length <= 16 for length in lengths), len(made))
    assert seen[-1] == (len(made), len(made))
    assert seen == sorted(set(seen))


def test_impossible_requests_are_refused(checkpoint: Path) -> None:
    with pytest.raises(
        UserError, match=r"prompt 2 has 7 tokens and sampling\.max_new_tokens is 58: together 65.* 64 pos"
    ):
        generate(TransformersEngine(), checkpoint, PROMPTS, sampling(max_new_tokens=58))
    with pytest.raises(UserError, match=r"together 47, more than engine\.max_batch_tokens=45"):
        generate(TransformersEngine(max_batch_tokens=45), checkpoint, PROMPTS, sampling())
    with pytest.raises(UserError, match="prompt 1 is empty"):
        generate(TransformersEngine(), checkpoint, [[1], []], sampling())
    with pytest.raises(UserError, match=r"nowhere cannot be loaded"):
        generate(TransformersEngine(), checkpoint / "nowhere", PROMPTS, sampling())


def test_settings_speak_for_the_numbers() -> None:
    engine = TransformersEngine(max_batch_tokens=99, dtype="bfloat16", device="cpu")
    assert engine.settings == {"dtype": "bfloat16", "device": "cpu", "max_batch_tokens": 99}
    assert engine.versions["torch"].startswith(torch.__version__.split("+")[0])
