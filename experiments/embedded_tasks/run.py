"""Is the second embedded task in the paper's regime? Train, evaluate, and tabulate ours against theirs.

    python -m experiments.embedded_tasks.run            # half an hour on two free cores; goes on where it stopped
    python -m experiments.embedded_tasks.run --report   # the tables of the rows that are there

One seed. Each command is a process as a user would start it; all second stages start from one SFT.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.runner import Results, arguments_of, command

SEED = 42
SAME = (f"seed={SEED}", "logger=none")
SFT = "SFT"
RUNS = {
    SFT: ["+experiment=chains_sft"],
    "SimPO β 2 γ 1": ["loss=simpo", "loss.beta=2", "loss.gamma=1", "optimizer.lr=2e-5"],
    "SimPO β 10 γ 5": ["loss=simpo", "loss.beta=10", "loss.gamma=5", "optimizer.lr=1.2e-5"],
    "REDI α 0.8": [],
    "DPO β 0.03": ["loss=dpo", "loss.beta=0.03", "optimizer.lr=8e-6"],
    "SFT continued (α 0)": ["loss.alpha=0"],
}
"""What the command line says of each; all learning rates are the paper's, times 40."""
MEASURED = (
    "callbacks.accuracy=null",
    "callbacks.gradient_conflict=null",
    "callbacks.probes.num_examples=128",
    "eval=none",
)
SCORES = {
    "pass_at_1": "pass@1",
    "greedy_pass_at_1": "greedy",
    "pass_at_4": "pass@4",
    "columns": "columns",
    "waits_per_completion": "waits",
    "mean_tokens": "tokens",
}
BENCHMARKS = {"chains": "chains", "chains_long": "six steps", "chains_take": "taking"}
SLOPE, PER_NAT = "train/rewards/slope", "probe/displacement_per_nat"


def main() -> None:
    """Run what is missing, then tabulate what is there."""
    arguments = arguments_of(__doc__.split("\n")[0], "embedded_tasks").parse_args()
    results = Results(arguments.results)
    runs = results.content["runs"]
    for name, overrides in RUNS.items():
        if name not in runs and not arguments.report:
            runs[name] = run(name, overrides, arguments.outputs.absolute())
            results.save()
    print("\n".join([*regime(runs), "", *table({name: runs[name] for name in RUNS if name in runs})]))


def run(name: str, overrides: list[str], outputs: Path) -> dict[str, Any]:
    """Train and evaluate, and give what is kept of it."""
    start = outputs / SFT / "checkpoints" / "last"
    stage = overrides if name == SFT else ["+experiment=chains", f"init_from={start}", *overrides]
    folder = outputs / "".join(one if one.isalnum() else "_" for one in name)
    summary = command(folder, outputs, [*stage, *MEASURED, *SAME])
    row: dict[str, Any] = {
        key: [round(value, 4) for value in ends.values()] for key, ends in summary["training"].items()
    }
    for benchmark in BENCHMARKS:
        evaluate = ["evaluate", f"checkpoint={summary['checkpoint']}", f"eval={benchmark}", "eval.limit=150"]
        metrics = command(folder / benchmark, outputs, [*evaluate, *SAME])["metrics"]
        row[benchmark] = {key: round(metrics[key]["value"], 4) for key in SCORES}
    return row | {"seconds": seconds(folder), "pairs": summary["data"]["selection"]["pairs"]}


def seconds(folder: Path) -> float:
    """From the first optimizer step to the last."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    times: list[float] = [line["time"] for line in lines if "train/loss" in line]
    return round(times[-1] - times[0], 1)


def regime(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Ours beside what Table 2 and the curves of Figures 5 and 6 say; the paper's slopes follow from its margins."""
    lines = ["| | paper | chains |", "|---|---:|---:|"]
    small, large = "SimPO β 2 γ 1", "SimPO β 10 γ 5"
    for title, paper, name, cell in (
        ("pass@1 after SFT", "0.77", SFT, lambda row: f"{row['chains']['pass_at_1']:.2f}"),
        ("steps right after SFT", "", SFT, lambda row: f"{row['chains']['columns']:.2f}"),
        ("tokens of an answer", "thousands", SFT, lambda row: f"{row['chains']['mean_tokens']:.0f}"),
        ("margin, nats per token: SFT's → SimPO's (β 2 γ 1)", "0.042 → 0.259", small, margin),
        ("the same on pairs that are not trained on", "", small, lambda row: margin(row, "probe/{}_mean_logps")),
        ("slope of the sigmoid, SimPO β 2 γ 1", "0.71 → 0.62", small, lambda row: _ends(row, SLOPE)),
        ("slope of the sigmoid, SimPO β 10 γ 5", "0.99 → 0.94", large, lambda row: _ends(row, SLOPE)),
        ("chosen displaced per nat of margin, REDI α 0.8", "2.0", "REDI α 0.8", lambda row: f"{row[PER_NAT][1]:.2f}"),
    ):
        lines.append(f"| {title} | {paper} | {cell(runs[name]) if name in runs else '–'} |")
    return lines


def table(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """All measures of the runs; on the further benchmarks, pass@1."""
    heads = [*SCORES.values(), *list(BENCHMARKS.values())[1:], "margin", "displaced", "slope", "seconds"]
    lines = [f"| run | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for name, row in runs.items():
        cells = [
            *(f"{row['chains'][key]:.3g}" for key in SCORES),
            *(f"{row[benchmark]['pass_at_1']:.3f}" for benchmark in list(BENCHMARKS)[1:]),
            margin(row) if PER_NAT in row else "–",
            f"{row[PER_NAT][1]:.2f}" if PER_NAT in row else "–",
            _ends(row, SLOPE) if SLOPE in row else "–",
            f"{row['seconds']:.0f}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def margin(row: Mapping[str, Any], name: str = "train/mean_logps/{}") -> str:
    """Nats per token between chosen and rejected traces, before and after."""
    sides = (row[name.format(side)] for side in ("chosen", "rejected"))
    return " → ".join(f"{chosen - rejected:.3f}" for chosen, rejected in zip(*sides, strict=True))


def _ends(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name][0]:.2f} → {row[name][1]:.2f}"


if __name__ == "__main__":
    main()
