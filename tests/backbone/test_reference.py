"""log π_ref: what it is, and when the cache may answer for the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.reference import score_reference
from redi_lab.data.batches import BatchDataset
from redi_lab.data.packing import MicroBatch
from redi_lab.data.tokenization import TokenizedSequence
from tests.backbone.conftest import MakeBackbone, MakeSequences


@pytest.fixture
def pairs(make_sequences: MakeSequences) -> list[tuple[TokenizedSequence, ...]]:
    """70 pairs, more than are scored at a time, of 3 to 16 tokens."""
    sequences = make_sequences([3 + (5 * i) % 14 for i in range(140)])
    return list(zip(sequences[::2], sequences[1::2], strict=True))


def dataset_of(pairs: list[tuple[TokenizedSequence, ...]], token_budget: int = 64) -> BatchDataset:
    return BatchDataset(pairs, token_budget, split_examples=True)


@pytest.fixture
def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every forward pass of any model."""
    calls: list[int] = []
    plain = CausalLM.hidden_states

    def counted(self: CausalLM, batch: MicroBatch) -> Tensor:
        calls.append(1)
        return plain(self, batch)

    monkeypatch.setattr(CausalLM, "hidden_states", counted)
    return calls


def logps_of(*args: Any, **options: Any) -> list[list[float]]:
    """The log-probs of the sequences of each example."""
    return [[scores.logps for scores in row] for row in score_reference(*args, keeps_tokens=False, **options)]


@torch.no_grad()
def one_by_one(model: Any, pairs: list[tuple[TokenizedSequence, ...]]) -> list[list[float]]:
    """Each completion by transformers alone."""
    model.set_attn_implementation("eager")
    rows = []
    for pair in pairs:
        values = []
        for sequence in pair:
            ids = torch.tensor([sequence.input_ids])
            logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
            values.append(float(logps[sequence.prompt_length - 1 :].sum()))
        rows.append(values)
    return rows


def test_equals_direct_scoring(
    make_backbone: MakeBackbone, pairs: list[tuple[TokenizedSequence, ...]], tmp_path: Path
) -> None:
    """For each sequence of each pair, in the order of the data set; the cache gives back the same numbers."""
    progress: list[tuple[int, int]] = []
    reference = make_backbone().eval()
    values = logps_of(
        reference, dataset_of(pairs), cache_dir=tmp_path / "new", on_progress=lambda *seen: progress.append(seen)
    )
    again = logps_of(reference, dataset_of(pairs), cache_dir=tmp_path / "new")
    assert again == values
    assert progress == [(64, 70), (70, 70)]
    expected = torch.tensor(one_by_one(reference.model, pairs))
    assert expected.shape == (70, 2)
    torch.testing.assert_close(torch.tensor(values), expected, rtol=1e-5, atol=1e-4)


def test_the_cache_answers_for_the_same_content(
    make_backbone: MakeBackbone,
    pairs: list[tuple[TokenizedSequence, ...]],
    count_calls: list[int],
    tmp_path: Path,
) -> None:
    """Whatever the budget, the names of the rows and the object that holds the weights."""
    values = logps_of(make_backbone(), dataset_of(pairs), cache_dir=tmp_path)
    twin = make_backbone()
    count_calls.clear()
    renamed = [tuple(TokenizedSequence("x", s.input_ids, s.prompt_length) for s in pair) for pair in pairs]
    assert logps_of(twin, dataset_of(renamed, token_budget=500), cache_dir=tmp_path) == values
    assert count_calls == []
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]  # nothing half-written stays


def with_one_other_token(pairs: list[tuple[TokenizedSequence, ...]]) -> list[tuple[TokenizedSequence, ...]]:
    chosen, rejected = pairs[-1]
    ids = [*rejected.input_ids[:-1], (rejected.input_ids[-1] + 1) % 300]
    return [*pairs[:-1], (chosen, TokenizedSequence(rejected.id, ids, rejected.prompt_length))]


def with_longer_prompt(pairs: list[tuple[TokenizedSequence, ...]]) -> list[tuple[TokenizedSequence, ...]]:
    """The same tokens, one of them no longer part of a completion."""
    chosen, rejected = pairs[-1]
    return [*pairs[:-1], (chosen, TokenizedSequence(rejected.id, rejected.input_ids, rejected.prompt_length + 1))]


@pytest.mark.parametrize(
    ("model", "tokens", "precision"),
    [
        ({"seed": 1}, None, "32-true"),
        # No weight differs, only what is computed with them.
        ({"config": {"rope_theta": 5.0}}, None, "32-true"),
        ({"config": {"rms_norm_eps": 0.1}}, None, "32-true"),
        ({"dtype": "bfloat16"}, None, "32-true"),
        ({}, None, "bf16-mixed"),
        ({}, with_one_other_token, "32-true"),
        ({}, with_longer_prompt, "32-true"),
        ({}, lambda pairs: pairs[::-1], "32-true"),
    ],
    ids=["weights", "rope", "norm", "dtype", "precision", "token", "prompt", "order"],
)
def test_anything_else_is_computed_anew(
    model: dict[str, Any],
    tokens: Callable[[Any], Any] | None,
    precision: str,
    make_backbone: MakeBackbone,
    pairs: list[tuple[TokenizedSequence, ...]],
    count_calls: list[int],
    tmp_path: Path,
) -> None:
    logps_of(make_backbone(), dataset_of(pairs), cache_dir=tmp_path)
    other, other_pairs = make_backbone(**model), pairs if tokens is None else tokens(pairs)
    count_calls.clear()
    logps_of(other, dataset_of(other_pairs), cache_dir=tmp_path, precision=precision)
    assert count_calls
    assert len(list(tmp_path.iterdir())) == 2


def test_one_changed_weight_misses_the_cache(
    make_backbone: MakeBackbone,
    pairs: list[tuple[TokenizedSequence, ...]],
    count_calls: list[int],
    tmp_path: Path,
) -> None:
    reference = make_backbone()
    before = logps_of(reference, dataset_of(pairs), cache_dir=tmp_path)
    with torch.no_grad():
        reference.model.model.layers[1].mlp.down_proj.weight[3, 5] += 0.5
    count_calls.clear()
    assert logps_of(reference, dataset_of(pairs), cache_dir=tmp_path) != before
    assert count_calls


def test_scoring_leaves_no_graph_behind(
    make_backbone: MakeBackbone, pairs: list[tuple[TokenizedSequence, ...]], tmp_path: Path
) -> None:
    reference = make_backbone()
    assert all(
        isinstance(value, float) for row in logps_of(reference, dataset_of(pairs), cache_dir=tmp_path) for value in row
    )
    assert all(parameter.grad is None for parameter in reference.parameters())
