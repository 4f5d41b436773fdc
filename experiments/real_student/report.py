"""Table and figure of the study, from its rows.

All arms answer the same held-out problems, so differences are paired over problems, and over seeds where there are two
(crossed random effects). With one seed the interval is over problems alone and speaks of these very trainings.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.equal_budget.run import DIGITS
from experiments.real_student.run import ARMS, BASE, CURVES, SFT
from redi_lab.evaluation.comparison import compare_over_seeds, holm
from redi_lab.evaluation.metrics import mean_difference

Row = Mapping[str, Any]
Arms = Mapping[str, Mapping[int, Row]]
"""Arm to the row of each seed."""
CONTROL = next(iter(ARMS))
TITLES = {"mean_tokens": "tokens", "truncation_rate": "cut off", "unknown_rate": "unreadable"}


def write_report(content: Mapping[str, Mapping[str, Any]], folder: Path) -> str:
    """Write tables.md and curves.png into a folder; returns the tables."""
    arms: dict[str, dict[int, Row]] = {}
    for name in (BASE, SFT, *ARMS):
        rows = {row["seed"]: row for row in content["runs"].values() if row["arm"] == name}
        arms |= {name: rows} if rows else {}
    tables = [stages_table(content["starts"]), scores_table(arms), differences_table(arms)]
    text = "\n\n".join(["# Tables of `run.py`", *("\n".join(table) for table in tables)]) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tables.md").write_text(text, encoding="utf-8")
    if any("chosen" in row for rows in arms.values() for row in rows.values()):
        draw(arms, folder / "curves.png")
    return text


def stages_table(starts: Mapping[str, Row]) -> Iterator[str]:
    """Sizes, what came of the traces of each seed, what α was advised, and what the stages took."""
    for name, row in starts.items():
        if name == "sizes":
            yield f"Sizes: {', '.join(f'{key} {value}' for key, value in row.items())}\n"
        elif name.startswith("data"):
            flaws = {key: number for key, number in row["hygiene"].items() if number}
            yield f"- {name}: traces {row['traces']}; hygiene {flaws}; pairs {row['curated']['pairs']}"
        elif name.startswith("advice"):
            yield f"- {name}: α {row['advised_alpha']}{'' if row['tells'] else ', the pairs do not tell'}"
    seconds = {name: row["seconds"] for name, row in starts.items() if "seconds" in row}
    if seconds:
        each = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
        yield f"- seconds, {sum(seconds.values()):.0f} in all: {each}"


def scores_table(arms: Arms) -> Iterator[str]:
    """Means over seeds."""
    samples = sorted({row["samples"] for rows in arms.values() for row in rows.values()} - {1})
    keys = {"pass_at_1": "pass@1", **{f"pass_at_{k}": f"pass@{k}" for k in samples}, **TITLES}
    yield f"| arm | seeds | {' | '.join(keys.values())} | fall of chosen, rejected | collapse rule |"
    yield f"|---|---:|{'---:|' * len(keys)}---:|---|"
    for name, by_seed in arms.items():
        rows = list(by_seed.values())
        cells = [f"{statistics.mean(row[key] for row in rows):.3f}" if key in rows[0] else "–" for key in keys]
        falls = [[row[side][0][1] - row[side][-1][1] for row in rows if side in row] for side in CURVES]
        cells.append(", ".join(f"{statistics.mean(fall):.3f}" for fall in falls if fall) or "–")
        states = ", ".join(dict.fromkeys(row["state"] for row in rows if "state" in row))
        yield f"| {name} | {len(rows)} | {' | '.join(cells)} | {states or '–'} |"


def rates(row: Row) -> NDArray[np.float64]:
    """Share of right samples of each problem."""
    counts = np.array([DIGITS.index(character) for character in row["right"]])
    return counts / int(row["samples"])


def differences_table(arms: Arms) -> Iterator[str]:
    """Each arm against SFT continued, with Holm's p where there are seeds to test; SFT against the base model."""
    yield "| difference | seeds | pass@1 (95 % CI, of this pair alone) | p, adjusted | seeds that would decide |"
    yield "|---|---:|---|---:|---:|"
    found = []
    for new, old in ((SFT, BASE), (CONTROL, SFT), *((arm, CONTROL) for arm in ARMS if arm != CONTROL)):
        seeds = sorted(arms.get(new, {}).keys() & arms.get(old, {}).keys())
        if seeds:
            gaps = np.stack([rates(arms[new][seed]) - rates(arms[old][seed]) for seed in seeds])
            samples = arms[new][seeds[0]]["samples"]
            over = compare_over_seeds(gaps, samples, has_same_problems=True) if len(seeds) > 1 else None
            found.append(
                (f"{new} − {old}", len(seeds), over, over.estimate if over else mean_difference(gaps[0], samples))
            )
    adjusted = iter(holm([over.p_value for *_, over, _ in found if over]))
    for name, number, over, e in found:
        said = f"{e.value:+.3f} ({e.ci_low:+.3f} to {e.ci_high:+.3f})"
        tested = [f"{next(adjusted):.2g}", str(over.seeds_needed or "–")] if over else ["–", "–"]
        yield f"| {name} | {number} | {said} | {' | '.join(tested)} |"


def draw(arms: Arms, destination: Path) -> None:
    """Mean log-probs of held-back traces over the steps of every second stage: a line each seed, a colour each arm."""
    from redi_lab.figures.style import COLOURS, dress, new_figure, save_figure

    figure, axes = new_figure(10, 4.2, columns=len(CURVES))
    for ax, side in zip(axes, CURVES, strict=True):
        dress(ax, f"Held-back {side} traces")
        ax.set(xlabel="steps", ylabel="log-prob, nats per token")
        for name, colour in zip(ARMS, COLOURS, strict=False):
            for number, row in enumerate(arms.get(name, {}).values()):
                if side in row:
                    ax.plot(*zip(*row[side], strict=True), color=colour, label="" if number else name)
    axes[0].legend(frameon=False, fontsize=8)
    save_figure(figure, destination)
