"""The results of a study: one page without external resources, its plots, its numbers, the winner as an experiment."""

from __future__ import annotations

import html
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from redi_lab.config.compose import load_config
from redi_lab.figures.page import embedded_image, render_page
from redi_lab.files import write_text
from redi_lab.redaction import redact
from redi_lab.run.naming import objective
from redi_lab.verbs.sweep.confirm import Confirmation
from redi_lab.verbs.sweep.experiment import experiment_text
from redi_lab.verbs.sweep.plots import plot_importances, plot_map, plot_parallel
from redi_lab.verbs.sweep.results import Budget, TrialView, best_trial, budget, view_trials
from redi_lab.verbs.sweep.space import as_overrides
from redi_lab.verbs.sweep.study import Sweep

PAGE = "index.html"
_FEW_FOR_IMPORTANCE = 4


def write_report(sweep: Sweep, study: optuna.Study, confirmation: Confirmation | None) -> list[Path]:
    """Write plots, the winner's experiment and the page into the study's folder.

    Returns:
        The files, the page last.
    """
    trials, space, metric, title = view_trials(study), sweep.space, sweep.settings.metric, _title(sweep)
    files = [plot_map(trials, space, metric, sweep.folder / "map.png", title)]
    if any(t.value is not None and math.isfinite(t.value) for t in trials):
        files.append(plot_parallel(trials, space, metric, sweep.folder / "parallel.png", title))
    importances = parameter_importances(study)
    if importances:
        files.append(plot_importances(importances, sweep.folder / "importances.png"))
    pictures = [file for file in files if file is not None]
    winner = best_trial(study)
    experiment = [] if winner is None else [_write_experiment(sweep, winner)]
    page = sweep.folder / PAGE
    write_text(page, _page(sweep, trials, winner, pictures, confirmation))
    return [*pictures, *experiment, page]


def _title(sweep: Sweep) -> str:
    """Whose trials they are: the objective with what of it is not searched, where it is not searched itself."""
    searched = {parameter.path for parameter in sweep.space}
    if "loss" in searched:
        return sweep.name
    loss = load_config("train", list(sweep.overrides), check_paths=False).loss
    fixed = {key: value for key, value in loss.items() if f"loss.{key}" not in searched}
    return f"{sweep.name}, {objective(fixed)}"


def summarise(sweep: Sweep, study: optuna.Study, confirmation: Confirmation | None) -> dict[str, Any]:
    """What summary.json says of a study."""
    trials, winner = view_trials(study), best_trial(study)
    used = budget(trials)
    metrics: dict[str, float] = {f"num_{word}": sum(t.outcome == word for t in trials) for word in _OUTCOMES}
    metrics |= {"steps": used.steps, "planned_steps": used.planned_steps, "seconds": used.seconds}
    metrics |= {"saved_seconds": used.saved_seconds}
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
        "confirmation": None if confirmation is None else _confirmation_summary(confirmation),
        "storage": redact(sweep.settings.storage),
        "trials": [_trial_summary(trial) for trial in trials],
        "mlflow_run_id": study.user_attrs.get("mlflow_run_id"),
    }


