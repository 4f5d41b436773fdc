"""What `measure.py` found, as Markdown tables and a figure.

python -m benchmarks.gpu.report benchmarks/results/gpu.json docs/performance-gpu.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

DATASHEET = {"H100": 989.0, "H200": 989.0, "A100": 312.0}  # TFLOP/s in bf16, without sparsity
STEPS = {
    "was": "before: SDPA by sequence, chunk 1,024, plain head, full checkpointing",
    "now": "cuDNN attention, fused head, chunk 4,096, full checkpointing (the defaults)",
    "one_call": "the same, attention of a row in one call",
    "selective": "selective checkpointing",
    "compiled": "full, norms and MLPs compiled",
    "selective_compiled": "selective, compiled",
    "row_41k": "both sides in one row",
    "callbacks": "with NumericsGuard and UpdateNorm",
    "deterministic": "deterministic: warn",
    "one_rank": "DDP of one rank",
    "sft": "SFT",
    "dpo": "DPO",
    "simpo": "SimPO",
    "short": "60 × 660 tokens",
    "short_by_sequence": "60 × 660 tokens, attention by sequence",
    "paper_batch": "32 pairs as in the paper's data",
    "paper_batch_selective": "32 pairs, selective",
}
_OF_A_PAIR = 11  # how many of them train on a pair of the longest traces


def table(results: dict[str, Any]) -> str:
    """Everything but the kernels of a step, as Markdown."""
    parts = [_machine(results.get("machine", {})), _tests(results.get("tests", {})), _steps(results)]
    parts += [_rows(results[name], title) for name, title in _PARTS.items() if name in results]
    return "\n".join(part for part in parts if part)


_PARTS = {
    "head": "Head, one trace",
    "liger": "Liger's head",
    "cut_cross_entropy": "Cut-Cross-Entropy",
    "head_errors": "Relative errors of gradients",
    "attention": "Attention of one row",
    "syncs": "Waits for the GPU",
    "exactness": "Exactness",
}


def _machine(found: dict[str, Any]) -> str:
    if "device" not in found:
        return f"Machine: {found.get('error', 'not measured')}\n"
    rates = ", ".join(f"{name} {rate}" for name, rate in found["tflops"].items())
    return (
        f"{found['device']}, torch {found['torch']}, transformers {found['transformers']}."
        f" TFLOP/s of products in bf16: {rates}; copying: {found['copy_tb_per_s']} TB/s."
        f" Triton: {found['triton']}; products added up in fp32: {found['adds_up_in_fp32']}.\n"
    )


def _tests(found: dict[str, Any]) -> str:
    told = "".join(f"\n- {line}" for line in found.get("told", []))
    return f"Tests marked gpu: {found.get('last', 'not run')}{told}\n"


def _steps(results: dict[str, Any]) -> str:
    machine = results.get("machine", {})
    measured = machine.get("tflops", {}).get("square")
    sheet = next((rate for name, rate in DATASHEET.items() if name in machine.get("device", "")), None)
    lines = [
        "| step | s | tokens/s | TFLOP/s | MFU of the datasheet | of a large product | peak GB | hours of 53,175 pairs"
        " like these | first loss |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, told in STEPS.items():
        found = results.get(name)
        if found is None or "step_s" not in found:
            reason = "not measured" if found is None else found.get("error", "").strip().splitlines()[-1][:90]
            lines.append(f"| {told} | {reason} | | | | | | | |")
            continue
        shares = ["" if not rate else f"{found['tflops'] / rate:.1%}" for rate in (sheet, measured)]
        cells = [f"{found['step_s']:.3f}", str(found["tokens_per_s"]), str(found["tflops"]), *shares]
        cells += [str(found["peak_gb"]), f"{found['hours_of_an_epoch']:.2f}", f"{found['losses'][0]:.6f}"]
        lines.append("| " + " | ".join([told, *cells]) + " |")
    return "\n".join(lines) + "\n"


def _rows(found: dict[str, Any], title: str) -> str:
    lines = [f"{title}:\n"]
    for name, value in found.items():
        if name == "seconds_of_section":
            continue
        told = (
            ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
            if isinstance(value, dict)
            else str(value)
        )
        lines.append(f"- {name}: {told[:300]}")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Any], file: Path) -> None:
    """Tokens a second and peak memory of the steps on a pair of the longest traces."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in list(STEPS)[:_OF_A_PAIR] if "step_s" in results.get(name, {})]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.4 * len(names) + 1.2), sharey=True)
    left.barh([STEPS[name] for name in names], [results[name]["tokens_per_s"] / 1000 for name in names], color="C0")
    left.set_xlabel("thousand tokens a second")
    right.barh([STEPS[name] for name in names], [results[name]["peak_gb"] for name in names], color="C1")
    right.set_xlabel("peak memory, GB")
    left.invert_yaxis()
    figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    measured = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(table(measured))
    if len(sys.argv) > 2:
        draw(measured, Path(sys.argv[2]))
