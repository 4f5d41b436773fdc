"""The study of the second task's regime: its commands compose, and its tables say what the rows say."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.embedded_tasks.run import BENCHMARKS, MEASURED, PER_NAT, RUNS, SCORES, SFT, SLOPE, regime, table
from redi_lab.config.compose import load_config


@pytest.mark.parametrize("name", RUNS)
def test_rates_are_the_papers_times_40(name: str) -> None:
    stage = RUNS[name] if name == SFT else ["+experiment=chains", *RUNS[name]]
    config = load_config("train", [*stage, *MEASURED])
    paper = {SFT: 5e-5, "SimPO β 2 γ 1": 5e-7, "SimPO β 10 γ 5": 3e-7, "DPO β 0.03": 2e-7}.get(name, 1e-6)
    assert config.optimizer.lr == pytest.approx(40 * paper)
    assert config.data.source._target_ == "redi_lab.data.chains.ChainsSource"


def row(pass_at_1: float, **training: list[float]) -> dict[str, Any]:
    scores = {benchmark: dict.fromkeys(SCORES, pass_at_1) for benchmark in BENCHMARKS}
    return {**scores, "seconds": 41.4, "pairs": 700, **training}


def test_tables() -> None:
    sides = {"train/mean_logps/chosen": [-0.1, -0.2], "train/mean_logps/rejected": [-0.14, -0.45]}
    sides |= {"probe/chosen_mean_logps": [-0.1, -0.2], "probe/rejected_mean_logps": [-0.11, -0.3]}
    runs = {SFT: row(0.5), "SimPO β 2 γ 1": row(0.25, **sides, **{SLOPE: [0.714, 0.62], PER_NAT: [0.0, 0.476]})}
    assert table(runs)[2:] == [
        "| SFT | 0.5 | 0.5 | 0.5 | 0.5 | 0.5 | 0.5 | 0.500 | 0.500 | – | – | – | 41 |",
        "| SimPO β 2 γ 1 | " + "0.25 | " * 6 + "0.250 | 0.250 | 0.040 → 0.250 | 0.48 | 0.71 → 0.62 | 41 |",
    ]
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ")[-1].strip("| ") for line in regime(runs)[2:]}
    assert cells["pass@1 after SFT"] == "0.50"
    assert cells["the same on pairs that are not trained on"] == "0.010 → 0.100"
    assert cells["slope of the sigmoid, SimPO β 2 γ 1"] == "0.71 → 0.62"
    assert cells["slope of the sigmoid, SimPO β 10 γ 5"] == "–"
