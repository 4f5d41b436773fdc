"""The study of a real student: its problems, its pipeline on a scripted model, and its tables."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.real_student import problems, report, run
from experiments.real_student.run import ADVISED, ARMS, BASE, SFT
from redi_lab.cli import main
from redi_lab.evaluation.metrics import mean_difference
from tests.verbs.test_rounds import Engine, engine

__all__ = ["engine"]  # the fixture


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_sums_are_solved_and_on_one_side_alone(tmp_path: Path) -> None:
    train, heldout = map(rows_of, problems.write(tmp_path, 450, 300))
    assert (len(train), len(heldout)) == (450, 300)
    assert len({row["problem"] for row in (*train, *heldout)}) == 750
    for row in (*train, *heldout):
        assert int(row["answer"]) == sum(map(int, re.findall(r"\d+", row["problem"])))
    assert rows_of(problems.write(tmp_path / "fewer", 10, 300)[1]) == heldout
    with pytest.raises(SystemExit, match="784 sums in all"):
        problems.write(tmp_path, 700, 300)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Options of the command: sums for a tiny model, and a prompt that fits it."""
    for name, first in (("train", 10), ("heldout", 50)):
        rows = [{"id": str(n), "problem": f"{n} + 3 ?", "answer": str(n + 3)} for n in range(first, first + 12)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "prompt.txt").write_text("{problem}\nshort, please: 'x'", encoding="utf-8")
    sizes = ["--num-heldout=12", "--samples=2", "--eval-samples=2", "--sft-steps=2", "--steps=2", "--seeds=1"]
    given = [f"--{name}={tmp_path / name}.jsonl" for name in ("train", "heldout")]
    return [*given, f"--prompt={tmp_path / 'prompt.txt'}", f"--outputs={tmp_path / 'out'}", *sizes]


@pytest.mark.slow
def test_from_a_folder_to_a_table_and_on_where_it_was_stopped(
    files: list[str],
    qwen_folder: Path,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process, by an engine that writes a right and a wrong answer to every problem."""
    commands: list[list[str]] = []

    def command(folder: Path, outputs: Path, overrides: list[str]) -> dict[str, Any]:
        if not (folder / "summary.json").exists():
            commands.append(overrides)
            main([*overrides, f"paths.outputs_dir={outputs}", f"paths.output_dir={folder}"])
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return summary

    monkeypatch.setattr(run, "command", command)
    monkeypatch.setattr(run, "ARMS", {arm: ARMS[arm] for arm in ("SFT continued", ADVISED, "DPO")})
    monkeypatch.setattr(engine, "says", lambda _, sample: f"so it is 1{sample}")
    results = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["run.py", f"--model={qwen_folder}", f"--results={results}", *files])
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps({"id": str(n), "problem": f"{n} + 3 ?", "answer": "10"}) + "\n" for n in range(40))
    )
    run.main()
    rows = json.loads(results.read_text(encoding="utf-8"))
    assert {row["arm"] for row in rows["runs"].values()} >= {BASE, SFT, "SFT continued", "DPO"}
    assert len(rows["runs"]["DPO/1"]["right"]) == 12
    assert rows["runs"]["DPO/1"]["chosen"][0][0] == 0
    assert rows["starts"]["data_s1"]["curated"]["pairs"] == 40
    assert "| DPO − SFT continued | 1 |" in capsys.readouterr().out
    assert (tmp_path / "curves.png").stat().st_size > 5000
    made, before = len(commands), results.read_bytes()
    run.main()
    assert len(commands) == made
    assert results.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model=/nowhere"], "--model /nowhere: give a Hugging Face folder"),
        (["--model=MODEL", "--train=x.jsonl"], "--train, --heldout and --prompt: give all three"),
        (["--model=MODEL", "--steps=3"], "its rows are of other sizes"),
    ],
)
def test_options_that_do_not_go_together(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "results.json").write_text(json.dumps({"starts": {"sizes": run.Sizes()._asdict()}, "runs": {}}))
    places = [f"--results={tmp_path / 'results.json'}", f"--outputs={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", ["run.py", *places, *(word.replace("MODEL", str(tmp_path)) for word in words)])
    with pytest.raises(SystemExit, match=message):
        run.main()


def row(arm: str, seed: int, right: str) -> dict[str, Any]:
    scores = {"pass_at_1": sum(map(int, right)) / 2 / len(right), "pass_at_2": 1.0, "mean_tokens": 20.0}
    curves: Mapping[str, Any] = {} if arm == BASE else {"chosen": [[0, -0.1], [9, -0.2]], "state": "healthy"}
    return {"arm": arm, "seed": seed, "samples": 2, "right": right, **scores, **curves}


def test_tables_pair_problems_and_seeds(tmp_path: Path) -> None:
    """SFT continued is SFT, problem by problem: their difference has no spread."""
    runs = [row(BASE, seed, "0101") for seed in (1, 2)] + [row(SFT, seed, "2101") for seed in (1, 2)]
    runs += [row("SFT continued", seed, "2101") for seed in (1, 2)] + [row("DPO", 1, "2122"), row("DPO", 2, "2221")]
    starts: dict[str, dict[str, Any]] = {
        "sizes": {"steps": 2},
        "advice_s1": {"tells": False, "advised_alpha": None},
        "traces_s1": {"seconds": 9.0},
    }
    content = {"starts": starts, "runs": {str(number): one for number, one in enumerate(runs)}}
    lines = report.write_report(content, tmp_path).splitlines()
    assert "- advice_s1: α None, the pairs do not tell" in lines
    assert "- seconds, 9 in all: traces_s1 9" in lines
    assert "| DPO | 2 | 0.875 | 1.000 | 20.000 | – | – | 0.100 | healthy |" in lines
    assert any(line.startswith("| rejection-sampling SFT − base model | 2 | +0.250 (") for line in lines)
    assert any(line.startswith("| DPO − SFT continued | 2 | +0.375 (") for line in lines)
    none = mean_difference(np.zeros(2), 2)
    said = f"+0.000 ({none.ci_low:+.3f} to {none.ci_high:+.3f}) | 1 | – |"
    assert f"| SFT continued − rejection-sampling SFT | 2 | {said}" in lines


def test_its_arms_are_settings_that_the_lab_accepts(qwen_folder: Path, tmp_path: Path) -> None:
    from experiments.runner import Results
    from redi_lab.config.compose import load_config

    study = run.Study(
        qwen_folder, tmp_path, tmp_path, "{problem}", run.Sizes(), tmp_path, Results(tmp_path / "no.json")
    )
    for overrides in ARMS.values():
        words = ["+experiment=own_model", *overrides, *study.data(qwen_folder), *run.steps_of(3)]
        config = load_config("train", [*words, f"init_from={qwen_folder}"], check_paths=False)
        assert (config.trainer.max_steps, config.model.lora.rank, config.data.prompt_template) == (3, 16, "{problem}")
