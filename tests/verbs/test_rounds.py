"""Rounds of generate, curate and train: each from the last checkpoint, on new problems, and resumable."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from redi_lab.backbone.hub import load_tokenizer
from redi_lab.cli import main
from redi_lab.config.compose import load_config
from redi_lab.errors import UserError
from redi_lab.generation.engines import Completion, Request
from redi_lab.verbs import rounds
from redi_lab.verbs.train.command import run_training
from tests.evaluation.scripted_engine import ScriptedEngine

Tiny = Callable[..., list[str]]

ROUNDS = (
    "+experiment=rounds",
    "rounds=2",
    "generate_overrides=['eval.limit=5','eval.num_samples=2','eval.temperature=1','eval.top_p=1']",
    "data.batch_size=4",
)


class Engine(ScriptedEngine):
    """Of each problem a right and a wrong trace, whoever the policy is; remembers whom it was asked for."""

    def __init__(self) -> None:
        super().__init__(self._say)
        self.checkpoints: list[Path] = []
        self._tokenizer: Any = None

    def stream(
        self, checkpoint: Path, requests: Sequence[Request], on_progress: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        self._tokenizer = load_tokenizer(str(checkpoint))
        self.checkpoints.append(checkpoint)
        return super().stream(checkpoint, requests, on_progress)

    def _say(self, prompt: tuple[int, ...], sample: int) -> str:
        result = sum(map(int, re.findall(r"\d+", self._tokenizer.decode(prompt)))) + sample
        return f"so it is {result} .\n\\boxed {{ {result} }}"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    scripted = Engine()
    monkeypatch.setattr("redi_lab.verbs.generate.make_engine", lambda config: scripted)
    return scripted


def problems_of(folder: Path) -> list[str]:
    return [str(row["problem"]) for row in pq.read_table(folder / "traces" / "traces.parquet").to_pylist()]


def summary_of(outputs: Path) -> tuple[Path, dict[str, Any]]:
    [file] = outputs.glob("runs/*/summary.json")
    content: dict[str, Any] = json.loads(file.read_text())
    return file.parent, content


def test_each_round_goes_on_from_the_last_on_new_problems(
    tiny: Tiny, tmp_path: Path, mlflow_database: Path, engine: Engine
) -> None:
    from mlflow.tracking import MlflowClient

    (tmp_path / "outputs").mkdir()
    shutil.copy(mlflow_database, tmp_path / "outputs" / "mlflow.db")
    main(tiny(*ROUNDS, logger="mlflow"))
    folder, summary = summary_of(tmp_path / "outputs")
    rows = summary["rounds"]
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert [(row["right"], row["wrong"], row["pairs"]) for row in rows[1:]] == [(5, 5, 5)] * 2
    first, second = (set(problems_of(folder / f"round_{number}")) for number in (1, 2))
    assert len(first) == len(second) == 5
    assert not first & second
    assert [str(checkpoint) for checkpoint in engine.checkpoints] == [row["checkpoint"] for row in rows[:2]]
    assert len({row["checkpoint"] for row in rows}) == 3
    for number in (1, 2):
        training = json.loads((folder / f"round_{number}" / "training" / "summary.json").read_text())
        assert training["config"]["init_from"] == rows[number - 1]["checkpoint"]
        assert training["data"]["selection"]["pairs"] == 5
        assert 0 < rows[number]["ess_share"] <= 1
        card = (Path(rows[number]["checkpoint"]) / "README.md").read_text(encoding="utf-8")
        assert "+experiment=rounds" in card  # the command that makes it, not that of a single stage
    assert all(0 <= row["pass_at_1_ci_low"] <= row["pass_at_1"] for row in rows)
    assert (folder / "rounds.png").stat().st_size > 1000
    client = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("redi_lab")
    assert experiment is not None
    found = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    parent = found.pop(summary["mlflow_run_id"])
    assert [run.data.tags.get("mlflow.parentRunId") for run in found.values()] == [parent.info.run_id] * 3  # SFT, too
    history = client.get_metric_history(parent.info.run_id, "rounds/ess_share")
    assert [(metric.step, metric.value) for metric in history] == [(row["round"], row["ess_share"]) for row in rows[1:]]
    assert parent.info.status == "FINISHED"


@pytest.mark.slow
def test_the_same_command_goes_on_where_it_was_killed(
    tiny: Tiny, tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def killed(config: Any, *arguments: Any, **options: Any) -> Path:
        if config.name == "rounds_2":
            raise KilledError
        return run_training(config, *arguments, **options)

    monkeypatch.setattr(rounds, "run_training", killed)
    with pytest.raises(KilledError):
        main(tiny(*ROUNDS, "eval=none"))
    monkeypatch.setattr(rounds, "run_training", run_training)
    [folder] = (tmp_path / "outputs" / "runs").iterdir()
    made = {file: file.stat().st_mtime_ns for file in folder.rglob("*.parquet")}
    weights = (folder / "round_1" / "training" / "checkpoints" / "last" / "model.safetensors").stat().st_mtime_ns
    engine.requests.clear()
    main(tiny(*ROUNDS, "eval=none"))
    assert engine.requests == []
    assert made == {file: file.stat().st_mtime_ns for file in made}
    assert (
        folder / "round_1" / "training" / "checkpoints" / "last" / "model.safetensors"
    ).stat().st_mtime_ns == weights
    same, summary = summary_of(tmp_path / "outputs")
    assert same == folder
    assert len(summary["rounds"]) == 3


@pytest.mark.slow
def test_a_sampler_is_not_stale_on_its_own_traces(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine stored and what the kernel computes are log-probs of the same model."""
    main(tiny("+experiment=demo_sft", "eval=none", f"paths.output_dir={tmp_path / 'sft'}"))
    checkpoint = Path(json.loads((tmp_path / "sft" / "summary.json").read_text())["checkpoint"])
    config = load_config("train", tiny(*ROUNDS, f"init_from={checkpoint}"))
    traces = rounds._generate(config, checkpoint, tmp_path / "traces", 1)
    found = rounds.staleness_of(config, checkpoint, traces)
    assert abs(found["kl"]) < 1e-3
    assert found["ess_share"] == pytest.approx(1, abs=1e-3)
    main(tiny("+experiment=demo_sft", "eval=none", f"paths.output_dir={tmp_path / 'other'}", "seed=1"))
    other = Path(json.loads((tmp_path / "other" / "summary.json").read_text())["checkpoint"])
    assert rounds.staleness_of(config, other, traces)["kl"] > 0.01


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rounds=0", "+experiment=rounds"], "rounds=0: must be at least 1"),
        (["generate_overrides=['eval.limit=3']"], "generate_overrides, curate_overrides: are of rounds"),
        (["+experiment=rounds", "init_from=null"], "rounds=3: begin with a trained model"),
        (["+experiment=rounds", "baseline=true"], "rounds=3: begin with a trained model"),
    ],
)
def test_settings_that_make_no_rounds_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config("train", overrides)
    assert str(caught.value).startswith(message)


def test_a_sweeps_trial_is_no_rounds(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"^rounds=2: a sweep's trials are single trainings"):
        run_training(load_config("train", tiny(*ROUNDS)), [])
