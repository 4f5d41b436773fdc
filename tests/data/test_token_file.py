"""What is read back makes the very batches that the examples made."""

from __future__ import annotations

import dataclasses
from array import array
from pathlib import Path
from typing import Any

import torch

from redi_lab.data.batches import BatchDataset
from redi_lab.data.examples import Example
from redi_lab.data.packing import Batch, MicroBatch, Reference
from redi_lab.data.token_file import load_sets, save_sets
from redi_lab.data.tokenization import TokenizedSequence

PAIRS: list[Example] = [
    (
        TokenizedSequence("a/1\n", array("i", [5, 6, 7, 8]), 2, True, 0.1, 0.3, (0.1, -2.0)),
        TokenizedSequence("a/1\n", array("i", [5, 6, 9]), 2, False, 0.1, 0.3),
    ),
    (TokenizedSequence("b", (3, 4), 1), TokenizedSequence("b", (3, 1, 2), 1, False)),
]


def plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), value.nan_to_num(-7.0).tolist()]
    if isinstance(value, Batch | MicroBatch):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [plain(one) for one in value] if isinstance(value, list) else value


def test_batches_are_the_same_to_the_bit(tmp_path: Path) -> None:
    pairs = BatchDataset(PAIRS, 7, split_examples=True)
    tokens = [[torch.tensor([-0.1, -0.2]), torch.tensor([-0.3])], [torch.tensor([-0.4]), torch.tensor([-0.5, -0.6])]]
    pairs.reference = [[Reference(-1 / 3, one) for one in example] for example in tokens]
    alone = BatchDataset([(s,) for pair in PAIRS for s in pair], 20, split_examples=True, is_padded=True)
    alone.mismatch()
    assert alone.mismatched is not None
    alone.mismatched.reference = [[Reference(-0.1)] for _ in alone.examples]
    sets = {"train": pairs, "val": alone, "none": BatchDataset([], 7, split_examples=False)}
    save_sets(tmp_path / "tokens", sets)
    found = load_sets(tmp_path / "tokens")
    assert found.keys() == sets.keys()
    assert list(found["none"].examples) == []
    for name, indices in (("train", [1, 0]), ("val", [0, 3, 1])):
        assert plain(found[name][indices]) == plain(sets[name][indices])
    assert found["train"].examples[0][0].token_weights == (0.1, -2.0)
    assert found["train"].examples[0][1].token_weights is None
