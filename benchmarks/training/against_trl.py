"""Training speed and memory of redi_lab and TRL, in alternation: the same model, traces, optimizer and precision.

    python -m benchmarks.training.against_trl                        # everything; hours on one core
    python -m benchmarks.training.against_trl --cases B/redi/bf16    # one line of the table
    python -m benchmarks.training.against_trl --profile h200         # the paper's shapes, on a GPU

Two processes, one for each side and each in its own environment, make one step in turn, so whatever else the machine
does hits both. TRL's environment is made on first use. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.training.figures import write_results
from benchmarks.training.pace import Side
from benchmarks.training.workload import SHAPES, Shape, Workload, draw_pairs, make_model

ROOT = Path(__file__).resolve().parents[2]
TRL = "1.16.0"
WARM_UP = 2  # steps that are not counted
CASES = {
    "cpu": [
        *(f"A/{objective}/bf16" for objective in ("sft", "redi", "dpo")),
        *(
            f"B/{objective}/{precision}"
            for precision in ("bf16", "fp32")
            for objective in ("sft", "redi", "dpo", "simpo")
        ),
    ],
    "h200": [f"paper/{objective}/bf16" for objective in ("sft", "redi", "dpo")],
}
LENGTHS = (512, 1024, 2048, 4096, 8192)
BATCHES = (1, 2, 4, 8)


def environment_of_trl(folder: Path) -> str:
    """The Python of an environment with TRL, made where there is none; torch first, so that nothing replaces it."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        version = torch.__version__.split("+")[0]
        for packages in ([f"torch=={version}"], [f"trl=={TRL}", f"transformers=={transformers.__version__}"]):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return str(python)


@contextmanager
def start(work: Workload, scratch: Path, trl: str | None) -> Iterator[list[Side]]:
    """Both sides of a workload, or redi_lab's alone, ready for the first step."""
    file = work.write(scratch / "workload.json")
    shared = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    ours = shared | {"THP_MEM_ALLOC_ENABLE": "1"}  # as redi_lab's command sets it
    commands = {"redi_lab": ([sys.executable, "-m", "benchmarks.training.redi_lab_side", str(file)], ours)}
    if trl is not None:
        commands["trl"] = ([trl, str(ROOT / "benchmarks/training/trl_side.py"), str(file)], shared)
    with ExitStack() as stack:
        yield [
            stack.enter_context(closing(Side(name, command, scratch / f"{name}.log", environment)))
            for name, (command, environment) in commands.items()
        ]


def alternate(work: Workload, scratch: Path, trl: str | None) -> dict[str, Any]:
    """All steps of a workload, the sides taking turns and taking turns in being first."""
    steps: dict[str, list[dict[str, Any]]] = {}
    with start(work, scratch, trl) as sides:
        for number in range(work.num_steps):
            for side in sides if number % 2 else sides[::-1]:
                steps.setdefault(side.name, []).append(side.step())
            told = ", ".join(f"{name} {done[-1]['seconds']:.2f} s" for name, done in sorted(steps.items()))
            print(f"  step {number} of {work.num_steps}, {work.tokens(number)} tokens: {told}", file=sys.stderr)
    return summary(work, steps)


