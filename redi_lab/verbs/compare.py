"""Puts runs side by side: links into MLflow's compare view and a self-contained HTML page that needs no server.

    comparison = compare([], outputs_dir=outputs, tracking_uri=uri, destination=outputs / "compare.html")
    print(comparison.page, comparison.mlflow_url)

A run is an output folder with `summary.json`, `metrics.jsonl`, `config.yaml` and `mlflow.json`. Whatever is missing is
shown as missing.
"""

from __future__ import annotations

import html
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final
from urllib.parse import quote

import yaml

from redi_lab.config.checks import check_aliases
from redi_lab.errors import UserError, in_short
from redi_lab.figures.curves import DIAGNOSTICS, PANELS, Panel, plot_curves
from redi_lab.figures.page import embedded_image, render_page
from redi_lab.run.naming import objective, run_label
from redi_lab.run.record import read_summary
from redi_lab.tracking.server import TRAINING_MODE
from redi_lab.tracking.state import METRICS_FILE, STATE_FILE, RunState, load_state

_SUMMARY_FILE = "summary.json"
_CONFIG_FILE = "config.yaml"
_MISSING = "missing"
_CURVES = ("train/mean_logps/chosen", "train/mean_logps/rejected")


@final
@dataclass(frozen=True)
class RunView:
    """What the page shows of one run.

    Attributes:
        folder: Output folder.
        summary: `summary.json`, empty if absent.
        config: The resolved configuration, flat: dotted name to text.
        mlflow: `mlflow.json`, None if absent.
        label: What sets the run apart, by its configuration.
    """

    folder: Path
    summary: Mapping[str, Any]
    config: Mapping[str, str]
    mlflow: RunState | None
    label: str

    @property
    def name(self) -> str:
        """The run's name, else that of its folder."""
        return str(self.summary.get("name") or self.folder.name)

    @property
    def loss(self) -> str:
        """The objective with its hyperparameters: "redi α.8"."""
        loss = self.summary.get("loss")
        return objective(loss) if isinstance(loss, Mapping) else _MISSING

    @property
    def learning_rate(self) -> str:
        """Peak learning rate."""
        return self.config.get("optimizer.lr", _MISSING)

    @property
    def accuracy(self) -> str:
        """pass@1 with its 95 % confidence interval, in percent."""
        metrics = self.summary.get("metrics")
        score = metrics.get("pass_at_1") if isinstance(metrics, Mapping) else None
        if isinstance(score, int | float):
            return f"{100 * score:.1f} %"
        try:
            text = f"{100 * float(score['value']):.1f} %"  # type: ignore[index, unused-ignore]
        except (TypeError, KeyError, ValueError):
            return _MISSING
        low, high = score.get("ci_low"), score.get("ci_high")  # type: ignore[union-attr, unused-ignore]
        if low is None or high is None:
            return text
        return f"{text} (95 % CI {100 * float(low):.1f}–{100 * float(high):.1f})"


