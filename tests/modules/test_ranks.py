"""Two ranks do what one does: same losses and gradients, same parameters after each step, same numbers in the log."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.modules.ranks_worker import BATCH_SIZES, CASES, IN_4_BITS, train
from tests.modules.tiny_runs import HARMLESS_WARNINGS, make_data, relative_error

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]
FEW = ["redi/packed", "rpo/padded", "kto/packed"]
"""Sides of a pair on different ranks, pairs that stay together, a number of the whole batch."""


def on_two_ranks(cases: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Outcomes of each case, as rank 0 and rank 1 saw them."""
    command = [sys.executable, "-m", "tests.modules.ranks_worker", str(folder), *cases]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SLURM"))}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_two_ranks(FEW, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_two_ranks([case for case in CASES if case not in FEW], tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", FEW)
def test_two_ranks_do_what_one_does(case: str, few: list[dict[str, Any]]) -> None:
    _compare_with_one(case, *(rank[case] for rank in few))


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in FEW])
def test_two_ranks_do_what_one_does_in_every_case(case: str, others: list[dict[str, Any]]) -> None:
    _compare_with_one(case, *(rank[case] for rank in others))


@pytest.mark.slow
def test_two_ranks_train_adapters_on_4_bit_weights_as_one_does(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="pip install 'redi-lab[qlora]'")
    _compare_with_one(IN_4_BITS, *(rank[IN_4_BITS] for rank in on_two_ranks([IN_4_BITS], tmp_path)))


def _compare_with_one(case: str, first: dict[str, Any], second: dict[str, Any]) -> None:
    """The loss to 1e-6, the gradient and all parameters to 1e-5 of their norm; further steps add up what is rounded."""
    assert (first["world_size"], first["rank"], second["rank"]) == (2, 0, 1)
    assert torch.equal(first["parameters"], second["parameters"])
    assert first["train"] != []
    alone = train(case)
    assert relative_error(first["gradient"], alone["gradient"]) < 1e-5
    assert first["train"][0]["train/loss"] == pytest.approx(alone["train"][0]["train/loss"], rel=1e-6, abs=1e-6)
    assert len(alone["parameters"]) == len(first["parameters"])
    for step, (one, two) in enumerate(zip(alone["parameters"], first["parameters"], strict=True)):
        assert relative_error(two, one) < 1e-5, step
    assert relative_error(alone["parameters"][-1], alone["parameters"][-2]) > 1e-3  # a small last batch moves, too
    for stage in ("train", "val"):
        assert len(first[stage]) == len(alone[stage]) > 0
        for two, one in zip(first[stage], alone[stage], strict=True):
            assert two.keys() == one.keys()
            for name in one.keys() - {"train/tokens_per_second", "train/row_fill", "train/padding_share"}:
                assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("objective", ["sft", "redi"])
def test_the_last_batch_is_smaller_than_the_ranks(objective: str) -> None:
    """So the cases above have a rank without a share (of pairs that stay together, or of demonstrations)."""
    data = make_data(objective, batch_size=BATCH_SIZES[objective], num_validation=4)
    assert len(data.train_examples) % BATCH_SIZES[objective] == 1
