"""The table at the end of a run."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from redi_lab.config.compose import load_config
from redi_lab.verbs.train.report import score_table


def test_the_table_of_the_embedded_task_fits_80_columns() -> None:
    scores = ("pass_at_1", "pass_at_1_ci_low", "pass_at_1_ci_high", "pass_at_4", "greedy_pass_at_1", "haste", "columns")
    metrics = dict.fromkeys((*scores, "truncation_rate", "unknown_rate"), 1.0) | {"num_samples": 4, "num_problems": 600}
    result: Any = SimpleNamespace(metrics=metrics, benchmark="arithmetic")
    stages = [SimpleNamespace(name=name, config=load_config("train", [])) for name in ("demo_sft_continued", "demo")]
    outcomes: Any = [SimpleNamespace(stage=stage, result=result, best=None) for stage in stages]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(score_table(outcomes))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    for heading in ("stage", "objective", "pass@4", "greedy", "haste", "columns", "truncated", "unknown"):
        assert any(heading in line.split() for line in lines)
