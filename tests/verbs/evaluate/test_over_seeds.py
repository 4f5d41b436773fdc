from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from redi_lab.cli import main
from redi_lab.errors import UserError
from redi_lab.verbs.evaluate.over_seeds import compare_kinds, read_kinds, run_seed_comparison
from tests.verbs.evaluate.test_compare import judged_run

MATH = {"math": 0.4}


def trainings(
    root: Path, name: str, chances: Mapping[str, float], seeds: tuple[int, ...], **options: str
) -> list[Path]:
    return [judged_run(root, name, chances, seed=seed, **options) for seed in seeds]  # type: ignore[arg-type]


def test_findings_in_words_numbers_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = trainings(tmp_path, "sft", MATH, (1, 2, 3)) + trainings(tmp_path, "redi", {"math": 0.8}, (3, 1, 2))
    folders += trainings(tmp_path, "other", {"math": 0.42}, (1, 2, 3))
    main(["evaluate", "compare", "--over-seeds", *map(str, folders), f"paths.output_dir={tmp_path / 'out'}"])
    said = capsys.readouterr().out
    assert "math: redi is better than sft: +0." in said
    assert "over 3 seeds and 50 problems" in said
    assert "other is not told apart from sft" in said
    assert "seeds" in said.split("other is not told apart")[1]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [row["finding"] for row in summary["comparisons"]] == ["better", "undecided"]
    assert summary["comparisons"][0]["seeds"] == [1, 2, 3]
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 5000


def test_an_evaluation_stands_for_the_training_of_its_checkpoint(tmp_path: Path) -> None:
    """Evaluated later, by a verb whose own seed says nothing of the training's."""
    sft = trainings(tmp_path, "sft", MATH, (1, 2))
    redi = trainings(tmp_path, "redi", {"math": 0.8}, (1, 2))
    later = judged_run(tmp_path, "evaluate", {"math": 0.9})
    summary = json.loads((later / "summary.json").read_text())
    summary["checkpoint"] = str(redi[0] / "checkpoints" / "last")
    (later / "summary.json").write_text(json.dumps(summary))
    kinds = read_kinds([*sft, later, redi[1]])
    assert {name: sorted(runs) for name, runs in kinds.items()} == {"sft": [1, 2], "redi": [1, 2]}
    assert kinds["redi"][1].folder == later
    summary["checkpoint"] = str(tmp_path / "elsewhere")
    (later / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match="lies in no training's folder, so its seed is unknown"):
        read_kinds([*sft, later, redi[1]])


def test_problems_of_their_own_for_each_seed(tmp_path: Path) -> None:
    """As on the embedded task, where the seed makes the problems: these are counted over all seeds."""
    folders = [
        judged_run(tmp_path, name, {"math": chance}, seed=seed, digest=f"made of {seed}")
        for name, chance in (("sft", 0.4), ("redi", 0.8))
        for seed in (1, 2, 3)
    ]
    (made,) = compare_kinds(read_kinds(folders))
    assert made.comparison.estimate.num_problems == 150
    assert made.comparison.seed_deviation is None


def test_each_benchmark_is_compared_and_corrected_for(tmp_path: Path) -> None:
    chances = {"math": 0.4, "olympiad": 0.2}
    better = {name: chance + 0.3 for name, chance in chances.items()}
    made = compare_kinds(
        read_kinds(trainings(tmp_path, "sft", chances, (1, 2)) + trainings(tmp_path, "redi", better, (1, 2)))
    )
    assert [one.benchmark for one in made] == ["math", "olympiad"]
    assert all(one.holm >= one.comparison.p_value for one in made)
    assert max(one.holm / one.comparison.p_value for one in made) == pytest.approx(2)


def test_refusals(tmp_path: Path) -> None:
    sft = trainings(tmp_path, "sft", MATH, (1, 2))
    redi = trainings(tmp_path, "redi", MATH, (1, 2, 3))
    with pytest.raises(UserError, match="sft has the seeds 1, 2, redi has 1, 2, 3; give both the same"):
        read_kinds([*sft, *redi])
    with pytest.raises(UserError, match=r"all runs are called sft; .* \(name=NAME\)"):
        read_kinds(sft)
    with pytest.raises(UserError, match="seed 1 of sft was given already"):
        read_kinds([sft[0], sft[0], *redi])
    with pytest.raises(UserError, match="sft: has one seed"):
        read_kinds([sft[0], redi[0]])
    with pytest.raises(UserError, match="usage: evaluate compare"):
        run_seed_comparison([])
    other = trainings(tmp_path, "other", MATH, (1, 2), digest="different")
    with pytest.raises(UserError, match="math: sft and other were evaluated on different problems"):
        compare_kinds(read_kinds([*sft, *other]))
