"""The verb: what is refused before anything runs, the studies that are shipped, and whole sweeps (slow)."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from redi_lab.cli import main
from redi_lab.config.compose import load_config
from redi_lab.errors import UserError
from redi_lab.verbs.sweep.driver import _publishable, compose_sweep, for_confirmation, sweep_names
from redi_lab.verbs.sweep.space import grid
from redi_lab.verbs.sweep.study import Sweep
from tests.conftest import REPOSITORY, TINY_TASK
from tests.verbs.sweep import fakes

SMALL = ["name=s", "+experiment=demo", "sweep.space={loss.alpha:[0.2,0.8]}", "sweep.num_trials=2"]


def test_overrides_go_to_the_sweep_to_its_runs_or_to_both(tmp_path: Path) -> None:
    arguments = [*SMALL, "trainer.max_steps=3", f"paths.outputs_dir={tmp_path}", "logger=none", "seed=7"]
    config, sweep = compose_sweep(arguments)
    assert sweep.overrides == ("+experiment=demo", "trainer.max_steps=3")
    assert sweep.local_overrides == (
        f"paths.outputs_dir={tmp_path}",
        "logger=none",
        "callbacks.collapse.action=stop",
        "eval.benchmark=null",
    )
    assert (sweep.name, sweep.seed, sweep.folder) == ("s", 7, tmp_path / "sweeps" / "s")
    assert sweep.settings.storage == f"sqlite:///{tmp_path}/sweeps/s/study.db"
    assert config.logger.tracking_uri is None
    assert sweep.cluster is None


def test_trials_are_evaluated_on_development_problems_and_the_winner_on_others(tmp_path: Path) -> None:
    sweep = compose_sweep([*SMALL, "sweep.metric=eval/pass_at_1", f"paths.outputs_dir={tmp_path}"])[1]
    own = ("eval.benchmark=development", "eval.name=development")
    assert sweep.local_overrides[-2:] == own
    assert not any(override.startswith("eval.") for override in for_confirmation(sweep).local_overrides)


def test_the_launcher_is_the_sweeps_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redi_lab.config.schema.surroundings.find_spec", lambda name: name)
    on_ray = ["launcher=ray", "launcher.address=head:6379", "sweep.storage=journal:////tmp/study.log"]
    sweep = compose_sweep([*SMALL, *on_ray])[1]
    assert sweep.cluster == "head:6379"
    assert not any("launcher" in override for override in (*sweep.overrides, *sweep.local_overrides))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "sweep: name a study, +sweeps=NAME with one of alpha_lr"),
        (["+sweeps=alhpa_lr"], "sweeps=alhpa_lr: no such study; choose one of alpha_lr"),
        (["name=s"], "sweep.space is empty"),
        ([*SMALL, "sweep.sampler=grit"], "sweep.sampler=grit: must be tpe"),
        ([*SMALL, "sweep.num_trial=3"], "unknown key sweep.num_trial: sweep has"),
        ([*SMALL, "loss.alhpa=1"], "unknown key loss.alhpa"),
        ([*SMALL, "sweep.sampler=grid", "sweep.num_trials=9"], "sweep.num_trials=9: the grid has 2 points"),
        ([*SMALL, "sweep.num_trials=null"], "sweep.num_trials=null: only sweep.sampler=grid knows"),
        ([*SMALL, "sweep.metric=val/loss"], "sweep.metric=val/loss: these runs do not measure it; choose one of val/"),
        ([*SMALL, "data.num_development=0"], "sweep.metric=val/pass_at_1: these runs do not measure it"),
        ([*SMALL, "sweep.confirm_seeds=[42]"], "sweep.confirm_seeds: 42 is one of sweep.seeds"),
        ([*SMALL, "sweep.confirm_seeds=[1]", "eval=none"], "sweep.confirm_seeds needs a final evaluation"),
        ([*SMALL, "sweep.seeds=[1,2,1]"], "sweep.seeds=[1, 2, 1]: must be a list of seeds, each once"),
        (
            [*SMALL, "sweep.metric=eval/pass_at_1", "data.num_development=0"],
            "sweep.metric=eval/pass_at_1: these runs do not measure it; choose one of val/... and eval/..., which need",
        ),
        ([*SMALL, "sweep.metric=eval/haste"], "sweep.metric=eval/haste: these runs do not measure it; choose one of"),
        ([*SMALL, "sweep.sampler=sobol", "sweep.num_trials=null"], "sweep.num_trials=null: only sweep.sampler=grid"),
        ([*SMALL, "sweep.seeds=[]"], "sweep.seeds=[]: name at least one seed"),
        ([*SMALL[:2], "sweep.space={seed:[1,2]}"], "sweep.space.seed: seeds are not searched"),
        ([*SMALL[:2], "sweep.space={loss.alpha:[0.2,2]}"], "sweep.space at loss.alpha=2: loss.alpha=2: must be"),
        ([*SMALL, "sweep.storage=study.db"], "sweep.storage=study.db: must begin with sqlite:///"),
    ],
)
def test_mistakes_are_told_before_any_run(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        compose_sweep(arguments)
    assert str(refused.value).startswith(message)


def test_the_gaussian_process_knows_no_conditions() -> None:
    space = "sweep.space={loss:[redi,dpo],loss.beta:{low:0.1,high:1.0,when:{loss:dpo}}}"
    with pytest.raises(UserError, match=r"sweep.sampler=gp: it cannot search parameters with conditions"):
        compose_sweep([*SMALL[:2], space, "sweep.sampler=gp"])


def test_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "-m", "+sweeps=alpha_lr"])
    assert ended.value.code == 2
    assert "-m: sweep takes no flags" in capsys.readouterr().err


@cache
def shipped(name: str) -> Sweep:
    return compose_sweep([f"+sweeps={name}"])[1]


@pytest.mark.parametrize("name", [path.stem for path in sorted((REPOSITORY / "sweeps").glob("*.yaml"))])
def test_every_shipped_study_composes(name: str) -> None:
    assert shipped(name).name == name


def test_the_papers_grid_is_the_papers_and_starts_where_it_did() -> None:
    sweep = shipped("redi_1p5b")
    points = [{name.partition(" ")[0]: value for name, value in point.items()} for point in grid(sweep.space)]
    assert sorted((point["loss.alpha"], point["optimizer.lr"]) for point in points) == [
        (0.2, 1e-6), (0.5, 1e-6), (0.5, 2e-6), (0.8, 1e-6), (1.0, 1e-7), (1.0, 2e-7), (1.0, 1e-6),
    ]  # fmt: skip
    assert (sweep.settings.sampler, sweep.settings.num_trials) == ("grid", None)
    assert load_config("train", list(sweep.overrides)).init_from == "sft_3ep_1p5b"


def test_studies_of_the_working_directory_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sweeps").mkdir()
    text = "# @package _global_\nname: mine\nsweep: {overrides: [+experiment=demo], space: {loss.alpha: [0.1, 0.3]}}\n"
    (tmp_path / "sweeps" / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert {"mine", "alpha_lr"} <= set(sweep_names())
    _, sweep = compose_sweep(["+sweeps=mine"])
    assert sweep.space[0].points() == (0.1, 0.3)


def test_a_password_reaches_no_record() -> None:
    config = load_config("sweep", ["name=s", "sweep.storage=postgresql://me:secret@host/db"])
    assert "secret" not in str(_publishable(config))
    assert "secret" in config.sweep.storage


def tiny_sweep(tmp_path: Path, *more: str) -> list[str]:
    tiny = [
        *TINY_TASK,
        "init_overrides=['trainer.max_steps=3']",
        "data.num_development=5",
        "callbacks.accuracy.every_n_steps=1",
    ]
    space = "sweep.space={loss.alpha:[0.2,0.8],optimizer.lr:{low:1e-5,high:1e-4,log:true}}"
    outputs = f"paths.outputs_dir={tmp_path / 'outputs'}"
    return ["sweep", SMALL[0], SMALL[1], space, "sweep.num_trials=3", outputs, *tiny, *more]


def read_summary(tmp_path: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((tmp_path / "outputs" / "sweeps" / "s" / "summary.json").read_text())
    return summary


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_whole_sweep_is_traceable_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("PYTHONWARNINGS", "default")  # of the workers, which warn as any command does
    main(tiny_sweep(tmp_path, "sweep.num_workers=2", "sweep.confirm_seeds=[1]"))
    summary = read_summary(tmp_path)
    assert summary["metrics"]["num_finished"] + summary["metrics"]["num_collapsed"] == 3
    assert len(summary["confirmation"]["winner"]) == 1
    assert summary["confirmation"]["over_problems"]["num_problems"] == 6
    client = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    parent = client.get_run(summary["mlflow_run_id"])
    assert parent.info.status == "FINISHED"
    finished = {trial["number"]: trial["value"] for trial in summary["trials"] if trial["value"] is not None}
    history = client.get_metric_history(parent.info.run_id, "trial/value")
    assert {point.step: point.value for point in history} == finished
    artifacts = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert {"index.html", "map.png", "summary.json", "config.yaml"} <= artifacts
    for trial in summary["trials"]:
        run = client.get_run(trial["runs"][0]["mlflow_run_id"])
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["redi_lab.trial"] == str(trial["number"])
        assert run.data.tags["redi_lab.study"] == "s"
        assert run.data.tags["redi_lab.fingerprint"] == trial["runs"][0]["fingerprint"]
        assert float(run.data.params["loss.alpha"]) == trial["values"]["loss.alpha"]
        frozen = Path(trial["runs"][0]["folder"])
        assert {"config.yaml", "screen.log", "metrics.jsonl"} <= {path.name for path in frozen.iterdir()}
    starts = [r for r in client.search_runs([parent.info.experiment_id]) if str(r.info.run_name).endswith("demo_sft")]
    assert len(starts) == 2  # one for the trials, one for the fresh seed

    main(tiny_sweep(tmp_path, "sweep.num_workers=2", "sweep.confirm_seeds=[1]"))  # nothing is left to run
    assert read_summary(tmp_path)["trials"] == summary["trials"]

    where = [f"paths.outputs_dir={tmp_path / 'outputs'}", f"paths.output_dir={tmp_path / 'again'}", "eval=none"]
    main([*shlex.split(summary["best_command"])[3:], *where, "logger=none"])
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert again["fingerprint"] == summary["trials"][summary["best_trial"]]["runs"][0]["fingerprint"]


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[str]:
    """A server of one's own on a unix socket; skips where Debian's PostgreSQL or a user to run it is missing."""
    programs = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if programs is None:
        pytest.skip("needs PostgreSQL below /usr/lib/postgresql")
    pytest.importorskip("psycopg2", reason="needs the extra postgres")
    home = Path(subprocess.run([*as_user, "mktemp", "-d"], check=True, capture_output=True, text=True).stdout.strip())
    subprocess.run([*as_user, programs / "initdb", "-D", home / "data", "-A", "trust", "-U", "me"], check=True)
    options = ["-c", "listen_addresses=", "-k", str(home)]
    server = subprocess.Popen([*as_user, programs / "postgres", "-D", home / "data", *options])
    try:
        deadline = time.monotonic() + 60
        while subprocess.run([programs / "pg_isready", "-h", home, "-q"], check=False).returncode != 0:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"postgresql://me@/postgres?host={home}"
    finally:
        pid = int((home / "data" / "postmaster.pid").read_text().split()[0])
        subprocess.run(["kill", "-INT", str(pid)], check=True)  # a fast shutdown
        server.wait(timeout=60)
        subprocess.run(["rm", "-rf", str(home)], check=True)


@pytest.mark.slow
def test_two_workers_share_a_study_on_postgresql(
    postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One dies at once and is replaced; two commands that start together make one study."""
    from redi_lab.verbs.sweep.workers import run_workers
    from tests.verbs.sweep.test_study import planned, states

    monkeypatch.setenv("PYTHONWARNINGS", "default")
    sweep = fakes.changed(
        fakes.make_sweep(tmp_path, num_trials=8, num_workers=2, lease_seconds=1.0), storage=postgresql
    )
    study, claims = planned(sweep)
    claims.plan(8)
    run_workers(sweep, study, run=fakes.die_once)
    assert states(study) == {"COMPLETE": 8, "FAIL": 1}