def parameter_importances(study: optuna.Study) -> dict[str, float]:
    """PED-ANOVA importances by parameter name; none while the trials are too few or too much alike to tell."""
    finished = [
        t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if math.isfinite(t.value or 0.0)
    ]
    if len(finished) < _FEW_FOR_IMPORTANCE or len({t.value for t in finished}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about parameters with a single value; they get 0
        return dict(optuna.importance.get_param_importances(study))


_OUTCOMES = ("finished", "collapsed", "pruned", "failed")


def conclusions(sweep: Sweep, study: optuna.Study, confirmation: Confirmation | None) -> list[str]:
    """What came out, in sentences for the screen."""
    trials, winner = view_trials(study), best_trial(study)
    lines = [_headline(sweep, trials, winner), _budget_line(budget(trials))]
    lines += [] if confirmation is None else [f"{confirmation.verdict()}."]
    return lines if winner is None else [*lines, f"Train it:   {best_command(sweep)}"]


def best_name(sweep: Sweep) -> str:
    """Of the experiment that the winner becomes."""
    return f"{sweep.name}_best"


def best_command(sweep: Sweep) -> str:
    """That trains the winner anew, wherever it is typed."""
    return f"python -m redi_lab --config-dir {sweep.folder / 'conf'} +experiment={best_name(sweep)}"


def _write_experiment(sweep: Sweep, winner: FrozenTrial) -> Path:
    path = sweep.folder / "conf" / "experiment" / f"{best_name(sweep)}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    overrides = [*sweep.overrides, *as_overrides(winner.user_attrs["values"])]
    at = f"trial {winner.number}, {sweep.settings.metric} {winner.value:.4g}"
    comment = f"Best of {sweep.name}: {at}.     {best_command(sweep)}"
    write_text(path, experiment_text(best_name(sweep), overrides, comment))
    return path


def _confirmation_summary(confirmation: Confirmation) -> dict[str, Any]:
    e = confirmation.over_problems.difference
    return {
        "seeds": list(confirmation.seeds),
        "winner": list(confirmation.winner),
        "baseline": list(confirmation.baseline),
        "difference": confirmation.difference,
        "over_seeds": confirmation.over_seeds,
        "over_problems": {"value": e.value, "ci_low": e.ci_low, "ci_high": e.ci_high, "num_problems": e.num_problems},
        "verdict": confirmation.verdict(),
    }


def _trial_summary(trial: TrialView) -> dict[str, Any]:
    return {
        "number": trial.number,
        "values": dict(trial.values),
        "outcome": trial.outcome,
        "value": None if trial.value is None or not math.isfinite(trial.value) else trial.value,
        "interval": trial.interval,
        "step": trial.step,
        "reason": trial.reason,
        "steps": trial.steps,
        "planned_steps": trial.planned_steps,
        "seconds": trial.seconds,
        "command": trial.command,
        "runs": [
            {
                key: run["details"].get(key)
                for key in ("folder", "mlflow_run_id", "fingerprint", "commit", "commit_is_dirty")
            }
            for run in trial.runs
        ],
    }


def _page(
    sweep: Sweep,
    trials: Sequence[TrialView],
    winner: FrozenTrial | None,
    pictures: Sequence[Path],
    confirmation: Confirmation | None,
) -> str:
    images = "".join(embedded_image(picture.stem, picture) for picture in pictures)
    confirmed = "" if confirmation is None else f"<h2>Confirmation</h2><p>{html.escape(confirmation.verdict())}.</p>"
    body = f"""<h1>{html.escape(sweep.name)}</h1>
<p>{html.escape(_headline(sweep, trials, winner))}</p>
<p>{html.escape(_budget_line(budget(trials)))}</p>
{_best(sweep, winner)}
{confirmed}
<h2>Plots</h2>
{images}
<h2>Trials</h2>
{_table(sweep, trials)}
<p>Live view: <code>optuna-dashboard {html.escape(redact(sweep.settings.storage).removeprefix("journal://"))}</code></p>"""
    return render_page(sweep.name, body)


def _headline(sweep: Sweep, trials: Sequence[TrialView], winner: FrozenTrial | None) -> str:
    counts = ", ".join(f"{n} {word}" for word in _OUTCOMES if (n := sum(t.outcome == word for t in trials)))
    text = f"{len(trials)} trials ({counts}); {sweep.settings.sampler} sampler, {sweep.settings.pruner} pruner."
    commits = {str(run["details"].get("commit"))[:12] for trial in trials for run in trial.runs}
    if len(commits) > 1:
        text += f" Their code differs: commits {', '.join(sorted(commits))}."
    if winner is None:
        return f"{text} No trial finished without a collapse."
    at = " ".join(as_overrides(winner.user_attrs["values"]))
    return f"{text} Best: trial {winner.number} with {sweep.settings.metric} {winner.value:.4g} at {at}."


def _budget_line(used: Budget) -> str:
    share = f"{1 - used.steps / used.planned_steps:.0%}" if used.planned_steps else "0 %"
    return (
        f"Budget: {used.steps:,} of {used.planned_steps:,} optimizer steps in {used.seconds / 60:.1f} worker minutes;"
        f" stopping early saved {share} of the steps, about {used.saved_seconds / 60:.1f} minutes."
    )


def _best(sweep: Sweep, winner: FrozenTrial | None) -> str:
    if winner is None:
        return ""
    commands = "\n".join((best_command(sweep), winner.user_attrs["command"]))
    return f"<p>Train the winner again, as an experiment or in full:</p><pre>{html.escape(commands)}</pre>"


def _table(sweep: Sweep, trials: Sequence[TrialView]) -> str:
    paths = list(dict.fromkeys(parameter.path for parameter in sweep.space))
    heads = ["trial", *paths, sweep.settings.metric, "95 % CI", "outcome", "steps", "seconds", "MLflow runs"]
    sign = -1 if sweep.settings.mode == "max" else 1
    ranked = sorted(trials, key=lambda t: (_OUTCOMES.index(t.outcome), sign * (t.value or 0.0)))
    rows = []
    for t in ranked:
        outcome = t.outcome + ("" if t.step is None else f" at step {t.step}")
        cells = [
            str(t.number),
            *(_text(t.values.get(path, "–")) for path in paths),
            "–" if t.value is None else f"{t.value:.4g}",
            "–" if t.interval is None else f"{t.interval[0]:.3f} to {t.interval[1]:.3f}",
            outcome if t.outcome == "finished" else f"{outcome}: {t.reason}",
            f"{t.steps}/{t.planned_steps}",
            f"{t.seconds:.0f}",
            " ".join(str(run["details"].get("mlflow_run_id") or "–")[:8] for run in t.runs),
        ]
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
