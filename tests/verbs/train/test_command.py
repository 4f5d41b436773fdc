"""The whole path, small: from traces to a judged model, through the command line's own entry point."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from redi_lab.cli import main
from redi_lab.config.compose import experiment_names
from redi_lab.config.metrics import CALLBACK_METRICS, known_metrics
from redi_lab.errors import UserError
from redi_lab.tracking.journal import read_curves
from redi_lab.verbs.compare import find_runs

Tiny = Callable[..., list[str]]


def run(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Run a command and read its summary."""
    main([*arguments, f"paths.output_dir={folder}"])
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def without_time(metrics: dict[str, Any]) -> dict[str, Any]:
    """Curves without those that measure the machine."""
    return {name: curve for name, curve in metrics.items() if name != "train/tokens_per_second"}


def test_the_demo_trains_judges_and_records_both_stages(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run(tiny("data.batch_size=4"), tmp_path / "run")
    screen = capsys.readouterr().out
    assert [stage["name"] for stage in summary["stages"]] == ["demo_sft", "demo"]
    assert summary["metrics"]["pass_at_1"].keys() == {"value", "ci_low", "ci_high", "sem"}
    assert summary["loss"]["alpha"] == 0.5
    for stage in summary["stages"]:
        assert {"greedy_pass_at_1", "haste"} <= stage["metrics"].keys()
    assert all(heading in screen for heading in ("greedy", "haste", "columns"))
    assert "…" not in screen[screen.index("heldout: 6 problems") :]  # nothing is cut off at 80 columns
    assert summary["config"]["seed"] == summary["seed"] == 42
    assert summary["data"]["selection"]["rows_read"] == 54
    assert {"torch", "transformers", "python"} <= summary["versions"].keys()
    assert len(summary["fingerprint"]) == 32
    drawn, judged = summary["data"]["development"]["sampling"], summary["evaluation"]["protocol"]["sampling"]
    assert drawn["num_samples"] == 1
    assert {key: drawn[key] for key in judged} == judged | {"num_samples": 1}
    assert f"Results:    {tmp_path / 'run'}" in screen
    assert "Try next:" in screen
    assert "heldout: 6 problems × 2 samples" in screen
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000
    model = AutoModelForCausalLM.from_pretrained(summary["checkpoint"])
    assert model.config.hidden_size == 24
    assert AutoTokenizer.from_pretrained(summary["checkpoint"]).eos_token_id == model.generation_config.eos_token_id
    curves = read_curves(tmp_path / "run" / "metrics.jsonl")
    expected = known_metrics(summary["loss"]["_target_"], has_validation=False, callbacks=CALLBACK_METRICS)
    assert sorted(name for name in curves if not name.startswith(("eval/", "epoch"))) == expected
    assert curves["train/loss"].steps == [0, 1, 2]
    assert "eval/pass_at_1" in curves


def test_the_same_seed_gives_bit_identical_metrics(tiny: Tiny, tmp_path: Path) -> None:
    first = run(tiny(), tmp_path / "a")
    second = run(tiny(f"paths.cache_dir={tmp_path / 'other_cache'}"), tmp_path / "b")
    assert not any(stage["is_reused"] for stage in second["stages"])
    assert first["metrics"] == second["metrics"]
    assert first["fingerprint"] == second["fingerprint"]
    curves = [without_time(read_curves(tmp_path / name / "metrics.jsonl")) for name in "ab"]
    assert curves[0] == curves[1]
    weights = [(Path(s["checkpoint"]) / "model.safetensors").read_bytes() for s in (first, second)]
    assert weights[0] == weights[1]


def test_how_accuracy_is_measured_changes_no_training(tiny: Tiny, tmp_path: Path) -> None:
    sampled = run(tiny("callbacks.accuracy.num_samples=3"), tmp_path / "sampled")
    greedy = run(tiny("callbacks.accuracy.temperature=0"), tmp_path / "greedy")
    assert greedy["data"]["development"]["sampling"]["temperature"] == 0
    assert sampled["data"]["development"]["sampling"]["temperature"] == 0.6
    assert sampled["fingerprint"] == greedy["fingerprint"]
    weights = [(Path(s["checkpoint"]) / "model.safetensors").read_bytes() for s in (sampled, greedy)]
    assert weights[0] == weights[1]
    curves = [read_curves(tmp_path / name / "metrics.jsonl") for name in ("sampled", "greedy")]
    assert curves[0]["train/loss"] == curves[1]["train/loss"]


def test_another_objective_starts_from_the_same_sft_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    redi = run(tiny(), tmp_path / "redi")
    for loss in ("dpo", "simpo", "symmetric_redi", "unpaired_redi"):
        other = run(tiny(f"loss={loss}", "optimizer.lr=1e-5"), tmp_path / loss)
        assert other["stages"][0]["is_reused"]
        assert other["stages"][0]["checkpoint"] == redi["stages"][0]["checkpoint"]
        assert other["fingerprint"] != redi["fingerprint"]
    dpo = read_curves(tmp_path / "dpo" / "metrics.jsonl")
    assert dpo["train/loss"].values[0] == pytest.approx(0.6931472, abs=1e-4)  # log 2 while policy = reference


def test_every_demo_experiment_runs_from_one_sft_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    names = [name for name in experiment_names() if name.startswith("demo_")]
    assert len(names) == 5
    started_from = set()
    for name in names:
        summary = run([f"+experiment={name}", *tiny("eval=none", "trainer.max_steps=1")], tmp_path / name)
        assert summary["name"] == name
        started_from |= {s["checkpoint"] for s in summary["stages"][:-1]}
    assert len(started_from) == 1


@pytest.mark.parametrize(
    "change",
    ["seed=1", "data.source.num_problems=47", "model.config.hidden_size=48", "init_overrides=['trainer.max_steps=2']"],
)
def test_what_matters_trains_the_first_stage_anew(tiny: Tiny, tmp_path: Path, change: str) -> None:
    before = run(tiny(), tmp_path / "before")
    after = run([*(o for o in tiny() if not change.startswith(o.split("=")[0] + "=")), change], tmp_path / "after")
    assert not after["stages"][0]["is_reused"]
    assert after["stages"][0]["fingerprint"] != before["stages"][0]["fingerprint"]


def test_what_does_not_matter_reuses_the_first_stage(tiny: Tiny, tmp_path: Path) -> None:
    run(tiny(), tmp_path / "before")
    after = run(
        tiny("loss.alpha=0.1", "data.batch_size=4", "eval.seed=3", "data.max_new_tokens=95"), tmp_path / "after"
    )
    assert after["stages"][0]["is_reused"]


def test_a_damaged_checkpoint_is_not_reused(tiny: Tiny, tmp_path: Path) -> None:
    before = run(tiny(), tmp_path / "before")
    weights = Path(before["stages"][0]["checkpoint"]) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    after = run(tiny(), tmp_path / "after")
    assert not after["stages"][0]["is_reused"]
    assert after["metrics"] == before["metrics"]


def test_a_run_of_its_own_counts_as_the_first_stage(tiny: Tiny, tmp_path: Path) -> None:
    """SFT that was run by hand is not trained again on the way to REDI."""
    sft = run(["+experiment=demo_sft", *tiny()], tmp_path / "sft")
    redi = run(tiny(), tmp_path / "redi")
    assert redi["stages"][0]["is_reused"]
    assert redi["stages"][0]["checkpoint"] == sft["checkpoint"]


def test_training_starts_from_a_folder(tiny: Tiny, tmp_path: Path) -> None:
    sft = run(["+experiment=demo_sft", *tiny()], tmp_path / "sft")
    redi = run(tiny(f"init_from={sft['checkpoint']}"), tmp_path / "redi")
    assert [stage["name"] for stage in redi["stages"]] == ["demo"]


def test_an_output_folder_is_never_overwritten(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny("eval=none"), tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        main([*tiny("eval=none"), f"paths.output_dir={tmp_path / 'run'}"])
    assert ended.value.code == 2
    assert "already holds a run" in capsys.readouterr().err
    with pytest.raises(UserError):
        main([*tiny("eval=none"), f"paths.output_dir={tmp_path / 'run'}", "debug=traceback"])


def assert_columns_exist(experiment: Any, stage: Any) -> None:
    """The runs table that the UI opens shows what the run holds, and finds the run by its tag."""
    view = json.loads(experiment.tags["mlflow.sharedViewState.redi_lab"])
    has = {f"metrics.`{name}`" for name in stage.data.metrics} | {f"params.`{name}`" for name in stage.data.params}
    assert set(view["selectedColumns"]) <= has
    assert view["orderByKey"] in has
    assert view["searchFilter"].split("`")[1] in stage.data.tags
    assert stage.data.params["objective"] == "redi α.5"


def test_mlflow_holds_a_run_for_the_command_and_one_for_each_stage(tiny: Tiny, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    summary = run(tiny("data.batch_size=4", logger="mlflow"), tmp_path / "run")
    client = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("redi_lab")
    assert experiment is not None
    runs = {found.info.run_name: found for found in client.search_runs([experiment.experiment_id])}
    sft, demo = "sft lr 2e-3 s42 · demo_sft", "redi α.5 lr 2e-4 s42 · demo"
    assert runs.keys() == {f"{demo} (command)", sft, demo}
    parent = runs[f"{demo} (command)"].info.run_id
    stage = runs[demo]
    assert stage.info.run_id == summary["mlflow_run_id"]
    assert json.loads(stage.data.tags["mlflow.loggedArtifacts"]) == [{"path": "samples_heldout.json", "type": "table"}]
    assert {runs[n].data.tags["mlflow.parentRunId"] for n in (sft, demo)} == {parent}
    assert stage.data.tags["redi_lab.fingerprint"] == summary["fingerprint"]
    assert stage.data.params["loss.alpha"] == "0.5"
    assert_columns_exist(experiment, stage)
    assert stage.data.metrics["eval/pass_at_1"] == summary["metrics"]["pass_at_1"]["value"]
    assert len(client.get_metric_history(stage.info.run_id, "train/mean_logps/rejected")) == 3
    assert stage.inputs.dataset_inputs[0].dataset.digest
    names = {artifact.path for artifact in client.list_artifacts(stage.info.run_id)}
    assert {"config.yaml", "environment.txt", "summary.json", "curves.png"} <= names
    assert {found.info.status for found in runs.values()} == {"FINISHED"}
    assert len(find_runs(tmp_path / "outputs")) == 1  # the stage in the cache; the other was put elsewhere


def test_validation_best_checkpoint_and_entropy(tiny: Tiny, tmp_path: Path) -> None:
    more = [
        "data.num_validation=4",
        "loss.log_entropy=true",
        "callbacks.checkpoints.every_n_steps=2",
        "callbacks.checkpoints.monitor=val/loss",
        "trainer.val_check_interval=1",
        "data.batch_size=4",
        "eval=none",
    ]
    summary = run(tiny(*more), tmp_path / "run")
    assert {Path(folder).name for folder in summary["checkpoints"]} == {"best", "last", "step-2"}
    assert summary["data"]["batches"]["validation"] == 4
    curves = read_curves(tmp_path / "run" / "metrics.jsonl")
    expected = known_metrics(
        summary["loss"]["_target_"], has_validation=True, log_entropy=True, callbacks=CALLBACK_METRICS
    )
    assert sorted(name for name in curves if name != "epoch") == expected


def test_the_best_checkpoint_stands_beside_the_last(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accuracy on the development problems, which is .5 after step 2 of 3 and 0 at other times, chooses."""
    said = iter([0.0, 0.0, 0.5, 0.0])  # before training and after each step of the second stage
    monkeypatch.setattr(
        "redi_lab.evaluation.policy_accuracy.PolicyAccuracy.__call__", lambda *_: {"pass_at_1": next(said)}
    )
    more = [
        *("init_overrides=['trainer.max_steps=3','callbacks.accuracy=null']", "callbacks.checkpoints.mode=max"),
        *("callbacks.checkpoints.monitor=val/pass_at_1", "callbacks.checkpoints.every_n_steps=1"),
        *("callbacks.accuracy.every_n_steps=1", "optimizer.lr=0.01", "data.batch_size=4"),
    ]
    summary = run([o for o in tiny(*more) if o != "init_overrides=['trainer.max_steps=3']"], tmp_path / "run")
    screen = capsys.readouterr().out
    best, last = summary["best"], summary["metrics"]
    assert best["chosen"] == {"step": 2, "val/pass_at_1": 0.5}
    assert Path(best["checkpoint"]).name == "best"
    assert best["metrics"].keys() == last.keys()
    assert [stage["best"] is None for stage in summary["stages"]] == [True, False]
    assert "demo best" in screen
    curves = read_curves(tmp_path / "run" / "metrics.jsonl")
    assert curves["eval/best/pass_at_1"].values == [best["metrics"]["pass_at_1"]["value"]]
    found = run(["evaluate", f"checkpoint={best['checkpoint']}", *_places(tiny())], tmp_path / "again")
    assert found["metrics"] == best["metrics"]


def _places(overrides: list[str]) -> list[str]:
    """Those that an evaluation takes, too."""
    return [o for o in overrides if o.startswith(("data.", "eval.", "logger", "paths"))]


def test_evaluate_reads_what_was_already_judged(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = run(tiny(), tmp_path / "run")
    judged = run(["evaluate", f"checkpoint={trained['checkpoint']}", *_places(tiny())], tmp_path / "judged")
    assert judged["metrics"] == trained["metrics"]
    assert judged["evaluation"]["key"] == trained["evaluation"]["key"]
    assert "heldout: pass@1" in capsys.readouterr().out
