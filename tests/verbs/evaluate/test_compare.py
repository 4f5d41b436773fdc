from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from redi_lab.errors import UserError
from redi_lab.evaluation.results import EvaluationResult, ResultRow, evaluation_key, save_result
from redi_lab.evaluation.scoring import score
from redi_lab.verbs.evaluate.compare import compare_all, read_run, run_evaluation_compare


def judged_run(
    root: Path,
    name: str,
    chances: Mapping[str, float],
    num_samples: int = 4,
    digest: str = "problems",
    temperature: float = 0.6,
    seed: int | None = None,
) -> Path:
    """A results folder as the verbs write it, with one evaluation of 50 problems for each benchmark.

    With a seed it is a training, else an evaluation.
    """
    parts, weights = {}, f"{name}{'' if seed is None else seed}"
    for benchmark, chance in chances.items():
        generator = np.random.default_rng([len(name), len(benchmark), seed or 0])
        verdicts = generator.random((50, num_samples)) < chance
        rows = tuple(
            ResultRow(str(problem), sample, "", "stop", "right" if is_right else "wrong", "", str(int(is_right)), 3)
            for problem, samples in enumerate(verdicts)
            for sample, is_right in enumerate(samples)
        )
        protocol = {"sampling": {"num_samples": num_samples, "temperature": temperature}}
        key = evaluation_key(weights, protocol, digest + benchmark)
        result = EvaluationResult(key, protocol, benchmark, digest + benchmark, weights, score(rows, num_samples), rows)
        save_result(root / "cache" / "evaluations", result)
        parts[benchmark] = {"evaluation": {"key": key, "protocol": protocol}}
    summary = next(iter(parts.values())) if len(parts) == 1 else {"benchmarks": parts}
    folder = root / f"{weights}-folder"
    folder.mkdir()
    verb = "evaluate" if seed is None else "train"
    head = {"name": name, "verb": verb, "config": {"paths": {"cache_dir": str(root / "cache")}, "seed": seed}}
    (folder / "summary.json").write_text(json.dumps(head | summary))
    return folder


def test_findings_in_words_numbers_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        judged_run(tmp_path, "sft", {"math": 0.4}),
        judged_run(tmp_path, "redi", {"math": 0.8}),
        judged_run(tmp_path, "other", {"math": 0.42}, temperature=1.0),
    ]
    output = run_evaluation_compare([*map(str, folders), f"paths.output_dir={tmp_path / 'out'}"])
    said = capsys.readouterr().out
    assert "redi is better than sft: +0." in said
    assert "adjusted" in said
    assert "other is not told apart from sft" in said
    assert "sft and other differ in more than weights: sampling (math)" in said
    summary = json.loads((output / "summary.json").read_text())
    assert [row["finding"] for row in summary["comparisons"]] == ["better", "undecided"]
    assert summary["averages"] == {}
    assert (output / "comparison.png").stat().st_size > 5000


def test_suites_are_compared_benchmark_by_benchmark_and_on_average(tmp_path: Path) -> None:
    chances = {"math": 0.4, "olympiad": 0.2}
    old = judged_run(tmp_path, "sft", chances)
    new = judged_run(tmp_path, "redi", {name: chance + 0.3 for name, chance in chances.items()}, num_samples=2)
    output = run_evaluation_compare([str(old), str(new), f"paths.output_dir={tmp_path / 'out'}"])
    summary = json.loads((output / "summary.json").read_text())
    assert [row["benchmark"] for row in summary["comparisons"]] == ["math", "olympiad"]
    average = summary["averages"]["redi − sft"]
    each = [row["comparison"]["difference"]["value"] for row in summary["comparisons"]]
    assert average["estimate"]["value"] == pytest.approx(np.mean(each))
    assert average["estimate"]["ci_low"] > 0
    assert average["p_value"] < 0.001
    assert [row["pass_at_k"]["estimate"]["num_samples"] for row in summary["comparisons"]] == [2, 2]


def test_runs_of_one_name_are_told_by_their_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (judged_run(tmp_path / side, "demo", {"math": 0.5}) for side in ("a", "b"))
    second = second.rename(second.with_name("again"))
    run_evaluation_compare([str(first), str(second), f"paths.output_dir={tmp_path / 'out'}"])
    assert "again is not told apart from demo-folder" in capsys.readouterr().out


def test_refusals(tmp_path: Path) -> None:
    old = judged_run(tmp_path, "sft", {"math": 0.4})
    other = judged_run(tmp_path, "redi", {"math": 0.4}, digest="different")
    suite = judged_run(tmp_path, "suite", {"math": 0.4, "aime": 0.1})
    with pytest.raises(UserError, match=r"usage: evaluate compare \[--over-seeds\] OLD_FOLDER NEW_FOLDER"):
        run_evaluation_compare([str(old)])
    with pytest.raises(UserError, match=r"eval\.limit=3: unknown key"):
        run_evaluation_compare([str(old), str(other), "eval.limit=3"])
    with pytest.raises(UserError, match="math: sft and redi "):
        run_evaluation_compare([str(old), str(other)])
    with pytest.raises(UserError, match=r"sft .* math, suite .* math"):
        compare_all(read_run(old), [read_run(suite)])
    with pytest.raises(UserError, match="no results folder with a readable summary"):
        read_run(tmp_path)
    for file in (tmp_path / "cache" / "evaluations").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="is gone; evaluate the checkpoint again"):
        read_run(old)
    (old / "summary.json").write_text('{"name": "sft", "evaluation": null, "config": {}}')
    with pytest.raises(UserError, match="was not evaluated"):
        read_run(old)
