"""`slurm`: the batch file of a training on machines that SLURM hands out, on standard output."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

from redi_lab.config.compose import load_config
from redi_lab.config.schema.words import SlurmWords, split_words
from redi_lab.errors import EXIT_RESUMABLE

_FILE = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={gpus}
{devices}#SBATCH --time={hours}:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

# To be sent with sbatch; add --account, --partition and --cpus-per-task as the cluster wants. TERM before the end lets
# training save its state and exit with {resumable}: the job goes back into the queue, and the same command goes on.
cd {folder} || exit
export MASTER_ADDR="${{MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}}"
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
status=0
# Ranks end one after another; at the first {resumable} --kill-on-bad-exit=1 kills the others, and srun returns 143.
srun --kill-on-bad-exit=0 --wait=60 bash -c '
  export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE={gpus}
  exec "$0" "$@"
' {command} || status=$?
[ "$status" -ne {resumable} ] || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
"""


def run_slurm(arguments: Sequence[str]) -> None:
    """Print the batch file of a training with these overrides.

    Raises:
        UserError: a value is not allowed, of the file's or of the training's.
    """
    words, overrides = split_words(SlurmWords, arguments)
    overrides = [*overrides, f"trainer.devices={words.gpus}", f"trainer.num_nodes={words.nodes}"]
    config = load_config("train", overrides)
    on_gpus = config.trainer.accelerator != "cpu"
    print(
        _FILE.format(
            name=config.name,
            nodes=words.nodes,
            gpus=words.gpus,
            hours=words.hours,
            devices=f"#SBATCH --gpus-per-node={words.gpus}\n" if on_gpus else "",
            resumable=EXIT_RESUMABLE,
            folder=shlex.quote(os.getcwd()),
            command=shlex.join([sys.executable, "-m", "redi_lab", *overrides]),
        ),
        end="",
    )
