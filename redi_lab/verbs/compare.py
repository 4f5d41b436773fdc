"""`redi-lab compare`: runs side by side, as links into MLflow's compare view and an HTML page that needs no server.

A run is an output folder with `metrics.jsonl` and, once it is finished, `summary.json`; `config.yaml` and `mlflow.json`
are used where they exist. Whatever is missing is shown as missing.
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
from redi_lab.config.compose import load_config
from redi_lab.config.schema.words import CompareWords, read_words
from redi_lab.errors import UserError, in_short
from redi_lab.figures.curves import plot_curves
from redi_lab.figures.page import embedded_image, render_page, table
from redi_lab.figures.panels import DIAGNOSTICS, PANELS
from redi_lab.run.naming import objective, run_label
from redi_lab.run.record import SUMMARY, read_summary, results_folder, write_summary
from redi_lab.tracking.server import TRAINING_MODE
from redi_lab.tracking.state import METRICS_FILE, STATE_FILE, RunState, flatten, load_state

_MISSING = "missing"
_CURVES = ("train/mean_logps/chosen", "train/mean_logps/rejected")


@final
@dataclass(frozen=True)
class _Run:
    """A run's folder, its summary, its resolved configuration (dotted name to text), its MLflow state and its label."""

    folder: Path
    summary: Mapping[str, Any]
    config: Mapping[str, str]
    mlflow: RunState | None
    label: str

    @property
    def name(self) -> str:
        """The run's name, else that of its folder."""
        return str(self.summary.get("name") or self.folder.name)

    def accuracy(self) -> str:
        """pass@1 with its 95 % confidence interval, in percent."""
        score = (self.summary.get("metrics") or {}).get("pass_at_1")
        if not isinstance(score, Mapping) or not isinstance(score.get("value"), int | float):
            return _MISSING
        value, low, high = score["value"], score.get("ci_low"), score.get("ci_high")
        interval = "" if low is None or high is None else f" (95 % CI {100 * low:.1f}–{100 * high:.1f})"
        return f"{100 * value:.1f} %{interval}"


def run_compare(arguments: Sequence[str]) -> Path:
    """The verb: `compare [RUN RUN ...] [last=2] [port=5000]`.

    Args:
        arguments: output folders, MLflow run ids or run names (none of them: the newest `last` runs), and settings.

    Returns:
        The results folder, with index.html and summary.json.

    Raises:
        UserError: a name fits no run or several, fewer than two runs are found, or no run has metrics.
    """
    names, words, overrides = read_words(CompareWords, arguments)
    config = load_config("evaluate", ["checkpoint=.", "name=compare", *overrides], check_paths=False)
    with results_folder(config) as folder:
        found = [_read_run(run) for run in _select(names, Path(config.paths.outputs_dir), words.last)]
        runs = dict(zip(_distinct_labels(found), found, strict=True))
        uri = config.logger.tracking_uri
        states = {label: run.mlflow for label, run in runs.items() if run.mlflow and run.mlflow.run_id}
        stored = {label: state for label, state in states.items() if state.tracking_uri == uri}
        urls = _mlflow_urls(list(stored.values()), f"http://127.0.0.1:{words.port}")
        page = folder / "index.html"
        page.write_text(_page(runs, urls), encoding="utf-8")
        metrics = {str(run.folder): run.summary.get("metrics", {}) for run in found}
        content = {"name": "compare", "verb": "compare", "runs": metrics, "page": str(page)}
        write_summary(folder, config, content | {"mlflow_url": urls.get("MLflow"), "curves_url": urls.get("Curves")})
    print(f"Compared:   {', '.join(runs)}")
    for title, url in urls.items():
        print(f"{title + ':':<12}{url}")
    if absent := [label for label in runs if label not in stored]:
        print(f"Not in MLflow (redi-lab upload RUN_DIR): {', '.join(absent)}")
    print(f"The links need the UI: redi-lab ui\nPage:       {page}\nResults:    {folder}")
    return folder


def find_runs(outputs_dir: Path) -> list[Path]:
    """Return the folders of all finished training runs below a folder, oldest first (by their summaries)."""
    summaries = [
        path
        for path in outputs_dir.rglob(SUMMARY)
        if path.with_name(METRICS_FILE).exists() and read_summary(path.parent).get("verb", "train") == "train"
    ]
    return [path.parent for path in sorted(summaries, key=lambda path: (path.stat().st_mtime_ns, str(path)))]


def _select(wanted: Sequence[str], outputs_dir: Path, last: int) -> list[Path]:
    folders = [_find(name, outputs_dir) for name in wanted] or find_runs(outputs_dir)[-last:]
    unique = list(dict.fromkeys(folder.resolve() for folder in folders))
    if len(unique) < 2:
        raise UserError(f"found {len(unique)} of the two or more runs to compare in {outputs_dir}; train some more")
    return unique


