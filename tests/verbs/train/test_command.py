"""The whole path, small: from traces to an evaluated model, through the command line's own entry point."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from redi_lab.cli import main
from redi_lab.config.compose import experiment_names, load_config
from redi_lab.config.metrics import CALLBACK_METRICS, known_metrics
from redi_lab.data.jsonl import read_jsonl
from redi_lab.data.readers import TraceFileSource
from redi_lab.errors import UserError
from redi_lab.run.stages import resolve_chain
from redi_lab.tracking.journal import read_curves
from redi_lab.verbs.compare import find_runs
from tests.conftest import TINY_TASK
from tests.notebooks import run_notebook
from tests.verbs.train.conftest import undrawn

REJECTED = "train/mean_logps/rejected"

Tiny = Callable[..., list[str]]


def run(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Run a command and read its summary."""
    main([*arguments, f"paths.output_dir={folder}"])
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def of_training(metrics: dict[str, Any]) -> dict[str, Any]:
    """Curves without those that measure the machine, and without the final score."""
    return {k: v for k, v in metrics.items() if k != "train/tokens_per_second" and not k.startswith("eval/")}


class Demo(NamedTuple):
    """The embedded task in two commands: SFT by hand, and the demo that starts from it."""

    folder: Path
    sft: dict[str, Any]
    summary: dict[str, Any]
    screen: str

    def overrides(self, *more: str) -> list[str]:
        """The same task in the same outputs folder."""
        settings = ["logger=none", f"paths.outputs_dir={self.folder / 'outputs'}"]
        return [*TINY_TASK, *settings, "init_overrides=['trainer.max_steps=3']", "data.batch_size=4", *more]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Demo:
    """What most tests read, trained once; these two runs are in MLflow, too."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "outputs").mkdir()
    shutil.copy(mlflow_database, folder / "outputs" / "mlflow.db")
    tracked = ["logger=mlflow" if o == "logger=none" else o for o in Demo(folder, {}, {}, "").overrides()]
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen):
        # The batch size of the SFT that the demo starts from is its experiment's.
        own = [o for o in tracked if not o.startswith("data.batch_size")]
        with undrawn():
            sft = run(["+experiment=demo_sft", *own], folder / "sft")
        summary = run(tracked, folder / "run")
    return Demo(folder, sft, summary, screen.getvalue())


def test_the_demo_trains_evaluates_and_records_both_stages(demo: Demo) -> None:
    summary, screen = demo.summary, demo.screen
    assert [stage["name"] for stage in summary["stages"]] == ["demo_sft", "demo"]
    assert summary["metrics"]["pass_at_1"].keys() == {"value", "ci_low", "ci_high", "sem"}
    assert summary["loss"]["alpha"] == 0.5
    for stage in summary["stages"]:
        assert {"greedy_pass_at_1", "haste"} <= stage["metrics"].keys()
    assert all(heading in screen for heading in ("greedy", "haste", "columns"))
    assert "…" not in screen[screen.rindex("heldout: 6 problems") :]  # nothing is cut off at 80 columns
    assert summary["config"]["seed"] == summary["seed"] == 42
    assert summary["data"]["selection"]["rows_read"] == 54
    assert {"torch", "transformers", "python"} <= summary["versions"].keys()
    assert len(summary["fingerprint"]) == 32
    assert (summary["collapse"]["state"], summary["collapse"]["rollbacks"], summary["stopped"]) == ("healthy", 0, None)
    drawn, final = summary["data"]["development"]["sampling"], summary["evaluation"]["protocol"]["sampling"]
    assert drawn["num_samples"] == 1
    assert {key: drawn[key] for key in final} == final | {"num_samples": 1}
    assert f"Results:    {demo.folder / 'run'}" in screen
    assert "heldout: 6 problems × 2 samples" in screen
    assert (demo.folder / "run" / "curves.png").stat().st_size > 10_000
    model = AutoModelForCausalLM.from_pretrained(summary["checkpoint"])
    assert model.config.hidden_size == 24
    assert AutoTokenizer.from_pretrained(summary["checkpoint"]).eos_token_id == model.generation_config.eos_token_id
    curves = read_curves(demo.folder / "run" / "metrics.jsonl")
    expected = known_metrics(summary["loss"]["_target_"], has_validation=False, callbacks=CALLBACK_METRICS)
    assert sorted(name for name in curves if not name.startswith(("eval/", "epoch", "plan/"))) == expected
    plan = summary["plan"]
    assert plan.keys() >= {"plan/peak_bytes", "plan/measured_peak_bytes", "plan/measured_seconds"}
    assert {name: curves[name].values for name in plan} == {name: [value] for name, value in plan.items()}
    assert 10**8 < plan["plan/peak_bytes"] < 10**10
    assert curves["train/loss"].steps == [0, 1, 2]
    chosen, per_nat = (summary["training"][f"probe/{name}"] for name in ("chosen_mean_logps", "displacement_per_nat"))
    assert [chosen["start"], chosen["end"]] == [curves["probe/chosen_mean_logps"].values[end] for end in (0, -1)]
    assert per_nat["start"] == 0.0
    assert "train/rewards/slope" not in summary["training"]  # REDI is linear
    assert sum(summary["data"]["errors"].values()) == summary["data"]["selection"]["pairs"]
    assert "eval/pass_at_1" in curves


def test_a_separate_run_counts_as_the_first_stage(demo: Demo) -> None:
    """SFT that was run by hand is not trained again on the way to REDI."""
    first = demo.summary["stages"][0]
    assert first["is_reused"]
    assert (first["checkpoint"], first["fingerprint"]) == (demo.sft["checkpoint"], demo.sft["fingerprint"])


@pytest.mark.slow  # tests/golden holds two runs against each other by default
def test_the_same_seed_gives_bit_identical_metrics(demo: Demo, tmp_path: Path) -> None:
    """Also where both stages are trained by one command, in another cache."""
    second = run(demo.overrides(f"paths.cache_dir={tmp_path / 'other_cache'}", "eval=none"), tmp_path / "again")
    assert not any(stage["is_reused"] for stage in second["stages"])
    assert demo.summary["fingerprint"] == second["fingerprint"]
    folders = (demo.folder / "run", tmp_path / "again")
    first_curves, second_curves = (of_training(read_curves(folder / "metrics.jsonl")) for folder in folders)
    assert "val/pass_at_1" in first_curves
    assert first_curves == second_curves
    assert weights(demo.summary) == weights(second)


@pytest.mark.slow  # tests/callbacks/test_accuracy.py does by default
def test_how_accuracy_is_measured_changes_no_training(demo: Demo, tmp_path: Path) -> None:
    greedy = run(demo.overrides("callbacks.accuracy.temperature=0", "eval=none"), tmp_path / "greedy")
    assert greedy["data"]["development"]["sampling"]["temperature"] == 0
    assert demo.summary["data"]["development"]["sampling"]["temperature"] == 0.6
    assert greedy["fingerprint"] == demo.summary["fingerprint"]
    assert weights(greedy) == weights(demo.summary)
    curves = [read_curves(folder / "metrics.jsonl") for folder in (demo.folder / "run", tmp_path / "greedy")]
    assert curves[0]["train/loss"] == curves[1]["train/loss"]


def weights(summary: dict[str, Any]) -> bytes:
    return (Path(summary["checkpoint"]) / "model.safetensors").read_bytes()


LATER_STAGES = [name for name in experiment_names() if name.startswith("demo_") and name != "demo_sft"]


@pytest.mark.parametrize(
    "choice",
    [
        *(
            f"+experiment={name}" if name == "demo_dpo" else pytest.param(f"+experiment={name}", marks=pytest.mark.slow)
            for name in LATER_STAGES
        ),
        pytest.param("loss=unpaired_redi", marks=pytest.mark.slow),
    ],
)
def test_every_objective_starts_from_the_same_sft_checkpoint(demo: Demo, tmp_path: Path, choice: str) -> None:
    other = run([choice, *demo.overrides("eval=none", "trainer.max_steps=1")], tmp_path / "run")
    assert other["stages"][0]["is_reused"]
    assert other["stages"][0]["checkpoint"] == demo.sft["checkpoint"]
    assert other["fingerprint"] != demo.summary["fingerprint"]
    if choice.endswith("dpo"):  # log 2 while policy = reference
        losses = read_curves(tmp_path / "run" / "metrics.jsonl")["train/loss"]
        assert losses.values[0] == pytest.approx(0.6931472, abs=1e-4)


def test_an_output_folder_is_never_overwritten(demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*demo.overrides(), f"paths.output_dir={demo.folder / 'run'}"])
    assert ended.value.code == 2
    assert "already holds a run" in capsys.readouterr().err
    with pytest.raises(UserError):
        main([*demo.overrides(), f"paths.output_dir={demo.folder / 'run'}", "debug=traceback"])


def test_evaluate_reads_what_was_already_evaluated(demo: Demo, tmp_path: Path) -> None:
    again = run(
        ["evaluate", f"checkpoint={demo.summary['checkpoint']}", *_places(demo.overrides())], tmp_path / "again"
    )
    assert again["metrics"] == demo.summary["metrics"]
    assert again["evaluation"]["key"] == demo.summary["evaluation"]["key"]


def test_a_file_is_hashed_and_read_once_for_all_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The traces of both stages, and the weights that each leaves, although several parts ask for their digests."""
    rows = tmp_path / "rows.jsonl"
    row = {"generations": [{"text": "2", "correct": True}, {"text": "3", "correct": False}], "answer": "2"}
    rows.write_text("".join(json.dumps({"problem": f"{n} ?"} | row) + "\n" for n in range(8)))
    seen: Counter[str] = Counter()

    def counted(function: Any, name: Callable[..., str]) -> Any:
        return lambda *given, **more: (seen.update([name(*given)]), function(*given, **more))[1]

    monkeypatch.setattr(hashlib, "file_digest", counted(hashlib.file_digest, lambda file, _: f"hash {file.name}"))
    monkeypatch.setattr("redi_lab.data.rows.read_jsonl", counted(read_jsonl, lambda file: f"read {file}"))
    init = TraceFileSource.__init__
    monkeypatch.setattr(TraceFileSource, "__init__", counted(init, lambda *_, **__: "source"))
    own = ["data=jsonl", f"data.path={rows}", "data.source.num_heldout=2", "data.num_development=0"]
    overrides = [o for o in TINY_TASK if not o.startswith("data.")] + ["init_overrides=['trainer.max_steps=3']"]
    places = ["logger=none", f"paths.outputs_dir={tmp_path / 'outputs'}", "model.vocab_size=300"]
    first = run([*own, *overrides, *places], tmp_path / "first")
    checkpoints = [Path(stage["checkpoint"]) for stage in first["stages"]]
    assert len(checkpoints) == 2
    hashes = [f"hash {path}" for path in (rows, *(folder / "model.safetensors" for folder in checkpoints))]
    assert {name: seen[name] for name in (*hashes, f"read {rows}", "source")} == dict.fromkeys(
        (*hashes, f"read {rows}", "source"), 1
    )
    # A file that changed between two commands is another source.
    rows.write_text(rows.read_text().replace('"3"', '"4"'))
    same = [*own, *overrides, *places]
    again = resolve_chain(load_config("train", same), same)
    assert not {stage.fingerprint for stage in again} & {stage["fingerprint"] for stage in first["stages"]}


