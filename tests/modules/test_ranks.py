"""Two ranks do what one does: same parameters after each step, same numbers in the log."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.modules.ranks_worker import BATCH_SIZES, train
from tests.modules.tiny_runs import HARMLESS_WARNINGS, make_data, relative_error

pytestmark = [pytest.mark.slow, *(pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS)]
every_objective = pytest.mark.parametrize("objective", list(BATCH_SIZES))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Outcomes of each objective, as rank 0 and rank 1 saw them."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.modules.ranks_worker", str(folder)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SLURM"))}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]


@every_objective
def test_two_ranks_give_the_parameters_of_one(objective: str, two_ranks: list[dict[str, Any]]) -> None:
    first, second = (rank[objective] for rank in two_ranks)
    assert (first["world_size"], first["rank"], second["rank"]) == (2, 0, 1)
    assert torch.equal(first["parameters"], second["parameters"])

    alone = train(objective)["parameters"]
    data = make_data(objective, batch_size=BATCH_SIZES[objective], num_validation=4)
    if objective != "unpaired_redi":  # whose batches are of nearly one size
        assert len(data.train_examples) % BATCH_SIZES[objective] == 1  # the last batch is smaller than the ranks
    assert len(alone) == len(first["parameters"]) == len(data.train_dataloader())
    for step, (one, two) in enumerate(zip(alone, first["parameters"], strict=True)):
        assert relative_error(two, one) < 1e-5, step
    assert relative_error(alone[-1], alone[-2]) > 1e-3  # the step of a small last batch moves, too


@every_objective
def test_two_ranks_log_the_numbers_of_one(objective: str, two_ranks: list[dict[str, Any]]) -> None:
    alone = train(objective)
    for stage in ("train", "val"):
        logged = two_ranks[0][objective][stage]
        assert len(logged) == len(alone[stage]) > 0
        for two, one in zip(logged, alone[stage], strict=True):
            assert two.keys() == one.keys()
            for name in one.keys() - {"train/tokens_per_second", "train/row_fill"}:  # of each rank's own share
                assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name