def _find(name: str, outputs_dir: Path) -> Path:
    for folder in (Path(name), outputs_dir / name):
        if (folder / METRICS_FILE).is_file():
            return folder
    runs = map(_read_run, find_runs(outputs_dir))
    found = [run.folder for run in runs if name in (run.name, run.label, run.mlflow and run.mlflow.run_id)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"{name!r} is neither an output folder nor the MLflow run id or name of a run in {outputs_dir}")
    raise UserError(f"{name!r} is the name of {len(found)} runs; name a folder: {', '.join(map(str, found))}")


def _read_run(folder: Path) -> _Run:
    summary = read_summary(folder) if (folder / SUMMARY).is_file() else {}
    config = summary.get("config") or _read_config(folder / "config.yaml")
    state = load_state(folder) if (folder / STATE_FILE).exists() else None
    settings = flatten(config)
    if evaluation := summary.get("evaluation"):
        # A stage is scored under the protocol of its command, whatever its own configuration says.
        settings = {key: value for key, value in settings.items() if not key.startswith(("eval.", "engine."))}
        settings |= flatten(evaluation["protocol"], "evaluation.")
    return _Run(folder, summary, settings, state, run_label({"name": summary.get("name") or folder.name, **config}))


def _read_config(path: Path) -> Mapping[str, Any]:
    """The configuration of a run in training, which has no summary yet."""
    if not path.is_file():
        return {}
    try:
        check_aliases(path)
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} is damaged: {in_short(error)}; restore it, or remove the folder") from error
    return content if isinstance(content, Mapping) else {}


def _distinct_labels(runs: Sequence[_Run]) -> list[str]:
    """Labels that tell the runs apart: with the name where they are equal, or with the folder."""
    additions = ("", " · {0.name}", " [{0.folder.name}]", " [{0.folder}]")
    ways = ([run.label + addition.format(run) for run in runs] for addition in additions)
    return next(labels for labels in ways if len(set(labels)) == len(runs))


def _mlflow_urls(states: Sequence[RunState], ui_url: str) -> dict[str, str]:
    """MLflow's compare view of the runs, and its overlay of their log-prob curves; none where it has no run."""
    if not states:
        return {}
    runs = _query([state.run_id for state in states])
    experiments = _query(sorted({str(state.experiment_id) for state in states}))
    both = f"runs={runs}&experiments={experiments}&{TRAINING_MODE}"
    metrics = f"metric={_query(_CURVES[0])}&plot_metric_keys={_query(_CURVES)}&x_axis=step"
    return {"MLflow": f"{ui_url}/#/compare-runs?{both}", "Curves": f"{ui_url}/#/metric?{both}&{metrics}"}


def _query(value: Any) -> str:
    return quote(json.dumps(value, separators=(",", ":")), safe="")


def _page(runs: Mapping[str, _Run], urls: Mapping[str, str]) -> str:
    names = {"MLflow": "MLflow: parameters and metrics", "Curves": "MLflow: log-prob curves"}
    links = [f'<a href="{html.escape(url)}">{names[title]}</a>' for title, url in urls.items()]
    title, metrics = " — ".join(runs), {label: run.folder / METRICS_FILE for label, run in runs.items()}
    with tempfile.TemporaryDirectory() as folder:
        curves, diagnostics = (
            embedded_image(alt, plot_curves(metrics, Path(folder) / "curves.png", panels))
            for alt, panels in (
                ("Accuracy, log-probs and update norm of the runs", PANELS),
                ("Loss, gradients and probes of the runs", DIAGNOSTICS),
            )
        )
    body = f"""<h1>{html.escape(title)}</h1>
<p>{" — ".join(links) or "None of these runs is in the tracking store."}</p>
<h2>Runs</h2>
{_header_table(runs)}
<h2>What differs in the configuration</h2>
{_difference_table(runs)}
<h2>Curves</h2>
{curves}
<h2>Diagnostics</h2>
{diagnostics}"""
    return render_page(title, body)


def _header_table(runs: Mapping[str, _Run]) -> str:
    shown = runs.values()
    losses = [run.summary.get("loss") for run in shown]
    rows = [
        ("Experiment", *(run.name for run in shown)),
        ("Objective", *(objective(loss) if isinstance(loss, Mapping) else _MISSING for loss in losses)),
        ("Learning rate", *(run.config.get("optimizer.lr", _MISSING) for run in shown)),
        ("pass@1", *(run.accuracy() for run in shown)),
        ("Seed", *(str(run.summary.get("seed", _MISSING)) for run in shown)),
        ("Commit", *(str(run.summary.get("commit") or _MISSING)[:12] for run in shown)),
        ("Checkpoint", *(str(run.summary.get("checkpoint") or _MISSING) for run in shown)),
        ("Folder", *(str(run.folder) for run in shown)),
    ]
    return table(["", *runs], rows)


def _difference_table(runs: Mapping[str, _Run]) -> str:
    names = sorted(set().union(*(run.config for run in runs.values())))
    names = [name for name in names if not name.startswith("paths.")]  # differ between any two runs, and say nothing
    if not names:
        return "<p>No run has a configuration.</p>"
    rows = [(name, *(run.config.get(name, _MISSING) for run in runs.values())) for name in names]
    different = [row for row in rows if len(set(row[1:])) > 1]
    return table(["", *runs], different) if different else "<p>Nothing: the configurations are equal.</p>"
