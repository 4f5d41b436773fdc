"""One rank of a training: `python -m redi_lab.verbs.train.rank_worker FOLDER`, started by `redi_lab.verbs.train.ranks`.

It exits with 0, with 75 after a signal, with 2 after a mistake of the user and else with 1; what went wrong is in the
file that torch's launcher names, for one rank's error is shown and not that of all.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from redi_lab.errors import EXIT_RESUMABLE, RunInterruptedError, UserError
from redi_lab.files import explained
from redi_lab.run.launched import ERROR_FILE, MEETING, SIGNALS

_PATIENCE = timedelta(hours=2)
"""The first rank measures accuracy and writes states while others wait."""


def main(folder: Path) -> None:
    """Train as rank RANK of WORLD_SIZE, and exit."""
    # torch reads it once, when it is imported.
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // int(os.environ["LOCAL_WORLD_SIZE"])))
    )
    for number in SIGNALS:  # until there is a state to save
        signal.signal(number, lambda *_: os._exit(EXIT_RESUMABLE))
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        _train(folder)
    except RunInterruptedError:
        sys.exit(EXIT_RESUMABLE)
    except Exception as error:
        mistake = error if isinstance(error, UserError) else explained(error)
        _leave(traceback.format_exc() if mistake is None else str(mistake), 1 if mistake is None else 2)


def _train(folder: Path) -> None:
    import pytorch_lightning as pl
    import torch

    from redi_lab.backbone.hub import load_tokenizer
    from redi_lab.data.datamodule import TraceDataModule
    from redi_lab.run import build
    from redi_lab.run.devices import is_on_gpus
    from redi_lab.run.record import make_logger, quieten_libraries
    from redi_lab.run.screen import CONSOLE
    from redi_lab.verbs.train.ranks import read_job

    quieten_libraries()
    fit, sets, tokenizer = read_job(folder)
    rank = int(os.environ["RANK"])
    on_gpus = is_on_gpus(fit.config)
    _meet(folder, rank, ("cpu:gloo,cuda:nccl" if fit.config.trainer.fsdp_offload else "nccl") if on_gpus else "gloo")
    CONSOLE.quiet = rank > 0
    pl.seed_everything(fit.config.seed, workers=True, verbose=False)
    encoder = build.make_encoder(fit.config, load_tokenizer(str(tokenizer)))
    backbone = build.make_backbone(fit.config, encoder.tokenizer, None if fit.start is None else str(fit.start))
    module = build.make_module(fit.config, backbone)
    data = TraceDataModule(
        sets["train"], sets["val"], task=module.task, batch_size=fit.config.data.batch_size, seed=fit.config.seed
    )
    logger = make_logger(fit.config, fit.folder, fit.parent_run_id, fit.tags)
    probes = [probe for (probe,) in sets["probes"].examples]
    if rank > 0:  # new weights are the same on every rank, dropout is not
        pl.seed_everything(fit.config.seed + rank, workers=True, verbose=False)
    try:
        fit.run(module, data, probes, encoder, logger)
    except RunInterruptedError:
        torch.distributed.destroy_process_group()  # its threads would abort an interpreter that ends
        raise
    torch.distributed.destroy_process_group()


def _meet(folder: Path, rank: int, backend: str) -> None:
    """Join the others in the store of the user's launch or, on one machine, by way of a file.

    Left to itself, Lightning opens a store on a port of all interfaces.
    """
    import torch
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    place: dict[str, Any] = {"init_method": f"file://{folder / 'store'}"}
    if meeting := os.environ.get(MEETING):
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=_PATIENCE)
        place = {"store": PrefixStore(meeting, store)}
    torch.distributed.init_process_group(
        backend,
        rank=rank,
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=_PATIENCE,
        **place,
    )


def _leave(message: str, status: int) -> NoReturn:
    content = {"message": message, "timestamp": str(int(time.time()))}
    Path(os.environ[ERROR_FILE]).write_text(json.dumps(content), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads of the process group, of which others may be waiting, would abort the interpreter's end


def _end_with_parent(parent: int) -> None:
    """A command that was killed may be given again at once: two trainings must not write to one folder."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
