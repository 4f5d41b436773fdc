"""The batch file that `slurm` prints, and what bash makes of it with scripts in the place of srun and scontrol."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from redi_lab.cli import main
from tests.conftest import REPOSITORY

STAND_INS = {
    "srun": """\
while [[ "$1" = --* ]]; do options="$options $1"; shift; done
for task in $(seq 0 $((SLURM_NTASKS - 1))); do
  SLURM_PROCID=$task SLURM_LOCALID=$((task % PER_NODE)) "$@" & tasks="$tasks $!"
done
for task in $tasks; do
  wait -n && continue
  status=$?
  if [[ "$options" = *--kill-on-bad-exit=1* ]] && left=$(jobs -pr) && [ "$left" ]; then kill $left; exit 143; fi
done
exit "${status:-0}"
""",
    "scontrol": """\
if [ "$1" = show ]; then echo 127.0.0.1; echo elsewhere; else echo "$@" >> "$REQUEUED"; fi
""",
}


@pytest.fixture
def submit(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs a batch file on `tasks` tasks: its exit status, and what was put back into the queue."""

    def run(text: str, *, tasks: int, per_node: int) -> tuple[int, str]:
        programs, requeued = tmp_path / "bin", tmp_path / "requeued"
        programs.mkdir(exist_ok=True)
        for name, body in STAND_INS.items():
            (programs / name).write_text(f"#!/bin/bash\n{body}")
            (programs / name).chmod(0o755)
        (tmp_path / "job").write_text(text)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SLURM"))}
        job = {"SLURM_NTASKS": tasks, "SLURM_JOB_ID": 4711, "SLURM_JOB_NODELIST": "n[1-2]", "PER_NODE": per_node}
        environment |= {name: str(value) for name, value in job.items()} | {
            "PATH": f"{programs}:{os.environ['PATH']}", "REQUEUED": str(requeued),
            "PYTHONPATH": str(REPOSITORY), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        done = subprocess.run(["bash", tmp_path / "job"], env=environment, timeout=250)
        return done.returncode, requeued.read_text() if requeued.exists() else ""

    return run


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    main(["slurm", *arguments])
    text = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    return text


def test_what_slurm_reads_and_what_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "+experiment=redi_1p5b", "nodes=2", "gpus=8", "hours=3", "optimizer.lr=2e-6")
    options = {line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")}
    assert options >= {
        "--job-name=redi_1p5b", "--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--time=3:00:00",
        "--signal=TERM@120", "--requeue",
    }  # fmt: skip
    trained = "+experiment=redi_1p5b optimizer.lr=2e-6 trainer.devices=8 trainer.num_nodes=2"
    assert f"{sys.executable} -m redi_lab {trained}" in text
    assert "gpus-per-node" not in printed(capsys, "trainer.accelerator=cpu", "gpus=2")


@pytest.mark.parametrize("argument", ["nodes=0", "gpus=x", "loss.alpha=7", "foo=1"])
def test_a_mistake_is_found_where_the_file_is_made(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["slurm", argument])
    screen = capsys.readouterr()
    assert (ended.value.code, screen.out) == (2, "")
    assert argument.partition("=")[0] in screen.err


@pytest.mark.parametrize(("status", "requeued"), [(0, ""), (75, "requeue 4711\n"), (2, "")])
def test_each_task_is_a_rank_and_75_goes_back_into_the_queue(
    status: int,
    requeued: str,
    submit: Callable[..., tuple[int, str]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python = tmp_path / "a python"
    python.write_text(
        "#!/bin/bash\n"
        'echo "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT|$PWD|${!#}"'
        f' > "$(dirname "$0")/rank-$RANK"\nsleep 0.$((WORLD_SIZE - RANK))\nexit {status}\n'  # rank 0 ends last
    )
    python.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(python))
    text = printed(capsys, "name=mine", "nodes=2", "gpus=2")
    assert submit(text, tasks=4, per_node=2) == (status, requeued)
    seen = [(tmp_path / f"rank-{rank}").read_text().strip() for rank in range(4)]
    place = f"127.0.0.1 24711|{tmp_path}|trainer.num_nodes=2"
    assert seen == [f"{rank} {rank % 2} 4 2 {place}" for rank in range(4)]


@pytest.mark.slow
def test_two_tasks_train(
    submit: Callable[..., tuple[int, str]],
    tiny: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Rank 0 itself keeps the store here, which torchrun's agent keeps elsewhere."""
    settings = tiny("eval=none", "trainer.accelerator=cpu", f"paths.output_dir={tmp_path / 'run'}")
    assert submit(printed(capsys, *settings, "gpus=2"), tasks=2, per_node=2) == (0, "")
    assert (tmp_path / "run" / "checkpoints" / "last" / "model.safetensors").exists()
    assert not (tmp_path / "run" / "ranks").exists()
