"""The results of a study: one page without external resources, its pictures, its numbers."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from redi_lab.config.compose import load_config
from redi_lab.figures.page import embedded_image, render_page, table
from redi_lab.files import write_text
from redi_lab.redaction import redact
from redi_lab.run.naming import objective
from redi_lab.verbs.sweep.confirm import Confirmation
from redi_lab.verbs.sweep.pictures import plot_map, plot_with_optuna
from redi_lab.verbs.sweep.results import TrialView, best_trial, budget, view_trials
from redi_lab.verbs.sweep.space import as_overrides
from redi_lab.verbs.sweep.study import Sweep

PAGE = "index.html"
_OUTCOMES = ("finished", "collapsed", "pruned", "failed")


def write_report(sweep: Sweep, study: optuna.Study, confirmation: Confirmation | None) -> list[Path]:
    """Write pictures and page into the study's folder.

    Returns:
        The files, the page last.
    """
    trials, page = view_trials(study), sweep.folder / PAGE
    map_file = plot_map(trials, sweep.space, sweep.settings.metric, sweep.folder / "map.png", _title(sweep))
    pictures = [
        *([] if map_file is None else [map_file]),
        *plot_with_optuna(study, sweep.settings.metric, sweep.folder),
    ]
    sentences = "".join(f"<p>{html.escape(line)}</p>\n" for line in conclusions(sweep, study, confirmation))
    images = "".join(embedded_image(picture.stem, picture) for picture in pictures)
    storage = html.escape(redact(sweep.settings.storage).removeprefix("journal://"))
    body = f"""<h1>{html.escape(sweep.name)}</h1>
{sentences}<h2>Plots</h2>
{images}
<h2>Trials</h2>
{_table(sweep, trials)}
<p>Live view: <code>optuna-dashboard {storage}</code></p>"""
    write_text(page, render_page(sweep.name, body))
    return [*pictures, page]


def summarise(sweep: Sweep, study: optuna.Study, confirmation: Confirmation | None) -> dict[str, Any]:
    """The content of the study's summary.json."""
    trials, winner = view_trials(study), best_trial(study)
    metrics = {f"num_{word}": float(sum(t.outcome == word for t in trials)) for word in _OUTCOMES} | budget(trials)
    if winner is not None and winner.value is not None:
        metrics["best_value"] = winner.value
    if confirmation is not None:
        metrics["confirmed_difference"] = confirmation.difference
    return {
        "name": sweep.name,
        "verb": "sweep",
        "metrics": metrics,
        "best_trial": None if winner is None else winner.number,
        "best_values": None if winner is None else winner.user_attrs["values"],
        "best_command": None if winner is None else winner.user_attrs["command"],
        "confirmation": None if confirmation is None else confirmation.as_dict(),
        "storage": redact(sweep.settings.storage),
        "trials": [asdict(trial) for trial in trials],
        "mlflow_run_id": study.user_attrs.get("mlflow_run_id"),
    }


def conclusions(sweep: Sweep, study: optuna.Study, confirmation: Confirmation | None) -> list[str]:
    """What came out, in sentences for screen and page."""
    trials, winner = view_trials(study), best_trial(study)
    used = budget(trials)
    share = 1 - used["steps"] / used["planned_steps"] if used["planned_steps"] else 0.0
    lines = [
        _headline(sweep, trials, winner),
        f"Budget: {used['steps']:,} of {used['planned_steps']:,} optimizer steps in {used['seconds'] / 60:.1f} worker"
        f" minutes; stopping early saved {share:.0%} of the steps, about {used['saved_seconds'] / 60:.1f} minutes.",
    ]
    if confirmation is not None:
        lines.append(f"Confirmation: {confirmation.verdict()}.")
    if winner is not None:
        lines.append(f"Train it:   {winner.user_attrs['command']}")
    return lines


def _headline(sweep: Sweep, trials: Sequence[TrialView], winner: FrozenTrial | None) -> str:
    counts = ", ".join(f"{n} {word}" for word in _OUTCOMES if (n := sum(t.outcome == word for t in trials)))
    text = f"{len(trials)} trials ({counts}); {sweep.settings.sampler} sampler, {sweep.settings.pruner} pruner."
    commits = {str(run["commit"])[:12] for trial in trials for run in trial.runs}
    if len(commits) > 1:
        text += f" Their code differs: commits {', '.join(sorted(commits))}."
    if winner is None:
        return f"{text} No trial finished without a collapse."
    at = " ".join(as_overrides(winner.user_attrs["values"]))
    return f"{text} Best: trial {winner.number} with {sweep.settings.metric} {winner.value:.4g} at {at}."


def _title(sweep: Sweep) -> str:
    """The study with the part of the objective that is not searched, unless the objective itself is."""
    searched = {parameter.path for parameter in sweep.space}
    if "loss" in searched:
        return sweep.name
    loss = load_config("train", list(sweep.overrides), check_paths=False).loss
    fixed = {key: value for key, value in loss.items() if f"loss.{key}" not in searched}
    return f"{sweep.name}, {objective(fixed)}"


def _table(sweep: Sweep, trials: Sequence[TrialView]) -> str:
    paths = list(dict.fromkeys(parameter.path for parameter in sweep.space))
    sign = -1 if sweep.settings.mode == "max" else 1
    rows = []
    for t in sorted(trials, key=lambda t: (_OUTCOMES.index(t.outcome), sign * (t.value or 0.0))):
        outcome = t.outcome + ("" if t.step is None else f" at step {t.step}")
        rows.append(
            [
                str(t.number),
                *(_text(t.values.get(path)) for path in paths),
                _text(t.value),
                "–" if t.interval is None else f"{t.interval[0]:.3f} to {t.interval[1]:.3f}",
                outcome if t.outcome == "finished" else f"{outcome}: {t.reason}",
                f"{t.steps}/{t.planned_steps}",
                f"{t.seconds:.0f}",
                " ".join(str(run["mlflow_run_id"] or "–")[:8] for run in t.runs),
            ]
        )
    heads = ["trial", *paths, sweep.settings.metric, "95 % CI", "outcome", "steps", "seconds", "MLflow runs"]
    return table(heads, rows)


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
