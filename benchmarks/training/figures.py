"""What `against_trl.py` found, as JSON, a Markdown table and plots."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

GIB = 2.0**30
PAIRS_OF_THE_PAPER = 53_175  # of its preference data
NAMES = {"redi_lab": "redi_lab", "trl": "TRL 1.16"}
COLOURS = {"redi_lab": "C0", "trl": "C1"}


def write_results(results: dict[str, Any], folder: Path, profile: str) -> None:
    """Files `PROFILE.json`, `PROFILE.md` and the plots, whole at any time."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{profile}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / f"{profile}.md").write_text(table(results), encoding="utf-8")
    if any("ratios" in case for case in results["cases"].values()):
        draw_ratios(results["cases"], folder / f"{profile}-ratios.png")
    if "scaling" in results:
        draw_scaling(results["scaling"], folder / f"{profile}-scaling.png")


def table(results: dict[str, Any]) -> str:
    """One line for each case."""
    peaks: dict[str, float] = {}
    for case in results["cases"].values():
        peaks[case["precision"]] = max(peaks.get(case["precision"], 0.0), case["gemm_peak"])
    lines = [
        "| model / objective / precision | TRL ÷ redi_lab, median (min–max) | tokens/s | GFLOP/s |"
        " MFU of the machine's GFLOP/s | TRL: tokens/s | peak GiB | TRL: peak GiB | largest loss difference |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, case in results["cases"].items():
        ours, theirs = case["redi_lab"], case.get("trl")
        mfu = ours["flops_per_second"] / peaks[case["precision"]]
        cells = [
            name,
            "",
            f"{ours['tokens_per_second']:.0f}",
            f"{ours['flops_per_second'] / 1e9:.0f}",
            f"{mfu:.0%} of {peaks[case['precision']] / 1e9:.0f}",
            "",
            f"{ours['peak_bytes'] / GIB:.2f}",
            "",
            "",
        ]
        if theirs is not None:
            cells[1] = f"**{case['ratio']:.2f}** ({min(case['ratios']):.2f}–{max(case['ratios']):.2f})"
            cells[5], cells[7] = f"{theirs['tokens_per_second']:.0f}", f"{theirs['peak_bytes'] / GIB:.2f}"
            cells[8] = f"{case['largest_loss_difference']:.1e}"
        lines.append("| " + " | ".join(cells) + " |")
    facts = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    measured = ", ".join(f"{precision} {peak / 1e9:.0f} GFLOP/s" for precision, peak in peaks.items())
    lines += ["", f"{facts}. GEMM peak: {measured}."]
    if "own" in results:
        lines += ["", f"REDI ÷ SFT of redi_lab, same tokens: {results['own']['redi_over_sft']:.3f}."]
    lines += [
        f"\n{name}: an epoch of {PAIRS_OF_THE_PAPER} such pairs takes {_hours_of_an_epoch(case):.1f} h."
        for name, case in results["cases"].items()
        if case["shape"] == "paper" and case["objective"] != "sft"
    ]
    return "\n".join(lines) + "\n"


def _hours_of_an_epoch(case: dict[str, Any]) -> float:
    seconds: float = statistics.fmean(case["redi_lab"]["seconds"]) / case["pairs_per_step"]
    return PAIRS_OF_THE_PAPER * seconds / 3600


def draw_ratios(cases: dict[str, Any], file: Path) -> None:
    """How many times longer TRL's steps take: median, and from least to most."""
    found = {name: case for name, case in cases.items() if "ratios" in case}
    figure, axes = plt.subplots(figsize=(7, 0.4 * len(found) + 1.2))
    medians = [case["ratio"] for case in found.values()]
    below = [case["ratio"] - min(case["ratios"]) for case in found.values()]
    above = [max(case["ratios"]) - case["ratio"] for case in found.values()]
    axes.barh(list(found), medians, xerr=[below, above], color=COLOURS["redi_lab"], capsize=3)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("step time of TRL 1.16 over that of redi_lab")
    figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)


def draw_scaling(scaling: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Speed and peak memory over length and over batch size."""
    figure, grid = plt.subplots(2, 2, figsize=(9, 6), sharex="col")
    columns = (
        ("length", "length", "tokens of each trace, one pair a step"),
        ("batch", "pairs_per_step", "pairs a step"),
    )
    for column, (kind, key, label) in enumerate(columns):
        for side, name in NAMES.items():
            found = [(case[key], case[side]) for case in scaling[kind] if side in case]
            places = [place for place, _ in found]
            grid[0][column].plot(
                places, [case["tokens_per_second"] for _, case in found], "o-", label=name, color=COLOURS[side]
            )
            grid[1][column].plot(
                places, [case["peak_bytes"] / GIB for _, case in found], "o-", label=name, color=COLOURS[side]
            )
        for axes in grid[:, column]:
            axes.set_xscale("log", base=2)
            axes.set_xticks([case[key] for case in scaling[kind]], [str(case[key]) for case in scaling[kind]])
            axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
        grid[1][column].set_xlabel(label)
    grid[0][0].set_ylabel("real tokens per second")
    grid[1][0].set_ylabel("peak memory, GiB")
    grid[0][0].legend()
    figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)
