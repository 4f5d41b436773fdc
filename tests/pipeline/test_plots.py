from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from matplotlib._pylab_helpers import Gcf

from redi_lab.errors import UserError
from redi_lab.pipeline.plots import PANELS, plot_curves, smooth

PNG = b"\x89PNG\r\n\x1a\n"


def write_metrics(path: Path, steps: int = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [panel.metrics[0] for panel in PANELS]
    lines = [{"step": step, "time": 1.0, **dict.fromkeys(names, 1.0 / (step + 1))} for step in range(steps)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_figure_of_two_runs_differs_from_that_of_one(tmp_path: Path) -> None:
    one = write_metrics(tmp_path / "one" / "metrics.jsonl")
    two = write_metrics(tmp_path / "two" / "metrics.jsonl", steps=30)
    single = plot_curves({"one": one}, tmp_path / "new" / "single.png").read_bytes()
    both = plot_curves({"one": one, "two": two}, tmp_path / "both.png").read_bytes()
    assert single.startswith(PNG)
    assert both.startswith(PNG)
    assert single != both


def test_drawing_is_deterministic_and_leaves_no_global_state(tmp_path: Path) -> None:
    path = write_metrics(tmp_path / "metrics.jsonl")
    first = plot_curves({"run": path}, tmp_path / "a.png").read_bytes()
    assert plot_curves({"run": path}, tmp_path / "b.png").read_bytes() == first
    assert Gcf.get_all_fig_managers() == []


@pytest.mark.parametrize("label", ["$\\undefined$", "_hidden", "a$b", "<script>", "α=0.8\nlr=1e-3"])
def test_labels_are_taken_literally(tmp_path: Path, label: str) -> None:
    path = write_metrics(tmp_path / "metrics.jsonl")
    assert plot_curves({label: path}, tmp_path / "a.png").read_bytes().startswith(PNG)


def test_a_run_that_ends_in_nan_and_one_with_few_metrics_are_drawn(tmp_path: Path) -> None:
    collapsed = write_metrics(tmp_path / "a.jsonl")
    with collapsed.open("a") as file:
        file.write('{"step": 60, "time": 99.0, "train/loss": "NaN", "train/grad_norm": "Infinity"}\n')
    sft = tmp_path / "b.jsonl"
    sft.write_text('{"step": 0, "time": 1.0, "train/loss": 2.0}\n')
    assert plot_curves({"collapsed": collapsed, "sft": sft}, tmp_path / "c.png").read_bytes().startswith(PNG)


def test_nothing_to_plot_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run given"):
        plot_curves({}, tmp_path / "a.png")
    with pytest.raises(UserError, match=r"absent\.jsonl does not exist"):
        plot_curves({"run": tmp_path / "absent.jsonl"}, tmp_path / "a.png")
    other = tmp_path / "other.jsonl"
    other.write_text('{"step": 0, "time": 1.0, "other": 1.0, "train/loss": "NaN"}\n')
    with pytest.raises(UserError, match=r"nothing to plot.*other\.jsonl"):
        plot_curves({"run": other}, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_smoothing_keeps_lines_and_ends_and_skips_nan() -> None:
    line = [0.5 * index for index in range(100)]
    assert smooth(line) == pytest.approx(line)
    assert smooth([1.0, math.nan, 3.0])[1] == 2.0
    assert math.isnan(smooth([math.nan])[0])
    assert smooth([]) == []
