"""How well plans hold: peak memory and time of small trainings, planned and measured, as the table of docs/planning.md.

    python benchmarks/planning.py --model FOLDER_OF_SMOLLM2_135M [--only TEXT] [--out FOLDER]

Each case is the command that a user would give, in its own process; both numbers come from its summary.json. The rate
that a case measures is what the next ones with its precision plan their time from.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training.workload import SHAPES, draw_pairs, make_model

ROOT = Path(__file__).resolve().parents[1]
STEPS = 2
PAIRS = 2  # of a step


def write_pairs(file: Path, median: int, longest: int) -> Path:
    """Pairs of random digits, each of which is a token of the models here; lengths as in benchmarks/training."""
    draw = random.Random(0)
    shape = SHAPES["B"].__class__("digits", 100, 1, 1, 1, 1, 1, median, longest)

    def digits(number: int) -> str:
        return "".join(draw.choice("0123456789") for _ in range(number))

    rows = [
        {
            "prompt": digits(len(pair["prompt"])),
            **{side: digits(len(pair[side]) - 1) for side in ("chosen", "rejected")},
        }
        for pair in draw_pairs(shape, STEPS * PAIRS)
    ]
    rows[0]["chosen"] = digits(longest - 64)  # room for a template
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def cases(folder: Path, smollm2: Path | None) -> Iterator[tuple[str, list[str]]]:
    """Names and overrides."""
    yield (
        "demo, SFT and REDI",
        ["+experiment=demo", "data.source.num_problems=600", "trainer.max_epochs=1", "eval=none"],
    )
    shared = ["+experiment=own_model", "init_from=null", "baseline=false", "eval=none", f"trainer.max_steps={STEPS}"]
    shared += [f"data.batch_size={PAIRS}", "data.source.num_heldout=0", "data.num_development=0"]
    shared += ["callbacks.probes.num_examples=2", "callbacks.gradient_conflict.every_n_steps=1"]
    models: list[tuple[str, Path, int, int]] = []
    for name in ("A", "B"):
        shape = SHAPES[name]
        place = make_model(shape, folder, longest=2 * shape.longest)
        models.append((name, place, shape.median_length, shape.longest))
    models += [("SmolLM2-135M", smollm2, 192, 512)] if smollm2 else []
    for name, place, median, longest in models:
        data = write_pairs(folder / f"{name}.jsonl", median, longest)
        for precision in ("32-true", "bf16-mixed"):
            for lora in ([], ["model/lora=default"]) if name.startswith("Smol") else ([],):
                for mode in ("none", "full") if name.startswith("Smol") else ("none",):
                    title = (
                        f"{name}, {precision}{', LoRA' if lora else ''}{', checkpointing' if mode == 'full' else ''}"
                    )
                    yield (
                        title,
                        [
                            *shared,
                            *lora,
                            f"model.path={place}",
                            f"data.path={data}",
                            f"data.micro_batch_tokens={longest}",
                            f"trainer.precision={precision}",
                            f"model.gradient_checkpointing={mode}",
                        ],
                    )


def run(overrides: list[str], outputs: Path) -> list[dict[str, Any]]:
    """The plans of a command's stages, from first to last."""
    before = set(outputs.glob("**/summary.json"))
    command = [sys.executable, "-m", "redi_lab", *overrides, f"paths.outputs_dir={outputs}", "logger=none"]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    new = sorted(set(outputs.glob("**/summary.json")) - before, key=lambda file: file.stat().st_mtime)
    return [json.loads(file.read_text(encoding="utf-8"))["plan"] for file in new]


def row(title: str, plan: dict[str, float]) -> str:
    """A line of the table."""
    planned, measured = (plan[f"plan/{name}"] / 1e9 for name in ("peak_bytes", "measured_peak_bytes"))
    seconds, took = plan.get("plan/seconds"), plan["plan/measured_seconds"]
    time = "" if seconds is None else f"{seconds:.3g}"
    ratio = "" if seconds is None else f"{seconds / took:.2f}"
    cells = [title, f"{planned:.2f}", f"{measured:.2f}", f"**{planned / measured:.2f}**", time, f"{took:.3g}", ratio]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of SmolLM2-135M; without it, its lines are left out")
    parser.add_argument("--only", default="", help="cases whose title holds this")
    parser.add_argument("--out", type=Path, help="keep models, data and runs here")
    arguments = parser.parse_args()
    print("| training | GB planned | GB measured | ratio | s planned | s measured | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for title, overrides in cases(folder, arguments.model and arguments.model.absolute()):
            if arguments.only in title:
                for plan in run(overrides, folder / "outputs"):
                    print(row(title, plan), flush=True)


if __name__ == "__main__":
    main()
