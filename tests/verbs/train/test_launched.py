"""A training on the ranks of the user's own torchrun, one agent or two: the bits of `trainer.devices`, and its ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from redi_lab.errors import EXIT_RESUMABLE
from tests.conftest import REPOSITORY
from tests.verbs.train.test_ranks import curves

Tiny = Callable[..., list[str]]
WEIGHTS = "checkpoints/last/model.safetensors"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SLURM"))}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(REPOSITORY)}


def start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def torchrun(*options: str, settings: list[str]) -> subprocess.Popen[str]:
    return start("-m", "torch.distributed.run", *options, "-m", "redi_lab", *settings)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def end(process: subprocess.Popen[str]) -> str:
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 0, said
    return said


@pytest.fixture
def chain(tiny: Tiny, tmp_path: Path) -> Callable[..., list[str]]:
    """Two stages, in a folder and with a cache of their own."""

    def overrides(name: str, *more: str) -> list[str]:
        places = [f"paths.output_dir={tmp_path / name}", f"paths.cache_dir={tmp_path / name}-cache"]
        return [*tiny("eval=none", "trainer.accelerator=cpu"), *places, *more]

    return overrides


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_the_user_s_ranks_train_what_our_own_do_to_the_bit(
    strategy: str, chain: Callable[..., list[str]], tmp_path: Path
) -> None:
    """One agent with two ranks, and two agents with one each; both stages of the chain, and what is logged."""
    of_one = ["trainer.devices=2", f"trainer.strategy={strategy}"]
    end(start("-m", "redi_lab", *chain("own", *of_one)))
    said = end(torchrun("--standalone", "--nproc-per-node=2", settings=chain("one", *of_one)))
    assert said.count("Results:") == 1
    meeting = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    meeting += ["--rdzv-id=meeting", "--local-addr=127.0.0.1"]
    of_two = ["trainer.num_nodes=2", f"trainer.strategy={strategy}"]
    agents = [torchrun(*meeting, settings=chain("two", *of_two)) for _ in range(2)]
    assert "".join(map(end, agents)).count("Results:") == 1
    for name in ("one", "two"):
        assert (tmp_path / name / WEIGHTS).read_bytes() == (tmp_path / "own" / WEIGHTS).read_bytes(), name
        assert curves(tmp_path / name) == curves(tmp_path / "own")
        assert not (tmp_path / name / "ranks").exists()
    fingerprints = {
        json.loads((tmp_path / name / "summary.json").read_text())["fingerprint"] for name in ("own", "two")
    }
    assert len(fingerprints) == 1


def on_ranks(settings: list[str], number: int = 2, **environment: str) -> list[subprocess.Popen[str]]:
    """Processes as torchrun or srun start them, but none of them ends another: their exit statuses can be seen."""
    own = {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1"}
    own |= {"MASTER_PORT": str(free_port())} | environment
    return [
        subprocess.Popen(
            [sys.executable, "-m", "redi_lab", *settings], cwd=REPOSITORY,
            env=ENVIRONMENT | own | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(number)
    ]  # fmt: skip


def children_of(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def wait_for_step(folder: Path, step: int) -> None:
    path, began = folder / "metrics.jsonl", time.monotonic()
    while not (path.exists() and f'"step": {step},' in path.read_text()):
        assert time.monotonic() - began < 150
        time.sleep(0.02)


def statuses(processes: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    """Exit statuses, and what rank 0 said, the only one to speak."""
    said = [process.communicate(timeout=150)[1] for process in processes]
    assert said[1:] == [""] * (len(said) - 1)
    return [process.returncode for process in processes], said[0].strip()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_ends_a_launch_and_how_it_goes_on(chain: Callable[..., list[str]], tmp_path: Path) -> None:
    """SIGTERM to every process, then SIGKILL to the training process of rank 1; then to the bit."""
    longer = ["+experiment=demo_sft", "trainer.devices=2", "trainer.max_steps=-1", "trainer.max_epochs=10"]
    longer += ["data.batch_size=8", "callbacks.state.every_n_steps=1"]
    end(start("-m", "redi_lab", *chain("through", *longer)))
    settings = chain("killed", *longer)

    processes = on_ranks(settings)
    wait_for_step(tmp_path / "killed", 4)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    found, said = statuses(processes)
    assert found == [EXIT_RESUMABLE] * 2
    assert said.startswith("redi_lab: a signal to a rank; to go on, give the same command again")

    processes = on_ranks(settings)
    wait_for_step(tmp_path / "killed", 12)
    (rank,) = children_of(processes[1])
    os.kill(rank, signal.SIGKILL)
    found, said = statuses(processes)
    assert found == [2, 2]
    assert said.startswith("redi_lab: rank 1 of 2 was ended by SIGKILL")
    assert "\n" not in said

    assert statuses(on_ranks(settings)) == ([0, 0], "")
    assert curves(tmp_path / "killed") == curves(tmp_path / "through")
    assert (tmp_path / "killed" / WEIGHTS).read_bytes() == (tmp_path / "through" / WEIGHTS).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("loss.alpha=7", "redi_lab: loss.alpha=7: must be at most 1"),
        ("trainer.devices=3", "redi_lab: trainer.devices=3 trainer.num_nodes=1: 2 processes were started; give"),
    ],
)
def test_a_mistake_ends_all_ranks_and_is_said_once(chain: Callable[..., list[str]], setting: str, line: str) -> None:
    found, said = statuses(on_ranks(chain("never", setting)))
    assert found == [2, 2]
    assert said.startswith(line)
    assert "\n" not in said


def test_half_a_launch_is_refused() -> None:
    script = "from redi_lab.cli import main; main(['eval=none'])"
    environment = ENVIRONMENT | {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("redi_lab: WORLD_SIZE=2: MASTER_ADDR is missing")
