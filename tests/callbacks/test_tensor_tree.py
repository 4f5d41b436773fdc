"""Trees of state come back as they were."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from redi_lab.callbacks.tensor_tree import flatten_tree, unflatten_tree


def through_files(tree: Any, **options: Any) -> Any:
    content, tensors = flatten_tree(tree, **options)
    return unflatten_tree(json.loads(json.dumps(content)), load(save(tensors)))


def test_structure_types_and_extremes_survive() -> None:
    tree = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 3)}, 1: {}},
        "groups": [{"betas": (0.9, 0.999), "lr": 1e-323, "foreach": None, "fused": True}],
        "best": -math.inf,
        "$tensor": "a key that means something to the format",
        "half": torch.tensor([1.0], dtype=torch.bfloat16),
        "empty": [(), [], {}],
    }
    back = through_files(tree)
    assert torch.equal(back["state"][0].pop("exp_avg"), tree["state"][0].pop("exp_avg"))  # type: ignore[index]
    assert back["half"].dtype == torch.bfloat16
    assert back == tree
    assert type(back["groups"][0]["betas"]) is tuple
    assert math.isnan(through_files({"a": math.nan})["a"])


def test_tensors_that_share_memory_are_stored_apart() -> None:
    whole = torch.arange(6.0)
    back = through_files({"a": whole, "b": whole, "part": whole[2:4], "turned": whole.view(2, 3).T})
    assert torch.equal(back["a"], whole)
    assert torch.equal(back["b"], whole)
    assert torch.equal(back["part"], whole[2:4])
    assert torch.equal(back["turned"], whole.view(2, 3).T)


def test_small_tensors_can_lie_in_the_json_itself() -> None:
    content, tensors = flatten_tree({"rng": torch.get_rng_state()}, inline=True)
    assert not tensors
    assert torch.equal(unflatten_tree(json.loads(json.dumps(content)), {})["rng"], torch.get_rng_state())


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": [1, {"b": object()}]}, "a/1/b: cannot store a object without pickle"),
        ({"a": {(1, 2): 3}}, "a: cannot store a key of type tuple"),
        ({1, 2}, "the state: cannot store a set"),
    ],
)
def test_what_only_pickle_could_store_is_refused_by_its_place(tree: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        flatten_tree(tree)