def summary(work: Workload, steps: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Speeds and memory of each side, and how the sides compare step by step."""
    counted = range(min(WARM_UP, work.num_steps - 1), work.num_steps)
    tokens, flops = sum(map(work.tokens, counted)), sum(map(work.flops, counted))
    result: dict[str, Any] = {
        "shape": work.shape,
        "objective": work.objective,
        "precision": work.precision,
        "pairs_per_step": work.pairs_per_step,
        "micro_batch_tokens": work.micro_batch_tokens,
        "gradient_checkpointing": work.gradient_checkpointing,
        "tokens": [work.tokens(k) for k in counted],
    }
    for name, done in steps.items():
        seconds = [done[k]["seconds"] for k in counted]
        result[name] = {
            "seconds": seconds,
            "tokens_per_second": tokens / sum(seconds),
            "flops_per_second": flops / sum(seconds),
            "peak_bytes": done[-1]["peak_bytes"],
            "losses": [step["loss"] for step in done],
        }
    if "trl" in steps:
        ours, theirs = result["redi_lab"], result["trl"]
        result["ratios"] = [b / a for a, b in zip(ours["seconds"], theirs["seconds"], strict=True)]
        result["ratio"] = statistics.median(result["ratios"])
        result["largest_loss_difference"] = max(
            abs(a - b) for a, b in zip(ours["losses"], theirs["losses"], strict=True)
        )
    return result


def gemm_peak(precision: str) -> float:
    """Most floating-point operations per second of a product of large square matrices."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    clock = time.perf_counter if device == "cuda" else time.process_time

    def seconds() -> float:
        began = clock()
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - began

    return 2.0 * size**3 / min(seconds() for _ in range(10))


def make_work(shape: Shape, objective: str, precision: str, models: Path, **options: Any) -> Workload:
    """A workload of a shape on its random model."""
    longest = max(max(len(p["prompt"]) + len(p[s]) for s in ("chosen", "rejected")) for p in options["pairs"])
    model = make_model(shape, models, longest=max(LENGTHS[-1], shape.longest, longest))
    return Workload(shape=shape.name, objective=objective, precision=precision, model=str(model), **options)


def run_case(case: str, scratch: Path, trl: str | None, steps: int) -> dict[str, Any]:
    """One line of the table."""
    name, objective, precision = case.split("/")
    shape = SHAPES[name]
    on_gpu = torch.cuda.is_available()
    work = make_work(
        shape,
        objective,
        precision,
        scratch,
        pairs=draw_pairs(shape, 2 * (WARM_UP + steps)),
        pairs_per_step=2,
        micro_batch_tokens=2 * shape.longest if on_gpu else 4096,
        gradient_checkpointing=on_gpu,
    )
    return alternate(work, scratch, trl) | {"gemm_peak": gemm_peak(precision)}


def run_scaling(scratch: Path, trl: str | None, longest_of_trl: int) -> dict[str, list[dict[str, Any]]]:
    """REDI on shape B in bf16: one pair of ever longer traces, and ever more pairs of the usual ones."""
    shape = SHAPES["B"]
    results: dict[str, list[dict[str, Any]]] = {"length": [], "batch": []}
    for length in LENGTHS:
        pairs = draw_pairs(shape, 3, length=length)
        work = make_work(shape, "redi", "bf16", scratch, pairs=pairs, pairs_per_step=1, micro_batch_tokens=2 * length)
        results["length"].append(
            alternate(work, scratch, trl if length <= longest_of_trl else None) | {"length": length}
        )
    for pairs_per_step in BATCHES:
        pairs = draw_pairs(shape, 3 * pairs_per_step)
        work = make_work(
            shape, "redi", "bf16", scratch, pairs=pairs, pairs_per_step=pairs_per_step, micro_batch_tokens=8192
        )
        results["batch"].append(
            alternate(work, scratch, trl if pairs_per_step <= 4 else None) | {"pairs_per_step": pairs_per_step}
        )
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=sorted(CASES), default="cpu")
    parser.add_argument("--cases", nargs="*", help="SHAPE/OBJECTIVE/PRECISION; default: those of the profile")
    parser.add_argument("--steps", type=int, default=5, help="counted steps of each case")
    parser.add_argument("--scaling", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--trl-longest", type=int, default=4096, help="longest trace for TRL in the scaling")
    parser.add_argument("--trl", default=".venv-trl", help="folder of TRL's environment; empty: redi_lab alone")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    trl = environment_of_trl(Path(options.trl)) if options.trl else None
    cases = CASES[options.profile] if options.cases is None else options.cases
    results: dict[str, Any] = {"machine": machine(), "trl": TRL, "cases": {}}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            print(case, file=sys.stderr)
            results["cases"][case] = run_case(case, Path(folder), trl, options.steps)
            write_results(results, options.out, options.profile)
        if options.scaling and options.profile == "cpu":
            results["scaling"] = run_scaling(Path(folder), trl, options.trl_longest)
    write_results(results, options.out, options.profile)
    print(json.dumps({case: found.get("ratio") for case, found in results["cases"].items()}, indent=1))


def machine() -> dict[str, Any]:
    """What it was measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "device": device,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