@final
@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes:
        page: The HTML page.
        runs: Labels of the compared runs.
        mlflow_url: MLflow's compare view of the runs; None unless at least one of them is in the store.
        curves_url: MLflow's overlay of their log-prob curves; None likewise.
        not_in_store: Runs that the links leave out because this store does not have them.
        metrics: Of each run's folder, the metrics of its summary.
    """

    page: Path
    runs: tuple[str, ...]
    mlflow_url: str | None
    curves_url: str | None
    not_in_store: tuple[str, ...]
    metrics: Mapping[str, Any]


def compare(
    run_dirs_or_ids: Sequence[str],
    *,
    outputs_dir: Path,
    tracking_uri: str,
    destination: Path,
    last: int = 2,
    ui_url: str = "http://127.0.0.1:5000",
) -> Comparison:
    """Compare named runs, or the newest ones.

    Args:
        run_dirs_or_ids: Output folders, MLflow run ids or run names; empty means the newest `last` runs.
        outputs_dir: Folder below which runs are looked for.
        tracking_uri: Store that the links are for.
        destination: HTML file to write; its folder is created.
        last: How many runs to take if none is named.
        ui_url: Address of the MLflow UI.

    Returns:
        Where the page is, and the links.

    Raises:
        UserError: If a name fits no run or several, fewer than two runs are found, or no run has metrics.
    """
    folders = _select(run_dirs_or_ids, outputs_dir, last)
    runs = [_read_run(folder) for folder in folders]
    stored = {run.folder: run.mlflow for run in runs if _is_in_store(run.mlflow, tracking_uri)}
    urls = _mlflow_urls([state for state in stored.values() if state is not None], ui_url)
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.write_text(_page(runs, urls), encoding="utf-8")
    labels = _distinct_labels(runs)
    absent = tuple(label for label, run in zip(labels, runs, strict=True) if run.folder not in stored)
    metrics = {str(run.folder): run.summary.get("metrics", {}) for run in runs}
    return Comparison(destination, tuple(labels), *urls, absent, metrics)


def find_runs(outputs_dir: Path) -> list[Path]:
    """Return the folders of all finished training runs below a folder, oldest first (by their summaries)."""
    summaries = [
        path
        for path in outputs_dir.rglob(_SUMMARY_FILE)
        if path.with_name(METRICS_FILE).exists() and read_summary(path.parent).get("verb", "train") == "train"
    ]
    return [path.parent for path in sorted(summaries, key=lambda path: (path.stat().st_mtime_ns, str(path)))]


def _select(wanted: Sequence[str], outputs_dir: Path, last: int) -> list[Path]:
    if wanted:
        folders = [_find(name, outputs_dir) for name in wanted]
    elif last < 2:
        raise UserError(f"last must be at least 2 to compare runs, got {last}")
    else:
        folders = find_runs(outputs_dir)[-last:]
    unique = list(dict.fromkeys(folder.resolve() for folder in folders))
    if len(unique) < 2:
        raise UserError(f"found {len(unique)} of the two or more runs to compare in {outputs_dir}; train some more")
    return unique


def _find(name: str, outputs_dir: Path) -> Path:
    for folder in (Path(name), outputs_dir / name):
        if (folder / METRICS_FILE).is_file():
            return folder
    found = [folder for folder in find_runs(outputs_dir) if name in _identities(folder)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"{name!r} is neither an output folder nor the MLflow run id or name of a run in {outputs_dir}")
    raise UserError(f"{name!r} is the name of {len(found)} runs; name a folder: {', '.join(map(str, found))}")


def _identities(folder: Path) -> set[str]:
    run = _read_run(folder)
    return {run.name, run.label, str(run.summary.get("mlflow_run_id")), str(run.mlflow.run_id if run.mlflow else None)}


def _read_run(folder: Path) -> RunView:
    summary = read_summary(folder) if (folder / _SUMMARY_FILE).is_file() else {}
    config = _read_config(folder / _CONFIG_FILE) or summary.get("config") or {}
    state = load_state(folder) if (folder / STATE_FILE).exists() else None
    plain = config if isinstance(config, Mapping) else {}
    settings, name = _flatten(plain), summary.get("name") or folder.name
    if evaluation := summary.get("evaluation"):
        # A stage is scored under the protocol of its command, whatever its own configuration says.
        settings = {key: value for key, value in settings.items() if not key.startswith(("eval.", "engine."))}
        settings |= _flatten(evaluation["protocol"], "evaluation.")
    return RunView(folder, summary, settings, state, run_label({"name": name, **plain}))


def _distinct_labels(runs: Sequence[RunView]) -> list[str]:
    """Labels that tell the runs apart: with the name where they are equal, or with the folder."""
    additions = ("", " · {0.name}", " [{0.folder.name}]", " [{0.folder}]")
    ways = ([run.label + addition.format(run) for run in runs] for addition in additions)
    return next(labels for labels in ways if len(set(labels)) == len(runs))


def _read_config(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        check_aliases(path)
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} is damaged: {in_short(error)}; restore it, or remove the folder") from error
    return content if isinstance(content, Mapping) else {}


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


def _is_in_store(state: RunState | None, tracking_uri: str) -> bool:
    return state is not None and state.tracking_uri == tracking_uri and state.run_id is not None


def _mlflow_urls(states: Sequence[RunState], ui_url: str) -> tuple[str | None, str | None]:
    if not states:
        return None, None
    base = ui_url.rstrip("/")
    runs = _query([state.run_id for state in states])
    experiments = _query(sorted({str(state.experiment_id) for state in states}))
    both = f"runs={runs}&experiments={experiments}&{TRAINING_MODE}"
    metrics = f"metric={_query(_CURVES[0])}&plot_metric_keys={_query(_CURVES)}&x_axis=step"
    return f"{base}/#/compare-runs?{both}", f"{base}/#/metric?{both}&{metrics}"


def _query(value: Any) -> str:
    return quote(json.dumps(value, separators=(",", ":")), safe="")


def _page(runs: Sequence[RunView], urls: tuple[str | None, str | None]) -> str:
    links = [
        f'<a href="{html.escape(url)}">{text}</a>'
        for url, text in zip(urls, ("MLflow: parameters and metrics", "MLflow: log-prob curves"), strict=True)
        if url is not None
    ]
    title = " — ".join(_distinct_labels(runs))
    body = f"""<h1>{html.escape(title)}</h1>
