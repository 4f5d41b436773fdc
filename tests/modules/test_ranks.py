"""Several ranks do what one does: same losses, same gradients, same parameters after each step, same log."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.modules.ranks_worker import BATCH_SIZES, CASES, IN_4_BITS, OPTIONS, WORLDS, alone, errors, on_ranks
from tests.modules.tiny_runs import HARMLESS_WARNINGS, make_data, relative_error

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]
FEW = {"ddp": ["redi/packed", "kto/packed"], "fsdp2": ["redi/packed", "rpo/padded"]}
"""Sides of a pair on different ranks; a number of the whole batch; pairs that stay together and read the head twice."""
Outcomes = Callable[[str, int], list[dict[str, Any]]]


def others(strategy: str, ranks: int) -> list[str]:
    """All cases that are not among the few."""
    return [case for case in (*CASES, *OPTIONS) if ranks != 2 or case not in FEW.get(strategy, ())]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The few cases under both strategies, trained in one go: to start ranks takes long."""
    return on_ranks(FEW, 2, tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """All other cases of a strategy and number of ranks, likewise."""

    @cache  # also of a failure, which would else be waited for in every case
    def train(strategy: str, ranks: int) -> list[dict[str, Any]] | AssertionError:
        try:
            cases = {strategy: others(strategy, ranks)}
            return [found[strategy] for found in on_ranks(cases, ranks, tmp_path_factory.mktemp(strategy))]
        except AssertionError as error:
            return error

    def found(strategy: str, ranks: int) -> list[dict[str, Any]]:
        outcome = train(strategy, ranks)
        if isinstance(outcome, AssertionError):
            raise outcome
        return outcome

    return found


@pytest.mark.parametrize(("strategy", "case"), [(strategy, case) for strategy in FEW for case in FEW[strategy]])
def test_two_ranks_do_what_one_does(strategy: str, case: str, few: list[dict[str, Any]]) -> None:
    compare_with_one(case, [rank[strategy][case] for rank in few])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("strategy", "ranks", "case"), [(*world, case) for world in WORLDS for case in others(*world)])
def test_any_ranks_do_what_one_does(strategy: str, ranks: int, case: str, outcomes: Outcomes) -> None:
    compare_with_one(case, [rank[case] for rank in outcomes(strategy, ranks)])


@pytest.mark.slow
def test_two_ranks_train_adapters_on_4_bit_weights_as_one_does(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="pip install 'redi-lab[qlora]'")
    compare_with_one(IN_4_BITS, [rank["ddp"][IN_4_BITS] for rank in on_ranks({"ddp": [IN_4_BITS]}, 2, tmp_path)])


def compare_with_one(case: str, ranks: list[dict[str, Any]]) -> None:
    """The loss to 1e-6, the gradient and all parameters to 1e-5 of their norm; further steps add up what is rounded."""
    first, one = ranks[0], alone(case)
    is_exact = not case.endswith("bf16")
    assert [(found["world_size"], found["rank"]) for found in ranks] == [
        (len(ranks), rank) for rank in range(len(ranks))
    ]
    for other in ranks:
        assert torch.equal(first["parameters"], other["parameters"])
    loss, gradient, parameters = errors(case, first)
    assert loss < (1e-6 if is_exact else 1e-3)
    assert gradient < (1e-5 if is_exact else 0.05)
    assert parameters < (1e-5 if is_exact else 1e-3)
    assert relative_error(one["parameters"][-1], one["parameters"][-2]) > 1e-3  # a small last batch moves, too
    rel, most = (1e-4, 1e-5) if is_exact else (0.05, 0.05)
    for stage in ("train", "val", "probe", "conflict"):
        assert len(first[stage]) == len(one[stage])
        assert len(one[stage]) > 0 or (stage == "conflict" and case.startswith(("sft", "token_reward")))
        for number, (found, expected) in enumerate(zip(first[stage], one[stage], strict=True)):
            assert found.keys() == expected.keys()
            if not is_exact and number > 0:
                continue  # bf16 alone, on one rank, moves sums of log-probs by a tenth within these steps
            for name in expected.keys() - {"train/tokens_per_second", "train/row_fill", "train/padding_share"}:
                assert found[name] == pytest.approx(expected[name], rel=rel, abs=most), name


@pytest.mark.parametrize("objective", ["sft", "redi"])
def test_the_last_batch_is_smaller_than_the_ranks(objective: str) -> None:
    """So the cases above have a rank without a share (of pairs that stay together, or of demonstrations)."""
    data = make_data(objective, batch_size=BATCH_SIZES[objective], num_validation=4)
    assert len(data.train_examples) % BATCH_SIZES[objective] == 1
