"""Hands the trials of a study to workers, on this machine or on a Ray cluster, behind the bar that shows how far it is.

A worker lives as long as there are trials, so that imports are paid once. The trial of one that dies waits anew.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import optuna
from optuna.trial import TrialState

from redi_lab.errors import UserError
from redi_lab.executor.crew import Crew, Worker
from redi_lab.executor.local import share_of_machine, starter
from redi_lab.run.screen import progress_bar
from redi_lab.verbs.sweep.claims import Claims
from redi_lab.verbs.sweep.results import best_trial, is_feasible
from redi_lab.verbs.sweep.study import RunTraining, Sweep
from redi_lab.verbs.sweep.trial import make_work

MAX_FAILURES = 3
"""A command gives up after this many failing trials in a row: the parameters are not to blame."""


def run_workers(sweep: Sweep, study: optuna.Study, run: RunTraining | None = None) -> None:
    """Run what waits in the study with as many workers as the sweep asks for.

    Args:
        sweep: the study and how its trials run.
        study: the same, opened.
        run: trains once; None: as the verb train does. Workers import it, so it has to be a function of a module.

    Raises:
        UserError: see `run_trials`; there are too few GPUs, or the cluster cannot be reached.
    """
    settings = sweep.settings
    share = partial(
        share_of_machine, num_workers=settings.num_workers, gpus=settings.gpus_per_trial, key="sweep.gpus_per_trial"
    )
    work = partial(make_work, sweep, run)
    run_trials(sweep, study, starter(sweep.cluster, work, share, settings.gpus_per_trial, "sweep.gpus_per_trial"))


def run_trials(sweep: Sweep, study: optuna.Study, start: Callable[[int], Worker]) -> None:
    """Run trials until none waits and no other command holds one that it may yet lose.

    Args:
        sweep: the study and how its trials run.
        study: the same, opened.
        start: makes a worker that does what `make_work` says.

    Raises:
        UserError: trials fail in a row, or workers die again and again.
    """
    settings = sweep.settings
    claims = Claims(study, settings)
    num_failures = 0
    with (
        progress_bar() as progress,
        claims.alive(),
        closing(Crew(start, settings.num_workers, max_deaths=settings.max_retries)) as crew,
    ):
        task = progress.add_task(**_state(sweep.name, study))
        for trial_id, error in crew.run(claims.stream(), claims.lost):
            claims.done(trial_id)
            progress.update(task, **_state(sweep.name, study))
            num_failures = 0 if error is None else num_failures + 1
            if num_failures == MAX_FAILURES:
                raise UserError(f"{MAX_FAILURES} trials failed in a row, the last with: {error}")


def _state(name: str, study: optuna.Study) -> dict[str, Any]:
    """What the bar shows: trials done, trials in all, and how they stand in words."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]
    done = [trial for trial in trials if trial.state.is_finished()]
    collapsed = sum(not is_feasible(trial) for trial in done)
    pruned = sum(trial.state == TrialState.PRUNED for trial in done)
    best = best_trial(study)
    text = "no result yet" if best is None else f"best {best.value:.3f} (trial {best.number})"
    extras = [f"{number} {word}" for number, word in ((collapsed, "collapsed"), (pruned, "pruned")) if number]
    return {"completed": len(done), "total": len(trials), "description": f"{name}: {', '.join([text, *extras])}"}
