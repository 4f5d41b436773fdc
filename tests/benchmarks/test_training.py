"""The training benchmark: what it draws and counts, how the sides keep step, and a run of all of it at tiny size."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from benchmarks.training import breakdown
from benchmarks.training.against_trl import PROFILES, ROOT, main, summary
from benchmarks.training.figures import write_results
from benchmarks.training.pace import Side
from benchmarks.training.redi_lab_side import train
from benchmarks.training.workload import SHAPES, Workload, draw_pairs, make_model

TINY = SHAPES["tiny"]


def make_workload(pairs: list[dict[str, list[int]]], **options: Any) -> Workload:
    given: dict[str, Any] = {"shape": "tiny", "objective": "redi", "precision": "bf16", "pairs_per_step": 1}
    return Workload(pairs=pairs, model="nowhere", micro_batch_tokens=80, **(given | options))


def test_lengths_are_as_the_shape_says() -> None:
    pairs = draw_pairs(TINY, 500)
    lengths = sorted(len(p["prompt"]) + len(p[side]) for p in pairs for side in ("chosen", "rejected"))
    assert lengths[-1] <= TINY.longest
    assert 0.8 < lengths[500] / TINY.median_length < 1.1  # too long ones were drawn again
    assert pairs == draw_pairs(TINY, 500)
    (pair,) = draw_pairs(TINY, 1, length=33)
    assert {len(pair["prompt"]) + len(pair[side]) for side in ("chosen", "rejected")} == {33}


def test_flops_by_hand() -> None:
    """Two sequences of 10 tokens, 6 of them completion; H = 32, 2 layers, 4 heads of 8, 2 of them for keys, MLP 48.

    A layer has 2·32² + 2·32·16 + 3·32·48 = 7,680 weights. A sequence takes 2·10·2·7,680 = 307,200 for them,
    2·2·10²·32 = 12,800 for attention and 2·6·32·499 = 191,616 for the head; three times that with its gradients.
    """
    work = make_workload([{"prompt": [1] * 4, "chosen": [1] * 6, "rejected": [1] * 6}])
    assert work.tokens(0) == 20
    assert work.flops(0) == 3 * 2 * (307_200 + 12_800 + 191_616)


def test_both_sides_read_what_was_written(tmp_path: Path) -> None:
    work = make_workload(draw_pairs(TINY, 2))
    assert Workload.read(work.write(tmp_path / "workload.json")) == work


CHILD = """
from benchmarks.training.pace import Pace
pace = Pace()
print("noise that must not reach the driver")
pace.report_and_wait(None)
sum(range(3_000_000))
pace.report_and_wait(0.5)
raise SystemExit("lost")
"""


def test_a_side_steps_when_told_and_its_end_is_an_error(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    side = Side("child", [sys.executable, "-c", CHILD], tmp_path / "log", environment)
    try:
        assert side.ready["loss"] is None
        report = side.step()
        assert report["loss"] == 0.5
        assert report["seconds"] > 0.0
        assert 2**20 < report["peak_bytes"] < 2**29  # its own, not that of this process
        with pytest.raises(RuntimeError, match=r"child ended with code 1:\n(.|\n)*noise(.|\n)*lost"):
            side.step()
    finally:
        side.close()


def test_ratios_leave_warm_up_out() -> None:
    work = make_workload(draw_pairs(TINY, 4))
    ours, theirs = (
        [{"seconds": s, "loss": 1.0 + 0.1 * i, "peak_bytes": 2**30} for i, s in enumerate(seconds)]
        for seconds in ([9.0, 9.0, 1.0, 2.0], [9.0, 9.0, 3.0, 10.0])
    )
    found = summary(work, {"redi_lab": ours, "trl": theirs})
    assert found["ratios"] == [3.0, 5.0]
    assert found["ratio"] == 4.0
    assert found["largest_loss_difference"] == 0.0
    assert found["redi_lab"]["tokens_per_second"] == (work.tokens(2) + work.tokens(3)) / 3.0


def test_results_are_written_as_a_table_and_plots(tmp_path: Path) -> None:
    side = {"seconds": [36.0], "tokens_per_second": 100.0, "flops_per_second": 4e9, "peak_bytes": 2**30}
    case = {"shape": "paper", "objective": "redi", "precision": "bf16", "pairs_per_step": 2, "gemm_peak": 1e10}
    compared = {"redi_lab": side, "trl": side | {"peak_bytes": 2**31}, "ratios": [1.5], "ratio": 1.5}
    results = {
        "machine": {"device": "abacus"},
        "cases": {"paper/redi/bf16": case | compared | {"largest_loss_difference": 0.001}},
        "own": {"redi_over_sft": 1.01},
        "scaling": {
            "length": [{"length": 8, "redi_lab": side}, {"length": 16, "redi_lab": side, "trl": side}],
            "batch": [{"pairs_per_step": 1, "redi_lab": side}],
        },
    }
    write_results(results, tmp_path, "some")
    text = (tmp_path / "some.md").read_text()
    assert "| paper/redi/bf16 | **1.50** (1.50–1.50) | 100 | 4 | 40% of 10 | 100 | 1.00 | 2.00 | 1.0e-03 |" in text
    assert "same tokens: 1.010" in text
    assert "53175 such pairs takes 265.9 h" in text  # 53,175 · 18 s
    assert json.loads((tmp_path / "some.json").read_text()) == results
    assert {file.name for file in tmp_path.glob("*.png")} == {"some-ratios.png", "some-scaling.png"}


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_profiles_name_what_there_is(profile: str) -> None:
    chosen = PROFILES[profile]
    assert {case.split("/")[0] for case in chosen.cases} | {chosen.scaling} <= set(SHAPES)
    assert all(SHAPES[case.split("/")[0]].longest <= chosen.row_tokens for case in chosen.cases)


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_our_side_takes_every_step(objective: str, tmp_path: Path) -> None:
    losses: list[float] = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            losses.append(float(trainer.callback_metrics["train/loss"]))

    model = make_model(TINY, tmp_path, longest=TINY.longest)
    work = make_workload(draw_pairs(TINY, 2), objective=objective, precision="fp32")
    train(replace(work, model=str(model), micro_batch_tokens=2 * TINY.longest), Keep())
    assert len(losses) == work.num_steps == 2
    assert all(map(math.isfinite, losses))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["--cases", "tiny/dpo/bf16", "--no-own", "--no-scaling"], []], ids=["one case", "all"]
)
def test_a_dry_run(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--profile", "tiny", "--trl", "", "--steps", "1", "--out", str(tmp_path), *arguments])
    found = json.loads((tmp_path / "tiny.json").read_text())
    assert all(case["redi_lab"]["tokens_per_second"] > 0.0 for case in found["cases"].values())
    assert (tmp_path / "tiny.md").read_text() in capsys.readouterr().out
    if not arguments:
        assert found["cases"].keys() == set(PROFILES["tiny"].cases)
        assert 0.2 < found["own"]["redi_over_sft"] < 5.0
        assert [case["length"] for case in found["scaling"]["length"]] == list(PROFILES["tiny"].lengths)


@pytest.mark.slow
def test_a_dry_run_of_the_breakdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    breakdown.main(["tiny/redi/bf16", "--steps", "1", "--out", str(tmp_path)])
    told = capsys.readouterr().out
    shares = [int(share) for share in re.findall(r"(\d+)%", told)]
    assert len(shares) == len(breakdown.PARTS)
    assert all(shares)
    assert sum(shares) == pytest.approx(100, abs=3)
    assert (tmp_path / "breakdown.png").stat().st_size > 1000


def test_a_missing_environment_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--trl", str(tmp_path)])
    assert "no environment there; make install-trl makes .venv-trl" in capsys.readouterr().err
