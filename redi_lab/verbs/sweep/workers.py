"""Hands the trials of a study to workers, each to one of them at a time, and again when a worker or a command dies.

The budget is planned ahead as waiting trials, so that any number of commands run exactly that many. One that holds a
trial for a worker of its own counts up a number beside it; where the number stands still for a lease's time, the
command is dead, and its trial waits anew with the same parameters. Only the observer's clock is read, so machines may
disagree about the time. Workers are processes of this machine or of a Ray cluster; one lives as long as there are
trials, so that imports are paid once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, final

import optuna
from optuna.trial import FrozenTrial, TrialState

from redi_lab.config.schema.sweep import SweepConfig
from redi_lab.errors import UserError
from redi_lab.executor.crew import Crew, Worker
from redi_lab.executor.local import share_of_machine, starter
from redi_lab.run.screen import progress_bar
from redi_lab.run.study_storage import study_lock
from redi_lab.verbs.sweep.results import best_trial, is_feasible
from redi_lab.verbs.sweep.study import RunTraining, Sweep, origin
from redi_lab.verbs.sweep.trial import make_work

MAX_FAILURES = 3
"""A command gives up after this many failing trials in a row: the parameters are not to blame."""
_LOG = logging.getLogger(__name__)
_BEATS_PER_LEASE = 4


@final
class Claims:
    """One command's view of who runs what.

    Args:
        study: the study.
        settings: the group `sweep`: its storage, lease_seconds and max_retries.
    """

    def __init__(self, study: optuna.Study, settings: SweepConfig) -> None:
        self._study = study
        self._storage = study._storage
        self._url = settings.storage
        self._lease_seconds = settings.lease_seconds
        self._max_retries = settings.max_retries
        self._seen: dict[int, tuple[int, float]] = {}
        self._held: set[int] = set()  # ids of trials that this command runs

    def plan(self, budget: int | Sequence[Mapping[str, Any]]) -> None:
        """Let wait what is missing from a number of trials, or from the points of a grid; failed ones do not count."""
        with study_lock(self._url):
            trials = [t for t in self._study.get_trials(deepcopy=False) if t.state != TrialState.FAIL]
            known = [fixed_parameters(trial) for trial in trials]
            if isinstance(budget, int):
                missing: list[dict[str, Any]] = [{}] * (budget - len(known))
            else:
                missing = [dict(point) for point in budget if dict(point) not in known]
            for point in missing:
                self._study.enqueue_trial(point)

    def claim(self) -> FrozenTrial | None:
        """The next trial, now running and held by this command; None if none waits."""
        with study_lock(self._url):
            self._release_the_dead()
            for waiting in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                self._storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING)
                self._storage.set_trial_user_attr(waiting._trial_id, "beat", 1)
                self._held.add(waiting._trial_id)
                return self._storage.get_trial(waiting._trial_id)
        return None

    def is_any_running(self) -> bool:
        """Whether somebody, possibly dead, holds a trial."""
        return bool(self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def stream(self) -> Iterator[int | None]:
        """Ids of trials as they are claimed; None where none waits, but one that runs may yet be lost."""
        while True:
            trial = self.claim()
            if trial is None and not self.is_any_running():
                return
            yield trial and trial._trial_id

    def done(self, trial_id: int) -> None:
        """A trial that this command held has ended."""
        self._held.discard(trial_id)

    def lost(self, trial_id: int, reason: str) -> None:
        """A trial that this command held was not finished: it waits anew, or is given up."""
        self.done(trial_id)
        with study_lock(self._url):
            self._retry(self._storage.get_trial(trial_id), reason)

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Give signs of life for what is claimed; what is held at the end is given back."""
        is_over = threading.Event()
        beating = threading.Thread(target=self._beat, args=(is_over,), daemon=True)
        beating.start()
        try:
            yield
        finally:
            is_over.set()
            beating.join()
            for trial_id in tuple(self._held):
                self.lost(trial_id, "the command was interrupted")

    def _beat(self, is_over: threading.Event) -> None:
        count = 1
        while not is_over.wait(self._lease_seconds / _BEATS_PER_LEASE):
            count += 1
            for trial_id in tuple(self._held):
                try:
                    self._storage.set_trial_user_attr(trial_id, "beat", count)
                except optuna.exceptions.UpdateFinishedTrialError:
                    pass  # finished, or given to another command
                except Exception as error:  # each database has its own; a missed beat is no reason to stop training
                    _LOG.warning("the storage of the sweep fails (%s); trying again", error)

    def _release_the_dead(self) -> None:
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            count, now = trial.user_attrs.get("beat", 0), time.monotonic()
            seen = self._seen.get(trial._trial_id)
            if seen is None or seen[0] != count:
                self._seen[trial._trial_id] = (count, now)
            elif now - seen[1] > self._lease_seconds:
                self._retry(trial, f"no sign of life for {self._lease_seconds:g} s")

    def _retry(self, trial: FrozenTrial, reason: str) -> None:
        if trial.state.is_finished():
            return
        attempt = trial.user_attrs.get("attempt", 1)
        if attempt > self._max_retries:
            reason = f"{reason}, {attempt} times in all: given up"
            self._storage.set_trial_user_attr(trial._trial_id, "error", reason)
        self._storage.set_trial_user_attr(trial._trial_id, "interrupted", reason)
        self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        if attempt <= self._max_retries:
            again = {"attempt": attempt + 1, "retry_of": origin(trial), "runs": trial.user_attrs.get("runs", [])}
            self._study.enqueue_trial(fixed_parameters(trial), user_attrs=again)


def fixed_parameters(trial: FrozenTrial) -> dict[str, Any]:
    """The parameters that a trial was given, and those that it has chosen so far."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


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
