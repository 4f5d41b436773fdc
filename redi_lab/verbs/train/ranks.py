"""Starts the ranks of a training with torch's elastic launcher, and says in one line how they ended.

The command itself keeps locks, tokens, reference, evaluation and summary. Its ranks read `Fit` and tokens from a folder
that is there as long as they are, and each builds its own model; see `redi_lab.verbs.train.rank_worker`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from omegaconf import OmegaConf
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from redi_lab.data.batches import BatchDataset
from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.token_file import load_sets, save_sets
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.errors import EXIT_RESUMABLE, RunInterruptedError, UserError
from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem
from redi_lab.run.launched import RANK_WORKER, SIGNALS, Launch, current_launch, error_file
from redi_lab.verbs.train.fit import Fit

EXIT_MISTAKE = 2
_FAREWELL_SECONDS = 3600
"""Time for the ranks to save a state after a signal: that of 18 GB takes a minute on a fast disk."""
_JOB, _TOKENS, _TOKENIZER, _MEETING = "job.json", "tokens.safetensors", "tokenizer", "meeting"


def fit_on_ranks(fit: Fit, data: TraceDataModule, probes: Sequence[TokenizedSequence], tokenizer: Any) -> None:
    """As `Fit.run`, in `trainer.devices` processes, or in those that the user's torchrun or srun has started.

    Raises:
        UserError: a rank was killed, or ended with a mistake of the user.
        RunInterruptedError: a signal to this process, or to a rank; the state is saved if training had begun.
        RuntimeError: a rank failed otherwise.
    """
    folder = fit.folder / "ranks"
    shutil.rmtree(folder, ignore_errors=True)  # of a command that was killed
    folder.mkdir(mode=0o700, parents=True)  # the configuration may hold a password
    try:
        asked = BatchDataset([(probe,) for probe in probes], fit.config.data.micro_batch_tokens, split_examples=True)
        save_sets(folder / _TOKENS, {"train": data.train_set, "val": data.val_set, "probes": asked})
        tokenizer.save_pretrained(folder / _TOKENIZER)
        (folder / _JOB).write_text(json.dumps(_plain(fit)), encoding="utf-8")
        launch = current_launch()
        if launch is None:
            _launch(folder, fit.config.trainer.devices)
        else:
            _run_on(launch, folder)
    finally:
        shutil.rmtree(folder)


def read_job(folder: Path) -> tuple[Fit, dict[str, BatchDataset], Path]:
    """What `fit_on_ranks` has written: the training, its examples, and the folder of its tokenizer."""
    job = json.loads((folder / _JOB).read_text(encoding="utf-8"))
    for name in ("config", "command_config"):
        job[name] = OmegaConf.create(job[name])
    job["folder"], job["start"] = Path(job["folder"]), job["start"] and Path(job["start"])
    if job["development"] is not None:
        problems = (EvalProblem(p["id"], p["problem"], tuple(p["answers"])) for p in job["development"]["problems"])
        job["development"] = Benchmark.of(job["development"]["name"], problems)
    return Fit(**job), load_sets(folder / _TOKENS), folder / _TOKENIZER


def _plain(fit: Fit) -> dict[str, Any]:
    benchmark = fit.development
    return {
        "config": OmegaConf.to_yaml(fit.config),  # variables of the environment stay names in it
        "command_config": OmegaConf.to_yaml(fit.command_config),
        "folder": str(fit.folder),
        "start": None if fit.start is None else str(fit.start),
        "parent_run_id": fit.parent_run_id,
        "tags": dict(fit.tags),
        "notes": dict(fit.notes),
        "development": benchmark and {"name": benchmark.name, "problems": [asdict(p) for p in benchmark.problems]},
    }


def _run_on(launch: Launch, folder: Path) -> None:
    failures: dict[int, Any] = {}
    for rank, code in launch.train(folder).items():
        if code:
            said = {"message": "", "timestamp": str(int(time.time()))}  # of one that was killed
            with suppress(FileNotFoundError):
                said = json.loads(error_file(folder, rank).read_text(encoding="utf-8"))
            failures[rank] = SimpleNamespace(exitcode=code, message=said["message"], timestamp=int(said["timestamp"]))
    if failures:
        raise _explained(failures, launch.size)


def _launch(folder: Path, number: int) -> None:
    logger = logging.getLogger("torch.distributed.elastic")
    logger.addHandler(logging.NullHandler())  # what it has to say of a rank that ended is said below, in one line
    logger.propagate = False
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are here, whatever the machine's name resolves to
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=number,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=str(folder / _MEETING),  # a file: a store on a port would listen to other machines, too
        rdzv_configs={"store_type": "file"},
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
        signals_to_handle=",".join(one.name for one in SIGNALS),
        shutdown_timeout=_FAREWELL_SECONDS,
    )
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # nor does a store for the ranks
    is_main = threading.current_thread() is threading.main_thread()
    before = {one: signal.getsignal(one) for one in SIGNALS} if is_main else {}
    try:
        elastic_launch(config, sys.executable)(*RANK_WORKER, str(folder))
    except SignalException as error:
        raise RunInterruptedError(error.sigval.name) from error
    except ChildFailedError as error:
        raise _explained(error.failures, number) from None  # it holds what the launcher says of each rank
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _explained(failures: Mapping[int, Any], number: int) -> BaseException:
    """Why the ranks ended: one that was killed takes the others with it, whose errors then say nothing."""
    for rank, failure in failures.items():
        if failure.exitcode == EXIT_MISTAKE:
            return UserError(failure.message)
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            return UserError(
                f"rank {rank} of {number} was ended by {signal.Signals(-failure.exitcode).name} (often too little"
                " memory): give the same command again, which goes on from the last state"
            )
    if any(failure.exitcode == EXIT_RESUMABLE for failure in failures.values()):
        return RunInterruptedError("a signal to a rank")
    rank, first = min(failures.items(), key=lambda item: item[1].timestamp)
    return RuntimeError(f"rank {rank} of {number} failed:\n{first.message}")
