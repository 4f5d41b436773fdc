"""Hands out the trials of a study, each to one worker at a time, and again when a worker dies.

The budget is planned ahead as waiting trials, so that any number of workers run exactly that many. A worker that holds
a trial counts up a number beside it; one whose number stands still for a lease's time is dead, and its trial waits
anew with the same parameters. Only the observer's own clock is read, so machines may disagree about the time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from redi_lab.run.study_storage import study_lock

_LOG = logging.getLogger(__name__)
_BEATS_PER_LEASE = 4


@final
class Claims:
    """One worker's view of who runs what.

    Args:
        study: the study.
        storage: where it is kept.
        url: of the storage, for its lock.
        lease_seconds: after this time without a sign of life a worker counts as dead.
        max_retries: how often the trial of a dead worker is tried again.
    """

    def __init__(
        self, study: optuna.Study, storage: BaseStorage, url: str, lease_seconds: float, max_retries: int
    ) -> None:
        self._study = study
        self._storage = storage
        self._url = url
        self._lease_seconds = lease_seconds
        self._max_retries = max_retries
        self._seen: dict[int, tuple[int, float]] = {}

    def plan(self, num_trials: int) -> None:
        """Let as many trials wait as are missing from the budget; those that failed do not count."""
        with study_lock(self._url):
            counted = [t for t in self._study.get_trials(deepcopy=False) if t.state != TrialState.FAIL]
            for _ in range(num_trials - len(counted)):
                self._study.enqueue_trial({})

    def plan_points(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Let the points (parameter name to value) wait that are neither tried nor waiting yet."""
        with study_lock(self._url):
            trials = [t for t in self._study.get_trials(deepcopy=False) if t.state != TrialState.FAIL]
            known = [fixed_parameters(trial) for trial in trials]
            for point in points:
                if dict(point) not in known:
                    self._study.enqueue_trial(dict(point))

    def claim(self) -> FrozenTrial | None:
        """The next trial, now running and this worker's own; None if none waits."""
        with study_lock(self._url):
            self._release_the_dead()
            for waiting in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                self._storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING)
                self._storage.set_trial_user_attr(waiting._trial_id, "beat", 1)
                return self._storage.get_trial(waiting._trial_id)
        return None

    def is_any_running(self) -> bool:
        """Whether somebody, possibly dead, holds a trial."""
        return bool(self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    @contextmanager
    def held(self, trial: FrozenTrial) -> Iterator[None]:
        """Give signs of life for a claimed trial; an interruption that leaves time for it gives the trial back."""
        is_over = threading.Event()
        beating = threading.Thread(target=self._beat, args=(trial._trial_id, is_over), daemon=True)
        beating.start()
        try:
            yield
        except BaseException:
            is_over.set()
            beating.join()
            with study_lock(self._url):
                self._retry(self._storage.get_trial(trial._trial_id), "the worker was interrupted")
            raise
        finally:
            is_over.set()
            beating.join()

    def _beat(self, trial_id: int, is_over: threading.Event) -> None:
        count = 1
        while not is_over.wait(self._lease_seconds / _BEATS_PER_LEASE):
            count += 1
            try:
                self._storage.set_trial_user_attr(trial_id, "beat", count)
            except optuna.exceptions.UpdateFinishedTrialError:
                return  # told, or given to another worker
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


def origin(trial: FrozenTrial | Trial) -> int:
    """Number of the first attempt at what this trial tries."""
    return int(trial.user_attrs.get("retry_of", trial.number))


def fixed_parameters(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial was told to try, and what it has chosen so far."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}
