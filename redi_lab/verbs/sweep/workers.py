"""The worker processes of one machine, and the bar that shows how far the study is.

A worker lives as long as there are trials, so that imports are paid once. It ends with the process that started it,
however that ends; one that dies is replaced, and its trial is retried when its lease is over.
"""

from __future__ import annotations

import _thread
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from redi_lab.errors import RunInterruptedError, UserError
from redi_lab.files import explained, naming
from redi_lab.run.screen import progress_bar
from redi_lab.verbs.sweep.results import best_trial, is_feasible
from redi_lab.verbs.sweep.study import RunTraining, Sweep
from redi_lab.verbs.sweep.trial import work

_POLL_SECONDS = 1.0
_FAREWELL_SECONDS = 20.0
_GPUS = Path("/proc/driver/nvidia/gpus")


def run_workers(sweep: Sweep, study: optuna.Study, run: RunTraining | None = None) -> None:
    """Run what waits in the study with as many processes as the sweep asks for, behind a progress bar.

    Args:
        sweep: the study and how its trials run.
        study: the same, to look at.
        run: trains once; None: as the verb train does. Workers import it, so it has to be a function of a module.

    Raises:
        UserError: a worker gave up, with its message, or workers die again and again.
    """
    context, num_workers = multiprocessing.get_context("spawn"), sweep.settings.num_workers
    complaints = context.SimpleQueue()

    def start(index: int) -> BaseProcess:
        own = worker_environment(index, num_workers, os.environ, len(list(_GPUS.glob("*"))))
        worker = context.Process(target=_work, args=(sweep, run, complaints, own))
        worker.start()
        return worker

    workers = {index: start(index) for index in range(num_workers)}
    deaths: list[int] = []
    try:
        with progress_bar() as progress:
            task = progress.add_task(sweep.name, total=None)
            while workers:
                done, total, text = _describe(study)
                progress.update(task, completed=done, total=total, description=f"{sweep.name}: {text}")
                wait([worker.sentinel for worker in workers.values()], _POLL_SECONDS)
                for index in _take_the_dead(workers, deaths):
                    if len(deaths) <= sweep.settings.max_retries:
                        workers[index] = start(index)
    except (KeyboardInterrupt, RunInterruptedError):
        for worker in workers.values():
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGINT)  # gives its trial back; a signal to the command alone does not reach it
        raise
    finally:
        for worker in workers.values():
            worker.join()
    if not complaints.empty():
        raise UserError(complaints.get())
    if len(deaths) > sweep.settings.max_retries:
        raise UserError(
            f"worker processes died (exit codes {', '.join(map(str, deaths))}; -9 mostly means too little memory; the"
            f" last lines of {sweep.folder}/trials/*/*/screen.log may say more); the same command continues the study"
        )


def _take_the_dead(workers: dict[int, BaseProcess], deaths: list[int]) -> list[int]:
    """Take out the workers that have ended; add the exit codes of those that died to `deaths`, and name them."""
    ended = {index: worker.exitcode for index, worker in workers.items() if worker.exitcode is not None}
    for index in ended:
        del workers[index]
    deaths += [code for code in ended.values() if code]
    return [index for index, code in ended.items() if code]


def worker_environment(index: int, number: int, environment: Mapping[str, str], num_gpus: int) -> dict[str, str]:
    """The environment variables of one of several workers of a machine: its share of the cores, and one GPU.

    Args:
        index: of the worker, from 0.
        number: of workers.
        environment: of the command; its number of threads is kept, and its visible GPUs are shared out.
        num_gpus: of the machine.
    """
    if number == 1:
        return {}
    share = max(1, len(os.sched_getaffinity(0)) // number)
    visible = environment.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(num_gpus))))
    devices = [device for device in visible.split(",") if device]
    gpu = {"CUDA_VISIBLE_DEVICES": devices[index % len(devices)]} if devices else {}
    return {"OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", str(share))} | gpu


def _work(sweep: Sweep, run: RunTraining | None, complaints: Any, environment: Mapping[str, str]) -> None:
    """In the worker process; torch, which reads the environment once, is imported with `train`."""
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if run is None:
            from redi_lab.verbs.sweep.trial_run import train

            run = train
        with naming(sweep.folder):
            work(sweep, run)
    except Exception as error:
        message = error if isinstance(error, UserError) else explained(error)
        if message is None:
            raise
        complaints.put(str(message))
    except (KeyboardInterrupt, RunInterruptedError):
        pass  # the trial was given back; the command itself says that it was interrupted


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    _thread.interrupt_main()  # gives the trial back
    time.sleep(_FAREWELL_SECONDS)
    os._exit(1)


def _describe(study: optuna.Study) -> tuple[int, int, str]:
    """Trials done, trials in all, and how they stand in words."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]
    done = [trial for trial in trials if trial.state.is_finished()]
    collapsed = sum(not is_feasible(trial) for trial in done)
    pruned = sum(trial.state == TrialState.PRUNED for trial in done)
    best = best_trial(study)
    text = "no result yet" if best is None else f"best {best.value:.3f} (trial {best.number})"
    extras = [f"{number} {word}" for number, word in ((collapsed, "collapsed"), (pruned, "pruned")) if number]
    return len(done), len(trials), ", ".join([text, *extras])