<p>{" — ".join(links) or "None of these runs is in the tracking store."}</p>
<h2>Runs</h2>
{_header_table(runs)}
<h2>What differs in the configuration</h2>
{_difference_table(runs)}
<h2>Curves</h2>
{_curves("Accuracy, log-probs and update norm of the runs", runs, PANELS)}
<h2>Diagnostics</h2>
{_curves("Loss, gradients and probes of the runs", runs, DIAGNOSTICS)}"""
    return render_page(title, body)


def _header_table(runs: Sequence[RunView]) -> str:
    rows = [
        ("Experiment", [run.name for run in runs]),
        ("Objective", [run.loss for run in runs]),
        ("Learning rate", [run.learning_rate for run in runs]),
        ("pass@1", [run.accuracy for run in runs]),
        ("Seed", [str(run.summary.get("seed", _MISSING)) for run in runs]),
        ("Commit", [str(run.summary.get("commit") or _MISSING)[:12] for run in runs]),
        ("Checkpoint", [str(run.summary.get("checkpoint") or _MISSING) for run in runs]),
        ("Folder", [str(run.folder) for run in runs]),
    ]
    return _table(runs, rows)


def _difference_table(runs: Sequence[RunView]) -> str:
    names = sorted(set().union(*(run.config for run in runs)))
    names = [name for name in names if not name.startswith("paths.")]  # differ between any two runs, and say nothing
    rows = [(name, [run.config.get(name, _MISSING) for run in runs]) for name in names]
    different = [(name, values) for name, values in rows if len(set(values)) > 1]
    if not names:
        return "<p>No run has a configuration.</p>"
    return _table(runs, different) if different else "<p>Nothing: the configurations are equal.</p>"


def _table(runs: Sequence[RunView], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    head = "".join(f"<th>{html.escape(label)}</th>" for label in _distinct_labels(runs))
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{html.escape(value)}</td>' for value in values)}</tr>"
        for name, values in rows
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _curves(alt: str, runs: Sequence[RunView], panels: Sequence[Panel]) -> str:
    labels = {label: run.folder / METRICS_FILE for label, run in zip(_distinct_labels(runs), runs, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        return embedded_image(alt, plot_curves(labels, Path(folder) / "curves.png", panels))
