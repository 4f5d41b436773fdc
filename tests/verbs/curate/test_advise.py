"""The verb from the command line, and what it concludes from counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from redi_lab.cli import main
from redi_lab.curation.advice import Risk
from redi_lab.verbs.curate.advise import Advice

SMALL = ("data.source.num_heldout=0", "data.num_development=0", "eval=none")


def test_it_counts_the_pairs_of_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Most of the embedded task's risk is the phrase of haste, whose edge lies near 0.6."""
    told = []
    for name, more in (
        ("all", ["data.source.num_problems=3000"]),
        ("some", ["data.source.num_problems=400", "pairs=20"]),
    ):
        folder = tmp_path / name
        main(["curate", "advise", *SMALL, *more, f"paths.output_dir={folder}", f"paths.outputs_dir={tmp_path}"])
        assert (folder / "advice.png").stat().st_size > 5_000
        told.append((capsys.readouterr().out, json.loads((folder / "summary.json").read_text())))
    (screen, whole), (few, part) = told
    assert whole["tells"]
    assert 0.5 < whole["alpha_beyond_chance"]["0.05"] < 0.75
    assert whole["advised_alpha"] < whole["alpha_beyond_chance"]["0.05"] <= whole["advised_alpha"] + 0.05
    assert f"Advice:     loss.alpha={whole['advised_alpha']:g}; from " in screen
    assert "see it in my head" in screen
    assert whole["share_at_risk"] == sorted(whole["share_at_risk"])
    assert part["num_pairs"] == 20
    assert "Counted are 20 of " in few


def risk(edges: list[float], masses: list[float]) -> Risk:
    return Risk(np.array(edges), np.array(masses), np.zeros(len(edges), dtype=np.int64))


def test_conclusions() -> None:
    none = risk([np.inf], [1.0])
    found = Advice(risk([0.4, 0.62, np.inf], [0.03, 0.1, 0.87]), [none])
    assert (found.alpha(0.05), found.alpha(0.15), found.advised()) == (0.63, None, 0.6)
    assert found.sentence() == "loss.alpha=0.6; from 0.63 on, more than 5% is at risk beyond chance"
    assert Advice(risk([0.549], [1.0]), [none]).advised() == 0.5
    quiet = Advice(risk([0.4, np.inf], [0.03, 0.97]), [none])
    assert (quiet.advised(), quiet.tells) == (None, True)
    assert "nothing here speaks against" in quiet.sentence()
    noise = Advice(risk([0.4, np.inf], [0.3, 0.7]), [risk([0.3, np.inf], [0.3, 0.7]), none])
    assert (noise.tells, noise.alpha(0.05), noise.advised()) == (False, 0.41, None)
    assert noise.sentence().startswith("none. ")
    assert noise.by_chance[-1] == pytest.approx(0.15)
