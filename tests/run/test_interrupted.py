"""Commands that a signal ended go on: in their folder, their MLflow runs and their numbers, to the bit."""

from __future__ import annotations

import errno
import json
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import pytest
from omegaconf import OmegaConf

from redi_lab.callbacks.update_norm import UpdateNorm
from redi_lab.cli import main
from redi_lab.errors import EXIT_RESUMABLE, RunInterruptedError, UserError
from redi_lab.evaluation.results import content_digest
from redi_lab.run.evaluation import evaluate_checkpoint
from redi_lab.run.interrupted import LOCK, RECORD, Run, differences, recorded_overrides, running

Tiny = Callable[..., list[str]]
STEPS = 3
PATHS = ("outputs_dir", "cache_dir", "output_dir")
BARE = [
    "data.batch_size=4",
    *(f"callbacks.{name}=null" for name in ("accuracy", "probes", "gradient_conflict", "collapse")),
]
"""As many steps in the second stage, and faster: without the callbacks that look at the policy."""


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that lets the n-th training step from now on be interrupted, and none after it."""
    measure = UpdateNorm.on_train_batch_end
    left = [0]

    def step(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGTERM)
        measure(*arguments)

    def at(number: int) -> None:
        left[0] = number

    monkeypatch.setattr(UpdateNorm, "on_train_batch_end", step)
    return at


def interrupted(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == EXIT_RESUMABLE


def the_run(outputs: Path) -> Path:
    (folder,) = (outputs / "runs").iterdir()
    return folder


def summary_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def log(folder: Path) -> list[dict[str, Any]]:
    """All that was measured but times, and but what was planned and needed of time and memory."""
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    ignored = ("time", "train/tokens_per_second")
    rows = ({k: v for k, v in line.items() if k not in ignored and not k.startswith("plan/")} for line in lines)
    return [row for row in rows if row.keys() != {"step"}]


def weights(summary: dict[str, Any]) -> bytes:
    return (Path(summary["checkpoint"]) / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_same_command_goes_on(
    tiny: Tiny, tmp_path: Path, interrupt: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """With everything that a run does by default, interrupted in its second stage."""
    outputs = tmp_path / "outputs"
    command = tiny("data.batch_size=4", logger="mlflow")
    interrupt(STEPS + 2)
    interrupted(command)
    folder = the_run(outputs)
    said = capsys.readouterr().err
    assert "SIGTERM: the state after" in said
    assert f"give the same command again, or: redi-lab resume={folder}" in said

    main(command)
    assert the_run(outputs) == folder
    assert f"Resuming:   {folder}" in capsys.readouterr().out
    found = summary_of(folder)
    assert not (folder / "states").exists()

    through = [*tiny("data.batch_size=4"), f"paths.outputs_dir={tmp_path / 'through'}"]
    main([*through, f"paths.output_dir={tmp_path / 'whole'}"])
    expected = summary_of(tmp_path / "whole")
    assert weights(found) == weights(expected)
    assert found["metrics"] == expected["metrics"]
    assert log(folder) == log(tmp_path / "whole")
    assert_one_mlflow_run_each(outputs)


def assert_one_mlflow_run_each(outputs: Path) -> None:
    """One for each stage, finished, and with one point a step."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("redi_lab")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    experiments = Counter(str(run.info.run_name).split(" · ")[1] for run in runs)
    assert experiments == {"demo_sft": 1, "demo": 1}
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
        assert sorted(steps) == list(range(STEPS))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step_says_resume_me(
    number: signal.Signals, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning is at work already, and would end with 1."""
    monkeypatch.setattr(UpdateNorm, "setup", lambda *_, **__: signal.raise_signal(number))
    interrupted(["+experiment=demo_sft", *tiny("eval=none", *BARE)])
    assert f"{number.name}; to go on, give the same command again" in capsys.readouterr().err


@pytest.mark.slow
def test_the_first_stage_goes_on_too(tiny: Tiny, tmp_path: Path, interrupt: Callable[[int], None]) -> None:
    interrupt(2)
    interrupted(tiny("eval=none", *BARE))
    (states,) = (tmp_path / "outputs" / "cache" / "stages").glob("*/states")
    interrupt(STEPS + 1)  # more steps than are left
    interrupted(tiny("eval=none", *BARE))
    assert not states.exists()
    main(tiny("eval=none", *BARE))
    summary = summary_of(the_run(tmp_path / "outputs"))
    assert summary["stages"][0]["is_reused"]
    for stage in summary["stages"]:
        losses = [line["train/loss"] for line in log(Path(stage["output_dir"])) if "train/loss" in line]
        assert len(losses) == STEPS


@pytest.mark.slow
def test_a_run_is_named_from_anywhere(
    tiny: Tiny, tmp_path: Path, interrupt: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    command = [*(o for o in tiny("eval=none", *BARE) if not o.startswith("paths.")), "paths.outputs_dir=relative"]
    interrupt(STEPS + 2)
    interrupted(command)
    folder = the_run(tmp_path / "here" / "relative")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"\(demo\.settings\.loss\.alpha: 0\.5 → 0\.3\); change it back"):
        main([f"resume={folder}", "loss.alpha=0.3", "debug=traceback"])
    main([f"resume={folder}", "data.max_new_tokens=95"])
    assert summary_of(folder)["stages"][0]["is_reused"]
    assert len(log(folder)) == STEPS
    with pytest.raises(UserError, match="that run is finished"):
        recorded_overrides([f"resume={folder}"])


@pytest.mark.slow
def test_a_run_that_is_trained_is_only_judged(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt: Callable[[int], None]
) -> None:
    judged_by = "redi_lab.verbs.train.stage.evaluate_checkpoint"
    command = ["+experiment=demo_sft", *tiny(*BARE)]

    def killed(*_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(judged_by, killed)
    interrupted(command)
    folder = the_run(tmp_path / "outputs")
    trained = (folder / "metrics.jsonl").read_text()
    monkeypatch.setattr(judged_by, evaluate_checkpoint)
    interrupt(1)  # would end any training step
    main(command)
    assert "pass_at_1" in summary_of(folder)["metrics"]
    assert (folder / "metrics.jsonl").read_text().startswith(trained)


@pytest.mark.slow
def test_a_signal_in_the_last_step_does_not_train_again(
    tiny: Tiny, tmp_path: Path, interrupt: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["+experiment=demo_sft", *tiny("eval=none", *BARE)]
    interrupt(STEPS)
    interrupted(command)
    assert "SIGTERM: the trained policy is saved" in capsys.readouterr().err
    interrupt(1)
    main(command)
    assert len(log(the_run(tmp_path / "outputs"))) == STEPS


def fake_stage(identity: Mapping[str, Any]) -> Any:
    return SimpleNamespace(identity=identity, name="demo", fingerprint=content_digest(identity))


class Command:
    """A command that trains nothing."""

    def __init__(self, outputs: Path) -> None:
        self.outputs, self.count = outputs, 0

    def run(self, ends_by: BaseException | None, *, resume: str = "auto", alpha: float = 0.5, data: str = "x") -> Path:
        """Give the command, which begins in another second each time and, unless it is interrupted, finishes."""
        self.count += 1
        where = {"outputs_dir": "o", "cache_dir": "c", "output_dir": str(self.outputs / f"{self.count:02}_demo")}
        config = OmegaConf.create({"loss": {"alpha": alpha}, "resume": resume, "paths": where})
        expected = nullcontext() if ends_by is None else pytest.raises(type(ends_by))
        with expected, running(config, [f"loss.alpha={alpha}"], [fake_stage({"data": data})]) as run:
            (run.folder / "metrics.jsonl").touch()
            if ends_by is not None:
                raise ends_by
            (run.folder / "summary.json").write_text("{}")
        return run.folder


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


SIGNAL = RunInterruptedError("SIGTERM")


def test_the_same_command_goes_on_until_it_is_finished(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    first = command.run(SIGNAL)
    assert command.run(SIGNAL) == first
    assert f"Resuming:   {first}" in capsys.readouterr().out
    assert command.run(None) == first
    assert command.run(SIGNAL) != first


@pytest.mark.parametrize("change", [{"resume": "never"}, {"alpha": 0.3}, {"data": "y"}])
def test_what_is_not_the_same_run_starts_anew(
    change: dict[str, Any], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    first = command.run(SIGNAL)
    second = command.run(SIGNAL, **change)
    assert second != first
    said = capsys.readouterr().out
    assert ("Not resumed:" in said) == ("demo.data: x → y" in said) == ("data" in change)
    assert command.run(None) == (
        first if "alpha" in change else second if "resume" in change else command.outputs / "03_demo"
    )


def test_a_run_that_was_given_up_stays_so(command: Command) -> None:
    first = command.run(SIGNAL)
    second = command.run(None, resume="never")
    assert command.run(SIGNAL) not in (first, second)


def test_another_process_keeps_its_run(command: Command) -> None:
    first = command.run(SIGNAL)
    with filelock.FileLock(first / LOCK):
        assert command.run(None) != first


def test_a_run_that_is_refused_before_it_wrote_anything_leaves_nothing(tmp_path: Path) -> None:
    config = OmegaConf.create({"resume": "auto", "paths": {k: str(tmp_path / k) for k in PATHS}})

    def run() -> None:
        with running(config, [], [fake_stage({})]):
            raise UserError("no data")

    with pytest.raises(UserError, match="no data"):
        run()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_says_how_to_go_on(tmp_path: Path) -> None:
    config = OmegaConf.create({"resume": "auto", "paths": {k: str(tmp_path / k) for k in PATHS}})

    def run() -> None:
        with running(config, [], [fake_stage({})]):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=rf"the disk is full .* redi-lab resume={tmp_path / 'output_dir'}"):
        run()


def test_a_folder_that_is_named_holds_one_run(tmp_path: Path) -> None:
    overrides = [f"paths.output_dir={tmp_path / 'output_dir'}"]
    config = OmegaConf.create({"resume": "auto", "paths": {k: str(tmp_path / k) for k in PATHS}})

    def run(data: str) -> None:
        with running(config, overrides, [fake_stage({"data": data})]):
            raise SIGNAL

    for _ in range(2):
        with pytest.raises(RunInterruptedError, match="redi-lab resume="):
            run("x")
    with pytest.raises(UserError, match=r"\(demo\.data: x → y\)"):
        run("y")
    with filelock.FileLock(tmp_path / "output_dir" / LOCK), pytest.raises(UserError, match="is being written"):
        run("x")
    (tmp_path / "output_dir" / "summary.json").touch()
    with pytest.raises(UserError, match="already holds a run"):
        run("x")


def test_a_named_run_brings_its_overrides_and_its_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    run = Run(
        overrides=["seed=1", "resume=auto", "paths.outputs_dir=o"],
        working_dir=str(tmp_path / "here"),
        paths={"outputs_dir": "/a b"},
        stages={},
        folder=tmp_path,
    )
    run.save()
    found = recorded_overrides([f"resume={tmp_path}", "eval=none"])
    assert found == ["seed=1", "eval=none", "paths.outputs_dir='/a b'", f"paths.output_dir='{tmp_path}'"]
    assert Path.cwd() == tmp_path / "here"
    (tmp_path / "summary.json").touch()
    with pytest.raises(UserError, match="that run is finished"):
        recorded_overrides([f"resume={tmp_path}"])


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"resume={tmp_path}: no {RECORD} there"):
        recorded_overrides([f"resume={tmp_path}"])
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(UserError, match=r"run\.json: cannot be read"):
        recorded_overrides([f"resume={tmp_path}"])


def test_differences_name_the_place() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3, "d": None}}) == "a.c: 2 → 3"
    assert differences({"code": "0" * 64}, {"code": "1" * 64}) == "code: 000000000000… → 111111111111…"
    assert differences({"a": [1]}, {"a": [1]}) == ""