def assert_columns_exist(experiment: Any, stage: Any) -> None:
    """The runs table that the UI opens shows what the run holds, and finds the run by its tag."""
    view = json.loads(experiment.tags["mlflow.sharedViewState.redi_lab"])
    has = {f"metrics.`{name}`" for name in stage.data.metrics} | {f"params.`{name}`" for name in stage.data.params}
    assert set(view["selectedColumns"]) <= has
    assert view["orderByKey"] in has
    assert view["searchFilter"].split("`")[1] in stage.data.tags
    assert stage.data.params["objective"] == "redi α.5"


def test_mlflow_holds_a_run_for_each_stage(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    summary, outputs = demo.summary, demo.folder / "outputs"
    client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("redi_lab")
    assert experiment is not None
    runs = {found.info.run_name: found for found in client.search_runs([experiment.experiment_id])}
    sft, redi = "sft lr 2e-3 s42 · demo_sft", "redi α.5 lr 2e-4 s42 · demo"
    assert runs.keys() == {sft, redi}
    stage = runs[redi]
    assert stage.info.run_id == summary["mlflow_run_id"]
    assert stage.data.tags["redi_lab.fingerprint"] == summary["fingerprint"]
    assert stage.data.params["loss.alpha"] == "0.5"
    assert_columns_exist(experiment, stage)
    assert stage.data.metrics["eval/pass_at_1"] == summary["metrics"]["pass_at_1"]["value"]
    assert len(client.get_metric_history(stage.info.run_id, REJECTED)) == 3
    assert (stage.data.tags["data.source"], len(stage.data.tags["data.digest"])) == ("arithmetic", 64)
    names = {artifact.path for artifact in client.list_artifacts(stage.info.run_id)}
    assert {"config.yaml", "environment.txt", "summary.json", "curves.png"} <= names
    assert {found.info.status for found in runs.values()} == {"FINISHED"}
    assert [folder.name for folder in find_runs(demo.folder)] == ["sft", "run"]
    left, (curves, margins) = run_notebook("runs.ipynb", monkeypatch, OUTPUTS=outputs)
    assert [found.info.run_name for found in left["runs"]] == [redi, sft]  # newest first
    assert [len(ax.lines) for ax in curves.axes] == [2] * 4
    assert [line.get_label() for line in margins.axes[0].lines] == [redi]
    journal = read_curves(demo.folder / "run" / "metrics.jsonl")
    assert list(curves.axes[2].lines[1].get_ydata()) == journal[REJECTED].values


def test_validation_and_best_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    more = [
        "init_from=null",
        "data.num_validation=4",
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
    expected = known_metrics(summary["loss"]["_target_"], has_validation=True, callbacks=CALLBACK_METRICS)
    assert sorted(name for name in curves if not name.startswith(("epoch", "plan/"))) == expected


def test_from_a_folder_the_best_checkpoint_stands_beside_the_last(
    demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accuracy on the development problems, which is .5 after step 2 of 3 and 0 at other times, chooses."""
    said = iter([0.0, 0.0, 0.5, 0.0])  # before training and after each step
    monkeypatch.setattr(
        "redi_lab.evaluation.policy_accuracy.PolicyAccuracy.__call__", lambda *_: {"pass_at_1": next(said)}
    )
    more = [
        *(f"init_from={demo.sft['checkpoint']}", "callbacks.checkpoints.mode=max"),
        *("callbacks.checkpoints.monitor=val/pass_at_1", "callbacks.checkpoints.every_n_steps=1"),
        *("callbacks.accuracy.every_n_steps=1", "optimizer.lr=0.01"),
    ]
    summary = run(demo.overrides(*more), tmp_path / "run")
    assert [stage["name"] for stage in summary["stages"]] == ["demo"]
    best, last = summary["best"], summary["metrics"]
    assert best["chosen"] == {"step": 2, "val/pass_at_1": 0.5}
    assert Path(best["checkpoint"]).name == "best"
    assert best["metrics"].keys() == last.keys()
    assert summary["stages"][0]["best"] == best
    assert "demo best" in capsys.readouterr().out
    curves = read_curves(tmp_path / "run" / "metrics.jsonl")
    assert curves["eval/best/pass_at_1"].values == [best["metrics"]["pass_at_1"]["value"]]
    found = run(["evaluate", f"checkpoint={best['checkpoint']}", *_places(demo.overrides())], tmp_path / "again")
    assert found["metrics"] == best["metrics"]


def _places(overrides: list[str]) -> list[str]:
    """Those that an evaluation takes, too."""
    return [o for o in overrides if o.startswith(("data.", "eval.", "logger", "paths"))]
