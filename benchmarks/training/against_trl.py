"""Training speed and memory of redi_lab and TRL, in alternation: the same model, traces, optimizer and precision.

    make bench                                                       # everything; an hour on one core
    python -m benchmarks.training.against_trl --cases B/redi/bf16    # one line of the table
    python -m benchmarks.training.against_trl --profile tiny --trl ""  # all of it in a minute, measuring nothing

Two processes, one for each side and each in its own environment, make one step in turn, so whatever else the machine
does hits both. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
import transformers

from benchmarks.training.figures import write_results
from benchmarks.training.pace import Side
from benchmarks.training.workload import SHAPES, Workload, draw_pairs, make_model

ROOT = Path(__file__).resolve().parents[2]
TRL = "1.16.0"
WARM_UP = 2  # steps that are not counted
OWN_REPEATS = 5  # of each step where objectives of redi_lab are compared


@final
@dataclass(frozen=True)
class Profile:
    """What is measured on a kind of machine."""

    cases: tuple[str, ...]
    scaling: str
    lengths: tuple[int, ...]
    batches: tuple[int, ...]
    longest_of_trl: int
    most_pairs_of_trl: int
    row_tokens: int
    """Room of a micro-batch, which is enough for the longest sequence; twice that where pairs must not be parted."""
    gradient_checkpointing: bool
    product: int = 2048
    """Rows and columns of the matrices whose product is the machine's best; bf16 is emulated, slowly, on many CPUs."""


PROFILES = {
    "cpu": Profile(
        cases=(
            *(f"A/{objective}/bf16" for objective in ("sft", "redi", "dpo")),
            *(
                f"B/{objective}/{precision}"
                for precision in ("bf16", "fp32")
                for objective in ("sft", "redi", "dpo", "simpo")
            ),
        ),
        scaling="B",
        lengths=(512, 1024, 2048, 4096, 8192),
        batches=(1, 2, 4, 8),
        longest_of_trl=4096,
        most_pairs_of_trl=4,
        row_tokens=2048,
        gradient_checkpointing=False,
    ),
    "tiny": Profile(
        cases=tuple(f"tiny/{objective}/bf16" for objective in ("sft", "redi", "dpo", "simpo")),
        scaling="tiny",
        lengths=(20, 40),
        batches=(1, 2),
        longest_of_trl=40,
        most_pairs_of_trl=1,
        row_tokens=80,
        gradient_checkpointing=True,
        product=128,
    ),
}


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


def gemm_peak(precision: str, size: int) -> float:
    """Most floating-point operations per second of a product of square matrices of this size."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
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


def make_work(case: str, profile: Profile, models: Path, *, pairs_per_step: int, **drawn: Any) -> Workload:
    """A workload of SHAPE/OBJECTIVE/PRECISION on a random model; `drawn` goes to `draw_pairs`."""
    name, objective, precision = case.split("/")
    shape = SHAPES[name]
    room = max(profile.row_tokens, drawn.get("length") or 0)
    return Workload(
        shape=name,
        objective=objective,
        precision=precision,
        pairs=draw_pairs(shape, **drawn),
        pairs_per_step=pairs_per_step,
        model=str(make_model(shape, models, longest=max(profile.lengths))),
        micro_batch_tokens=room if Workload.is_linear(objective) else 2 * room,
        gradient_checkpointing=profile.gradient_checkpointing,
    )


def run_case(case: str, profile: Profile, scratch: Path, trl: str | None, steps: int) -> dict[str, Any]:
    """One line of the table."""
    work = make_work(case, profile, scratch, pairs_per_step=2, number=2 * (WARM_UP + steps))
    return alternate(work, scratch, trl) | {"gemm_peak": gemm_peak(work.precision, profile.product)}


def compare_own(shape: str, profile: Profile, scratch: Path, steps: int) -> dict[str, Any]:
    """Seconds of REDI and of SFT on the same tokens in turn, each step several times, of which the least counts.

    They differ by less than other work on the machine makes a single step differ from the next.
    """
    sides = {}
    with ExitStack() as stack:
        for objective in ("sft", "redi"):
            work = make_work(f"{shape}/{objective}/bf16", profile, scratch, pairs_per_step=2, number=2 * steps)
            work = replace(work, pairs=(work.pairs * WARM_UP)[: 2 * WARM_UP] + work.pairs * OWN_REPEATS)
            folder = scratch / objective
            folder.mkdir(exist_ok=True)
            (sides[objective],) = stack.enter_context(start(work, folder, None))
        seconds: dict[str, list[float]] = {objective: [] for objective in sides}
        for number in range(WARM_UP + steps * OWN_REPEATS):
            turn = number % len(sides)
            for objective in [*sides, *sides][turn : turn + len(sides)]:
                seconds[objective].append(sides[objective].step()["seconds"])
    least = {name: [min(found[WARM_UP + k :: steps]) for k in range(steps)] for name, found in seconds.items()}
    return {"shape": shape, "seconds": least, "redi_over_sft": sum(least["redi"]) / sum(least["sft"])}


def run_scaling(profile: Profile, scratch: Path, trl: str | None) -> dict[str, list[dict[str, Any]]]:
    """REDI in bf16: one pair of ever longer traces, and ever more pairs of the usual ones."""
    case = f"{profile.scaling}/redi/bf16"
    results: dict[str, list[dict[str, Any]]] = {"length": [], "batch": []}
    for length in profile.lengths:
        work = make_work(case, profile, scratch, pairs_per_step=1, number=3, length=length)
        peer = trl if length <= profile.longest_of_trl else None
        results["length"].append(alternate(work, scratch, peer) | {"length": length})
    for pairs in profile.batches:
        work = make_work(case, profile, scratch, pairs_per_step=pairs, number=3 * pairs)
        peer = trl if pairs <= profile.most_pairs_of_trl else None
        results["batch"].append(alternate(work, scratch, peer) | {"pairs_per_step": pairs})
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=sorted(PROFILES), default="cpu")
    parser.add_argument("--cases", nargs="*", help="SHAPE/OBJECTIVE/PRECISION; default: those of the profile")
    parser.add_argument("--steps", type=int, default=5, help="counted steps of each case")
    parser.add_argument("--own", action=argparse.BooleanOptionalAction, default=True, help="compare own objectives")
    parser.add_argument("--scaling", action=argparse.BooleanOptionalAction, default=True, help="measure scaling")
    parser.add_argument(
        "--trl", default=".venv-trl", help="TRL's environment (make install-trl); empty: redi_lab alone"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    trl = str(Path(options.trl) / "bin" / "python") if options.trl else None
    if trl and not Path(trl).exists():
        parser.error(f"--trl={options.trl}: no environment there; make install-trl makes .venv-trl")
    profile = PROFILES[options.profile]
    results: dict[str, Any] = {"machine": machine(), "trl": TRL, "cases": {}}
    with tempfile.TemporaryDirectory() as folder:
        for case in profile.cases if options.cases is None else options.cases:
            print(case, file=sys.stderr)
            results["cases"][case] = run_case(case, profile, Path(folder), trl, options.steps)
            write_results(results, options.out, options.profile)
        if options.own:
            results["own"] = compare_own(profile.scaling, profile, Path(folder), options.steps)
            write_results(results, options.out, options.profile)
        if options.scaling:
            results["scaling"] = run_scaling(profile, Path(folder), trl)
    write_results(results, options.out, options.profile)
    print((options.out / f"{options.profile}.md").read_text(encoding="utf-8"))


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
