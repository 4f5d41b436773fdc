from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from redi_lab.errors import UserError
from redi_lab.figures.curves import plot_curves
from redi_lab.tracking.state import RunState
from redi_lab.verbs.compare import find_runs, run_compare

URI = "sqlite:////data/mlflow.db"


@pytest.fixture(autouse=True)
def _quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a second; what is drawn has tests beside figures/curves.py, and the last one here."""

    def touch(runs: Mapping[str, Path], path: Path, *_: Any) -> Path:
        path.write_bytes(b"\x89PNG")
        return path

    monkeypatch.setattr("redi_lab.verbs.compare.plot_curves", touch)


def make_run(folder: Path, age: int = 0, run_id: str | None = None, **summary: Any) -> Path:
    """A run folder whose summary is `age` seconds old."""
    folder.mkdir(parents=True)
    line = '{"step": 0, "time": 1.0, "train/loss": 2.0, "train/mean_logps/chosen": -0.5}\n'
    folder.joinpath("metrics.jsonl").write_text(line)
    path = folder / "summary.json"
    path.write_text(json.dumps(summary))
    os.utime(path, (1e9 - age, 1e9 - age))
    if run_id is not None:
        RunState(tracking_uri=URI, run_id=run_id, experiment_id="7").save(folder)
    return folder


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    folder.joinpath("config.yaml").write_text(yaml.safe_dump(dict(config)))


def compared(outputs: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """The summary of a comparison of these runs, and its page."""
    page = outputs / "new" / "index.html"
    places = [f"paths.outputs_dir={outputs}", f"paths.output_dir={page.parent}", f"logger.tracking_uri={URI}"]
    shutil.rmtree(page.parent, ignore_errors=True)
    run_compare([*arguments, *places])
    summary: dict[str, Any] = json.loads(page.with_name("summary.json").read_text())
    return summary, page.read_text(encoding="utf-8")


def names(summary: dict[str, Any]) -> list[str]:
    """Of the folders of the runs."""
    return [Path(folder).name for folder in summary["runs"]]


def test_the_newest_runs_are_compared(tmp_path: Path) -> None:
    for name, age in (("old", 30), ("newest", 0), ("newer", 10)):
        make_run(tmp_path / name, age, name=name)
    (tmp_path / "unfinished").mkdir()
    assert [folder.name for folder in find_runs(tmp_path)] == ["old", "newer", "newest"]
    assert names(compared(tmp_path)[0]) == ["newer", "newest"]
    assert names(compared(tmp_path, "last=3")[0]) == ["old", "newer", "newest"]


def test_the_page_shows_scores_and_only_the_differences(tmp_path: Path) -> None:
    score = {"value": 0.625, "ci_low": 0.58, "ci_high": 0.671, "sem": 0.02}
    first = make_run(
        tmp_path / "a",
        1,
        name="redi-a0.8",
        loss={"_target_": "redi_lab.modules.redi.REDIModule", "alpha": 0.8},
        metrics={"pass_at_1": score},
        seed=42,
    )
    second = make_run(
        tmp_path / "b",
        0,
        name="redi-a1.0",
        loss={"_target_": "redi_lab.modules.redi.REDIModule", "alpha": 1.0},
        seed=42,
    )
    shared = {"trainer": {"max_steps": 130}}
    target = "redi_lab.modules.redi.REDIModule"
    write_config(first, {"loss": {"_target_": target, "alpha": 0.8}, "optimizer": {"lr": 0.001}, **shared})
    write_config(second, {"loss": {"_target_": target, "alpha": 1.0}, "optimizer": {"lr": 0.001}, "extra": 5, **shared})
    _, page = compared(tmp_path)
    assert "62.5 % (95 % CI 58.0–67.1)" in page
    assert "<h1>redi α.8 lr 1e-3 — redi α1 lr 1e-3</h1>" in page
    assert "<th>redi α.8 lr 1e-3</th><th>redi α1 lr 1e-3</th>" in page
    assert "<tr><th>loss.alpha</th><td>0.8</td><td>1.0</td></tr>" in page
    assert "<tr><th>extra</th><td>missing</td><td>5</td></tr>" in page
    assert "trainer.max_steps" not in page
    assert "optimizer.lr" not in page
    assert 'src="data:image/png;base64,iVBOR' in page


def test_equal_configurations_are_said_to_be_equal(tmp_path: Path) -> None:
    for name in "ab":
        write_config(make_run(tmp_path / name), {"seed": 1})
    assert "Nothing: the configurations are equal." in compared(tmp_path)[1]


def test_a_bare_folder_is_shown_with_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", metrics={"pass_at_1": {"value": None}}, loss="redi")
    result, page = compared(tmp_path)
    assert names(result) == ["a", "b"]
    assert "<th>pass@1</th><td>missing</td><td>missing</td>" in page
    assert "No run has a configuration." in page
    assert (result["mlflow_url"], result["curves_url"]) == (None, None)
    assert "Not in MLflow (redi-lab upload RUN_DIR): a, b\n" in capsys.readouterr().out


def test_the_links_name_the_runs_of_this_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        make_run(tmp_path / name, run_id=f"id-{name}", name=name)
    make_run(tmp_path / "c", name="c")
    result, page = compared(tmp_path, "last=3", "port=5001")
    assert "Not in MLflow (redi-lab upload RUN_DIR): c\n" in capsys.readouterr().out
    for url, path in ((result["mlflow_url"], "/compare-runs"), (result["curves_url"], "/metric")):
        assert url.startswith("http://127.0.0.1:5001/#/")
        route = urlsplit(urlsplit(url).fragment)
        assert route.path == path
        query = parse_qs(route.query)
        assert json.loads(query["runs"][0]) == ["id-a", "id-b"]
        assert json.loads(query["experiments"][0]) == ["7"]
        assert query["workflowType"] == ["machine_learning"]
        assert url.replace("&", "&amp;") in page
    assert "x_axis=step" in result["curves_url"]


def test_text_of_users_and_models_is_escaped_and_nothing_is_fetched(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>'
    first = make_run(tmp_path / "a", name=evil, loss={"name": evil, "x": evil}, seed=evil, commit=evil, checkpoint=evil)
    write_config(first, {evil: evil})
    make_run(tmp_path / "b", name="{body}{title}")
    _, page = compared(tmp_path)
    assert "<script" not in page
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page


@pytest.mark.parametrize("wanted", ["{root}/x/a", "x/a", "first", "id-a"])
def test_a_run_is_found_by_folder_name_and_run_id(tmp_path: Path, wanted: str) -> None:
    make_run(tmp_path / "x" / "a", run_id="id-a", name="first")
    make_run(tmp_path / "x" / "b", name="second")
    result, page = compared(tmp_path, wanted.format(root=tmp_path), "second")
    assert names(result) == ["a", "b"]
    assert "<h1>first — second</h1>" in page


def test_runs_of_one_name_keep_their_own_curves(tmp_path: Path) -> None:
    for name in "ab":
        make_run(tmp_path / name, name="same")
    assert "<h1>same [a] — same [b]</h1>" in compared(tmp_path)[1]
    with pytest.raises(UserError, match="is the name of 2 runs; name a folder"):
        compared(tmp_path, "same", "a")


def test_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found 0 of the two or more runs"):
        compared(tmp_path)
    folder = make_run(tmp_path / "a")
    with pytest.raises(UserError, match="found 1 of the two"):
        compared(tmp_path, "a", str(folder))
    with pytest.raises(UserError, match="'b' is neither an output folder nor"):
        compared(tmp_path, "a", "b")
    with pytest.raises(UserError, match="last=1: must be at least 2"):
        compared(tmp_path, "last=1")
    make_run(tmp_path / "b").joinpath("summary.json").write_text("{")
    with pytest.raises(UserError, match=r"/b: no results folder with a readable summary\.json"):
        compared(tmp_path)


def test_the_protocol_that_scored_a_run_is_compared_not_what_its_configuration_says(tmp_path: Path) -> None:
    """A stage is scored under the protocol of its command; its own eval group may say something else."""
    for name, own in (("a", {"limit": None, "num_samples": 4}), ("b", {"limit": 50, "num_samples": 8})):
        protocol = {"sampling": {"temperature": 0.6, "num_samples": 8}, "limit": 50}
        folder = make_run(tmp_path / name, name=name, evaluation={"key": "k", "protocol": protocol})
        write_config(folder, {"eval": own, "engine": {"chunk": own["num_samples"]}, "seed": 1})
    page = compared(tmp_path)[1]
    assert "num_samples" not in page
    assert "eval.limit" not in page


def test_legends_name_the_objective_and_runs_of_one_label_by_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[str]] = []
    original = plot_curves

    def record(runs: Mapping[str, Path], *rest: Any) -> Path:
        drawn.append(list(runs))
        return original(runs, *rest)

    monkeypatch.setattr("redi_lab.verbs.compare.plot_curves", record)
    for name, module in (("a", "redi.REDI"), ("b", "redi.REDI"), ("c", "dpo.DPO")):
        folder = make_run(tmp_path / name, name=f"experiment-{name}")
        write_config(folder, {"name": f"experiment-{name}", "seed": 1, "loss": {"_target_": f"m.{module}"}})
    compared(tmp_path, "a", "c")
    compared(tmp_path, "a", "b")
    assert drawn == [["redi s1", "dpo s1"]] * 2 + [["redi s1 · experiment-a", "redi s1 · experiment-b"]] * 2
