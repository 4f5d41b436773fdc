from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.figure import Figure

from redi_lab.config.metrics import CALLBACK_METRICS, known_metrics
from redi_lab.config.schema.losses import LOSSES
from redi_lab.errors import UserError
from redi_lab.figures.curves import EVENTS, plot_curves, smooth
from redi_lab.figures.panels import DIAGNOSTICS, PANELS, TEXT, Panel

PNG = b"\x89PNG\r\n\x1a\n"


def write_metrics(path: Path, steps: int = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [panel.metrics[0] for panel in PANELS]
    lines = [{"step": step, "time": 1.0, **dict.fromkeys(names, 1.0 / (step + 1))} for step in range(steps)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_drawing_is_deterministic_shows_every_run_and_leaves_no_global_state(tmp_path: Path) -> None:
    one = write_metrics(tmp_path / "one" / "metrics.jsonl")
    two = write_metrics(tmp_path / "two" / "metrics.jsonl", steps=30)
    single = plot_curves({"one": one}, tmp_path / "new" / "single.png").read_bytes()
    assert single.startswith(PNG)
    assert plot_curves({"one": one}, tmp_path / "again.png").read_bytes() == single
    assert plot_curves({"one": one, "two": two}, tmp_path / "both.png").read_bytes() != single
    assert Gcf.get_all_fig_managers() == []


def test_labels_are_taken_literally(tmp_path: Path) -> None:
    path = write_metrics(tmp_path / "metrics.jsonl", steps=3)
    runs = dict.fromkeys(["$\\undefined$", "_hidden", "a$b", "<script>", "α=0.8\nlr=1e-3"], path)
    assert plot_curves(runs, tmp_path / "a.png").read_bytes().startswith(PNG)


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


def test_every_panel_draws_metrics_that_are_logged() -> None:
    known = {name for loss in LOSSES for name in known_metrics(loss, has_validation=True, callbacks=CALLBACK_METRICS)}
    for panel in (*PANELS, *DIAGNOSTICS, *TEXT):
        drawn = [*panel.metrics, *([panel.dotted] if panel.dotted else []), *panel.band]
        assert {name for name in drawn if not name.startswith("eval/")} <= known, panel.title
    assert [panel.title.split(" (")[0] for panel in PANELS] == [
        "Accuracy",
        "Chosen LogPS",
        "Rejected LogPS",
        "Update norm",
    ]


def axes_of(
    monkeypatch: pytest.MonkeyPatch, runs: dict[str, Path], folder: Path, drawn: Sequence[Panel] = PANELS
) -> list[Any]:
    """The visible panels of the figure that is drawn."""
    found: list[Any] = []

    def keep(figure: Figure, path: Path, **_: Any) -> None:
        path.touch()
        found.extend(figure.axes)

    monkeypatch.setattr(Figure, "savefig", keep)
    plot_curves(runs, folder / "figure.png", drawn)
    return [ax for ax in found if ax.get_visible()]


def test_what_happened_is_marked_in_every_panel_and_named_in_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = write_metrics(tmp_path / "metrics.jsonl")
    rows = [("drifting", 10), ("collapsed", 20), ("rollback", 21)]
    events = [json.dumps({"step": step, "kind": kind, "reason": "why"}) for kind, step in rows]
    (tmp_path / EVENTS).write_text("\n".join(events) + "\n")
    panels = axes_of(monkeypatch, {"run": metrics}, tmp_path)
    assert len(panels) == 4
    for panel in panels:
        upright = [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == "--"]
        assert upright == [20, 21]
    assert [text.get_text() for text in panels[0].texts] == ["collapsed", "rollback"]
    assert not panels[1].texts


def test_states_that_are_not_healthy_are_bars_along_the_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = write_metrics(tmp_path / "metrics.jsonl")
    states = [0] * 10 + [1] * 5 + [2] * 5 + [0] * 20 + [2] * 3
    with metrics.open("a") as file:
        for step, state in enumerate(states):
            file.write(json.dumps({"step": step, "time": 2.0, "collapse/state": state}) + "\n")
    for panel in axes_of(monkeypatch, {"run": metrics}, tmp_path):
        bars = [(*line.get_xdata(), line.get_alpha()) for line in panel.lines if line.get_linewidth() == 4]
        assert bars == [(10, 15, 0.35), (15, 20, 1.0), (40, 42, 1.0)]


def test_accuracy_has_its_interval_and_the_final_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = tmp_path / "metrics.jsonl"
    interval = {"val/pass_at_1_ci_low": 0.4, "val/pass_at_1_ci_high": 0.6}
    rows = [{"step": step, "time": 1.0, "val/pass_at_1": 0.5, **interval} for step in (0, 10, 20)]
    rows.append({"step": 20, "time": 1.0, "eval/pass_at_1": 0.7})
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (panel,) = axes_of(monkeypatch, {"run": metrics}, tmp_path)
    assert [list(line.get_ydata()) for line in panel.lines] == [[0.5, 0.5, 0.5], [0.7]]
    assert panel.collections[0].get_datalim(panel.transData).bounds == pytest.approx((0, 0.4, 20, 0.2))


def test_accuracy_names_how_curve_and_diamond_were_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs: one measured as it is evaluated, one greedily; a third has no summary yet."""
    runs = {}
    for name, temperature in (("alike", 0.6), ("greedy", 0.0), ("running", None)):
        runs[name] = tmp_path / name / "metrics.jsonl"
        runs[name].parent.mkdir()
        rows: list[dict[str, float]] = [{"step": step, "time": 1.0, "val/pass_at_1": 0.5} for step in (0, 10)]
        rows.append({"step": 10, "time": 1.0, "eval/pass_at_1": 0.7})
        runs[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
        if temperature is not None:
            development = {"num_problems": 200, "sampling": {"temperature": temperature, "num_samples": 1}}
            protocol = {"sampling": {"temperature": 0.6, "num_samples": 4}}
            summary = {"data": {"development": development}, "evaluation": {"protocol": protocol}}
            summary["metrics"] = {"num_problems": {"value": 600.0}}
            runs[name].with_name("summary.json").write_text(json.dumps(summary))
    (panel,) = axes_of(monkeypatch, runs, tmp_path)
    assert [text.get_text() for text in panel.get_legend().get_texts()] == [
        "during training: T 0.6, 1 sample, 200 problems or greedy, 200 problems",
        "final evaluation: T 0.6, 4 samples, 600 problems",
    ]
    assert [handle.get_marker() for handle in panel.get_legend().legend_handles] == ["o", "D"]
    (panel,) = axes_of(monkeypatch, {"running": runs["running"]}, tmp_path)
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["during training", "final evaluation"]
    runs["running"].write_text('{"step": 1, "time": 1.0, "val/pass_at_1": 0.5}\n')
    (panel,) = axes_of(monkeypatch, {"running": runs["running"]}, tmp_path)
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["during training"]


def write_rows(path: Path, rows: list[dict[str, float]]) -> Path:
    path.write_text("".join(json.dumps({"step": step, "time": 1.0, **row}) + "\n" for step, row in enumerate(rows)))
    return path


@pytest.mark.parametrize(
    ("name", "values", "low", "high"),
    [
        ("val/pass_at_1", [0.04], 0.0, 0.1),  # a single point
        ("val/pass_at_1", [0.0, 0.0], 0.0, 0.1),
        ("val/pass_at_1", [1.0, 0.99], 0.9, 1.0),
        ("val/pass_at_1", [0.2, 0.5], 0.2, 0.5),
        ("train/update_norm", [3e-4], 1.5e-4, 4.5e-4),
        ("train/update_norm", [0.0, 0.0], -0.5, 0.5),
        ("train/update_norm", [1.0, 2.0], 1.0, 2.0),
    ],
)
def test_an_axis_does_not_magnify_a_single_value_and_shares_stay_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, values: list[float], low: float, high: float
) -> None:
    metrics = write_rows(tmp_path / "metrics.jsonl", [{name: value} for value in values])
    (panel,) = axes_of(monkeypatch, {"run": metrics}, tmp_path)
    margin = 0.05 * (high - low)
    assert panel.get_ylim() == pytest.approx((low - margin, high + margin))
    assert all(tick == round(tick) for tick in panel.get_xticks())  # there are no half steps
    panel.figure.draw_without_rendering()
    assert ("×10⁻⁴" in panel.get_ylabel()) is (values[0] == 3e-4)


def test_the_figure_is_never_wider_than_two_panels_and_long_labels_stand_in_one_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panels = DIAGNOSTICS[:3]
    names = [panel.metrics[0] for panel in panels]
    path = write_rows(tmp_path / "metrics.jsonl", [dict.fromkeys(names, 0.5)])
    figures: list[Any] = []

    def keep(figure: Figure, path: Path, **_: Any) -> None:
        path.touch()
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    long = "redi α.8 lr 2e-4 s42 [/data/" + "folder/" * 10
    for labels in (["redi α.8 lr 2e-4 s42", "dpo β1 lr 1e-4 s42"], [f"{long}1]", f"{long}2]"]):
        plot_curves(dict.fromkeys(labels, path), tmp_path / "a.png", panels)
    for figure in figures:
        figure.draw_without_rendering()
        assert figure.axes[0].get_gridspec().ncols == 2
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == [
        "redi α.8 lr 2e-4 s42",
        "dpo β1 lr 1e-4 s42",
    ]


def test_no_text_lies_on_another_panel_or_outside_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Margins are computed from the numbers of the axes: also from long ones, and from powers of ten."""
    ranges = [(-12345.0, 1.0), (0.6912401, 0.6912409), (-1.25e-7, 3e-7), (-0.5, 0.0)]
    rows = [
        dict(zip((panel.metrics[0] for panel in DIAGNOSTICS), ends, strict=False))
        for ends in zip(*ranges * 4, strict=True)
    ]
    runs = {f"run {n}\nin two lines": write_rows(tmp_path / f"{n}.jsonl", rows) for n in range(4)}
    panels = axes_of(monkeypatch, runs, tmp_path, DIAGNOSTICS)
    figure = panels[0].figure
    figure.draw_without_rendering()
    boxes = [panel.get_tightbbox() for panel in panels] + [figure.legends[0].get_window_extent()]
    assert len(boxes) == len(DIAGNOSTICS) + 1
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0 for box in boxes)
    assert boxes[-1].y1 <= figure.bbox.height
    assert not [(a, b) for number, a in enumerate(boxes) for b in boxes[:number] if a.overlaps(b)]


def test_a_smoothed_curve_does_not_end_in_its_last_noisy_point() -> None:
    values = [float(index % 2) for index in range(199)] + [9.0]
    assert smooth(values)[-1] < 6.0
    assert smooth([1.0, 5.0]) == pytest.approx([1.0, 5.0])
    assert smooth([3.0]) == [3.0]


def test_a_line_that_is_no_event_is_named(tmp_path: Path) -> None:
    metrics = write_metrics(tmp_path / "metrics.jsonl")
    (tmp_path / EVENTS).write_text('{"step": 1, "kind": "stop", "reason": ""}\n{"kind": "stop"}\n')
    with pytest.raises(UserError, match=r"events\.jsonl:2: "):
        plot_curves({"run": metrics}, tmp_path / "a.png")
